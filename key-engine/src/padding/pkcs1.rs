//! PKCS #1 v1.5 decryption (RFC 8017, 7.2.2) that cannot be used as an oracle: what is badly padded decrypts to
//! made-up bytes of made-up length, always the same for one secret and one ciphertext as a number (implicit rejection,
//! as OpenSSL 3.2 does). Whose secret it is, is the caller's matter.
//!
//! No branch and no memory access depends on the block before the length of the result is known.

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeLess};
use zeroize::Zeroizing;

use super::Hash;
use crate::Error;

/// The message in `block`, which is as long as the modulus; or made-up bytes that depend on `secret` and `ciphertext`.
/// `hash` must give at least 32 bytes.
pub fn unpad(
    hash: &dyn Hash,
    secret: &[u8],
    ciphertext: &[u8],
    block: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let length = u32::try_from(block.len()).map_err(|_| TOO_SHORT)?;
    if block.len() < OVERHEAD {
        return Err(TOO_SHORT);
    }
    let (good, begin) = find_message(block);
    let zeros = vec![0; block.len().saturating_sub(ciphertext.len())];
    let seed = hash.digest(&[secret, &zeros, ciphertext])?;
    let made_up_length = made_up_length(hash, &seed, block.len())?;
    let made_up = made_up_bytes(hash, &seed, block.len())?;

    let begin = u32::conditional_select(&(length - made_up_length), &begin, good);
    let mut message = Zeroizing::new(vec![0; block.len()]);
    for (out, (real, other)) in message.iter_mut().zip(block.iter().zip(made_up.iter())) {
        *out = u8::conditional_select(other, real, good);
    }
    Ok(Zeroizing::new(message[begin as usize..].to_vec()))
}

/// The TLS versions that a premaster secret may begin with.
#[derive(Debug, Clone, Copy)]
pub struct Versions {
    /// What the client offered.
    pub client: u16,
    /// What was negotiated; accepted too if given, for clients with the rollback bug.
    pub negotiated: Option<u16>,
}

/// The 48 bytes of a TLS premaster secret in `block`, or `random` if there is none or its version is wrong (RFC 5246,
/// 7.4.7.1).
pub fn unpad_premaster(
    block: &[u8],
    versions: Versions,
    random: &[u8; PREMASTER],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    let Some(start) =
        block.len().checked_sub(PREMASTER).filter(|start| *start + PREMASTER >= OVERHEAD + PREMASTER)
    else {
        return Err(TOO_SHORT);
    };
    let (mut good, begin) = find_message(block);
    good &= u64::from(begin).ct_eq(&(start as u64));
    let found = u16::from_be_bytes([block[start], block[start + 1]]);
    let mut version_good = found.ct_eq(&versions.client);
    if let Some(negotiated) = versions.negotiated {
        version_good |= found.ct_eq(&negotiated);
    }
    good &= version_good;
    let selected = block[start..].iter().zip(random);
    Ok(Zeroizing::new(selected.map(|(real, other)| u8::conditional_select(other, real, good)).collect()))
}

/// Whether `block` is 0, 2, eight or more bytes that are not 0, 0, message; and where the message would begin.
fn find_message(block: &[u8]) -> (Choice, u32) {
    let mut good = block[0].ct_eq(&0) & block[1].ct_eq(&2);
    let mut looking = Choice::from(1);
    let mut begin = 0_u32;
    for (index, byte) in (3_u32..).zip(&block[2..]) {
        let end = byte.ct_eq(&0) & looking;
        begin = u32::conditional_select(&begin, &index, end);
        looking &= !end;
    }
    good &= !looking & !begin.ct_lt(&(OVERHEAD as u32));
    (good, begin)
}

/// A length that a message in a block of `length` bytes can have: the last of 128 candidates that is one.
fn made_up_length(hash: &dyn Hash, seed: &[u8], length: usize) -> Result<u32, Error> {
    let limit = u32::try_from(length - OVERHEAD + 1).map_err(|_| TOO_SHORT)?;
    let mask = limit.next_power_of_two() - 1;
    let mut chosen = 0;
    for round in 0..CANDIDATE_ROUNDS {
        let candidates = hash.digest(&[seed, b"length", &[round]])?;
        for pair in candidates.chunks_exact(2) {
            let candidate = u32::from(u16::from_be_bytes([pair[0], pair[1]])) & mask;
            chosen = u32::conditional_select(&chosen, &candidate, candidate.ct_lt(&limit));
        }
    }
    Ok(chosen)
}

fn made_up_bytes(hash: &dyn Hash, seed: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + hash.size()));
    for counter in 0_u32.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend_from_slice(&hash.digest(&[seed, b"message", &counter.to_be_bytes()])?);
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// 0, 2, eight bytes of padding, 0.
const OVERHEAD: usize = 11;
/// Bytes of a TLS premaster secret.
const PREMASTER: usize = 48;
/// Digests of 16 candidates each.
const CANDIDATE_ROUNDS: u8 = 8;
const TOO_SHORT: Error = Error::Refused("the RSA key is too short");

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::time::{Duration, Instant};

    use super::super::tests::Sha256;
    use super::*;

    fn block(padding: usize, message: &[u8]) -> Vec<u8> {
        [&[0, 2], vec![0xaa; padding].as_slice(), &[0], message].concat()
    }

    fn read(block: &[u8]) -> Vec<u8> {
        unpad(&Sha256, b"secret", b"ciphertext", block).unwrap().to_vec()
    }

    #[test]
    fn good_blocks_are_read() {
        for (padding, message) in [(8, &[1; 245][..]), (253, &[][..]), (200, &[0; 53][..])] {
            let block = block(padding, message);
            assert_eq!(block.len(), 256);
            assert_eq!(read(&block), message);
        }
    }

    #[test]
    fn bad_blocks_give_made_up_bytes_that_do_not_change() {
        let mut first = block(200, &[7; 53]);
        first[0] = 1;
        let mut second = block(200, &[7; 53]);
        second[1] = 1;
        let short = block(7, &[7; 246]);
        let endless = [&[0, 2], vec![1; 254].as_slice()].concat();
        let made_up = read(&first);
        assert_ne!(made_up, [7; 53]);
        for bad in [second, short, endless] {
            assert_eq!(read(&bad), made_up, "what is wrong does not show");
        }
        let other = unpad(&Sha256, b"secret", b"other", &first).unwrap();
        assert_ne!(*other, made_up);
        assert!(made_up.len() <= 245);
        for zeros in [1, 246] {
            let padded = [vec![0; zeros].as_slice(), b"ciphertext"].concat();
            assert_eq!(*unpad(&Sha256, b"secret", &padded, &first).unwrap(), made_up, "{zeros} more zeros");
        }
    }

    /// Good and bad blocks need the same time: the shortest of many runs each, taken in turns, for that is what other
    /// work on the machine disturbs least; the more it disturbs, the more runs, but more of them must not tell more.
    /// Leaving the search at the first zero, or making bytes up only when they are needed, costs or saves more than a
    /// quarter, however many runs there are.
    #[test]
    fn engine_39_no_time_tells_good_blocks_from_bad_ones() {
        let good = block(250, &[7; 3]);
        let mut blocks =
            vec![good.clone(), block(8, &[7; 245]), block(7, &[7; 246]), vec![0; 256], vec![1; 256]];
        for index in [0, 1, 5] {
            let mut bad = good.clone();
            bad[index] = if index == 5 { 0 } else { 9 };
            blocks.push(bad);
        }
        let mut shortest = vec![Duration::MAX; blocks.len()];
        let is_alike = |shortest: &[Duration]| {
            let (least, most) = (shortest.iter().min().unwrap(), shortest.iter().max().unwrap());
            *most < least.mul_f64(1.25)
        };
        let mut rounds_alike = 0;
        for _ in 0..50 {
            for _ in 0..400 {
                for (block, shortest) in blocks.iter().zip(&mut shortest) {
                    let begin = Instant::now();
                    black_box(unpad(&Sha256, b"secret", b"ciphertext", black_box(block)).unwrap());
                    *shortest = begin.elapsed().min(*shortest);
                }
            }
            rounds_alike = if is_alike(&shortest) { rounds_alike + 1 } else { 0 };
            if rounds_alike == 2 {
                return;
            }
        }
        panic!("{shortest:?}");
    }

    #[test]
    fn premaster_secrets() {
        let secret: Vec<u8> = [&[3, 3], [5; 46].as_slice()].concat();
        let versions = Versions { client: 0x0303, negotiated: None };
        let read = |block: &[u8], versions| unpad_premaster(block, versions, &[9; 48]).unwrap().to_vec();
        let good = block(205, &secret);
        assert_eq!(read(&good, versions), secret);
        let mut bad = good.clone();
        bad[1] = 1;
        for (block, versions) in [
            (&bad, versions),
            (&block(204, &[secret.as_slice(), &[0]].concat()), versions),
            (&good, Versions { client: 0x0302, negotiated: None }),
        ] {
            assert_eq!(read(block, versions), [9; 48]);
        }
        assert_eq!(read(&good, Versions { client: 0x0302, negotiated: Some(0x0303) }), secret);
        assert!(unpad_premaster(&[0; 58], versions, &[9; 48]).is_err());
    }
}
