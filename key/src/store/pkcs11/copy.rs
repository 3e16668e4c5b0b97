//! A copy of a shared library in memory: the dynamic linker loads the same file only once, but a copy of it once more, with
//! variables of its own. Does not know what is in it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

/// A copy. It has to be kept as long as it is loaded: the linker would take another one of the same name for it.
pub(super) struct Copy(File);

impl Copy {
    /// A copy of the library at `path`.
    ///
    /// # Errors
    ///
    /// The library cannot be read, or there is no memory for it.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let copy = File::from(memfd_create("pkcs11", MemfdFlags::CLOEXEC)?);
        io::copy(&mut File::open(path)?, &mut &copy)?;
        Ok(Self(copy))
    }

    /// By which it can be loaded in this process.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_copy_has_a_name_of_its_own_and_the_same_content() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("library");
        std::fs::write(&path, "content").unwrap();
        let copies = [(); 3].map(|()| Copy::of(&path).unwrap());
        for copy in &copies {
            assert_eq!(std::fs::read_to_string(copy.path()).unwrap(), "content");
            assert_eq!(copies.iter().filter(|other| other.path() == copy.path()).count(), 1);
        }
        assert!(Copy::of(&directory.path().join("none")).is_err());
    }
}
