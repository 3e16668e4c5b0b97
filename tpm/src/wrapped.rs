//! A key that was wrapped for this TPM, taken apart (spec tpm-service, 7.1). Opens nothing: only the TPM can.

/// The five structures, each without its length.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrappedKey<'a> {
    /// `TPM2B_ID_OBJECT`: holds the key of the inner wrapper.
    pub(crate) credential: &'a [u8],
    /// `TPM2B_ENCRYPTED_SECRET`: its seed, for the endorsement key.
    pub(crate) credential_seed: &'a [u8],
    /// `TPM2B_PRIVATE`: the wrapped key.
    pub(crate) duplicate: &'a [u8],
    /// `TPM2B_ENCRYPTED_SECRET`: the seed of the outer wrapper, for the storage root key.
    pub(crate) seed: &'a [u8],
    /// `TPM2B_PUBLIC`: what kind of key it is.
    pub(crate) public: &'a [u8],
}

/// Why bytes are no wrapped key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A structure is longer than what is left.
    #[error("its {0} is cut off")]
    CutOff(&'static str),
    /// A structure is longer than a TPM takes.
    #[error("its {0} is too long")]
    TooLong(&'static str),
    /// The key is no HMAC-SHA256 key.
    #[error("its public area is not that of an HMAC-SHA256 key")]
    NotHmac,
    /// The TPM would take the key, but not sign with it, or not keep it.
    #[error(
        "its attributes do not let it be kept and sign: userWithAuth and sign have to be set, restricted and stClear not"
    )]
    Attributes,
}

impl<'a> WrappedKey<'a> {
    /// Takes `bytes` apart; what follows the fifth structure is ignored.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let mut next = |name, longest| {
            let (part, after) = split(rest).ok_or(Malformed::CutOff(name))?;
            rest = after;
            if part.len() > longest { Err(Malformed::TooLong(name)) } else { Ok(part) }
        };
        let key = Self {
            credential: next("credential", ID_OBJECT)?,
            credential_seed: next("credential's secret", ENCRYPTED_SECRET)?,
            duplicate: next("private part", PRIVATE)?,
            seed: next("private part's secret", ENCRYPTED_SECRET)?,
            public: next("public area", PUBLIC)?,
        };
        match hmac_hash(key.public) {
            Some(SHA256) if is_usable(key.public) => Ok(key),
            Some(SHA256) => Err(Malformed::Attributes),
            _ => Err(Malformed::NotHmac),
        }
    }
}

/// Whether a public area (`TPMT_PUBLIC`) is that of an HMAC key, as auth keys are.
pub(crate) fn is_hmac_key(public: &[u8]) -> bool {
    hmac_hash(public).is_some()
}

/// The hash of the HMAC key with this `TPMT_PUBLIC`.
fn hmac_hash(public: &[u8]) -> Option<[u8; 2]> {
    let (head, rest) = public.split_first_chunk::<8>()?; // type, name algorithm, attributes
    let (_policy, rest) = split(rest)?;
    let (scheme, rest) = rest.split_first_chunk::<2>()?;
    let (hash, rest) = rest.split_first_chunk::<2>()?;
    let (_unique, rest) = split(rest)?;
    (head.starts_with(&KEYED_HASH) && *scheme == HMAC && rest.is_empty()).then_some(*hash)
}

/// Whether the attributes in this `TPMT_PUBLIC` are such that the key can be kept and sign (spec cloud-protocols, 8.3).
fn is_usable(public: &[u8]) -> bool {
    let attributes =
        public.get(4..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_be_bytes(*bytes));
    attributes.is_some_and(|it| it & (NEEDED | UNWANTED) == NEEDED)
}

/// The `TPM2B` that `bytes` begins with, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

const KEYED_HASH: [u8; 2] = [0, 0x08];
const HMAC: [u8; 2] = [0, 0x05];
const SHA256: [u8; 2] = [0, 0x0B];
/// sign and userWithAuth.
const NEEDED: u32 = 0x0004_0040;
/// restricted and stClear.
const UNWANTED: u32 = 0x0001_0004;
/// The longest structures that TPMs take, in bytes.
const ID_OBJECT: usize = 132;
const ENCRYPTED_SECRET: usize = 512;
const PRIVATE: usize = 1550;
const PUBLIC: usize = 612;

#[cfg(test)]
mod tests {
    use super::*;

    /// The public area in the specification's example.
    fn public() -> Vec<u8> {
        let fixed = [0, 8, 0, 0xB, 0, 4, 4, 0x40, 0, 0, 0, 5, 0, 0xB, 0, 32];
        [&fixed[..], &[7; 32]].concat()
    }

    fn wrapped(public: &[u8]) -> Vec<u8> {
        let part = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
        [part(&[1; 52]), part(&[2; 256]), part(&[3; 142]), part(&[4; 256]), part(public)].concat()
    }

    #[test]
    fn five_parts_and_a_rest() {
        let public = public();
        let bytes = [wrapped(&public), b"and more".to_vec()].concat();
        let expected = WrappedKey {
            credential: &[1; 52],
            credential_seed: &[2; 256],
            duplicate: &[3; 142],
            seed: &[4; 256],
            public: &public,
        };
        assert_eq!(WrappedKey::parse(&bytes), Ok(expected));
    }

    #[test]
    fn no_prefix_is_a_key() {
        let bytes = wrapped(&public());
        assert_eq!(bytes.len(), 764);
        for length in 0..bytes.len() {
            assert!(matches!(WrappedKey::parse(&bytes[..length]), Err(Malformed::CutOff(_))), "{length}");
        }
    }

    #[test]
    fn other_keys_are_refused() {
        for (at, value) in [(1, 1), (11, 0x10), (13, 4)] {
            let mut other = public();
            other[at] = value;
            assert_eq!(WrappedKey::parse(&wrapped(&other)), Err(Malformed::NotHmac), "byte {at}");
        }
        for (at, value) in [(5, 5), (5, 0), (7, 0), (7, 0x44)] {
            let mut other = public();
            other[at] = value;
            assert_eq!(WrappedKey::parse(&wrapped(&other)), Err(Malformed::Attributes), "byte {at}: {value}");
        }
        let mut sha1 = public();
        sha1[13] = 4;
        assert!(is_hmac_key(&sha1) && is_hmac_key(&public()));
        assert!(!is_hmac_key(&public()[..47]) && !is_hmac_key(&[public(), vec![0]].concat()));
    }

    #[test]
    fn long_parts_are_refused() {
        let long = [&[1, 0][..], &[0; 256], &[0, 0]].concat();
        assert_eq!(WrappedKey::parse(&long), Err(Malformed::TooLong("credential")));
    }
}
