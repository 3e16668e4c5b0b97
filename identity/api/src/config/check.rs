//! What is wrong with a configuration that reads well (spec identity-service, 7.6). Knows neither files nor services.

use std::collections::HashSet;

use super::{Attestation, Config, Dps, IdType, Manual, Source};

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadConfig {
    /// Two principals have one name.
    #[error("two entries of [[principal]] have the name {name:?}; names must be unique")]
    SameName {
        /// The name.
        name: String,
    },
    /// A change would bring another one who manages all identities.
    #[error(
        "the principals {names:?} have no idtype; only one may manage all identities, so that a change which brings another is refused"
    )]
    SecondManager {
        /// The principals without `idtype`, in the order of the files.
        names: Vec<String>,
    },
    /// A local principal, and no domain for it.
    #[error("the principal {name:?} has idtype \"local\", which needs the setting localid.domain")]
    NoDomain {
        /// The principal.
        name: String,
    },
    /// Options of a local identity for a principal that has none.
    #[error("the principal {name:?} has localid options but not idtype \"local\"")]
    NotLocal {
        /// The principal.
        name: String,
    },
    /// Hub identities, and no hub.
    #[error(
        "the principal {name:?} has idtype \"device\" or \"module\", but provisioning.source is \"none\""
    )]
    NoSource {
        /// The principal.
        name: String,
    },
    /// DPS cannot be reached through a gateway.
    #[error(
        "provisioning.local_gateway_hostname cannot be used with source = \"dps\"; use source = \"manual\""
    )]
    DpsThroughGateway,
    /// A text that must not be empty, or is not a host name. It may be a connection string, so it is not repeated.
    #[error("provisioning.{key} {why}")]
    Unusable {
        /// The key below `provisioning`.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
}

impl BadConfig {
    /// The names of the principals that it is about.
    pub fn principals(&self) -> &[String] {
        match self {
            Self::SecondManager { names } => names,
            Self::SameName { name }
            | Self::NoDomain { name }
            | Self::NotLocal { name }
            | Self::NoSource { name } => std::slice::from_ref(name),
            Self::DpsThroughGateway | Self::Unusable { .. } => &[],
        }
    }
}

impl Config {
    /// What is wrong with it, if anything is.
    ///
    /// # Errors
    ///
    /// The first thing that makes it unusable.
    pub fn check(&self) -> Result<(), BadConfig> {
        self.check_principals()?;
        let gateway = self.provisioning.local_gateway_hostname.as_deref();
        match &self.provisioning.source {
            Source::None => Ok(()),
            Source::Manual(Manual { iothub_hostname, device_id, authentication: _ }) => {
                host("iothub_hostname", iothub_hostname)?;
                host("local_gateway_hostname", gateway.unwrap_or(iothub_hostname))?;
                not_empty("device_id", device_id)
            }
            Source::Dps(_) if gateway.is_some() => Err(BadConfig::DpsThroughGateway),
            Source::Dps(dps) => check_dps(dps),
        }
    }

    /// What is wrong with changing to `new`, which is good for a start, while the service runs.
    ///
    /// Of several principals that would manage all, the first in the order of the files does. At a start that is upstream's
    /// rule and told as a doubt; but no file that is added may take the rights of the one who has them.
    ///
    /// # Errors
    ///
    /// There would be more principals without `idtype` than one, and than there are.
    pub fn check_change(&self, new: &Self) -> Result<(), BadConfig> {
        let now = self.managers().count().max(1);
        match new.managers().count() > now {
            true => Err(BadConfig::SecondManager { names: new.managers().map(str::to_owned).collect() }),
            false => Ok(()),
        }
    }

    fn managers(&self) -> impl Iterator<Item = &str> {
        let managers = self.principal.iter().filter(|principal| principal.id_types.is_none());
        managers.map(|principal| principal.name.as_str())
    }

    fn check_principals(&self) -> Result<(), BadConfig> {
        let mut names = HashSet::new();
        for principal in &self.principal {
            let name = principal.name.clone();
            if !names.insert(&principal.name) {
                return Err(BadConfig::SameName { name });
            }
            let local = principal.has(IdType::Local);
            if local && self.localid.is_none() {
                return Err(BadConfig::NoDomain { name });
            }
            if principal.id_types.is_some() && !local && principal.localid.is_some() {
                return Err(BadConfig::NotLocal { name });
            }
            let at_hub = principal.has(IdType::Device) || principal.has(IdType::Module);
            if at_hub && self.provisioning.source == Source::None {
                return Err(BadConfig::NoSource { name });
            }
        }
        Ok(())
    }

    /// What may not be meant as it is written. One clause each.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts: Vec<_> = self.reserved_names().collect();
        let mut uids = HashSet::new();
        let mut manager: Option<&str> = None;
        for principal in &self.principal {
            let name = &principal.name;
            if principal.id_types.is_none() {
                if let Some(first) = manager {
                    doubts.push(format!(
                        "the principal {name:?} has no idtype as {first:?} has none; only the first counts, this one has no rights"
                    ));
                    continue;
                }
                manager = Some(name);
            }
            doubts.extend_from_slice(principal.who.doubts());
            if let Some(uid) = principal.who.uid()
                && !uids.insert(uid)
            {
                doubts.push(format!(
                    "uid {uid} has several principals; asked who it is, it is the last, {name:?}; the others it has to ask for by name"
                ));
            }
        }
        doubts.extend(self.doubtful_names());
        doubts
    }
}

fn check_dps(dps: &Dps) -> Result<(), BadConfig> {
    let Dps { global_endpoint, scope_id, payload: _, attestation } = dps;
    if !matches!(global_endpoint.scheme(), "https" | "http") || global_endpoint.host().is_none() {
        return Err(BadConfig::Unusable {
            key: "global_endpoint",
            why: "is no URL of http or https with a host",
        });
    }
    not_empty("scope_id", scope_id)?;
    let id = match attestation {
        Attestation::SymmetricKey { registration_id, .. } | Attestation::Tpm { registration_id } => {
            registration_id
        }
        Attestation::X509 { registration_id: Some(subject), .. } => subject.common_name(),
        Attestation::X509 { registration_id: None, .. } => return Ok(()),
    };
    not_empty("attestation.registration_id", id)
}

fn not_empty(key: &'static str, value: &str) -> Result<(), BadConfig> {
    match value.trim().is_empty() {
        true => Err(BadConfig::Unusable { key, why: "is empty" }),
        false => Ok(()),
    }
}

/// A host name with or without port; anything that would mean something else in a URL is refused.
fn host(key: &'static str, value: &str) -> Result<(), BadConfig> {
    let bad = value.is_empty()
        || value.contains(|c: char| c.is_whitespace() || c.is_control() || "/\\?#@%\"<>;=".contains(c));
    match bad {
        true => Err(BadConfig::Unusable { key, why: "is no host name" }),
        false => Ok(()),
    }
}
