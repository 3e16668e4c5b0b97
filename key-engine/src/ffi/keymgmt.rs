//! KEYMGMT for EC and RSA (provider-keymgmt(7); spec openssl-engine, 13.3): how libcrypto makes, compares, exports and
//! frees keys.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use super::evp::{PkeyCtx, Use};
use super::keydata::{KeyData, Kind, without_properties};
use super::params::{END, entry, find, slice};
use super::provider::{
    END_OF_TABLE, NO_ALGORITHM, Object, PROPERTIES, Provider, algorithm, lend, release, status, with_mut,
    with_provider, with_ref,
};
use super::sys::{
    self, Algorithm, Callback, Dispatch, INTEGER, OCTET_STRING, OP_SIGNATURE, Param, SELECT_DOMAIN,
    SELECT_KEYPAIR, UNSIGNED_INTEGER, UTF8_STRING,
};
use super::{HANDOVER_KEY, taken_over};
use crate::remote::RemoteKey;
use crate::{Error, KeyName};

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
        if key.remote.is_some() {
            return Err(Error::Refused("a key in keyd cannot be changed"));
        }
        // SAFETY: the key lives, and the array, which is complete, is only read.
        let set = unsafe { sys::EVP_PKEY_set_params(key.local()?.as_ptr(), params.cast_mut()) };
        // SAFETY: libcrypto passes a complete array.
        let params = unsafe { slice(params) };
        if set == 1 && find(params, c"encoded-pub-key").is_some() {
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

/// A key to be generated.
struct Generation {
    provider: Arc<Provider>,
    kind: Kind,
    selection: c_int,
    ctx: PkeyCtx,
    /// Where in keyd it is to be; an ordinary key if absent.
    id: Option<String>,
    bits: Option<i64>,
}

impl Object for Generation {
    fn provider(&self) -> &Provider {
        &self.provider
    }
}

impl Generation {
    fn new(provider: Arc<Provider>, kind: Kind, selection: c_int, params: &[Param]) -> Result<Self, Error> {
        let ctx = PkeyCtx::from_name(&provider.lib, kind.name(), None)?;
        ctx.init(Self::purpose(selection))?;
        let mut generation = Self { provider, kind, selection, ctx, id: None, bits: None };
        generation.set(params)?;
        Ok(generation)
    }

    fn purpose(selection: c_int) -> Use {
        if selection & SELECT_KEYPAIR == 0 { Use::GenerateDomain } else { Use::GenerateKey }
    }

    fn set(&mut self, params: &[Param]) -> Result<(), Error> {
        if let Some(id) = find(params, ID_KEY) {
            let id =
                id.text().filter(|id| !id.is_empty()).ok_or(Error::Refused("aziot-key-id is no text"))?;
            self.id = Some(id.to_owned());
        }
        if let Some(bits) = find(params, c"bits") {
            self.bits = bits.integer();
        }
        let rest = params.iter().filter(|param| param.name() != ID_KEY).copied().collect::<Vec<_>>();
        if rest.is_empty() { Ok(()) } else { self.ctx.set(&without_properties(&rest)) }
    }

    fn generate(&self) -> Result<KeyData, Error> {
        match &self.id {
            Some(id) => self.generate_in_keyd(id),
            None => {
                let parts = SELECT_DOMAIN | self.selection & SELECT_KEYPAIR;
                Ok(KeyData::generated(self.provider.clone(), self.kind, self.ctx.generate()?, parts))
            }
        }
    }

    fn generate_in_keyd(&self, id: &str) -> Result<KeyData, Error> {
        let algorithm = match (self.kind, self.bits) {
            (Kind::Ec, _) => "ec-p256",
            (Kind::Rsa, None | Some(2048)) => "rsa-2048",
            (Kind::Rsa, Some(4096)) => "rsa-4096",
            (Kind::Rsa, Some(_)) => return Err(Error::Refused("RSA keys in keyd have 2048 or 4096 bits")),
        };
        self.provider.keyd.create(id, algorithm)?;
        let remote = RemoteKey::load(self.provider.keyd.clone(), KeyName::Id(id.to_owned()))?;
        match Kind::of(remote.public()) == self.kind {
            true => KeyData::from_remote(self.provider.clone(), Arc::new(remote), false),
            false => Err(Error::Refused("keyd has a key of another type under this id")),
        }
    }
}

unsafe extern "C" fn gen_init<T: KeyType>(
    context: *mut c_void,
    selection: c_int,
    params: *const Param,
) -> *mut c_void {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, |provider| Generation::new(provider, T::KIND, selection, params)) })
}

unsafe extern "C" fn gen_set_template(generation: *mut c_void, template: *mut c_void) -> c_int {
    // SAFETY: libcrypto passes a key of this provider.
    let Some(template) = (unsafe { template.cast::<KeyData>().as_ref() }) else { return 0 };
    let set = |generation: &mut Generation| {
        generation.ctx = template.context()?;
        generation.ctx.init(Generation::purpose(generation.selection))
    };
    // SAFETY: libcrypto passes what `gen_init` gave it.
    status(unsafe { with_mut(generation, set) })
}

unsafe extern "C" fn gen_set_params(generation: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    // SAFETY: libcrypto passes what `gen_init` gave it.
    status(unsafe { with_mut(generation, |generation: &mut Generation| generation.set(params)) })
}

unsafe extern "C" fn generate(
    generation: *mut c_void,
    _progress: Option<Callback>,
    _argument: *mut c_void,
) -> *mut c_void {
    // SAFETY: libcrypto passes what `gen_init` gave it.
    lend(unsafe { with_ref(generation, Generation::generate) })
}

unsafe extern "C" fn gen_cleanup(generation: *mut c_void) {
    // SAFETY: libcrypto gives back what `gen_init` gave it, once.
    unsafe { release::<Generation>(generation) };
}

unsafe extern "C" fn gen_settable_params<T: KeyType>(
    _generation: *mut c_void,
    _context: *mut c_void,
) -> *const Param {
    match T::KIND {
        Kind::Ec => EC_GENERATION.as_ptr(),
        Kind::Rsa => RSA_GENERATION.as_ptr(),
    }
}

/// The id of a key that is to be made in keyd.
const ID_KEY: &CStr = c"aziot-key-id";

static NOTHING: [Param; 1] = [END];
static EC_GENERATION: [Param; 14] = [
    entry(ID_KEY, UTF8_STRING),
    entry(c"group", UTF8_STRING),
    entry(c"use-cofactor-flag", INTEGER),
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
    END,
];
static RSA_GENERATION: [Param; 5] = [
    entry(ID_KEY, UTF8_STRING),
    entry(c"bits", UNSIGNED_INTEGER),
    entry(c"primes", UNSIGNED_INTEGER),
    entry(c"e", UNSIGNED_INTEGER),
    END,
];
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
