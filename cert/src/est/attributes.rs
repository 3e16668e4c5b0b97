//! What a CA wishes of requests: csrattrs (RFC 7030, 4.5.2), as far as we can choose, which is the kind of key. Knows no
//! HTTP.

use super::answer::{BadAnswer, decoded};
use crate::der::{self, Malformed, Reader};

/// The key algorithms that the CA wishes, in keyd's form; none if it has no wish, or one that keyd cannot grant.
pub(crate) fn key_algorithms(body: &[u8]) -> Result<Option<&'static str>, BadAnswer> {
    read(&decoded(body)?).map_err(|Malformed| BadAnswer::BadAttributes)
}

/// `CsrAttrs ::= SEQUENCE OF CHOICE { oid, attribute SEQUENCE { type, SET OF value } }`.
fn read(der: &[u8]) -> Result<Option<&'static str>, Malformed> {
    let mut list = Reader::new(Reader::new(der).expect(der::SEQUENCE)?);
    let mut wish = None;
    while let Some(entry) = list.next()? {
        let (kind, mut values) = match entry.tag {
            der::OID => (der::dotted(entry.content)?, Reader::new(&[])),
            der::SEQUENCE => {
                let mut attribute = Reader::new(entry.content);
                (der::dotted(attribute.expect(der::OID)?)?, Reader::new(attribute.expect(der::SET)?))
            }
            _ => return Err(Malformed),
        };
        wish = wish.or(match kind.as_str() {
            EC => match values.optional(der::OID)?.map(der::dotted).transpose()?.as_deref() {
                None | Some(P256) => Some("ec-p256:*"),
                Some(P384) => Some("ec-p384:ec-p256:*"),
                Some(_) => None,
            },
            RSA => match values.optional(der::INTEGER)? {
                Some([0x08, 0x00]) | None => Some("rsa-2048:*"),
                Some([0x0c, 0x00]) => Some("rsa-3072:rsa-4096:rsa-2048:*"),
                Some(_) => Some("rsa-4096:rsa-3072:rsa-2048:*"),
            },
            _ => None,
        });
    }
    Ok(wish)
}

const EC: &str = "1.2.840.10045.2.1";
const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const RSA: &str = "1.2.840.113549.1.1.1";

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Option<&str>) {
        assert_eq!(key_algorithms(body.as_bytes()).unwrap(), expected, "{body}");
    }

    #[test]
    fn kinds_of_keys() {
        // The example of RFC 7030, 4.5.2 as corrected by RFC 8951: challengePassword, P-384, an extension, SHA-384.
        check(
            "MEEGCSqGSIb3DQEJBzASBgcqhkjOPQIBMQcGBSuBBAAiMBYGCSqGSIb3DQEJDjEJBgcrBgEBAQEWBggqhkjOPQQDAw==",
            Some("ec-p384:ec-p256:*"),
        );
        check("MAA=", None);
        let attribute = |kind: &[u8], value: &[u8]| {
            let oid = der::element(der::OID, kind);
            let attribute = der::element(der::SEQUENCE, &[oid, der::element(der::SET, value)].concat());
            read(&der::element(der::SEQUENCE, &attribute)).unwrap()
        };
        let rsa = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
        assert_eq!(attribute(&rsa, &[2, 2, 8, 0]), Some("rsa-2048:*"));
        assert_eq!(attribute(&rsa, &[2, 2, 16, 0]), Some("rsa-4096:rsa-3072:rsa-2048:*"));
        assert_eq!(attribute(&[0x2b, 0x65, 0x70], &[]), None, "no key of ours");
    }

    #[test]
    fn garbage_is_an_error() {
        for body in ["", "MA", "!!!!", "MAMGAYg=", "AgEB"] {
            assert!(key_algorithms(body.as_bytes()).is_err(), "{body}");
        }
    }
}
