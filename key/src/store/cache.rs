//! Parsed key files in memory, each good for as long as one `stat` says that its file is the same. Reads no contents.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::{Duration, SystemTime};

use super::content::Content;

/// Contents of key files by key id.
#[derive(Default)]
pub(super) struct Cache {
    entries: RwLock<HashMap<String, Arc<Entry>>>,
}

struct Entry {
    path: PathBuf,
    stamp: Stamp,
    content: Content,
}

impl Cache {
    /// The content of the file of `id`, if it was remembered and the file has not changed since.
    ///
    /// Costs one `stat`; the lock is not held meanwhile.
    pub(super) fn get<T>(&self, id: &str, pick: impl FnOnce(&Content) -> T) -> Option<T> {
        let entry = self.entries.read().expect("no panic while held").get(id).map(Arc::clone)?;
        (Stamp::at(&entry.path)? == entry.stamp).then(|| pick(&entry.content))
    }

    /// Remembers `content`, which was read from `path` after the file had been found to have this `stamp`.
    pub(super) fn put(&self, id: &str, path: &Path, stamp: Stamp, content: &Content) {
        if !stamp.is_settled(SystemTime::now()) {
            return;
        }
        let entry = Arc::new(Entry { path: path.to_owned(), stamp, content: content.clone() });
        let mut entries = self.entries.write().expect("no panic while held");
        if entries.len() >= CAPACITY {
            entries.clear();
        }
        entries.insert(id.to_owned(), entry);
    }

    /// Forgets `id`, so that no secret outlives its file in memory.
    pub(super) fn forget(&self, id: &str) {
        self.entries.write().expect("no panic while held").remove(id);
    }
}

/// What changes when a file is replaced or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|meta| Self::of(&meta))
    }

    /// Whether a further change would get another stamp for certain. File systems take their time from a clock that
    /// ticks only every few milliseconds, so that two changes in one tick look like one.
    fn is_settled(&self, now: SystemTime) -> bool {
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1))
        else {
            return true;
        };
        let changed = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        let apart = now.duration_since(changed).unwrap_or_else(|ahead| ahead.duration());
        apart > TICK
    }
}

/// Keys remembered at most; beyond, all are forgotten and read again as needed.
const CAPACITY: usize = 1024;
/// Twice the longest tick of Linux's coarse clock.
const TICK: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use std::thread::sleep;

    use super::*;

    fn settled_file(path: &Path, bytes: &[u8]) -> Stamp {
        fs::write(path, bytes).unwrap();
        sleep(TICK + Duration::from_millis(5));
        Stamp::at(path).unwrap()
    }

    #[test]
    fn good_until_the_file_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        let changes: [fn(&Path); 4] = [
            |path| fs::write(path, b"other").unwrap(),
            |path| {
                fs::write(path.with_extension("new"), b"bytes").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            },
            |path| fs::File::open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap(),
            |path| fs::remove_file(path).unwrap(),
        ];
        for change in changes {
            let cache = Cache::default();
            let stamp = settled_file(&path, b"bytes");
            cache.put("k", &path, stamp, &Content::missing());
            assert!(cache.get("k", |_| ()).is_some());
            change(&path);
            assert!(cache.get("k", |_| ()).is_none());
        }
    }

    #[test]
    fn a_file_that_changed_just_now_is_not_remembered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        let stamp = settled_file(&path, b"bytes");
        let changed = SystemTime::UNIX_EPOCH + Duration::new(stamp.changed.0 as u64, stamp.changed.1 as u32);
        assert!(!stamp.is_settled(changed + TICK / 2));
        assert!(!stamp.is_settled(changed - TICK / 2));
        assert!(stamp.is_settled(changed + TICK * 2));
        assert!(
            stamp.is_settled(changed - Duration::from_secs(3600)),
            "a clock that was set back does no harm"
        );
    }

    #[test]
    fn forgotten_and_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("k");
        let stamp = settled_file(&path, b"bytes");
        let cache = Cache::default();
        for number in 0..3 * CAPACITY {
            cache.put(&number.to_string(), &path, stamp, &Content::missing());
        }
        assert!(cache.entries.read().unwrap().len() <= CAPACITY);
        cache.put("k", &path, stamp, &Content::missing());
        cache.forget("k");
        assert!(cache.get("k", |_| ()).is_none());
    }
}
