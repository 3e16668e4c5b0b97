//! Who may use the TPM: everybody who can open the socket, unless principals are configured. Knows no requests.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use http_common::Peer;
use tpm_api::Config;

use crate::Error;

/// The principals in force.
pub(crate) struct Access(RwLock<Arc<BTreeSet<u32>>>);

impl Access {
    /// The principals of `config`.
    pub(crate) fn new(config: &Config) -> Self {
        Self(RwLock::new(uids(config)))
    }

    /// From now on the principals of `config`.
    pub(crate) fn replace(&self, config: &Config) {
        *self.0.write().expect("no panic while held") = uids(config);
    }

    /// Refuses whoever may not use the TPM.
    pub(crate) fn check(&self, peer: Peer) -> Result<(), Error> {
        let uids = Arc::clone(&self.0.read().expect("no panic while held"));
        match uids.is_empty() || peer.uid == ROOT || uids.contains(&peer.uid) {
            true => Ok(()),
            false => Err(Error::Forbidden { uid: peer.uid }),
        }
    }
}

fn uids(config: &Config) -> Arc<BTreeSet<u32>> {
    Arc::new(config.principal.iter().map(|principal| principal.uid).collect())
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_limit_who_may_call() {
        let config = |text| toml::from_str::<Config>(text).unwrap();
        let access = Access::new(&config(""));
        let may = |access: &Access, uid| access.check(Peer::of_uid(uid)).is_ok();
        assert!(may(&access, 7) && may(&access, 0));
        access.replace(&config("[[principal]]\nuid = 7\n[[principal]]\nuid = 8"));
        assert!(may(&access, 7) && may(&access, 8) && may(&access, 0) && !may(&access, 9));
    }
}
