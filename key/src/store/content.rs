//! What the bytes of a key file are: a symmetric key, a key pair, or neither. Knows nothing of where they came from but
//! whether an administrator put them there.
//!
//! One file name serves both kinds, so that only the bytes tell them apart: what has the head line of a PEM private key
//! is a key pair and is never used as a symmetric key (spec keys-service, 9.1). Preloaded files are exempt; there the
//! administrator decided.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::tpm::{self, Loaded, Tpm, Unreadable};
use super::{KeyPair, SoftKey, SoftPair, SymmetricKey};

/// A key file as either kind.
#[derive(Clone)]
pub(super) struct Content {
    /// As a symmetric key.
    pub(super) key: Result<Arc<dyn SymmetricKey>, Fault>,
    /// As a key pair.
    pub(super) pair: Result<Arc<dyn KeyPair>, Fault>,
}

/// Why a file is not a key of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no file.
    Missing,
    /// A symmetric key was looked for and a key pair found.
    IsPair,
    /// A key pair was looked for and a symmetric key found.
    IsKey,
    /// What a crash leaves of a file: to be replaced by whoever creates the key.
    Damaged(String),
    /// A key that we cannot read; to be left alone.
    Foreign(&'static str),
}

impl Content {
    /// No file.
    pub(super) fn missing() -> Self {
        Self::neither(Fault::Missing)
    }

    /// The file with these `bytes`, which may be a key of the `tpm`. In a file `of_admin` everything else is a symmetric key,
    /// too.
    pub(super) fn of(bytes: Zeroizing<Vec<u8>>, of_admin: bool, tpm: Option<&Tpm>) -> Self {
        if bytes.is_empty() {
            return Self::neither(Fault::Damaged("the file is empty".to_owned()));
        }
        let label = pem_label(&bytes, tpm.is_some());
        let is_key = of_admin || matches!(label, Pem::No);
        let pair: Result<Arc<dyn KeyPair>, _> = match label {
            Pem::Tpm => return Self::of_tpm(&bytes, tpm),
            Pem::CutTpm => return Self::neither(Fault::Damaged(CUT.to_owned())),
            Pem::Cut => Err(Fault::Damaged(CUT.to_owned())),
            Pem::No if bytes.iter().all(|byte| *byte == 0) => {
                Err(Fault::Damaged("the file holds only zeros".to_owned()))
            }
            Pem::No => Err(Fault::IsKey),
            Pem::Encrypted => {
                Err(Fault::Foreign("the private key is encrypted; store it without a pass phrase"))
            }
            Pem::Unknown => Err(Fault::Foreign("the private key is of a kind that is not known here")),
            Pem::Key => match SoftPair::from_pem(&bytes) {
                Ok(pair) => Ok(Arc::new(pair)),
                Err(error) => Err(Fault::Damaged(format!("the private key cannot be parsed: {error}"))),
            },
        };
        match is_key {
            true => Self { key: Ok(Arc::new(SoftKey::new(bytes))), pair },
            false => Self { key: Err(Fault::IsPair), pair },
        }
    }

    /// A key of a TPM is of one kind, and of neither if it cannot be loaded, also in a file of an administrator: its text
    /// is no secret.
    fn of_tpm(text: &[u8], tpm: Option<&Tpm>) -> Self {
        match of_tpm(text, tpm) {
            Ok(Loaded::Key(key)) => Self { key: Ok(key), pair: Err(Fault::IsKey) },
            Ok(Loaded::Pair(pair)) => Self { key: Err(Fault::IsPair), pair: Ok(pair) },
            Err(fault) => Self::neither(fault),
        }
    }

    fn neither(fault: Fault) -> Self {
        Self { key: Err(fault.clone()), pair: Err(fault) }
    }
}

enum Pem {
    /// Not a PEM private key.
    No,
    /// The beginning of a head line, and then nothing.
    Cut,
    /// That of a key of a TPM, which may have been of either kind.
    CutTpm,
    /// A head line with a label that OpenSSL reads.
    Key,
    /// A key of a TPM.
    Tpm,
    /// A key under a pass phrase.
    Encrypted,
    /// Another label that ends in `PRIVATE KEY`.
    Unknown,
}

/// The key of a TPM in `text`.
fn of_tpm(text: &[u8], tpm: Option<&Tpm>) -> Result<Loaded, Fault> {
    let loaded = match tpm {
        Some(tpm) => tpm.load(text),
        None => Err(tpm::damage(text).map_or(Unreadable::Unsupported(NO_TPM), Unreadable::Garbled)),
    };
    loaded.map_err(|unreadable| match unreadable {
        Unreadable::Garbled(why) => Fault::Damaged(why.to_owned()),
        Unreadable::Unsupported(why) => Fault::Foreign(why),
    })
}

/// Looks for the first head line of a private key.
fn pem_label(bytes: &[u8], has_tpm: bool) -> Pem {
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(rest) = line.trim_ascii().strip_prefix(HEAD) else { continue };
        match rest.strip_suffix(b"-----") {
            Some(b"TSS2 PRIVATE KEY") => return Pem::Tpm,
            Some(b"ENCRYPTED PRIVATE KEY") => return Pem::Encrypted,
            Some(b"PRIVATE KEY" | b"EC PRIVATE KEY" | b"RSA PRIVATE KEY" | b"DSA PRIVATE KEY") => {
                let is_encrypted = contains(bytes, b"Proc-Type: 4,ENCRYPTED");
                return if is_encrypted { Pem::Encrypted } else { Pem::Key };
            }
            Some(label) if label.ends_with(b"PRIVATE KEY") => return Pem::Unknown,
            Some(_) | None => {}
        }
    }
    let written = bytes.trim_ascii_end();
    let begins = |head: &[u8]| written.len() > DASHES && head.starts_with(written);
    match (WRITTEN_HEADS.iter().any(|head| begins(head)), begins(tpm::HEAD.as_bytes())) {
        (false, false) => Pem::No,
        (true, false) => Pem::Cut,
        (true, true) if !has_tpm => Pem::Cut,
        (_, true) => Pem::CutTpm,
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

const NO_TPM: &str = "it is a key of a TPM, and keyd's configuration has no table [tpm]";
const CUT: &str = "the file ends within the head line of a PEM";
const HEAD: &[u8] = b"-----BEGIN ";
/// A head line needs more than its dashes to be recognised when it was cut.
const DASHES: usize = 5;
const WRITTEN_HEADS: [&[u8]; 3] =
    [b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN EC PRIVATE KEY-----", b"-----BEGIN RSA PRIVATE KEY-----"];

#[cfg(test)]
mod tests {
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::symm::Cipher;

    use super::*;
    use crate::algorithm::Algorithm;

    fn content(bytes: &[u8]) -> Content {
        Content::of(Zeroizing::new(bytes.to_vec()), false, None)
    }

    fn pem() -> Vec<u8> {
        SoftPair::generate(Algorithm::EcP256).unwrap().to_vec()
    }

    #[test]
    fn a_pem_private_key_is_a_pair_and_no_key() {
        let inside =
            [b"Bag Attributes\r\n-----BEGIN X-----\nAA==\n-----END X-----\n".as_slice(), &pem()].concat();
        for bytes in [pem(), inside] {
            let content = content(&bytes);
            assert!(content.pair.is_ok());
            assert_eq!(content.key.err(), Some(Fault::IsPair));
        }
        let traditional = Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
        assert!(content(&traditional).pair.is_ok());
    }

    #[test]
    fn other_bytes_are_a_key_and_no_pair() {
        for bytes in
            [&b"x"[..], &[7; 32], b"-----", b"-----BEGIN CERTIFICATE-----\n", b"----- PRIVATE KEY-----"]
        {
            let content = content(bytes);
            assert!(content.key.is_ok(), "{bytes:?}");
            assert_eq!(content.pair.err(), Some(Fault::IsKey), "{bytes:?}");
        }
    }

    #[test]
    fn what_crashes_leave_behind_is_damaged() {
        let pem = pem();
        for cut in [6, 15, 26, 27, 28, 100, 200] {
            let content = content(&pem[..cut]);
            assert!(matches!(content.pair, Err(Fault::Damaged(_))), "cut at {cut}");
            assert_eq!(content.key.err(), Some(Fault::IsPair), "cut at {cut}");
        }
        let empty = content(b"");
        assert!(matches!(empty.key, Err(Fault::Damaged(_))) && matches!(empty.pair, Err(Fault::Damaged(_))));
        let zeros = content(&[0; 241]);
        assert!(zeros.key.is_ok(), "an imported key may be zeros");
        assert!(matches!(zeros.pair, Err(Fault::Damaged(_))));
    }

    #[test]
    fn what_crashes_leave_of_a_key_of_a_tpm_is_damaged() {
        let config = key_api::Tpm { new_keys: true, ..key_api::Tpm::default() };
        let tpm = Tpm::new(&config).unwrap();
        let whole = b"-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n";
        for cut in 12..whole.len() - 2 {
            for tpm in [None, Some(&tpm)] {
                let content = Content::of(Zeroizing::new(whole[..cut].to_vec()), false, tpm);
                assert!(matches!(content.pair, Err(Fault::Damaged(_))), "cut at {cut}");
                assert!(matches!(content.key, Err(Fault::Damaged(_))), "cut at {cut}");
            }
        }
        for cut in 6..12 {
            let bytes = || Zeroizing::new(whole[..cut].to_vec());
            assert!(matches!(Content::of(bytes(), false, Some(&tpm)).key, Err(Fault::Damaged(_))));
            assert_eq!(Content::of(bytes(), false, None).key.err(), Some(Fault::IsPair));
        }
    }

    #[test]
    fn what_we_cannot_read_is_foreign() {
        let rsa = Rsa::generate(2048).unwrap();
        let traditional = rsa.private_key_to_pem_passphrase(Cipher::aes_128_cbc(), b"1234").unwrap();
        let pkcs8 = PKey::from_rsa(rsa).unwrap();
        let pkcs8 = pkcs8.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"1234").unwrap();
        for bytes in [traditional, pkcs8] {
            let content = content(&bytes);
            assert!(matches!(content.pair, Err(Fault::Foreign(_))));
            assert_eq!(content.key.err(), Some(Fault::IsPair));
        }
        let tss2 = content(b"-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n");
        let no_tpm = Some(Fault::Foreign(NO_TPM));
        assert_eq!((tss2.pair.err(), tss2.key.err()), (no_tpm.clone(), no_tpm), "it may be of either kind");
    }

    #[test]
    fn a_preloaded_pem_is_both() {
        let content = Content::of(Zeroizing::new(pem()), true, None);
        assert!(content.key.is_ok() && content.pair.is_ok());
    }

    #[test]
    fn the_text_of_a_key_of_a_tpm_is_never_a_key() {
        let tpm = Tpm::new(&key_api::Tpm::default()).unwrap();
        let no_key = b"-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n";
        for (text, tpm) in [(&no_key[..], Some(&tpm)), (&no_key[..], None), (&no_key[..20], Some(&tpm))] {
            let content = Content::of(Zeroizing::new(text.to_vec()), true, tpm);
            assert!(content.key.is_err() && content.key.err() == content.pair.err());
        }
    }
}
