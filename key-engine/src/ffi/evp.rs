//! OpenSSL's own algorithms, from a library context that only this provider uses: public operations, and
//! whatever else a key needs that does not leave this process.
//!
//! A private context cannot be misled by the configuration of the process, cannot fetch from this provider again, and
//! knows the default provider without asking. Failures leave their reasons on OpenSSL's error stack.

use std::ffi::{CStr, c_int};
use std::ptr::{self, NonNull};

use zeroize::Zeroizing;

use super::params::{Builder, Built};
use super::sys;
use crate::Error;

/// A type that owns an object of libcrypto.
macro_rules! owned {
    ($(#[$doc:meta])* $name:ident, $raw:ty, $free:path) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub(super) NonNull<$raw>);

        // SAFETY: libcrypto allows use by any thread, one at a time.
        unsafe impl Send for $name {}
        // SAFETY: keys, digests and contexts lock what they change. Operations are not shared: they belong to an object
        // that libcrypto uses from one thread at a time.
        unsafe impl Sync for $name {}

        impl $name {
            pub(super) fn owning(raw: *mut $raw, what: &'static str) -> Result<Self, Error> {
                NonNull::new(raw).map(Self).ok_or(Error::OpenSsl(what))
            }

            pub(super) fn as_ptr(&self) -> *mut $raw {
                self.0.as_ptr()
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: this is the owner, and it is gone after this.
                unsafe { $free(self.0.as_ptr()) };
            }
        }
    };
}

owned! {
    /// A library context.
    LibCtx, sys::OSSL_LIB_CTX, sys::OSSL_LIB_CTX_free
}
owned! {
    /// A provider, loaded.
    OsslProvider, sys::OSSL_PROVIDER, sys::OSSL_PROVIDER_unload
}
owned! {
    /// A digest algorithm.
    Md, sys::EVP_MD, sys::EVP_MD_free
}
owned! {
    /// A digest under way.
    MdCtx, sys::EVP_MD_CTX, sys::EVP_MD_CTX_free
}
owned! {
    /// A key, or a part of one.
    Pkey, sys::EVP_PKEY, sys::EVP_PKEY_free
}
owned! {
    /// An operation with a key.
    PkeyCtx, sys::EVP_PKEY_CTX, sys::EVP_PKEY_CTX_free
}

impl LibCtx {
    pub(super) fn new() -> Result<Self, Error> {
        // SAFETY: no precondition.
        Self::owning(unsafe { sys::OSSL_LIB_CTX_new() }, "make a library context")
    }
}

impl OsslProvider {
    pub(super) fn load(lib: &LibCtx, name: &CStr) -> Result<Self, Error> {
        // SAFETY: the context lives and the name ends.
        Self::owning(unsafe { sys::OSSL_PROVIDER_load(lib.as_ptr(), name.as_ptr()) }, "load the provider")
    }
}

impl Pkey {
    /// The pointer, with its reference.
    pub(super) fn into_raw(self) -> *mut sys::EVP_PKEY {
        std::mem::ManuallyDrop::new(self).as_ptr()
    }

    /// A key of the named type from its parameters.
    pub(super) fn from_data(
        lib: &LibCtx,
        kind: &CStr,
        selection: c_int,
        params: Built,
    ) -> Result<Self, Error> {
        let ctx = PkeyCtx::from_name(lib, kind, None)?;
        ctx.make(selection, params)
    }

    /// As many bytes as the longest signature has.
    pub(super) fn size(&self) -> usize {
        // SAFETY: the key lives.
        usize::try_from(unsafe { sys::EVP_PKEY_get_size(self.as_ptr()) }).unwrap_or_default()
    }

    pub(super) fn bits(&self) -> usize {
        // SAFETY: the key lives.
        usize::try_from(unsafe { sys::EVP_PKEY_get_bits(self.as_ptr()) }).unwrap_or_default()
    }

    /// Changes the key, which nobody else may have yet.
    pub(super) fn set(&self, mut params: Built) -> Result<(), Error> {
        // SAFETY: the key lives, the array is complete.
        done(unsafe { sys::EVP_PKEY_set_params(self.as_ptr(), params.as_mut_ptr()) }, "change the key")
    }

    /// The text named `key`, if the key has one.
    pub(super) fn get_text(&self, key: &'static CStr) -> Option<String> {
        let mut params = Builder::default().room(key, sys::UTF8_STRING, NAME_ROOM).finish();
        // SAFETY: the key lives, the array is complete and has room.
        unsafe { sys::EVP_PKEY_get_params(self.as_ptr(), params.as_mut_ptr()) };
        params.filled(key).and_then(sys::Param::text).map(str::to_owned)
    }

    /// A copy that shares nothing, to be changed.
    pub(super) fn try_dup(&self) -> Result<Self, Error> {
        // SAFETY: the key lives.
        Self::owning(unsafe { sys::EVP_PKEY_dup(self.as_ptr()) }, "copy the key")
    }

    /// A copy of the selected parts.
    pub(super) fn part(&self, lib: &LibCtx, kind: &CStr, selection: c_int) -> Result<Self, Error> {
        let mut params = ptr::null_mut();
        // SAFETY: the key lives, and there is room for the pointer.
        done(unsafe { sys::EVP_PKEY_todata(self.as_ptr(), selection, &mut params) }, "read the key")?;
        let ctx = PkeyCtx::from_name(lib, kind, None);
        // SAFETY: the array was just made and is used before it is freed.
        let part = ctx.and_then(|ctx| unsafe { ctx.make_raw(selection, params) });
        // SAFETY: the array is ours to free, and nobody uses it any more.
        unsafe { sys::OSSL_PARAM_free(params) };
        part
    }

    pub(super) fn equals(&self, other: &Self) -> bool {
        // SAFETY: both keys live.
        unsafe { sys::EVP_PKEY_eq(self.as_ptr(), other.as_ptr()) == 1 }
    }

    pub(super) fn same_domain(&self, other: &Self) -> bool {
        // SAFETY: both keys live.
        unsafe { sys::EVP_PKEY_parameters_eq(self.as_ptr(), other.as_ptr()) == 1 }
    }
}

impl Clone for Pkey {
    fn clone(&self) -> Self {
        // SAFETY: the key lives.
        let counted = unsafe { sys::EVP_PKEY_up_ref(self.as_ptr()) };
        assert_eq!(counted, 1, "counting a reference cannot fail");
        Self(self.0)
    }
}

/// What a [`PkeyCtx`] is to be made ready for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Sign,
    Verify,
    Recover,
    Encrypt,
    Decrypt,
    GenerateKey,
    GenerateDomain,
}

/// Which part of a key is to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Public,
    Private,
    Pair,
    Domain,
}

impl PkeyCtx {
    pub(super) fn from_name(lib: &LibCtx, kind: &CStr, properties: Option<&CStr>) -> Result<Self, Error> {
        let properties = properties.map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: the context lives and the names end.
        let ctx = unsafe { sys::EVP_PKEY_CTX_new_from_name(lib.as_ptr(), kind.as_ptr(), properties) };
        Self::owning(ctx, "find the type of key")
    }

    pub(super) fn from_key(lib: &LibCtx, key: &Pkey) -> Result<Self, Error> {
        // SAFETY: context and key live; the new object counts its own reference to the key.
        let ctx = unsafe { sys::EVP_PKEY_CTX_new_from_pkey(lib.as_ptr(), key.as_ptr(), ptr::null()) };
        Self::owning(ctx, "use the key")
    }

    pub(super) fn init(&self, purpose: Use) -> Result<(), Error> {
        let init = match purpose {
            Use::Sign => sys::EVP_PKEY_sign_init,
            Use::Verify => sys::EVP_PKEY_verify_init,
            Use::Recover => sys::EVP_PKEY_verify_recover_init,
            Use::Encrypt => sys::EVP_PKEY_encrypt_init,
            Use::Decrypt => sys::EVP_PKEY_decrypt_init,
            Use::GenerateKey => sys::EVP_PKEY_keygen_init,
            Use::GenerateDomain => sys::EVP_PKEY_paramgen_init,
        };
        // SAFETY: the object lives.
        done(unsafe { init(self.as_ptr()) }, "begin the operation with the key")
    }

    pub(super) fn check(&self, check: Check) -> bool {
        let function = match check {
            Check::Public => sys::EVP_PKEY_public_check,
            Check::Private => sys::EVP_PKEY_private_check,
            Check::Pair => sys::EVP_PKEY_pairwise_check,
            Check::Domain => sys::EVP_PKEY_param_check,
        };
        // SAFETY: the object lives.
        unsafe { function(self.as_ptr()) == 1 }
    }

    pub(super) fn make(&self, selection: c_int, mut params: Built) -> Result<Pkey, Error> {
        // SAFETY: the array is complete and lives until the call is over.
        unsafe { self.make_raw(selection, params.as_mut_ptr()) }
    }

    /// # Safety
    /// `params` is a complete array.
    unsafe fn make_raw(&self, selection: c_int, params: *mut sys::Param) -> Result<Pkey, Error> {
        // SAFETY: the object lives.
        done(unsafe { sys::EVP_PKEY_fromdata_init(self.as_ptr()) }, "make keys of this type")?;
        let mut key = ptr::null_mut();
        // SAFETY: object and array live, and there is room for the pointer.
        done(unsafe { sys::EVP_PKEY_fromdata(self.as_ptr(), &mut key, selection, params) }, "make the key")?;
        Pkey::owning(key, "make the key")
    }

    /// The static array that says what [`Self::make`] understands.
    pub(super) fn data_types(&self, selection: c_int) -> *const sys::Param {
        // SAFETY: the object lives.
        match unsafe { sys::EVP_PKEY_fromdata_init(self.as_ptr()) } {
            // SAFETY: the object lives.
            1 => unsafe { sys::EVP_PKEY_fromdata_settable(self.as_ptr(), selection) },
            _ => ptr::null(),
        }
    }

    pub(super) fn generate(&self) -> Result<Pkey, Error> {
        let mut key = ptr::null_mut();
        // SAFETY: the object lives, and there is room for the pointer.
        done(unsafe { sys::EVP_PKEY_generate(self.as_ptr(), &mut key) }, "generate the key")?;
        Pkey::owning(key, "generate the key")
    }

    pub(super) fn set(&self, params: &Built) -> Result<(), Error> {
        // SAFETY: object and array live.
        done(unsafe { sys::EVP_PKEY_CTX_set_params(self.as_ptr(), params.as_ptr()) }, "use these parameters")
    }

    /// Fills in what the caller asks for.
    ///
    /// # Safety
    /// `params` is a complete array with room for the values.
    pub(super) unsafe fn get_raw(&self, params: *mut sys::Param) -> Result<(), Error> {
        // SAFETY: the object lives, the array is complete.
        done(unsafe { sys::EVP_PKEY_CTX_get_params(self.as_ptr(), params) }, "read the parameters")
    }

    /// The text named `key`, if it is set.
    pub(super) fn get_text(&self, key: &'static CStr) -> Result<Option<String>, Error> {
        let mut params = Builder::default().room(key, sys::UTF8_STRING, NAME_ROOM).finish();
        // SAFETY: the array is complete and has room.
        unsafe { self.get_raw(params.as_mut_ptr()) }?;
        let text = params.filled(key).and_then(sys::Param::text);
        Ok(text.filter(|text| !text.is_empty()).map(str::to_owned))
    }

    /// The number named `key`.
    pub(super) fn get_int(&self, key: &'static CStr) -> Result<c_int, Error> {
        let mut params = Builder::default().int(key, 0).finish();
        // SAFETY: the array is complete and has room.
        unsafe { self.get_raw(params.as_mut_ptr()) }?;
        let number =
            params.filled(key).and_then(sys::Param::integer).and_then(|number| number.try_into().ok());
        number.ok_or(Error::OpenSsl("read a number of the operation"))
    }

    /// The bytes named `key`, which libcrypto lends out; empty if there are none.
    pub(super) fn get_octets(&self, key: &'static CStr) -> Result<Vec<u8>, Error> {
        let mut params = Builder::default().room(key, sys::OCTET_PTR, size_of::<usize>()).finish();
        // SAFETY: the array is complete and has room for a pointer.
        unsafe { self.get_raw(params.as_mut_ptr()) }?;
        let lent = params.filled(key).map(|param| sys::Param { data_size: param.return_size, ..*param });
        Ok(lent.as_ref().and_then(sys::Param::octets).map(<[u8]>::to_vec).unwrap_or_default())
    }

    pub(super) fn sign(&self, data: &[u8], room: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.transform(sys::EVP_PKEY_sign, data, room)
    }

    pub(super) fn recover(&self, signature: &[u8], room: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.transform(sys::EVP_PKEY_verify_recover, signature, room)
    }

    pub(super) fn encrypt(&self, data: &[u8], room: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.transform(sys::EVP_PKEY_encrypt, data, room)
    }

    pub(super) fn decrypt(&self, data: &[u8], room: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.transform(sys::EVP_PKEY_decrypt, data, room)
    }

    fn transform(&self, function: Transform, data: &[u8], room: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut out = Zeroizing::new(vec![0; room]);
        let mut length = room;
        // SAFETY: the object lives, `length` says how much room there is, and so many bytes are there.
        let status =
            unsafe { function(self.as_ptr(), out.as_mut_ptr(), &mut length, data.as_ptr(), data.len()) };
        done(status, "do the operation with the key")?;
        out.truncate(length);
        Ok(out)
    }

    pub(super) fn verify(&self, signature: &[u8], data: &[u8]) -> bool {
        let (bytes, length) = (signature.as_ptr(), signature.len());
        // SAFETY: the object lives, and so many bytes are there.
        let status = unsafe { sys::EVP_PKEY_verify(self.as_ptr(), bytes, length, data.as_ptr(), data.len()) };
        status == 1
    }

    pub(super) fn try_clone(&self) -> Result<Self, Error> {
        // SAFETY: the object lives.
        Self::owning(unsafe { sys::EVP_PKEY_CTX_dup(self.as_ptr()) }, "copy the operation")
    }
}

type Transform = unsafe extern "C" fn(*mut sys::EVP_PKEY_CTX, *mut u8, *mut usize, *const u8, usize) -> c_int;

/// What libcrypto answers as a result.
pub(super) fn done(status: c_int, what: &'static str) -> Result<(), Error> {
    if status > 0 { Ok(()) } else { Err(Error::OpenSsl(what)) }
}

/// Room for the name of an algorithm.
const NAME_ROOM: usize = 80;
