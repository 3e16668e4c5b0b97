//! What the engine does, without OpenSSL's types: which keyd, which key, which operation.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use key_engine::padding::{Hash, unpad_oaep};
use key_engine::remote::{Keyd, RemoteKey, RsaOperation};
use key_engine::{Error, KeyUri, Overrides, Settings};
use zeroize::Zeroizing;

/// The keyd of this process, with the settings of the moment.
pub(crate) fn keyd() -> Result<Arc<Keyd>, Error> {
    let mut state = state();
    if let Some(keyd) = &state.keyd {
        return Ok(keyd.clone());
    }
    let environment =
        Overrides { socket: key_engine::ffi::environment(c"AZIOT_KEYD_SOCKET"), ..Overrides::default() };
    let Settings { socket, limit, .. } = state.settings.clone().with(environment)?;
    let keyd = Arc::new(Keyd::new(socket, limit));
    state.keyd = Some(keyd.clone());
    Ok(keyd)
}

/// Changes the settings for keys that are loaded from now on.
pub(crate) fn configure(overrides: Overrides) -> Result<(), Error> {
    let mut state = state();
    state.settings = state.settings.clone().with(overrides)?;
    state.keyd = None;
    Ok(())
}

/// The key that `id` names: a handle, verbatim, or an `aziot:` URI.
pub(crate) fn load(id: &str) -> Result<RemoteKey, Error> {
    RemoteKey::load(keyd()?, KeyUri::parse_or_handle(id)?.name)
}

/// The same, unless the URI is for the public part only.
pub(crate) fn load_private(id: &str) -> Result<RemoteKey, Error> {
    match KeyUri::parse_or_handle(id)? {
        KeyUri { public_only: true, .. } => Err(Error::Refused(
            "the URI names the public part of a key (?type=public), and the private is wanted",
        )),
        KeyUri { name, public_only: false } => RemoteKey::load(keyd()?, name),
    }
}

/// `RSA_private_encrypt`: a signature. `public` is the public operation.
pub(crate) fn private_encrypt(
    key: &RemoteKey,
    data: &[u8],
    padding: i32,
    public: impl FnOnce(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match padding {
        PKCS1 => key.rsa(RsaOperation::Pkcs1Sign, data, public),
        NONE => key.rsa(RsaOperation::Raw, data, public),
        _ => Err(Error::Refused("keyd signs with PKCS #1 v1.5 padding or, padded by the caller, with none")),
    }
}

/// `RSA_private_decrypt`. `public` is the public operation.
pub(crate) fn private_decrypt(
    key: &RemoteKey,
    ciphertext: &[u8],
    padding: i32,
    public: impl Fn(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match padding {
        PKCS1 => key.decrypt_pkcs1(ciphertext, &Sha256, public),
        OAEP => unpad_oaep(&Sha1, &Sha1, b"", &key.rsa(RsaOperation::Raw, ciphertext, public)?),
        NONE => key.rsa(RsaOperation::Raw, ciphertext, public),
        _ => Err(Error::Refused("keyd's RSA keys decrypt with PKCS #1 v1.5, OAEP or no padding")),
    }
}

struct State {
    settings: Settings,
    keyd: Option<Arc<Keyd>>,
}

fn state() -> std::sync::MutexGuard<'static, State> {
    static STATE: OnceLock<Mutex<State>> = OnceLock::new();
    let state = STATE.get_or_init(|| Mutex::new(State { settings: Settings::default(), keyd: None }));
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Sha256;

impl Hash for Sha256 {
    fn size(&self) -> usize {
        32
    }

    fn digest(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut hasher = openssl::sha::Sha256::new();
        parts.iter().for_each(|part| hasher.update(part));
        Ok(Zeroizing::new(hasher.finish().to_vec()))
    }
}

/// What RSA_private_decrypt takes for OAEP.
struct Sha1;

impl Hash for Sha1 {
    fn size(&self) -> usize {
        20
    }

    fn digest(&self, parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut hasher = openssl::sha::Sha1::new();
        parts.iter().for_each(|part| hasher.update(part));
        Ok(Zeroizing::new(hasher.finish().to_vec()))
    }
}

/// `RSA_PKCS1_PADDING`.
const PKCS1: i32 = 1;
/// `RSA_NO_PADDING`.
const NONE: i32 = 3;
/// `RSA_PKCS1_OAEP_PADDING`.
const OAEP: i32 = 4;
