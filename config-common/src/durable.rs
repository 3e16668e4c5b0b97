//! State files that survive a power loss: after a crash there is the old file or the new one, never less.
//!
//! The only way the suite writes state. Knows nothing of the contents, nor of who owns them: files belong to the
//! process that writes them.

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
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

/// [`write`](self::write), unless `path` is a regular file with these bytes and this mode already. Whether it was written.
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

/// Remove what a crash amid [`write`](self::write) left in `directory`. The number of files removed.
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
    temporary.file.set_permissions(Permissions::from_mode(mode))?;
    fill(&mut temporary.file)?;
    temporary.file.sync_all()?;
    temporary.rename(path)?;
    sync(parent(path))
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

    fn rename(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        self.renamed = true;
        Ok(())
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
