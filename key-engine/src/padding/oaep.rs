//! EME-OAEP (RFC 8017, 7.1.2), without telling by time what is wrong with a ciphertext.

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::Zeroizing;

use super::{Hash, mask};
use crate::Error;

/// The message in `block`, which is as long as the modulus.
pub fn unpad(
    hash: &dyn Hash,
    mgf1_hash: &dyn Hash,
    label: &[u8],
    block: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let size = hash.size();
    if block.len() < 2 * size + 2 {
        return Err(Error::Refused("the RSA key is too short for OAEP with this digest"));
    }
    let label_digest = hash.digest(&[label])?;
    let (first, rest) = block.split_at(1);
    let (seed, data) = rest.split_at(size);
    let (mut seed, mut data) = (Zeroizing::new(seed.to_vec()), Zeroizing::new(data.to_vec()));
    mask(mgf1_hash, &data, &mut seed)?;
    mask(mgf1_hash, &seed, &mut data)?;

    let (found_digest, padded) = data.split_at(size);
    let mut good = first[0].ct_eq(&0) & found_digest.ct_eq(&label_digest);
    let mut looking = Choice::from(1);
    let mut begin = 0_u32;
    for (index, byte) in (1_u32..).zip(padded) {
        let separator = byte.ct_eq(&1);
        begin = u32::conditional_select(&begin, &index, looking & separator);
        good &= !looking | separator | byte.ct_eq(&0);
        looking &= !separator;
    }
    good &= !looking;
    match bool::from(good) {
        true => Ok(Zeroizing::new(padded[begin as usize..].to_vec())),
        false => Err(Error::Refused("the ciphertext cannot be decrypted with this key and these parameters")),
    }
}

#[cfg(test)]
mod tests {
    use openssl::encrypt::Encrypter;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::{Padding, Rsa};

    use super::super::tests::Sha256;
    use super::*;

    #[test]
    fn what_openssl_encrypts_is_read_and_what_is_damaged_is_not() {
        let rsa = Rsa::generate(2048).unwrap();
        let key = PKey::from_rsa(rsa.clone()).unwrap();
        for message in [b"".as_slice(), b"x", &[1; 190], &[0; 100]] {
            let mut encrypter = Encrypter::new(&key).unwrap();
            encrypter.set_rsa_padding(Padding::PKCS1_OAEP).unwrap();
            encrypter.set_rsa_oaep_md(MessageDigest::sha256()).unwrap();
            encrypter.set_rsa_oaep_label(b"label").unwrap();
            let mut ciphertext = vec![0; 256];
            let length = encrypter.encrypt(message, &mut ciphertext).unwrap();
            let mut block = vec![0; 256];
            rsa.private_decrypt(&ciphertext[..length], &mut block, Padding::NONE).unwrap();
            let read = |label: &[u8], block: &[u8]| unpad(&Sha256, &Sha256, label, block);
            assert_eq!(read(b"label", &block).unwrap().as_slice(), message);
            assert!(read(b"other", &block).is_err());
            for index in [0, 1, 40, 255] {
                let mut damaged = block.clone();
                damaged[index] ^= 1;
                assert!(read(b"label", &damaged).is_err(), "byte {index}");
            }
            assert!(read(b"label", &block[..65]).is_err());
        }
    }
}
