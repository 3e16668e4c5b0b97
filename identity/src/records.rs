//! What is known of the modules of one device: in memory, and in a directory of one file each, named and filled as upstream
//! 1.6 does (spec identity-service, 9.4). Never any key. Does not know where the knowledge comes from.
//!
//! Reads are served from memory and never wait for the disk. After a change the file is brought in line with memory, by
//! whoever comes first; so the last change wins, whatever the order of the writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use config_common::{durable, read_regular};
use http_common::chain;
use hub_client::Module;
use serde::{Deserialize, Serialize};

use crate::backup::{Home, Record};

/// What is known of a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModuleRecord {
    /// Its name.
    pub(crate) module_id: String,
    /// Who manages it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) managed_by: Option<String>,
    /// Its device.
    pub(crate) device_id: String,
    /// Its generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation_id: Option<String>,
}

/// The modules of one device.
#[derive(Debug)]
pub(crate) struct Records {
    directory: PathBuf,
    device_id: String,
    known: Mutex<Known>,
    /// Held while files are written, never while memory is.
    disk: Mutex<()>,
}

/// A point in the history of [`Records`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment(u64);

#[derive(Debug, Default)]
struct Known {
    modules: BTreeMap<String, ModuleRecord>,
    /// When which module was changed last, also those that are gone.
    changed: BTreeMap<String, u64>,
    now: u64,
}

impl Records {
    /// The modules of the device `record` as far as `home` remembers them. Those of any other device are forgotten for
    /// good. Blocks.
    pub(crate) fn load(home: &Home, record: &Record) -> Self {
        let (all, directory) = (home.modules(), directory(&home.modules(), record));
        if !directory.is_dir() {
            if let Err(error) = fs::remove_dir_all(&all).or_else(unless_absent) {
                tracing::warn!("cannot remove {}: {error}", all.display());
            }
            if let Err(error) = durable::create_dir(&directory, 0o700) {
                tracing::warn!("{}", chain(&error));
            }
        }
        let device_id = record.device_id.clone();
        let modules = read_all(&directory, &device_id);
        let known = Known { modules, ..Known::default() };
        Self { directory, device_id, known: Mutex::new(known), disk: Mutex::default() }
    }

    /// What is known of the module `id`.
    pub(crate) fn get(&self, id: &str) -> Option<ModuleRecord> {
        self.known().modules.get(id).cloned()
    }

    /// What is known of all modules, by name.
    pub(crate) fn all(&self) -> Vec<ModuleRecord> {
        self.known().modules.values().cloned().collect()
    }

    /// Now; for [`Records::see_all`].
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.known().now)
    }

    /// Take up what the hub says of one module.
    pub(crate) async fn see(self: &Arc<Self>, module: &Module) {
        let id = module.module_id.clone();
        if self.known().put(ModuleRecord::from(module)) {
            self.bring_in_line(vec![id]).await;
        }
    }

    /// Take up that there is no module `id`.
    pub(crate) async fn forget(self: &Arc<Self>, id: &str) {
        if self.known().remove(id) {
            self.bring_in_line(vec![id.to_owned()]).await;
        }
    }

    /// Whether `module` is one of this device, as it should be whenever the hub is asked for those.
    pub(crate) fn is_ours(&self, module: &Module) -> bool {
        let is_ours = is_same_device(&module.device_id, &self.device_id);
        if !is_ours {
            tracing::warn!(
                "the module {:?} is left out: the hub says that it is of the device {:?}, and this is {:?}",
                module.module_id,
                module.device_id,
                self.device_id
            );
        }
        is_ours
    }

    /// Take up what the hub said of all modules when it was asked at `asked`. What has changed here since is newer.
    pub(crate) async fn see_all(self: &Arc<Self>, modules: &[Module], asked: Moment) {
        let changed = self.known().put_all(modules, asked);
        if !changed.is_empty() {
            self.bring_in_line(changed).await;
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while held")
    }

    async fn bring_in_line(self: &Arc<Self>, ids: Vec<String>) {
        let records = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || ids.iter().for_each(|id| records.write(id)));
        if written.await.is_err() {
            tracing::error!("the task that writes module records ended early; this is a bug");
        }
    }

    /// Make the file of `id` what memory says. Failures cost an offline start one module, no more.
    fn write(&self, id: &str) {
        let _turn = self.disk.lock().expect("no panic while held");
        let path = self.directory.join(file_name(id));
        let result = match self.get(id) {
            Some(record) => match serde_json::to_vec(&record) {
                Ok(json) => durable::create_dir(&self.directory, 0o700)
                    .and_then(|()| durable::write_if_changed(&path, &json, 0o600)),
                Err(error) => return tracing::warn!("the module {id:?} cannot be recorded: {error}"),
            },
            None => durable::remove(&path),
        };
        if let Err(error) = result {
            tracing::warn!("the record of the module {id:?} is not up to date: {}", chain(&error));
        }
    }
}

impl Known {
    /// Whether it is news.
    fn put(&mut self, record: ModuleRecord) -> bool {
        self.touch(&record.module_id);
        let id = record.module_id.clone();
        self.modules.insert(id, record.clone()) != Some(record)
    }

    fn remove(&mut self, id: &str) -> bool {
        self.touch(id);
        self.modules.remove(id).is_some()
    }

    fn touch(&mut self, id: &str) {
        self.now += 1;
        self.changed.insert(id.to_owned(), self.now);
    }

    /// The names of those that were news.
    fn put_all(&mut self, modules: &[Module], asked: Moment) -> Vec<String> {
        let is_newer = |known: &Self, id: &str| known.changed.get(id).is_some_and(|when| *when > asked.0);
        let mut news = Vec::new();
        for module in modules {
            let id = &module.module_id;
            if !is_newer(self, id) && self.put(module.into()) {
                news.push(id.clone());
            }
        }
        let listed = |id: &String| modules.iter().any(|module| module.module_id == *id);
        let gone: Vec<_> =
            self.modules.keys().filter(|id| !listed(id) && !is_newer(self, id)).cloned().collect();
        for id in gone {
            self.remove(&id);
            news.push(id);
        }
        // Nobody asks for a moment longer ago than a call takes; the names of the present modules are enough.
        self.changed.retain(|id, when| self.modules.contains_key(id) || *when > asked.0);
        news
    }
}

impl From<&Module> for ModuleRecord {
    fn from(module: &Module) -> Self {
        Self {
            module_id: module.module_id.clone(),
            managed_by: module.managed_by.clone(),
            device_id: module.device_id.clone(),
            generation_id: module.generation_id.clone(),
        }
    }
}

fn directory(modules: &Path, record: &Record) -> PathBuf {
    modules.join(format!("{}-{}", sha256(&record.hub), sha256(&record.device_id)))
}

/// Letters and digits of the id, then its hash. Upstream writes no file where ours is shortened.
fn file_name(id: &str) -> String {
    let readable: String = id.chars().filter(char::is_ascii_alphanumeric).take(LONGEST_READABLE).collect();
    format!("{readable}-{}", sha256(id))
}

fn sha256(text: &str) -> String {
    openssl::sha::sha256(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All records of a directory that can be understood and stand where they should.
fn read_all(directory: &Path, device_id: &str) -> BTreeMap<String, ModuleRecord> {
    if let Err(error) = durable::clean_leftovers(directory) {
        tracing::warn!("{}", chain(&error));
    }
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!("cannot read {}: {error}", directory.display());
            return BTreeMap::new();
        }
    };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .filter_map(|path| read_one(&path, device_id))
        .map(|record| (record.module_id.clone(), record))
        .collect()
}

fn read_one(path: &Path, device_id: &str) -> Option<ModuleRecord> {
    let refuse = |reason: String| {
        tracing::warn!("{} is not used: {reason}", path.display());
        None
    };
    let bytes = match read_regular(path) {
        Ok(bytes) => bytes,
        Err(error) => return refuse(error.to_string()),
    };
    let record: ModuleRecord = match serde_json::from_slice(&bytes) {
        Ok(record) => record,
        Err(error) => return refuse(error.to_string()),
    };
    if !path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&sha256(&record.module_id))) {
        return refuse(format!("it is about the module {:?}", record.module_id));
    }
    match is_same_device(&record.device_id, device_id) {
        true => Some(record),
        false => refuse(format!("it is about a module of the device {:?}", record.device_id)),
    }
}

/// Whoever configured the device's name may have written it otherwise than its hub does.
fn is_same_device(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

fn unless_absent(error: std::io::Error) -> Result<(), std::io::Error> {
    match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// With a dash and 64 digits behind it, a name of 255 bytes.
const LONGEST_READABLE: usize = 190;

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn record(hub: &str, device_id: &str) -> Record {
        Record { hub: hub.into(), gateway: hub.into(), device_id: device_id.into() }
    }

    fn module(id: &str, generation: &str) -> Module {
        Module {
            module_id: id.into(),
            device_id: "d".into(),
            managed_by: None,
            generation_id: Some(generation.into()),
            etag: None,
            auth_type: None,
        }
    }

    fn names(records: &Records) -> Vec<String> {
        records.all().into_iter().map(|record| record.module_id).collect()
    }

    #[test]
    fn the_path_of_the_specification() {
        let path = directory(Path::new("modules"), &record("contoso-hub.azure-devices.net", "pump-7"));
        let expected = "modules/afc2e38102b26cb5d3a6df99d53cf6769d95c90ccf61def8e2e8a919fb613147-9a31a61d1604adf9a4a34d038d41bdef282ad530af1e2809b36bca791b15112b/edgeAgent-5ba97f29eeaf1ede50f792fcb138819f78bcd25e146340ba8ffdfcb9bb2d73e7";
        assert_eq!(path.join(file_name("$edgeAgent")), Path::new(expected));
        assert_eq!(file_name(&"x".repeat(300)).len(), 255);
    }

    #[tokio::test]
    async fn files_are_upstreams() {
        let directory = TempDir::new().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let records = Arc::new(Records::load(&home, &record("h", "d")));
        records.see(&module("$a", "6")).await;
        records
            .see(&Module { generation_id: None, managed_by: Some("IotEdge".into()), ..module("b", "") })
            .await;
        let read = |id: &str| fs::read_to_string(records.directory.join(file_name(id))).unwrap();
        assert_eq!(read("$a"), r#"{"moduleId":"$a","deviceId":"d","generationId":"6"}"#);
        assert_eq!(read("b"), r#"{"moduleId":"b","managedBy":"IotEdge","deviceId":"d"}"#);
        assert_eq!(names(&Records::load(&home, &record("h", "d"))), ["$a", "b"]);
    }

    #[tokio::test]
    async fn bad_files_hide_no_good_ones() {
        let directory = TempDir::new().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let records = Arc::new(Records::load(&home, &record("h", "d")));
        for id in ["good", "cut", "foreign"] {
            records.see(&module(id, "6")).await;
        }
        let path = |id: &str| records.directory.join(file_name(id));
        fs::write(path("cut"), r#"{"moduleId":"cu"#).unwrap();
        fs::rename(path("foreign"), path("elsewhere")).unwrap();
        fs::create_dir(path("directory")).unwrap();
        let copied = |id: &str, device: &str| {
            let json = format!(r#"{{"moduleId":"{id}","deviceId":"{device}","generationId":"6"}}"#);
            fs::write(path(id), json).unwrap();
        };
        copied("other", "other-device");
        copied("same", "D");
        assert_eq!(names(&Records::load(&home, &record("h", "d"))), ["good", "same"]);
    }

    #[tokio::test]
    async fn another_device_has_other_modules() {
        let directory = TempDir::new().unwrap();
        let home = Home::open(directory.path()).unwrap();
        Arc::new(Records::load(&home, &record("h", "d"))).see(&module("a", "6")).await;
        assert_eq!(names(&Records::load(&home, &record("h2", "d"))), [""; 0]);
        assert_eq!(names(&Records::load(&home, &record("h", "d"))), [""; 0], "a move forgets");
    }

    #[test]
    fn a_module_of_another_device_is_not_ours() {
        let directory = TempDir::new().unwrap();
        let records = Records::load(&Home::open(directory.path()).unwrap(), &record("h", "Pump-7"));
        let of = |device: &str| Module { device_id: device.into(), ..module("m", "6") };
        assert!(records.is_ours(&of("Pump-7")) && records.is_ours(&of("pump-7")));
        assert!(!records.is_ours(&of("pump-8")));
    }

    #[tokio::test]
    async fn a_list_that_was_asked_for_earlier_is_older() {
        let directory = TempDir::new().unwrap();
        let home = Home::open(directory.path()).unwrap();
        let records = Arc::new(Records::load(&home, &record("h", "d")));
        for id in ["gone", "deleted", "stays"] {
            records.see(&module(id, "1")).await;
        }
        let asked = records.moment();
        records.see(&module("made", "2")).await;
        records.forget("deleted").await;
        records.see_all(&[module("deleted", "1"), module("stays", "3"), module("new", "1")], asked).await;
        assert_eq!(names(&records), ["made", "new", "stays"]);
        assert_eq!(names(&Records::load(&home, &record("h", "d"))), ["made", "new", "stays"]);
        assert_eq!(records.get("stays").unwrap().generation_id.as_deref(), Some("3"));
        records.see_all(&[], records.moment()).await;
        assert_eq!(names(&records), [""; 0]);
    }
}
