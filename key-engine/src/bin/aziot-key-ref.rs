//! Writes the PEM file that refers to a key in keyd, for programs that take key files only. Reads its arguments, asks
//! keyd whether there is such a key, writes the file.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use config_common::durable;
use http_common::chain;
use key_engine::remote::{Keyd, RemoteKey};
use key_engine::{KeyName, Overrides, Settings, ffi, reference};
use zeroize::Zeroizing;

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("aziot-key-ref: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> Result<(), String> {
    let Some(task) = Task::parse(arguments)? else {
        println!("{HELP}");
        return Ok(());
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
        None => std::io::stdout().write_all(pem.as_bytes()).map_err(|error| format!("cannot write: {error}")),
        Some(file) => write(&file, pem.as_bytes()),
    }
}

/// What the arguments ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Task {
    /// The id of the key; its handle is read from standard input if absent.
    key: Option<String>,
    file: Option<PathBuf>,
    socket: Option<String>,
    check: bool,
}

impl Task {
    /// None if the help text is wanted.
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut task = Self { check: true, ..Self::default() };
        let (mut by_handle, mut plain) = (false, false);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "-h" | "--help" if !plain => return Ok(None),
                "-o" | "--out" if !plain => task.file = Some(value()?.into()),
                "--socket" if !plain => task.socket = Some(value()?),
                "--no-check" if !plain => task.check = false,
                "--handle-from-stdin" if !plain => by_handle = true,
                "--" if !plain => plain = true,
                option if option.starts_with('-') && !plain => {
                    return Err(format!("unknown option {option}; try --help"));
                }
                "" => return Err("a key id is not empty".into()),
                _ if task.key.is_some() => return Err("more than one key id; try --help".into()),
                _ => task.key = Some(argument),
            }
        }
        match (by_handle, &task.key) {
            (false, Some(_)) | (true, None) => Ok(Some(task)),
            _ => Err("give a key id or --handle-from-stdin; try --help".into()),
        }
    }
}

/// Handles are not taken from the command line, which every user of the machine can read.
fn handle_from_input() -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::new());
    std::io::stdin()
        .take(INPUT_LIMIT)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read: {error}"))?;
    match text.trim() {
        "" => Err("there is no handle on standard input".into()),
        handle => Ok(Zeroizing::new(handle.to_owned())),
    }
}

/// Writes a file for its owner only; one that exists is replaced as a whole. What is no file, such as a pipe, is
/// written to.
fn write(file: &Path, content: &[u8]) -> Result<(), String> {
    let is_special = std::fs::metadata(file).is_ok_and(|metadata| !metadata.is_file());
    let special = || OpenOptions::new().write(true).open(file)?.write_all(content);
    match is_special {
        true => special().map_err(|error| format!("cannot write {}: {error}", file.display())),
        false => durable::write(file, content, OWNER_ONLY).map_err(|error| chain(&error)),
    }
}

const OWNER_ONLY: u32 = 0o600;
const INPUT_LIMIT: u64 = 64 * 1024;
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

The user of the program that reads the file needs access to keyd's socket and,
with a KEY-ID, a [[principal]] entry for the key in keyd's configuration.";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Option<Task>, String> {
        Task::parse(arguments.iter().map(|argument| (*argument).to_owned()))
    }

    #[test]
    fn arguments() {
        let task = |key: Option<&str>, file: Option<&str>, check| Task {
            key: key.map(str::to_owned),
            file: file.map(PathBuf::from),
            socket: None,
            check,
        };
        assert_eq!(parse(&["x", "-o", "f"]), Ok(Some(task(Some("x"), Some("f"), true))));
        assert_eq!(parse(&["--no-check", "--", "--x"]), Ok(Some(task(Some("--x"), None, false))));
        assert_eq!(parse(&["--handle-from-stdin"]), Ok(Some(task(None, None, true))));
        assert_eq!(parse(&["x", "--help"]), Ok(None));
        for wrong in [&[][..], &["x", "y"], &["-o"], &["--frobnicate"], &[""], &["x", "--handle-from-stdin"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
