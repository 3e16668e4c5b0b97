//! A hub's identity registry: devices and modules, their keys, etags and generation ids.
//!
//! It knows the rules of create, update and delete, but neither HTTP nor who is asking.

use super::error::HubError;
use crate::{
    dice::Dice,
    keys::KeyPair,
    settings::{ManagedBy, Settings},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One hub.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hub {
    /// Its host name, with a port where it has one: the first part of every audience.
    pub(crate) name: String,
    /// By id; ids are case-sensitive.
    #[serde(default)]
    pub(crate) devices: BTreeMap<String, Device>,
}

/// A device identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    /// The id, again.
    pub(crate) device_id: String,
    /// Changes whenever the device is created anew.
    pub(crate) generation_id: String,
    /// Changes at every write.
    pub(crate) etag: String,
    /// A disabled device is refused.
    pub(crate) enabled: bool,
    /// Whether it has the runtime's modules.
    pub(crate) iot_edge: bool,
    /// What it proves itself with.
    pub(crate) authentication: Authentication,
    /// By id.
    #[serde(default)]
    pub(crate) modules: BTreeMap<String, Module>,
}

/// A module identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Module {
    /// The id, again.
    pub(crate) module_id: String,
    /// The device it belongs to.
    pub(crate) device_id: String,
    /// Who looks after it, e.g. `IotEdge`.
    #[serde(default)]
    pub(crate) managed_by: Option<String>,
    /// Changes whenever the module is created anew.
    pub(crate) generation_id: String,
    /// Changes at every write.
    pub(crate) etag: String,
    /// What it proves itself with.
    pub(crate) authentication: Authentication,
}

/// What an identity proves itself with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Authentication {
    /// The keys; absent for identities without.
    pub(crate) symmetric_key: Option<KeyPair>,
    /// The certificates' thumbprints.
    #[serde(alias = "x509thumbprint")]
    pub(crate) x509_thumbprint: Option<Thumbprints>,
    /// The kind.
    #[serde(rename = "type")]
    pub(crate) kind: AuthenticationKind,
}

/// SHA-1 or SHA-256 fingerprints of certificates, in hex.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Thumbprints {
    /// Used first.
    pub(crate) primary_thumbprint: Option<String>,
    /// Used while the primary is being replaced.
    pub(crate) secondary_thumbprint: Option<String>,
}

/// The kinds of authentication that a hub knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AuthenticationKind {
    /// Cannot connect.
    None,
    /// Symmetric keys.
    #[default]
    Sas,
    /// Thumbprints, as version 2017-11-08-preview spells it.
    X509,
    /// Thumbprints, as later versions spell it.
    SelfSigned,
    /// A certificate of a CA that the hub trusts.
    CertificateAuthority,
}

/// What a PUT asks a module to be.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModuleSpec {
    /// Must be the id of the path.
    pub(crate) module_id: String,
    /// Must be the device of the path.
    pub(crate) device_id: String,
    /// See [`ManagedBy`] when absent.
    #[serde(default)]
    pub(crate) managed_by: Option<String>,
    /// Keys are generated (or kept) when absent.
    #[serde(default)]
    pub(crate) authentication: Option<Authentication>,
}

impl Device {
    /// A new device identity. An edge device gets the runtime's modules.
    #[must_use]
    pub(crate) fn new(
        device_id: &str,
        authentication: Authentication,
        iot_edge: bool,
        dice: &mut Dice,
    ) -> Device {
        let mut device = Device {
            device_id: device_id.to_owned(),
            generation_id: dice.generation_id(),
            etag: dice.etag(),
            enabled: true,
            iot_edge,
            authentication,
            modules: BTreeMap::new(),
        };
        for id in ["$edgeAgent", "$edgeHub"].into_iter().filter(|_| iot_edge) {
            let spec = ModuleSpec { managed_by: Some("IotEdge".to_owned()), ..ModuleSpec::default() };
            device.insert(id, spec, dice);
        }
        device
    }

    /// A module of this device.
    ///
    /// # Errors
    /// `ModuleNotFound`.
    pub(crate) fn module(&self, id: &str) -> Result<&Module, HubError> {
        self.modules.get(id).ok_or_else(|| HubError::module_not_found(&self.device_id, id))
    }

    /// Create or update a module as a PUT with this `If-Match` does; tells whether it is new.
    ///
    /// # Errors
    /// An id or a number of modules that is not allowed, `ModuleAlreadyExistsOnDevice` without `If-Match`,
    /// `PreconditionFailed` with a stale one, `ModuleNotFound` with any on a module that does not exist.
    pub(crate) fn put(
        &mut self,
        id: &str,
        spec: ModuleSpec,
        if_match: Option<&str>,
        rules: &Settings,
        dice: &mut Dice,
    ) -> Result<(Module, bool), HubError> {
        if (spec.module_id.as_str(), spec.device_id.as_str()) != (id, self.device_id.as_str()) {
            return Err(HubError::argument("the ids in the body are not those of the URL"));
        }
        spec.authentication.iter().try_for_each(Authentication::check)?;
        let full = self.modules.len() >= rules.module_limit;
        match (self.modules.get_mut(id), if_match) {
            (Some(_), None) => Err(HubError::module_exists(&self.device_id, id)),
            (None, Some(_)) => Err(HubError::module_not_found(&self.device_id, id)),
            (Some(module), Some(tag)) => {
                matches(tag, &module.etag)?;
                module.update(spec, rules, dice);
                Ok((module.clone(), false))
            }
            (None, None) if !legal(id) || id.starts_with('$') => {
                Err(HubError::argument(&format!("{id} is no id that a module can be created with")))
            }
            (None, None) if full => Err(HubError::too_many_modules(&self.device_id, rules.module_limit)),
            (None, None) => Ok((self.insert(id, spec, dice), true)),
        }
    }

    /// Remove a module as a DELETE with this `If-Match` does.
    ///
    /// # Errors
    /// `ModuleNotFound`; `PreconditionFailed` when `If-Match` is stale or missing.
    pub(crate) fn delete(&mut self, id: &str, if_match: Option<&str>) -> Result<(), HubError> {
        let tag = if_match.ok_or_else(|| HubError::precondition("DELETE needs If-Match"))?;
        matches(tag, &self.module(id)?.etag)?;
        self.modules.remove(id);
        Ok(())
    }

    /// Create or replace a module without any rule: for seeding.
    pub(crate) fn insert(&mut self, id: &str, spec: ModuleSpec, dice: &mut Dice) -> Module {
        let authentication = spec.authentication.unwrap_or_default().or_generate(dice);
        let module = Module {
            module_id: id.to_owned(),
            device_id: self.device_id.clone(),
            managed_by: spec.managed_by,
            generation_id: dice.generation_id(),
            etag: dice.etag(),
            authentication,
        };
        self.modules.insert(id.to_owned(), module.clone());
        module
    }
}

impl Module {
    fn update(&mut self, spec: ModuleSpec, rules: &Settings, dice: &mut Dice) {
        if spec.managed_by.is_some() || rules.managed_by == ManagedBy::Replace {
            self.managed_by = spec.managed_by;
        }
        if let Some(authentication) = spec.authentication {
            self.authentication = authentication.or_generate(dice);
        }
        self.etag = dice.etag();
    }

    /// The module as the registry answers it.
    #[must_use]
    pub(crate) fn to_json(&self) -> Value {
        let Authentication { symmetric_key, x509_thumbprint, kind } = &self.authentication;
        json!({
            "moduleId": self.module_id,
            "managedBy": self.managed_by,
            "deviceId": self.device_id,
            "generationId": self.generation_id,
            "etag": self.etag,
            "connectionState": "Disconnected",
            "connectionStateUpdatedTime": "0001-01-01T00:00:00",
            "lastActivityTime": "0001-01-01T00:00:00",
            "cloudToDeviceMessageCount": 0,
            "authentication": {
                "symmetricKey": symmetric_key.clone().unwrap_or_default(),
                "x509Thumbprint": x509_thumbprint.clone().unwrap_or_default(),
                "type": kind,
            },
        })
    }
}

impl Authentication {
    /// SAS authentication with these keys.
    #[must_use]
    pub(crate) fn sas(keys: KeyPair) -> Authentication {
        Authentication { symmetric_key: Some(keys), x509_thumbprint: None, kind: AuthenticationKind::Sas }
    }

    /// Authentication by these thumbprints.
    #[must_use]
    pub(crate) fn self_signed(primary: String, secondary: Option<String>) -> Authentication {
        let thumbprints = Thumbprints { primary_thumbprint: Some(primary), secondary_thumbprint: secondary };
        let kind = AuthenticationKind::SelfSigned;
        Authentication { symmetric_key: None, x509_thumbprint: Some(thumbprints), kind }
    }

    /// Authentication by a certificate of any CA that the hub trusts.
    #[must_use]
    pub(crate) fn certificate_authority() -> Authentication {
        Authentication { kind: AuthenticationKind::CertificateAuthority, ..Authentication::default() }
    }

    /// Whether an identity can be this.
    ///
    /// # Errors
    /// `ArgumentInvalid` for thumbprints that are none, or missing where they are needed.
    pub(crate) fn check(&self) -> Result<(), HubError> {
        let named = self.thumbprints();
        if let Some((_, odd)) = named.iter().find(|(_, text)| !is_thumbprint(text)) {
            return Err(HubError::argument(&format!("{odd} is no thumbprint")));
        }
        match self.kind {
            AuthenticationKind::X509 | AuthenticationKind::SelfSigned if named.is_empty() => {
                Err(HubError::argument("there is no thumbprint"))
            }
            _ => Ok(()),
        }
    }

    /// The thumbprints there are.
    #[must_use]
    pub(crate) fn thumbprints(&self) -> Vec<(&'static str, &str)> {
        let Some(Thumbprints { primary_thumbprint, secondary_thumbprint }) = &self.x509_thumbprint else {
            return Vec::new();
        };
        let both = [("primary", primary_thumbprint), ("secondary", secondary_thumbprint)];
        both.into_iter().filter_map(|(name, text)| Some((name, text.as_deref()?))).collect()
    }

    /// This with absent keys generated, if it is a kind that has keys.
    #[must_use]
    pub(crate) fn or_generate(self, dice: &mut Dice) -> Authentication {
        match self.kind {
            AuthenticationKind::Sas => {
                let keys = self.symmetric_key.unwrap_or_default().or_generate(|| dice.key());
                Authentication { symmetric_key: Some(keys), ..self }
            }
            _ => Authentication { symmetric_key: None, ..self },
        }
    }

    /// The keys that may sign for this identity.
    #[must_use]
    pub(crate) fn keys(&self) -> KeyPair {
        self.symmetric_key.clone().unwrap_or_default()
    }
}

/// Whether `id` is made of the characters that device and module ids may have.
#[must_use]
pub(crate) fn legal(id: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-.+%_#*?!(),:=@$'".contains(c);
    (1..=128).contains(&id.len()) && id.chars().all(allowed)
}

/// SHA-1 or SHA-256 in hex, perhaps with colons.
fn is_thumbprint(text: &str) -> bool {
    let digits = text.bytes().filter(|byte| *byte != b':');
    matches!(digits.clone().count(), 40 | 64) && digits.clone().all(|byte| byte.is_ascii_hexdigit())
}

/// `*`, or the etag with or without quotes.
fn matches(if_match: &str, etag: &str) -> Result<(), HubError> {
    let wanted = if_match.trim().trim_start_matches("W/");
    if wanted == "*" || wanted.trim_matches('"') == etag {
        Ok(())
    } else {
        Err(HubError::precondition(&format!("the etag is {etag}, not {if_match}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(iot_edge: bool) -> (Device, Dice) {
        let mut dice = Dice::new(1);
        (Device::new("d", Authentication::default(), iot_edge, &mut dice), dice)
    }

    fn spec(id: &str) -> ModuleSpec {
        ModuleSpec { module_id: id.into(), device_id: "d".into(), ..ModuleSpec::default() }
    }

    #[test]
    fn etag_rules_of_put_and_delete() {
        let (mut device, mut dice) = device(false);
        let rules = Settings::default();
        let mut put = |tag: Option<&str>| device.put("m", spec("m"), tag, &rules, &mut dice);
        assert_eq!(put(Some("*")).unwrap_err().status, 404);
        let (module, new) = put(None).unwrap();
        assert!(new && module.authentication.keys().primary_key.is_some());
        assert_eq!(put(None).unwrap_err().status, 409);
        let (second, new) = put(Some("*")).unwrap();
        assert!(!new && second.generation_id == module.generation_id && second.etag != module.etag);
        assert_eq!(put(Some(&module.etag)).unwrap_err().status, 412);
        let third = put(Some(&second.etag)).unwrap().0;
        let fourth = put(Some(&format!("\"{}\"", third.etag))).unwrap().0;
        assert_eq!(fourth.authentication, module.authentication);
        assert_eq!(device.delete("m", None).unwrap_err().status, 412);
        assert_eq!(device.delete("m", Some(&third.etag)).unwrap_err().status, 412);
        device.delete("m", Some("*")).unwrap();
        assert_eq!(device.delete("m", Some("*")).unwrap_err().status, 404);
        let again = device.put("m", spec("m"), None, &rules, &mut dice).unwrap().0;
        assert_ne!(again.generation_id, module.generation_id);
        assert_ne!(again.authentication, module.authentication);
    }

    #[test]
    fn ids_are_checked_and_modules_counted() {
        let (mut device, mut dice) = device(false);
        let rules = Settings { module_limit: 3, ..Settings::default() };
        let mut put = |id: &str| device.put(id, spec(id), None, &rules, &mut dice).map_err(|err| err.status);
        for bad in ["", "a b", "a/b", "é", "$edgeAgent", &"x".repeat(129)] {
            assert_eq!(put(bad), Err(400), "{bad}");
        }
        for good in ["a-.+%_#*?!(),:=@$'", &"x".repeat(128), "M"] {
            assert!(put(good).is_ok(), "{good}");
        }
        assert_eq!(put("m"), Err(413));
        assert_eq!(device.put("n", spec("m"), None, &rules, &mut dice).unwrap_err().status, 400);
    }

    #[test]
    fn managed_by_is_replaced_or_kept() {
        for (manner, left) in [(ManagedBy::Replace, None), (ManagedBy::Keep, Some("IotEdge"))] {
            let (mut device, mut dice) = device(true);
            let rules = Settings { managed_by: manner, ..Settings::default() };
            let spec =
                ModuleSpec { module_id: "$edgeAgent".into(), device_id: "d".into(), ..ModuleSpec::default() };
            let module = device.put("$edgeAgent", spec, Some("*"), &rules, &mut dice).unwrap().0;
            assert_eq!(module.managed_by.as_deref(), left);
        }
    }
}
