//! STORE loader for `aziot:` URIs (provider-storemgmt(7); spec openssl-engine, 13.2).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::Arc;

use super::keydata::KeyData;
use super::keymgmt::reference_to;
use super::object::{Object, lend, release, status, with_mut, with_provider, with_ref};
use super::params::{Builder, END, entry, find, slice};
use super::provider::{END_OF_TABLE, NO_ALGORITHM, PROPERTIES, Provider, algorithm};
use super::sys::{self, Algorithm, Callback, Dispatch, INTEGER, OBJECT_PKEY, Param, UTF8_STRING};
use crate::remote::RemoteKey;
use crate::{Error, KeyUri};

pub(super) static ALGORITHMS: [Algorithm; 2] =
    [algorithm(c"aziot", PROPERTIES, &FUNCTIONS, c"keys in keyd by URI"), NO_ALGORITHM];

static FUNCTIONS: [Dispatch; 8] = [
    Dispatch { id: 1, function: open as *const () },
    Dispatch { id: 3, function: settable_ctx_params as *const () },
    Dispatch { id: 4, function: set_ctx_params as *const () },
    Dispatch { id: 5, function: load as *const () },
    Dispatch { id: 6, function: eof as *const () },
    Dispatch { id: 7, function: close as *const () },
    Dispatch { id: 8, function: export_object as *const () },
    END_OF_TABLE,
];

/// An opened URI.
struct Opened {
    provider: Arc<Provider>,
    uri: KeyUri,
    expected: Expected,
    done: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Expected {
    Anything,
    PublicKey,
    /// Something that is never here, such as a certificate.
    Other,
}

impl Object for Opened {
    fn provider(&self) -> &Provider {
        &self.provider
    }
}

impl Opened {
    /// The key, if one is expected.
    fn key(&self) -> Result<Option<KeyData>, Error> {
        if self.expected == Expected::Other {
            return Ok(None);
        }
        let public_only = self.uri.public_only || self.expected == Expected::PublicKey;
        load_key(&self.provider, &self.uri, public_only).map(Some)
    }
}

/// The key that `uri` names.
pub(super) fn load_key(provider: &Arc<Provider>, uri: &KeyUri, public_only: bool) -> Result<KeyData, Error> {
    let remote = RemoteKey::load(provider.keyd()?, uri.name.clone())?;
    provider.note(&format!("loaded {}", uri.name));
    KeyData::from_remote(provider.clone(), Arc::new(remote), public_only)
}

/// Gives `key` to libcrypto's `callback`.
///
/// # Safety
/// `callback` and `argument` came together.
pub(super) unsafe fn present(key: KeyData, callback: Callback, argument: *mut c_void) -> c_int {
    let kind = key.kind.name().to_str().unwrap_or_default();
    reference_to(key, |slot| {
        let reference = std::ptr::from_mut(slot).cast();
        let params = Builder::default()
            .int(c"type", OBJECT_PKEY)
            .text(c"data-type", kind)
            .borrowed_octets(c"reference", reference, size_of::<*mut c_void>())
            .finish();
        // SAFETY: the array is complete, and slot and values live until the call is over.
        unsafe { callback(params.as_ptr(), argument) }
    })
}

unsafe extern "C" fn open(context: *mut c_void, uri: *const c_char) -> *mut c_void {
    let open = |provider| {
        if uri.is_null() {
            return Err(Error::BadUri("it is missing"));
        }
        // SAFETY: libcrypto passes a C string.
        let uri = unsafe { CStr::from_ptr(uri) };
        let uri = KeyUri::parse(uri.to_str().map_err(|_| Error::BadUri("it is not UTF-8"))?)?;
        Ok(Opened { provider, uri, expected: Expected::Anything, done: false })
    };
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, open) })
}

unsafe extern "C" fn settable_ctx_params(_context: *mut c_void) -> *const Param {
    static TABLE: [Param; 3] = [entry(c"expect", INTEGER), entry(c"properties", UTF8_STRING), END];
    TABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params(opened: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    let set = |opened: &mut Opened| {
        if let Some(expected) = find(params, c"expect").and_then(Param::integer) {
            opened.expected = match expected {
                0 | INFO_PKEY => Expected::Anything,
                INFO_PUBKEY => Expected::PublicKey,
                _ => Expected::Other,
            };
        }
        Ok(())
    };
    // SAFETY: libcrypto passes what `open` gave it.
    status(unsafe { with_mut(opened, set) })
}

unsafe extern "C" fn load(
    opened: *mut c_void,
    callback: Option<Callback>,
    argument: *mut c_void,
    _ask: *mut c_void,
    _ask_argument: *mut c_void,
) -> c_int {
    let load = |opened: &mut Opened| {
        opened.done = true;
        opened.key()
    };
    // SAFETY: libcrypto passes what `open` gave it.
    match (unsafe { with_mut(opened, load) }, callback) {
        // SAFETY: they came together.
        (Some(Some(key)), Some(callback)) => unsafe { present(key, callback, argument) },
        _ => 0,
    }
}

unsafe extern "C" fn eof(opened: *mut c_void) -> c_int {
    // SAFETY: libcrypto passes what `open` gave it.
    let done = unsafe { with_ref(opened, |opened: &Opened| Ok(opened.done)) };
    c_int::from(done != Some(false))
}

unsafe extern "C" fn close(opened: *mut c_void) -> c_int {
    // SAFETY: libcrypto gives back what `open` gave it, once.
    unsafe { release::<Opened>(opened) };
    1
}

/// Exports the key behind a reference, for a key management of another provider.
///
/// # Safety
/// `reference` has `size` bytes and was made by this provider; `callback` and `argument` came together.
pub(super) unsafe extern "C" fn export_object(
    _ctx: *mut c_void,
    reference: *const c_void,
    size: usize,
    callback: Option<Callback>,
    argument: *mut c_void,
) -> c_int {
    if reference.is_null() || size != size_of::<*mut c_void>() {
        return 0;
    }
    // SAFETY: the reference leads to a slot with a pointer.
    let key = unsafe { reference.cast::<*const c_void>().read() };
    let export = |key: &KeyData| {
        // A key whose private part cannot go along is not to arrive as a public one.
        let local = key.exportable(sys::SELECT_ALL)?.as_ptr();
        // SAFETY: the key lives, and the callback came with its argument.
        match unsafe { sys::EVP_PKEY_export(local, sys::SELECT_ALL, callback, argument) } {
            1 => Ok(()),
            _ => Err(Error::OpenSsl("export the key")),
        }
    };
    // SAFETY: the slot holds a key of this provider.
    status(unsafe { with_ref(key, export) })
}

/// `OSSL_STORE_INFO_PUBKEY`.
const INFO_PUBKEY: i64 = 3;
/// `OSSL_STORE_INFO_PKEY`.
const INFO_PKEY: i64 = 4;
