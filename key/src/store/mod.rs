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
mod gate;
mod known;
mod located;
mod pkcs11;
mod soft;
mod tpm;
mod work;

pub use file::FileStore;
pub use gate::Gate;
pub use located::LocatedStore;
pub use pkcs11::Fault;
pub use soft::{SoftKey, SoftPair};
pub use tpm::TpmFault;
pub use work::Work;

/// A place where keys lie, by id. One id is a symmetric key or a key pair, never both, unless it is preloaded.
pub trait KeyStore: Send + Sync + 'static {
    /// What has to be entered before a method for `task` is called, because it may have to wait for a device with the key.
    ///
    /// Does not block.
    fn gate(&self, key: &Permit, task: Task) -> Option<Arc<Gate>>;

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

    /// Whether a key pair for `key` is made by hardware of its own, and not by this machine's processor.
    ///
    /// Does not block.
    fn makes_pairs_elsewhere(&self, key: &Permit) -> bool;

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

    /// Whether the configuration names the key, so that nothing else gets its id.
    ///
    /// Does not block.
    fn is_preloaded(&self, key: &Permit) -> bool;

    /// Removes a key pair. It is no error if there is none.
    fn delete_pair(&self, key: &Permit) -> Result<(), Error>;
}

/// What a store is asked to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// To load a symmetric key.
    LoadKey,
    /// To load a key pair.
    LoadPair,
    /// To make, import, move or delete either.
    Change,
}

/// A symmetric key, to be used but not seen.
pub trait SymmetricKey: Send + Sync {
    /// HMAC-SHA256 of `message`.
    fn hmac<'a>(&'a self, message: &'a [u8]) -> Work<'a, [u8; 32]>;

    /// Whether `mac` is the HMAC-SHA256 of `message`. A key that is slow to ask may remember what it once found good.
    fn verify<'a>(&'a self, message: &'a [u8], mac: &'a [u8]) -> Work<'a, bool>;

    /// AES-256-GCM; see [`aead::seal`](crate::aead::seal).
    fn seal<'a>(&'a self, iv: &'a [u8], aad: &'a [u8], plaintext: &'a [u8]) -> Work<'a, Vec<u8>>;

    /// Undoes [`seal`](Self::seal).
    fn open<'a>(&'a self, iv: &'a [u8], aad: &'a [u8], sealed: &'a [u8]) -> Work<'a, Zeroizing<Vec<u8>>>;

    /// Whether it is still where it was found; if not, the error is that of a key that does not exist.
    fn check(&self) -> Work<'_, ()>;
}

/// A key pair, to be used but not seen.
pub trait KeyPair: Send + Sync {
    /// The public half.
    fn public(&self) -> &Public;

    /// ECDSA over `digest`, as DER `ECDSA-Sig-Value`. A digest longer than the order is cut.
    fn sign_digest<'a>(&'a self, digest: &'a [u8]) -> Work<'a, Vec<u8>>;

    /// The private-key operation of RSA on `input`.
    fn rsa_private<'a>(&'a self, padding: RsaPadding, input: &'a [u8]) -> Work<'a, Vec<u8>>;

    /// Whether it is still where it was found; if not, the error is that of a key pair that does not exist.
    fn check(&self) -> Work<'_, ()>;
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

/// DER of the OID secp256r1, the only curve that upstream tells.
pub const P256: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// DER of the OID secp384r1.
pub const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// DER of the OID secp521r1.
pub const P521: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23];

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
