//! Using a key on a token: HMAC, AES-GCM, ECDSA, RSA (spec keys-service, 9.5 to 9.7, 10.4). Knows objects, not names.

use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use zeroize::Zeroizing;

use super::fault::Fault;
use super::objects::Purpose;
use crate::store::RsaPadding;

/// HMAC-SHA256.
pub(super) fn hmac(session: &Session, key: ObjectHandle, message: &[u8]) -> Result<[u8; 32], Fault> {
    let mac = session.sign(&Mechanism::Sha256Hmac, key, message).map_err(Fault::said("compute an HMAC"))?;
    mac.try_into().map_err(|_| Fault::Unusable("the token's HMAC has another length than 32 bytes"))
}

/// AES-GCM: the ciphertext, then 16 bytes of tag.
pub(super) fn seal(
    session: &Session,
    key: ObjectHandle,
    iv: &[u8],
    aad: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Fault> {
    let mut iv = iv.to_vec();
    let parameters = GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(Fault::said("take an IV"))?;
    session.encrypt(&Mechanism::AesGcm(parameters), key, plaintext).map_err(Fault::said("encrypt"))
}

/// Undoes [`seal`].
pub(super) fn open(
    session: &Session,
    key: ObjectHandle,
    iv: &[u8],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut iv = iv.to_vec();
    let parameters = GcmParams::new(&mut iv, aad, TAG_BITS.into()).map_err(Fault::said("take an IV"))?;
    let plaintext = session.decrypt(&Mechanism::AesGcm(parameters), key, sealed);
    plaintext.map(Zeroizing::new).map_err(Fault::said("decrypt"))
}

/// ECDSA over `digest`: r and s, each half of the bytes.
pub(super) fn ecdsa(session: &Session, key: ObjectHandle, digest: &[u8]) -> Result<Vec<u8>, Fault> {
    session.sign(&Mechanism::Ecdsa, key, digest).map_err(Fault::said("sign with ECDSA"))
}

/// The private-key operation of RSA.
pub(super) fn rsa(
    session: &Session,
    key: ObjectHandle,
    padding: RsaPadding,
    input: &[u8],
) -> Result<Vec<u8>, Fault> {
    let mechanism = match padding {
        RsaPadding::Pkcs1 => Mechanism::RsaPkcs,
        RsaPadding::None => Mechanism::RsaX509,
    };
    session.sign(&mechanism, key, input).map_err(Fault::said("use an RSA key"))
}

/// Whether a symmetric key does what it is for.
pub(super) fn try_out(session: &Session, key: ObjectHandle, purpose: Purpose) -> Result<(), Fault> {
    match purpose {
        Purpose::Mac => hmac(session, key, b"probe").map(drop),
        Purpose::Cipher => {
            let sealed = seal(session, key, &[0; 12], b"probe", b"probe")?;
            let opened = open(session, key, &[0; 12], b"probe", &sealed)?;
            match *opened == b"probe" && sealed.len() == b"probe".len() + 16 {
                true => Ok(()),
                false => Err(Fault::Unusable("the token's AES-GCM is not AES-GCM")),
            }
        }
    }
}

const TAG_BITS: u64 = 128;
