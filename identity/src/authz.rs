//! Who a peer is, and what it may do (spec identity-service, chapter 6). Knows no identities.
//!
//! Every permission is a value that only this file makes. Unlike upstream, a principal for uid 0 adds an identity to root
//! and takes nothing away.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use http_common::Peer;
use identity_api::config::{IdType, Principal};
use identity_api::{LocalIdOpts, LocalUse};

use crate::Error;

/// The principals of a configuration, by what is asked of them.
#[derive(Debug, Default)]
pub(crate) struct Principals {
    processes: HashMap<u32, Process>,
    has_manager: bool,
    manager: Option<u32>,
    modules: BTreeSet<String>,
    locals: BTreeMap<String, LocalIdOpts>,
}

/// A host process: a principal with `idtype`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    name: String,
    device: bool,
    module: bool,
    local: bool,
}

/// A peer, and what the configuration says of it.
#[derive(Debug)]
pub(crate) struct Caller<'p> {
    uid: u32,
    manages: bool,
    process: Option<&'p Process>,
}

/// Which identity is a caller's own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// That of the device.
    Device,
    /// That of the module with this name.
    Module(String),
}

/// The permission to manage all identities.
#[derive(Debug)]
pub(crate) struct Manage(());

/// The permission to have the device's identity.
#[derive(Debug)]
pub(crate) struct ReadDevice(());

/// The permission to have one module's identity.
#[derive(Debug)]
pub(crate) struct ReadModule(());

impl Principals {
    /// The table for `principals`, which come in the order of the files.
    pub(crate) fn new(principals: &[Principal]) -> Self {
        let mut table = Self::default();
        for principal in principals {
            table.add(principal);
        }
        table
    }

    fn add(&mut self, principal: &Principal) {
        let Principal { uid, name, id_types, localid } = principal;
        if id_types.is_none() {
            // Only the first counts; further ones have no rights at all.
            if !self.has_manager {
                self.has_manager = true;
                self.processes.remove(uid);
                self.manager = Some(*uid);
            }
            return;
        }
        if principal.has(IdType::Module) {
            self.modules.insert(name.clone());
        }
        if principal.has(IdType::Local) {
            let options = localid.unwrap_or(LocalIdOpts::X509 { attributes: LocalUse::Client });
            self.locals.insert(name.clone(), options);
        }
        if self.manager == Some(*uid) {
            self.manager = None;
        }
        let has = |kind| principal.has(kind);
        let process = Process {
            name: name.clone(),
            device: has(IdType::Device),
            module: has(IdType::Module),
            local: has(IdType::Local),
        };
        self.processes.insert(*uid, process);
    }

    /// Who `peer` is.
    pub(crate) fn caller(&self, peer: Peer) -> Caller<'_> {
        let uid = peer.uid;
        let manages = uid == ROOT || self.manager == Some(uid);
        Caller { uid, manages, process: self.processes.get(&uid) }
    }

    /// The names of the modules that must exist at the hub.
    pub(crate) fn modules(&self) -> &BTreeSet<String> {
        &self.modules
    }

    /// What the certificate of the local principal `name` is for; `None` if there is no such principal.
    pub(crate) fn local(&self, name: &str) -> Option<LocalIdOpts> {
        self.locals.get(name).copied()
    }
}

impl Caller<'_> {
    /// Which identity is its own.
    pub(crate) fn own_identity(&self) -> Result<Own, Error> {
        match self.process {
            Some(Process { device: true, .. }) => Ok(Own::Device),
            Some(Process { name, module, local, .. }) if *module || *local => Ok(Own::Module(name.clone())),
            _ if self.manages => Ok(Own::Device),
            Some(_) => Err(self.forbidden("have an identity", "its [[principal]] has an empty idtype")),
            None => Err(self.forbidden("have an identity", NEEDS_PRINCIPAL)),
        }
    }

    /// Whether it may have the device's identity.
    pub(crate) fn device(&self) -> Result<ReadDevice, Error> {
        let device = self.process.is_some_and(|process| process.device);
        match self.manages || device {
            true => Ok(ReadDevice(())),
            false => {
                Err(self
                    .forbidden("have the device's identity", "a [[principal]] with idtype \"device\" may"))
            }
        }
    }

    /// Whether it may have the identity of the module `id`.
    pub(crate) fn module(&self, id: &str) -> Result<ReadModule, Error> {
        let own = |process: &Process| process.name == id && (process.module || process.local);
        match self.manages || self.process.is_some_and(own) {
            true => Ok(ReadModule(())),
            false => {
                Err(self.forbidden(&format!("have the identity {id:?}"), "only its own [[principal]] may"))
            }
        }
    }

    /// Whether it may manage all identities; `action` is for the refusal.
    pub(crate) fn manage(&self, action: &str) -> Result<Manage, Error> {
        match self.manages {
            true => Ok(Manage(())),
            false => Err(self.forbidden(action, "only root and the [[principal]] without idtype may")),
        }
    }

    fn forbidden(&self, action: &str, remedy: &'static str) -> Error {
        Error::Forbidden { uid: self.uid, action: action.to_owned(), remedy }
    }
}

const ROOT: u32 = 0;
const NEEDS_PRINCIPAL: &str = "no [[principal]] of identityd has this uid";

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(uid: u32, name: &str, id_types: Option<&[IdType]>) -> Principal {
        Principal { uid, name: name.to_owned(), id_types: id_types.map(<[_]>::to_vec), localid: None }
    }

    /// Own identity (`d`, a module's name or `-`), then y or n for: device, module `own`, another module, manage.
    fn rights(principals: &[Principal], uid: u32, own: &str) -> String {
        let table = Principals::new(principals);
        let caller = table.caller(Peer::of_uid(uid));
        let identity = match caller.own_identity() {
            Ok(Own::Device) => "d".to_owned(),
            Ok(Own::Module(name)) => name,
            Err(_) => "-".to_owned(),
        };
        let answers = [
            caller.device().is_ok(),
            caller.module(own).is_ok(),
            caller.module("another").is_ok(),
            caller.manage("x").is_ok(),
        ];
        let answers: String = answers.iter().map(|allowed| if *allowed { 'y' } else { 'n' }).collect();
        format!("{identity} {answers}")
    }

    #[test]
    fn the_matrix() {
        use IdType::{Device, Local, Module};
        let table: &[(Option<&[IdType]>, &str, &str)] = &[
            // idtype, rights of uid 7, rights of root when the principal is root's
            (None, "d yyyy", "d yyyy"),
            (Some(&[]), "- nnnn", "d yyyy"),
            (Some(&[Device]), "d ynnn", "d yyyy"),
            (Some(&[Module]), "x nynn", "x yyyy"),
            (Some(&[Local]), "x nynn", "x yyyy"),
            (Some(&[Module, Local]), "x nynn", "x yyyy"),
            (Some(&[Module, Device]), "d yynn", "d yyyy"),
        ];
        for (id_types, expected, of_root) in table {
            assert_eq!(rights(&[principal(7, "x", *id_types)], 7, "x"), *expected, "{id_types:?}");
            assert_eq!(rights(&[principal(0, "x", *id_types)], 0, "x"), *of_root, "{id_types:?}");
            assert_eq!(rights(&[principal(7, "x", *id_types)], 0, "x"), "d yyyy", "{id_types:?}");
            assert_eq!(rights(&[principal(7, "x", *id_types)], 8, "x"), "- nnnn", "{id_types:?}");
        }
    }

    #[test]
    fn only_the_first_manager_counts() {
        let two = [principal(7, "a", None), principal(8, "b", None)];
        assert_eq!(rights(&two, 7, "a"), "d yyyy");
        assert_eq!(rights(&two, 8, "b"), "- nnnn");
    }

    #[test]
    fn the_last_principal_of_a_uid_decides() {
        let module: Option<&[IdType]> = Some(&[IdType::Module]);
        let two = [principal(7, "a", module), principal(7, "b", module)];
        assert_eq!(rights(&two, 7, "a"), "b nnnn");
        assert_eq!(Principals::new(&two).modules().iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(rights(&[principal(7, "m", None), principal(7, "b", module)], 7, "b"), "b nynn");
        assert_eq!(rights(&[principal(7, "b", module), principal(7, "m", None)], 7, "b"), "d yyyy");
    }

    #[test]
    fn locals_have_options() {
        let server = LocalIdOpts::X509 { attributes: LocalUse::Server };
        let with = Principal { localid: Some(server), ..principal(7, "s", Some(&[IdType::Local])) };
        let table =
            Principals::new(&[with, principal(8, "c", Some(&[IdType::Local])), principal(9, "m", Some(&[]))]);
        assert_eq!(table.local("s"), Some(server));
        assert_eq!(table.local("c"), Some(LocalIdOpts::X509 { attributes: LocalUse::Client }));
        assert_eq!(table.local("m"), None);
    }
}
