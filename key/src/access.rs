//! Who may use which key (spec keys-service, chapter 5). Knows no keys.

use std::sync::{Arc, RwLock};

use config_common::Acl;
use http_common::Peer;
use key_api::Config;

use crate::{Error, Permit};

/// The principals in force.
pub(crate) struct Access(RwLock<Arc<Rules>>);

struct Rules {
    acl: Acl,
    for_handles: bool,
}

impl Access {
    /// The rules of `config`.
    pub(crate) fn new(config: &Config) -> Self {
        Self(RwLock::new(Arc::new(Rules::of(config))))
    }

    /// From now on the rules of `config`.
    pub(crate) fn replace(&self, config: &Config) {
        let rules = Arc::new(Rules::of(config));
        *self.0.write().expect("no panic while held") = rules;
    }

    /// The proof that `peer` may use the key `id`. What else is wrong with the id only those learn who may use it.
    pub(crate) fn by_id(&self, peer: &Peer, id: &str) -> Result<Permit, Error> {
        match self.rules().acl.allow(peer, id) {
            Some(allowed) => Permit::from_acl(allowed),
            None => Err(Error::Forbidden { uid: peer.uid, id: id.to_owned() }),
        }
    }

    /// Whether `peer` may use the key it has a handle of: always, unless `require_principal_for_handles` is set.
    pub(crate) fn by_handle(&self, peer: &Peer, permit: &Permit) -> Result<(), Error> {
        let rules = self.rules();
        match rules.for_handles && rules.acl.allow(peer, permit.id().as_str()).is_none() {
            true => Err(Error::Forbidden { uid: peer.uid, id: permit.id().as_str().to_owned() }),
            false => Ok(()),
        }
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.0.read().expect("no panic while held"))
    }
}

impl Rules {
    fn of(config: &Config) -> Self {
        let principals = config.principal.iter();
        Self {
            acl: principals.map(|principal| (principal.who.clone(), principal.keys.clone())).collect(),
            for_handles: config.require_principal_for_handles,
        }
    }
}
