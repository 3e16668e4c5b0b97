//! Who may use the TPM: everybody who can open the socket, unless principals are configured. Knows no requests.

use std::sync::{Arc, RwLock};

use config_common::Who;
use http_common::Peer;
use tpm_api::Config;

use crate::Error;

/// The principals in force.
pub(crate) struct Access(RwLock<Arc<[Who]>>);

impl Access {
    /// The principals of `config`.
    pub(crate) fn new(config: &Config) -> Self {
        Self(RwLock::new(principals(config)))
    }

    /// From now on the principals of `config`.
    pub(crate) fn replace(&self, config: &Config) {
        *self.0.write().expect("no panic while held") = principals(config);
    }

    /// Refuses whoever may not use the TPM.
    pub(crate) fn check(&self, peer: &Peer) -> Result<(), Error> {
        let principals = Arc::clone(&self.0.read().expect("no panic while held"));
        let is_meant = |who: &Who| who.includes(peer);
        match principals.is_empty() || peer.uid == ROOT || principals.iter().any(is_meant) {
            true => Ok(()),
            false => Err(Error::Forbidden { uid: peer.uid }),
        }
    }
}

fn principals(config: &Config) -> Arc<[Who]> {
    config.principal.iter().map(|principal| principal.who.clone()).collect()
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principals_limit_who_may_call() {
        let config = |text| toml::from_str::<Config>(text).unwrap();
        let access = Access::new(&config(""));
        let may = |access: &Access, uid| access.check(&Peer::of_uid(uid)).is_ok();
        assert!(may(&access, 7) && may(&access, 0));
        access.replace(&config("[[principal]]\nuid = 7\n[[principal]]\nuid = 8"));
        assert!(may(&access, 7) && may(&access, 8) && may(&access, 0) && !may(&access, 9));
        access.replace(&config("[[principal]]\nuser = 'nobody known'"));
        assert!(may(&access, 0) && !may(&access, 7), "a principal that nobody is keeps the others out");
        access.replace(&config("[[principal]]\ngroup = 'root'"));
        let of_group = |gid, groups: &[u32]| {
            let peer = Peer { gid, groups: groups.into(), ..Peer::of_uid(7) };
            access.check(&peer).is_ok()
        };
        assert!(of_group(0, &[]) && of_group(7, &[8, 0]) && !of_group(7, &[8]) && !may(&access, 7));
    }
}
