//! What identityd remembers of the device over a restart: `device_info` and `prev_state`, byte for byte as upstream 1.6
//! writes them, and files of our own beside them (spec identity-service, chapter 9). Decides nothing.
//!
//! A file that cannot be understood is as good as none, and says so in the log; it never hides another one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use config_common::{durable, read_regular};
use http_common::retry::Backoff;
use identity_api::config::Config;
use serde::{Deserialize, Serialize};

use crate::Error;

/// Who the device is: all that a hub or DPS says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// The hub's host name.
    #[serde(rename = "hub_name")]
    pub(crate) hub: String,
    /// The host to connect to; the hub's name if there is no gateway.
    #[serde(rename = "local_gateway_hostname")]
    pub(crate) gateway: String,
    /// The device's name at the hub.
    pub(crate) device_id: String,
}

/// What upstream does not remember.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Memo {
    /// Of the settings that the record in `device_info` was got with; `None` if upstream got it.
    pub(crate) digest: Option<String>,
    /// Of the settings that the back-off is about.
    pub(crate) backoff_digest: String,
    /// Whether a service asked for the pause.
    pub(crate) asked: bool,
    /// Why there is a pause.
    pub(crate) cause: Option<String>,
    /// When the cloud may be asked again.
    pub(crate) backoff: Backoff,
}

/// What is remembered of the master key of the keys of modules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MasterMemo {
    /// Its fingerprint; empty if there was none yet.
    pub(crate) fingerprint: String,
    /// Whether the hub may have keys of modules that are of another one.
    pub(crate) due: bool,
    /// The modules of the device that have been given keys of this one or an earlier one.
    pub(crate) given: BTreeSet<String>,
}

/// The state directory. All calls block.
#[derive(Debug, Clone)]
pub(crate) struct Home(PathBuf);

impl Home {
    /// The directory `path`, which is made if it is not there.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        durable::create_dir(path, 0o700)?;
        if let Err(error) = durable::clean_leftovers(path) {
            tracing::warn!("{}", http_common::chain(&error));
        }
        Ok(Self(path.to_owned()))
    }

    /// The directory of the journals of renewals.
    pub(crate) fn renewals(&self) -> PathBuf {
        self.0.join("renewal")
    }

    /// The directory of the module records.
    pub(crate) fn modules(&self) -> PathBuf {
        self.0.join("modules")
    }

    /// The device that was remembered last.
    pub(crate) fn record(&self) -> Option<Record> {
        let text = self.read(DEVICE_INFO)?;
        // Upstream reads this word as well, and writes it never.
        if text == "unprovisioned" {
            return None;
        }
        self.parsed(DEVICE_INFO, toml::from_str(&text))
    }

    /// Remember `record`, got with settings of the digest in `memo`. What was recorded of another device's modules is
    /// forgotten first: it must never be taken for this one's.
    pub(crate) fn write_record(&self, record: &Record, memo: &Memo) -> Result<(), Error> {
        if self.record().as_ref() != Some(record) {
            durable::remove(&self.0.join(PREV_STATE))?;
        }
        let text = toml::to_string(record)?;
        durable::write_if_changed(&self.0.join(DEVICE_INFO), text.as_bytes(), MODE)?;
        self.write_memo(memo)
    }

    /// Whether `record` may be of another device than what is remembered.
    pub(crate) fn is_news(&self, record: &Record) -> bool {
        let is_same = |known: Record| known.hub == record.hub && known.device_id == record.device_id;
        !self.record().is_some_and(is_same)
    }

    /// The settings of the last reconciliation of the modules of `record`, which say whose modules are ours.
    pub(crate) fn prev_state(&self, record: &Record) -> Option<Config> {
        if self.record().as_ref() != Some(record) {
            return None;
        }
        let config: Config = self.parsed(PREV_STATE, toml::from_str(&self.read(PREV_STATE)?))?;
        match config.check() {
            Ok(()) => Some(config),
            Err(error) => {
                tracing::warn!("{PREV_STATE} is not used: {error}");
                None
            }
        }
    }

    /// Remember the settings of a reconciliation.
    pub(crate) fn write_prev_state(&self, config: &Config) -> Result<(), Error> {
        let text = toml::to_string(&config.for_record())?;
        durable::write_if_changed(&self.0.join(PREV_STATE), text.as_bytes(), MODE)?;
        Ok(())
    }

    /// What upstream does not remember.
    pub(crate) fn memo(&self) -> Memo {
        let Some(text) = self.read(MEMO) else { return Memo::default() };
        self.parsed(MEMO, toml::from_str(&text)).unwrap_or_default()
    }

    /// Remember `memo`.
    pub(crate) fn write_memo(&self, memo: &Memo) -> Result<(), Error> {
        let text = toml::to_string(memo)?;
        durable::write_if_changed(&self.0.join(MEMO), text.as_bytes(), MODE)?;
        Ok(())
    }

    /// What is remembered of the master key of the keys of modules.
    pub(crate) fn master_memo(&self) -> MasterMemo {
        let Some(text) = self.read(MASTER) else { return MasterMemo::default() };
        self.parsed(MASTER, toml::from_str(&text)).unwrap_or_default()
    }

    /// Remember this of the master key.
    pub(crate) fn write_master_memo(&self, memo: &MasterMemo) -> Result<(), Error> {
        durable::write_if_changed(&self.0.join(MASTER), toml::to_string(memo)?.as_bytes(), MODE)?;
        Ok(())
    }

    /// The trust bundle `id` as it was last.
    pub(crate) fn bundle(&self, id: &str) -> Option<String> {
        let text = self.read(BUNDLE)?;
        let (of, certificates) = text.split_once('\n')?;
        (of == format!("{id:?}")).then(|| certificates.to_owned())
    }

    /// Remember the trust bundle `id`. Its id stands before the certificates, where readers of PEM skip it.
    pub(crate) fn keep_bundle(&self, id: &str, certificates: &str) -> Result<(), Error> {
        let text = format!("{id:?}\n{certificates}");
        durable::write_if_changed(&self.0.join(BUNDLE), text.as_bytes(), MODE)?;
        Ok(())
    }

    fn read(&self, name: &str) -> Option<String> {
        let path = self.0.join(name);
        match read_regular(&path) {
            Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!("cannot read {}: {error}", path.display());
                None
            }
        }
    }

    fn parsed<T>(&self, name: &str, parsed: Result<T, toml::de::Error>) -> Option<T> {
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!("{} is not used: {}", self.0.join(name).display(), error.message());
                None
            }
        }
    }
}

const DEVICE_INFO: &str = "device_info";
const PREV_STATE: &str = "prev_state";
const BUNDLE: &str = "trust_bundle.pem";
const MASTER: &str = "module_master_memo";
const MEMO: &str = "provisioning_memo";
const MODE: u32 = 0o600;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tempfile::TempDir;

    fn record(hub: &str) -> Record {
        Record { hub: hub.into(), gateway: hub.into(), device_id: "press-17".into() }
    }

    fn home() -> (TempDir, Home) {
        let directory = TempDir::new().unwrap();
        let home = Home::open(&directory.path().join("a/home")).unwrap();
        (directory, home)
    }

    fn config() -> Config {
        let text = "hostname = 'h'\nhomedir = '/x'\n[provisioning]\nsource = 'manual'\niothub_hostname = 'h'\n\
            device_id = 'd'\nauthentication = { method = 'sas', device_id_pk = 'k' }";
        toml::from_str(text).unwrap()
    }

    #[test]
    fn device_info_is_upstreams() {
        let (_directory, home) = home();
        let written = record("plant-hub.azure-devices.net");
        home.write_record(&written, &Memo::default()).unwrap();
        let expected = "hub_name = \"plant-hub.azure-devices.net\"\n\
            local_gateway_hostname = \"plant-hub.azure-devices.net\"\ndevice_id = \"press-17\"\n";
        assert_eq!(fs::read_to_string(home.0.join("device_info")).unwrap(), expected);
        assert_eq!(home.record(), Some(written));
    }

    #[test]
    fn device_info_as_others_wrote_it() {
        let (_directory, home) = home();
        let check = |bytes: &[u8], expected: Option<Record>| {
            fs::write(home.0.join("device_info"), bytes).unwrap();
            assert_eq!(home.record(), expected, "{:?}", String::from_utf8_lossy(bytes));
        };
        let any_order = b"device_id = 'press-17'\nnew = 1\nlocal_gateway_hostname = 'h'\nhub_name = 'h'";
        check(any_order, Some(record("h")));
        check(b"unprovisioned", None);
        check(b"", None);
        check(b"hub_name = 'h'\nlocal_gatew", None);
        check(b"\xff\x00", None);
        fs::remove_file(home.0.join("device_info")).unwrap();
        fs::create_dir(home.0.join("device_info")).unwrap();
        assert_eq!(home.record(), None);
    }

    #[test]
    fn prev_state_belongs_to_one_device() {
        let (_directory, home) = home();
        assert_eq!(home.prev_state(&record("h")), None);
        home.write_record(&record("h"), &Memo::default()).unwrap();
        home.write_prev_state(&config()).unwrap();
        assert_eq!(home.prev_state(&record("h")), Some(config()));
        assert_eq!(home.prev_state(&record("other")), None);
        home.write_record(&record("h"), &Memo::default()).unwrap();
        assert_eq!(home.prev_state(&record("h")), Some(config()), "written again");
        let through_gateway = Record { gateway: "g".into(), ..record("h") };
        assert!(!home.is_news(&through_gateway) && home.is_news(&record("other")));
        home.write_record(&record("other"), &Memo::default()).unwrap();
        assert_eq!(home.prev_state(&record("other")), None, "not the other's");
    }

    #[test]
    fn garbled_files_are_no_files() {
        let (_directory, home) = home();
        home.write_record(&record("h"), &Memo::default()).unwrap();
        for name in ["prev_state", "provisioning_memo"] {
            fs::write(home.0.join(name), "hostname = 'h").unwrap();
        }
        assert_eq!(home.prev_state(&record("h")), None);
        assert_eq!(home.memo(), Memo::default());
    }

    #[test]
    fn a_bundle_is_that_of_its_id() {
        let (_directory, home) = home();
        assert_eq!(home.bundle("a"), None);
        home.keep_bundle("a\nb", "-----BEGIN").unwrap();
        assert_eq!(home.bundle("a\nb").as_deref(), Some("-----BEGIN"));
        assert_eq!((home.bundle("a"), home.bundle("")), (None, None));
        home.keep_bundle("a", "").unwrap();
        assert_eq!(home.bundle("a").as_deref(), Some(""), "known to be empty");
    }

    #[test]
    fn the_memo_survives() {
        let (_directory, home) = home();
        let mut memo = Memo { digest: Some("dps:1".into()), ..Memo::default() };
        memo.backoff.failed(std::time::SystemTime::now(), None, 0.5);
        home.write_memo(&memo).unwrap();
        assert_eq!(home.memo(), memo);
    }
}
