//! Public areas (`TPMT_PUBLIC`; TPM 2.0 Library, part 2, 12.2.4): those of keys that keyd makes, and what those of keys
//! say. Knows no TPM.

use crate::algorithm::Algorithm;
use crate::store::{P256, P384, Public};

/// What a key in a TPM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key pair.
    Pair(Public),
    /// A key for HMAC-SHA256.
    Hmac,
}

/// The template of a key pair.
pub(super) fn pair(algorithm: Algorithm) -> Vec<u8> {
    let ec = |curve: u16| {
        // No symmetric algorithm, any scheme, the curve, no key derivation, and a point that the TPM makes.
        let rest = [&NULL[..], &NULL, &curve.to_be_bytes(), &NULL, &[0; 4]].concat();
        area(ECC, FIXED | ORIGIN | SIGN, &rest)
    };
    match algorithm {
        Algorithm::EcP256 => ec(NIST_P256),
        Algorithm::EcP384 => ec(NIST_P384),
        Algorithm::Rsa(bits) => {
            let bits = u16::try_from(bits).unwrap_or_default();
            let rest = [&NULL[..], &NULL, &bits.to_be_bytes(), &[0; 4], &[0; 2]].concat();
            area(RSA, FIXED | ORIGIN | SIGN | DECRYPT, &rest)
        }
    }
}

/// The template of a key for HMAC-SHA256, which the TPM makes or is given.
pub(super) fn hmac(is_given: bool) -> Vec<u8> {
    let origin = if is_given { 0 } else { ORIGIN };
    area(KEYED_HASH, FIXED | SIGN | origin, &[&HMAC.to_be_bytes()[..], &SHA256, &[0; 2]].concat())
}

/// The template, with its length, of the parent of keys that name the owner hierarchy (draft-bottomley-tpm2-keys, 3.1.7).
pub(super) fn owner_root() -> Vec<u8> {
    // AES-128-CFB, no scheme, the curve, no key derivation, and a point that the TPM makes.
    let rest = [&[0, 0x06, 0, 0x80, 0, 0x43], &NULL[..], &NIST_P256.to_be_bytes(), &NULL, &[0; 4]].concat();
    let area = area(ECC, FIXED | ORIGIN | DECRYPT | RESTRICTED, &rest);
    let [.., high, low] = area.len().to_be_bytes();
    [&[high, low], area.as_slice()].concat()
}

/// What the key with this public area is.
pub(super) fn kind(public: &[u8]) -> Result<Kind, &'static str> {
    read(public).unwrap_or(Err("its public area is malformed"))
}

fn area(kind: u16, attributes: u32, rest: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &SHA256, &attributes.to_be_bytes(), &[0; 2], rest].concat()
}

/// `None` if it is cut off.
fn read(public: &[u8]) -> Option<Result<Kind, &'static str>> {
    let mut area = Area(public);
    let (kind, _name_algorithm, attributes, _policy) = (area.u16()?, area.u16()?, area.u32()?, area.sized()?);
    let has = |attribute| attributes & attribute != 0;
    let kind = match kind {
        _ if !has(USER_WITH_AUTH) => Err("it wants a policy, which is not supported here"),
        KEYED_HASH => match (area.u16()?, area.0.get(..2)?) {
            (HMAC, hash) if *hash == SHA256 && has(SIGN) && !has(RESTRICTED) => Ok(Kind::Hmac),
            _ => Err("it is not a key for HMAC-SHA256"),
        },
        RSA | ECC if area.u16()? != NO_ALGORITHM => Err("it is a key for other keys"),
        RSA | ECC if has(RESTRICTED) => Err("it signs only what the TPM has hashed"),
        RSA if !has(DECRYPT) => {
            Err("it is an RSA key that can only sign; keyd needs one with the attribute decrypt")
        }
        ECC if !has(SIGN) => Err("it is an EC key that cannot sign"),
        RSA => {
            if area.scheme()? != NO_ALGORITHM {
                return Some(Err("it is an RSA key with a padding of its own"));
            }
            let (_bits, exponent, modulus) = (area.u16()?, area.u32()?, area.sized()?);
            let exponent = if exponent == 0 { DEFAULT_EXPONENT } else { exponent };
            let exponent = exponent.to_be_bytes();
            let start = exponent.iter().position(|byte| *byte != 0)?;
            Ok(Kind::Pair(Public::Rsa { modulus: modulus.to_vec(), exponent: exponent[start..].to_vec() }))
        }
        ECC => {
            if !matches!(area.scheme()?, NO_ALGORITHM | ECDSA) {
                return Some(Err("it is an EC key, but not for ECDSA"));
            }
            let curve = area.u16()?;
            area.scheme()?; // of key derivation
            let (x, y) = (area.sized()?, area.sized()?);
            match curve {
                NIST_P256 => Ok(Kind::Pair(Public::Ec { curve: Some(P256), point: compressed(x, y, 32)? })),
                NIST_P384 => Ok(Kind::Pair(Public::Ec { curve: Some(P384), point: compressed(x, y, 48)? })),
                _ => Err("it is on a curve that is not known here"),
            }
        }
        _ => Err("it is no key"),
    };
    Some(kind)
}

/// A SEC 1 compressed point; TPMs may leave out leading zeros.
fn compressed(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    let zeros = length.checked_sub(x.len())?;
    Some([&[2 | (y.last()? & 1)], vec![0; zeros].as_slice(), x].concat())
}

/// A structure that is yet to be read.
struct Area<'a>(&'a [u8]);

impl<'a> Area<'a> {
    fn u16(&mut self) -> Option<u16> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*value))
    }

    fn u32(&mut self) -> Option<u32> {
        let (value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*value))
    }

    fn sized(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        let (content, rest) = self.0.split_at_checked(usize::from(length))?;
        self.0 = rest;
        Some(content)
    }

    /// A scheme, without its hash, which it has unless it is none.
    fn scheme(&mut self) -> Option<u16> {
        let scheme = self.u16()?;
        match scheme {
            NO_ALGORITHM | RSAES => {}
            ECDAA => drop(self.u32()?),
            _ => drop(self.u16()?),
        }
        Some(scheme)
    }
}

const RSA: u16 = 0x0001;
const HMAC: u16 = 0x0005;
const KEYED_HASH: u16 = 0x0008;
const NO_ALGORITHM: u16 = 0x0010;
const RSAES: u16 = 0x0015;
const ECDSA: u16 = 0x0018;
const ECDAA: u16 = 0x001A;
const ECC: u16 = 0x0023;
const NIST_P256: u16 = 0x0003;
const NIST_P384: u16 = 0x0004;
const SHA256: [u8; 2] = [0, 0x0B];
const NULL: [u8; 2] = NO_ALGORITHM.to_be_bytes();
const DEFAULT_EXPONENT: u32 = 65537;

/// fixedTPM, fixedParent, userWithAuth, noDA: bound to this TPM, of an empty authorization value, whose guesses nobody
/// needs to count.
const FIXED: u32 = 0x0000_0452;
/// userWithAuth: an authorization value is enough to use it.
const USER_WITH_AUTH: u32 = 0x0000_0040;
/// sensitiveDataOrigin: made by the TPM.
const ORIGIN: u32 = 0x0000_0020;
const RESTRICTED: u32 = 0x0001_0000;
const DECRYPT: u32 = 0x0002_0000;
const SIGN: u32 = 0x0004_0000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_what_the_templates_make() {
        assert_eq!(kind(&hmac(false)), Ok(Kind::Hmac));
        let made = |algorithm, unique: &[u8], empty: usize| {
            let template = pair(algorithm);
            kind(&[&template[..template.len() - empty], unique].concat())
        };
        let point = [&[0, 31][..], &[7; 31], &[0, 2, 9, 9]].concat();
        let expected = [&[3, 0][..], &[7; 31]].concat();
        assert_eq!(
            made(Algorithm::EcP256, &point, 4),
            Ok(Kind::Pair(Public::Ec { curve: Some(P256), point: expected }))
        );
        let modulus = [&[1, 0][..], &[0xC0; 256]].concat();
        assert_eq!(
            made(Algorithm::Rsa(2048), &modulus, 2),
            Ok(Kind::Pair(Public::Rsa { modulus: vec![0xC0; 256], exponent: vec![1, 0, 1] }))
        );
        assert!(made(Algorithm::EcP384, &[], 0).is_err(), "a template is no key");
    }

    #[test]
    fn schemes_are_skipped_and_other_objects_refused() {
        let mut fixed = pair(Algorithm::EcP256);
        fixed.splice(12..14, [0, 0x18, 0, 0x0B]);
        fixed.truncate(fixed.len() - 4);
        fixed.extend([0, 1, 1, 0, 1, 2]);
        assert!(matches!(kind(&fixed), Ok(Kind::Pair(Public::Ec { .. }))));
        let mut storage = fixed.clone();
        storage[11] = 6;
        assert!(kind(&storage).is_err());
        let mut sha1 = hmac(true);
        sha1[13] = 4;
        assert!(kind(&sha1).is_err());
        for length in 0..fixed.len() {
            assert!(kind(&fixed[..length]).is_err(), "{length}");
        }
        fixed[13] = 0x1A; // ECDAA, which has a counter, too
        fixed.splice(14..14, [0, 0]);
        assert_eq!(kind(&fixed), Err("it is an EC key, but not for ECDSA"));
    }

    /// Every operation with them would fail.
    #[test]
    fn keys_that_could_not_be_used_are_refused_in_words() {
        let point = [&[0, 32][..], &[7; 32], &[0, 32], &[9; 32]].concat();
        let modulus = [&[1, 0][..], &[0xC0; 256]].concat();
        let (ec, rsa) = (pair(Algorithm::EcP256), pair(Algorithm::Rsa(2048)));
        let ec = [&ec[..ec.len() - 4], &point].concat();
        let rsa = [&rsa[..rsa.len() - 2], &modulus].concat();
        let rsaes = [&rsa[..12], &[0, 0x15], &rsa[14..]].concat();
        let refusal = |public: &[u8], attributes: u32| {
            let changed = [&public[..4], &attributes.to_be_bytes(), &public[8..]].concat();
            kind(&changed).err().unwrap_or_default()
        };
        for (public, attributes, why) in [
            (&ec, FIXED | SIGN, ""),
            (&ec, FIXED | SIGN | DECRYPT, ""),
            (&ec, FIXED | DECRYPT, "cannot sign"),
            (&ec, FIXED | SIGN | RESTRICTED, "hashed"),
            (&ec, SIGN, "policy"),
            (&rsa, FIXED | SIGN | DECRYPT, ""),
            (&rsa, FIXED | DECRYPT, ""),
            (&rsa, FIXED | SIGN, "can only sign"),
            (&rsa, FIXED | SIGN | RESTRICTED, "hashed"),
            (&rsaes, FIXED | DECRYPT, "padding"),
            (&hmac(true), FIXED | SIGN, ""),
            (&hmac(true), FIXED | DECRYPT, "HMAC"),
            (&hmac(true), FIXED | SIGN | RESTRICTED, "HMAC"),
        ] {
            let found = refusal(public, attributes);
            assert!(found.contains(why) && found.is_empty() == why.is_empty(), "{found:?}, expected {why:?}");
        }
    }
}
