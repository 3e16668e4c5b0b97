//! All that the cloud remembers. It is data: who may change it, and how, is decided in `dps`, `hub` and `admin`.

use crate::{
    dice::Dice,
    dps::{Challenged, Enrollment, Operation, Reassignment, Registration},
    est::Est,
    hub::Hub,
    settings::Settings,
    trust::CaCertificates,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The remembered state; also the form of the state file and of `PUT /state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct World {
    /// The id scope of the one DPS instance.
    pub(crate) scope: String,
    /// Individual enrolments by registration id in lower case.
    #[serde(default)]
    pub(crate) enrollments: BTreeMap<String, Enrollment>,
    /// Enrolment groups by id.
    #[serde(default)]
    pub(crate) enrollment_groups: BTreeMap<String, Enrollment>,
    /// The operator's CA certificates by name.
    #[serde(default)]
    pub(crate) certificates: CaCertificates,
    /// Devices with a TPM, once challenged, by registration id in lower case.
    #[serde(default)]
    pub(crate) challenged: BTreeMap<String, Challenged>,
    /// Registrations by registration id in lower case.
    #[serde(default)]
    pub(crate) registrations: BTreeMap<String, Registration>,
    /// Assignments that the next registration must make, by registration id in lower case.
    #[serde(default)]
    pub(crate) reassignments: BTreeMap<String, Reassignment>,
    /// Running and finished registration operations by id.
    #[serde(default)]
    pub(crate) operations: BTreeMap<String, Operation>,
    /// The hubs, in the order of `ready.json`.
    #[serde(default)]
    pub(crate) hubs: Vec<Hub>,
    /// The EST server's labels and certificates.
    #[serde(default)]
    pub(crate) est: Est,
    /// The cloud's manners.
    #[serde(default)]
    pub(crate) settings: Settings,
    /// The source of inventions; a new one when absent.
    #[serde(default = "unseeded")]
    pub(crate) dice: Dice,
}

impl World {
    /// A cloud without enrolments whose inventions follow from `seed`.
    #[must_use]
    pub(crate) fn new(scope: &str, hubs: &[String], seed: u64) -> World {
        World {
            scope: scope.to_owned(),
            enrollments: BTreeMap::new(),
            enrollment_groups: BTreeMap::new(),
            certificates: BTreeMap::new(),
            challenged: BTreeMap::new(),
            registrations: BTreeMap::new(),
            reassignments: BTreeMap::new(),
            operations: BTreeMap::new(),
            hubs: hubs.iter().map(|name| Hub { name: name.clone(), devices: BTreeMap::new() }).collect(),
            est: Est::default(),
            settings: Settings::default(),
            dice: Dice::new(seed),
        }
    }

    /// The hub of this name, in any case.
    #[must_use]
    pub(crate) fn hub(&self, name: &str) -> Option<&Hub> {
        self.hubs.iter().find(|hub| hub.name.eq_ignore_ascii_case(name))
    }

    /// The hub of this name, in any case.
    pub(crate) fn hub_mut(&mut self, name: &str) -> Option<&mut Hub> {
        self.hubs.iter_mut().find(|hub| hub.name.eq_ignore_ascii_case(name))
    }

    /// The hubs' names.
    #[must_use]
    pub(crate) fn hub_names(&self) -> Vec<String> {
        self.hubs.iter().map(|hub| hub.name.clone()).collect()
    }

    /// This world with its hubs renamed, position by position: ports differ from run to run. Missing hubs are
    /// added, hubs without a name are dropped.
    #[must_use]
    pub(crate) fn renamed(mut self, names: &[String]) -> World {
        let new_name: BTreeMap<String, String> =
            self.hub_names().into_iter().zip(names.iter().cloned()).collect();
        let rename = |name: &mut String| {
            if let Some(new) = new_name.get(name) {
                name.clone_from(new);
            }
        };
        self.registrations.values_mut().filter_map(|reg| reg.assigned_hub.as_mut()).for_each(rename);
        self.operations
            .values_mut()
            .filter_map(|op| op.registration.as_mut()?.assigned_hub.as_mut())
            .for_each(rename);
        self.reassignments.values_mut().filter_map(|next| next.hub.as_mut()).for_each(rename);
        for enrollment in self.enrollments.values_mut().chain(self.enrollment_groups.values_mut()) {
            enrollment.iot_hub_host_name.iter_mut().for_each(rename);
            enrollment.iot_hubs.iter_mut().flatten().for_each(rename);
        }
        let mut old = self.hubs.into_iter();
        let hub = |name: &String| Hub { name: name.clone(), devices: old.next().unwrap_or_default().devices };
        self.hubs = names.iter().map(hub).collect();
        self
    }
}

fn unseeded() -> Dice {
    Dice::new(fastrand::u64(..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hubs_are_renamed_wherever_they_are_named() {
        let mut world = World::new("s", &["localhost:1".into(), "localhost:2".into()], 1);
        let enrollment = json!({
            "registrationId": "a", "attestation": {"type": "symmetricKey"},
            "iotHubs": ["localhost:2", "elsewhere"], "iotHubHostName": "localhost:1",
        });
        world.enrollments.insert("a".into(), serde_json::from_value(enrollment).unwrap());
        let world = world.renamed(&["localhost:7".into(), "localhost:8".into(), "localhost:9".into()]);
        let enrollment = &world.enrollments["a"];
        assert_eq!(enrollment.iot_hubs.as_deref(), Some(&["localhost:8".to_owned(), "elsewhere".into()][..]));
        assert_eq!(enrollment.iot_hub_host_name.as_deref(), Some("localhost:7"));
        assert_eq!(world.hub_names(), ["localhost:7", "localhost:8", "localhost:9"]);
        assert!(world.hub("LOCALHOST:9").is_some());
    }

    #[test]
    fn a_world_reads_back_and_needs_only_its_scope() {
        let world = World::new("s", &["h".into()], 1);
        let text = serde_json::to_string(&world).unwrap();
        let again: World = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        assert!(serde_json::from_value::<World>(json!({"scope": "s"})).is_ok());
        assert!(serde_json::from_value::<World>(json!({"scope": "s", "hub": []})).is_err());
    }
}
