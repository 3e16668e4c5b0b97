//! What libcrypto holds as the provider's half of a key: a public part in the private library context and, behind it,
//! the key in keyd. Does not know how libcrypto calls.
//!
//! A provider whose key managements are called EC and RSA may be asked for ordinary keys as well, when libcrypto
//! happens to find it first. Such a key lives in the private library context too, with its private part.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::evp::{Check, Pkey, PkeyCtx, Use};
use super::params::{Builder, find};
use super::provider::Provider;
use super::sys::{
    Param, SELECT_ALL, SELECT_DOMAIN, SELECT_KEYPAIR, SELECT_OTHER, SELECT_PRIVATE, SELECT_PUBLIC,
};
use crate::Error;
use crate::remote::{PublicKey, RemoteKey};

/// The type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ec,
    Rsa,
}

/// A key, or what there is of it.
#[derive(Debug, Clone)]
pub(super) struct KeyData {
    pub(super) provider: Arc<Provider>,
    pub(super) kind: Kind,
    /// None until something is imported.
    pub(super) key: Option<Pkey>,
    /// The parts that `key` has.
    parts: c_int,
    /// The private part, if it is in keyd.
    pub(super) remote: Option<Arc<RemoteKey>>,
}

impl Kind {
    /// Its name in OpenSSL.
    pub(super) fn name(self) -> &'static CStr {
        match self {
            Self::Ec => c"EC",
            Self::Rsa => c"RSA",
        }
    }

    /// The type of `public`.
    pub(super) fn of(public: &PublicKey) -> Self {
        match public {
            PublicKey::Ec { .. } => Self::Ec,
            PublicKey::Rsa { .. } => Self::Rsa,
        }
    }
}

impl KeyData {
    pub(super) fn empty(provider: Arc<Provider>, kind: Kind) -> Self {
        Self { provider, kind, key: None, parts: 0, remote: None }
    }

    /// The key in keyd, or only its public part.
    pub(super) fn from_remote(
        provider: Arc<Provider>,
        remote: Arc<RemoteKey>,
        public_only: bool,
    ) -> Result<Self, Error> {
        let params = match remote.public() {
            PublicKey::Ec { curve, point } => {
                Builder::default().text(c"group", curve.name()).octets(c"pub", point)
            }
            PublicKey::Rsa { modulus, exponent } => {
                Builder::default().big_number(c"n", modulus).big_number(c"e", exponent)
            }
        };
        let kind = Kind::of(remote.public());
        let key =
            Pkey::from_data(&provider.lib, kind.name(), SELECT_PUBLIC | SELECT_DOMAIN, params.finish())?;
        if kind == Kind::Ec {
            // keyd gives compressed points; a key that keeps to that form is refused by TLS 1.2.
            key.set(Builder::default().text(c"point-format", "uncompressed").finish())?;
        }
        let parts = SELECT_PUBLIC | SELECT_DOMAIN;
        Ok(Self { provider, kind, key: Some(key), parts, remote: (!public_only).then_some(remote) })
    }

    /// An ordinary key that was just generated.
    pub(super) fn generated(provider: Arc<Provider>, kind: Kind, key: Pkey, parts: c_int) -> Self {
        Self { provider, kind, key: Some(key), parts, remote: None }
    }

    /// Takes over the parts in `params`.
    pub(super) fn import(&mut self, selection: c_int, params: &[Param]) -> Result<(), Error> {
        let built = Builder::filtered(params, |_| true).finish();
        let key = Pkey::from_data(&self.provider.lib, self.kind.name(), selection, built)?;
        let (public, private) = match self.kind {
            Kind::Ec => (c"pub", c"priv"),
            Kind::Rsa => (c"n", c"d"),
        };
        let has =
            |name: &CStr, part: c_int| if params.iter().any(|param| param.name() == name) { part } else { 0 };
        self.parts = (SELECT_DOMAIN | has(public, SELECT_PUBLIC) | has(private, SELECT_PRIVATE)) & selection;
        self.remote = None;
        self.key = Some(key);
        Ok(())
    }

    /// Whether all selected parts are there.
    pub(super) fn has(&self, selection: c_int) -> bool {
        let private = if self.remote.is_some() { SELECT_PRIVATE } else { 0 };
        let domain = if self.kind == Kind::Rsa { SELECT_DOMAIN } else { 0 };
        let there = self.parts | private | domain | SELECT_OTHER;
        self.key.is_some() && selection & SELECT_ALL & !there == 0
    }

    /// Whether the selected parts of both keys are equal. Private parts are compared by their public ones.
    pub(super) fn matches(&self, other: &Self, selection: c_int) -> bool {
        let (Some(a), Some(b)) = (&self.key, &other.key) else { return false };
        match selection & SELECT_KEYPAIR {
            0 => self.kind == Kind::Rsa || a.same_domain(b),
            SELECT_PRIVATE if self.remote.is_some() || other.remote.is_some() => false,
            _ => self.parts & other.parts & SELECT_PUBLIC != 0 && a.equals(b),
        }
    }

    /// The key whose selected parts may leave the provider.
    pub(super) fn exportable(&self, selection: c_int) -> Result<&Pkey, Error> {
        match selection & SELECT_PRIVATE != 0 && self.remote.is_some() {
            true => Err(Error::Stays),
            false => self.key.as_ref().ok_or(NO_KEY),
        }
    }

    /// A copy with the selected parts.
    pub(super) fn duplicate(&self, selection: c_int) -> Result<Self, Error> {
        let wants_private = selection & SELECT_PRIVATE != 0;
        let key = match &self.key {
            None => None,
            Some(key) if self.parts & !selection & SELECT_KEYPAIR == 0 => Some(key.try_dup()?),
            Some(key) => Some(key.part(&self.provider.lib, self.kind.name(), selection & self.parts)?),
        };
        Ok(Self {
            provider: self.provider.clone(),
            kind: self.kind,
            key,
            parts: self.parts & (selection | SELECT_DOMAIN),
            remote: self.remote.clone().filter(|_| wants_private),
        })
    }

    /// Whether the selected parts are sound. The private part in keyd is keyd's matter.
    pub(super) fn is_valid(&self, selection: c_int) -> Result<bool, Error> {
        let ctx = self.context()?;
        let private = selection & SELECT_PRIVATE != 0 && self.remote.is_none();
        let public = selection & SELECT_PUBLIC != 0;
        let domain = selection & SELECT_DOMAIN != 0 && self.kind == Kind::Ec;
        Ok((!domain || ctx.check(Check::Domain))
            && (!public || ctx.check(Check::Public))
            && (!private || ctx.check(Check::Private))
            && (!(private && public) || ctx.check(Check::Pair)))
    }

    /// Notes that the public part was set as a parameter.
    pub(super) fn public_was_set(&mut self) {
        self.parts |= SELECT_PUBLIC;
    }

    /// The key in the private library context.
    pub(super) fn local(&self) -> Result<&Pkey, Error> {
        self.key.as_ref().ok_or(NO_KEY)
    }

    /// The public operation of RSA on as many bytes as the modulus has, if it can be done.
    pub(super) fn rsa_public(&self, block: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let ctx = self.context().ok()?;
        ctx.init(Use::Encrypt).ok()?;
        ctx.set(&Builder::default().int(c"pad-mode", NO_PADDING).finish()).ok()?;
        ctx.encrypt(block, block.len()).ok()
    }

    /// An operation with what of the key is in the private library context.
    pub(super) fn context(&self) -> Result<PkeyCtx, Error> {
        PkeyCtx::from_key(&self.provider.lib, self.local()?)
    }
}

/// Gives an operation its `params`, but no property queries, which are meant for the caller's library context. If they
/// cannot be used and there is a digest among them, it is that.
pub(super) fn set_params(ctx: &PkeyCtx, params: &[Param]) -> Result<(), Error> {
    if params.is_empty() {
        return Ok(());
    }
    let digest = [c"digest", c"mgf1-digest"].into_iter().find_map(|name| find(params, name)?.text());
    let params = Builder::filtered(params, |name| !name.to_bytes().ends_with(b"properties")).finish();
    ctx.set(&params).map_err(|error| digest.map_or(error, |name| Error::Digest(name.to_owned())))
}

const NO_KEY: Error = Error::Refused("there is no key yet");
/// `RSA_NO_PADDING`.
pub(super) const NO_PADDING: c_int = 3;
