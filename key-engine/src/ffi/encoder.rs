//! ENCODERs (provider-encoder(7); spec openssl-engine, 13.6 E1, E2): the key pair as text for people, and where a private
//! key in PEM is wanted, the key reference. Public keys are OpenSSL's matter, whose encoders get them by export; so are
//! ordinary keys that have come here.

use std::ffi::{CStr, CString, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::evp::{Pkey, done};
use super::keydata::KeyData;
use super::object::{Object, lend, release, status, with_mut, with_provider, with_ref};
use super::params::{END, entry, find, slice};
use super::provider::{END_OF_TABLE, NO_ALGORITHM, Provider, algorithm};
use super::sys::{
    self, Algorithm, AskPassphrase, CoreBio, Dispatch, Param, SELECT_DOMAIN, SELECT_PRIVATE, SELECT_PUBLIC,
    UTF8_STRING,
};
use crate::remote::RemoteKey;
use crate::{Error, KeyName, reference};

pub(super) static ALGORITHMS: [Algorithm; 7] = [
    algorithm(c"EC", Text::PROPERTIES, &Functions::<Text>::TABLE, c"EC keys in keyd as text"),
    algorithm(c"RSA", Text::PROPERTIES, &Functions::<Text>::TABLE, c"RSA keys in keyd as text"),
    algorithm(c"EC", Pem::PROPERTIES, &Functions::<Pem>::TABLE, REFERENCES),
    algorithm(c"RSA", Pem::PROPERTIES, &Functions::<Pem>::TABLE, REFERENCES),
    algorithm(c"EC", OldPem::PROPERTIES, &Functions::<OldPem>::TABLE, REFERENCES),
    algorithm(c"RSA", OldPem::PROPERTIES, &Functions::<OldPem>::TABLE, REFERENCES),
    NO_ALGORITHM,
];

/// A form to write a key pair in.
trait Form {
    const PROPERTIES: &'static CStr;
    /// What OpenSSL's encoder for ordinary keys is found by.
    const OUTPUT: &'static CStr;
    const STRUCTURE: Option<&'static CStr>;
    /// A key in keyd.
    fn remote(key: &KeyData, remote: &RemoteKey) -> Result<Zeroizing<Vec<u8>>, Error>;
}

struct Text;
struct Pem;
/// What programs ask for that write the older form with the algorithm in its label.
struct OldPem;

impl Form for Text {
    const PROPERTIES: &'static CStr = c"provider=aziot,output=text";
    const OUTPUT: &'static CStr = c"TEXT";
    const STRUCTURE: Option<&'static CStr> = None;

    fn remote(key: &KeyData, remote: &RemoteKey) -> Result<Zeroizing<Vec<u8>>, Error> {
        let mut text = format!("Private-Key: in keyd, {}\n", remote.name()).into_bytes();
        let public = SELECT_PUBLIC | SELECT_DOMAIN;
        text.extend_from_slice(&Encoding::new(key.local()?, public, Self::OUTPUT, None)?.bytes()?);
        Ok(text.into())
    }
}

impl Form for Pem {
    const PROPERTIES: &'static CStr = c"provider=aziot,output=pem,structure=PrivateKeyInfo";
    const OUTPUT: &'static CStr = c"PEM";
    const STRUCTURE: Option<&'static CStr> = Some(c"PrivateKeyInfo");

    fn remote(_key: &KeyData, remote: &RemoteKey) -> Result<Zeroizing<Vec<u8>>, Error> {
        match remote.name() {
            name @ KeyName::Id(_) => Ok(reference::to_pem(name).as_bytes().to_vec().into()),
            KeyName::Handle(_) => Err(Error::Refused(
                "the private key stays in keyd, and its handle, by which it was loaded, is as good as the key: \
                 load it by its id, or let aziot-key-ref write the handle into a file",
            )),
        }
    }
}

impl Form for OldPem {
    const PROPERTIES: &'static CStr = c"provider=aziot,output=pem,structure=type-specific";
    const OUTPUT: &'static CStr = c"PEM";
    const STRUCTURE: Option<&'static CStr> = Some(c"type-specific");

    fn remote(key: &KeyData, remote: &RemoteKey) -> Result<Zeroizing<Vec<u8>>, Error> {
        Pem::remote(key, remote)
    }
}

struct Functions<F>(PhantomData<F>);

impl<F: Form> Functions<F> {
    const TABLE: [Dispatch; 7] = [
        Dispatch { id: 1, function: newctx as *const () },
        Dispatch { id: 2, function: freectx as *const () },
        Dispatch { id: 5, function: set_ctx_params as *const () },
        Dispatch { id: 6, function: settable_ctx_params as *const () },
        Dispatch { id: 10, function: does_selection as *const () },
        Dispatch { id: 11, function: encode::<F> as *const () },
        END_OF_TABLE,
    ];
}

/// A key pair to be written.
struct Writing {
    provider: Arc<Provider>,
    /// By which an ordinary private key is to be encrypted.
    cipher: Option<CString>,
}

impl Object for Writing {
    fn provider(&self) -> &Provider {
        &self.provider
    }
}

unsafe extern "C" fn newctx(context: *mut c_void) -> *mut c_void {
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, |provider| Ok(Writing { provider, cipher: None })) })
}

unsafe extern "C" fn freectx(ctx: *mut c_void) {
    // SAFETY: libcrypto gives back what `newctx` gave it, once.
    unsafe { release::<Writing>(ctx) };
}

unsafe extern "C" fn settable_ctx_params(_context: *mut c_void) -> *const Param {
    static TABLE: [Param; 3] = [entry(c"cipher", UTF8_STRING), entry(c"properties", UTF8_STRING), END];
    TABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params(ctx: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    let set = |writing: &mut Writing| {
        if let Some(cipher) = find(params, c"cipher") {
            let name = cipher.text().filter(|name| !name.is_empty()).map(CString::new).transpose();
            writing.cipher = name.map_err(|_| Error::Refused("the name of the cipher is no text"))?;
        }
        Ok(())
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_mut(ctx, set) })
}

/// Key pairs only: for a public key OpenSSL looks further and finds its own encoders.
unsafe extern "C" fn does_selection(_context: *mut c_void, selection: c_int) -> c_int {
    c_int::from(selection & SELECT_PRIVATE != 0)
}

unsafe extern "C" fn encode<F: Form>(
    ctx: *mut c_void,
    out: *mut CoreBio,
    key: *const c_void,
    _parameters: *const Param,
    selection: c_int,
    ask: Option<AskPassphrase>,
    ask_argument: *mut c_void,
) -> c_int {
    let encode = |writing: &Writing| {
        // SAFETY: null or a key of this provider.
        let key = unsafe { key.cast::<KeyData>().as_ref() }.ok_or(Error::Refused("there is no key"))?;
        let bytes = match &key.remote {
            Some(remote) => F::remote(key, remote)?,
            None => {
                let encoding = Encoding::new(key.local()?, selection, F::OUTPUT, F::STRUCTURE)?;
                if let Some(cipher) = &writing.cipher {
                    // SAFETY: they came together, and live until this call is over.
                    unsafe { encoding.encrypt(cipher, ask, ask_argument) }?;
                }
                encoding.bytes()?
            }
        };
        // SAFETY: libcrypto passes one of its BIOs.
        match unsafe { writing.provider.core().write_all(out, &bytes) } {
            true => Ok(()),
            false => Err(Error::OpenSsl("write the key")),
        }
    };
    // SAFETY: libcrypto passes what `newctx` gave it.
    status(unsafe { with_ref(ctx, encode) })
}

/// A key that OpenSSL's own encoders are to write.
struct Encoding(NonNull<sys::EncoderCtx>);

impl Encoding {
    fn new(key: &Pkey, selection: c_int, output: &CStr, structure: Option<&CStr>) -> Result<Self, Error> {
        let structure = structure.map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: the key lives, and the names end.
        let ctx = unsafe {
            sys::OSSL_ENCODER_CTX_new_for_pkey(
                key.as_ptr(),
                selection,
                output.as_ptr(),
                structure,
                ptr::null(),
            )
        };
        NonNull::new(ctx).map(Self).ok_or(Error::OpenSsl("find an encoder"))
    }

    /// # Safety
    /// `ask` and `argument` came together and live as long as this.
    unsafe fn encrypt(
        &self,
        cipher: &CStr,
        ask: Option<AskPassphrase>,
        argument: *mut c_void,
    ) -> Result<(), Error> {
        // SAFETY: the object lives, and the name ends.
        let set = unsafe { sys::OSSL_ENCODER_CTX_set_cipher(self.0.as_ptr(), cipher.as_ptr(), ptr::null()) };
        done(set, "use the cipher")?;
        // SAFETY: as promised by the caller.
        let set = unsafe { sys::OSSL_ENCODER_CTX_set_passphrase_cb(self.0.as_ptr(), ask, argument) };
        done(set, "ask for a passphrase")
    }

    fn bytes(&self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let (mut data, mut length) = (ptr::null_mut(), 0);
        // SAFETY: the object lives, and there is room for pointer and length.
        let written = unsafe { sys::OSSL_ENCODER_to_data(self.0.as_ptr(), &mut data, &mut length) };
        done(written, "encode the key")?;
        // SAFETY: libcrypto has put so many bytes there.
        let bytes = unsafe { super::input(data, length) }.to_vec().into();
        // SAFETY: they are ours to free, and nobody looks at them any more.
        unsafe { sys::CRYPTO_clear_free(data.cast(), length, c"key-engine".as_ptr(), 0) };
        Ok(bytes)
    }
}

impl Drop for Encoding {
    fn drop(&mut self) {
        // SAFETY: this is the owner, and it is gone after this.
        unsafe { sys::OSSL_ENCODER_CTX_free(self.0.as_ptr()) };
    }
}

const REFERENCES: &CStr = c"references to keys in keyd";
