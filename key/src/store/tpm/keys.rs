//! Keys that are used in the TPM, and what the TPM's answers are as keyd's. Knows no commands.

use std::sync::Arc;

use openssl::bn::{BigNum, BigNumContext};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use zeroize::Zeroizing;

use super::thread::TpmThread;
use super::tss2::Blob;
use super::{TpmFault, USE};
use crate::Error;
use crate::error::Internal;
use crate::store::{KeyPair, P256, Public, RsaPadding, SymmetricKey, Work};

/// A symmetric key for HMAC-SHA256.
pub(in crate::store) struct TpmKey {
    thread: Arc<TpmThread>,
    blob: Arc<Blob>,
}

impl TpmKey {
    pub(super) fn new(thread: &Arc<TpmThread>, blob: Blob) -> Self {
        Self { thread: Arc::clone(thread), blob: Arc::new(blob) }
    }

    async fn mac(&self, message: &[u8]) -> Result<[u8; 32], Error> {
        let (blob, message) = (Arc::clone(&self.blob), message.to_vec());
        let mac = self.thread.run(USE, move |tpm| tpm.hmac(&blob, &message)).await.map_err(refusal)?;
        <[u8; 32]>::try_from(mac.as_slice()).map_err(|_| refusal(TpmFault::Odd("the TPM's HMAC is none")))
    }
}

impl SymmetricKey for TpmKey {
    fn hmac<'a>(&'a self, message: &'a [u8]) -> Work<'a, [u8; 32]> {
        Work::later(self.mac(message))
    }

    fn verify<'a>(&'a self, message: &'a [u8], mac: &'a [u8]) -> Work<'a, bool> {
        Work::later(async move {
            let expected = self.mac(message).await?;
            Ok(mac.len() == expected.len() && openssl::memcmp::eq(&expected, mac))
        })
    }

    fn seal<'a>(&'a self, _iv: &'a [u8], _aad: &'a [u8], _plaintext: &'a [u8]) -> Work<'a, Vec<u8>> {
        Work::done(Err(CANNOT_ENCRYPT))
    }

    fn open<'a>(&'a self, _iv: &'a [u8], _aad: &'a [u8], _sealed: &'a [u8]) -> Work<'a, Zeroizing<Vec<u8>>> {
        Work::done(Err(CANNOT_ENCRYPT))
    }

    fn check(&self) -> Work<'_, ()> {
        Work::done(Ok(()))
    }
}

/// A key pair.
pub(in crate::store) struct TpmPair {
    thread: Arc<TpmThread>,
    blob: Arc<Blob>,
    public: Public,
}

impl TpmPair {
    pub(super) fn new(thread: &Arc<TpmThread>, blob: Blob, public: Public) -> Self {
        Self { thread: Arc::clone(thread), blob: Arc::new(blob), public }
    }

    async fn ecdsa(&self, digest: Vec<u8>) -> Result<Vec<u8>, Error> {
        let blob = Arc::clone(&self.blob);
        let [r, s] = self.thread.run(USE, move |tpm| tpm.sign(&blob, &digest)).await.map_err(refusal)?;
        let signature = EcdsaSig::from_private_components(number(&r)?, number(&s)?);
        signature.and_then(|signature| signature.to_der()).map_err(Error::crypto("encode a signature"))
    }

    async fn rsa(&self, input: Zeroizing<Vec<u8>>, key: RsaPublic<'_>) -> Result<Vec<u8>, Error> {
        let (blob, given) = (Arc::clone(&self.blob), input.clone());
        let output = self.thread.run(USE, move |tpm| tpm.rsa(&blob, &given)).await.map_err(refusal)?;
        let recovered = key.apply(&output).map_err(Error::crypto("check a result of RSA"))?;
        let is_right = recovered == *input && output.len() <= key.modulus.len();
        if !is_right {
            // A fault in the hardware would give the key away (RFC 8017, note to 5.2.1, and Boneh et al. 1997).
            return Err(Internal::FaultyRsa.into());
        }
        Ok(filled(&output, key.modulus.len()))
    }

    fn wrong_mechanism<T>(&self, mechanism: &'static str) -> Work<'_, T> {
        Work::done(Err(Error::WrongMechanism { mechanism, key: self.public.kind() }))
    }
}

impl KeyPair for TpmPair {
    fn public(&self) -> &Public {
        &self.public
    }

    fn sign_digest<'a>(&'a self, digest: &'a [u8]) -> Work<'a, Vec<u8>> {
        match &self.public {
            Public::Ec { curve, .. } => Work::later(self.ecdsa(fitted(digest, *curve == Some(P256)))),
            _ => self.wrong_mechanism("ECDSA"),
        }
    }

    fn rsa_private<'a>(&'a self, padding: RsaPadding, input: &'a [u8]) -> Work<'a, Vec<u8>> {
        let Public::Rsa { modulus, exponent } = &self.public else {
            return self.wrong_mechanism(match padding {
                RsaPadding::Pkcs1 => "RSA-PKCS1",
                RsaPadding::None => "RSA-NO-PADDING",
            });
        };
        match padded(padding, input, modulus) {
            Ok(input) => Work::later(self.rsa(input, RsaPublic { modulus, exponent })),
            Err(error) => Work::done(Err(error)),
        }
    }

    fn check(&self) -> Work<'_, ()> {
        Work::done(Ok(()))
    }
}

/// What a fault means for a request.
pub(super) fn refusal(fault: TpmFault) -> Error {
    match fault.is_outage() {
        true => Error::TpmUnavailable(Box::new(fault)),
        false => Internal::Tpm(Box::new(fault)).into(),
    }
}

/// `digest` with the length of a hash that every TPM knows, and of the same meaning: cut to the length of the order (SEC 1,
/// 4.1.3), or with zeros before it.
fn fitted(digest: &[u8], is_p256: bool) -> Vec<u8> {
    let order = if is_p256 { 32 } else { 48 };
    let digest = &digest[..digest.len().min(order)];
    filled(digest, if digest.len() > 32 { 48 } else { 32 })
}

/// What the private-key operation is done on, as long as the modulus and less than it.
fn padded(padding: RsaPadding, input: &[u8], modulus: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let block = match padding {
        RsaPadding::None => input.to_vec(),
        // EMSA-PKCS1-v1_5 without its hash (RFC 8017, 9.2).
        RsaPadding::Pkcs1 => {
            let ones = modulus.len().saturating_sub(input.len() + 3);
            [&[0, 1], vec![0xFF; ones].as_slice(), &[0], input].concat()
        }
    };
    let block = Zeroizing::new(block);
    let is_short = padding == RsaPadding::Pkcs1 && input.len() + SHORTEST_PADDING > modulus.len();
    match block.len() == modulus.len() && block.as_slice() < modulus && !is_short {
        true => Ok(block),
        false => Err(Internal::Unsuitable("the input of RSA does not fit the key").into()),
    }
}

/// The public half of an RSA pair.
#[derive(Clone, Copy)]
struct RsaPublic<'k> {
    modulus: &'k [u8],
    exponent: &'k [u8],
}

impl RsaPublic<'_> {
    /// `input ^ e mod n`, as long as the modulus.
    fn apply(self, input: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let mut result = BigNum::new()?;
        let (input, e, n) = (
            BigNum::from_slice(input)?,
            BigNum::from_slice(self.exponent)?,
            BigNum::from_slice(self.modulus)?,
        );
        result.mod_exp(&input, &e, &n, &mut *BigNumContext::new()?)?;
        Ok(filled(&result.to_vec(), self.modulus.len()))
    }
}

fn number(bytes: &[u8]) -> Result<BigNum, Error> {
    BigNum::from_slice(bytes).map_err(Error::crypto("read a number"))
}

/// `bytes` with zeros before them, so that they are as long as `length`.
fn filled(bytes: &[u8], length: usize) -> Vec<u8> {
    let zeros = length.saturating_sub(bytes.len());
    [vec![0; zeros].as_slice(), bytes].concat()
}

const CANNOT_ENCRYPT: Error =
    Error::WrongMechanism { mechanism: "AEAD", key: "a key in the TPM, which can only sign and derive" };
/// Bytes of PKCS #1 v1.5 that are not the input's.
const SHORTEST_PADDING: usize = 11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_keep_their_meaning() {
        assert_eq!(fitted(&[7; 20], true), [&[0; 12][..], &[7; 20]].concat());
        for (length, is_p256, expected) in [(32, true, 32), (64, true, 32), (32, false, 32), (64, false, 48)]
        {
            assert_eq!(fitted(&vec![7; length], is_p256), vec![7; expected], "{length}");
        }
        assert_eq!(fitted(&[7; 33], false), [&[0; 15][..], &[7; 33]].concat());
    }

    #[test]
    fn rsa_takes_only_what_fits() {
        let modulus = [0xC0; 256];
        let check = |padding, input: &[u8], fits| {
            assert_eq!(padded(padding, input, &modulus).is_ok(), fits, "{} bytes", input.len());
        };
        for (length, fits) in [(0, true), (51, true), (245, true), (246, false), (300, false)] {
            check(RsaPadding::Pkcs1, &vec![7; length], fits);
        }
        check(RsaPadding::None, &[1; 256], true);
        check(RsaPadding::None, &[0xC0; 256], false);
        check(RsaPadding::None, &[1; 255], false);
        check(RsaPadding::None, &[1; 257], false);
        let block = padded(RsaPadding::Pkcs1, &[7; 51], &modulus).unwrap();
        assert!(block.starts_with(&[0, 1, 0xFF]) && block[203..206] == [0xFF, 0, 7]);
    }

    #[test]
    fn the_public_half_undoes_the_private_one() {
        // n = 3233, e = 17, d = 2753.
        let key = RsaPublic { modulus: &[0x0C, 0xA1], exponent: &[17] };
        assert_eq!(key.apply(&[65]).unwrap(), 2790_u16.to_be_bytes());
    }
}
