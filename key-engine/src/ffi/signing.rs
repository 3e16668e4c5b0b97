//! A signature under way. The parameters live in an operation of OpenSSL's own with the public part of the key, which
//! checks them and knows what they mean; only the private operation goes to keyd.

use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::evp::{Md, MdCtx, PkeyCtx, Use};
use super::keydata::{KeyData, Kind, NO_PADDING, set_params};
use super::object::Object;
use super::params::{Builder, find};
use super::provider::Provider;
use super::sys::Param;
use crate::Error;
use crate::padding::{Hash as _, SaltLength, digest_info, pad_pss};
use crate::remote::{RemoteKey, RsaOperation};

/// A signature or verification under way.
#[derive(Debug)]
pub(super) struct Signing {
    provider: Arc<Provider>,
    kind: Kind,
    key: Option<KeyData>,
    ctx: Option<PkeyCtx>,
    md: Option<Md>,
    digest: Option<MdCtx>,
}

impl Object for Signing {
    fn provider(&self) -> &Provider {
        &self.provider
    }
}

impl Signing {
    pub(super) fn new(provider: Arc<Provider>, kind: Kind) -> Self {
        Self { provider, kind, key: None, ctx: None, md: None, digest: None }
    }

    /// Begins anew: with `key`, or the one of the last time; over data if there is a `digest`, else over a digest.
    pub(super) fn init(
        &mut self,
        purpose: Use,
        key: Option<&KeyData>,
        digest: Option<&CStr>,
        params: &[Param],
    ) -> Result<(), Error> {
        if let Some(key) = key {
            if key.kind != self.kind {
                return Err(Error::Refused("the key is of another type"));
            }
            self.key = Some(key.clone());
        }
        let key = self.key.as_ref().ok_or(NO_KEY)?;
        let ctx = key.context()?;
        // Without the private part here, the operation is one that the public part can begin.
        ctx.init(if key.remote.is_some() && purpose == Use::Sign { Use::Verify } else { purpose })?;
        self.ctx = Some(ctx);
        self.md = None;
        self.digest = None;
        if let Some(name) = digest {
            let text = name.to_str().map_err(|_| Error::Refused("the name of the digest is no text"))?;
            let refused = |_| Error::Digest(text.to_owned());
            self.ctx()?.set(&Builder::default().text(c"digest", text).finish()).map_err(refused)?;
            let md = Md::fetch(&self.provider.lib, name)?;
            self.digest = Some(MdCtx::new(&md)?);
            self.md = Some(md);
        }
        self.set(params)
    }

    pub(super) fn set(&mut self, params: &[Param]) -> Result<(), Error> {
        if let Some(name) = find(params, c"digest").and_then(Param::text).filter(|name| !name.is_empty()) {
            let name =
                CString::new(name).map_err(|_| Error::Refused("the name of the digest contains NUL"))?;
            let md = Md::fetch(&self.provider.lib, &name)?;
            let fixed = self.md.as_ref().filter(|_| self.digest.is_some());
            if fixed.is_some_and(|fixed| fixed.name() != md.name()) {
                return Err(Error::Refused("the digest cannot be changed while data are digested"));
            }
            self.md = Some(md);
        }
        let ctx = self.ctx()?;
        set_params(ctx, params)?;
        // libcrypto takes a word that it does not know for 0; `auto-digestmax` is one before 3.1.
        let word =
            find(params, c"saltlen").and_then(Param::text).filter(|text| text.parse::<c_int>().is_err());
        match word.is_some() && ctx.get_int(c"saltlen")? == 0 {
            true => Err(Error::Refused(
                "this OpenSSL does not know this PSS salt length; use digest, max or a number",
            )),
            false => Ok(()),
        }
    }

    /// The operation with the parameters.
    pub(super) fn ctx(&self) -> Result<&PkeyCtx, Error> {
        self.ctx.as_ref().ok_or(NO_KEY)
    }

    /// Bytes of the longest signature.
    pub(super) fn room(&self) -> Result<usize, Error> {
        Ok(self.key()?.local()?.size())
    }

    pub(super) fn update(&mut self, data: &[u8]) -> Result<(), Error> {
        self.digest.as_mut().ok_or(NO_DIGEST)?.update(data)
    }

    /// The signature of the data so far.
    pub(super) fn sign_digested(&mut self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let digest = self.finish_digest()?;
        self.sign(&digest)
    }

    /// Whether `signature` is one of the data so far.
    pub(super) fn verify_digested(&mut self, signature: &[u8]) -> Result<bool, Error> {
        let digest = self.finish_digest()?;
        self.verify(signature, &digest)
    }

    pub(super) fn verify(&self, signature: &[u8], digest: &[u8]) -> Result<bool, Error> {
        Ok(self.ctx()?.verify(signature, digest))
    }

    pub(super) fn recover(&self, signature: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.ctx()?.recover(signature, self.room()?)
    }

    /// The signature of `digest`.
    pub(super) fn sign(&self, digest: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let key = self.key()?;
        match &key.remote {
            None => self.ctx()?.sign(digest, self.room()?),
            Some(_) if self.md.as_ref().is_some_and(|md| md.size() != digest.len()) => {
                Err(Error::Refused("the data to sign are not as long as the digest"))
            }
            Some(remote) => match key.kind {
                Kind::Ec => {
                    let ctx = self.ctx()?;
                    let signature = remote.sign_ecdsa(digest, |signature| ctx.verify(signature, digest));
                    signature.map(Zeroizing::new)
                }
                Kind::Rsa => self.sign_rsa(key, remote, digest),
            },
        }
    }

    fn sign_rsa(
        &self,
        key: &KeyData,
        remote: &RemoteKey,
        digest: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let private = |operation, data: &[u8]| remote.rsa(operation, data, |block| key.rsa_public(block));
        match self.ctx()?.get_int(c"pad-mode")? {
            PKCS1 => {
                let signed = self.md.as_ref().map(|md| digest_info(md.name(), digest)).transpose()?;
                private(RsaOperation::Pkcs1Sign, signed.as_deref().unwrap_or(digest))
            }
            NO_PADDING if digest.len() == self.room()? => private(RsaOperation::Raw, digest),
            NO_PADDING => Err(Error::Refused("without padding, the data must be as long as the modulus")),
            PSS => private(RsaOperation::Raw, &self.padded_pss(digest)?),
            _ => {
                Err(Error::Refused("this padding is not supported for signatures by keyd; use pkcs1 or pss"))
            }
        }
    }

    fn padded_pss(&self, digest: &[u8]) -> Result<Vec<u8>, Error> {
        let ctx = self.ctx()?;
        let md = self.md.as_ref().ok_or(Error::Refused("PSS needs a digest"))?;
        let mgf1 = ctx.get_text(c"mgf1-digest")?.filter(|name| name != md.name());
        let mgf1 = mgf1.map(|name| CString::new(name).unwrap_or_default());
        let mgf1 = mgf1.map(|name| Md::fetch(&self.provider.lib, &name)).transpose()?;
        let salt = SaltLength::from_number(ctx.get_int(c"saltlen")?)?;
        let random = |salt: &mut [u8]| {
            getrandom::fill(salt).map_err(|_| Error::Refused("no random bytes from the system"))
        };
        pad_pss(md, mgf1.as_ref().unwrap_or(md), digest, self.key()?.local()?.bits(), salt, random)
    }

    pub(super) fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self {
            provider: self.provider.clone(),
            kind: self.kind,
            key: self.key.clone(),
            ctx: self.ctx.as_ref().map(PkeyCtx::try_clone).transpose()?,
            md: self.md.clone(),
            digest: self.digest.as_ref().map(MdCtx::try_clone).transpose()?,
        })
    }

    fn finish_digest(&mut self) -> Result<Zeroizing<Vec<u8>>, Error> {
        let size = self.md.as_ref().map(|md| md.size()).ok_or(NO_DIGEST)?;
        self.digest.as_mut().ok_or(NO_DIGEST)?.finish(size)
    }

    fn key(&self) -> Result<&KeyData, Error> {
        self.key.as_ref().ok_or(NO_KEY)
    }
}

const NO_KEY: Error = Error::Refused("the operation has not been begun with a key");
const NO_DIGEST: Error = Error::Refused("the operation has not been begun with a digest");
/// `RSA_PKCS1_PADDING`.
const PKCS1: i32 = 1;
/// `RSA_PKCS1_PSS_PADDING`.
const PSS: i32 = 6;
