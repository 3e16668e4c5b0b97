//! Opening files that an administrator names, and nothing else of that name. Knows nothing of the contents.

use std::fs::File;
use std::io::{self, ErrorKind};
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
        assert!(open_regular(&file).is_ok());
        for other in [pipe.as_path(), dir.path(), Path::new("/dev/null")] {
            assert_eq!(
                open_regular(other).unwrap_err().kind(),
                ErrorKind::InvalidInput,
                "{}",
                other.display()
            );
        }
        assert_eq!(open_regular(&dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
