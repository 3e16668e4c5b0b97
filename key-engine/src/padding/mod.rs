//! The paddings of RSA (RFC 8017) around keyd's private operations. Pure: digests and random bytes are arguments. Knows
//! neither OpenSSL nor keyd.

mod oaep;
mod pkcs1;
mod pss;

pub use oaep::unpad as unpad_oaep;
pub use pkcs1::{Versions, unpad as unpad_pkcs1, unpad_premaster};
pub use pss::{SaltLength, pad as pad_pss};
use zeroize::Zeroizing;

use crate::Error;

/// A hash function.
pub trait Hash {
    /// Bytes of a digest.
    fn size(&self) -> usize;
    /// The digest of all `parts` one after the other.
    fn digest(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, Error>;
}

/// `digest`, made by the function that OpenSSL calls `name`, as PKCS #1 v1.5 signs it: a DER DigestInfo, or the bare
/// bytes for the MD5-SHA1 of old TLS.
pub fn digest_info(name: &str, digest: &[u8]) -> Result<Vec<u8>, Error> {
    let upper = name.to_ascii_uppercase();
    if upper == "MD5-SHA1" {
        return Ok(digest.to_vec());
    }
    let found = DIGESTS.iter().find(|(names, _)| names.contains(&upper.as_str()));
    let (_, oid) = found.ok_or_else(|| Error::Digest(name.to_owned()))?;
    let algorithm = [&[0x06, short(oid)], *oid, &[0x05, 0]].concat();
    let octets = [&[0x04, short(digest)], digest].concat();
    let content = [&[0x30, short(&algorithm)], algorithm.as_slice(), &octets].concat();
    Ok([&[0x30, short(&content)], content.as_slice()].concat())
}

/// The mask generation function MGF1 (RFC 8017, B.2.1), laid over `bytes`.
fn mask(hash: &dyn Hash, seed: &[u8], bytes: &mut [u8]) -> Result<(), Error> {
    for (counter, chunk) in (0_u32..).zip(bytes.chunks_mut(hash.size())) {
        let mask = hash.digest(&[seed, &counter.to_be_bytes()])?;
        chunk.iter_mut().zip(mask.iter()).for_each(|(byte, mask)| *byte ^= mask);
    }
    Ok(())
}

/// The length byte of a DER element of less than 128 bytes, as all in a DigestInfo are.
fn short(content: &[u8]) -> u8 {
    u8::try_from(content.len()).unwrap_or(u8::MAX)
}

/// Names that OpenSSL gives digests, and their object identifiers without tag and length.
const DIGESTS: [(&[&str], &[u8]); 13] = [
    (&["SHA2-256", "SHA256", "SHA-256"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x01"),
    (&["SHA2-384", "SHA384", "SHA-384"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x02"),
    (&["SHA2-512", "SHA512", "SHA-512"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x03"),
    (&["SHA2-224", "SHA224", "SHA-224"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x04"),
    (&["SHA2-512/224", "SHA512-224", "SHA-512/224"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x05"),
    (&["SHA2-512/256", "SHA512-256", "SHA-512/256"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x06"),
    (&["SHA3-224"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x07"),
    (&["SHA3-256"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x08"),
    (&["SHA3-384"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x09"),
    (&["SHA3-512"], b"\x60\x86\x48\x01\x65\x03\x04\x02\x0a"),
    (&["SHA1", "SHA-1", "SSL3-SHA1"], b"\x2b\x0e\x03\x02\x1a"),
    (&["MD5", "SSL3-MD5"], b"\x2a\x86\x48\x86\xf7\x0d\x02\x05"),
    (&["RIPEMD160", "RIPEMD-160", "RIPEMD", "RMD160"], b"\x2b\x24\x03\x02\x01"),
];

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// SHA-256, from the openssl crate.
    pub(crate) struct Sha256;

    impl Hash for Sha256 {
        fn size(&self) -> usize {
            32
        }

        fn digest(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, Error> {
            Ok(Zeroizing::new(openssl::sha::sha256(&parts.concat()).to_vec()))
        }
    }

    #[test]
    fn digest_info_of_sha_256() {
        let prefix = b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
        for name in ["SHA2-256", "sha256"] {
            assert_eq!(digest_info(name, &[7; 32]).unwrap(), [prefix.as_slice(), &[7; 32]].concat());
        }
        assert_eq!(digest_info("MD5-SHA1", &[7; 36]).unwrap(), [7; 36]);
        assert!(digest_info("SHAKE256", &[7; 32]).is_err());
    }

    #[test]
    fn every_digest_is_known_to_openssl_by_its_name_and_identifier() {
        for (names, oid) in DIGESTS {
            let name = names.last().unwrap();
            let Some(digest) = openssl::hash::MessageDigest::from_name(names[0]) else { continue };
            let info = digest_info(name, &vec![0; digest.size()]).unwrap();
            assert!(info.windows(oid.len()).any(|window| window == oid));
            let known = openssl::asn1::Asn1Object::from_str(digest.type_().long_name().unwrap()).unwrap();
            assert_eq!(known.as_slice(), oid, "{name}");
        }
    }
}
