//! A copy of a shared library in memory: the dynamic linker loads the same file only once, but a copy of it once more, with
//! variables of its own. Does not know what is in it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

/// Lets `open` open a copy of the library at `path`, which stays as long as it is loaded.
///
/// # Errors
///
/// The library cannot be read, or there is no memory for it.
pub(super) fn open<T>(path: &Path, open: impl FnOnce(PathBuf) -> T) -> io::Result<T> {
    let copy = File::from(memfd_create("pkcs11", MemfdFlags::CLOEXEC)?);
    io::copy(&mut File::open(path)?, &mut &copy)?;
    Ok(open(PathBuf::from(format!("/proc/self/fd/{}", copy.as_raw_fd()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_copy_is_another_file_with_the_same_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("library");
        std::fs::write(&path, "content").unwrap();
        let content = |copy: PathBuf| std::fs::read_to_string(copy).unwrap();
        assert_eq!(open(&path, content).unwrap(), "content");
        assert!(open(&directory.path().join("none"), content).is_err());
    }
}
