//! A key of a TPM as a file: `TSS2 PRIVATE KEY` (draft-bottomley-tpm2-keys, 3), the form that tpm2-openssl reads and writes.
//! Reads no files and knows no TPM.
//!
//! ```text
//! TPMKey ::= SEQUENCE {
//!   type OBJECT IDENTIFIER, emptyAuth [0] EXPLICIT BOOLEAN OPTIONAL,
//!   policy [1] …, secret [2] …, authPolicy [3] …,                 -- refused if there
//!   parent INTEGER, pubkey OCTET STRING, privkey OCTET STRING }   -- TPM2B_PUBLIC, TPM2B_PRIVATE
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A key that its parent in the TPM can load.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::store) struct Blob {
    /// The persistent handle of the parent, or that of the owner hierarchy: then it is the key that everybody makes of its
    /// seed when it is needed (draft-bottomley-tpm2-keys, 3.1.7).
    pub(super) parent: u32,
    /// `TPMT_PUBLIC`.
    pub(super) public: Vec<u8>,
    /// The content of `TPM2B_PRIVATE`: of use to nobody but the TPM.
    pub(super) private: Vec<u8>,
}

/// Why a text is not a key for this TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Unreadable {
    /// It is the beginning of a key, or what else a crash leaves: nobody can use it.
    Garbled(&'static str),
    /// It may be of use to others.
    Unsupported(&'static str),
}

impl Blob {
    /// Reads the first key in `text`.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, Unreadable> {
        const NOT_PEM: Unreadable = Unreadable::Garbled("it is not PEM");
        let text = std::str::from_utf8(text).map_err(|_| NOT_PEM)?;
        let (_, rest) = text.split_once(HEAD).ok_or(NOT_PEM)?;
        let (body, _) = rest.split_once(TAIL).ok_or(CUT)?;
        let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
        let der = STANDARD.decode(body).map_err(|_| NOT_PEM)?;
        let fields = Der(&der).next(SEQUENCE).ok_or(Unreadable::Garbled(NOT_TSS2))?;
        Self::from_fields(fields).map_err(Unreadable::Unsupported)
    }

    fn from_fields(mut fields: Der<'_>) -> Result<Self, &'static str> {
        match fields.next(OID).ok_or(NOT_TSS2)?.0 {
            LOADABLE => {}
            _ => return Err("it is no loadable key but one that was sealed or is to be imported"),
        }
        let has_empty_auth = fields.next(EMPTY_AUTH).is_some_and(|flag| flag.0 != [1, 1, 0]);
        let parent = fields.next(INTEGER).ok_or("it has a policy, which is not supported here")?.0;
        let mut part = |longest| {
            let part = fields.next(OCTETS).and_then(Der::only_sized).ok_or(NOT_TSS2)?;
            if part.len() > longest { Err("it is longer than any key of a TPM") } else { Ok(part) }
        };
        let (public, private) = (part(PUBLIC)?, part(PRIVATE)?);
        if !has_empty_auth {
            return Err("it asks for a password, which is not supported here");
        }
        let parent = match parent {
            [0, a @ 0x81, b, c, d] => u32::from_be_bytes([*a, *b, *c, *d]),
            [0x40, 0, 0, 1] => OWNER,
            _ => return Err("its parent is neither a persistent key nor the owner hierarchy"),
        };
        Ok(Self { parent, public: public.to_vec(), private: private.to_vec() })
    }

    /// The PEM of the key.
    pub(super) fn to_pem(&self) -> String {
        let base64 = STANDARD.encode(self.to_der());
        let lines = base64.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line) + "\n");
        format!("{HEAD}\n{}{TAIL}\n", lines.collect::<String>())
    }

    fn to_der(&self) -> Vec<u8> {
        let parent = self.parent.to_be_bytes();
        // An integer is positive if its first bit is not set.
        let parent = if parent[0] < 0x80 { parent.to_vec() } else { [&[0], &parent[..]].concat() };
        let fields = [
            element(OID, LOADABLE),
            element(EMPTY_AUTH, &[1, 1, 0xFF]),
            element(INTEGER, &parent),
            element(OCTETS, &sized(&self.public)),
            element(OCTETS, &sized(&self.private)),
        ];
        element(SEQUENCE, &fields.concat())
    }
}

/// DER that is yet to be read.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag.
    fn next(&mut self, tag: u8) -> Option<Self> {
        let (length, rest) = match *self.0 {
            [t, length @ 0..=0x7F, ref rest @ ..] if t == tag => (usize::from(length), rest),
            [t, 0x81, length, ref rest @ ..] if t == tag => (usize::from(length), rest),
            [t, 0x82, high, low, ref rest @ ..] if t == tag => {
                (usize::from(u16::from_be_bytes([high, low])), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(Self(content))
    }

    /// The bytes of a `TPM2B` that fills all of it.
    fn only_sized(self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk::<2>()?;
        (usize::from(u16::from_be_bytes(*length)) == rest.len()).then_some(rest)
    }
}

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    let head = match content.len() {
        0..=0x7F => vec![tag, low],
        0x80..=0xFF => vec![tag, 0x81, low],
        _ => vec![tag, 0x82, high, low],
    };
    [head.as_slice(), content].concat()
}

/// A `TPM2B`; what a TPM makes is short.
fn sized(content: &[u8]) -> Vec<u8> {
    let [.., high, low] = content.len().to_be_bytes();
    [&[high, low], content].concat()
}

/// The line that such a key begins with.
pub(in crate::store) const HEAD: &str = "-----BEGIN TSS2 PRIVATE KEY-----";
const TAIL: &str = "-----END TSS2 PRIVATE KEY-----";
const CUT: Unreadable = Unreadable::Garbled("it ends before the foot line of its PEM");
const NOT_TSS2: &str = "it does not have the form of a TSS2 key";
/// Letters of a line of PEM (RFC 7468, 2).
const LINE: usize = 64;
/// The longest structures that TPMs take, in bytes; those who carry longer ones break the connection.
const PUBLIC: usize = 612;
const PRIVATE: usize = 1550;
/// TPM_RH_OWNER.
pub(super) const OWNER: u32 = 0x4000_0001;
const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const EMPTY_AUTH: u8 = 0xA0;
/// 2.23.133.10.1.3.
const LOADABLE: &[u8] = &[0x67, 0x81, 0x05, 0x0A, 0x01, 0x03];

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Blob {
        Blob { parent: 0x8100_0001, public: vec![1; 300], private: vec![2; 130] }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let pem = blob().to_pem();
        assert!(pem.lines().all(|line| line.len() <= LINE) && pem.ends_with(&format!("{TAIL}\n")));
        assert_eq!(Blob::from_pem(pem.as_bytes()), Ok(blob()));
        let crlf = format!("text before\r\n{}", pem.replace('\n', "\r\n"));
        assert_eq!(Blob::from_pem(crlf.as_bytes()), Ok(blob()));
        let of_owner = || Blob { parent: OWNER, ..blob() };
        assert_eq!(Blob::from_pem(of_owner().to_pem().as_bytes()), Ok(of_owner()));
    }

    #[test]
    fn no_prefix_is_a_key() {
        let (pem, der) = (blob().to_pem(), blob().to_der());
        for length in 0..pem.len() - 2 {
            let read = Blob::from_pem(&pem.as_bytes()[..length]);
            assert!(matches!(read, Err(Unreadable::Garbled(_))), "{length}");
        }
        for length in 0..der.len() {
            assert!(Der(&der[..length]).next(SEQUENCE).is_none(), "{length}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_in_words() {
        let refused = |from: &[u8], to: &[u8], why: &str| {
            let der = blob().to_der();
            let at = der.windows(from.len()).position(|part| part == from).unwrap();
            let changed = [&der[..at], to, &der[at + from.len()..]].concat();
            let error = Blob::from_fields(Der(&changed).next(SEQUENCE).unwrap()).unwrap_err();
            assert!(error.contains(why), "{error}");
        };
        refused(LOADABLE, &[0x67, 0x81, 0x05, 0x0A, 0x01, 0x04], "imported");
        refused(&[0xA0, 3, 1, 1, 0xFF], &[0xA0, 3, 1, 1, 0], "password");
        refused(&[0xA0, 3, 1, 1, 0xFF], &[0xA1, 3, 1, 1, 0xFF], "policy");
        refused(&[0, 0x81, 0, 0, 1], &[0, 0x40, 0, 0, 1], "persistent");
        let long = Blob { private: vec![2; PRIVATE + 1], ..blob() };
        let read = Blob::from_pem(long.to_pem().as_bytes());
        assert!(matches!(read, Err(Unreadable::Unsupported(why)) if why.contains("longer")));
        let transient = Blob { parent: 0x4000_000B, ..blob() };
        let read = Blob::from_pem(transient.to_pem().as_bytes());
        assert!(matches!(read, Err(Unreadable::Unsupported(why)) if why.contains("persistent")));
    }
}
