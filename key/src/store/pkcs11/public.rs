//! What a token tells of a public key, in our words; and its ECDSA signatures in everybody's. Pure, but for asking for
//! attributes.

use cryptoki::object::{Attribute, AttributeType, KeyType};
use cryptoki::session::Session;
use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;

use super::fault::Fault;
use super::halves::Halves;
use crate::store::{P256, P384, P521, Public};

/// The public half of a pair whose halves fit each other.
pub(super) fn public(session: &Session, halves: Halves) -> Result<Public, Fault> {
    let key_type = |object| {
        let told = session.get_attributes(object, &[AttributeType::KeyType]);
        match told.map_err(Fault::said("tell the type of a key"))?.into_iter().next() {
            Some(Attribute::KeyType(key_type)) => Ok(key_type),
            _ => Err(Fault::Unusable("the token does not tell the type of a key")),
        }
    };
    let types = (key_type(halves.public)?, key_type(halves.private)?);
    let wanted: &[_] = match types {
        (KeyType::EC, KeyType::EC) => &[AttributeType::EcParams, AttributeType::EcPoint],
        (KeyType::RSA, KeyType::RSA) => &[AttributeType::Modulus, AttributeType::PublicExponent],
        _ => return Err(Fault::Unusable("public and private key are not a pair of EC or RSA keys")),
    };
    let told = session.get_attributes(halves.public, wanted).map_err(Fault::said("tell a public key"))?;
    of_attributes(told).ok_or(Fault::Unusable("the token tells a public key that is none"))
}

/// `ECDSA-Sig-Value` in DER of r and s in `raw`, each half of it.
pub(super) fn der(raw: &[u8]) -> Result<Vec<u8>, Fault> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let der = BigNum::from_slice(r)
        .and_then(|r| EcdsaSig::from_private_components(r, BigNum::from_slice(s)?))
        .and_then(|signature| signature.to_der());
    match der {
        Ok(der) if !raw.is_empty() && raw.len().is_multiple_of(2) => Ok(der),
        _ => Err(Fault::Unusable("the token's signature is none")),
    }
}

/// `digest`, cut to the length of the curve's order (SEC 1, 4.1.3); all of these orders have whole bytes but P-521's,
/// which is longer than any digest.
pub(super) fn cut<'d>(digest: &'d [u8], public: &Public) -> &'d [u8] {
    let order = match public {
        Public::Ec { curve, .. } if *curve == Some(P256) => 32,
        Public::Ec { curve, .. } if *curve == Some(P384) => 48,
        _ => digest.len(),
    };
    &digest[..digest.len().min(order)]
}

fn of_attributes(told: Vec<Attribute>) -> Option<Public> {
    match <[Attribute; 2]>::try_from(told).ok()? {
        [Attribute::EcParams(curve), Attribute::EcPoint(point)] => {
            let curve = [P256, P384, P521].into_iter().find(|known| *known == curve);
            Some(Public::Ec { curve, point: compressed(&point)? })
        }
        [Attribute::Modulus(modulus), Attribute::PublicExponent(exponent)] => {
            Some(Public::Rsa { modulus: unpadded(&modulus)?, exponent: unpadded(&exponent)? })
        }
        _ => None,
    }
}

/// A SEC 1 point in its compressed form; it may be in a DER octet string.
fn compressed(point: &[u8]) -> Option<Vec<u8>> {
    // A bare point of a known curve is never as long as one in a wrapper.
    let is_bare = point.first() == Some(&4) && BARE_LENGTHS.contains(&point.len());
    let point = octets(point).filter(|inner| !is_bare && is_point(inner)).unwrap_or(point);
    match point {
        [4, coordinates @ ..] if is_point(point) => {
            let (x, y) = coordinates.split_at(coordinates.len() / 2);
            let sign = 2 | (y.last()? & 1);
            Some([&[sign], x].concat())
        }
        [2 | 3, _, ..] => Some(point.to_vec()),
        _ => None,
    }
}

fn is_point(bytes: &[u8]) -> bool {
    match bytes {
        [4, coordinates @ ..] => !coordinates.is_empty() && coordinates.len().is_multiple_of(2),
        [2 | 3, x @ ..] => !x.is_empty(),
        _ => false,
    }
}

/// The content of a DER octet string that fills all of `bytes`.
fn octets(bytes: &[u8]) -> Option<&[u8]> {
    let (length, content) = match bytes {
        [4, length @ 0..=0x7f, content @ ..] => (*length, content),
        [4, 0x81, length, content @ ..] => (*length, content),
        _ => return None,
    };
    (content.len() == usize::from(length)).then_some(content)
}

/// A number without leading zeros.
fn unpadded(number: &[u8]) -> Option<Vec<u8>> {
    let start = number.iter().position(|byte| *byte != 0)?;
    Some(number[start..].to_vec())
}

/// Lengths of uncompressed points on P-256, P-384, P-521.
const BARE_LENGTHS: [usize; 3] = [65, 97, 133];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_with_and_without_a_wrapper() {
        let coordinates: Vec<u8> = (1..=64).collect();
        let bare = [&[4], &coordinates[..]].concat();
        let wrapped = [&[4, 65], &bare[..]].concat();
        let expected = [&[2], &coordinates[..32]].concat();
        let short = [2, 9, 9];
        for (given, expected) in [
            (&bare[..], Some(&expected[..])),
            (&wrapped, Some(&expected)),
            (&expected, Some(&expected)),
            (&[4, 3, 2, 9, 9], Some(&short)),
            (&[], None),
            (&[4], None),
            (&[4, 1], None),
            (&[7, 1, 2], None),
        ] {
            assert_eq!(compressed(given).as_deref(), expected, "{given:?}");
        }
        let looks_wrapped = [&[4, 63, 2], &vec![1; 62][..]].concat();
        assert_eq!(compressed(&looks_wrapped).unwrap()[1..4], [63, 2, 1]);
        let odd = [&[4, 65, 4], &vec![1; 63][..], &[7]].concat();
        assert_eq!(compressed(&odd).unwrap()[0], 3);
        let p521 = [&[4, 0x81, 133, 4], &vec![1; 132][..]].concat();
        assert_eq!(compressed(&p521).unwrap().len(), 67);
    }

    #[test]
    fn numbers_and_keys() {
        let rsa = vec![Attribute::Modulus(vec![0, 0xff, 0]), Attribute::PublicExponent(vec![0, 1, 0, 1])];
        let expected = Public::Rsa { modulus: vec![0xff, 0], exponent: vec![1, 0, 1] };
        assert!(of_attributes(rsa) == Some(expected));
        assert!(of_attributes(vec![Attribute::Modulus(vec![1])]).is_none());
        let ec = |curve: &[u8]| {
            of_attributes(vec![Attribute::EcParams(curve.to_vec()), Attribute::EcPoint(vec![2, 1])])
        };
        assert!(ec(P384) == Some(Public::Ec { curve: Some(P384), point: vec![2, 1] }));
        assert!(ec(&[6, 1, 1]) == Some(Public::Ec { curve: None, point: vec![2, 1] }));
    }

    #[test]
    fn signatures() {
        assert_eq!(der(&[0, 1, 0x80, 2]).unwrap(), [0x30, 8, 2, 1, 1, 2, 3, 0, 0x80, 2]);
        for bad in [&[][..], &[1], &[1, 2, 3]] {
            assert!(der(bad).is_err());
        }
    }

    #[test]
    fn digests_are_cut_to_the_order() {
        let check = |curve, length| {
            let public = Public::Ec { curve, point: vec![] };
            assert_eq!(cut(&[7; 64], &public).len(), length);
            assert_eq!(cut(&[7; 20], &public).len(), 20);
        };
        check(Some(P256), 32);
        check(Some(P384), 48);
        check(Some(P521), 64);
        check(None, 64);
    }
}
