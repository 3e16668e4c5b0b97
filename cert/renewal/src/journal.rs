//! The journal: one file for each identity that is being renewed, written so that power loss leaves the old or the new
//! one. Knows nothing of what is decided by it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use config_common::{durable, read_regular};
use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, Digest};
use crate::step::{Pending, Stage};

/// Where a renewal is remembered. Everything may wait for the disk.
pub trait Memory: Send + Sync + 'static {
    /// What was written last; none if it was cleared.
    ///
    /// # Errors
    ///
    /// What is there cannot be read.
    fn read(&self) -> Result<Option<Pending>, JournalError>;

    /// Remembers `pending` instead of what was there, for good.
    ///
    /// # Errors
    ///
    /// It cannot be written; what was there may still be.
    fn write(&self, pending: &Pending) -> Result<(), JournalError>;

    /// Forgets what was there, for good.
    ///
    /// # Errors
    ///
    /// As above.
    fn clear(&self) -> Result<(), JournalError>;
}

/// A file that remembers the renewal of one certificate.
#[derive(Debug, Clone)]
pub struct Journal {
    path: PathBuf,
}

/// Why a journal was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file or its directory cannot be written.
    #[error("the journal cannot be written")]
    Unwritable(#[from] config_common::Error),
    /// A record that cannot be put into words.
    #[error("the journal cannot be written")]
    Format(#[source] serde_json::Error),
}

impl Journal {
    /// In `directory`, which need not exist, for the certificate and the key with these ids.
    pub fn new(directory: &Path, certificate: &str, key: &str) -> Self {
        let readable =
            |id: &str| -> String { id.chars().filter(char::is_ascii_alphanumeric).take(READABLE).collect() };
        let mut hash = openssl::sha::Sha256::new();
        hash.update(&(certificate.len() as u64).to_be_bytes());
        hash.update(certificate.as_bytes());
        hash.update(key.as_bytes());
        let hash: String = hash.finish().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { path: directory.join(format!("{}-{hash}.json", readable(certificate))) }
    }

    /// Removes what a crash amid a write has left in `directory`. Only for a time when nobody writes there. May wait for
    /// the disk.
    ///
    /// # Errors
    ///
    /// Something cannot be removed.
    pub fn clean(directory: &Path) -> Result<(), JournalError> {
        durable::clean_leftovers(directory)?;
        Ok(())
    }
}

impl Memory for Journal {
    /// A file that is not ours is moved aside: what certd and keyd have must then speak for itself.
    fn read(&self) -> Result<Option<Pending>, JournalError> {
        let pending = match read_regular(&self.path) {
            Ok(bytes) => parse(&bytes),
            Err(source) => match source.kind() {
                ErrorKind::NotFound => return Ok(None),
                ErrorKind::InvalidInput | ErrorKind::FileTooLarge => None, // a pipe, say
                _ => return Err(JournalError::Unreadable { path: self.path.clone(), source }),
            },
        };
        if pending.is_some() {
            return Ok(pending);
        }
        let aside = self.path.with_extension("json.corrupt");
        tracing::error!(
            "{} is no journal of a renewal; it is kept as {}",
            self.path.display(),
            aside.display()
        );
        durable::rename(&self.path, &aside)?;
        Ok(None)
    }

    fn write(&self, pending: &Pending) -> Result<(), JournalError> {
        let (stage, certificate) = match &pending.stage {
            Stage::Preparing => (Name::Preparing, None),
            Stage::Issued(new) => (Name::Issued, Some(new.pem().to_owned())),
            Stage::Accepted(new) => (Name::Accepted, Some(new.pem().to_owned())),
        };
        let Pending { rotate_key, replaces, is_forced, stage: _ } = pending;
        let record = Record {
            version: VERSION,
            rotate_key: *rotate_key,
            replaces: replaces.to_string(),
            forced: *is_forced,
            stage,
            certificate,
        };
        let bytes = serde_json::to_vec_pretty(&record).map_err(JournalError::Format)?;
        if let Some(directory) = self.path.parent() {
            durable::create_dir(directory, DIRECTORY_MODE)?;
        }
        Ok(durable::write(&self.path, &bytes, FILE_MODE)?)
    }

    fn clear(&self) -> Result<(), JournalError> {
        durable::remove(&self.path)?;
        Ok(())
    }
}

/// The form of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    stage: Name,
    rotate_key: bool,
    replaces: String,
    #[serde(default)]
    forced: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Name {
    Preparing,
    Issued,
    Accepted,
}

fn parse(bytes: &[u8]) -> Option<Pending> {
    let Record { version, stage, rotate_key, replaces, forced: is_forced, certificate } =
        serde_json::from_slice(bytes).ok()?;
    if version != VERSION {
        return None;
    }
    let new = || Certificate::parse(certificate?).ok();
    let stage = match stage {
        Name::Preparing => Stage::Preparing,
        Name::Issued => Stage::Issued(new()?),
        Name::Accepted => Stage::Accepted(new()?),
    };
    Some(Pending { rotate_key, replaces: Digest::from_hex(&replaces)?, is_forced, stage })
}

const VERSION: u32 = 1;
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Characters of an id that a file name shows.
const READABLE: usize = 80;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;
    use crate::certificate::tests::{certificate, ec_key};
    use crate::policy::Validity;

    fn pending() -> Pending {
        let key = ec_key(openssl::nid::Nid::X9_62_PRIME256V1);
        let validity = Validity { not_before: 0, not_after: 100 };
        let new = Certificate::parse(certificate(&key, 1, validity)).unwrap();
        Pending { rotate_key: true, replaces: new.digest(), is_forced: true, stage: Stage::Accepted(new) }
    }

    #[test]
    fn what_is_written_is_read() {
        let home = tempfile::tempdir().unwrap();
        let journal = Journal::new(&home.path().join("renewal"), "est-id", "est-id");
        assert!(journal.read().unwrap().is_none());
        journal.clear().unwrap();
        Journal::clean(&home.path().join("renewal")).unwrap();
        let written = pending();
        journal.write(&written).unwrap();
        assert_eq!(format!("{:?}", journal.read().unwrap().unwrap()), format!("{written:?}"));
        journal.write(&Pending { stage: Stage::Preparing, rotate_key: false, ..written }).unwrap();
        let read = journal.read().unwrap().unwrap();
        assert!(matches!(read.stage, Stage::Preparing) && !read.rotate_key);
        let left = journal.path.with_file_name(".x.json.0123456789abcdef.tmp");
        fs::write(&left, "half").unwrap();
        Journal::clean(&home.path().join("renewal")).unwrap();
        assert!(!left.exists() && journal.path.exists());
        journal.clear().unwrap();
        assert!(journal.read().unwrap().is_none());
    }

    #[test]
    fn each_pair_of_ids_has_a_file_of_its_own() {
        let name = |certificate, key| Journal::new(Path::new("/x"), certificate, key).path;
        let ids = [("a", "b"), ("a", "c"), ("ab", ""), ("a/", "b"), ("", "ab"), ("é", "../..")];
        let names: std::collections::BTreeSet<_> = ids.iter().map(|(one, two)| name(one, two)).collect();
        assert_eq!(names.len(), ids.len());
        assert!(names.iter().all(|name| name.parent() == Some(Path::new("/x"))));
        let long = name(&"x".repeat(5000), "y");
        assert!(long.file_name().unwrap().len() < 200);
    }

    #[test]
    fn a_pipe_is_kept_aside_and_not_waited_for() {
        let home = tempfile::tempdir().unwrap();
        let journal = Journal::new(home.path(), "a", "b");
        assert!(Command::new("mkfifo").arg(&journal.path).status().unwrap().success());
        assert!(journal.read().unwrap().is_none());
        journal.write(&pending()).unwrap();
        assert!(journal.read().unwrap().is_some());
    }

    #[test]
    fn a_garbled_file_is_kept_aside() {
        let home = tempfile::tempdir().unwrap();
        let journal = Journal::new(home.path(), "a", "b");
        journal.write(&pending()).unwrap();
        let good = fs::read_to_string(&journal.path).unwrap();
        let bad = ["", "{}", &good[..good.len() - 20], &good.replace("\"version\": 1", "\"version\": 2")];
        for text in bad.into_iter().chain([good.replace("BEGIN", "BEG").as_str()]) {
            fs::write(&journal.path, text).unwrap();
            assert!(journal.read().unwrap().is_none(), "{text}");
            assert!(!journal.path.exists());
            assert_eq!(fs::read_to_string(journal.path.with_extension("json.corrupt")).unwrap(), text);
        }
    }
}
