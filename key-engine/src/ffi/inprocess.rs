//! The provider registered in this process, in a library context of its own: nothing else in the process is affected,
//! and its keys work everywhere, because libcrypto asks the provider that a key belongs to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use foreign_types::ForeignType as _;
use openssl::pkey::{PKey, Private};

use super::evp::{LibCtx, OsslProvider, PkeyCtx, done};
use super::keydata::Kind;
use super::params::Builder;
use super::provider::{builtin_init, hand_over as hand_over_settings};
use super::sys::{self, SELECT_KEYPAIR};
use super::{HANDOVER_KEY, hand_over};
use crate::Error;
use crate::remote::RemoteKey;
use crate::settings::Settings;

/// A loaded provider. It stays for the life of the process, for keys may.
#[derive(Debug)]
pub struct Loaded {
    lib: LibCtx,
    _providers: [OsslProvider; 2],
}

impl Loaded {
    /// The one with these settings; loads it when it is asked for first.
    pub fn with(settings: &Settings) -> Result<&'static Self, Error> {
        static ALL: Mutex<Option<HashMap<Settings, &'static Loaded>>> = Mutex::new(None);
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let all = all.get_or_insert_default();
        if let Some(loaded) = all.get(settings) {
            return Ok(loaded);
        }
        let loaded: &'static Self = Box::leak(Box::new(Self::load(settings.clone())?));
        all.insert(settings.clone(), loaded);
        Ok(loaded)
    }

    fn load(settings: Settings) -> Result<Self, Error> {
        openssl::init();
        let lib = LibCtx::new()?;
        // SAFETY: the context lives, the name is static, and the function is an init function.
        let added =
            unsafe { sys::OSSL_PROVIDER_add_builtin(lib.as_ptr(), c"aziot".as_ptr(), Some(builtin_init)) };
        done(added, "register the provider aziot")?;
        hand_over_settings(settings);
        let own = OsslProvider::load(&lib, c"aziot")?;
        // libcrypto looks for encoders of a key where the key is at home.
        let default = OsslProvider::load(&lib, c"default")?;
        Ok(Self { lib, _providers: [own, default] })
    }

    /// `key` as OpenSSL knows keys.
    pub fn wrap(&self, key: RemoteKey) -> Result<PKey<Private>, Error> {
        let kind = Kind::of(key.public());
        let ctx = PkeyCtx::from_name(&self.lib, kind.name(), Some(c"provider=aziot"))?;
        hand_over(Some(Arc::new(key)));
        let wrapped = ctx.make(SELECT_KEYPAIR, Builder::default().int(HANDOVER_KEY, 1).finish());
        hand_over(None);
        let raw = wrapped?.into_raw();
        // SAFETY: the pointer is a key, and its one reference changes hands.
        Ok(unsafe { PKey::from_ptr(raw) })
    }
}
