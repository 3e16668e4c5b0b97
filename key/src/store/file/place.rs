//! Where the file of a key is, and which file is written in its place. Knows nothing of what is in it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use crate::Error;
use crate::error::Internal;

/// Where a key is or would be.
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) is_preloaded: bool,
    /// Whether an administrator decides what its bytes are.
    pub(super) is_of_admin: bool,
}

impl Place {
    /// The file to be written, and its mode. Links of an administrator lead to it, and it keeps the mode that it has. Those of
    /// others do not, nor do any to the keys in `own`: who may write beside a key must not choose which key is written.
    pub(super) fn target(&self, own: Option<&Path>) -> Result<(PathBuf, u32), Error> {
        if !self.is_preloaded {
            return Ok((self.path.clone(), FILE_MODE));
        }
        let unusable = |path: &Path, why: &str| -> Error {
            Internal::Unusable { path: path.to_owned(), why: why.to_owned() }.into()
        };
        let mut path = self.path.clone();
        for _ in 0..MAX_LINKS {
            let Ok(next) = fs::read_link(&path) else { break };
            let of = fs::symlink_metadata(&path).map_or(u32::MAX, |meta| meta.uid());
            if of != 0 && of != rustix::process::geteuid().as_raw() {
                return Err(unusable(&path, "it is a symbolic link of another user, which is not followed"));
            }
            path = path.parent().map_or(next.clone(), |directory| directory.join(&next));
        }
        if path != self.path && own.is_some_and(|own| leads_into(&path, own)) {
            return Err(unusable(&self.path, "it is a symbolic link to another key"));
        }
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Ok((path, meta.permissions().mode() & ACCESS)),
            Ok(_) => Err(unusable(&path, "it is no regular file")),
            // There is none, or else writing tells what is wrong.
            Err(_) => Ok((path, FILE_MODE)),
        }
    }
}

/// Whether the file `path` is in `directory`, by whatever way.
fn leads_into(path: &Path, directory: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    path.parent().is_some_and(|parent| real(parent).starts_with(real(directory)))
}

/// The mode of files that keyd makes.
pub(super) const FILE_MODE: u32 = 0o600;
/// What a mode says of who may do what.
const ACCESS: u32 = 0o777;
/// Linux follows no more, either.
const MAX_LINKS: usize = 40;
