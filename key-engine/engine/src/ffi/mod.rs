//! The border to OpenSSL: entry points, the ENGINE, its errors. Methods of keys are in `key`.

#![allow(unsafe_code, reason = "this is the border to OpenSSL; see the module's documentation")]

mod key;
mod sys;

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_ulong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::OnceLock;

use key_engine::{Error, Overrides, REASONS};

use crate::keys;
use sys::{
    COMMAND_BASE, COMMAND_TEXT, Command, DynamicFunctions, ENGINE, ErrorString, NID_EC, NID_RSA, PkeyMethod,
};

/// Whether this engine fits an OpenSSL whose dynamic engine has version `version`.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn v_check(version: c_ulong) -> c_ulong {
    if version >= DYNAMIC_VERSION { DYNAMIC_VERSION } else { 0 }
}

/// Makes `engine` this engine.
///
/// # Safety
/// Called by OpenSSL's dynamic engine, with what it passes.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn bind_engine(
    engine: *mut c_void,
    id: *const c_char,
    functions: *const c_void,
) -> c_int {
    // SAFETY: the OpenSSL that loads an engine has been initialised.
    unsafe { openssl_sys::assume_init() };
    // SAFETY: null or what OpenSSL passes.
    let functions = unsafe { functions.cast::<DynamicFunctions>().as_ref() };
    if engine.is_null() || functions.is_none_or(|functions| !share_memory(functions)) {
        return 0;
    }
    let id = match id.is_null() {
        true => OLD_ID,
        // SAFETY: not null, so it is a C string.
        false => unsafe { CStr::from_ptr(id) },
    };
    let bind = || {
        let (own, other) = if id == ID { (ID, OLD_ID) } else { (OLD_ID, ID) };
        set_up(engine.cast(), own)?;
        add_alias(other)
    };
    match guarded(bind) {
        Some(()) => 1,
        None => 0,
    }
}

/// If this library has an OpenSSL of its own, that one is to allocate as the caller's does.
fn share_memory(functions: &DynamicFunctions) -> bool {
    // SAFETY: no precondition.
    let own = unsafe { sys::ENGINE_get_static_state() };
    if own == functions.static_state {
        return true;
    }
    // SAFETY: the functions are the caller's allocator.
    unsafe { sys::CRYPTO_set_mem_functions(functions.malloc, functions.realloc, functions.free) };
    // SAFETY: no precondition.
    unsafe { sys::OPENSSL_init_crypto(NO_ATEXIT, ptr::null()) };
    true
}

fn set_up(engine: *mut ENGINE, id: &'static CStr) -> Result<(), Error> {
    // SAFETY: the engine is new and ours to fill in; texts and tables are static. So for all below.
    done(unsafe { sys::ENGINE_set_id(engine, id.as_ptr()) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_name(engine, NAME.as_ptr()) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_init_function(engine, init) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_finish_function(engine, finish) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_ctrl_function(engine, control) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_cmd_defns(engine, COMMANDS.as_ptr()) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_load_privkey_function(engine, key::load_private) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_load_pubkey_function(engine, key::load_public) })?;
    // SAFETY: as above.
    done(unsafe { sys::ENGINE_set_pkey_meths(engine, pkey_methods) })
}

/// Lets the engine be found by `id` too, as programs do that know how upstream's behaves.
fn add_alias(id: &'static CStr) -> Result<(), Error> {
    // SAFETY: no precondition.
    let alias = unsafe { sys::ENGINE_new() };
    if alias.is_null() {
        return Err(FAILED);
    }
    let ready = set_up(alias, id);
    if ready.is_ok() {
        // SAFETY: the engine is complete. It is no failure if one with this id is there already.
        unsafe { sys::ENGINE_add(alias) };
    }
    // SAFETY: this reference is given back; the list of engines holds its own.
    unsafe { sys::ENGINE_free(alias) };
    ready
}

/// Opens nothing, so that it works while keyd is down, and as often as wanted.
unsafe extern "C" fn init(_engine: *mut ENGINE) -> c_int {
    c_int::from(guarded(|| keys::keyd().map(drop)).is_some())
}

unsafe extern "C" fn finish(_engine: *mut ENGINE) -> c_int {
    1
}

unsafe extern "C" fn control(
    _engine: *mut ENGINE,
    command: c_int,
    _number: c_long,
    text: *mut c_void,
    _function: Option<unsafe extern "C" fn()>,
) -> c_int {
    let configure = || {
        if text.is_null() {
            return Err(Error::Refused("the control command needs a value"));
        }
        // SAFETY: commands with this flag come with a C string.
        let text = unsafe { CStr::from_ptr(text.cast()) };
        let text =
            text.to_str().map_err(|_| Error::Refused("the value of the control command is not UTF-8"))?;
        let (socket, timeout) = match u32::try_from(command) {
            Ok(SOCKET) => (Some(text.to_owned()), None),
            Ok(TIMEOUT) => (None, Some(text.to_owned())),
            _ => return Err(Error::Refused("the engine knows the control commands SOCKET and TIMEOUT")),
        };
        keys::configure(Overrides { socket, timeout, debug: None })
    };
    c_int::from(guarded(configure).is_some())
}

/// OpenSSL's own methods: what is ours is below them, in the keys.
unsafe extern "C" fn pkey_methods(
    _engine: *mut ENGINE,
    method: *mut *mut PkeyMethod,
    nids: *mut *const c_int,
    nid: c_int,
) -> c_int {
    static NIDS: [c_int; 2] = [NID_EC, NID_RSA];
    if method.is_null() {
        if nids.is_null() {
            return 0;
        }
        // SAFETY: not null, and the caller's to be filled in.
        unsafe { nids.write(NIDS.as_ptr()) };
        return 2;
    }
    let found = match NIDS.contains(&nid) {
        // SAFETY: no precondition.
        true => unsafe { sys::EVP_PKEY_meth_find(nid) }.cast_mut(),
        false => ptr::null_mut(),
    };
    // SAFETY: not null, and the caller's to be filled in.
    unsafe { method.write(found) };
    if found.is_null() {
        raise(&Error::Refused("the engine has methods for EC and RSA keys only"));
    }
    c_int::from(!found.is_null())
}

/// Calls `function`; on failure the reason is on the error stack, and there is no result.
fn guarded<R>(function: impl FnOnce() -> Result<R, Error>) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(function)) {
        Ok(Ok(result)) => Some(result),
        Ok(Err(error)) => {
            raise(&error);
            None
        }
        Err(_) => {
            raise(&Error::Refused("a bug in the engine aziot_keys was stopped; please report it"));
            None
        }
    }
}

/// Puts `error` with its causes on the error stack of the thread.
fn raise(error: &Error) {
    let text = CString::new(error.stack_text()).unwrap_or_default();
    let reason = c_int::try_from(error.reason()).unwrap_or_default();
    let library = error_library();
    // SAFETY: no precondition.
    unsafe { sys::ERR_new() };
    // SAFETY: the texts are static.
    unsafe { sys::ERR_set_debug(c"key-engine".as_ptr(), 0, c"aziot_keys".as_ptr()) };
    // SAFETY: the format takes one C string, which is there.
    unsafe { sys::ERR_set_error(library, reason, c"%s".as_ptr(), text.as_ptr()) };
}

/// The number of this library on the error stack, with its texts.
fn error_library() -> c_int {
    static NUMBER: OnceLock<c_int> = OnceLock::new();
    *NUMBER.get_or_init(|| {
        // SAFETY: no precondition.
        let number = unsafe { sys::ERR_get_next_error_library() };
        let mut strings = vec![ErrorString { code: 0, text: c"aziot_key_openssl_engine".as_ptr() }];
        strings
            .extend(REASONS.iter().map(|(id, text)| ErrorString { code: (*id).into(), text: text.as_ptr() }));
        strings.push(ErrorString { code: 0, text: ptr::null() });
        // OpenSSL keeps pointers into the table for the life of the process.
        let strings = Box::leak(strings.into_boxed_slice());
        // The first entry, with the code 0, names the library.
        strings[0].code = c_ulong::try_from(number).unwrap_or_default() << LIBRARY_SHIFT;
        // SAFETY: the table ends with a null text and stays.
        unsafe { sys::ERR_load_strings(number, strings.as_mut_ptr()) };
        number
    })
}

/// What OpenSSL answers as a result.
fn done(status: c_int) -> Result<(), Error> {
    if status == 1 { Ok(()) } else { Err(FAILED) }
}

const FAILED: Error = Error::OpenSsl("set up the engine or the key");
/// The id under which the engine is installed.
const ID: &CStr = c"aziot_keys";
/// What upstream's engine calls itself.
const OLD_ID: &CStr = c"aziot-key-openssl-engine";
const NAME: &CStr = c"An openssl engine that talks to the Azure IoT Keys Service";
const SOCKET: u32 = COMMAND_BASE;
const TIMEOUT: u32 = COMMAND_BASE + 1;
/// `OSSL_DYNAMIC_OLDEST`.
const DYNAMIC_VERSION: c_ulong = 0x0003_0000;
/// `OPENSSL_INIT_NO_ATEXIT`.
const NO_ATEXIT: u64 = 0x0008_0000;
/// Where the library is in an error code (`ERR_LIB_OFFSET`).
const LIBRARY_SHIFT: u32 = 23;

static COMMANDS: [Command; 3] = [
    Command {
        number: SOCKET,
        name: c"SOCKET".as_ptr(),
        description: c"keyd's socket, unix:///run/aziot/keyd.sock by default".as_ptr(),
        flags: COMMAND_TEXT,
    },
    Command {
        number: TIMEOUT,
        name: c"TIMEOUT".as_ptr(),
        description: c"seconds that an operation with a key may take, 30 by default".as_ptr(),
        flags: COMMAND_TEXT,
    },
    Command { number: 0, name: ptr::null(), description: ptr::null(), flags: 0 },
];
