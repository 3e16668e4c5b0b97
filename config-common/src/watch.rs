//! Tells when configuration files have changed.
//!
//! The kernel's events are hints: a batch of them leads to one look at the files, and only a difference is reported.
//! Does not read the files and does not know what is in them.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use notify::{Event, INotifyWatcher, RecursiveMode, Watcher as _};

/// Watches until dropped; after that nothing is called any more.
///
/// Needs no inotify: where the kernel refuses one, the files are looked at every two seconds.
#[derive(Debug)]
pub struct Watch {
    signals: Sender<Signal>,
    polling: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Call `on_change`, on a thread of its own, after each batch of changes to `file` or to entries of `directory`.
    ///
    /// Files and directories may appear, be replaced and disappear at any time, with the directories above them. A batch
    /// ends when nothing happened for 250 ms, or 1 s after its first event. Reading the files is no change. Everything
    /// that changes after this function has returned is reported, so start before reading.
    ///
    /// `on_change` should not wait for whoever drops the `Watch`: dropping waits for it.
    pub fn start(file: &Path, directory: &Path, on_change: impl Fn() + Send + 'static) -> Self {
        Self::with(file, directory, Eyes::open, on_change)
    }

    /// Whether inotify was refused and the files are looked at every two seconds instead.
    pub fn is_polling(&self) -> bool {
        self.polling.load(Ordering::Relaxed)
    }

    fn with(
        file: &Path,
        directory: &Path,
        open: impl FnOnce(&Arc<Scope>, Sender<Signal>) -> notify::Result<Eyes>,
        on_change: impl Fn() + Send + 'static,
    ) -> Self {
        let scope = Arc::new(Scope { file: absolute(file).ok(), directory: absolute(directory).ok() });
        let (signals, received) = channel();
        let polling = Arc::new(AtomicBool::new(false));
        let mut follower = Follower {
            eyes: open(&scope, signals.clone()).ok(),
            seen: Look::default(),
            scope,
            polling: polling.clone(),
        };
        follower.look();
        let thread = thread::Builder::new()
            .name("config-watch".to_owned())
            .spawn(move || follower.follow(&received, on_change))
            .expect("a starting process may have one more thread");
        Self { signals, polling, thread: Some(thread) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Fails only if the thread has ended, which is what we want.
        let _ = self.signals.send(Signal::Stop);
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != thread::current().id()
        {
            let _ = thread.join();
        }
    }
}

enum Signal {
    /// A watched file was touched.
    Ours,
    /// Something happened near one.
    Near,
    Stop,
}

/// What the thread of a [`Watch`] owns.
struct Follower {
    scope: Arc<Scope>,
    eyes: Option<Eyes>,
    seen: Look,
    polling: Arc<AtomicBool>,
}

impl Follower {
    fn follow(mut self, signals: &Receiver<Signal>, on_change: impl Fn()) {
        while let Some(touched) = self.next_batch(signals) {
            if self.look() || touched {
                on_change();
            }
        }
    }

    /// Wait for events to come and to end. Whether a watched file was touched for certain; `None` to stop.
    fn next_batch(&self, signals: &Receiver<Signal>) -> Option<bool> {
        let first = match self.eyes {
            Some(_) => signals.recv().ok()?,
            None => match signals.recv_timeout(POLL) {
                Err(RecvTimeoutError::Timeout) => return Some(false),
                signal => signal.ok()?,
            },
        };
        let end = Instant::now() + LONGEST_BATCH;
        let mut touched = false;
        let mut signal = first;
        loop {
            match signal {
                Signal::Stop => return None,
                Signal::Ours => touched = true,
                Signal::Near => (),
            }
            let wait = QUIET.min(end.saturating_duration_since(Instant::now()));
            if wait.is_zero() {
                return Some(touched);
            }
            signal = match signals.recv_timeout(wait) {
                Err(RecvTimeoutError::Timeout) => return Some(touched),
                next => next.ok()?,
            };
        }
    }

    /// Watch what there is now, then look at the files. Whether they differ from the last look.
    fn look(&mut self) -> bool {
        if self.eyes.as_mut().is_some_and(|eyes| eyes.focus(&self.scope).is_err()) {
            self.eyes = None;
        }
        self.polling.store(self.eyes.is_none(), Ordering::Relaxed);
        let now = self.scope.look();
        let differs = now != self.seen;
        self.seen = now;
        differs
    }
}

/// The inotify instance and the directories it watches.
struct Eyes {
    watcher: INotifyWatcher,
    watched: BTreeSet<PathBuf>,
}

impl Eyes {
    fn open(scope: &Arc<Scope>, signals: Sender<Signal>) -> notify::Result<Self> {
        let scope = scope.clone();
        let handler = move |event: notify::Result<Event>| {
            if let Some(signal) = scope.judge(event.as_ref().ok()) {
                // Nobody listens any more when the follower is on its way out.
                let _ = signals.send(signal);
            }
        };
        Ok(Self {
            watcher: INotifyWatcher::new(handler, notify::Config::default())?,
            watched: BTreeSet::new(),
        })
    }

    /// Watch the directories that matter now.
    ///
    /// All watches are set anew, because a directory that was replaced has the same name and no watch. What happens in
    /// between is seen by the look that follows.
    fn focus(&mut self, scope: &Scope) -> notify::Result<()> {
        for _ in 0..MOST_ATTEMPTS {
            for path in std::mem::take(&mut self.watched) {
                // Fails if the directory is gone, and its watch with it.
                let _ = self.watcher.unwatch(&path);
            }
            for path in scope.directories() {
                match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
                    Ok(()) => _ = self.watched.insert(path),
                    Err(error) if path.is_dir() => return Err(error),
                    Err(_) => (), // gone meanwhile
                }
            }
            if self.watched == scope.directories() {
                return Ok(());
            }
        }
        Err(notify::Error::generic("directories come and go faster than they can be watched"))
    }
}

/// The paths whose contents matter. A path that cannot be made absolute (an empty one) never exists.
struct Scope {
    file: Option<PathBuf>,
    directory: Option<PathBuf>,
}

impl Scope {
    /// The directories to watch: the one of interest, the nearest existing one above each path, and the one where the
    /// file really is if it is a symbolic link.
    fn directories(&self) -> BTreeSet<PathBuf> {
        let above =
            |path: &PathBuf| path.ancestors().skip(1).find(|parent| parent.is_dir()).map(Path::to_owned);
        let link = self.file.iter().filter(|file| file.is_symlink());
        let target = link.filter_map(|file| fs::canonicalize(file).ok()?.parent().map(Path::to_owned));
        let directory = self.directory.iter().filter(|path| path.is_dir()).cloned();
        let parents = self.file.iter().chain(&self.directory).filter_map(above);
        directory.chain(parents).chain(target).collect()
    }

    /// What an event means; no event stands for a lost one.
    fn judge(&self, event: Option<&Event>) -> Option<Signal> {
        match event {
            Some(event) if event.kind.is_access() => None,
            Some(event) if !event.need_rescan() && !event.paths.iter().any(|path| self.covers(path)) => {
                Some(Signal::Near)
            }
            _ => Some(Signal::Ours),
        }
    }

    fn covers(&self, path: &Path) -> bool {
        let in_directory = self.directory.as_ref().is_some_and(|directory| path.parent() == Some(directory));
        in_directory || self.file.as_deref() == Some(path)
    }

    fn look(&self) -> Look {
        let entries =
            self.directory.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
        Look {
            file: self.file.as_ref().and_then(|file| fs::metadata(file).ok()).map(|meta| Stamp::from(&meta)),
            entries: entries
                .filter_map(|entry| Some((entry.file_name(), Stamp::from(&entry.metadata().ok()?))))
                .collect(),
        }
    }
}

/// The files as they were at one moment.
#[derive(Debug, Default, PartialEq, Eq)]
struct Look {
    file: Option<Stamp>,
    entries: BTreeMap<OsString, Stamp>,
}

/// What changes whenever a file changes: device, inode, size, and the times of modification and status change.
#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, u64, u64, (i64, i64), (i64, i64));

impl From<&Metadata> for Stamp {
    fn from(meta: &Metadata) -> Self {
        let modified = (meta.mtime(), meta.mtime_nsec());
        Self(meta.dev(), meta.ino(), meta.size(), modified, (meta.ctime(), meta.ctime_nsec()))
    }
}

/// A batch of events ends when there was none for so long.
const QUIET: Duration = Duration::from_millis(250);

/// A batch of events is cut after so long.
const LONGEST_BATCH: Duration = Duration::from_secs(1);

/// How often to look where there is no inotify.
const POLL: Duration = Duration::from_secs(2);

/// How often directories may come and go while watches are being set, before inotify is given up.
const MOST_ATTEMPTS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use tempfile::TempDir;

    /// A watch on `etc/main.toml` and `etc/d` below a temporary directory.
    struct Fixture {
        dir: TempDir,
        changes: Receiver<()>,
        watch: Option<Watch>,
    }

    impl Fixture {
        fn new(prepare: &[&str]) -> Self {
            Self::with(prepare, Eyes::open)
        }

        /// `prepare`: directories (ending in a slash) and files to create first.
        fn with(
            prepare: &[&str],
            open: impl FnOnce(&Arc<Scope>, Sender<Signal>) -> notify::Result<Eyes>,
        ) -> Self {
            let dir = TempDir::new().unwrap();
            for name in prepare {
                let path = dir.path().join(name);
                if name.ends_with('/') { fs::create_dir_all(path) } else { fs::write(path, "old") }.unwrap();
            }
            let (sender, changes) = channel();
            let (file, directory) = (dir.path().join("etc/main.toml"), dir.path().join("etc/d"));
            let watch = Watch::with(&file, &directory, open, move || _ = sender.send(()));
            Self { dir, changes, watch: Some(watch) }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn replace(&self, name: &str, text: &str) {
            fs::write(self.path("new"), text).unwrap();
            fs::rename(self.path("new"), self.path(name)).unwrap();
        }

        /// Exactly one change is reported.
        #[track_caller]
        fn expect_change(&self, what: &str) {
            assert!(self.changes.recv_timeout(Duration::from_secs(10)).is_ok(), "{what} was not reported");
            self.expect_quiet(what);
        }

        /// Nothing (more) is reported.
        #[track_caller]
        fn expect_quiet(&self, what: &str) {
            assert!(self.changes.recv_timeout(QUIET * 3).is_err(), "{what} was reported");
        }
    }

    #[test]
    fn each_kind_of_change_is_reported_once() {
        let it = Fixture::new(&["etc/d/", "etc/main.toml"]);
        assert!(!it.watch.as_ref().unwrap().is_polling());
        fs::write(it.path("etc/main.toml"), "now").unwrap();
        it.expect_change("a write in place");
        for round in 0..2 {
            it.replace("etc/main.toml", "new");
            it.expect_change(&format!("replacement {round}"));
        }
        fs::write(it.path("etc/d/a.toml"), "x").unwrap();
        it.expect_change("a new file");
        fs::set_permissions(it.path("etc/d/a.toml"), fs::Permissions::from_mode(0o600)).unwrap();
        it.expect_change("a new mode");
        fs::remove_file(it.path("etc/d/a.toml")).unwrap();
        it.expect_change("a removal in the directory");
        fs::remove_file(it.path("etc/main.toml")).unwrap();
        it.expect_change("the removal of the main file");
    }

    #[test]
    fn a_burst_is_one_change() {
        let it = Fixture::new(&["etc/d/"]);
        for round in 0..50 {
            fs::write(it.path(&format!("etc/d/{round}.toml")), "x").unwrap();
        }
        it.expect_change("a burst");
    }

    #[test]
    fn a_stream_of_changes_is_reported_before_it_ends() {
        let it = Fixture::new(&["etc/d/"]);
        let end = Instant::now() + LONGEST_BATCH * 3;
        while Instant::now() < end && it.changes.try_recv().is_err() {
            fs::write(it.path("etc/d/a.toml"), "x").unwrap();
            thread::sleep(QUIET / 10);
        }
        assert!(Instant::now() < end, "nothing was reported while the changes went on");
    }

    #[test]
    fn reading_and_neighbours_are_no_change() {
        let it = Fixture::new(&["etc/d/", "etc/main.toml", "etc/d/a.toml"]);
        for name in ["etc/main.toml", "etc/d/a.toml"] {
            fs::read(it.path(name)).unwrap();
        }
        fs::read_dir(it.path("etc/d")).unwrap().count();
        it.expect_quiet("reading");
        fs::write(it.path("etc/other"), "x").unwrap();
        it.expect_quiet("a neighbour");
    }

    #[test]
    fn what_appears_later_is_watched() {
        let it = Fixture::new(&["./"]);
        fs::create_dir(it.path("etc")).unwrap();
        it.expect_quiet("an empty directory");
        fs::write(it.path("etc/main.toml"), "x").unwrap();
        it.expect_change("a late main file");
        fs::create_dir(it.path("etc/d")).unwrap();
        fs::write(it.path("etc/d/a.toml"), "x").unwrap();
        it.expect_change("a late directory with a file");
        fs::write(it.path("etc/d/a.toml"), "y").unwrap();
        it.expect_change("a write in a late directory");
    }

    #[test]
    fn replaced_directories_are_watched_again() {
        let it = Fixture::new(&["etc/d/", "etc/d/a.toml"]);
        fs::rename(it.path("etc/d"), it.path("etc/gone")).unwrap();
        it.expect_change("a renamed directory");
        fs::create_dir(it.path("etc/d")).unwrap();
        it.expect_quiet("an empty directory");
        fs::write(it.path("etc/d/b.toml"), "x").unwrap();
        it.expect_change("a file in the new directory");
        fs::remove_dir_all(it.path("etc")).unwrap();
        it.expect_change("the removal of everything");
        fs::create_dir_all(it.path("etc/d")).unwrap();
        fs::write(it.path("etc/d/b.toml"), "x").unwrap();
        it.expect_change("a file after everything was gone");
    }

    #[test]
    fn the_target_of_a_symbolic_link_is_watched() {
        let it = Fixture::new(&["etc/", "1/", "2/", "1/main.toml", "2/main.toml"]);
        symlink("../1", it.path("etc/..data")).unwrap();
        symlink("..data/main.toml", it.path("etc/main.toml")).unwrap();
        it.expect_change("a link");
        fs::write(it.path("1/main.toml"), "new").unwrap();
        it.expect_change("a write to the target");
        symlink("../2", it.path("etc/..new")).unwrap();
        fs::rename(it.path("etc/..new"), it.path("etc/..data")).unwrap();
        it.expect_change("a swapped link");
    }

    #[test]
    fn without_inotify_the_files_are_looked_at() {
        let it = Fixture::with(&["etc/d/"], |_, _| Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch)));
        assert!(it.watch.as_ref().unwrap().is_polling());
        fs::write(it.path("etc/d/a.toml"), "x").unwrap();
        it.expect_change("a new file");
        it.replace("etc/main.toml", "x");
        it.expect_change("a new main file");
    }

    #[test]
    fn dropping_ends_it() {
        let mut it = Fixture::new(&["etc/d/"]);
        fs::write(it.path("etc/d/a.toml"), "x").unwrap();
        it.watch = None;
        fs::write(it.path("etc/d/b.toml"), "x").unwrap();
        let after = it.changes.iter().count(); // ends because the callback and its sender are gone
        assert!(after <= 1, "{after} changes");
    }

    #[test]
    fn an_empty_path_is_never_there() {
        let (sender, changes) = channel();
        let _watch = Watch::start(Path::new(""), Path::new(""), move || _ = sender.send(()));
        assert!(changes.recv_timeout(QUIET * 2).is_err());
    }
}
