//! Keys of the engine: OpenSSL's EC_KEY and RSA with the public part, the key in keyd as ex_data, and methods that ask
//! keyd. They need nothing of the ENGINE that loaded them.

use std::ffi::{CStr, c_char, c_int, c_long, c_uchar, c_void};
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::{Arc, OnceLock};

use foreign_types::ForeignTypeRef as _;
use key_engine::Error;
use key_engine::remote::{Curve, PublicKey, RemoteKey};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcKeyRef, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::rsa::{Padding, Rsa, RsaRef};
use zeroize::Zeroizing;

use super::sys::{
    self, BIGNUM, EC_KEY, ECDSA_SIG, ENGINE, EVP_PKEY, EcKeyMethod, INDEX_EC_KEY, INDEX_RSA, RSA, RsaMethod,
};
use super::{FAILED, done, guarded};
use crate::keys;

/// `ENGINE_load_private_key`.
pub(super) unsafe extern "C" fn load_private(
    engine: *mut ENGINE,
    id: *const c_char,
    _ui: *mut c_void,
    _data: *mut c_void,
) -> *mut EVP_PKEY {
    let load = || {
        // SAFETY: null or a C string.
        let id = unsafe { text(id) }?;
        let remote = Arc::new(keys::load_private(id)?);
        let key = match remote.public() {
            PublicKey::Ec { curve, point } => {
                let key = public_ec(*curve, point).map_err(|_| FAILED)?;
                attach_ec(&key, remote.clone())?;
                PKey::from_ec_key(key)
            }
            PublicKey::Rsa { modulus, exponent } => {
                let key = public_rsa(modulus, exponent).map_err(|_| FAILED)?;
                attach_rsa(&key, remote.clone())?;
                PKey::from_rsa(key)
            }
        };
        let key = ManuallyDrop::new(key.map_err(|_| FAILED)?).as_ptr();
        // SAFETY: both live. The key then keeps the engine in use, as callers know it from upstream's.
        done(unsafe { sys::EVP_PKEY_set1_engine(key, engine) })?;
        Ok(key)
    };
    guarded(load).unwrap_or(ptr::null_mut())
}

/// `ENGINE_load_public_key`: an ordinary key.
pub(super) unsafe extern "C" fn load_public(
    _engine: *mut ENGINE,
    id: *const c_char,
    _ui: *mut c_void,
    _data: *mut c_void,
) -> *mut EVP_PKEY {
    let load = || {
        // SAFETY: null or a C string.
        let id = unsafe { text(id) }?;
        let key = match keys::load(id)?.public() {
            PublicKey::Ec { curve, point } => public_ec(*curve, point).and_then(PKey::from_ec_key),
            PublicKey::Rsa { modulus, exponent } => public_rsa(modulus, exponent).and_then(PKey::from_rsa),
        };
        Ok(ManuallyDrop::new(key.map_err(|_| FAILED)?).as_ptr())
    };
    guarded(load).unwrap_or(ptr::null_mut())
}

/// # Safety
/// `id` is null or a C string that lives as long as `'a`.
unsafe fn text<'a>(id: *const c_char) -> Result<&'a str, Error> {
    if id.is_null() {
        return Err(Error::BadUri("the key id is missing"));
    }
    // SAFETY: as promised by the caller.
    let id = unsafe { CStr::from_ptr(id) };
    id.to_str().map_err(|_| Error::BadUri("the key id is not UTF-8"))
}

fn public_ec(curve: Curve, point: &[u8]) -> Result<EcKey<Public>, ErrorStack> {
    let group = EcGroup::from_curve_name(match curve {
        Curve::P256 => Nid::X9_62_PRIME256V1,
        Curve::P384 => Nid::SECP384R1,
        Curve::P521 => Nid::SECP521R1,
    })?;
    let mut context = BigNumContext::new()?;
    let point = EcPoint::from_bytes(&group, point, &mut context)?;
    EcKey::from_public_key(&group, &point)
}

fn public_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Rsa<Public>, ErrorStack> {
    Rsa::from_public_components(BigNum::from_slice(modulus)?, BigNum::from_slice(exponent)?)
}

fn attach_ec(key: &EcKey<Public>, remote: Arc<RemoteKey>) -> Result<(), Error> {
    let methods = Methods::get()?;
    // SAFETY: the key lives, the method stays.
    done(unsafe { sys::EC_KEY_set_method(key.as_ptr(), methods.ec) })?;
    let data = Arc::into_raw(remote);
    // SAFETY: the key lives, and the index is ours: `free_remote` will be called with the pointer.
    let attached =
        done(unsafe { sys::EC_KEY_set_ex_data(key.as_ptr(), methods.ec_index, data.cast_mut().cast()) });
    attached.inspect_err(|_| release(data))
}

fn attach_rsa(key: &Rsa<Public>, remote: Arc<RemoteKey>) -> Result<(), Error> {
    let methods = Methods::get()?;
    // SAFETY: the key lives, the method stays.
    done(unsafe { sys::RSA_set_method(key.as_ptr(), methods.rsa) })?;
    let data = Arc::into_raw(remote);
    // SAFETY: the key lives, and the index is ours: `free_remote` will be called with the pointer.
    let attached =
        done(unsafe { sys::RSA_set_ex_data(key.as_ptr(), methods.rsa_index, data.cast_mut().cast()) });
    attached.inspect_err(|_| release(data))
}

/// What is made once in a process, and stays.
struct Methods {
    ec: *const EcKeyMethod,
    ec_index: c_int,
    rsa: *const RsaMethod,
    rsa_index: c_int,
}

// SAFETY: nobody changes the tables once they are made.
unsafe impl Send for Methods {}
// SAFETY: as above.
unsafe impl Sync for Methods {}

impl Methods {
    fn get() -> Result<&'static Self, Error> {
        static METHODS: OnceLock<Option<Methods>> = OnceLock::new();
        METHODS.get_or_init(|| Self::make().ok()).as_ref().ok_or(FAILED)
    }

    fn make() -> Result<Self, Error> {
        // SAFETY: OpenSSL's own method is static.
        let own = unsafe { sys::EC_KEY_OpenSSL() };
        // SAFETY: as above.
        let ec = unsafe { sys::EC_KEY_METHOD_new(own) };
        // SAFETY: OpenSSL's own method is static.
        let own = unsafe { sys::RSA_PKCS1_OpenSSL() };
        // SAFETY: as above.
        let rsa = unsafe { sys::RSA_meth_dup(own) };
        if ec.is_null() || rsa.is_null() {
            return Err(FAILED);
        }
        let mut sign_der = None;
        // SAFETY: the method lives; null means that a function is not wanted.
        unsafe { sys::EC_KEY_METHOD_get_sign(ec, &mut sign_der, ptr::null_mut(), ptr::null_mut()) };
        // SAFETY: the method lives.
        unsafe { sys::EC_KEY_METHOD_set_sign(ec, sign_der, None, Some(sign_ecdsa)) };
        // SAFETY: the method lives. So for the next two.
        done(unsafe { sys::RSA_meth_set_flags(rsa, 0) })?;
        // SAFETY: as above.
        done(unsafe { sys::RSA_meth_set_priv_enc(rsa, private_encrypt) })?;
        // SAFETY: as above.
        done(unsafe { sys::RSA_meth_set_priv_dec(rsa, private_decrypt) })?;
        Ok(Self { ec, ec_index: new_index(INDEX_EC_KEY)?, rsa, rsa_index: new_index(INDEX_RSA)? })
    }
}

fn new_index(class: c_int) -> Result<c_int, Error> {
    // SAFETY: the callbacks fit the class.
    let index = unsafe {
        sys::CRYPTO_get_ex_new_index(
            class,
            0,
            ptr::null_mut(),
            ptr::null(),
            Some(dup_remote),
            Some(free_remote),
        )
    };
    if index < 0 { Err(FAILED) } else { Ok(index) }
}

/// A copied key counts its own reference. `slot` holds the pointer and is what the copy gets.
unsafe extern "C" fn dup_remote(
    _to: *mut c_void,
    _from: *const c_void,
    slot: *mut *mut c_void,
    _index: c_int,
    _number: c_long,
    _argument: *mut c_void,
) -> c_int {
    // SAFETY: OpenSSL passes the place of the pointer.
    let Some(data) = (unsafe { slot.as_ref() }) else { return 0 };
    if !data.is_null() {
        // SAFETY: what is at our index came from `Arc::into_raw` and is still counted.
        unsafe { Arc::increment_strong_count(data.cast::<RemoteKey>().cast_const()) };
    }
    1
}

unsafe extern "C" fn free_remote(
    _parent: *mut c_void,
    data: *mut c_void,
    _all: *mut c_void,
    _index: c_int,
    _number: c_long,
    _argument: *mut c_void,
) {
    if !data.is_null() {
        release(data.cast::<RemoteKey>().cast_const());
    }
}

/// Gives back one reference made by `Arc::into_raw`.
fn release(data: *const RemoteKey) {
    // SAFETY: only called with such a pointer, once for each reference.
    let remote = unsafe { Arc::from_raw(data) };
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(remote)));
}

/// The key in keyd at `data`.
///
/// # Safety
/// `data` is null or what is at our index of a key that lives as long as `'a`.
unsafe fn attached<'a>(data: *mut c_void) -> Result<&'a RemoteKey, Error> {
    // SAFETY: as promised by the caller.
    unsafe { data.cast::<RemoteKey>().as_ref() }
        .ok_or(Error::Refused("the key does not belong to the engine aziot_keys"))
}

/// # Safety
/// `data` is null or has `length` bytes that live as long as `'a`.
unsafe fn input<'a>(data: *const c_uchar, length: c_int) -> Result<&'a [u8], Error> {
    match (data.is_null(), usize::try_from(length)) {
        // SAFETY: as promised by the caller.
        (false, Ok(length)) => Ok(unsafe { std::slice::from_raw_parts(data, length) }),
        _ => Err(Error::Refused("there are no data")),
    }
}

/// `ECDSA_do_sign` of a key of ours.
unsafe extern "C" fn sign_ecdsa(
    digest: *const c_uchar,
    length: c_int,
    _inverse: *const BIGNUM,
    _r: *const BIGNUM,
    key: *mut EC_KEY,
) -> *mut ECDSA_SIG {
    let sign = || {
        // SAFETY: OpenSSL passes so many bytes.
        let digest = unsafe { input(digest, length) }?;
        // SAFETY: OpenSSL passes the key that has the method.
        let data = unsafe { sys::EC_KEY_get_ex_data(key, Methods::get()?.ec_index) };
        // SAFETY: it is at our index, and the key lives.
        let remote = unsafe { attached(data) }?;
        // SAFETY: the key is not null, for it has data, and lives.
        let public = unsafe { EcKeyRef::<Public>::from_ptr(key) };
        let verifies = |der: &[u8]| EcdsaSig::from_der(der).and_then(|parts| parts.verify(digest, public));
        let der = remote.sign_ecdsa(digest, |der| verifies(der).unwrap_or(false))?;
        let mut place = der.as_ptr();
        let length = c_long::try_from(der.len()).map_err(|_| FAILED)?;
        // SAFETY: so many bytes are there.
        let signature = unsafe { sys::d2i_ECDSA_SIG(ptr::null_mut(), &mut place, length) };
        if signature.is_null() { Err(Error::Refused("keyd's signature is not DER")) } else { Ok(signature) }
    };
    guarded(sign).unwrap_or(ptr::null_mut())
}

unsafe extern "C" fn private_encrypt(
    length: c_int,
    data: *const c_uchar,
    out: *mut c_uchar,
    key: *mut RSA,
    padding: c_int,
) -> c_int {
    // SAFETY: passed on as they came.
    unsafe {
        private(length, data, out, key, |remote, data, key| {
            keys::private_encrypt(remote, data, padding, |block| public(key, block))
        })
    }
}

unsafe extern "C" fn private_decrypt(
    length: c_int,
    data: *const c_uchar,
    out: *mut c_uchar,
    key: *mut RSA,
    padding: c_int,
) -> c_int {
    // SAFETY: passed on as they came.
    unsafe {
        private(length, data, out, key, |remote, data, key| {
            keys::private_decrypt(remote, data, padding, |block| public(key, block))
        })
    }
}

/// The public operation on as many bytes as the modulus has, if it can be done.
fn public(key: &RsaRef<Public>, block: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut result = Zeroizing::new(vec![0; block.len()]);
    key.public_encrypt(block, &mut result, Padding::NONE).ok().map(|_| result)
}

/// Puts what `operation` makes of the data at `out`, and says how long it is, or -1.
///
/// # Safety
/// As rsa.h has it: `data` has `length` bytes, `out` has room for as many as the modulus has.
unsafe fn private(
    length: c_int,
    data: *const c_uchar,
    out: *mut c_uchar,
    key: *mut RSA,
    operation: impl FnOnce(&RemoteKey, &[u8], &RsaRef<Public>) -> Result<Zeroizing<Vec<u8>>, Error>,
) -> c_int {
    let run = || {
        // SAFETY: as promised by the caller.
        let input = unsafe { input(data, length) }?;
        // SAFETY: OpenSSL passes the key that has the method.
        let data = unsafe { sys::RSA_get_ex_data(key, Methods::get()?.rsa_index) };
        // SAFETY: it is at our index, and the key lives.
        let remote = unsafe { attached(data) }?;
        // SAFETY: the key is not null, for it has data, and lives.
        let result = operation(remote, input, unsafe { RsaRef::from_ptr(key) })?;
        if out.is_null() {
            return Err(Error::Refused("there is no room for the result"));
        }
        // SAFETY: no result is longer than the modulus, and so much room is there.
        unsafe { ptr::copy_nonoverlapping(result.as_ptr(), out, result.len()) };
        c_int::try_from(result.len()).map_err(|_| FAILED)
    };
    guarded(run).unwrap_or(-1)
}
