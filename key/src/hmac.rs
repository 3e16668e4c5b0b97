//! HMAC-SHA256 (RFC 2104) on OpenSSL's SHA-256. Here because OpenSSL's own HMAC costs 20 times as much a call, and
//! keyd computes one for each request. Knows nothing of keys' origin.

use openssl::sha::Sha256;
use zeroize::Zeroizing;

/// The HMAC-SHA256 of `message` under `key`, which may have any length.
pub(crate) fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = Zeroizing::new([0; BLOCK]);
    if key.len() > BLOCK {
        block[..32].copy_from_slice(&openssl::sha::sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = padded(&mut block, INNER, message);
    block.iter_mut().for_each(|byte| *byte ^= INNER);
    padded(&mut block, OUTER, &inner)
}

/// The hash of `block` XOR `pad`, then `message`; leaves the padded block behind.
fn padded(block: &mut [u8; BLOCK], pad: u8, message: &[u8]) -> [u8; 32] {
    block.iter_mut().for_each(|byte| *byte ^= pad);
    let mut hash = Sha256::new();
    hash.update(block);
    hash.update(message);
    hash.finish()
}

/// SHA-256's block length in bytes.
const BLOCK: usize = 64;
/// RFC 2104's ipad.
const INNER: u8 = 0x36;
/// RFC 2104's opad.
const OUTER: u8 = 0x5c;

#[cfg(test)]
mod tests {
    use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};

    use super::*;

    #[test]
    fn agrees_with_openssl_for_keys_of_all_lengths() {
        for length in [1, 4, 20, 32, 63, 64, 65, 131, 1000] {
            let key = vec![0xaa; length];
            let pkey = PKey::hmac(&key).unwrap();
            let mut signer = Signer::new(MessageDigest::sha256(), &pkey).unwrap();
            for message in [&b""[..], b"Hi There", &[0xcd; 200]] {
                let expected = signer.sign_oneshot_to_vec(message).unwrap();
                assert_eq!(hmac_sha256(&key, message)[..], expected, "key of {length} bytes");
                signer = Signer::new(MessageDigest::sha256(), &pkey).unwrap();
            }
        }
    }

    #[test]
    fn rfc_4231_case_2() {
        let mac = hmac_sha256(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(mac[..4], [0x5b, 0xdc, 0xc1, 0x46]);
        assert_eq!(mac[28..], [0x64, 0xec, 0x38, 0x43]);
    }
}
