//! Making keys: in keyd, when an id is given for them, or ordinary ones (spec openssl-engine, 13.3 K8).

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use super::evp::{PkeyCtx, Use};
use super::keydata::{KeyData, Kind, set_params};
use super::keymgmt::KeyType;
use super::object::{Object, lend, release, status, with_mut, with_provider, with_ref};
use super::params::{END, entry, find, slice};
use super::provider::Provider;
use super::sys::{
    Callback, INTEGER, OCTET_STRING, Param, SELECT_DOMAIN, SELECT_KEYPAIR, UNSIGNED_INTEGER, UTF8_STRING,
};
use crate::remote::RemoteKey;
use crate::wanted::Wanted;
use crate::{Error, KeyName};

/// A key to be generated.
struct Generation {
    provider: Arc<Provider>,
    kind: Kind,
    selection: c_int,
    ctx: PkeyCtx,
    /// Where in keyd it is to be; an ordinary key if absent.
    id: Option<String>,
    /// What it is to be there.
    wanted: Wanted,
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
        let mut generation = Self { provider, kind, selection, ctx, id: None, wanted: Wanted::default() };
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
        let Wanted { group, explicit_curve, bits, exponent, primes } = &mut self.wanted;
        if let Some(name) = find(params, c"group") {
            *group = Some(name.text().unwrap_or_default().to_owned());
        }
        *explicit_curve |= find(params, c"p").is_some();
        for (key, number) in [(c"bits", bits), (c"e", exponent), (c"primes", primes)] {
            if let Some(param) = find(params, key) {
                // A number that does not fit is none that keyd's keys have.
                *number = Some(param.integer().unwrap_or(i64::MAX));
            }
        }
        let rest = params.iter().filter(|param| param.name() != ID_KEY).copied().collect::<Vec<_>>();
        set_params(&self.ctx, &rest)
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
        let algorithm = match self.kind {
            Kind::Ec => self.wanted.ec()?,
            Kind::Rsa => self.wanted.rsa()?,
        };
        let keyd = self.provider.keyd()?;
        keyd.create(id, algorithm)?;
        let remote = RemoteKey::load(keyd, KeyName::Id(id.to_owned()))?;
        match Kind::of(remote.public()) == self.kind && self.wanted.is(remote.public()) {
            true => KeyData::from_remote(self.provider.clone(), Arc::new(remote), false),
            false => Err(Error::Refused("keyd has a key of another kind under this id")),
        }
    }
}

pub(super) unsafe extern "C" fn gen_init<T: KeyType>(
    context: *mut c_void,
    selection: c_int,
    params: *const Param,
) -> *mut c_void {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    // SAFETY: libcrypto passes the provider's context.
    lend(unsafe { with_provider(context, |provider| Generation::new(provider, T::KIND, selection, params)) })
}

pub(super) unsafe extern "C" fn gen_set_template(generation: *mut c_void, template: *mut c_void) -> c_int {
    // SAFETY: libcrypto passes a key of this provider.
    let Some(template) = (unsafe { template.cast::<KeyData>().as_ref() }) else { return 0 };
    let set = |generation: &mut Generation| {
        generation.ctx = template.context()?;
        if template.kind == Kind::Ec {
            generation.wanted.group = template.local()?.get_text(c"group");
        }
        generation.ctx.init(Generation::purpose(generation.selection))
    };
    // SAFETY: libcrypto passes what `gen_init` gave it.
    status(unsafe { with_mut(generation, set) })
}

pub(super) unsafe extern "C" fn gen_set_params(generation: *mut c_void, params: *const Param) -> c_int {
    // SAFETY: libcrypto passes a complete array.
    let params = unsafe { slice(params) };
    // SAFETY: libcrypto passes what `gen_init` gave it.
    status(unsafe { with_mut(generation, |generation: &mut Generation| generation.set(params)) })
}

pub(super) unsafe extern "C" fn generate(
    generation: *mut c_void,
    _progress: Option<Callback>,
    _argument: *mut c_void,
) -> *mut c_void {
    // SAFETY: libcrypto passes what `gen_init` gave it.
    lend(unsafe { with_ref(generation, Generation::generate) })
}

pub(super) unsafe extern "C" fn gen_cleanup(generation: *mut c_void) {
    // SAFETY: libcrypto gives back what `gen_init` gave it, once.
    unsafe { release::<Generation>(generation) };
}

pub(super) unsafe extern "C" fn gen_settable_params<T: KeyType>(
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
