//! The JSON of the hub's module registry. Members we do not know are ignored, and so are keys: ours are derived.

use bytes::Bytes;
use http_common::https::{CloudFailure, Reply};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::Error;

/// The version of the registry API that this client speaks.
pub(crate) const API_VERSION: &str = "2017-11-08-preview";

/// A module identity as the hub has it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Module {
    /// Its name within the device.
    pub module_id: String,
    /// The device it belongs to.
    pub device_id: String,
    /// Who manages it, such as `IotEdge`.
    #[serde(default, deserialize_with = "filled")]
    pub managed_by: Option<String>,
    /// Changes when a module is removed and made again.
    #[serde(default, deserialize_with = "filled")]
    pub generation_id: Option<String>,
    /// Changes with every change.
    #[serde(default, deserialize_with = "filled")]
    pub etag: Option<String>,
    /// How it proves who it is.
    #[serde(default, rename = "authentication", deserialize_with = "auth_type")]
    pub auth_type: Option<AuthType>,
}

/// How a module proves who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthType {
    /// Not at all.
    None,
    /// With tokens signed by a symmetric key.
    Sas,
    /// With a certificate, by any of these.
    X509(Vec<ModuleCertificate>),
    /// In a way this client does not deal with.
    Other(String),
}

/// The two keys of a module, in base64. Wiped from memory when dropped.
pub struct ModuleKeys {
    /// The primary key.
    pub primary: Zeroizing<String>,
    /// The secondary key.
    pub secondary: Zeroizing<String>,
}

/// By what a hub shall know the certificate of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModuleCertificate {
    /// By its thumbprint: SHA-1 or SHA-256 of it in DER, in hex.
    Thumbprint(String),
    /// By its issuer, which the hub knows already; its common name is `device/module`.
    Authority,
}

/// The body of a PUT.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModuleBody<'a> {
    module_id: &'a str,
    device_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    managed_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authentication: Option<Authentication<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Authentication<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    symmetric_key: Option<SymmetricKey<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x509_thumbprint: Option<Thumbprints<'a>>,
    r#type: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Thumbprints<'a> {
    primary_thumbprint: &'a str,
    secondary_thumbprint: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SymmetricKey<'a> {
    primary_key: &'a str,
    secondary_key: &'a str,
}

impl<'a> ModuleBody<'a> {
    pub(crate) fn new(module_id: &'a str, device_id: &'a str) -> Self {
        Self { module_id, device_id, managed_by: None, authentication: None }
    }

    pub(crate) fn with_keys(module: &'a Module, device_id: &'a str, keys: &'a ModuleKeys) -> Self {
        let symmetric_key = Some(SymmetricKey { primary_key: &keys.primary, secondary_key: &keys.secondary });
        let authentication = Authentication { symmetric_key, x509_thumbprint: None, r#type: "sas" };
        Self::with(module, device_id, authentication)
    }

    pub(crate) fn with_certificate(
        module: &'a Module,
        device_id: &'a str,
        certificate: &'a ModuleCertificate,
    ) -> Self {
        match certificate {
            ModuleCertificate::Thumbprint(text) => Self::with_thumbprints(module, device_id, text, text),
            ModuleCertificate::Authority => Self::with(
                module,
                device_id,
                Authentication { symmetric_key: None, x509_thumbprint: None, r#type: "certificateAuthority" },
            ),
        }
    }

    pub(crate) fn with_thumbprints(
        module: &'a Module,
        device_id: &'a str,
        primary_thumbprint: &'a str,
        secondary_thumbprint: &'a str,
    ) -> Self {
        let x509_thumbprint = Some(Thumbprints { primary_thumbprint, secondary_thumbprint });
        Self::with(module, device_id, Authentication { symmetric_key: None, x509_thumbprint, r#type: "x509" })
    }

    fn with(module: &'a Module, device_id: &'a str, authentication: Authentication<'a>) -> Self {
        Self {
            module_id: &module.module_id,
            device_id,
            managed_by: module.managed_by.as_deref(),
            authentication: Some(authentication),
        }
    }

    pub(crate) fn to_json(&self) -> Bytes {
        let json = serde_json::to_vec(self).expect("strings can be written as JSON");
        Bytes::from_owner(Zeroizing::new(json))
    }
}

/// The modules in the answer to a list. One that cannot be understood does not hide the others.
pub(crate) fn modules(reply: &Reply) -> Result<Vec<Module>, Error> {
    let entries: Vec<Value> = reply.json()?;
    let known = entries.len();
    let modules: Vec<Module> = entries.into_iter().filter_map(understood).collect();
    if modules.is_empty() && known > 0 {
        return Err(CloudFailure::invalid(reply.status, "a list without a single module in it").into());
    }
    Ok(modules)
}

fn understood(entry: Value) -> Option<Module> {
    Module::deserialize(entry)
        .map_err(|err| tracing::warn!("the hub lists a module that is ignored: {err}"))
        .ok()
}

/// A string; null and nothing are the same.
fn filled<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.filter(|text| !text.is_empty()))
}

fn auth_type<'de, D: Deserializer<'de>>(from: D) -> Result<Option<AuthType>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Authentication {
        r#type: Option<String>,
        x509_thumbprint: Option<Thumbprints>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Thumbprints {
        primary_thumbprint: Option<String>,
        secondary_thumbprint: Option<String>,
    }
    let Some(Authentication { r#type: Some(name), x509_thumbprint }) = Option::deserialize(from)? else {
        return Ok(None);
    };
    Ok(Some(match (name.as_str(), x509_thumbprint) {
        ("none", _) => AuthType::None,
        ("sas", _) => AuthType::Sas,
        // Registered as "x509", answered as "selfSigned".
        ("x509" | "selfSigned", Some(Thumbprints { primary_thumbprint, secondary_thumbprint })) => {
            let thumbprints = [primary_thumbprint, secondary_thumbprint].into_iter().flatten();
            AuthType::X509(thumbprints.map(ModuleCertificate::Thumbprint).collect())
        }
        ("certificateAuthority", _) => AuthType::X509(vec![ModuleCertificate::Authority]),
        _ => AuthType::Other(name),
    }))
}
