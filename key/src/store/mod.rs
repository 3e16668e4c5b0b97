//! The seam to key material: what keyd asks of a place where keys lie. Knows nothing of callers, handles and HTTP.
//!
//! Every method that touches a key wants a [`Permit`], the proof that somebody may use it. All may block, except those
//! whose documentation says otherwise; callers put them on a thread of their own.

use std::fmt;
use std::sync::Arc;

use key_api::KeyUsage;
use zeroize::Zeroizing;

use crate::Error;
use crate::algorithm::Preferences;
use crate::id::Permit;

mod cache;
mod content;
mod file;
mod soft;

pub use file::FileStore;
pub use soft::{SoftKey, SoftPair};

/// A place where keys lie, by id. One id is a symmetric key or a key pair, never both, unless it is preloaded.
pub trait KeyStore: Send + Sync + 'static {
    /// The symmetric key, if it can be had without waiting. `None` does not mean that there is none.
    ///
    /// Does not block.
    fn key_at_hand(&self, key: &Permit) -> Option<Arc<dyn SymmetricKey>>;

    /// The symmetric key.
    fn load_key(&self, key: &Permit) -> Result<Arc<dyn SymmetricKey>, Error>;

    /// Makes a symmetric key unless there is one. What is there but empty counts as missing.
    fn create_key(&self, key: &Permit, usage: KeyUsage) -> Result<(), Error>;

    /// Takes over the `bytes` of a symmetric key, whatever is there.
    fn import_key(&self, key: &Permit, bytes: &[u8], usage: KeyUsage) -> Result<(), Error>;

    /// Removes a symmetric key. It is no error if there is none.
    fn delete_key(&self, key: &Permit) -> Result<(), Error>;

    /// The key pair, if it can be had without waiting. `None` does not mean that there is none.
    ///
    /// Does not block.
    fn pair_at_hand(&self, key: &Permit) -> Option<Arc<dyn KeyPair>>;

    /// The key pair.
    fn load_pair(&self, key: &Permit) -> Result<Arc<dyn KeyPair>, Error>;

    /// Makes a key pair unless there is one. What is there but damaged counts as missing.
    fn create_pair(&self, key: &Permit, preferences: &Preferences) -> Result<(), Error>;

    /// Gives the key pair `from` the id `to`, replacing the pair that has it. After a crash either all or nothing is
    /// done.
    fn move_pair(&self, from: &Permit, to: &Permit) -> Result<(), Error>;

    /// Removes a key pair. It is no error if there is none.
    fn delete_pair(&self, key: &Permit) -> Result<(), Error>;
}

/// A symmetric key, to be used but not seen.
pub trait SymmetricKey: Send + Sync {
    /// HMAC-SHA256 of `message`.
    fn hmac(&self, message: &[u8]) -> Result<[u8; 32], Error>;

    /// AES-256-GCM; see [`aead::seal`](crate::aead::seal).
    fn seal(&self, iv: &[u8], aad: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error>;

    /// Undoes [`seal`](Self::seal).
    fn open(&self, iv: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error>;
}

/// A key pair, to be used but not seen.
pub trait KeyPair: Send + Sync {
    /// The public half.
    fn public(&self) -> &Public;

    /// Whether [`sign_digest`](Self::sign_digest) takes so short a time that it may run on a thread that serves others
    /// too.
    fn signs_quickly(&self) -> bool;

    /// ECDSA over `digest`, as DER `ECDSA-Sig-Value`. A digest longer than the order is cut.
    fn sign_digest(&self, digest: &[u8]) -> Result<Vec<u8>, Error>;

    /// The private-key operation of RSA on `input`. Slow.
    fn rsa_private(&self, padding: RsaPadding, input: &[u8]) -> Result<Vec<u8>, Error>;
}

/// What RSA does before the private-key operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaPadding {
    /// PKCS #1 v1.5 block type 1 (RFC 8017, 9.2).
    Pkcs1,
    /// Nothing; the input is as long as the modulus.
    None,
}

/// The public half of a key pair, as far as it is told.
#[derive(Clone, PartialEq, Eq)]
pub enum Public {
    /// On an elliptic curve.
    Ec {
        /// DER of the OID of the curve; `None` for a curve that is not told.
        curve: Option<&'static [u8]>,
        /// SEC 1 compressed point.
        point: Vec<u8>,
    },
    /// RSA; both big-endian without leading zeros.
    Rsa {
        /// n.
        modulus: Vec<u8>,
        /// e.
        exponent: Vec<u8>,
    },
    /// Neither.
    Other,
}

impl Public {
    /// What the pair is, in words for errors.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ec { .. } => "an EC key pair",
            Self::Rsa { .. } => "an RSA key pair",
            Self::Other => "a key pair that is neither EC nor RSA",
        }
    }
}

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}
