//! State files that survive a power loss: after a crash there is the old file or the new one, never less.
//!
//! The only way the suite writes state. Knows nothing of the contents; files belong to the process that writes them,
//! except where the owner of the file before is to be kept.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::Error;

/// Replace `path` by a file with these `bytes` and exactly this `mode`, whatever the umask.
///
/// The new file is complete on the disk before it takes the name. A symbolic link at `path` is replaced, not followed.
///
/// # Errors
///
/// [`Error::Unwritable`]. The old file is then still there, except when only the directory could not be synced.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    write_with(path, mode, |file| file.write_all(bytes))
}

/// [`write()`] that leaves the file its owner and group, as far as this process may give them. If it is not the same group,
/// the group may do nothing with it.
pub fn rewrite(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let write = || {
        let mut temporary = Temporary::beside(path)?;
        let is_same_group = keep_owner(path, &temporary.file);
        temporary.file.write_all(bytes)?;
        temporary.finish(path, if is_same_group { mode } else { mode & !GROUP })
    };
    write().map_err(|source| Error::Unwritable { path: path.to_owned(), source })
}

/// Whether `file` belongs to the group that the one at `path` belongs to, if there is one.
fn keep_owner(path: &Path, file: &File) -> bool {
    let Ok(old) = fs::symlink_metadata(path) else { return true };
    // Who may not give the file away may perhaps give it to the group.
    fchown(file, Some(old.uid()), Some(old.gid())).is_ok()
        || fchown(file, None, Some(old.gid())).is_ok()
        || file.metadata().is_ok_and(|new| new.gid() == old.gid())
}

/// Whether [`write()`] would succeed with `size` bytes, as far as can be seen without a change of `path`: whether there may be
/// another file beside it, and room for it.
///
/// # Errors
///
/// [`Error::Unwritable`].
pub fn check_room(path: &Path, size: usize) -> Result<(), Error> {
    let check = || Temporary::beside(path)?.file.write_all(&vec![0; size]);
    check().map_err(|source| Error::Unwritable { path: path.to_owned(), source })
}

/// [`write()`], unless `path` is a regular file with these bytes and this mode already. Whether it was written.
pub fn write_if_changed(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, Error> {
    if holds(path, bytes, mode) {
        return Ok(false);
    }
    write(path, bytes, mode).map(|()| true)
}

/// Create the directory `path` and the missing ones above it, each with exactly this `mode`. What exists stays as it is.
///
/// # Errors
///
/// [`Error::NotCreated`], also if `path` exists and is no directory.
pub fn create_dir(path: &Path, mode: u32) -> Result<(), Error> {
    make_dir(path, mode).map_err(|source| Error::NotCreated { path: path.to_owned(), source })
}

/// Remove the file `path`, for good. Whether there was one.
pub fn remove(path: &Path) -> Result<bool, Error> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        removed => removed.and_then(|()| sync(parent(path))),
    };
    removed.map(|()| true).map_err(|source| Error::NotRemoved { path: path.to_owned(), source })
}

/// Give the file `from` the name `to`, replacing what had it.
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let both = || {
        fs::rename(from, to)?;
        sync(parent(to))?;
        if parent(from) == parent(to) { Ok(()) } else { sync(parent(from)) }
    };
    both().map_err(|source| Error::NotRenamed { from: from.to_owned(), to: to.to_owned(), source })
}

/// Remove what a crash amid [`write()`] left in `directory`. The number of files removed.
///
/// Only for a time when nobody writes there, such as the start of a daemon. A missing directory has no leftovers.
pub fn clean_leftovers(directory: &Path) -> Result<usize, Error> {
    let unreadable = |source| Error::Unreadable { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(unreadable)?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let is_file = entry.file_type().map_err(unreadable)?.is_file();
        if is_file && is_temporary(&entry.file_name()) && remove(&entry.path())? {
            removed += 1;
        }
    }
    Ok(removed)
}

fn write_with(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), Error> {
    replace(path, mode, fill).map_err(|source| Error::Unwritable { path: path.to_owned(), source })
}

fn replace(path: &Path, mode: u32, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut temporary = Temporary::beside(path)?;
    fill(&mut temporary.file)?;
    temporary.finish(path, mode)
}

/// A file under a name of its own, removed when dropped unless it was renamed.
struct Temporary {
    file: File,
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn beside(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let random = getrandom::u64().map_err(|_| ErrorKind::Unsupported)?;
        let path = path.with_file_name(temporary_name(name, random));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { file, path, renamed: false })
    }

    /// Gives the file, which is complete and was nobody else's so far, its mode and its name.
    fn finish(mut self, path: &Path, mode: u32) -> io::Result<()> {
        self.file.set_permissions(Permissions::from_mode(mode))?;
        self.file.sync_all()?;
        fs::rename(&self.path, path)?;
        self.renamed = true;
        sync(parent(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // If this fails too, `clean_leftovers` finds the file at the next start.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// `.NAME.RANDOM.tmp`, with as much of the name as the limit of file names leaves room for.
fn temporary_name(name: &OsStr, random: u64) -> OsString {
    let room = MAX_NAME - ".".len() - ".".len() - RANDOM_DIGITS - SUFFIX.len();
    let name = name.as_bytes();
    let mut temporary = b".".to_vec();
    temporary.extend_from_slice(name.get(..room).unwrap_or(name));
    temporary.extend_from_slice(format!(".{random:0RANDOM_DIGITS$x}{SUFFIX}").as_bytes());
    OsString::from_vec(temporary)
}

fn is_temporary(name: &OsStr) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    let random = || {
        let rest = name.as_bytes().strip_prefix(b".")?.strip_suffix(SUFFIX.as_bytes())?;
        let (_, random) = rest.split_at_checked(rest.len().checked_sub(RANDOM_DIGITS + 1)?)?;
        random.strip_prefix(b".")
    };
    random().is_some_and(|digits| digits.iter().all(is_digit))
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = parent(path);
    if above == path {
        return Err(ErrorKind::NotFound.into()); // an empty path, or a working directory that is gone
    }
    make_dir(above, mode)?;
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        created => created?,
    }
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    sync(above)
}

fn holds(path: &Path, bytes: &[u8], mode: u32) -> bool {
    let same = |meta: fs::Metadata| {
        meta.is_file() && meta.permissions().mode() & 0o7777 == mode && meta.len() == bytes.len() as u64
    };
    fs::symlink_metadata(path).is_ok_and(same)
        && fs::read(path).map(Zeroizing::new).is_ok_and(|old| old.as_slice() == bytes)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// The longest file name that Linux file systems take, in bytes.
const MAX_NAME: usize = 255;
const RANDOM_DIGITS: usize = 16;
const SUFFIX: &str = ".tmp";
/// What a mode gives to the group.
const GROUP: u32 = 0o070;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_has_its_bytes_and_exactly_its_mode() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("key");
        for (bytes, wanted) in [(&b"one"[..], 0o600), (b"", 0o666), (b"three", 0o440), (b"four", 0o777)] {
            write(&path, bytes, wanted).unwrap();
            assert_eq!((fs::read(&path).unwrap(), mode(&path)), (bytes.to_vec(), wanted));
        }
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn a_symbolic_link_is_replaced_and_its_target_kept() {
        let dir = TempDir::new().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        symlink(&target, &link).unwrap();
        write(&link, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
    }

    #[test]
    fn owner_and_group_are_kept_where_that_is_allowed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("key");
        write(&path, b"old", 0o644).unwrap();
        let is_root = std::os::unix::fs::chown(&path, Some(65534), Some(65534)).is_ok();
        let before = fs::metadata(&path).unwrap();
        rewrite(&path, b"new", 0o600).unwrap();
        let after = fs::metadata(&path).unwrap();
        assert_eq!((before.uid(), before.gid()), (after.uid(), after.gid()), "as root: {is_root}");
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o600));
        assert_ne!(before.ino(), after.ino(), "replaced as a whole");
        rewrite(&dir.path().join("new"), b"new", 0o600).unwrap();
    }

    #[test]
    fn the_longest_names_work() {
        let dir = TempDir::new().unwrap();
        for name in ["x".repeat(255), "é".repeat(127) + "x", "x".repeat(233), "x".repeat(234)] {
            let path = dir.path().join(&name);
            write(&path, b"1", 0o600).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"1", "{}", name.len());
            let temporary = temporary_name(OsStr::new(&name), u64::MAX);
            assert!(temporary.len() <= 255 && is_temporary(&temporary));
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_file_and_no_other() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        write(&path, b"old", 0o600).unwrap();
        let error = write_with(&path, 0o600, |file| {
            file.write_all(b"ne")?;
            Err(ErrorKind::StorageFull.into())
        })
        .unwrap_err();
        assert_eq!(error.io_kind(), Some(ErrorKind::StorageFull));
        assert!(error.to_string().contains("state"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn room_is_looked_for_without_a_trace() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        check_room(&path, 1000).unwrap();
        assert!(names(dir.path()).is_empty());
        let error = check_room(&dir.path().join("missing/state"), 1000).unwrap_err();
        assert_eq!(error.io_kind(), Some(ErrorKind::NotFound));
    }

    #[test]
    fn a_refused_rename_leaves_no_temporary_file() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x", 0o600).is_err());
        assert_eq!(names(dir.path()), ["taken"]);
        assert!(write(&dir.path().join("missing/x"), b"x", 0o600).is_err());
        assert!(write(Path::new("/"), b"x", 0o600).is_err());
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_file_and_a_leftover_to_clean() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        write(&path, b"old", 0o600).unwrap();
        let mut killed = Temporary::beside(&path).unwrap();
        killed.file.write_all(b"ne").unwrap();
        std::mem::forget(killed);
        assert_eq!(names(dir.path()).len(), 2);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(clean_leftovers(dir.path()).unwrap(), 1);
        assert_eq!(names(dir.path()), ["state"]);
    }

    #[test]
    fn only_leftovers_are_cleaned() {
        let dir = TempDir::new().unwrap();
        let kept =
            ["a.tmp", ".a.tmp", ".a.0123456789ABCDEF.tmp", "a.0123456789abcdef.tmp", ".a.0123456789abcdef"];
        let gone = [".a.0123456789abcdef.tmp", "..0123456789abcdef.tmp"];
        for name in kept.iter().chain(&gone) {
            fs::write(dir.path().join(name), "").unwrap();
        }
        fs::create_dir(dir.path().join(".d.0123456789abcdef.tmp")).unwrap();
        assert_eq!(clean_leftovers(dir.path()).unwrap(), 2);
        assert_eq!(names(dir.path()).len(), kept.len() + 1);
        assert_eq!(clean_leftovers(&dir.path().join("missing")).unwrap(), 0);
    }

    #[test]
    fn only_a_difference_is_written() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("state");
        for (bytes, mode, written) in [
            (b"one", 0o600, true),
            (b"one", 0o600, false),
            (b"two", 0o600, true),
            (b"two", 0o640, true),
            (b"two", 0o640, false),
        ] {
            assert_eq!(write_if_changed(&path, bytes, mode).unwrap(), written, "{bytes:?} {mode:o}");
        }
    }

    #[test]
    fn directories_are_created_with_their_mode_and_existing_ones_left_alone() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("a/b");
        create_dir(&path, 0o777).unwrap();
        assert_eq!((mode(&path), mode(&dir.path().join("a"))), (0o777, 0o777));
        create_dir(&path, 0o700).unwrap();
        assert_eq!(mode(&path), 0o777);
        fs::write(dir.path().join("file"), "").unwrap();
        for taken in [dir.path().join("file"), dir.path().join("file/below"), PathBuf::new()] {
            assert!(create_dir(&taken, 0o700).is_err(), "{}", taken.display());
        }
    }

    #[test]
    fn a_missing_file_is_removed_already_and_a_rename_replaces() {
        let dir = TempDir::new().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("sub/b"));
        assert!(!remove(&a).unwrap());
        assert!(!remove(&b).unwrap());
        create_dir(&dir.path().join("sub"), 0o700).unwrap();
        write(&a, b"new", 0o600).unwrap();
        write(&b, b"old", 0o600).unwrap();
        rename(&a, &b).unwrap();
        assert_eq!(fs::read(&b).unwrap(), b"new");
        assert_eq!(rename(&a, &b).unwrap_err().io_kind(), Some(ErrorKind::NotFound));
        assert!(remove(&b).unwrap());
        assert!(!b.exists());
    }
}
