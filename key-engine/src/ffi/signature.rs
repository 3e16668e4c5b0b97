//! SIGNATURE for ECDSA and RSA (provider-signature(7); spec openssl-engine, 13.4): the functions that libcrypto calls.
//! What they do is in [`Signing`].

use std::ffi::{CStr, c_char, c_int, c_uchar, c_void};
use std::marker::PhantomData;

use super::evp::Use;
use super::keydata::{KeyData, Kind};
use super::keymgmt::{Ec, KeyType, Rsa};
use super::object::{lend, release, status, with_mut, with_provider, with_ref};
use super::params::{END, entry, slice};
use super::provider::{END_OF_TABLE, NO_ALGORITHM, PROPERTIES, algorithm};
use super::signing::Signing;
use super::sys::{Algorithm, Dispatch, OCTET_STRING, Param, UNSIGNED_INTEGER, UTF8_STRING};
use super::{give, input};
use crate::Error;

pub(super) static ALGORITHMS: [Algorithm; 3] = [
    algorithm(c"ECDSA", PROPERTIES, &Functions::<Ec>::TABLE, c"ECDSA by keyd"),
    algorithm(c"RSA:rsaEncryption", PROPERTIES, &Functions::<Rsa>::TABLE, c"RSA signatures by keyd"),
    NO_ALGORITHM,
];

struct Functions<T>(PhantomData<T>);

impl<T: KeyType> Functions<T> {
    const TABLE: [Dispatch; 20] = [
        Dispatch { id: 1, function: newctx::<T> as *const () },
        Dispatch { id: 2, function: sign_init as *const () },
        Dispatch { id: 3, function: sign as *const () },
        Dispatch { id: 4, function: verify_init as *const () },
        Dispatch { id: 5, function: verify as *const () },
        Dispatch { id: 6, function: recover_init as *const () },
        Dispatch { id: 7, function: recover as *const () },
        Dispatch { id: 8, function: digest_sign_init as *const () },
        Dispatch { id: 9, function: digest_update as *const () },
        Dispatch { id: 10, function: digest_sign_final as *const () },
        Dispatch { id: 12, function: digest_verify_init as *const () },
        Dispatch { id: 13, function: digest_update as *const () },
        Dispatch { id: 14, function: digest_verify_final as *const () },
        Dispatch { id: 16, function: freectx as *const () },
        Dispatch { id: 17, function: dupctx as *const () },
        Dispatch { id: 18, function: get_ctx_params as *const () },
        Dispatch { id: 19, function: ctx_params::<T> as *const () },
        Dispatch { id: 20, function: set_ctx_params as *const () },
        Dispatch { id: 21, function: ctx_params::<T> as *const () },
        END_OF_TABLE,
    ];
}

unsafe extern "C" fn newctx<T: KeyType>(context: *mut c_void, _properties: *const c_char) -> *mut c_void {
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, |provider| Ok(Signing::new(provider, T::KIND))) })
}

unsafe extern "C" fn freectx(ctx: *mut c_void) {
    // SAFETY: libcrypto gives back what it was lent, once.
    unsafe { release::<Signing>(ctx) };
}

unsafe extern "C" fn dupctx(ctx: *mut c_void) -> *mut c_void {
    // SAFETY: libcrypto passes what `newctx` gave it.
    lend(unsafe { with_ref(ctx, Signing::try_clone) })
}

unsafe extern "C" fn sign_init(ctx: *mut c_void, key: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { init(ctx, key, params, Use::Sign, None) }
}

unsafe extern "C" fn verify_init(ctx: *mut c_void, key: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { init(ctx, key, params, Use::Verify, None) }
}

unsafe extern "C" fn recover_init(ctx: *mut c_void, key: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { init(ctx, key, params, Use::Recover, None) }
}

unsafe extern "C" fn digest_sign_init(
    ctx: *mut c_void,
    digest: *const c_char,
    key: *mut c_void,
    params: *const Param,
) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { init(ctx, key, params, Use::Sign, Some(digest)) }
}

unsafe extern "C" fn digest_verify_init(
    ctx: *mut c_void,
    digest: *const c_char,
    key: *mut c_void,
    params: *const Param,
) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { init(ctx, key, params, Use::Verify, Some(digest)) }
}

/// `digest` is the argument of the digest functions: a name, or null for the default.
unsafe fn init(
    ctx: *mut c_void,
    key: *mut c_void,
    params: *const Param,
    purpose: Use,
    digest: Option<*const c_char>,
) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    // SAFETY: libcrypto passes a key of this provider, or null to use the key of the last time.
    let key = unsafe { key.cast::<KeyData>().as_ref() };
    let init = |signing: &mut Signing| {
        let digest = match digest {
            None => None,
            Some(name) if name.is_null() => Some(DEFAULT_DIGEST),
            // SAFETY: libcrypto passes a C string.
            Some(name) => Some(unsafe { CStr::from_ptr(name) }),
        };
        signing.init(purpose, key, digest, params)
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_mut(ctx, init) })
}

unsafe extern "C" fn sign(
    ctx: *mut c_void,
    out: *mut c_uchar,
    length: *mut usize,
    room: usize,
    data: *const c_uchar,
    data_length: usize,
) -> c_int {
    // SAFETY: libcrypto passes so many bytes.
    let data = unsafe { input(data, data_length) };
    let sign = |signing: &Signing| {
        // SAFETY: libcrypto passes so much room, and where to put the length.
        unsafe { give(out, length, room, signing.room()?, || signing.sign(data)) }
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_ref(ctx, sign) })
}

unsafe extern "C" fn digest_sign_final(
    ctx: *mut c_void,
    out: *mut c_uchar,
    length: *mut usize,
    room: usize,
) -> c_int {
    let sign = |signing: &mut Signing| {
        let needed = signing.room()?;
        // SAFETY: libcrypto passes so much room, and where to put the length.
        unsafe { give(out, length, room, needed, || signing.sign_digested()) }
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_mut(ctx, sign) })
}

unsafe extern "C" fn recover(
    ctx: *mut c_void,
    out: *mut c_uchar,
    length: *mut usize,
    room: usize,
    signature: *const c_uchar,
    signature_length: usize,
) -> c_int {
    // SAFETY: libcrypto passes so many bytes.
    let signature = unsafe { input(signature, signature_length) };
    let recover = |signing: &Signing| {
        // SAFETY: libcrypto passes so much room, and where to put the length.
        unsafe { give(out, length, room, signing.room()?, || signing.recover(signature)) }
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_ref(ctx, recover) })
}

unsafe extern "C" fn digest_update(ctx: *mut c_void, data: *const c_uchar, length: usize) -> c_int {
    // SAFETY: libcrypto passes so many bytes.
    let data = unsafe { input(data, length) };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_mut(ctx, |signing: &mut Signing| signing.update(data)) })
}

unsafe extern "C" fn verify(
    ctx: *mut c_void,
    signature: *const c_uchar,
    signature_length: usize,
    data: *const c_uchar,
    data_length: usize,
) -> c_int {
    // SAFETY: libcrypto passes so many bytes.
    let (signature, data) =
        (unsafe { input(signature, signature_length) }, unsafe { input(data, data_length) });
    // SAFETY: libcrypto passes what `newctx` gave it.
    let valid = unsafe { with_ref(ctx, |signing: &Signing| signing.verify(signature, data)) };
    c_int::from(valid == Some(true))
}

unsafe extern "C" fn digest_verify_final(
    ctx: *mut c_void,
    signature: *const c_uchar,
    length: usize,
) -> c_int {
    // SAFETY: libcrypto passes so many bytes.
    let signature = unsafe { input(signature, length) };
    let verify = |signing: &mut Signing| signing.verify_digested(signature);
    // SAFETY: libcrypto passes what `newctx` gave it.
    let valid = unsafe { with_mut(ctx, verify) };
    c_int::from(valid == Some(true))
}

unsafe extern "C" fn get_ctx_params(ctx: *mut c_void, params: *mut Param) -> c_int {
    let get = |signing: &Signing| match signing.ctx() {
        // SAFETY: libcrypto passes a complete array with room.
        Ok(pctx) => unsafe { pctx.get_raw(params) },
        Err(error) => Err::<(), Error>(error),
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_ref(ctx, get) })
}

unsafe extern "C" fn set_ctx_params(ctx: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_mut(ctx, |signing: &mut Signing| signing.set(params)) })
}

unsafe extern "C" fn ctx_params<T: KeyType>(_ctx: *mut c_void, _context: *mut c_void) -> *const Param {
    match T::KIND {
        Kind::Ec => EC_PARAMS.as_ptr(),
        Kind::Rsa => RSA_PARAMS.as_ptr(),
    }
}

const DEFAULT_DIGEST: &CStr = c"SHA256";

static EC_PARAMS: [Param; 6] = [
    entry(c"algorithm-id", OCTET_STRING),
    entry(c"digest", UTF8_STRING),
    entry(c"properties", UTF8_STRING),
    entry(c"digest-size", UNSIGNED_INTEGER),
    entry(c"nonce-type", UNSIGNED_INTEGER),
    END,
];
static RSA_PARAMS: [Param; 9] = [
    entry(c"algorithm-id", OCTET_STRING),
    entry(c"digest", UTF8_STRING),
    entry(c"properties", UTF8_STRING),
    entry(c"digest-size", UNSIGNED_INTEGER),
    entry(c"pad-mode", UTF8_STRING),
    entry(c"saltlen", UTF8_STRING),
    entry(c"mgf1-digest", UTF8_STRING),
    entry(c"mgf1-properties", UTF8_STRING),
    END,
];
