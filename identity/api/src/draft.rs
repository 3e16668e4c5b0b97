//! Requests and replies of the draft: the form of this API that was published before its first version (spec
//! identity-service, chapter 17). Field names are wire names. Does not know how the later form spells the same.
//!
//! There is no `type` to ask with: all identities of the draft are those of a hub.

use http_common::ApiVersion;
use schemars::JsonSchema;
use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::{Auth, AziotIdentity};

/// What a request of the draft names as `api-version`, where it names one.
pub const VERSION: ApiVersion = ApiVersion::new("2020-07-01-preview");

/// Get the caller's own identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetIdentity {}

/// Get the device's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetDevice {}

/// Register the device again and bring its modules in line. Any JSON value is taken as body, or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Reprovision {}

impl<'de> Deserialize<'de> for Reprovision {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self {})
    }
}

/// List the device's modules at the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListModules {}

/// Create a module identity at the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CreateModule {
    /// `aziot`, as is assumed if it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r#type: Option<String>,
    /// The module's name.
    pub name: String,
    /// The device whose module it is to be: this one, if it is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviceid: Option<String>,
    /// What the hub is to know as the module's manager.
    #[serde(default, rename = "managedBy", skip_serializing_if = "Option::is_none")]
    pub managed_by: Option<String>,
}

/// Get a module's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GetModule {
    /// The module's name.
    pub id: String,
}

/// Delete a module at the hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteModule {
    /// The module's name.
    pub id: String,
}

/// It is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Reprovisioned {}

/// Who somebody is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "spec", rename_all = "lowercase")]
pub enum Identity {
    /// A device or module of an IoT Hub.
    Aziot(HubIdentity),
}

/// A device or module of an IoT Hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HubIdentity {
    /// The hub's host name.
    pub hubname: String,
    /// The device.
    pub deviceid: String,
    /// The module; absent for the device itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moduleid: Option<String>,
    /// The hub's generation id of the module; absent if unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub genid: Option<String>,
    /// How to prove it; in lists too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
}

/// The device's modules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleList {
    /// The modules.
    pub identities: Vec<Identity>,
}

impl From<AziotIdentity> for Identity {
    /// The same without the gateway, of which the draft knows nothing.
    fn from(identity: AziotIdentity) -> Self {
        let AziotIdentity { hub_name, gateway_host: _, device_id, module_id, gen_id, auth } = identity;
        let (hubname, deviceid, moduleid, genid) = (hub_name, device_id, module_id, gen_id);
        Self::Aziot(HubIdentity { hubname, deviceid, moduleid, genid, auth })
    }
}

#[cfg(test)]
mod tests {
    use http_common::round_trip;
    use serde_json::{from_str, to_string};

    use super::*;

    #[test]
    fn requests_round_trip() {
        for id in ["a", "$edgeAgent", "a/b%20c d?", "wé/ird %41 id?"] {
            let get = GetModule { id: id.into() };
            assert_eq!(round_trip(&get), Ok(get));
            let delete = DeleteModule { id: id.into() };
            assert_eq!(round_trip(&delete), Ok(delete));
        }
        assert_eq!(round_trip(&GetIdentity {}), Ok(GetIdentity {}));
        assert_eq!(round_trip(&GetDevice {}), Ok(GetDevice {}));
        assert_eq!(round_trip(&Reprovision {}), Ok(Reprovision {}));
        assert_eq!(round_trip(&ListModules {}), Ok(ListModules {}));
    }

    #[test]
    fn a_creation_as_it_was_published() {
        let text = r#"{"type":"aziot","name":"m","deviceid":"d","managedBy":"x"}"#;
        let create: CreateModule = from_str(text).unwrap();
        assert_eq!(to_string(&create).unwrap(), text);
        assert_eq!(round_trip(&create), Ok(create));
        let least: CreateModule = from_str(r#"{"name":"m"}"#).unwrap();
        assert_eq!((least.r#type, least.deviceid, least.managed_by), (None, None, None));
        assert!(from_str::<CreateModule>(r#"{"type":"aziot","moduleId":"m"}"#).is_err());
    }

    #[test]
    fn replies_byte_for_byte() {
        let identity = AziotIdentity {
            hub_name: "h".into(),
            gateway_host: "g".into(),
            device_id: "d".into(),
            module_id: Some("m".into()),
            gen_id: Some("6".into()),
            auth: Some(Auth::Sas { key_handle: key_api::KeyHandle::from("sr=h".to_owned()) }),
        };
        let expected = r#"{"type":"aziot","spec":{"hubname":"h","deviceid":"d","moduleid":"m","genid":"6","auth":{"type":"sas","keyHandle":"sr=h"}}}"#;
        assert_eq!(to_string(&Identity::from(identity)).unwrap(), expected);
    }
}
