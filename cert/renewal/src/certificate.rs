//! What renewal must know of a certificate: how long it lives, whose key is in it, which one it is. Knows no files and no
//! services.

use std::fmt;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::bn::BigNumContext;
use openssl::ec::PointConversionForm;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKeyRef};
use openssl::sha::Sha256;
use openssl::x509::X509;

use crate::policy::Validity;

/// A certificate and what goes with it.
#[derive(Clone)]
pub struct Certificate {
    pem: String,
    chain: Vec<X509>,
    digest: Digest,
    key: KeyPrint,
    kind: Option<KeyKind>,
    validity: Validity,
}

/// Which certificate it is: SHA-256 of the leaf in DER.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Digest([u8; 32]);

/// Which public key it is, however it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyPrint([u8; 32]);

/// A kind of key that keyd makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// On the curve P-256.
    EcP256,
    /// On the curve P-384.
    EcP384,
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
}

/// Why a text is no certificate to renew.
#[derive(Debug, thiserror::Error)]
pub enum BadCertificate {
    /// It is no certificate in PEM.
    #[error("it is no certificate in PEM")]
    NotPem(#[source] ErrorStack),
    /// It has none.
    #[error("there is no certificate in it")]
    Empty,
    /// It has one that cannot be used.
    #[error("its times or its key cannot be read")]
    Unreadable(#[source] ErrorStack),
}

impl Certificate {
    /// The chain in `pem`, the leaf first.
    ///
    /// # Errors
    ///
    /// It is not one, or has a key that is neither RSA nor on an elliptic curve.
    pub fn parse(pem: String) -> Result<Self, BadCertificate> {
        let chain = X509::stack_from_pem(pem.as_bytes()).map_err(BadCertificate::NotPem)?;
        let leaf = chain.first().ok_or(BadCertificate::Empty)?;
        let facts = || {
            let key = leaf.public_key()?;
            let digest = leaf.digest(MessageDigest::sha256())?;
            let digest = digest.as_ref().try_into().map_err(|_| ErrorStack::get())?;
            let validity =
                Validity { not_before: unix(leaf.not_before())?, not_after: unix(leaf.not_after())? };
            Ok((Digest(digest), KeyPrint::of(&key)?, KeyKind::of(&key), validity))
        };
        let (digest, key, kind, validity) = facts().map_err(BadCertificate::Unreadable)?;
        Ok(Self { pem, chain, digest, key, kind, validity })
    }

    /// The text it was read from.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The leaf and what follows it.
    pub fn chain(&self) -> &[X509] {
        &self.chain
    }

    /// Which one the leaf is.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The key in the leaf.
    pub fn key(&self) -> KeyPrint {
        self.key
    }

    /// Of which kind that is, if keyd makes such keys.
    pub fn key_kind(&self) -> Option<KeyKind> {
        self.kind
    }

    /// For the log.
    pub(crate) fn describe(&self) -> String {
        let until = self.chain.first().map(|leaf| leaf.not_after().to_string());
        format!("SHA-256 {}, valid until {}", self.digest, until.unwrap_or_default())
    }

    /// The life of the leaf.
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({}, {:?}, {:?})", self.digest, self.key, self.validity)
    }
}

impl Digest {
    /// From what `Display` writes.
    pub(crate) fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 2 * bytes.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The first of its bytes, as good as random.
    pub(crate) fn seed(self) -> u64 {
        self.0.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl fmt::Debug for KeyPrint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, f)
    }
}

impl KeyPrint {
    /// Of `key`, which is RSA or on an elliptic curve with a name.
    ///
    /// # Errors
    ///
    /// OpenSSL's, or none at all if it is another kind of key.
    pub fn of<T: HasPublic>(key: &PKeyRef<T>) -> Result<Self, ErrorStack> {
        let mut hash = Sha256::new();
        match key.id() {
            Id::RSA => {
                let key = key.rsa()?;
                hash.update(b"rsa:");
                hash.update(&key.n().to_vec());
                hash.update(b":");
                hash.update(&key.e().to_vec());
            }
            _ => {
                let key = key.ec_key()?;
                let mut context = BigNumContext::new()?;
                let form = PointConversionForm::UNCOMPRESSED;
                let point = key.public_key().to_bytes(key.group(), form, &mut context)?;
                hash.update(b"ec:");
                hash.update(&key.group().curve_name().map_or(0, |curve| curve.as_raw()).to_be_bytes());
                hash.update(&point);
            }
        }
        Ok(Self(hash.finish()))
    }
}

impl KeyKind {
    /// Of `key`, if keyd makes such.
    pub fn of<T: HasPublic>(key: &PKeyRef<T>) -> Option<Self> {
        if key.id() == Id::RSA {
            return match key.bits() {
                2048 => Some(Self::Rsa2048),
                3072 => Some(Self::Rsa3072),
                4096 => Some(Self::Rsa4096),
                _ => None,
            };
        }
        match key.ec_key().ok()?.group().curve_name()? {
            Nid::X9_62_PRIME256V1 => Some(Self::EcP256),
            Nid::SECP384R1 => Some(Self::EcP384),
            _ => None,
        }
    }

    /// In the form of keyd's `preferredAlgorithms`, with anything as the last resort: a store may have lost an algorithm.
    pub fn algorithms(self) -> &'static str {
        match self {
            Self::EcP256 => "ec-p256:*",
            Self::EcP384 => "ec-p384:*",
            Self::Rsa2048 => "rsa-2048:*",
            Self::Rsa3072 => "rsa-3072:*",
            Self::Rsa4096 => "rsa-4096:*",
        }
    }
}

fn unix(time: &Asn1TimeRef) -> Result<i64, ErrorStack> {
    let since = Asn1Time::from_unix(0)?.diff(time)?;
    Ok(i64::from(since.days) * 86_400 + i64::from(since.secs))
}

fn hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::pkey::{PKey, Private};
    use openssl::rsa::Rsa;
    use openssl::x509::X509Builder;

    /// A certificate in PEM for `key`.
    pub(crate) fn certificate(key: &PKeyRef<Private>, number: u32, valid: Validity) -> String {
        let mut builder = X509Builder::new().unwrap();
        let serial = openssl::bn::BigNum::from_u32(number).unwrap().to_asn1_integer().unwrap();
        builder.set_version(2).unwrap();
        builder.set_serial_number(&serial).unwrap();
        builder.set_not_before(&Asn1Time::from_unix(valid.not_before).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::from_unix(valid.not_after).unwrap()).unwrap();
        builder.set_pubkey(key).unwrap();
        builder.sign(key, MessageDigest::sha256()).unwrap();
        String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
    }

    pub(crate) fn ec_key(curve: Nid) -> PKey<Private> {
        let group = EcGroup::from_curve_name(curve).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    }

    const VALID: Validity = Validity { not_before: 1_700_000_000, not_after: 4_102_444_800 };

    #[test]
    fn facts() {
        let key = ec_key(Nid::X9_62_PRIME256V1);
        let pem = certificate(&key, 1, VALID);
        let one = Certificate::parse(pem.clone()).unwrap();
        assert_eq!(one.validity(), VALID);
        assert_eq!(one.key(), KeyPrint::of(&key).unwrap());
        assert_eq!(one.key_kind(), Some(KeyKind::EcP256));
        assert_eq!(one.chain().len(), 1);
        let two = Certificate::parse(certificate(&key, 2, VALID) + &pem).unwrap();
        assert_eq!((two.key(), two.chain().len()), (one.key(), 2));
        assert_ne!(two.digest(), one.digest());
        assert_eq!(one.digest().to_string().len(), 64);
        assert_eq!(
            one.digest().seed() >> 56,
            u64::from_str_radix(&one.digest().to_string()[..2], 16).unwrap()
        );
    }

    #[test]
    fn the_same_key_has_the_same_print_in_any_form() {
        let key = ec_key(Nid::SECP384R1);
        let ec = key.ec_key().unwrap();
        let form = PointConversionForm::COMPRESSED;
        let point = ec.public_key().to_bytes(ec.group(), form, &mut BigNumContext::new().unwrap()).unwrap();
        let head =
            b"\x30\x46\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x32\x00";
        let compressed = PKey::public_key_from_der(&[head.as_slice(), &point].concat()).unwrap();
        assert_ne!(compressed.public_key_to_der().unwrap(), key.public_key_to_der().unwrap());
        assert_eq!(KeyPrint::of(&compressed).unwrap(), KeyPrint::of(&key).unwrap());
        assert_eq!(KeyKind::of(&key), Some(KeyKind::EcP384));
        assert_ne!(KeyPrint::of(&ec_key(Nid::SECP384R1)).unwrap(), KeyPrint::of(&key).unwrap());
    }

    #[test]
    fn kinds() {
        for (bits, kind) in [(2048, Some(KeyKind::Rsa2048)), (1024, None)] {
            let key = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
            assert_eq!(KeyKind::of(&key), kind);
            KeyPrint::of(&key).unwrap();
        }
        assert_eq!(KeyKind::of(&ec_key(Nid::SECP521R1)), None);
        assert!(KeyPrint::of(&PKey::generate_ed25519().unwrap()).is_err());
        let prefer = [KeyKind::EcP256, KeyKind::Rsa3072, KeyKind::Rsa4096].map(KeyKind::algorithms);
        assert_eq!(prefer, ["ec-p256:*", "rsa-3072:*", "rsa-4096:*"]);
    }

    #[test]
    fn what_is_none() {
        assert!(matches!(Certificate::parse(String::new()), Err(BadCertificate::Empty)));
        let garbled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
        assert!(matches!(Certificate::parse(garbled), Err(BadCertificate::NotPem(_))));
    }
}
