//! certd's configuration file (spec certificates-service, chapter 12). Reads no files and checks no certificates.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

use config_common::{AutoRenew, Endpoints, KeyAlgorithm, Nobody, User, Who};
use schemars::JsonSchema;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use url::Url;

/// The merged configuration of certd. Only `homedir_path` has no default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Config {
    /// The directory that has or gets `certs/`.
    pub homedir_path: PathBuf,
    /// Requests of one user that are worked on at a time; more wait. 0 refuses all.
    #[serde(default = "max_requests")]
    pub max_requests: usize,
    /// What is logged, in the syntax of the environment variable `AZIOT_LOG`, which wins; `info` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// How certificates are issued.
    #[serde(default)]
    pub cert_issuance: Issuance,
    /// Certificates at places of their own, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub preloaded_certs: BTreeMap<String, Preloaded>,
    /// Sockets that are not at their default place.
    #[serde(default, skip_serializing_if = "is_default")]
    pub endpoints: Endpoints,
    /// Who may issue, import and delete which certificates.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub principal: Vec<Principal>,
}

/// The table `[cert_issuance]`: every key but `est` and `local_ca` is the id of a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Issuance {
    /// What holds for all certificates that are issued over EST.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub est: Option<EstOptions>,
    /// The local certificate authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_ca: Option<LocalCa>,
    /// How each certificate is issued, by its id.
    #[serde(flatten)]
    pub certs: BTreeMap<String, IssuanceOptions>,
}

impl Issuance {
    /// How the certificate `id` is issued. The one that is to follow another, with the id of that and [`TEMPORARY`], is
    /// issued like it, unless it has an entry of its own.
    pub fn of(&self, id: &str) -> Option<&IssuanceOptions> {
        self.certs.get(id).or_else(|| self.certs.get(id.strip_suffix(TEMPORARY)?))
    }
}

/// What the ids of certificates and keys end in that are to follow others.
pub const TEMPORARY: &str = "-temp";

/// The table `[cert_issuance.est]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EstOptions {
    /// Ids of certificates that may vouch for EST servers, besides those of the system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_certs: Vec<String>,
    /// URLs by certificate id; `default` is for all others.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub urls: BTreeMap<String, Url>,
    /// When EST identities are renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_auto_renew: Option<AutoRenew>,
    /// Whether identities that `preloaded_certs` names are left as they are. If not, as with upstream, renewal puts new
    /// ones in the place of the administrator's files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_preloaded_identities: bool,
    /// How to authenticate for certificates that do not say.
    #[serde(flatten)]
    pub authentication: EstAuthentication,
    /// Keys that nobody reads.
    #[serde(flatten, skip_serializing)]
    #[schemars(skip)]
    pub unknown: BTreeMap<String, Anything>,
}

/// A value that nobody looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Anything;

impl<'de> Deserialize<'de> for Anything {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|IgnoredAny| Self)
    }
}

/// How certd authenticates to an EST server. Incomplete groups are as good as none; see [`EstAuthentication::basic`] and
/// [`EstAuthentication::identity`].
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EstAuthentication {
    /// HTTP Basic: user name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// HTTP Basic: password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// TLS client certificate: its id in certd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_cert: Option<String>,
    /// TLS client certificate: the id of its key in keyd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_pk: Option<String>,
    /// The certificate with which the first identity is got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_identity_cert: Option<String>,
    /// The id of its key in keyd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap_identity_pk: Option<String>,
    /// What a new key pair of the identity is. If absent, the first one is what the server wishes, later ones are like it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity_key_algorithm: Option<KeyAlgorithm>,
}

/// A certificate and its key, each by the id it has in its service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EstIdentity<'a> {
    /// The certificate's id in certd.
    pub cert: &'a str,
    /// The key's id in keyd.
    pub pk: &'a str,
}

impl EstAuthentication {
    /// User name and password, if both are there.
    pub fn basic(&self) -> Option<(&str, &str)> {
        self.username.as_deref().zip(self.password.as_deref())
    }

    /// The identity and, if there is one, the identity to get the first one with. None unless the identity is complete
    /// and the bootstrap identity is complete or absent (spec certificates-service, 9.1).
    pub fn identity(&self) -> Option<(EstIdentity<'_>, Option<EstIdentity<'_>>)> {
        let (cert, pk) = self.identity_cert.as_deref().zip(self.identity_pk.as_deref())?;
        let bootstrap = match (&self.bootstrap_identity_cert, &self.bootstrap_identity_pk) {
            (None, None) => None,
            (cert, pk) => {
                Some(cert.as_deref().zip(pk.as_deref()).map(|(cert, pk)| EstIdentity { cert, pk })?)
            }
        };
        Some((EstIdentity { cert, pk }, bootstrap))
    }

    /// Whether any complete method is there.
    pub fn is_usable(&self) -> bool {
        self.basic().is_some() || self.identity().is_some()
    }

    /// Whether something is there that has no effect.
    pub fn is_incomplete(&self) -> bool {
        let Self {
            username,
            password,
            identity_cert,
            identity_pk,
            bootstrap_identity_cert,
            bootstrap_identity_pk,
            identity_key_algorithm: _,
        } = self;
        let x509 = [identity_cert, identity_pk, bootstrap_identity_cert, bootstrap_identity_pk];
        username.is_some() != password.is_some()
            || (x509.iter().any(|key| key.is_some()) && self.identity().is_none())
    }
}

impl fmt::Debug for EstAuthentication {
    /// Keeps user name and password out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            username: _,
            password: _,
            identity_cert,
            identity_pk,
            bootstrap_identity_cert,
            bootstrap_identity_pk,
            identity_key_algorithm: _,
        } = self;
        f.debug_struct("EstAuthentication")
            .field("basic", &self.basic().is_some())
            .field("identity", &(identity_cert, identity_pk))
            .field("bootstrap", &(bootstrap_identity_cert, bootstrap_identity_pk))
            .finish()
    }
}

/// The table `[cert_issuance.local_ca]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalCa {
    /// The id of its certificate.
    pub cert: String,
    /// The id of its key pair in keyd.
    pub pk: String,
}

/// How one certificate is issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IssuanceOptions {
    /// By whom.
    pub method: Method,
    /// For how many days; 30 if absent. Not with EST.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiry_days: Option<NonZeroU32>,
    /// The whole subject is this common name, whatever the request says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub common_name: Option<String>,
    /// The whole subject, whatever the request says; `common_name` wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// The EST server for this certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<Url>,
    /// How to authenticate to it; if nothing is complete, as for all.
    #[serde(flatten)]
    pub authentication: EstAuthentication,
    /// Keys that nobody reads.
    #[serde(flatten, skip_serializing)]
    #[schemars(skip)]
    pub unknown: BTreeMap<String, Anything>,
}

/// Who issues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// An EST server.
    Est,
    /// The local certificate authority.
    LocalCa,
    /// The certificate's own key, which keyd has under the certificate's id.
    SelfSigned,
}

/// A subject by OpenSSL's names of attributes. One with a value that is no text has no effect, as with upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(with = "BTreeMap<String, String>")]
pub enum Subject {
    /// Values by name.
    Names(BTreeMap<String, String>),
    /// Something else.
    Unusable,
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Wire {
            Names(BTreeMap<String, String>),
            Unusable(Anything),
        }
        Ok(match Wire::deserialize(deserializer)? {
            Wire::Names(names) => Self::Names(names),
            Wire::Unusable(_) => Self::Unusable,
        })
    }
}

/// Where a preloaded certificate is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(
    untagged,
    expecting = "expected a URL such as file:///path/to/certificate.pem, or a list of certificate ids"
)]
pub enum Preloaded {
    /// In one file; only `file:` URLs of this machine can be used.
    Uri(Url),
    /// In others, by their ids: a bundle.
    Ids(Vec<String>),
}

/// A `[[principal]]`: a user, and the ids that the user may issue, import and delete. Entries of one user add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenPrincipal", into = "WrittenPrincipal")]
#[schemars(with = "WrittenPrincipal")]
pub struct Principal {
    /// Who it is.
    pub who: Who,
    /// Patterns of certificate ids: `*` is any text, `?` one character, the rest stands for itself.
    pub certs: Vec<String>,
}

/// A `[[principal]]` as it is written: `uid`, `group` or both.
#[derive(Serialize, Deserialize, JsonSchema)]
struct WrittenPrincipal {
    /// The effective user of the connecting process: a number, or a name.
    #[serde(alias = "user", skip_serializing_if = "Option::is_none")]
    uid: Option<User>,
    /// The name of a group: processes that run with it, and its members.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// Patterns of certificate ids: `*` is any text, `?` one character, the rest stands for itself.
    certs: Vec<String>,
}

impl TryFrom<WrittenPrincipal> for Principal {
    type Error = Nobody;

    fn try_from(written: WrittenPrincipal) -> Result<Self, Nobody> {
        let WrittenPrincipal { uid, group, certs } = written;
        Ok(Self { who: Who::of(uid, group)?, certs })
    }
}

impl From<Principal> for WrittenPrincipal {
    fn from(principal: Principal) -> Self {
        let Principal { who, certs } = principal;
        let (uid, group) = who.written();
        Self { uid, group, certs }
    }
}

impl<'de> Deserialize<'de> for Issuance {
    /// By hand, since a derived one forgets where in the file it was.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(IssuanceVisitor)
    }
}

struct IssuanceVisitor;

impl<'de> Visitor<'de> for IssuanceVisitor {
    type Value = Issuance;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the table cert_issuance")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Issuance, M::Error> {
        let mut issuance = Issuance::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "est" => issuance.est = Some(map.next_value()?),
                "local_ca" => issuance.local_ca = Some(map.next_value()?),
                _ => {
                    let options = map.next_value()?;
                    issuance.certs.insert(key, options);
                }
            }
        }
        Ok(issuance)
    }
}

fn max_requests() -> usize {
    10
}

fn is_default(endpoints: &Endpoints) -> bool {
    *endpoints == Endpoints::default()
}

#[cfg(test)]
mod tests;
