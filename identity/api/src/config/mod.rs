//! identityd's configuration file (spec identity-service, chapter 7). Reads no files. Written back it is upstream's
//! `prev_state` (9.2): the same names, order and omissions.

mod check;
mod module_x509;
mod names;
mod provisioning;
mod reserved;
mod subject;

use std::path::PathBuf;

use config_common::{Endpoints, Nobody, User, Who};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};

use crate::LocalIdOpts;

pub use check::BadConfig;
pub use config_common::{AutoRenew, BadPolicy, KeyAlgorithm, Policy};
pub use module_x509::{ModuleX509, Registration};
pub use provisioning::{Attestation, Dps, Manual, ManualCredentials, Payload, Provisioning, Source};
pub use reserved::module_certificate;
pub use subject::Subject;

/// The merged configuration of identityd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The device's host name, for the names of local identities.
    pub hostname: String,
    /// The directory for what must survive a restart.
    pub homedir: PathBuf,
    /// Whether what is known of modules is preferred to asking the hub.
    #[serde(default)]
    pub prefer_module_identity_cache: bool,
    /// Requests of one user that are worked on at a time; more wait. 0 refuses all.
    #[serde(default = "default_max_requests", skip_serializing_if = "is_default_max_requests")]
    pub max_requests: usize,
    /// Seconds that one attempt of a call to the cloud may take.
    #[serde(default, rename = "cloud_timeout_sec", skip_serializing_if = "is_default")]
    pub cloud_timeout: CloudTimeout,
    /// How often a call to the cloud is repeated when the network fails.
    #[serde(default = "default_cloud_retries", skip_serializing_if = "is_default_cloud_retries")]
    pub cloud_retries: u32,
    /// What is logged, in the syntax of the environment variable `AZIOT_LOG`, which wins; `info` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Whether a request without api-version is one of the draft API; otherwise it is refused.
    #[serde(default, skip_serializing_if = "is_default")]
    pub draft_api: bool,
    /// PEM files of authorities that may vouch for the cloud, a parent gateway or a proxy, besides those of the system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_certs: Vec<PathBuf>,
    /// certd's id of the certificates of the authorities that `GET /trust-bundle` tells programs to trust; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_bundle: Option<String>,
    /// How the device gets its identity.
    pub provisioning: Provisioning,
    /// Who has identities of its own, and who manages those of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principal: Vec<Principal>,
    /// Settings of local identities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub localid: Option<LocalId>,
    /// The modules of the hub that prove by certificates who they are; all others do so by keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub module_x509: Option<ModuleX509>,
    /// Sockets that are not at their default place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoints: Endpoints,
}

impl Config {
    /// What belongs into `prev_state`: everything but what upstream's lacks.
    pub fn for_record(&self) -> Self {
        let mut record = Self { endpoints: Endpoints::default(), ..self.clone() };
        record.log_level = None;
        record.draft_api = false;
        record.trusted_certs.clear();
        record.trust_bundle = None;
        for principal in &mut record.principal {
            // Only the names of principals matter there.
            principal.who = principal.who.uid().unwrap_or(NOBODY).into();
            if let Some(LocalIdOpts::X509 { attributes: _, key_algorithm }) = &mut principal.localid {
                *key_algorithm = None;
            }
        }
        record
    }
}

/// The time for one attempt of a call to the cloud, in seconds: at least 70, longer than one pause of a throttled call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u64", into = "u64")]
pub struct CloudTimeout(u64);

impl CloudTimeout {
    /// The seconds.
    pub fn as_secs(self) -> u64 {
        self.0
    }
}

impl Default for CloudTimeout {
    fn default() -> Self {
        Self(LEAST_CLOUD_TIMEOUT)
    }
}

impl TryFrom<u64> for CloudTimeout {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        match seconds < LEAST_CLOUD_TIMEOUT {
            true => Err(format!("must be at least {LEAST_CLOUD_TIMEOUT} seconds, got {seconds}")),
            false => Ok(Self(seconds)),
        }
    }
}

impl From<CloudTimeout> for u64 {
    fn from(timeout: CloudTimeout) -> Self {
        timeout.0
    }
}

/// A `[[principal]]`: a user or a group, and who its processes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenPrincipal", into = "WrittenPrincipal")]
#[schemars(with = "WrittenPrincipal")]
pub struct Principal {
    /// Whose processes.
    pub who: Who,
    /// The module's name.
    pub name: String,
    /// Which identities it has; absent for the one that manages all.
    pub id_types: Option<Vec<IdType>>,
    /// What the certificate of its local identity is for.
    pub localid: Option<LocalIdOpts>,
}

/// A `[[principal]]` as it is written: with `uid`, `group` or both.
#[derive(Serialize, Deserialize, JsonSchema)]
struct WrittenPrincipal {
    /// The effective user of the connecting process: a number, or a name.
    #[serde(alias = "user", skip_serializing_if = "Option::is_none")]
    uid: Option<User>,
    /// The name of a group: processes that run with it, and its members.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// The module's name.
    name: String,
    /// Which identities it has; absent for the one that manages all. A word or a list of words.
    #[serde(
        default,
        rename = "idtype",
        deserialize_with = "one_or_many",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<Vec<IdType>>")]
    id_types: Option<Vec<IdType>>,
    /// What the certificate of its local identity is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    localid: Option<LocalIdOpts>,
}

impl TryFrom<WrittenPrincipal> for Principal {
    type Error = Nobody;

    fn try_from(written: WrittenPrincipal) -> Result<Self, Nobody> {
        let WrittenPrincipal { uid, group, name, id_types, localid } = written;
        Ok(Self { who: Who::of(uid, group)?, name, id_types, localid })
    }
}

impl From<Principal> for WrittenPrincipal {
    fn from(principal: Principal) -> Self {
        let Principal { who, name, id_types, localid } = principal;
        let (uid, group) = who.written();
        Self { uid, group, name, id_types, localid }
    }
}

impl Principal {
    /// Whether it has this kind of identity.
    pub fn has(&self, kind: IdType) -> bool {
        self.id_types.as_ref().is_some_and(|kinds| kinds.contains(&kind))
    }
}

/// A kind of identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IdType {
    /// The device itself.
    Device,
    /// A module of the hub.
    Module,
    /// A certificate that no hub knows.
    Local,
}

/// The table `[localid]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalId {
    /// The last part of the names of local identities.
    pub domain: String,
    /// What their keys are; `rsa-2048` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_algorithm: Option<KeyAlgorithm>,
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<IdType>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(IdType),
        Many(Vec<IdType>),
    }
    let expected = "expected device, module or local, or a list of these";
    match OneOrMany::deserialize(deserializer) {
        Ok(OneOrMany::One(kind)) => Ok(Some(vec![kind])),
        Ok(OneOrMany::Many(kinds)) => Ok(Some(kinds)),
        Err(_) => Err(D::Error::custom(expected)),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn default_max_requests() -> usize {
    10
}

fn is_default_max_requests(value: &usize) -> bool {
    *value == default_max_requests()
}

fn default_cloud_retries() -> u32 {
    1
}

fn is_default_cloud_retries(value: &u32) -> bool {
    *value == default_cloud_retries()
}

/// The uid of recorded principals that are not one number: the kernel's value for no user at all.
pub const NOBODY: u32 = u32::MAX;

const LEAST_CLOUD_TIMEOUT: u64 = 70;

#[cfg(test)]
mod tests;
