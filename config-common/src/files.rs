//! Which files make up a configuration, and their text.
//!
//! The rules are those of the specification of the common layer, 2.2. Does not look into the text.

use std::fs::{self, DirEntry, FileType, Metadata};
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
    // Who can put files there has the configuration, whoever may write those that are there.
    note_writable(directory, &fs::metadata(directory).map_err(unreadable)?, warnings);
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
    note_writable(path, &file.metadata().map_err(unreadable)?, warnings);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    String::from_utf8(bytes).map(Some).map_err(|_| Error::NotUtf8 { file: path.to_owned() })
}

fn note_writable(path: &Path, meta: &Metadata, warnings: &mut Vec<Warning>) {
    let mode = meta.permissions().mode() & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        warnings.push(Warning::Writable { path: path.to_owned(), mode });
    }
}

const WRITABLE_BY_OTHERS: u32 = 0o022;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use tempfile::TempDir;

    /// The names of the files that count in a directory made by `fill`, and what was said about the others.
    fn listed(fill: impl FnOnce(&Path)) -> (Vec<String>, Vec<Skip>) {
        let dir = TempDir::new().unwrap();
        fill(dir.path());
        let mut warnings = Vec::new();
        let files = list(dir.path(), &mut warnings).unwrap();
        let names = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned());
        let skipped = warnings.iter().map(|warning| match warning {
            Warning::Skipped { why, .. } => *why,
            other => panic!("{other}"),
        });
        (names.collect(), skipped.collect())
    }

    #[test]
    fn only_regular_files_with_the_right_extension_count_in_byte_order() {
        let (names, skipped) = listed(|dir| {
            for name in ["adu.toml", "50-x.toml", ".x.toml", "Z.toml", "00-super.toml", "é.toml", "a-b.toml"]
            {
                fs::write(dir.join(name), "").unwrap();
            }
            for name in ["x.toml.bak", ".toml", "toml", "x.toml~", "xtoml", "x.toml.default"] {
                fs::write(dir.join(name), "").unwrap();
            }
        });
        let sorted = [".x.toml", "00-super.toml", "50-x.toml", "Z.toml", "a-b.toml", "adu.toml", "é.toml"];
        assert_eq!(names, sorted);
        assert_eq!(skipped, []);
    }

    #[test]
    fn what_only_looks_like_configuration_is_reported() {
        let check = |fill: &dyn Fn(&Path), why| assert_eq!(listed(fill), (vec![], vec![why]));
        check(&|dir| fs::write(dir.join("x.TOML"), "").unwrap(), Skip::Extension);
        check(&|dir| fs::create_dir(dir.join("x.toml")).unwrap(), Skip::NotAFile);
        check(&|dir| symlink("/dev/null", dir.join("x.toml")).unwrap(), Skip::Symlink);
        check(&|dir| symlink("missing", dir.join("x.toml")).unwrap(), Skip::Symlink);
    }

    #[test]
    fn what_is_missing_is_empty_and_what_cannot_be_read_is_an_error() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, [0xff]).unwrap();
        let missing = dir.path().join("missing");
        let load = |file: &Path, directory: &Path| load(file, directory, &mut Vec::new());
        assert_eq!(load(&missing, &missing).unwrap(), []);
        assert_eq!(load(Path::new(""), Path::new("")).unwrap(), []);
        assert!(matches!(load(&file, &missing), Err(Error::NotUtf8 { .. })));
        assert!(matches!(load(dir.path(), &missing), Err(Error::Unreadable { .. })));
        assert!(matches!(load(&missing, &file), Err(Error::Unreadable { .. })));
    }

    #[test]
    fn the_main_file_may_be_a_symbolic_link_and_comes_first() {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("z"), "main").unwrap();
        fs::write(dir.path().join("a.toml"), "patch").unwrap();
        symlink("z", dir.path().join("main")).unwrap();
        let texts = load(&dir.path().join("main"), dir.path(), &mut Vec::new()).unwrap();
        assert_eq!(texts.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["main", "patch"]);
    }

    #[test]
    fn what_others_can_write_is_reported() {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, "").unwrap();
        let check = |path: &Path, mode, reported| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            let mut warnings = Vec::new();
            load(Path::new("/nowhere"), dir.path(), &mut warnings).unwrap();
            let expected = Warning::Writable { path: path.to_owned(), mode };
            assert_eq!(warnings, if reported { vec![expected] } else { vec![] }, "{mode:o}");
        };
        for (mode, reported) in [(0o664, true), (0o602, true), (0o600, false), (0o644, false)] {
            check(&file, mode, reported);
        }
        for (mode, reported) in [(0o775, true), (0o1777, true), (0o700, false), (0o755, false)] {
            check(dir.path(), mode, reported);
        }
    }
}
