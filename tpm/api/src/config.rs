//! tpmd's configuration file (spec tpm-service, chapters 9 and 10). Does not know what a TCTI is.
//!
//! Upstream's admin tool writes strings of this file as arrays of byte values; both forms are read everywhere.

use std::fmt;

use config_common::{Endpoints, Nobody, Secret, User, Who};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// The merged configuration of tpmd. Everything has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Requests of one user that are worked on at a time; more wait. 0 refuses all.
    pub max_requests: usize,
    /// What is logged, in the syntax of the environment variable `AZIOT_LOG`, which wins; `info` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// How the TPM is reached, for the TCTI loader of tpm2-tss: `device:/dev/tpmrm0`, `swtpm:port=2321`, `tabrmd`, ….
    /// Empty to try all that tpm2-tss knows.
    pub tcti: Tcti,
    /// Where the auth key is kept: at the persistent handle 0x81000000 plus this.
    pub auth_key_index: AuthKeyIndex,
    /// What the TPM's hierarchies ask for, if they do.
    #[serde(skip_serializing_if = "is_default")]
    pub hierarchy_authorization: HierarchyAuthorization,
    /// Sockets that are not at their default place.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: Endpoints,
    /// Who may call, besides root. Without any entry everybody may who can open the socket.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principal: Vec<Principal>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_requests: 10,
            log_level: None,
            tcti: Tcti::default(),
            auth_key_index: AuthKeyIndex::default(),
            hierarchy_authorization: HierarchyAuthorization::default(),
            endpoints: Endpoints::default(),
            principal: Vec::new(),
        }
    }
}

/// The table `[hierarchy_authorization]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HierarchyAuthorization {
    /// Of the endorsement hierarchy: to make the endorsement key, and to import an auth key.
    #[serde(skip_serializing_if = "is_default")]
    pub endorsement: AuthValue,
    /// Of the owner hierarchy: to keep keys in the TPM.
    #[serde(skip_serializing_if = "is_default")]
    pub owner: AuthValue,
}

/// A `[[principal]]`: a user who may call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenPrincipal", into = "WrittenPrincipal")]
#[schemars(with = "WrittenPrincipal")]
pub struct Principal {
    /// Who it is.
    pub who: Who,
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
}

impl TryFrom<WrittenPrincipal> for Principal {
    type Error = Nobody;

    fn try_from(written: WrittenPrincipal) -> Result<Self, Nobody> {
        let WrittenPrincipal { uid, group } = written;
        Ok(Self { who: Who::of(uid, group)? })
    }
}

impl From<Principal> for WrittenPrincipal {
    fn from(principal: Principal) -> Self {
        let Principal { who } = principal;
        let (uid, group) = who.written();
        Self { uid, group }
    }
}

/// How the TPM is reached. Has no zero byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "Text")]
#[schemars(with = "Text")]
pub struct Tcti(Vec<u8>);

impl Tcti {
    /// The kernel's resource manager of the first TPM, by its name.
    pub fn resource_manager() -> Self {
        Self(b"device:/dev/tpmrm0".to_vec())
    }

    /// The bytes for the loader, without its final zero.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Default for Tcti {
    fn default() -> Self {
        Self(b"device".to_vec())
    }
}

impl From<Tcti> for Text {
    fn from(tcti: Tcti) -> Self {
        Self::of(&tcti.0)
    }
}

impl<'de> Deserialize<'de> for Tcti {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BytesVisitor).map(Self)
    }
}

/// The authorization value of a hierarchy: at most 64 bytes, none of them zero. Printed as nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, JsonSchema)]
#[schemars(with = "Text")]
pub struct AuthValue(Secret);

impl AuthValue {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Serialize for AuthValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Text::of(self.as_bytes()).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AuthValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Secret::new(deserializer.deserialize_any(BytesVisitor)?);
        match value.len() > LONGEST_AUTH_VALUE {
            true => Err(D::Error::custom(format!("has more than {LONGEST_AUTH_VALUE} bytes"))),
            false => Ok(Self(value)),
        }
    }
}

/// Where the auth key is: 0 to 0x7FFFFF, the part of the owner in the range of persistent handles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schemars(with = "u32")]
pub struct AuthKeyIndex(u32);

impl AuthKeyIndex {
    /// The persistent handle.
    pub fn handle(self) -> u32 {
        FIRST_PERSISTENT + self.0
    }
}

impl Default for AuthKeyIndex {
    /// What devices in the field have: it must never change.
    fn default() -> Self {
        Self(0x000100)
    }
}

impl TryFrom<u32> for AuthKeyIndex {
    type Error = BadIndex;

    fn try_from(index: u32) -> Result<Self, BadIndex> {
        match index > LAST_INDEX {
            true => Err(BadIndex(index)),
            false => Ok(Self(index)),
        }
    }
}

impl From<AuthKeyIndex> for u32 {
    fn from(index: AuthKeyIndex) -> Self {
        index.0
    }
}

/// Why a number is not the index of an auth key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadIndex(u32);

impl fmt::Display for BadIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the index {:#x} is beyond {LAST_INDEX:#x}", self.0)
    }
}

impl std::error::Error for BadIndex {}

/// A string in the form in which it is written: as text if it is one.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Text {
    Text(String),
    Bytes(Vec<u8>),
}

impl Text {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }
}

/// Reads a string or an array of byte values, without zero bytes.
struct BytesVisitor;

impl<'de> Visitor<'de> for BytesVisitor {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, or an array of its bytes, without a zero byte")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
        without_zero(text.as_bytes().to_vec())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<u8>, A::Error> {
        // Whole at once, so that a secret leaves no smaller copies behind.
        let mut bytes = Vec::with_capacity(LONGEST_ARRAY);
        while let Some(byte) = elements.next_element::<u8>()? {
            if bytes.len() == LONGEST_ARRAY {
                return Err(A::Error::invalid_length(LONGEST_ARRAY + 1, &self));
            }
            bytes.push(byte);
        }
        without_zero(bytes)
    }
}

fn without_zero<E: serde::de::Error>(bytes: Vec<u8>) -> Result<Vec<u8>, E> {
    match bytes.contains(&0) {
        true => Err(E::custom("contains a zero byte")),
        false => Ok(bytes),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// TPM 2.0 Library, part 2, 7.5: persistent handles begin with 0x81.
const FIRST_PERSISTENT: u32 = 0x8100_0000;
/// Part 2, 7.5: from 0x81800000 on they belong to the platform.
const LAST_INDEX: u32 = 0x007F_FFFF;
/// The size of the largest hash, which no TPM lets a value exceed.
const LONGEST_AUTH_VALUE: usize = 64;
/// More than any TCTI string needs.
const LONGEST_ARRAY: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn tpm_08_nothing_is_needed() {
        let config = parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!((config.max_requests, config.tcti.as_bytes()), (10, &b"device"[..]));
        assert_eq!(config.auth_key_index.handle(), 0x8100_0100);
        let HierarchyAuthorization { endorsement, owner } = config.hierarchy_authorization;
        assert!(endorsement.as_bytes().is_empty() && owner.as_bytes().is_empty());
    }

    #[test]
    fn the_example_of_the_specification() {
        let config = parse(
            "tcti = 'device:/dev/tpmrm0'\nauth_key_index = 0x000200\nmax_requests = 4\n\
             [hierarchy_authorization]\nendorsement = 'endorse-me'\nowner = 'own-me'\n[[principal]]\nuid = 7\n[[principal]]\ngroup = 'root'",
        )
        .unwrap();
        assert_eq!(config.tcti.as_bytes(), b"device:/dev/tpmrm0");
        assert_eq!(config.auth_key_index.handle(), 0x8100_0200);
        assert_eq!(config.hierarchy_authorization.owner.as_bytes(), b"own-me");
        assert!(!format!("{config:?}").contains("own-me"));
        let written = toml::to_string(&config).unwrap();
        assert!(written.contains("device:/dev/tpmrm0"), "{written}");
        assert_eq!(parse(&written).unwrap(), config, "{written}");
    }

    #[test]
    fn byte_arrays_are_strings() {
        let config = parse(
            "tcti = [115, 119, 116, 112, 109]\n[hierarchy_authorization]\nendorsement = [97]\nowner = [255, 1]",
        )
        .unwrap();
        assert_eq!(config.tcti.as_bytes(), b"swtpm");
        assert_eq!(config.hierarchy_authorization.endorsement.as_bytes(), b"a");
        assert_eq!(config.hierarchy_authorization.owner.as_bytes(), [255, 1]);
        assert_eq!(parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        for empty in ["tcti = ''", "tcti = []"] {
            assert!(parse(empty).unwrap().tcti.as_bytes().is_empty(), "the loader searches by itself");
        }
    }

    #[test]
    fn what_stops_the_start() {
        let too_long = format!("[hierarchy_authorization]\nowner = '{}'", "x".repeat(65));
        for text in [
            "tcti = 7",
            "tcti = [300]",
            "tcti = [-1]",
            "tcti = ['a']",
            "tcti = [97, 0]",
            "tcti = \"a\\u0000\"",
            "auth_key_index = 0x800000",
            "auth_key_index = -1",
            "auth_key_index = '0x000100'",
            "[hierarchy_authorization]\nendorsement = [0]",
            "[hierarchy_authorization]\nendorsement = 5",
            "[[principal]]\nuid = -1",
            "[[principal]]",
            "max_requests = -1",
            &too_long,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&too_long.replacen('x', "", 1)).is_ok(), "64 bytes are what a TPM takes");
        assert_eq!(parse("auth_key_index = 0x7FFFFF").unwrap().auth_key_index.handle(), 0x817F_FFFF);
    }
}
