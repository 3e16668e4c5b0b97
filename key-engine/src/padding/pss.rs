//! EMSA-PSS (RFC 8017, 9.1.1).

use super::{Hash, mask};
use crate::Error;

/// How long the salt is, in OpenSSL's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaltLength {
    /// So many bytes.
    Bytes(usize),
    /// As long as the digest.
    Digest,
    /// As long as possible.
    Max,
    /// As long as the digest, or as possible if that is less.
    AutoDigestMax,
}

impl SaltLength {
    /// From OpenSSL's number; `auto` means the longest when signing.
    pub fn from_number(number: i32) -> Result<Self, Error> {
        match number {
            -1 => Ok(Self::Digest),
            -2 | -3 => Ok(Self::Max),
            -4 => Ok(Self::AutoDigestMax),
            _ => usize::try_from(number).map(Self::Bytes).map_err(|_| Error::Refused("bad PSS salt length")),
        }
    }

    /// Bytes, when the digest has `digest` and there is room for `room`.
    fn bytes(self, digest: usize, room: usize) -> usize {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Digest => digest,
            Self::Max => room,
            Self::AutoDigestMax => digest.min(room),
        }
    }
}

/// Pads `digest` for a modulus of `bits`; the result is as long as the modulus. `random` fills the salt.
pub fn pad(
    hash: &dyn Hash,
    mgf1_hash: &dyn Hash,
    digest: &[u8],
    bits: usize,
    salt_length: SaltLength,
    random: impl FnOnce(&mut [u8]) -> Result<(), Error>,
) -> Result<Vec<u8>, Error> {
    let too_short = Error::Refused("the RSA key is too short for this digest and salt length");
    let encoded_bits = bits.saturating_sub(1);
    let encoded = encoded_bits.div_ceil(8);
    let Some(room) = encoded.checked_sub(hash.size() + 2) else { return Err(too_short) };
    let salt_bytes = salt_length.bytes(hash.size(), room);
    if salt_bytes > room {
        return Err(too_short);
    }
    let mut salt = vec![0; salt_bytes];
    random(&mut salt)?;
    let tag = hash.digest(&[&[0; 8], digest, &salt])?;
    let mut block = vec![0; room - salt_bytes];
    block.push(1);
    block.extend_from_slice(&salt);
    mask(mgf1_hash, &tag, &mut block)?;
    block[0] &= 0xff >> (8 * encoded - encoded_bits);
    let mut padded = vec![0; bits.div_ceil(8) - encoded];
    padded.extend_from_slice(&block);
    padded.extend_from_slice(&tag);
    padded.push(0xbc);
    Ok(padded)
}

#[cfg(test)]
mod tests {
    use openssl::pkey::PKey;
    use openssl::rsa::{Padding, Rsa};
    use openssl::sign::{RsaPssSaltlen, Verifier};

    use super::super::tests::Sha256;
    use super::*;

    fn signs(bits: u32, salt: i32, checked: RsaPssSaltlen) {
        let rsa = Rsa::generate(bits).unwrap();
        let digest = openssl::sha::sha256(b"text");
        let length = SaltLength::from_number(salt).unwrap();
        let random = |salt: &mut [u8]| {
            salt.fill(7);
            Ok(())
        };
        let padded = pad(&Sha256, &Sha256, &digest, bits as usize, length, random).unwrap();
        assert_eq!(padded.len(), rsa.size() as usize);
        let mut signature = vec![0; padded.len()];
        rsa.private_encrypt(&padded, &mut signature, Padding::NONE).unwrap();
        let key = PKey::from_rsa(rsa).unwrap();
        let mut verifier = Verifier::new(openssl::hash::MessageDigest::sha256(), &key).unwrap();
        verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        verifier.set_rsa_pss_saltlen(checked).unwrap();
        assert!(verifier.verify_oneshot(&signature, b"text").unwrap(), "{bits} bits, salt {salt}");
    }

    #[test]
    fn openssl_verifies_all_salt_lengths() {
        signs(2048, -1, RsaPssSaltlen::DIGEST_LENGTH);
        signs(2048, -2, RsaPssSaltlen::custom(222));
        signs(2048, -3, RsaPssSaltlen::custom(222));
        signs(2048, -4, RsaPssSaltlen::custom(32));
        signs(2048, 20, RsaPssSaltlen::custom(20));
        signs(2048, 0, RsaPssSaltlen::custom(0));
    }

    #[test]
    fn a_modulus_of_odd_length() {
        for bits in [1025, 1026, 1031, 1032] {
            signs(bits, -1, RsaPssSaltlen::DIGEST_LENGTH);
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for salt in [223, 1 << 30] {
            let length = SaltLength::Bytes(salt);
            assert!(pad(&Sha256, &Sha256, &[0; 32], 2048, length, |_| Ok(())).is_err());
        }
        assert!(pad(&Sha256, &Sha256, &[0; 32], 256, SaltLength::Digest, |_| Ok(())).is_err());
        assert!(SaltLength::from_number(-5).is_err());
    }
}
