//! KEYMGMT for EC and RSA (provider-keymgmt(7); spec openssl-engine, 13.3): how libcrypto makes, compares, exports and
//! frees keys.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;

use super::evp::PkeyCtx;
use super::generation::{
    gen_cleanup, gen_init, gen_set_params, gen_set_template, gen_settable_params, generate,
};
use super::keydata::{KeyData, Kind};
use super::object::{Object, lend, release, status, with_mut, with_provider, with_ref};
use super::params::{END, entry, find, slice};
use super::provider::{END_OF_TABLE, NO_ALGORITHM, PROPERTIES, Provider, algorithm};
use super::sys::{
    self, Algorithm, Callback, Dispatch, INTEGER, OCTET_STRING, OP_SIGNATURE, Param, UNSIGNED_INTEGER,
    UTF8_STRING,
};
use super::{HANDOVER_KEY, taken_over};
use crate::Error;

pub(super) static ALGORITHMS: [Algorithm; 3] = [
    algorithm(
        c"EC:id-ecPublicKey:1.2.840.10045.2.1",
        PROPERTIES,
        &Functions::<Ec>::TABLE,
        c"EC keys in keyd",
    ),
    algorithm(
        c"RSA:rsaEncryption:1.2.840.113549.1.1.1",
        PROPERTIES,
        &Functions::<Rsa>::TABLE,
        c"RSA keys in keyd",
    ),
    NO_ALGORITHM,
];

/// Takes over the key that `reference` leads to; see [`reference_to`].
///
/// # Safety
/// `reference` has `size` bytes and was made by this provider.
unsafe extern "C" fn load(reference: *const c_void, size: usize) -> *mut c_void {
    if reference.is_null() || size != size_of::<*mut c_void>() {
        return ptr::null_mut();
    }
    let slot = reference.cast::<*mut c_void>().cast_mut();
    // SAFETY: the slot holds a pointer, and its owner lets it be taken.
    unsafe { slot.replace(ptr::null_mut()) }
}

/// Calls `function` with a reference to `key`; whoever loads the reference owns the key, otherwise it is freed.
pub(super) fn reference_to<R>(key: KeyData, function: impl FnOnce(&mut *mut c_void) -> R) -> R {
    let mut slot = lend(Some(key));
    let result = function(&mut slot);
    // SAFETY: what is still in the slot has not been taken.
    unsafe { release::<KeyData>(slot) };
    result
}

impl Object for KeyData {
    fn provider(&self) -> &Provider {
        &self.provider
    }
}

/// A type of key as a type, so that each has functions of its own.
pub(super) trait KeyType {
    const KIND: Kind;
    /// What its signatures are called.
    const SIGNATURE: &'static CStr;
}
pub(super) struct Ec;
pub(super) struct Rsa;
impl KeyType for Ec {
    const KIND: Kind = Kind::Ec;
    const SIGNATURE: &'static CStr = c"ECDSA";
}
impl KeyType for Rsa {
    const KIND: Kind = Kind::Rsa;
    const SIGNATURE: &'static CStr = c"RSA";
}

struct Functions<T>(PhantomData<T>);

impl<T: KeyType> Functions<T> {
    const TABLE: [Dispatch; 24] = [
        Dispatch { id: 1, function: new::<T> as *const () },
        Dispatch { id: 2, function: gen_init::<T> as *const () },
        Dispatch { id: 3, function: gen_set_template as *const () },
        Dispatch { id: 4, function: gen_set_params as *const () },
        Dispatch { id: 5, function: gen_settable_params::<T> as *const () },
        Dispatch { id: 6, function: generate as *const () },
        Dispatch { id: 7, function: gen_cleanup as *const () },
        Dispatch { id: 8, function: load as *const () },
        Dispatch { id: 10, function: free as *const () },
        Dispatch { id: 11, function: get_params as *const () },
        Dispatch { id: 12, function: gettable_params::<T> as *const () },
        Dispatch { id: 13, function: set_params as *const () },
        Dispatch { id: 14, function: settable_params::<T> as *const () },
        Dispatch { id: 20, function: operation_name::<T> as *const () },
        Dispatch { id: 21, function: has as *const () },
        Dispatch { id: 22, function: validate as *const () },
        Dispatch { id: 23, function: matches as *const () },
        Dispatch { id: 40, function: import as *const () },
        Dispatch { id: 41, function: types::<T> as *const () },
        Dispatch { id: 42, function: export as *const () },
        Dispatch { id: 43, function: types::<T> as *const () },
        Dispatch { id: 44, function: dup as *const () },
        END_OF_TABLE,
        END_OF_TABLE,
    ];
}

unsafe extern "C" fn new<T: KeyType>(context: *mut c_void) -> *mut c_void {
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, |provider| Ok(KeyData::empty(provider, T::KIND))) })
}

unsafe extern "C" fn free(key: *mut c_void) {
    // SAFETY: libcrypto gives back what it was lent, once.
    unsafe { release::<KeyData>(key) };
}

unsafe extern "C" fn dup(key: *const c_void, selection: c_int) -> *mut c_void {
    // SAFETY: libcrypto passes a key of this provider.
    lend(unsafe { with_ref(key, |key: &KeyData| key.duplicate(selection)) })
}

unsafe extern "C" fn has(key: *const c_void, selection: c_int) -> c_int {
    // SAFETY: libcrypto passes a key of this provider.
    let has = unsafe { with_ref(key, |key: &KeyData| Ok(key.has(selection))) };
    c_int::from(has == Some(true))
}

unsafe extern "C" fn validate(key: *const c_void, selection: c_int, _check: c_int) -> c_int {
    // SAFETY: libcrypto passes a key of this provider.
    let valid = unsafe { with_ref(key, |key: &KeyData| key.is_valid(selection)) };
    c_int::from(valid == Some(true))
}

unsafe extern "C" fn matches(key: *const c_void, other: *const c_void, selection: c_int) -> c_int {
    // SAFETY: libcrypto passes two keys of this provider.
    let Some(other) = (unsafe { other.cast::<KeyData>().as_ref() }) else { return 0 };
    // SAFETY: as above.
    let equal = unsafe { with_ref(key, |key: &KeyData| Ok(key.matches(other, selection))) };
    c_int::from(equal == Some(true))
}

unsafe extern "C" fn import(key: *mut c_void, selection: c_int, params: *const Param) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    let import = |key: &mut KeyData| {
        if key.provider.is_builtin && find(params, HANDOVER_KEY).is_some() {
            let remote = taken_over().ok_or(Error::Refused("no key was handed over"))?;
            *key = KeyData::from_remote(key.provider.clone(), remote, false)?;
            return Ok(());
        }
        key.import(selection, params)
    };
    // SAFETY: libcrypto passes a key of this provider that nobody else knows yet.
    status(unsafe { with_mut(key, import) })
}

unsafe extern "C" fn export(
    key: *mut c_void,
    selection: c_int,
    callback: Option<Callback>,
    argument: *mut c_void,
) -> c_int {
    let export = |key: &KeyData| {
        let local = key.exportable(selection)?.as_ptr();
        // SAFETY: the key lives, and the callback came with its argument.
        match unsafe { sys::EVP_PKEY_export(local, selection, callback, argument) } {
            1 => Ok(()),
            _ => Err(Error::OpenSsl("export the key")),
        }
    };
    // SAFETY: libcrypto passes a key of this provider.
    status(unsafe { with_ref(key, export) })
}

unsafe extern "C" fn get_params(key: *mut c_void, params: *mut Param) -> c_int {
    let get = |key: &KeyData| {
        // SAFETY: the key lives, and libcrypto passes a complete array with room.
        match unsafe { sys::EVP_PKEY_get_params(key.local()?.as_ptr(), params) } {
            1 => Ok(()),
            _ => Err(Error::OpenSsl("read the parameters of the key")),
        }
    };
    // SAFETY: libcrypto passes a key of this provider.
    status(unsafe { with_ref(key, get) })
}

unsafe extern "C" fn set_params(key: *mut c_void, params: *const Param) -> c_int {
    let set = |key: &mut KeyData| {
        // SAFETY: libcrypto passes a complete array.
        let sets_public = find(unsafe { slice(params) }, c"encoded-pub-key").is_some();
        // How a public key is to be written may be set, such as `point-format`.
        if sets_public && key.remote.is_some() {
            return Err(Error::Refused("a key in keyd cannot be changed"));
        }
        // SAFETY: the key lives, and the array, which is complete, is only read.
        let set = unsafe { sys::EVP_PKEY_set_params(key.local()?.as_ptr(), params.cast_mut()) };
        if set == 1 && sets_public {
            key.public_was_set();
        }
        if set == 1 { Ok(()) } else { Err(Error::OpenSsl("set the parameters of the key")) }
    };
    // SAFETY: libcrypto passes a key of this provider that nobody else uses meanwhile.
    status(unsafe { with_mut(key, set) })
}

unsafe extern "C" fn operation_name<T: KeyType>(operation: c_int) -> *const c_char {
    match operation {
        OP_SIGNATURE => T::SIGNATURE.as_ptr(),
        _ => match T::KIND {
            Kind::Rsa => c"RSA".as_ptr(),
            Kind::Ec => c"ECDH".as_ptr(),
        },
    }
}

/// What import understands and export gives: that of OpenSSL's own keys of this type.
unsafe extern "C" fn types<T: KeyType>(selection: c_int) -> *const Param {
    let known = std::panic::catch_unwind(|| {
        let lib = super::evp::LibCtx::new()?;
        Ok::<_, Error>(PkeyCtx::from_name(&lib, T::KIND.name(), None)?.data_types(selection))
    });
    // The array is static, it outlives the context that it was found with.
    known.ok().and_then(Result::ok).unwrap_or(ptr::null())
}

unsafe extern "C" fn gettable_params<T: KeyType>(_context: *mut c_void) -> *const Param {
    match T::KIND {
        Kind::Ec => EC_GETTABLE.as_ptr(),
        Kind::Rsa => RSA_GETTABLE.as_ptr(),
    }
}

unsafe extern "C" fn settable_params<T: KeyType>(_context: *mut c_void) -> *const Param {
    match T::KIND {
        Kind::Ec => EC_SETTABLE.as_ptr(),
        Kind::Rsa => NOTHING.as_ptr(),
    }
}

static NOTHING: [Param; 1] = [END];
static EC_SETTABLE: [Param; 8] = [
    entry(c"use-cofactor-flag", INTEGER),
    entry(c"encoded-pub-key", OCTET_STRING),
    entry(c"encoding", UTF8_STRING),
    entry(c"point-format", UTF8_STRING),
    entry(c"seed", OCTET_STRING),
    entry(c"include-public", INTEGER),
    entry(c"group-check", UTF8_STRING),
    END,
];
static EC_GETTABLE: [Param; 24] = [
    entry(c"bits", INTEGER),
    entry(c"security-bits", INTEGER),
    entry(c"max-size", INTEGER),
    entry(c"default-digest", UTF8_STRING),
    entry(c"group", UTF8_STRING),
    entry(c"decoded-from-explicit", INTEGER),
    entry(c"encoded-pub-key", OCTET_STRING),
    entry(c"pub", OCTET_STRING),
    entry(c"qx", UNSIGNED_INTEGER),
    entry(c"qy", UNSIGNED_INTEGER),
    entry(c"priv", UNSIGNED_INTEGER),
    entry(c"encoding", UTF8_STRING),
    entry(c"point-format", UTF8_STRING),
    entry(c"field-type", UTF8_STRING),
    entry(c"p", UNSIGNED_INTEGER),
    entry(c"a", UNSIGNED_INTEGER),
    entry(c"b", UNSIGNED_INTEGER),
    entry(c"generator", OCTET_STRING),
    entry(c"order", UNSIGNED_INTEGER),
    entry(c"cofactor", UNSIGNED_INTEGER),
    entry(c"seed", OCTET_STRING),
    entry(c"use-cofactor-flag", INTEGER),
    entry(c"include-public", INTEGER),
    END,
];
static RSA_GETTABLE: [Param; 13] = [
    entry(c"bits", INTEGER),
    entry(c"security-bits", INTEGER),
    entry(c"max-size", INTEGER),
    entry(c"default-digest", UTF8_STRING),
    entry(c"n", UNSIGNED_INTEGER),
    entry(c"e", UNSIGNED_INTEGER),
    entry(c"d", UNSIGNED_INTEGER),
    entry(c"rsa-factor1", UNSIGNED_INTEGER),
    entry(c"rsa-factor2", UNSIGNED_INTEGER),
    entry(c"rsa-exponent1", UNSIGNED_INTEGER),
    entry(c"rsa-exponent2", UNSIGNED_INTEGER),
    entry(c"rsa-coefficient1", UNSIGNED_INTEGER),
    END,
];
