//! The public properties of key pairs by their names on the wire (spec keys-service, 4.8). Knows no keys.

use base64::{Engine, engine::general_purpose::STANDARD};
use key_api::PRELOADED;

use crate::Error;
use crate::store::Public;

/// Refuses a `name` that is none, whatever key it is asked of.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    match NAMES.contains(&name) {
        true => Ok(()),
        false => Err(Error::NoParameter { name: name.to_owned(), key: "any key" }),
    }
}

/// The value of the parameter `name`: a word for `algorithm`, base64 for all others.
pub(crate) fn value(public: &Public, name: &str) -> Result<String, Error> {
    let bytes = match (name, public) {
        ("algorithm", Public::Ec { .. }) => return Ok("ECDSA".to_owned()),
        ("algorithm", Public::Rsa { .. }) => return Ok("RSA".to_owned()),
        ("ec-curve-oid", Public::Ec { curve: Some(oid), .. }) => oid,
        ("ec-point", Public::Ec { point, .. }) => point.as_slice(),
        ("rsa-modulus", Public::Rsa { modulus, .. }) => modulus.as_slice(),
        ("rsa-exponent", Public::Rsa { exponent, .. }) => exponent.as_slice(),
        _ => return Err(Error::NoParameter { name: name.to_owned(), key: public.kind() }),
    };
    Ok(STANDARD.encode(bytes))
}

const NAMES: [&str; 6] = ["algorithm", "ec-curve-oid", "ec-point", "rsa-modulus", "rsa-exponent", PRELOADED];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        let ec = Public::Ec { curve: Some(&[6, 1, 2]), point: vec![2, 7] };
        let odd_ec = Public::Ec { curve: None, point: vec![3] };
        let rsa = Public::Rsa { modulus: vec![0xff], exponent: vec![1, 0, 1] };
        let check = |public: &Public, name: &str, expected: Option<&str>| {
            assert_eq!(value(public, name).ok().as_deref(), expected, "{name} of {public:?}");
            assert!(expected.is_none() || check_name(name).is_ok(), "{name}");
        };
        check(&ec, "algorithm", Some("ECDSA"));
        check(&ec, "ec-curve-oid", Some("BgEC"));
        check(&ec, "ec-point", Some("Agc="));
        check(&odd_ec, "ec-point", Some("Aw=="));
        check(&odd_ec, "ec-curve-oid", None);
        check(&rsa, "algorithm", Some("RSA"));
        check(&rsa, "rsa-modulus", Some("/w=="));
        check(&rsa, "rsa-exponent", Some("AQAB"));
        for (public, name) in
            [(&ec, "rsa-modulus"), (&rsa, "ec-point"), (&rsa, "ec-curve-oid"), (&ec, "Algorithm")]
        {
            check(public, name, None);
        }
        for name in ["algorithm", "ec-point", "rsa-modulus"] {
            check(&Public::Other, name, None);
        }
    }
}
