//! ASYM_CIPHER for RSA (provider-asym_cipher(7); spec openssl-engine, 13.5). Parameters are held as in `signing`;
//! decryption is keyd's bare operation, and the padding is removed here.

use std::ffi::{CString, c_int, c_uchar, c_void};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::evp::{Md, PkeyCtx, Use};
use super::keydata::{KeyData, Kind, NO_PADDING, set_params};
use super::object::{Object, lend, release, status, with_mut, with_provider, with_ref};
use super::params::{END, entry, slice};
use super::provider::{END_OF_TABLE, NO_ALGORITHM, PROPERTIES, Provider, algorithm};
use super::sys::{Algorithm, Dispatch, OCTET_STRING, Param, UNSIGNED_INTEGER, UTF8_STRING};
use super::{give, input};
use crate::Error;
use crate::padding::{Versions, unpad_oaep, unpad_premaster};
use crate::remote::{RemoteKey, RsaOperation};

pub(super) static ALGORITHMS: [Algorithm; 2] =
    [algorithm(c"RSA:rsaEncryption", PROPERTIES, &FUNCTIONS, c"RSA decryption by keyd"), NO_ALGORITHM];

static FUNCTIONS: [Dispatch; 12] = [
    Dispatch { id: 1, function: newctx as *const () },
    Dispatch { id: 2, function: encrypt_init as *const () },
    Dispatch { id: 3, function: encrypt as *const () },
    Dispatch { id: 4, function: decrypt_init as *const () },
    Dispatch { id: 5, function: decrypt as *const () },
    Dispatch { id: 6, function: freectx as *const () },
    Dispatch { id: 7, function: dupctx as *const () },
    Dispatch { id: 8, function: get_ctx_params as *const () },
    Dispatch { id: 9, function: ctx_params as *const () },
    Dispatch { id: 10, function: set_ctx_params as *const () },
    Dispatch { id: 11, function: ctx_params as *const () },
    END_OF_TABLE,
];

/// An encryption or decryption under way.
struct Ciphering {
    provider: Arc<Provider>,
    key: Option<KeyData>,
    ctx: Option<PkeyCtx>,
}

impl Object for Ciphering {
    fn provider(&self) -> &Provider {
        &self.provider
    }
}

impl Ciphering {
    fn init(&mut self, purpose: Use, key: Option<&KeyData>, params: &[Param]) -> Result<(), Error> {
        if let Some(key) = key {
            if key.kind != Kind::Rsa {
                return Err(Error::Refused("only RSA keys encrypt and decrypt"));
            }
            self.key = Some(key.clone());
        }
        let key = self.key.as_ref().ok_or(NO_KEY)?;
        let ctx = key.context()?;
        ctx.init(if key.remote.is_some() { Use::Encrypt } else { purpose })?;
        self.ctx = Some(ctx);
        self.set(params)
    }

    fn set(&mut self, params: &[Param]) -> Result<(), Error> {
        set_params(self.ctx()?, params)
    }

    fn ctx(&self) -> Result<&PkeyCtx, Error> {
        self.ctx.as_ref().ok_or(NO_KEY)
    }

    fn room(&self) -> Result<usize, Error> {
        Ok(self.key()?.local()?.size())
    }

    /// Bytes of the longest plaintext with any ciphertext. libssl has room for a premaster secret only.
    fn plain_room(&self) -> Result<usize, Error> {
        match self.ctx()?.get_int(c"pad-mode")? {
            PREMASTER => Ok(PREMASTER_BYTES),
            _ => self.room(),
        }
    }

    fn encrypt(&self, data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.ctx()?.encrypt(data, self.room()?)
    }

    fn decrypt(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key = self.key()?;
        match &key.remote {
            None => self.ctx()?.decrypt(ciphertext, self.room()?),
            Some(remote) => self.decrypt_remote(key, remote, ciphertext),
        }
    }

    fn decrypt_remote(
        &self,
        key: &KeyData,
        remote: &RemoteKey,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let ctx = self.ctx()?;
        let mode = ctx.get_int(c"pad-mode")?;
        if !matches!(mode, PKCS1 | NO_PADDING | OAEP | PREMASTER) {
            return Err(Error::Refused(
                "this padding is not supported for decryption; use pkcs1, oaep or none",
            ));
        }
        let public = |block: &[u8]| key.rsa_public(block);
        if mode == PKCS1 {
            return remote.decrypt_pkcs1(ciphertext, &Md::fetch(&self.provider.lib, c"SHA256")?, public);
        }
        let block = remote.rsa(RsaOperation::Raw, ciphertext, public)?;
        match mode {
            OAEP => {
                let md = self.digest(ctx.get_text(c"digest")?, "SHA1")?;
                let mgf1 = self.digest(ctx.get_text(c"mgf1-digest")?, md.name())?;
                unpad_oaep(&md, &mgf1, &ctx.get_octets(c"oaep-label")?, &block)
            }
            PREMASTER => self.premaster(&block),
            _ => Ok(block),
        }
    }

    fn premaster(&self, block: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let version = |key| self.ctx()?.get_int(key).map(|number| u16::try_from(number).unwrap_or_default());
        let client = version(c"tls-client-version")?;
        if client == 0 {
            return Err(Error::Refused("the TLS version of the client was not given"));
        }
        let negotiated = version(c"tls-negotiated-version")?;
        let mut random = Zeroizing::new([0; PREMASTER_BYTES]);
        getrandom::fill(random.as_mut_slice())
            .map_err(|_| Error::Refused("no random bytes from the system"))?;
        unpad_premaster(
            block,
            Versions { client, negotiated: (negotiated != 0).then_some(negotiated) },
            &random,
        )
    }

    fn digest(&self, name: Option<String>, default: &str) -> Result<Md, Error> {
        let name = CString::new(name.unwrap_or_else(|| default.to_owned())).unwrap_or_default();
        Md::fetch(&self.provider.lib, &name)
    }

    fn try_clone(&self) -> Result<Self, Error> {
        let ctx = self.ctx.as_ref().map(PkeyCtx::try_clone).transpose()?;
        Ok(Self { provider: self.provider.clone(), key: self.key.clone(), ctx })
    }

    fn key(&self) -> Result<&KeyData, Error> {
        self.key.as_ref().ok_or(NO_KEY)
    }
}

unsafe extern "C" fn newctx(context: *mut c_void) -> *mut c_void {
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, |provider| Ok(Ciphering { provider, key: None, ctx: None })) })
}

unsafe extern "C" fn freectx(ctx: *mut c_void) {
    // SAFETY: libcrypto gives back what it was lent, once.
    unsafe { release::<Ciphering>(ctx) };
}

unsafe extern "C" fn dupctx(ctx: *mut c_void) -> *mut c_void {
    // SAFETY: libcrypto passes what `newctx` gave it.
    lend(unsafe { with_ref(ctx, Ciphering::try_clone) })
}

unsafe extern "C" fn encrypt_init(ctx: *mut c_void, key: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { init(ctx, key, params, Use::Encrypt) }
}

unsafe extern "C" fn decrypt_init(ctx: *mut c_void, key: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: passed on as they came.
    unsafe { init(ctx, key, params, Use::Decrypt) }
}

unsafe fn init(ctx: *mut c_void, key: *mut c_void, params: *const Param, purpose: Use) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    // SAFETY: libcrypto passes a key of this provider, or null to use the key of the last time.
    let key = unsafe { key.cast::<KeyData>().as_ref() };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_mut(ctx, |ciphering: &mut Ciphering| ciphering.init(purpose, key, params)) })
}

unsafe extern "C" fn encrypt(
    ctx: *mut c_void,
    out: *mut c_uchar,
    length: *mut usize,
    room: usize,
    data: *const c_uchar,
    data_length: usize,
) -> c_int {
    // SAFETY: libcrypto passes so many bytes.
    let data = unsafe { input(data, data_length) };
    let encrypt = |ciphering: &Ciphering| {
        // SAFETY: libcrypto passes so much room, and where to put the length.
        unsafe { give(out, length, room, ciphering.room()?, || ciphering.encrypt(data)) }
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_ref(ctx, encrypt) })
}

unsafe extern "C" fn decrypt(
    ctx: *mut c_void,
    out: *mut c_uchar,
    length: *mut usize,
    room: usize,
    data: *const c_uchar,
    data_length: usize,
) -> c_int {
    // SAFETY: libcrypto passes so many bytes.
    let data = unsafe { input(data, data_length) };
    let decrypt = |ciphering: &Ciphering| {
        // SAFETY: libcrypto passes so much room, and where to put the length.
        unsafe { give(out, length, room, ciphering.plain_room()?, || ciphering.decrypt(data)) }
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_ref(ctx, decrypt) })
}

unsafe extern "C" fn get_ctx_params(ctx: *mut c_void, params: *mut Param) -> c_int {
    let get = |ciphering: &Ciphering| match ciphering.ctx() {
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
    status(unsafe { with_mut(ctx, |ciphering: &mut Ciphering| ciphering.set(params)) })
}

unsafe extern "C" fn ctx_params(_ctx: *mut c_void, _context: *mut c_void) -> *const Param {
    PARAMS.as_ptr()
}

const NO_KEY: Error = Error::Refused("the operation has not been begun with a key");
/// `RSA_PKCS1_PADDING`.
const PKCS1: i32 = 1;
/// `RSA_PKCS1_OAEP_PADDING`.
const OAEP: i32 = 4;
/// `RSA_PKCS1_WITH_TLS_PADDING`.
const PREMASTER: i32 = 7;
/// Bytes of a TLS premaster secret.
const PREMASTER_BYTES: usize = 48;

static PARAMS: [Param; 10] = [
    entry(c"digest", UTF8_STRING),
    entry(c"digest-props", UTF8_STRING),
    entry(c"pad-mode", UTF8_STRING),
    entry(c"mgf1-digest", UTF8_STRING),
    entry(c"mgf1-digest-props", UTF8_STRING),
    entry(c"oaep-label", OCTET_STRING),
    entry(c"tls-client-version", UNSIGNED_INTEGER),
    entry(c"tls-negotiated-version", UNSIGNED_INTEGER),
    entry(c"implicit-rejection", UNSIGNED_INTEGER),
    END,
];
