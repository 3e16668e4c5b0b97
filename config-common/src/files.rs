//! Which files make up a configuration, and their text.
//!
//! The rules are those of the specification of the common layer, 2.2. Does not look into the text.

use std::fs::{self, DirEntry, FileType};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::{Error, Skip, Warning};

/// The texts of the main file and of the directory's files, in the order of merging. What does not exist is empty.
pub(crate) fn load(
    file: &Path,
    directory: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<(PathBuf, String)>, Error> {
    let mut texts = Vec::new();
    for path in std::iter::once(file.to_owned()).chain(list(directory, warnings)?) {
        if let Some(text) = text(&path, warnings)? {
            texts.push((path, text));
        }
    }
    Ok(texts)
}

/// The files of `directory` that count, in byte order of their names.
fn list(directory: &Path, warnings: &mut Vec<Warning>) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::Unreadable { path: directory.to_owned(), source };
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>).map_err(unreadable)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.path();
        match skip(&path, entry.file_type().map_err(unreadable)?) {
            None => files.push(path),
            Some(why) if looks_like_toml(&path) => warnings.push(Warning::Skipped { path, why }),
            Some(_) => (),
        }
    }
    files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(files)
}

/// Why an entry does not count, if it does not.
fn skip(path: &Path, file_type: FileType) -> Option<Skip> {
    if file_type.is_symlink() {
        Some(Skip::Symlink)
    } else if !file_type.is_file() {
        Some(Skip::NotAFile)
    } else if path.extension().is_none_or(|extension| extension != "toml") {
        Some(Skip::Extension)
    } else {
        None
    }
}

/// Whether somebody may believe that the entry counts.
fn looks_like_toml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"))
}

/// The text of a file, `None` if it is not there.
fn text(path: &Path, warnings: &mut Vec<Warning>) -> Result<Option<String>, Error> {
    let unreadable = |source| Error::Unreadable { path: path.to_owned(), source };
    let mut file = match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        warnings.push(Warning::Writable { file: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    String::from_utf8(bytes).map(Some).map_err(|_| Error::NotUtf8 { file: path.to_owned() })
}

const WRITABLE_BY_OTHERS: u32 = 0o022;
