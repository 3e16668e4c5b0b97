//! Opening and reading regular files, and nothing else of their names. Knows nothing of the contents.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Open `path` for reading, if it is a regular file. What might never come to an end, such as a pipe without a writer, is
/// refused instead of waited for.
///
/// # Errors
///
/// What the system says; [`ErrorKind::InvalidInput`] for anything but a regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let how = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = File::from(open(path, how, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file")),
    }
}

/// All of `path`, opened by [`open_regular`]: files of state, which are small, and what else should be.
///
/// # Errors
///
/// As [`open_regular`]; [`ErrorKind::FileTooLarge`] for more than 8 MiB, which are not read into memory.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(LARGEST + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
}

/// Bytes of a file that is read at once: twice the largest trust bundle.
const LARGEST: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn pipes_directories_and_devices_are_refused_at_once() {
        let dir = tempfile::TempDir::new().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        fs::write(&file, "x").unwrap();
        nix::unistd::mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        assert_eq!(read_regular(&file).unwrap(), b"x");
        for other in [pipe.as_path(), dir.path(), Path::new("/dev/null")] {
            assert_eq!(
                read_regular(other).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{}",
                other.display()
            );
        }
        assert_eq!(read_regular(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn no_more_is_read_than_a_file_may_have() {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len(LARGEST).unwrap();
        assert_eq!(read_regular(&path).unwrap().len() as u64, LARGEST);
        file.set_len(LARGEST + 1).unwrap();
        assert_eq!(read_regular(&path).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
