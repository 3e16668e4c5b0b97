//! The device: one small snapshot that everybody reads, and where provisioning has got to. Swapped as a whole, so reads
//! never wait for the cloud. Does not know how a device is obtained.

use std::sync::Arc;
use std::time::SystemTime;

use http_common::chain;
use identity_api::{Auth, AziotIdentity, Identity};

use crate::Error;
use crate::backup::Record;
use crate::credentials::DeviceCredentials;
use crate::modules::Modules;
use crate::records::ModuleRecord;

/// The device as far as there is one.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    /// The device; kept while a new one is obtained.
    pub(crate) device: Option<Arc<Device>>,
    /// Where provisioning has got to.
    pub(crate) phase: Phase,
    /// Whether the process is about to end.
    pub(crate) stopping: bool,
}

/// A provisioned device.
pub(crate) struct Device {
    /// Who it is.
    pub(crate) record: Record,
    /// The digest of the settings it was obtained with; `None` if upstream obtained it.
    pub(crate) digest: Option<String>,
    /// How it proves who it is.
    pub(crate) credentials: DeviceCredentials,
    /// Its modules.
    pub(crate) modules: Arc<Modules>,
}

/// Where provisioning has got to.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// Under way.
    Working {
        /// Why the attempt before has failed.
        before: Option<Arc<Error>>,
    },
    /// Failed; it will be tried again.
    Waiting {
        /// Failures so far.
        failures: u32,
        /// When it will be tried again.
        next: SystemTime,
        /// Why it failed.
        error: Arc<Error>,
    },
    /// Nothing left to do.
    Settled,
    /// `source = "none"`.
    Off,
}

impl Device {
    /// The device's identity with these credentials.
    pub(crate) fn identity(&self, auth: Auth) -> Identity {
        self.aziot(None, Some(auth))
    }

    /// A module's identity; without credentials in lists.
    pub(crate) fn module_identity(&self, module: &ModuleRecord, auth: Option<Auth>) -> Identity {
        self.aziot(Some(module), auth)
    }

    fn aziot(&self, module: Option<&ModuleRecord>, auth: Option<Auth>) -> Identity {
        let Record { hub, gateway, device_id } = &self.record;
        Identity::Aziot(AziotIdentity {
            hub_name: hub.clone(),
            gateway_host: gateway.clone(),
            device_id: module.map_or(device_id, |module| &module.device_id).clone(),
            module_id: module.map(|module| module.module_id.clone()),
            gen_id: module.and_then(|module| module.generation_id.clone()),
            auth,
        })
    }
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}", self.record.device_id, self.record.hub)
    }
}

impl Status {
    /// Whether a device may yet appear without anybody doing anything.
    pub(crate) fn is_pending(&self) -> bool {
        self.device.is_none() && matches!(self.phase, Phase::Working { .. } | Phase::Waiting { .. })
    }

    /// Why there is no device.
    pub(crate) fn absence(&self, now: SystemTime) -> Error {
        Error::NotProvisioned { why: self.phase.describe(now) }
    }

    /// One line for `systemctl status`.
    pub(crate) fn line(&self, now: SystemTime) -> String {
        let phase = self.phase.describe(now);
        match &self.device {
            Some(device) => format!("{device:?}; {phase}"),
            None => format!("not provisioned; {phase}"),
        }
    }
}

impl Phase {
    /// The next attempt, which knows how the last one has failed.
    pub(crate) fn again(&self) -> Self {
        let before = match self {
            Self::Waiting { error, .. } => Some(Arc::clone(error)),
            Self::Working { before } => before.clone(),
            Self::Settled | Self::Off => None,
        };
        Self::Working { before }
    }

    fn describe(&self, now: SystemTime) -> String {
        match self {
            Self::Working { before: None } => "provisioning is under way".to_owned(),
            Self::Working { before: Some(error) } => {
                format!("provisioning is under way; the attempt before has failed: {}", chain(&**error))
            }
            Self::Waiting { failures, next, error } => {
                let left = next.duration_since(now).unwrap_or_default().as_secs();
                format!("attempt {failures} has failed, the next one is in {left} s: {}", chain(&**error))
            }
            Self::Settled => "all is in line".to_owned(),
            Self::Off => "provisioning.source is \"none\"".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_under_way_does_not_hide_why_the_last_one_has_failed() {
        let now = SystemTime::now();
        let error = Arc::new(Error::from(dps_client::Error::Disabled));
        let waiting = Phase::Waiting { failures: 1, next: now, error };
        let expected = format!(
            "provisioning is under way; the attempt before has failed: {}",
            dps_client::Error::Disabled
        );
        assert_eq!(waiting.again().describe(now), expected);
        assert_eq!(waiting.again().again().describe(now), expected, "the settings have changed meanwhile");
        assert_eq!(Phase::Settled.again().describe(now), "provisioning is under way");
    }
}
