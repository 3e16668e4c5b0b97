//! `"ec-p256:rsa-4096:*"` → ordered preferences for a new key pair (spec keys-service, 9.4). Generates nothing.

use crate::Error;

/// What a key pair can be made as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// EC on the curve secp256r1.
    EcP256,
    /// EC on the curve secp384r1; ours, upstream drops it as unknown.
    EcP384,
    /// RSA with a modulus of this many bits, and exponent 65537.
    Rsa(u32),
}

/// At least one algorithm, the most wanted first, none twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preferences(Vec<Algorithm>);

impl Preferences {
    /// Reads a `preferredAlgorithms`; absent means `*`. Unknown elements are dropped; refused if none is left.
    pub fn parse(list: Option<&str>) -> Result<Self, Error> {
        let mut algorithms = Vec::new();
        for element in list.unwrap_or(ANY).split(':') {
            for algorithm in known(element) {
                if !algorithms.contains(algorithm) {
                    algorithms.push(*algorithm);
                }
            }
        }
        match algorithms.is_empty() {
            true => Err(Error::NoAlgorithm(list.unwrap_or(ANY).to_owned())),
            false => Ok(Self(algorithms)),
        }
    }

    /// The most wanted one.
    pub fn first(&self) -> Algorithm {
        self.0[0]
    }

    /// All of them, the most wanted first.
    pub fn iter(&self) -> impl Iterator<Item = Algorithm> {
        self.0.iter().copied()
    }
}

/// What one element of the list stands for. Names are exact: no other case, no spaces.
fn known(element: &str) -> &'static [Algorithm] {
    match element {
        "ec-p256" => &[Algorithm::EcP256],
        "ec-p384" => &[Algorithm::EcP384],
        "rsa-2048" => &[Algorithm::Rsa(2048)],
        "rsa-3072" => &[Algorithm::Rsa(3072)],
        "rsa-4096" => &[Algorithm::Rsa(4096)],
        ANY => &[Algorithm::EcP256, Algorithm::Rsa(2048)],
        _ => &[],
    }
}

/// The element that stands for what upstream makes by itself.
const ANY: &str = "*";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        use Algorithm::{EcP256, EcP384, Rsa};
        let check = |list: Option<&str>, expected: &[Algorithm]| match Preferences::parse(list) {
            Ok(preferences) => assert!(preferences.iter().eq(expected.iter().copied()), "{list:?}"),
            Err(_) => assert!(expected.is_empty(), "{list:?}"),
        };
        check(None, &[EcP256, Rsa(2048)]);
        check(Some("*"), &[EcP256, Rsa(2048)]);
        check(Some("rsa-4096:*"), &[Rsa(4096), EcP256, Rsa(2048)]);
        check(Some("foo:rsa-2048"), &[Rsa(2048)]);
        check(Some("*:rsa-2048:ec-p256"), &[EcP256, Rsa(2048)]);
        check(Some("ec-p384:rsa-3072"), &[EcP384, Rsa(3072)]);
        for nothing in ["", ":", "foo", "EC-P256", " ec-p256", "ec-p256 ", "rsa-1024"] {
            check(Some(nothing), &[]);
        }
        assert_eq!(Preferences::parse(Some("x:rsa-3072:*")).unwrap().first(), Rsa(3072));
    }
}
