//! keyd's configuration file (spec keys-service, chapter 11). Reads no files and checks no paths.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config_common::{Endpoints, Nobody, User, Who};
use schemars::JsonSchema;
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize};
use tpm_api::{AuthValue, Tcti};
use url::Url;

use crate::TokenUri;

/// The merged configuration of keyd. Everything has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Config {
    /// Requests of one user that are worked on at a time; more wait. 0 refuses all.
    pub max_requests: usize,
    /// What is logged, in the syntax of the environment variable `AZIOT_LOG`, which wins; `info` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Whether a caller needs a principal for the key of a handle too. By default the handle is the permission.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub require_principal_for_handles: bool,
    /// Where keys are kept.
    pub aziot_keys: AziotKeys,
    /// Keys at places of their own, by id.
    #[serde(deserialize_with = "non_empty_ids", skip_serializing_if = "BTreeMap::is_empty")]
    pub preloaded_keys: BTreeMap<String, PreloadedUri>,
    /// The TPM, if keys may be in it. Without this table keyd does not touch it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<Tpm>,
    /// Sockets that are not at their default place.
    #[serde(skip_serializing_if = "is_default")]
    pub endpoints: Endpoints,
    /// Who may use which keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub principal: Vec<Principal>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_requests: 10,
            log_level: None,
            require_principal_for_handles: false,
            aziot_keys: AziotKeys::default(),
            preloaded_keys: BTreeMap::new(),
            tpm: None,
            endpoints: Endpoints::default(),
            principal: Vec::new(),
        }
    }
}

/// The table `[aziot_keys]`. Unknown names are refused, as upstream refuses them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AziotKeys {
    /// The directory that has or gets `keys/`. Without it only preloaded keys can be used.
    #[serde(deserialize_with = "without_nul", skip_serializing_if = "Option::is_none")]
    pub homedir_path: Option<PathBuf>,
    /// The PKCS#11 library.
    #[serde(deserialize_with = "without_nul", skip_serializing_if = "Option::is_none")]
    pub pkcs11_lib_path: Option<PathBuf>,
    /// The `pkcs11:` URI of the token for new keys; it means nothing without the library.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pkcs11_base_slot: Option<TokenUri>,
}

/// The table `[tpm]`. Upstream has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Tpm {
    /// How the TPM is reached, for the TCTI loader of tpm2-tss; empty to try all that it knows.
    pub tcti: Tcti,
    /// Whether new keys are made in the TPM, but for those that are preloaded from elsewhere. PKCS#11 tokens come first.
    pub new_keys: bool,
    /// What the TPM's hierarchies ask for, if they do.
    #[serde(skip_serializing_if = "is_default")]
    pub hierarchy_authorization: TpmAuthorization,
}

/// The table `[tpm.hierarchy_authorization]`: tpmd's without what keyd does not need.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TpmAuthorization {
    /// Of the owner hierarchy: to make the storage root key, and the parents of keys that name the hierarchy itself.
    #[serde(skip_serializing_if = "is_default")]
    pub owner: AuthValue,
}

impl Default for Tpm {
    fn default() -> Self {
        Self {
            tcti: Tcti::resource_manager(),
            new_keys: false,
            hierarchy_authorization: TpmAuthorization::default(),
        }
    }
}

/// A `[[principal]]`: a user, and the ids that the user may create, load and move. Entries of one user add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "WrittenPrincipal", into = "WrittenPrincipal")]
#[schemars(with = "WrittenPrincipal")]
pub struct Principal {
    /// Who it is.
    pub who: Who,
    /// Patterns of key ids: `*` is any text, `?` one character, the rest stands for itself.
    pub keys: Vec<String>,
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
    /// Patterns of key ids: `*` is any text, `?` one character, the rest stands for itself.
    keys: Vec<String>,
}

impl TryFrom<WrittenPrincipal> for Principal {
    type Error = Nobody;

    fn try_from(written: WrittenPrincipal) -> Result<Self, Nobody> {
        let WrittenPrincipal { uid, group, keys } = written;
        Ok(Self { who: Who::of(uid, group)?, keys })
    }
}

impl From<Principal> for WrittenPrincipal {
    fn from(principal: Principal) -> Self {
        let Principal { who, keys } = principal;
        let (uid, group) = who.written();
        Self { uid, group, keys }
    }
}

/// Where a preloaded key is. It need not exist yet.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub enum PreloadedUri {
    /// A file: raw bytes of a symmetric key, or a PEM private key.
    File(PathBuf),
    /// An object on a token.
    Pkcs11(TokenUri),
    /// A key that is made in the TPM, wrapped in this file, or in that of keys without a place of their own.
    Tpm(Option<PathBuf>),
}

impl TryFrom<String> for PreloadedUri {
    type Error = BadUri;

    fn try_from(uri: String) -> Result<Self, BadUri> {
        match uri.split_once(':') {
            _ if uri.contains('\0') => Err(BadUri("it contains U+0000")),
            Some(("pkcs11", _)) => TokenUri::try_from(uri).map(Self::Pkcs11),
            Some(("file", _)) => path(&uri).map(Self::File),
            Some(("tpm", "")) => Ok(Self::Tpm(None)),
            Some(("tpm", rest)) => match rest.strip_prefix("?file=") {
                Some(file) if file.starts_with('/') && !file.starts_with("//") => {
                    path(&format!("file://{file}")).map(|path| Self::Tpm(Some(path)))
                }
                _ => Err(BadUri("it is neither tpm: nor tpm:?file=/path")),
            },
            _ => Err(BadUri("it begins neither with file: nor with pkcs11: nor with tpm:")),
        }
    }
}

impl From<PreloadedUri> for String {
    fn from(uri: PreloadedUri) -> Self {
        match uri {
            PreloadedUri::File(path) => url(&path),
            PreloadedUri::Pkcs11(uri) => uri.into(),
            PreloadedUri::Tpm(None) => "tpm:".to_owned(),
            PreloadedUri::Tpm(Some(path)) => {
                format!("tpm:?file={}", url(&path).trim_start_matches("file://"))
            }
        }
    }
}

impl fmt::Debug for PreloadedUri {
    /// Keeps PINs out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Pkcs11(uri) => f.debug_tuple("Pkcs11").field(uri).finish(),
            Self::Tpm(path) => f.debug_tuple("Tpm").field(path).finish(),
        }
    }
}

/// The path of a `file:` URL.
fn path(url: &str) -> Result<PathBuf, BadUri> {
    let url = Url::parse(url).map_err(|_| BadUri("it is not a URL"))?;
    let path = url.to_file_path().map_err(|()| BadUri("it names no file on this machine"))?;
    match path.as_os_str().as_encoded_bytes().contains(&0) {
        true => Err(BadUri("its path contains a NUL byte")),
        false => Ok(path),
    }
}

fn url(path: &Path) -> String {
    // Only for relative paths, which cannot be read back either, there is no URL.
    Url::from_file_path(path).map_or_else(|()| format!("file:{}", path.display()), String::from)
}

/// Why a text is not the URI of a key or a token. Does not repeat the text, which may contain a PIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadUri(pub(crate) &'static str);

impl fmt::Display for BadUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the URI cannot be used: {}", self.0)
    }
}

impl std::error::Error for BadUri {}

fn non_empty_ids<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, PreloadedUri>, D::Error> {
    let keys = BTreeMap::<String, PreloadedUri>::deserialize(deserializer)?;
    match keys.keys().any(|id| id.is_empty() || id.contains('\0')) {
        true => Err(D::Error::custom("the id of a preloaded key is empty or contains U+0000")),
        false => Ok(keys),
    }
}

fn without_nul<'de, D: Deserializer<'de>, T: From<String>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.contains('\0') {
        true => Err(D::Error::custom("contains U+0000")),
        false => Ok(Some(text.into())),
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn nothing_is_needed() {
        let config = parse("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.max_requests, 10);
    }

    #[test]
    fn the_example_of_the_specification() {
        let config = parse(
            r#"
            max_requests = 25
            [aziot_keys]
            homedir_path = "/var/lib/aziot/keyd"
            pkcs11_lib_path = "/usr/lib/libtpm2_pkcs11.so.1"
            pkcs11_base_slot = "pkcs11:token=gateway?pin-value=0815"
            [tpm]
            tcti = "tabrmd"
            new_keys = true
            [tpm.hierarchy_authorization]
            owner = "own-me"
            [preloaded_keys]
            device-id = "pkcs11:token=gateway;object=factory%2Did?pin-value=0815"
            est-bootstrap-id = "file:///var/secrets/aziot/keyd/boot%20strap.pem"
            [[principal]]
            uid = 990
            keys = ["aziot_identityd_master_id", "device-id"]
            [[principal]]
            uid = 1200
            keys = ["camera-?", "video/*"]
            [[principal]]
            user = "root"
            group = "root"
            keys = []
            "#,
        )
        .unwrap();
        assert_eq!(config.max_requests, 25);
        assert_eq!(
            config.principal[1],
            Principal { who: 1200.into(), keys: vec!["camera-?".into(), "video/*".into()] }
        );
        let bootstrap = PreloadedUri::File("/var/secrets/aziot/keyd/boot strap.pem".into());
        assert_eq!(config.preloaded_keys["est-bootstrap-id"], bootstrap);
        let text = format!("{config:?}");
        assert!(!text.contains("0815") && !text.contains("own-me"), "{text}");
        let written = toml::to_string(&config).unwrap();
        assert_eq!(parse(&written).unwrap(), config, "{written}");
    }

    #[test]
    fn what_stops_the_start() {
        for text in [
            "[aziot_keys]\nhomedir = '/x'",
            "[aziot_keys]\nhomedir_path = 7",
            "[aziot_keys]\nhomedir_path = \"/x\\u0000\"",
            "[aziot_keys]\npkcs11_base_slot = 'pkcs11:object=x'",
            "[preloaded_keys]\n\"\" = 'file:///x'",
            "[preloaded_keys]\nx = 7",
            "[tpm.hierarchy_authorization]\nowner = 7",
            "[tpm]\ntcti = \"a\\u0000\"",
            "[tpm]\ntcti = 7",
            "[[principal]]\nuid = -1\nkeys = []",
            "[[principal]]\nuid = 4294967296\nkeys = []",
            "[[principal]]\nuid = 1",
            "max_requests = -1",
            "[endpoints]\naziot_keyd = 'http://localhost:1'",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn uris_of_preloaded_keys() {
        let check = |uri: &str, expected: Option<&str>| {
            let parsed = PreloadedUri::try_from(uri.to_owned()).ok();
            assert_eq!(parsed, expected.map(|path| PreloadedUri::File(path.into())), "{uri}");
        };
        check("file:///var/secrets/key%201.pem", Some("/var/secrets/key 1.pem"));
        check("file://localhost/x", Some("/x"));
        check("file:/x/../y", Some("/y"));
        for bad in ["", "/x", "FILE:///x", "http://x/y", "file://elsewhere/x", "file:///x%00", "fil"] {
            check(bad, None);
        }
        for token in ["pkcs11:token=x", "pkcs11:object=y;slot-id=7?pin-value=1"] {
            let parsed = PreloadedUri::try_from(token.to_owned());
            let uri = TokenUri::try_from(token.to_owned()).unwrap();
            assert_eq!(parsed, Ok(PreloadedUri::Pkcs11(uri)));
        }
        check("pkcs11:object=y", None);
        for (uri, path) in [("tpm:", None), ("tpm:?file=/var/a%20b.pem", Some("/var/a b.pem".into()))] {
            let parsed = PreloadedUri::try_from(uri.to_owned());
            assert_eq!(parsed, Ok(PreloadedUri::Tpm(path)));
            assert_eq!(String::from(parsed.unwrap()), uri);
        }
        for bad in ["tpm", "tpm:x", "tpm:?file=", "tpm:?file=x", "tpm:?file=//x/y"] {
            check(bad, None);
        }
    }
}
