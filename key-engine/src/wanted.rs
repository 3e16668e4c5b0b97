//! What kind of key pair keyd is to make, from the words of OpenSSL's key generation (spec openssl-engine, 13.3 K8).
//! Knows neither keyd nor OpenSSL's types.

use crate::Error;
use crate::remote::{Curve, PublicKey};

/// What was said about a key pair that is to be made; what was not said is keyd's choice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Name of the curve.
    pub(crate) group: Option<String>,
    /// Whether a curve was given by its equation.
    pub(crate) explicit_curve: bool,
    /// Bits of the modulus.
    pub(crate) bits: Option<i64>,
    /// Public exponent.
    pub(crate) exponent: Option<i64>,
    /// Primes of the modulus.
    pub(crate) primes: Option<i64>,
}

impl Wanted {
    /// What keyd calls such an EC key.
    pub(crate) fn ec(&self) -> Result<&'static str, Error> {
        match self.group.as_deref().map(curve) {
            None if !self.explicit_curve => Ok("ec-p256"),
            Some(Some(Curve::P256)) => Ok("ec-p256"),
            Some(Some(Curve::P384)) => Ok("ec-p384"),
            _ => Err(Error::Refused("EC keys in keyd are on the curve P-256 or P-384")),
        }
    }

    /// What keyd calls such an RSA key.
    pub(crate) fn rsa(&self) -> Result<&'static str, Error> {
        if self.exponent.is_some_and(|exponent| exponent != EXPONENT)
            || self.primes.is_some_and(|primes| primes != 2)
        {
            return Err(Error::Refused("RSA keys in keyd have the public exponent 65537 and two primes"));
        }
        match self.bits {
            None | Some(2048) => Ok("rsa-2048"),
            Some(3072) => Ok("rsa-3072"),
            Some(4096) => Ok("rsa-4096"),
            Some(_) => Err(Error::Refused("RSA keys in keyd have 2048, 3072 or 4096 bits")),
        }
    }

    /// Whether a key that keyd has is one like this.
    pub(crate) fn is(&self, public: &PublicKey) -> bool {
        match public {
            PublicKey::Ec { curve: found, .. } => {
                self.group.as_deref().is_none_or(|group| curve(group) == Some(*found))
            }
            PublicKey::Rsa { modulus, .. } => self.bits.is_none_or(|bits| bits == bits_of(modulus)),
        }
    }
}

/// The curve that OpenSSL calls `name`.
fn curve(name: &str) -> Option<Curve> {
    match name.to_ascii_uppercase().as_str() {
        "P-256" | "PRIME256V1" | "SECP256R1" => Some(Curve::P256),
        "P-384" | "SECP384R1" => Some(Curve::P384),
        "P-521" | "SECP521R1" => Some(Curve::P521),
        _ => None,
    }
}

/// Bits of a big-endian number without leading zeros.
fn bits_of(number: &[u8]) -> i64 {
    let unused = number.first().map_or(0, |byte| byte.leading_zeros().into());
    i64::try_from(number.len()).unwrap_or_default() * 8 - unused
}

const EXPONENT: i64 = 65537;

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> Wanted {
        Wanted { group: Some(name.into()), ..Wanted::default() }
    }

    fn bits(bits: i64) -> Wanted {
        Wanted { bits: Some(bits), ..Wanted::default() }
    }

    #[test]
    fn kinds_that_keyd_makes_and_others() {
        assert_eq!(Wanted::default().ec().ok(), Some("ec-p256"));
        for (name, expected) in [
            ("P-256", Some("ec-p256")),
            ("prime256v1", Some("ec-p256")),
            ("secp384r1", Some("ec-p384")),
            ("p-384", Some("ec-p384")),
            ("P-521", None),
            ("secp256k1", None),
            ("", None),
        ] {
            assert_eq!(group(name).ec().ok(), expected, "{name}");
        }
        assert!(Wanted { explicit_curve: true, ..Wanted::default() }.ec().is_err());
        assert_eq!(Wanted::default().rsa().ok(), Some("rsa-2048"));
        for (size, expected) in [
            (2048, Some("rsa-2048")),
            (3072, Some("rsa-3072")),
            (4096, Some("rsa-4096")),
            (2047, None),
            (1024, None),
            (8192, None),
        ] {
            assert_eq!(bits(size).rsa().ok(), expected, "{size}");
        }
        assert!(Wanted { exponent: Some(3), ..Wanted::default() }.rsa().is_err());
        assert!(Wanted { primes: Some(3), ..Wanted::default() }.rsa().is_err());
        assert!(Wanted { exponent: Some(65537), primes: Some(2), ..Wanted::default() }.rsa().is_ok());
    }

    #[test]
    fn a_key_that_is_there_is_compared() {
        let ec = PublicKey::Ec { curve: Curve::P384, point: Vec::new() };
        let rsa = PublicKey::Rsa { modulus: vec![0x80; 256], exponent: vec![1, 0, 1] };
        assert!(Wanted::default().is(&ec) && Wanted::default().is(&rsa));
        assert!(group("P-384").is(&ec) && !group("P-256").is(&ec));
        assert!(bits(2048).is(&rsa) && !bits(4096).is(&rsa));
        assert_eq!(bits_of(&[1, 0]), 9);
    }
}
