//! Who a peer is, and what it may do (spec identity-service, chapter 6). Knows no identities.
//!
//! Every permission is a value that only this file makes. Unlike upstream, principals only add rights: one for uid 0 takes
//! nothing from root, and of several for one user each gives what it gives. Where the API cannot tell them apart, when a
//! process asks who it is, the last one decides, and one for its user before one for its group.

use std::collections::{BTreeMap, BTreeSet};

use config_common::Who;
use http_common::Peer;
use identity_api::LocalIdOpts;
use identity_api::config::{IdType, Principal};

use crate::Error;
use crate::kind::Kind;

/// The principals of a configuration, by what is asked of them.
#[derive(Debug, Default)]
pub(crate) struct Principals {
    roles: Vec<(Who, Role)>,
    modules: BTreeSet<String>,
    locals: BTreeMap<String, LocalIdOpts>,
}

/// What a principal makes of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Role {
    /// The one that manages all: a principal without `idtype`.
    Manager,
    /// A host process.
    Process(Process),
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
    /// What decides who it is comes last.
    roles: Vec<&'p Role>,
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
        let Principal { who, name, id_types, localid } = principal;
        if id_types.is_none() {
            // Only the first counts; further ones have no rights at all.
            if !self.roles.iter().any(|(_, role)| *role == Role::Manager) {
                self.roles.push((who.clone(), Role::Manager));
            }
            return;
        }
        if principal.has(IdType::Module) {
            self.modules.insert(name.clone());
        }
        if principal.has(IdType::Local) {
            let options = localid.unwrap_or_default();
            self.locals.insert(name.clone(), options);
        }
        let has = |kind| principal.has(kind);
        let process = Process {
            name: name.clone(),
            device: has(IdType::Device),
            module: has(IdType::Module),
            local: has(IdType::Local),
        };
        self.roles.push((who.clone(), Role::Process(process)));
    }

    /// Who `peer` is.
    pub(crate) fn caller(&self, peer: &Peer) -> Caller<'_> {
        let uid = peer.uid;
        let meant = self.roles.iter().filter(|(who, _)| who.includes(peer));
        let (by_user, by_group): (Vec<_>, Vec<_>) = meant.partition(|(who, _)| who.includes_user(uid));
        let roles = by_group.into_iter().chain(by_user).map(|(_, role)| role).collect();
        Caller { uid, roles }
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
        match self.roles.last() {
            Some(Role::Manager | Role::Process(Process { device: true, .. })) => Ok(Own::Device),
            Some(Role::Process(Process { name, module: true, .. })) => Ok(Own::Module(name.clone())),
            _ if self.manages() => Ok(Own::Device),
            Some(Role::Process(Process { local: true, .. })) => {
                Err(self.forbidden("have an identity", LOCAL_ONLY))
            }
            Some(_) => Err(self.forbidden("have an identity", "its [[principal]] has an empty idtype")),
            None => Err(self.forbidden("have an identity", NEEDS_PRINCIPAL)),
        }
    }

    /// Whether it may have the device's identity.
    pub(crate) fn device(&self) -> Result<ReadDevice, Error> {
        match self.manages() || self.processes().any(|process| process.device) {
            true => Ok(ReadDevice(())),
            false => {
                Err(self
                    .forbidden("have the device's identity", "a [[principal]] with idtype \"device\" may"))
            }
        }
    }

    /// Whether it may have the identity `id` of this kind; `None` is a kind that there is not, to be told to whoever may
    /// have anything of this name.
    ///
    /// Unlike upstream's, a principal for local identities gets no key of the hub's module that has its name. One for
    /// modules may ask for a local identity, as with upstream, to be told that there is none.
    pub(crate) fn module(&self, id: &str, kind: Option<Kind>) -> Result<ReadModule, Error> {
        let may = |process: &Process| match kind {
            Some(Kind::Aziot) => process.module,
            Some(Kind::Local) | None => process.module || process.local,
        };
        let mut own = self.processes().filter(|process| process.name == id).peekable();
        let remedy = match own.peek() {
            Some(Process { local: true, .. }) => LOCAL_ONLY,
            _ => "only its own [[principal]] may",
        };
        match self.manages() || own.any(may) {
            true => Ok(ReadModule(())),
            false => Err(self.forbidden(&format!("have the identity {id:?}"), remedy)),
        }
    }

    /// Whether it may manage all identities; `action` is for the refusal.
    pub(crate) fn manage(&self, action: &str) -> Result<Manage, Error> {
        match self.manages() {
            true => Ok(Manage(())),
            false => Err(self.forbidden(action, "only root and the [[principal]] without idtype may")),
        }
    }

    fn manages(&self) -> bool {
        self.uid == ROOT || self.roles.contains(&&Role::Manager)
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.roles.iter().filter_map(|role| match role {
            Role::Manager => None,
            Role::Process(process) => Some(process),
        })
    }

    fn forbidden(&self, action: &str, remedy: &'static str) -> Error {
        Error::Forbidden { uid: self.uid, action: action.to_owned(), remedy }
    }
}

const ROOT: u32 = 0;
const LOCAL_ONLY: &str =
    "its [[principal]] has idtype \"local\", which is had with type=local by its name, not \"module\"";
const NEEDS_PRINCIPAL: &str = "no [[principal]] of identityd is for this user";

#[cfg(test)]
mod tests {
    use identity_api::LocalUse;

    use super::*;

    fn principal(uid: u32, name: &str, id_types: Option<&[IdType]>) -> Principal {
        Principal {
            who: uid.into(),
            name: name.to_owned(),
            id_types: id_types.map(<[_]>::to_vec),
            localid: None,
        }
    }

    /// Own identity (`d`, a module's name or `-`), then y or n for: device, module `own`, another module, manage, the local
    /// identity `own`.
    fn rights(principals: &[Principal], uid: u32, own: &str) -> String {
        let table = Principals::new(principals);
        let caller = table.caller(&Peer::of_uid(uid));
        let identity = match caller.own_identity() {
            Ok(Own::Device) => "d".to_owned(),
            Ok(Own::Module(name)) => name,
            Err(_) => "-".to_owned(),
        };
        let answers = [
            caller.device().is_ok(),
            caller.module(own, Some(Kind::Aziot)).is_ok(),
            caller.module("another", Some(Kind::Aziot)).is_ok(),
            caller.manage("x").is_ok(),
            caller.module(own, Some(Kind::Local)).is_ok(),
        ];
        let answers: String = answers.iter().map(|allowed| if *allowed { 'y' } else { 'n' }).collect();
        format!("{identity} {answers}")
    }

    #[test]
    fn the_matrix() {
        use IdType::{Device, Local, Module};
        let table: &[(Option<&[IdType]>, &str, &str)] = &[
            // idtype, rights of uid 7, rights of root when the principal is root's
            (None, "d yyyyy", "d yyyyy"),
            (Some(&[]), "- nnnnn", "d yyyyy"),
            (Some(&[Device]), "d ynnnn", "d yyyyy"),
            (Some(&[Module]), "x nynny", "x yyyyy"),
            (Some(&[Local]), "- nnnny", "d yyyyy"),
            (Some(&[Module, Local]), "x nynny", "x yyyyy"),
            (Some(&[Module, Device]), "d yynny", "d yyyyy"),
        ];
        for (id_types, expected, of_root) in table {
            assert_eq!(rights(&[principal(7, "x", *id_types)], 7, "x"), *expected, "{id_types:?}");
            assert_eq!(rights(&[principal(0, "x", *id_types)], 0, "x"), *of_root, "{id_types:?}");
            assert_eq!(rights(&[principal(7, "x", *id_types)], 0, "x"), "d yyyyy", "{id_types:?}");
            assert_eq!(rights(&[principal(7, "x", *id_types)], 8, "x"), "- nnnnn", "{id_types:?}");
        }
    }

    #[test]
    fn only_the_first_manager_counts() {
        let two = [principal(7, "a", None), principal(8, "b", None)];
        assert_eq!(rights(&two, 7, "a"), "d yyyyy");
        assert_eq!(rights(&two, 8, "b"), "- nnnnn");
    }

    #[test]
    fn each_principal_of_a_user_gives_and_the_last_decides_who_it_is() {
        let module: Option<&[IdType]> = Some(&[IdType::Module]);
        let two = [principal(7, "a", module), principal(7, "b", module)];
        assert_eq!(rights(&two, 7, "a"), "b nynny");
        assert_eq!(rights(&two, 7, "b"), "b nynny");
        assert_eq!(Principals::new(&two).modules().iter().collect::<Vec<_>>(), ["a", "b"]);
        let device = principal(7, "d", Some(&[IdType::Device]));
        assert_eq!(rights(&[device, principal(7, "a", module)], 7, "a"), "a yynny");
        assert_eq!(rights(&[principal(7, "m", None), principal(7, "b", module)], 7, "b"), "b yyyyy");
        assert_eq!(rights(&[principal(7, "b", module), principal(7, "m", None)], 7, "b"), "d yyyyy");
        assert_eq!(rights(&[principal(7, "a", module), principal(7, "e", Some(&[]))], 7, "a"), "- nynny");
    }

    #[test]
    fn a_group_is_whoever_runs_with_it_and_a_user_comes_before_it() {
        let group = Who::of(None, Some("root".to_owned())).unwrap();
        let shared = Principal { who: group, ..principal(7, "shared", Some(&[IdType::Module])) };
        let table = Principals::new(&[principal(7, "mine", Some(&[IdType::Module])), shared]);
        let peer = |uid, gid, groups: &[u32]| Peer { gid, groups: groups.into(), ..Peer::of_uid(uid) };
        let own = |uid, gid| table.caller(&peer(uid, gid, &[])).own_identity().ok();
        assert_eq!(own(8, 0), Some(Own::Module("shared".into())));
        assert_eq!(own(7, 0), Some(Own::Module("mine".into())));
        assert_eq!(own(8, 8), None);
        assert_eq!(
            table.caller(&peer(8, 8, &[5, 0])).own_identity().ok(),
            Some(Own::Module("shared".into()))
        );
        assert!(table.caller(&peer(8, 8, &[5])).own_identity().is_err());
        assert!(table.caller(&peer(7, 0, &[])).module("shared", Some(Kind::Aziot)).is_ok());
    }

    #[test]
    fn locals_have_options() {
        let server = LocalIdOpts::from(LocalUse::Server);
        let with = Principal { localid: Some(server), ..principal(7, "s", Some(&[IdType::Local])) };
        let table =
            Principals::new(&[with, principal(8, "c", Some(&[IdType::Local])), principal(9, "m", Some(&[]))]);
        assert_eq!(table.local("s"), Some(server));
        assert_eq!(table.local("c"), Some(LocalIdOpts::default()));
        assert_eq!(table.local("m"), None);
    }
}
