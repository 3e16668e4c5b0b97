//! What OpenSSL's headers engine.h, ec.h and rsa.h declare and `openssl-sys` lacks. All of it is deprecated; that is why
//! there is a provider.

use std::ffi::{c_char, c_int, c_long, c_uchar, c_uint, c_ulong, c_void};

pub(super) use openssl_sys::{BIGNUM, EC_KEY, ECDSA_SIG, ENGINE, EVP_PKEY, RSA};

pub(super) enum EcKeyMethod {}
pub(super) enum RsaMethod {}
pub(super) enum PkeyMethod {}

/// `dynamic_fns` of engine.h.
#[repr(C)]
pub(super) struct DynamicFunctions {
    pub(super) static_state: *mut c_void,
    pub(super) malloc: *const c_void,
    pub(super) realloc: *const c_void,
    pub(super) free: *const c_void,
}

/// `ENGINE_CMD_DEFN`.
#[repr(C)]
pub(super) struct Command {
    pub(super) number: c_uint,
    pub(super) name: *const c_char,
    pub(super) description: *const c_char,
    pub(super) flags: c_uint,
}

// SAFETY: the pointers in a static table lead to static texts.
unsafe impl Sync for Command {}

pub(super) type LoadKey =
    unsafe extern "C" fn(*mut ENGINE, *const c_char, *mut c_void, *mut c_void) -> *mut EVP_PKEY;
pub(super) type EngineFunction = unsafe extern "C" fn(*mut ENGINE) -> c_int;
pub(super) type PkeyMethods =
    unsafe extern "C" fn(*mut ENGINE, *mut *mut PkeyMethod, *mut *const c_int, c_int) -> c_int;
pub(super) type Control =
    unsafe extern "C" fn(*mut ENGINE, c_int, c_long, *mut c_void, Option<unsafe extern "C" fn()>) -> c_int;
pub(super) type SignDer = unsafe extern "C" fn(
    c_int,
    *const c_uchar,
    c_int,
    *mut c_uchar,
    *mut c_uint,
    *const BIGNUM,
    *const BIGNUM,
    *mut EC_KEY,
) -> c_int;
pub(super) type SignSetup =
    unsafe extern "C" fn(*mut EC_KEY, *mut c_void, *mut *mut BIGNUM, *mut *mut BIGNUM) -> c_int;
pub(super) type Sign =
    unsafe extern "C" fn(*const c_uchar, c_int, *const BIGNUM, *const BIGNUM, *mut EC_KEY) -> *mut ECDSA_SIG;
pub(super) type RsaPrivate =
    unsafe extern "C" fn(c_int, *const c_uchar, *mut c_uchar, *mut RSA, c_int) -> c_int;
pub(super) type ExDup =
    unsafe extern "C" fn(*mut c_void, *const c_void, *mut *mut c_void, c_int, c_long, *mut c_void) -> c_int;
pub(super) type ExFree =
    unsafe extern "C" fn(*mut c_void, *mut c_void, *mut c_void, c_int, c_long, *mut c_void);

/// `CRYPTO_EX_INDEX_EC_KEY`.
pub(super) const INDEX_EC_KEY: c_int = 8;
/// `CRYPTO_EX_INDEX_RSA`.
pub(super) const INDEX_RSA: c_int = 9;
/// `ENGINE_CMD_BASE`.
pub(super) const COMMAND_BASE: c_uint = 200;
/// `ENGINE_CMD_FLAG_STRING`.
pub(super) const COMMAND_TEXT: c_uint = 2;
pub(super) const NID_EC: c_int = 408;
pub(super) const NID_RSA: c_int = 6;

unsafe extern "C" {
    pub(super) fn ENGINE_new() -> *mut ENGINE;
    pub(super) fn ENGINE_free(engine: *mut ENGINE) -> c_int;
    pub(super) fn ENGINE_add(engine: *mut ENGINE) -> c_int;
    pub(super) fn ENGINE_get_static_state() -> *mut c_void;
    pub(super) fn ENGINE_set_id(engine: *mut ENGINE, id: *const c_char) -> c_int;
    pub(super) fn ENGINE_set_name(engine: *mut ENGINE, name: *const c_char) -> c_int;
    pub(super) fn ENGINE_set_init_function(engine: *mut ENGINE, function: EngineFunction) -> c_int;
    pub(super) fn ENGINE_set_finish_function(engine: *mut ENGINE, function: EngineFunction) -> c_int;
    pub(super) fn ENGINE_set_ctrl_function(engine: *mut ENGINE, function: Control) -> c_int;
    pub(super) fn ENGINE_set_cmd_defns(engine: *mut ENGINE, commands: *const Command) -> c_int;
    pub(super) fn ENGINE_set_load_privkey_function(engine: *mut ENGINE, function: LoadKey) -> c_int;
    pub(super) fn ENGINE_set_load_pubkey_function(engine: *mut ENGINE, function: LoadKey) -> c_int;
    pub(super) fn ENGINE_set_pkey_meths(engine: *mut ENGINE, function: PkeyMethods) -> c_int;
    pub(super) fn EVP_PKEY_set1_engine(key: *mut EVP_PKEY, engine: *mut ENGINE) -> c_int;
    pub(super) fn EVP_PKEY_meth_find(kind: c_int) -> *const PkeyMethod;
    pub(super) fn CRYPTO_set_mem_functions(
        malloc: *const c_void,
        realloc: *const c_void,
        free: *const c_void,
    ) -> c_int;
    pub(super) fn OPENSSL_init_crypto(options: u64, settings: *const c_void) -> c_int;

    pub(super) fn CRYPTO_get_ex_new_index(
        class: c_int,
        number: c_long,
        argument: *mut c_void,
        new: *const c_void,
        dup: Option<ExDup>,
        free: Option<ExFree>,
    ) -> c_int;

    pub(super) fn EC_KEY_OpenSSL() -> *const EcKeyMethod;
    pub(super) fn EC_KEY_METHOD_new(method: *const EcKeyMethod) -> *mut EcKeyMethod;
    pub(super) fn EC_KEY_METHOD_get_sign(
        method: *const EcKeyMethod,
        sign: *mut Option<SignDer>,
        setup: *mut Option<SignSetup>,
        sign_sig: *mut Option<Sign>,
    );
    pub(super) fn EC_KEY_METHOD_set_sign(
        method: *mut EcKeyMethod,
        sign: Option<SignDer>,
        setup: Option<SignSetup>,
        sign_sig: Option<Sign>,
    );
    pub(super) fn EC_KEY_set_method(key: *mut EC_KEY, method: *const EcKeyMethod) -> c_int;
    pub(super) fn EC_KEY_set_ex_data(key: *mut EC_KEY, index: c_int, data: *mut c_void) -> c_int;
    pub(super) fn EC_KEY_get_ex_data(key: *const EC_KEY, index: c_int) -> *mut c_void;
    pub(super) fn d2i_ECDSA_SIG(
        signature: *mut *mut ECDSA_SIG,
        der: *mut *const c_uchar,
        length: c_long,
    ) -> *mut ECDSA_SIG;

    pub(super) fn RSA_PKCS1_OpenSSL() -> *const RsaMethod;
    pub(super) fn RSA_meth_dup(method: *const RsaMethod) -> *mut RsaMethod;
    pub(super) fn RSA_meth_set_flags(method: *mut RsaMethod, flags: c_int) -> c_int;
    pub(super) fn RSA_meth_set_priv_enc(method: *mut RsaMethod, function: RsaPrivate) -> c_int;
    pub(super) fn RSA_meth_set_priv_dec(method: *mut RsaMethod, function: RsaPrivate) -> c_int;
    pub(super) fn RSA_set_method(key: *mut RSA, method: *const RsaMethod) -> c_int;
    pub(super) fn RSA_set_ex_data(key: *mut RSA, index: c_int, data: *mut c_void) -> c_int;
    pub(super) fn RSA_get_ex_data(key: *const RSA, index: c_int) -> *mut c_void;

    pub(super) fn ERR_get_next_error_library() -> c_int;
    pub(super) fn ERR_new();
    pub(super) fn ERR_set_debug(file: *const c_char, line: c_int, function: *const c_char);
    pub(super) fn ERR_set_error(library: c_int, reason: c_int, format: *const c_char, ...);
    pub(super) fn ERR_load_strings(library: c_int, strings: *mut ErrorString) -> c_int;
}

/// `ERR_STRING_DATA`.
#[repr(C)]
pub(super) struct ErrorString {
    pub(super) code: c_ulong,
    pub(super) text: *const c_char,
}
