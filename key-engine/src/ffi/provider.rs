//! The provider itself: how libcrypto starts it, what it offers, how its functions fail.

use std::ffi::{CStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStringExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use http_common::chain;

use super::capabilities::get_capabilities;
use super::core::Core;
use super::evp::{LibCtx, OsslProvider};
use super::note::note;
use super::params::{self, END, entry};
use super::sys::{
    Algorithm, CoreHandle, Dispatch, Item, OP_ASYM_CIPHER, OP_DECODER, OP_ENCODER, OP_KEYMGMT, OP_SIGNATURE,
    OP_STORE, Param, UNSIGNED_INTEGER, UTF8_PTR,
};
use super::{asym_cipher, decoder, encoder, keymgmt, signature, store};
use crate::Error;
use crate::error::REASONS;
use crate::remote::Keyd;
use crate::settings::{Overrides, Settings};

/// One loaded provider. Keys hold it, so it lives as long as the last of them.
#[derive(Debug)]
pub(super) struct Provider {
    core: Core,
    /// OpenSSL's own provider in `lib`, which must go first.
    pub(super) default: OsslProvider,
    /// The private library context.
    pub(super) lib: LibCtx,
    /// Or why the settings cannot be used: that is told when a key is wanted, for then somebody listens.
    keyd: Result<Arc<Keyd>, String>,
    debug: Option<std::path::PathBuf>,
    /// Whether it was registered by this library in this process.
    pub(super) is_builtin: bool,
}

/// `OSSL_provider_init` of `aziot.so`: settings from the section of openssl.cnf, then from the environment.
///
/// # Safety
/// Arguments as provider-base(7) says.
pub unsafe extern "C" fn provider_init(
    handle: *const CoreHandle,
    functions: *const Dispatch,
    out: *mut *const Dispatch,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: libcrypto that loads a module has been initialised.
    unsafe { openssl_sys::assume_init() };
    // SAFETY: passed on as they came.
    unsafe { init(handle, functions, out, context, None) }
}

/// The same for the provider that is registered in process, with the settings left in [`hand_over`].
pub(super) unsafe extern "C" fn builtin_init(
    handle: *const CoreHandle,
    functions: *const Dispatch,
    out: *mut *const Dispatch,
    context: *mut *mut c_void,
) -> c_int {
    let settings = PENDING.lock().unwrap_or_else(PoisonError::into_inner).take();
    // SAFETY: passed on as they came.
    unsafe { init(handle, functions, out, context, Some(settings.unwrap_or_default())) }
}

/// Leaves `settings` for the next [`builtin_init`].
pub(super) fn hand_over(settings: Settings) {
    *PENDING.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings);
}

static PENDING: Mutex<Option<Settings>> = Mutex::new(None);

unsafe fn init(
    handle: *const CoreHandle,
    functions: *const Dispatch,
    out: *mut *const Dispatch,
    context: *mut *mut c_void,
    builtin: Option<Settings>,
) -> c_int {
    if handle.is_null() || out.is_null() || context.is_null() {
        return 0;
    }
    let start = || {
        // SAFETY: what libcrypto passes to this function.
        let core = unsafe { Core::new(handle, functions) };
        Provider::start(core, builtin)
    };
    let Ok(Some(provider)) = catch_unwind(AssertUnwindSafe(start)) else { return 0 };
    // SAFETY: not null, and libcrypto's to be filled in.
    unsafe { out.write(FUNCTIONS.as_ptr()) };
    // SAFETY: as above.
    unsafe { context.write(Arc::into_raw(provider).cast_mut().cast()) };
    1
}

impl Provider {
    fn start(core: Core, builtin: Option<Settings>) -> Option<Arc<Self>> {
        let is_builtin = builtin.is_some();
        let settings = match builtin {
            Some(settings) => Ok(settings),
            None => configured(&core),
        };
        let debug = settings.as_ref().ok().and_then(|settings| settings.debug.clone());
        let keyd = settings.map(|Settings { socket, limit, debug: _ }| Arc::new(Keyd::new(socket, limit)));
        let keyd = keyd.map_err(|error| chain(&error));
        let start = || {
            let lib = LibCtx::new()?;
            Ok((OsslProvider::load(&lib, c"default")?, lib))
        };
        match start() {
            Ok((default, lib)) => Some(Arc::new(Self { core, default, lib, keyd, debug, is_builtin })),
            Err(error) => {
                raise(&core, &error);
                None
            }
        }
    }

    /// The keyd of the settings.
    pub(super) fn keyd(&self) -> Result<Arc<Keyd>, Error> {
        self.keyd.clone().map_err(Error::Settings)
    }

    /// Puts `error` with its causes on the error stack.
    pub(super) fn raise(&self, error: &Error) {
        if !matches!(error, Error::Stays) {
            self.note(&chain(error));
        }
        raise(&self.core, error);
    }

    /// The core's functions.
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// Writes a line where the setting `debug` says.
    pub(super) fn note(&self, text: &str) {
        if let Some(target) = &self.debug {
            note(target, text);
        }
    }
}

fn raise(core: &Core, error: &Error) {
    core.raise(error.reason(), &error.stack_text());
}

/// The settings of a module: defaults, configuration, environment.
fn configured(core: &Core) -> Result<Settings, Error> {
    let [socket, timeout, debug] = core.configuration([c"socket", c"timeout", c"debug"]);
    Settings::default().with(Overrides {
        socket: environment(c"AZIOT_KEYD_SOCKET").or(socket),
        timeout,
        debug: environment(c"AZIOT_PROVIDER_DEBUG").or(debug),
    })
}

/// The environment variable `name`, unless this is a set-uid program.
pub fn environment(name: &CStr) -> Option<String> {
    // SAFETY: the name ends; whoever changes the environment meanwhile breaks every C program.
    let value = unsafe { super::sys::secure_getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: it is a C string.
    let value = unsafe { CStr::from_ptr(value) };
    OsString::from_vec(value.to_bytes().to_vec()).into_string().ok().filter(|value| !value.is_empty())
}

static FUNCTIONS: [Dispatch; 7] = [
    Dispatch { id: 1024, function: teardown as *const () },
    Dispatch { id: 1025, function: gettable_params as *const () },
    Dispatch { id: 1026, function: get_params as *const () },
    Dispatch { id: 1027, function: query_operation as *const () },
    Dispatch { id: 1029, function: reason_strings as *const () },
    Dispatch { id: 1030, function: get_capabilities as *const () },
    END_OF_TABLE,
];

/// The end of a table of functions.
pub(super) const END_OF_TABLE: Dispatch = Dispatch { id: 0, function: ptr::null() };

unsafe extern "C" fn teardown(context: *mut c_void) {
    if !context.is_null() {
        // SAFETY: libcrypto gives back what `init` gave out, once.
        let provider = unsafe { Arc::from_raw(context.cast::<Provider>().cast_const()) };
        let _ = catch_unwind(AssertUnwindSafe(|| drop(provider)));
    }
}

unsafe extern "C" fn gettable_params(_context: *mut c_void) -> *const Param {
    static TABLE: [Param; 5] = [
        entry(c"name", UTF8_PTR),
        entry(c"version", UTF8_PTR),
        entry(c"buildinfo", UTF8_PTR),
        entry(c"status", UNSIGNED_INTEGER),
        END,
    ];
    TABLE.as_ptr()
}

unsafe extern "C" fn get_params(_context: *mut c_void, params: *mut Param) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let count = unsafe { params::slice(params) }.len();
    for index in 0..count {
        // SAFETY: so many entries are there.
        let param = unsafe { params.add(index) };
        // SAFETY: the entry is libcrypto's to be filled in, and nobody else looks at it now.
        let param = unsafe { &mut *param };
        match param.name().to_bytes() {
            b"name" => param.set_text_pointer(NAME),
            b"version" => param.set_text_pointer(VERSION),
            b"buildinfo" => param.set_text_pointer(BUILD),
            b"status" => param.set_int(1),
            _ => (),
        }
    }
    1
}

unsafe extern "C" fn query_operation(
    _context: *mut c_void,
    operation: c_int,
    no_cache: *mut c_int,
) -> *const Algorithm {
    if !no_cache.is_null() {
        // SAFETY: not null, and libcrypto's to be filled in.
        unsafe { no_cache.write(0) };
    }
    match operation {
        OP_KEYMGMT => keymgmt::ALGORITHMS.as_ptr(),
        OP_SIGNATURE => signature::ALGORITHMS.as_ptr(),
        OP_ASYM_CIPHER => asym_cipher::ALGORITHMS.as_ptr(),
        OP_STORE => store::ALGORITHMS.as_ptr(),
        OP_ENCODER => encoder::ALGORITHMS.as_ptr(),
        OP_DECODER => decoder::ALGORITHMS.as_ptr(),
        _ => ptr::null(),
    }
}

unsafe extern "C" fn reason_strings(_context: *mut c_void) -> *const Item {
    REASON_STRINGS.as_ptr()
}

/// The reason codes as libcrypto reads them, with an end.
static REASON_STRINGS: [Item; REASONS.len() + 1] = {
    let mut items = [const { Item { id: 0, text: ptr::null() } }; REASONS.len() + 1];
    let mut index = 0;
    while index < REASONS.len() {
        items[index] = Item { id: REASONS[index].0, text: REASONS[index].1.as_ptr() };
        index += 1;
    }
    items
};

/// An entry of a table of algorithms.
pub(super) const fn algorithm(
    names: &'static CStr,
    properties: &'static CStr,
    implementation: &'static [Dispatch],
    description: &'static CStr,
) -> Algorithm {
    Algorithm {
        names: names.as_ptr(),
        properties: properties.as_ptr(),
        implementation: implementation.as_ptr(),
        description: description.as_ptr(),
    }
}

/// The end of a table of algorithms.
pub(super) const NO_ALGORITHM: Algorithm = Algorithm {
    names: ptr::null::<c_char>(),
    properties: ptr::null(),
    implementation: ptr::null(),
    description: ptr::null(),
};

/// The properties of all algorithms here.
pub(super) const PROPERTIES: &CStr = c"provider=aziot";

const NAME: &CStr = c"Azure IoT Keys Service provider";
const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};
const BUILD: &CStr = VERSION;
