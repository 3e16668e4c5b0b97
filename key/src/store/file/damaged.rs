//! Files that are of no use as keys, and are kept beside those that take their place. Does not know what is wrong with them.

use std::path::{Path, PathBuf};

use config_common::durable;

use super::MAX_NAME;
use crate::error::Internal;

/// Gives the file at `path` another name, beside it: `*.corrupt`. What has that name gets the first free one of
/// `*.corrupt.1` and so on: it may be the one that can be repaired. If there are so many, the last one is replaced.
pub(super) fn keep(path: &Path) -> Result<PathBuf, Internal> {
    let beside = corrupt_name(path, CORRUPT);
    if is_taken(&beside) {
        let numbered = (1..=NUMBERED).map(|number| corrupt_name(path, &format!("{CORRUPT}.{number}")));
        if let Some(free) = numbered.into_iter().find(|name| !is_taken(name)) {
            durable::rename(&beside, &free).map_err(Internal::Unwritable)?;
        }
    }
    durable::rename(path, &beside).map_err(Internal::Unwritable)?;
    Ok(beside)
}

/// Whether there is something, be it a link that leads nowhere.
fn is_taken(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The name beside `path` with `suffix`; long names lose their beginning.
fn corrupt_name(path: &Path, suffix: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let surplus = (name.len() + suffix.len()).saturating_sub(MAX_NAME);
    let start = (surplus..name.len()).find(|at| name.is_char_boundary(*at)).unwrap_or(0);
    path.with_file_name(format!("{}{suffix}", &name[start..]))
}

const CORRUPT: &str = ".corrupt";
/// How many are kept besides the last one.
const NUMBERED: usize = 9;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn names_fit() {
        let beside = |name: &str| corrupt_name(&Path::new("/d").join(name), CORRUPT);
        assert_eq!(beside("x-1.key"), Path::new("/d/x-1.key.corrupt"));
        let long = beside(&format!("{}-1.key", "x".repeat(249)));
        assert_eq!(long.file_name().unwrap().len(), 255);
        assert!(long.to_str().unwrap().ends_with("x-1.key.corrupt"));
        assert!(beside(&format!("{}.key", "ä".repeat(125))).file_name().unwrap().len() <= 255);
    }

    #[test]
    fn the_last_has_the_name_and_none_before_is_lost_but_in_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        for damage in 0..15 {
            fs::write(&path, damage.to_string()).unwrap();
            assert_eq!(keep(&path).unwrap(), dir.path().join("x.key.corrupt"));
        }
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("x.key.corrupt"), "14");
        for number in 1..=9 {
            assert_eq!(read(&format!("x.key.corrupt.{number}")), (number - 1).to_string());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 10);
    }
}
