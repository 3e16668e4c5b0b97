//! AES-256-GCM and the versioned ciphertext layout (spec keys-service, 9.7). Neither makes nor remembers IVs.

use openssl::cipher::Cipher;
use openssl::cipher_ctx::CipherCtx;
use zeroize::Zeroizing;

use crate::Error;
use crate::error::Internal;

/// Encrypts: version byte 2, ciphertext as long as `plaintext`, 16 bytes of tag.
///
/// `key` has to have 32 bytes and `iv` 1 to 128, or the error is internal.
pub fn seal(key: &[u8], iv: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
    let encrypt = |context: &mut CipherCtx, sealed: &mut Vec<u8>| {
        context.encrypt_init(Some(Cipher::aes_256_gcm()), None, None)?;
        context.set_iv_length(iv.len())?;
        context.encrypt_init(None, Some(key), Some(iv))?;
        context.cipher_update(aad, None)?;
        context.cipher_update_vec(plaintext, sealed)?;
        context.cipher_final_vec(sealed)?;
        let mut tag = [0; TAG];
        context.tag(&mut tag)?;
        sealed.extend_from_slice(&tag);
        Ok(())
    };
    check_lengths(key, iv)?;
    let mut sealed = Vec::with_capacity(1 + plaintext.len() + TAG + SLACK);
    sealed.push(CIPHERTEXT_THEN_TAG);
    CipherCtx::new()
        .and_then(|mut context| encrypt(&mut context, &mut sealed))
        .map_err(Error::crypto("encrypt with AES-256-GCM"))?;
    Ok(sealed)
}

/// Undoes [`seal`]; also reads version 1, of IoT Edge 1.1, which has the tag before the ciphertext.
pub fn open(key: &[u8], iv: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let (ciphertext, tag) = split(sealed)?;
    check_lengths(key, iv)?;
    let mut plaintext = Zeroizing::new(Vec::with_capacity(ciphertext.len() + SLACK));
    let decrypt = |context: &mut CipherCtx, plaintext: &mut Vec<u8>| {
        context.decrypt_init(Some(Cipher::aes_256_gcm()), None, None)?;
        context.set_iv_length(iv.len())?;
        context.decrypt_init(None, Some(key), Some(iv))?;
        context.cipher_update(aad, None)?;
        context.cipher_update_vec(ciphertext, plaintext)?;
        context.set_tag(tag)
    };
    let mut context = CipherCtx::new().map_err(Error::crypto("decrypt with AES-256-GCM"))?;
    decrypt(&mut context, &mut plaintext).map_err(Error::crypto("decrypt with AES-256-GCM"))?;
    match context.cipher_final_vec(&mut plaintext) {
        Ok(_) => Ok(plaintext),
        Err(_) => Err(Internal::NotAuthentic.into()),
    }
}

/// What a token made, ciphertext and tag, in the layout that is written.
pub(crate) fn wrapped(ciphertext_and_tag: &[u8]) -> Vec<u8> {
    [&[CIPHERTEXT_THEN_TAG], ciphertext_and_tag].concat()
}

/// Undoes [`wrapped`]. Version 1 is older than keys on tokens.
pub(crate) fn unwrapped(sealed: &[u8]) -> Result<&[u8], Error> {
    match sealed.split_first() {
        Some((&TAG_THEN_CIPHERTEXT, _)) => {
            Err(Error::MalformedCiphertext("its version is not one of keys on tokens"))
        }
        _ => split(sealed).map(|_| &sealed[1..]),
    }
}

/// An IV has to have 1 to 128 bytes, or the error is internal.
pub(crate) fn check_iv(iv: &[u8]) -> Result<(), Error> {
    match iv.is_empty() || iv.len() > MAX_IV {
        true => Err(Internal::Unsuitable("an IV for AES-256-GCM has 1 to 128 bytes").into()),
        false => Ok(()),
    }
}

/// Ciphertext and tag of a sealed message.
fn split(sealed: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let malformed = |why| Error::MalformedCiphertext(why);
    let (version, rest) = sealed.split_first().ok_or(malformed("it is empty"))?;
    let parts = match *version {
        TAG_THEN_CIPHERTEXT => rest.split_at_checked(TAG).map(|(tag, ciphertext)| (ciphertext, tag)),
        CIPHERTEXT_THEN_TAG => rest.len().checked_sub(TAG).map(|at| rest.split_at(at)),
        _ => return Err(malformed("its version is unknown")),
    };
    parts.ok_or(malformed("it is shorter than version and tag"))
}

fn check_lengths(key: &[u8], iv: &[u8]) -> Result<(), Error> {
    match key.len() {
        KEY => check_iv(iv),
        _ => Err(Internal::Unsuitable("a key for AES-256 has 32 bytes").into()),
    }
}

/// Version byte of a layout that is read only.
const TAG_THEN_CIPHERTEXT: u8 = 1;
/// Version byte of the layout that is written.
const CIPHERTEXT_THEN_TAG: u8 = 2;
const KEY: usize = 32;
const TAG: usize = 16;
/// OpenSSL 3's limit, in bytes.
const MAX_IV: usize = 128;
/// OpenSSL's bindings ask for room for one more block; with it the vectors do not move, and leave no copies.
const SLACK: usize = 16;

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::STANDARD};

    use super::*;

    const IV: &[u8] = b"000000000000";

    fn key() -> Vec<u8> {
        (0x20..0x40).collect()
    }

    fn status(result: Result<Zeroizing<Vec<u8>>, Error>) -> u16 {
        result.map_or_else(|error| http_common::ApiError::from(error).status.as_u16(), |_| 200)
    }

    #[test]
    fn the_vector_of_the_specification() {
        let sealed = seal(&key(), IV, b"demo", b"top secret").unwrap();
        assert_eq!(STANDARD.encode(&sealed), "Arkd8znCZu+h/TVVrO0rLt94O7iwVrKX+uyR");
        assert_eq!(open(&key(), IV, b"demo", &sealed).unwrap().as_slice(), b"top secret");
    }

    #[test]
    fn version_1_has_the_tag_first() {
        let sealed = seal(&key(), IV, b"", b"old secret").unwrap();
        let (ciphertext, tag) = sealed[1..].split_at(10);
        let old = [&[1], tag, ciphertext].concat();
        assert_eq!(open(&key(), IV, b"", &old).unwrap().as_slice(), b"old secret");
    }

    #[test]
    fn lengths() {
        for length in [0, 1, 15, 16, 17, 1000] {
            let sealed = seal(&key(), IV, b"", &vec![7; length]).unwrap();
            assert_eq!(sealed.len(), length + 17);
            assert_eq!(open(&key(), IV, b"", &sealed).unwrap().len(), length);
        }
        for iv in [1, 12, 16, 128] {
            let sealed = seal(&key(), &vec![1; iv], b"a", b"x").unwrap();
            assert_eq!(open(&key(), &vec![1; iv], b"a", &sealed).unwrap().as_slice(), b"x");
        }
        for (key, iv) in [(key(), 0), (key(), 129), (vec![1; 4], 12), (vec![1; 16], 12)] {
            assert!(matches!(seal(&key, &vec![1; iv], b"", b""), Err(Error::Internal(_))));
        }
    }

    #[test]
    fn malformed_is_400_and_not_authentic_is_500() {
        let sealed = seal(&key(), IV, b"aad", b"x").unwrap();
        for malformed in [&[][..], &[2], &sealed[..16], &[3; 40], &[0; 40], &[1; 16]] {
            assert_eq!(status(open(&key(), IV, b"aad", malformed)), 400, "{malformed:?}");
        }
        for at in 1..sealed.len() {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            assert_eq!(status(open(&key(), IV, b"aad", &wrong)), 500);
        }
        assert_eq!(status(open(&key(), IV, b"", &sealed)), 500);
        assert_eq!(status(open(&key(), b"100000000000", b"aad", &sealed)), 500);
        assert_eq!(status(open(&[0; 32], IV, b"aad", &sealed)), 500);
        assert_eq!(status(open(&key(), IV, b"aad", &sealed)), 200);
    }
}
