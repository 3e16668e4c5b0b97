//! Keys in the memory of this process, used with OpenSSL. Knows nothing of files.

use openssl::bn::BigNumContext;
use openssl::ec::{EcGroup, EcKey, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use openssl::rsa::{Padding, Rsa};
use zeroize::Zeroizing;

use super::{KeyPair, P256, P384, P521, Public, RsaPadding, SymmetricKey, Work};
use crate::algorithm::Algorithm;
use crate::error::Internal;
use crate::hmac::hmac_sha256;
use crate::{Error, aead};

/// A symmetric key as bytes; wiped when dropped.
pub struct SoftKey(Zeroizing<Vec<u8>>);

impl SoftKey {
    /// Takes over the bytes of a key.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }
}

impl SymmetricKey for SoftKey {
    fn hmac<'a>(&'a self, message: &'a [u8]) -> Work<'a, [u8; 32]> {
        Work::done(Ok(hmac_sha256(&self.0, message)))
    }

    fn verify<'a>(&'a self, message: &'a [u8], mac: &'a [u8]) -> Work<'a, bool> {
        let expected = hmac_sha256(&self.0, message);
        Work::done(Ok(mac.len() == expected.len() && openssl::memcmp::eq(&expected, mac)))
    }

    fn seal<'a>(&'a self, iv: &'a [u8], aad: &'a [u8], plaintext: &'a [u8]) -> Work<'a, Vec<u8>> {
        Work::done(aead::seal(&self.0, iv, aad, plaintext))
    }

    fn open<'a>(&'a self, iv: &'a [u8], aad: &'a [u8], sealed: &'a [u8]) -> Work<'a, Zeroizing<Vec<u8>>> {
        Work::done(aead::open(&self.0, iv, aad, sealed))
    }

    fn check(&self) -> Work<'_, ()> {
        Work::done(Ok(()))
    }
}

/// A key pair as OpenSSL's object, parsed once.
pub struct SoftPair {
    private: PKey<Private>,
    public: Public,
    signs_quickly: bool,
}

impl SoftPair {
    /// Takes the first private key of a PEM text. Never asks for a pass phrase: an encrypted key is an error.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ErrorStack> {
        let private = PKey::private_key_from_pem_callback(pem, |_| Err(ErrorStack::get()))?;
        let public = public(&private)?;
        let signs_quickly = matches!(&public, Public::Ec { curve, .. } if *curve == Some(P256));
        Ok(Self { private, public, signs_quickly })
    }

    /// A new key pair as unencrypted PKCS #8 PEM, an EC one with its curve's name. Slow for RSA.
    pub fn generate(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, Error> {
        let ec = |curve| EcGroup::from_curve_name(curve).and_then(|group| EcKey::generate(&group));
        let pair = match algorithm {
            Algorithm::EcP256 => ec(Nid::X9_62_PRIME256V1).and_then(PKey::from_ec_key),
            Algorithm::EcP384 => ec(Nid::SECP384R1).and_then(PKey::from_ec_key),
            Algorithm::Rsa(bits) => Rsa::generate(bits).and_then(PKey::from_rsa),
        };
        pair.and_then(|pair| pair.private_key_to_pem_pkcs8())
            .map(Zeroizing::new)
            .map_err(Error::crypto("generate a key pair"))
    }

    fn wrong_mechanism(&self, mechanism: &'static str) -> Error {
        Error::WrongMechanism { mechanism, key: self.public.kind() }
    }
}

impl KeyPair for SoftPair {
    fn public(&self) -> &Public {
        &self.public
    }

    fn sign_digest<'a>(&'a self, digest: &'a [u8]) -> Work<'a, Vec<u8>> {
        if self.private.id() != Id::EC {
            return Work::done(Err(self.wrong_mechanism("ECDSA")));
        }
        if self.signs_quickly {
            return Work::done(sign(&self.private, digest));
        }
        let (private, digest) = (self.private.clone(), digest.to_vec());
        Work::computed(move || sign(&private, &digest))
    }

    fn rsa_private<'a>(&'a self, padding: RsaPadding, input: &'a [u8]) -> Work<'a, Vec<u8>> {
        let (name, padding) = match padding {
            RsaPadding::Pkcs1 => ("RSA-PKCS1", Padding::PKCS1),
            RsaPadding::None => ("RSA-NO-PADDING", Padding::NONE),
        };
        if self.private.id() != Id::RSA {
            return Work::done(Err(self.wrong_mechanism(name)));
        }
        let (private, input) = (self.private.clone(), Zeroizing::new(input.to_vec()));
        Work::computed(move || rsa_private(&private, padding, &input))
    }

    fn check(&self) -> Work<'_, ()> {
        Work::done(Ok(()))
    }
}

fn sign(private: &PKey<Private>, digest: &[u8]) -> Result<Vec<u8>, Error> {
    let sign = || {
        let mut context = PkeyCtx::new(private)?;
        context.sign_init()?;
        let mut signature = vec![0; private.size()];
        let length = context.sign(digest, Some(&mut signature))?;
        signature.truncate(length);
        Ok(signature)
    };
    sign().map_err(Error::crypto("sign with ECDSA"))
}

fn rsa_private(private: &PKey<Private>, padding: Padding, input: &[u8]) -> Result<Vec<u8>, Error> {
    let (output, recovered) = rsa_operation(private, padding, input)
        .map_err(Error::crypto("do the private-key operation of RSA"))?;
    // A fault amid the Chinese remainders would give the key away (RFC 8017, note to 5.2.1, and Boneh et al. 1997).
    if recovered == input { Ok(output) } else { Err(Internal::FaultyRsa.into()) }
}

fn rsa_operation(
    private: &PKey<Private>,
    padding: Padding,
    input: &[u8],
) -> Result<(Vec<u8>, Vec<u8>), ErrorStack> {
    let mut context = PkeyCtx::new(private)?;
    context.sign_init()?;
    context.set_rsa_padding(padding)?;
    let mut output = Vec::new();
    context.sign_to_vec(input, &mut output)?;
    context.verify_recover_init()?;
    context.set_rsa_padding(padding)?;
    let mut recovered = vec![0; output.len()];
    let length = context.verify_recover(&output, Some(&mut recovered))?;
    recovered.truncate(length);
    Ok((output, recovered))
}

fn public(private: &PKey<Private>) -> Result<Public, ErrorStack> {
    match private.id() {
        Id::EC => {
            let key = private.ec_key()?;
            let curve = match key.group().curve_name() {
                Some(Nid::X9_62_PRIME256V1) => Some(P256),
                Some(Nid::SECP384R1) => Some(P384),
                Some(Nid::SECP521R1) => Some(P521),
                _ => None,
            };
            let mut context = BigNumContext::new()?;
            let point =
                key.public_key().to_bytes(key.group(), PointConversionForm::COMPRESSED, &mut context)?;
            Ok(Public::Ec { curve, point })
        }
        Id::RSA => {
            let key = private.rsa()?;
            Ok(Public::Rsa { modulus: key.n().to_vec(), exponent: key.e().to_vec() })
        }
        _ => Ok(Public::Other),
    }
}

#[cfg(test)]
mod tests {
    use openssl::ecdsa::EcdsaSig;
    use openssl::symm::Cipher;

    use super::*;

    fn pair(algorithm: Algorithm) -> SoftPair {
        SoftPair::from_pem(&SoftPair::generate(algorithm).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn ecdsa_verifies_also_for_long_digests() {
        for (algorithm, quick, order) in [(Algorithm::EcP256, true, 32), (Algorithm::EcP384, false, 48)] {
            let pair = pair(algorithm);
            assert_eq!(pair.signs_quickly, quick);
            let digest = [7; 64];
            let signature = EcdsaSig::from_der(&pair.sign_digest(&digest).await.unwrap()).unwrap();
            let key = pair.private.ec_key().unwrap();
            assert!(signature.verify(&digest[..order], &key).unwrap());
            let refused = pair.rsa_private(RsaPadding::Pkcs1, &digest).await;
            assert!(matches!(refused, Err(Error::WrongMechanism { .. })));
        }
    }

    #[tokio::test]
    async fn rsa_pads_and_takes_only_what_fits() {
        let pair = pair(Algorithm::Rsa(2048));
        let Public::Rsa { modulus, exponent } = pair.public() else { panic!("an RSA key pair") };
        assert_eq!((modulus.len(), exponent.as_slice()), (256, &[1, 0, 1][..]));
        let key = pair.private.rsa().unwrap();
        let check = async |padding, plain: Padding, input: &[u8], fits: bool| {
            let output = pair.rsa_private(padding, input).await;
            assert_eq!(output.is_ok(), fits, "{} bytes", input.len());
            if let Ok(output) = output {
                let mut recovered = vec![0; 256];
                let length = key.public_decrypt(&output, &mut recovered, plain).unwrap();
                assert_eq!(&recovered[..length], input);
            }
        };
        for (length, fits) in [(0, true), (1, true), (51, true), (245, true), (246, false), (256, false)] {
            check(RsaPadding::Pkcs1, Padding::PKCS1, &vec![7; length], fits).await;
        }
        check(RsaPadding::None, Padding::NONE, &[0x01; 256], true).await;
        check(RsaPadding::None, Padding::NONE, &[0x00; 256], true).await;
        check(RsaPadding::None, Padding::NONE, &[0xff; 256], false).await;
        check(RsaPadding::None, Padding::NONE, &[1; 255], false).await;
        check(RsaPadding::None, Padding::NONE, &[1; 257], false).await;
        assert!(matches!(pair.sign_digest(&[7; 32]).await, Err(Error::WrongMechanism { .. })));
    }

    #[test]
    fn generated_pems_are_plain_pkcs_8_with_named_curves() {
        let pem = SoftPair::generate(Algorithm::EcP256).unwrap();
        assert!(pem.starts_with(b"-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(pem.len(), 241, "an explicit curve would be longer");
        let pair = SoftPair::from_pem(&pem).unwrap();
        let Public::Ec { curve, point } = pair.public() else { panic!("an EC key pair") };
        assert_eq!(*curve, Some(P256));
        assert!(point.len() == 33 && matches!(point[0], 2 | 3));
    }

    #[tokio::test]
    async fn keys_of_other_kinds_load_and_do_nothing() {
        let pem = PKey::generate_ed25519().unwrap().private_key_to_pem_pkcs8().unwrap();
        let pair = SoftPair::from_pem(&pem).unwrap();
        assert_eq!(*pair.public(), Public::Other);
        assert!(matches!(pair.sign_digest(&[7; 32]).await, Err(Error::WrongMechanism { .. })));
    }

    #[test]
    fn encrypted_pem_is_an_error_and_no_question() {
        let key = PKey::generate_ed25519().unwrap();
        let pem = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"1234").unwrap();
        assert!(SoftPair::from_pem(&pem).is_err());
    }
}
