//! Certificates in files: `certs/` for most, places of their own for preloaded ones (spec certificates-service, chapters
//! 4 and 6). Everything here may wait for the disk. Knows no X.509: what is in a file is text.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cert_api::{Preloaded, TEMPORARY};
use config_common::{Allowed, durable, open_regular};

/// Where certificates are, for one state of the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    directory: PathBuf,
    preloaded: BTreeMap<String, Preloaded>,
}

/// Why a certificate was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The id makes a file name that is longer than file systems take.
    #[error("the certificate id {0:?} has more than {LONGEST_STEM} letters and digits")]
    IdTooLong(String),
    /// A preloaded certificate is where nobody can get it.
    #[error("preloaded_certs.{id:?}: {uri} is no file of this machine")]
    NoFile {
        /// The certificate's id.
        id: String,
        /// Its URI.
        uri: String,
    },
    /// A bundle has itself as a member.
    #[error("preloaded_certs.{0:?}: the bundle contains itself")]
    Cycle(String),
    /// A bundle was to be written or deleted.
    #[error("preloaded_certs.{0:?} is a bundle, which can be neither written nor deleted")]
    Bundle(String),
    /// A file is not text.
    #[error("{} is not UTF-8 text; is it a certificate in PEM?", .0.display())]
    NotUtf8(PathBuf),
    /// A file is larger than any certificate.
    #[error("{} is larger than {SIZE_LIMIT} bytes", .0.display())]
    TooLarge(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A preloaded certificate cannot be written or deleted.
    #[error(
        "cannot change {}, which preloaded_certs names; this service's user would have to be allowed to write it, or into its \
         directory",
        path.display()
    )]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written or removed.
    #[error("the certificate was not stored")]
    NotStored(#[from] config_common::Error),
}

/// Where a certificate is.
enum Place<'a> {
    /// In a file of our own.
    Own(PathBuf),
    /// In a file that belongs to the administrator.
    Theirs(PathBuf),
    /// In others.
    Bundle(&'a [String]),
}

impl Store {
    /// Certificates in `home`/certs, unless they are preloaded.
    pub(crate) fn new(home: &Path, preloaded: BTreeMap<String, Preloaded>) -> Self {
        Self { directory: home.join("certs"), preloaded }
    }

    /// The text of a certificate or bundle; none if there is none. An empty file is none: a power cut left it.
    pub(crate) fn read(&self, id: &str) -> Result<Option<String>, StoreError> {
        self.read_within(id, &mut Vec::new())
    }

    /// Whether [`write`](Self::write) has a place for `id`, and for what it is to take the place of, if it follows another.
    pub(crate) fn check_writable(&self, id: &str) -> Result<(), StoreError> {
        match self.place(id)? {
            Place::Own(path) => {
                durable::create_dir(&self.directory, DIRECTORY_MODE)?;
                durable::check_room(&path, ROOM)?;
            }
            Place::Theirs(path) => check_theirs(&path)?,
            Place::Bundle(_) => return Err(StoreError::Bundle(id.to_owned())),
        }
        id.strip_suffix(TEMPORARY).map_or(Ok(()), |followed| self.check_writable(followed))
    }

    /// Keeps `pem`, so that after a power cut either it or what was there is there.
    pub(crate) fn write(&self, id: &Allowed<String>, pem: &str) -> Result<(), StoreError> {
        match self.place(id.as_str())? {
            Place::Own(path) => {
                durable::create_dir(&self.directory, DIRECTORY_MODE)?;
                Ok(durable::rewrite(&path, pem.as_bytes(), mode_of(&path).unwrap_or(FILE_MODE))?)
            }
            Place::Theirs(path) => {
                write_theirs(&path, pem)?;
                let id = id.as_str();
                tracing::warn!("the preloaded certificate {id:?} was overwritten: {}", path.display());
                Ok(())
            }
            Place::Bundle(_) => Err(StoreError::Bundle(id.as_str().to_owned())),
        }
    }

    /// Forgets a certificate. That there is none is success.
    pub(crate) fn delete(&self, id: &Allowed<String>) -> Result<(), StoreError> {
        match self.place(id.as_str())? {
            Place::Own(path) => {
                durable::remove(&path)?;
            }
            Place::Theirs(path) => {
                there(&path)?;
                if durable::remove(&path)? {
                    let id = id.as_str();
                    tracing::warn!("the preloaded certificate {id:?} was deleted: {}", path.display());
                }
            }
            Place::Bundle(_) => return Err(StoreError::Bundle(id.as_str().to_owned())),
        }
        Ok(())
    }

    /// Removes what a power cut amid a write has left. Only for a time when nobody writes.
    pub(crate) fn clean(&self) -> Result<(), StoreError> {
        let removed = durable::clean_leftovers(&self.directory)?;
        if removed > 0 {
            tracing::info!("removed {removed} unfinished files from {}", self.directory.display());
        }
        Ok(())
    }

    /// Whether the certificate `id` has a place of its own.
    pub(crate) fn is_preloaded(&self, id: &str) -> bool {
        self.preloaded.contains_key(id)
    }

    /// What cannot be used among the preloaded certificates.
    pub(crate) fn warnings(&self) -> impl Iterator<Item = StoreError> {
        self.preloaded.iter().filter_map(|(id, place)| match place {
            Preloaded::Uri(_) => self.place(id).err(),
            Preloaded::Ids(_) => self.find_cycle(id, &mut Vec::new()).err(),
        })
    }

    fn read_within<'a>(
        &'a self,
        id: &'a str,
        above: &mut Vec<&'a str>,
    ) -> Result<Option<String>, StoreError> {
        let members = match self.place(id)? {
            Place::Own(path) | Place::Theirs(path) => return read_file(&path),
            Place::Bundle(members) => members,
        };
        if above.contains(&id) {
            return Err(StoreError::Cycle(id.to_owned()));
        }
        above.push(id);
        let mut bundle = String::new();
        for member in members {
            let Some(text) = self.read_within(member, above)? else { continue };
            if !bundle.is_empty() && !bundle.ends_with('\n') {
                bundle.push('\n');
            }
            bundle.push_str(&text);
            if bundle.len() > SIZE_LIMIT {
                return Err(StoreError::TooLarge(id.into()));
            }
        }
        above.pop();
        Ok((!bundle.is_empty()).then_some(bundle))
    }

    fn find_cycle<'a>(&'a self, id: &'a str, above: &mut Vec<&'a str>) -> Result<(), StoreError> {
        let Some(Preloaded::Ids(members)) = self.preloaded.get(id) else { return Ok(()) };
        if above.contains(&id) {
            return Err(StoreError::Cycle(id.to_owned()));
        }
        above.push(id);
        members.iter().try_for_each(|member| self.find_cycle(member, above))?;
        above.pop();
        Ok(())
    }

    fn place(&self, id: &str) -> Result<Place<'_>, StoreError> {
        match self.preloaded.get(id) {
            None => Ok(Place::Own(self.directory.join(file_name(id)?))),
            Some(Preloaded::Ids(members)) => Ok(Place::Bundle(members)),
            Some(Preloaded::Uri(uri)) => {
                let is_here = uri.scheme() == "file" && uri.host_str().is_none_or(|host| host == "localhost");
                let path = if is_here { uri.to_file_path().ok() } else { None };
                let path = path.filter(|path| !path.as_os_str().as_encoded_bytes().contains(&0));
                let no_file = || StoreError::NoFile { id: id.to_owned(), uri: uri.to_string() };
                path.map(Place::Theirs).ok_or_else(no_file)
            }
        }
    }
}

/// The file name of a certificate, byte for byte upstream's.
fn file_name(id: &str) -> Result<String, StoreError> {
    let stem: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    if stem.len() > LONGEST_STEM {
        return Err(StoreError::IdTooLong(id.to_owned()));
    }
    let hash = openssl::sha::sha256(id.as_bytes());
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{stem}-{hash}.cer"))
}

fn read_file(path: &Path) -> Result<Option<String>, StoreError> {
    let unreadable = |source| StoreError::Unreadable { path: path.to_owned(), source };
    let file = match open_regular(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let mut bytes = Vec::new();
    file.take(SIZE_LIMIT as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > SIZE_LIMIT {
        return Err(StoreError::TooLarge(path.to_owned()));
    }
    let text = String::from_utf8(bytes).map_err(|_| StoreError::NotUtf8(path.to_owned()))?;
    Ok((!text.is_empty()).then_some(text))
}

/// Atomically if the directory lets us, else in place. A symbolic link stays one.
fn write_theirs(path: &Path, pem: &str) -> Result<(), StoreError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let old = there(&path)?;
    match durable::rewrite(&path, pem.as_bytes(), mode_of(&path).unwrap_or(PUBLIC_FILE_MODE)) {
        Err(error) if error.io_kind().is_some_and(is_denied) => {
            let write = || -> io::Result<()> {
                let mut file = OpenOptions::new().write(true).truncate(true).open(&path)?;
                file.write_all(pem.as_bytes())?;
                file.sync_all()
            };
            write().map_err(unwritable(&path))
        }
        done => {
            done?;
            if let Some(old) = old {
                tell_new_owner(&path, &old);
            }
            Ok(())
        }
    }
}

/// Whether [`write_theirs`] would succeed, as far as can be seen.
fn check_theirs(path: &Path) -> Result<(), StoreError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    there(&path)?;
    match durable::check_room(&path, ROOM) {
        Err(error) if error.io_kind().is_some_and(is_denied) => {
            OpenOptions::new().write(true).open(&path).map(drop).map_err(unwritable(&path))
        }
        done => Ok(done?),
    }
}

/// What is at `path`, if anything is: it must be a regular file.
fn there(path: &Path) -> Result<Option<fs::Metadata>, StoreError> {
    match fs::metadata(path).ok() {
        Some(old) if !old.is_file() => {
            Err(unwritable(path)(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")))
        }
        old => Ok(old),
    }
}

fn unwritable(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Unwritable { path: path.to_owned(), source }
}

/// Who was to read the file `path` by its owner or group must not wonder for long.
fn tell_new_owner(path: &Path, old: &fs::Metadata) {
    let Ok(new) = fs::metadata(path) else { return };
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        tracing::warn!(
            "{} belonged to uid {} and gid {} and now belongs to uid {} and gid {}: this service may not give it away",
            path.display(),
            old.uid(),
            old.gid(),
            new.uid(),
            new.gid()
        );
    }
}

fn is_denied(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

fn mode_of(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|meta| meta.permissions().mode() & 0o7777)
}

/// Letters and digits that leave room for `-`, the hash and `.cer` in a file name of 255 bytes.
const LONGEST_STEM: usize = 255 - 1 - 64 - 4;
/// The largest file that is read, in bytes: many times the bundle of all authorities of the web.
const SIZE_LIMIT: usize = 4 << 20;
/// Bytes that a certificate with its chain will hardly need.
const ROOM: usize = 32 << 10;
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// Of a new file at a place of the administrator's.
const PUBLIC_FILE_MODE: u32 = 0o644;

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
