//! Keys that a TPM makes and uses, and wraps for the time that they are not used (there is no chapter in spec
//! keys-service: upstream has no such keys). Knows the text of a key file, but neither reads nor writes files.
//!
//! ```text
//!  store of files ─► this: text of a new key; a key from its text ─► thread ─► device: commands ─► tpm-device
//! ```
//!
//! A TPM has no AES-GCM. What is to encrypt is kept in a file as if there were no TPM; the log tells.

mod area;
mod device;
mod fault;
mod keys;
mod seat;
mod thread;
mod tss2;

use std::sync::Arc;
use std::time::Duration;

use key_api::KeyUsage;
use zeroize::Zeroizing;

use crate::Error;
use crate::algorithm::Preferences;
use crate::error::Internal;
use crate::id::KeyId;
use crate::store::Gate;
use area::Kind;
use device::Made;
use thread::TpmThread;
use tpm_device::primary::STORAGE_ROOT;
use tss2::Blob;

pub use fault::TpmFault;
pub(super) use keys::{TpmKey, TpmPair};
pub(super) use tss2::{HEAD, Unreadable};

/// A TPM as a maker of keys.
pub(super) struct Tpm {
    thread: Arc<TpmThread>,
    gate: Arc<Gate>,
    makes_new_keys: bool,
}

/// A key from the text of its file.
#[derive(Clone)]
pub(super) enum Loaded {
    /// A key pair.
    Pair(Arc<TpmPair>),
    /// A symmetric key.
    Key(Arc<TpmKey>),
}

impl Tpm {
    /// The TPM that `config` names. It is not looked for before it is needed.
    pub(super) fn new(config: &key_api::Tpm) -> Result<Self, Error> {
        let thread = TpmThread::start(config.clone()).map_err(|_| Internal::Worker)?;
        let gate = Gate::new(|| keys::refusal(TpmFault::QueueFull));
        Ok(Self { thread: Arc::new(thread), gate, makes_new_keys: config.new_keys })
    }

    /// To be entered by whoever makes keys.
    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Whether keys are made here that the configuration gives no place of their own.
    pub(super) fn makes_new_keys(&self) -> bool {
        self.makes_new_keys
    }

    /// The key in the `text` of a file, or why there is none. Does not ask the TPM.
    pub(super) fn load(&self, text: &[u8]) -> Result<Loaded, Unreadable> {
        let blob = Blob::from_pem(text)?;
        Ok(match area::kind(&blob.public).map_err(Unreadable::Unsupported)? {
            Kind::Pair(public) => Loaded::Pair(Arc::new(TpmPair::new(&self.thread, blob, public))),
            Kind::Hmac => Loaded::Key(Arc::new(TpmKey::new(&self.thread, blob))),
        })
    }

    /// The text of a new key pair, by the most wanted algorithm that the TPM can.
    pub(super) fn make_pair(&self, id: &KeyId, preferences: &Preferences) -> Result<Vec<u8>, Error> {
        let templates: Vec<_> = preferences.iter().map(area::pair).collect();
        let make = self.thread.wait(MAKE, move |tpm| {
            for template in &templates {
                match tpm.create(template, &[]) {
                    Err(fault) if fault.is_refusal() => {
                        tracing::debug!("not in this TPM: {}", http_common::chain(&fault));
                    }
                    made => return made.map(Some),
                }
            }
            Ok(None)
        });
        match make {
            Ok(Some(made)) => Ok(text(made)),
            Ok(None) => Err(Error::NoTpmAlgorithm(id.clone())),
            Err(fault) => Err(keys::refusal(fault)),
        }
    }

    /// The text of a new symmetric key with these `bytes`, or with random ones; `None` if the TPM cannot keep it.
    pub(super) fn make_key(
        &self,
        id: &KeyId,
        bytes: Option<&[u8]>,
        usage: KeyUsage,
    ) -> Result<Option<Vec<u8>>, Error> {
        if usage.encrypts() {
            tracing::warn!("TPMs cannot encrypt; the key {id} is kept in a file as it is");
            return Ok(None);
        }
        let template = area::hmac(bytes.is_some());
        let bytes = bytes.map_or_else(Zeroizing::default, hmac_key);
        match self.thread.wait(MAKE, move |tpm| tpm.create(&template, &bytes)) {
            Ok(made) => Ok(Some(text(made))),
            Err(fault) if fault.is_refusal() => {
                let why = http_common::chain(&fault);
                tracing::warn!("the TPM cannot keep the key {id}, which is kept in a file as it is: {why}");
                Ok(None)
            }
            Err(fault) => Err(keys::refusal(fault)),
        }
    }
}

/// Why the `text` of a file is of no use to any TPM, if it is not.
pub(super) fn damage(text: &[u8]) -> Option<&'static str> {
    match Blob::from_pem(text) {
        Err(Unreadable::Garbled(why)) => Some(why),
        Ok(_) | Err(Unreadable::Unsupported(_)) => None,
    }
}

/// `bytes` as a TPM takes them: of longer keys HMAC uses nothing but the hash (RFC 2104, 2).
fn hmac_key(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(match bytes.len() > HMAC_BLOCK {
        true => openssl::sha::sha256(bytes).to_vec(),
        false => bytes.to_vec(),
    })
}

fn text(made: Made) -> Vec<u8> {
    let Made { public, private } = made;
    Blob { parent: STORAGE_ROOT.handle, public, private }.to_pem().into_bytes()
}

/// How long a TPM may take to make a key; RSA takes its time.
const MAKE: Duration = Duration::from_secs(120);
/// How long a TPM may take to use a key: less than the 30 s after which clients give up.
const USE: Duration = Duration::from_secs(25);
/// The block of SHA-256, in bytes.
const HMAC_BLOCK: usize = 64;
