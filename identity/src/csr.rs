//! Requests for certificates: subjects as the configuration names them (spec identity-service, 7.3.1) and the form that
//! upstream's requests have (12.2). Knows neither where the key is nor who issues.

use std::borrow::Cow;
use std::collections::BTreeMap;

use identity_api::config::Subject;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKeyRef, Private};
use openssl::stack::Stack;
use openssl::x509::{X509Extension, X509Name, X509NameBuilder, X509ReqBuilder};

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum BadRequest {
    /// An attribute of the subject that OpenSSL does not take.
    #[error("the attribute {name:?} of the subject is not known, or its value does not fit it")]
    Attribute {
        /// The name of the attribute.
        name: String,
        /// What OpenSSL says.
        #[source]
        source: ErrorStack,
    },
    /// OpenSSL fails, or the key does not sign.
    #[error("the certificate request cannot be made")]
    Failed(#[from] ErrorStack),
}

/// The common name first, then the others in the order of their names.
pub(crate) fn name(subject: &Subject) -> Result<X509Name, BadRequest> {
    let others = match subject {
        Subject::CommonName(_) => Cow::Owned(BTreeMap::new()),
        Subject::Attributes { others, .. } => Cow::Borrowed(others),
    };
    let mut name = X509Name::builder()?;
    add(&mut name, COMMON_NAME, cut(subject.common_name()))?;
    for (attribute, value) in others.iter() {
        add(&mut name, attribute, value)?;
    }
    Ok(name.build())
}

/// A request in PEM, signed with `key`. Blocks for as long as the key's owner needs to sign.
pub(crate) fn request(
    name: &X509Name,
    key: &PKeyRef<Private>,
    extensions: Vec<X509Extension>,
) -> Result<String, BadRequest> {
    let mut request = X509ReqBuilder::new()?;
    request.set_version(0)?;
    request.set_subject_name(name)?;
    request.set_pubkey(key)?;
    if !extensions.is_empty() {
        let mut stack = Stack::new()?;
        for extension in extensions {
            stack.push(extension)?;
        }
        request.add_extensions(&stack)?;
    }
    request.sign(key, MessageDigest::sha256())?;
    Ok(String::from_utf8_lossy(&request.build().to_pem()?).into_owned())
}

/// As much of a common name as a certificate takes: 64 bytes, and no half of a character.
pub(crate) fn cut(common_name: &str) -> &str {
    let mut end = common_name.len().min(COMMON_NAME_LIMIT);
    while !common_name.is_char_boundary(end) {
        end -= 1;
    }
    &common_name[..end]
}

fn add(name: &mut X509NameBuilder, attribute: &str, value: &str) -> Result<(), BadRequest> {
    let refused = |source| BadRequest::Attribute { name: attribute.to_owned(), source };
    // OpenSSL's text ends there.
    if attribute.contains('\0') {
        return Err(refused(ErrorStack::get()));
    }
    name.append_entry_by_text(attribute, value).map_err(refused)
}

const COMMON_NAME: &str = "CN";
/// Bytes. The standard (X.520, `ub-common-name`) counts characters, upstream bytes.
const COMMON_NAME_LIMIT: usize = 64;

#[cfg(test)]
mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::X509Req;

    use super::*;

    fn subject(common_name: &str, others: &[(&str, &str)]) -> Subject {
        let others = others.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Subject::Attributes { common_name: common_name.to_owned(), others }
    }

    fn shown(subject: &Subject) -> String {
        let name = name(subject).unwrap();
        let entry = |entry: &openssl::x509::X509NameEntryRef| {
            format!("{}={}", entry.object().nid().short_name().unwrap(), entry.data().to_string().unwrap())
        };
        name.entries().map(entry).collect::<Vec<_>>().join(",")
    }

    #[test]
    fn subjects() {
        assert_eq!(shown(&Subject::CommonName("press-17".into())), "CN=press-17");
        let table = subject("a", &[("ST", "Ohio"), ("C", "US"), ("O", "Acme")]);
        assert_eq!(shown(&table), "CN=a,C=US,O=Acme,ST=Ohio");
    }

    #[test]
    fn common_names_are_cut_between_characters() {
        let x = |count: usize| "x".repeat(count);
        for (given, kept) in [
            (x(64), x(64)),
            (x(65), x(64)),
            (format!("{}ü", x(62)), format!("{}ü", x(62))),
            (format!("{}ü", x(63)), x(63)),
            (format!("{}🦀", x(61)), x(61)),
            (String::new(), String::new()),
        ] {
            assert_eq!(cut(&given), kept, "{given}");
        }
        assert_eq!(shown(&Subject::CommonName("ü".repeat(40))), format!("CN={}", "ü".repeat(32)));
    }

    #[test]
    fn what_openssl_does_not_take_is_named() {
        for (name, value) in [("NONSENSE", "x"), ("C", "DEU"), ("O", ""), ("A\0B", "x")] {
            let error = super::name(&subject("a", &[(name, value)])).err().unwrap();
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        assert!(name(&Subject::CommonName(String::new())).is_err());
    }

    #[test]
    fn a_request_is_signed_with_its_key() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        let name = name(&Subject::CommonName("a".into())).unwrap();
        let request = request(&name, &key, vec![]).unwrap();
        let request = X509Req::from_pem(request.as_bytes()).unwrap();
        assert!(request.verify(&key).unwrap() && request.version() == 0);
        assert!(request.extensions().map_or(0, |list| list.len()) == 0);
    }
}
