//! Writes the PEM file that refers to a key in keyd, for programs that take key files only. Reads its arguments, asks
//! keyd whether there is such a key, writes the file.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use config_common::durable;
use http_common::chain;
use key_engine::remote::{Keyd, RemoteKey};
use key_engine::{KeyName, Overrides, Settings, ffi, reference};
use zeroize::Zeroizing;

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            // Where nobody listens, the status has to do.
            let _ = writeln!(io::stderr(), "aziot-key-ref: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = OsString>) -> Result<(), String> {
    let task = match Task::parse(arguments)? {
        Asked::Help => return print(format!("{HELP}\n").as_bytes()),
        Asked::Version => return print(VERSION.as_bytes()),
        Asked::Reference(task) => task,
    };
    let name = match task.key {
        Some(id) => KeyName::Id(id),
        None => KeyName::Handle(handle_from_input()?),
    };
    if task.check {
        let environment =
            Overrides { socket: ffi::environment(c"AZIOT_KEYD_SOCKET"), ..Overrides::default() };
        let given = Overrides { socket: task.socket, ..Overrides::default() };
        let settings = Settings::default().with(environment).and_then(|settings| settings.with(given));
        let Settings { socket, limit, .. } = settings.map_err(|error| chain(&error))?;
        RemoteKey::load(Arc::new(Keyd::new(socket, limit)), name.clone()).map_err(|error| chain(&error))?;
    }
    let pem = reference::to_pem(&name);
    match task.file {
        None => print(pem.as_bytes()),
        Some(file) => write(&file, pem.as_bytes(), matches!(name, KeyName::Handle(_))),
    }
}

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Help,
    Version,
    Reference(Task),
}

/// A reference that is to be written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Task {
    /// The id of the key; its handle is read from standard input if absent.
    key: Option<String>,
    file: Option<PathBuf>,
    socket: Option<String>,
    check: bool,
}

impl Task {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Asked, String> {
        let mut task = Self { check: true, ..Self::default() };
        let (mut by_handle, mut plain) = (false, false);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{} needs a value", argument.display()));
            match argument.to_str() {
                Some("-h" | "--help") if !plain => return Ok(Asked::Help),
                Some("-V" | "--version") if !plain => return Ok(Asked::Version),
                Some("-o" | "--out") if !plain => task.file = Some(value()?.into()),
                Some("--socket") if !plain => task.socket = Some(text(&value()?, "a socket")?),
                Some("--no-check") if !plain => task.check = false,
                Some("--handle-from-stdin") if !plain => by_handle = true,
                Some("--") if !plain => plain = true,
                Some(option) if option.starts_with('-') && !plain => {
                    return Err(format!("unknown option {option}; try --help"));
                }
                Some("") => return Err("a key id is not empty".into()),
                _ if task.key.is_some() => return Err("more than one key id; try --help".into()),
                _ => task.key = Some(text(&argument, "a key id")?),
            }
        }
        match (by_handle, &task.key) {
            (false, Some(_)) | (true, None) => Ok(Asked::Reference(task)),
            _ => Err("give a key id or --handle-from-stdin; try --help".into()),
        }
    }
}

/// `argument`, which has to be UTF-8.
fn text(argument: &OsStr, what: &str) -> Result<String, String> {
    let text = argument.to_str().map(str::to_owned);
    text.ok_or_else(|| format!("{what} is UTF-8, and {} is not; try --help", argument.display()))
}

/// Handles are not taken from the command line, which every user of the machine can read.
fn handle_from_input() -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    io::stdin()
        .take(INPUT_LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read: {error}"))?;
    match text.trim() {
        "" => Err("there is no handle on standard input".into()),
        handle => Ok(Zeroizing::new(handle.to_owned())),
    }
}

fn print(text: &[u8]) -> Result<(), String> {
    let mut out = io::stdout().lock();
    out.write_all(text).and_then(|()| out.flush()).map_err(|error| format!("cannot write: {error}"))
}

/// Writes a file for its owner only. A regular one is replaced as a whole; what is none, such as a pipe, is written to.
/// Links of others are not followed.
fn write(file: &Path, content: &[u8], is_secret: bool) -> Result<(), String> {
    let cannot = |error: io::Error| format!("cannot write {}: {error}", file.display());
    let append = || OpenOptions::new().append(true).open(file)?.write_all(content);
    match Target::of(file).map_err(cannot)? {
        Target::Regular(path) => {
            let replace = if keeps_owner(&path, is_secret) { durable::rewrite } else { durable::write };
            replace(&path, content, OWNER_ONLY).map_err(|error| chain(&error))
        }
        Target::Output => print(content),
        Target::Other => append().map_err(cannot),
    }
}

/// Whether the owner of the file at `path` owns the next one, too: not if it `is_secret`, nor if others could have put the
/// file there.
fn keeps_owner(path: &Path, is_secret: bool) -> bool {
    let directory = path.parent().and_then(|directory| fs::metadata(directory).ok());
    match (directory, fs::symlink_metadata(path)) {
        (Some(directory), Ok(file)) => {
            !is_secret && directory.mode() & OTHERS_WRITE == 0 && [0, file.uid()].contains(&directory.uid())
        }
        _ => false,
    }
}

/// What a file name leads to.
#[derive(Debug, PartialEq, Eq)]
enum Target {
    /// A regular file, or none yet, with this name.
    Regular(PathBuf),
    /// Standard output, by whatever name.
    Output,
    /// A device, a pipe, an open descriptor.
    Other,
}

impl Target {
    fn of(file: &Path) -> io::Result<Self> {
        let found = match fs::metadata(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            found => Some(found?),
        };
        match (behind_links(file)?, found) {
            (Some(path), None) => Ok(Self::Regular(path)),
            (Some(path), Some(found)) if found.is_file() => Ok(Self::Regular(path)),
            (None, Some(found)) if is_output(&found)? => Ok(Self::Output),
            _ => Ok(Self::Other),
        }
    }
}

/// The path that `file` leads to, which need not be there; None if the way is by a descriptor of a process, such as
/// `/dev/stdout`: that names an open file, and not a place for another one.
fn behind_links(file: &Path) -> io::Result<Option<PathBuf>> {
    let mut path = file.to_owned();
    for _ in 0..MAX_LINKS {
        let directory = match path.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory.canonicalize()?,
            _ => Path::new(".").canonicalize()?,
        };
        if directory.starts_with("/proc") {
            return Ok(None);
        }
        let place = match path.file_name() {
            Some(name) => directory.join(name),
            None => return Ok(Some(path)),
        };
        let Ok(next) = fs::read_link(&place) else { return Ok(Some(place)) };
        let of = fs::symlink_metadata(&place)?.uid();
        if of != 0 && of != rustix::process::geteuid().as_raw() {
            let why = "it is a symbolic link of another user, which is not followed";
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        path = directory.join(next);
    }
    Err(ErrorKind::InvalidInput.into())
}

fn is_output(file: &fs::Metadata) -> io::Result<bool> {
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?).metadata()?;
    Ok((file.dev(), file.ino()) == (output.dev(), output.ino()))
}

const OWNER_ONLY: u32 = 0o600;
/// What lets the group and others put files into a directory.
const OTHERS_WRITE: u32 = 0o022;
const INPUT_LIMIT: u64 = 64 * 1024;
/// As Linux has it for one path.
const MAX_LINKS: usize = 40;
const VERSION: &str = concat!("aziot-key-ref ", env!("CARGO_PKG_VERSION"), "\n");
const HELP: &str = "\
Write a PEM file that refers to a key in keyd, for programs that take key files only.
The OpenSSL provider aziot must be active where the file is used.

usage: aziot-key-ref [OPTIONS] KEY-ID
       aziot-key-ref [OPTIONS] --handle-from-stdin

  -o, --out FILE        write FILE (mode 0600) instead of standard output
      --socket URI      keyd's socket, unix:///run/aziot/keyd.sock by default
      --no-check        do not ask keyd whether there is such a key
      --handle-from-stdin
                        refer to the key by a handle, read from standard input;
                        whoever can read the file can then use the key
  -h, --help            print this text
  -V, --version         print the version

The user of the program that reads the file needs access to keyd's socket and,
with a KEY-ID, a [[principal]] entry for the key in keyd's configuration.";

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::ffi::OsStringExt as _;
    use std::os::unix::fs::symlink;

    fn parse(arguments: &[&str]) -> Result<Asked, String> {
        Task::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn arguments() {
        let task = |key: Option<&str>, file: Option<&str>, check| {
            Asked::Reference(Task {
                key: key.map(str::to_owned),
                file: file.map(PathBuf::from),
                socket: None,
                check,
            })
        };
        assert_eq!(parse(&["x", "-o", "f"]), Ok(task(Some("x"), Some("f"), true)));
        assert_eq!(parse(&["--no-check", "--", "--x"]), Ok(task(Some("--x"), None, false)));
        assert_eq!(parse(&["--handle-from-stdin"]), Ok(task(None, None, true)));
        assert_eq!(parse(&["x", "--help"]), Ok(Asked::Help));
        assert_eq!(parse(&["--version"]), Ok(Asked::Version));
        for wrong in [&[][..], &["x", "y"], &["-o"], &["--frobnicate"], &[""], &["x", "--handle-from-stdin"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_not_utf_8_may_only_be_a_file() {
        let odd = || OsString::from_vec(vec![b'x', 0xff]);
        let parse = |arguments: [OsString; 3]| Task::parse(arguments.into_iter());
        let file = parse(["x".into(), "-o".into(), odd()]);
        assert!(matches!(file, Ok(Asked::Reference(task)) if task.file == Some(odd().into())));
        for wrong in [["--no-check".into(), "--".into(), odd()], ["x".into(), "--socket".into(), odd()]] {
            assert!(parse(wrong).is_err_and(|error| error.contains("UTF-8")));
        }
    }

    #[test]
    fn links_are_followed_to_files_and_descriptors() {
        let directory = tempfile::TempDir::new().unwrap();
        let place = directory.path().canonicalize().unwrap();
        let path = |name: &str| place.join(name);
        fs::write(path("file"), "").unwrap();
        fs::create_dir(path("below")).unwrap();
        for (link, to) in [
            ("to-file", "file"),
            ("to-link", "to-file"),
            ("below/up", "../to-link"),
            ("to-nothing", "below/new"),
            ("descriptor", "/proc/self/fd/0"),
            ("to-descriptor", "descriptor"),
            ("loop", "loop"),
        ] {
            symlink(to, path(link)).unwrap();
        }
        for (name, target) in [
            ("file", Target::Regular(path("file"))),
            ("new", Target::Regular(path("new"))),
            ("to-link", Target::Regular(path("file"))),
            ("below/up", Target::Regular(path("file"))),
            ("to-nothing", Target::Regular(path("below/new"))),
            ("below", Target::Other),
            ("/dev/null", Target::Other),
        ] {
            assert_eq!(Target::of(&path(name)).unwrap(), target, "{name}");
        }
        for name in ["descriptor", "to-descriptor"] {
            assert!(!matches!(Target::of(&path(name)).unwrap(), Target::Regular(_)), "{name}");
        }
        assert!(Target::of(&path("loop")).is_err() && Target::of(&path("absent/new")).is_err());
    }

    /// As root, somebody else's link would lead to any file, and somebody else's file would be readable for him.
    #[test]
    fn links_and_files_that_others_have_put_there_are_not_trusted() {
        let directory = tempfile::TempDir::new().unwrap();
        let place = directory.path().canonicalize().unwrap();
        let (link, file) = (place.join("link"), place.join("file"));
        fs::write(&file, "theirs").unwrap();
        symlink("file", &link).unwrap();
        let other = 65534;
        if std::os::unix::fs::lchown(&link, Some(other), None).is_err() {
            return; // only root can be misled, and can try it
        }
        std::os::unix::fs::chown(&file, Some(other), None).unwrap();
        assert!(write(&link, b"ours", false).unwrap_err().contains("another user"));
        assert_eq!(fs::read(&file).unwrap(), b"theirs");
        for (is_secret, is_open, keeps) in [(false, false, true), (true, false, false), (false, true, false)]
        {
            std::os::unix::fs::chown(&file, Some(other), None).unwrap();
            let mode = if is_open { 0o1777 } else { 0o755 };
            fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            write(&file, b"ours", is_secret).unwrap();
            let meta = fs::metadata(&file).unwrap();
            assert_eq!((meta.uid() == other, meta.mode() & 0o777), (keeps, 0o600), "{is_secret} {is_open}");
        }
    }
}
