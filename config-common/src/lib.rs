//! Files in, typed configuration out: what every daemon of the suite needs before it does anything.
//!
//! [`read`] merges the main file and the files of a directory into one value of a `serde` type and tells, as warnings,
//! what an administrator may have meant differently. Around it stand the parts that configuration is made of:
//! [`Acl`] (who may touch which ids), [`Endpoint`] (where the sockets are), [`Secret`] (bytes that are wiped),
//! [`durable`] (files that survive a power loss) and [`Watch`] (tells when the files changed).
//!
//! ```no_run
//! # #[derive(serde::Deserialize)] struct Config {}
//! # fn main() -> Result<(), config_common::Error> {
//! use config_common::{ConfigPaths, Service};
//!
//! let loaded = ConfigPaths::from_env(Service::Keyd).read::<Config>()?;
//! for warning in &loaded.warnings {
//!     eprintln!("{warning}");
//! }
//! let config = loaded.config;
//! # Ok(()) }
//! ```
//!
//! Knows no HTTP, no async runtime and no daemon; nothing of the suite is below it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_path_to_error::Track;

mod acl;
mod algorithm;
pub mod durable;
mod endpoints;
mod error;
mod files;
mod merge;
mod policy;
mod regular;
mod renewal;
mod secret;
mod service;
mod watch;
mod who;

pub use acl::{Acl, Allowed};
pub use algorithm::KeyAlgorithm;
pub use endpoints::{Endpoint, Endpoints, SOCKET_DIRECTORY};
pub use error::Error;
pub use merge::{KeyPath, Origin};
pub use policy::{BadPolicy, Policy};
pub use regular::{open_regular, read_regular};
pub use renewal::AutoRenew;
pub use secret::{Base64, Secret};
pub use service::{CONFIG_DIRECTORY, ConfigPaths, Service};
pub use watch::Watch;
pub use who::{Asker, Nobody, User, Who};

use merge::Document;

/// Read `file`, lay over it the `*.toml` files of `directory` in byte order of their names, and give the result a type.
///
/// A file or directory that does not exist is empty. Every file must be a UTF-8 TOML document of its own; symbolic
/// links in the directory do not count (specification of the common layer, 2.2-2.4).
///
/// # Errors
///
/// The first file that cannot be read or parsed, or the first setting that `T` refuses, with file, line and key.
pub fn read<T: DeserializeOwned>(file: &Path, directory: &Path) -> Result<Loaded<T>, Error> {
    let mut warnings = Vec::new();
    let mut document = Document::default();
    for (path, text) in files::load(file, directory, &mut warnings)? {
        document.overlay(Document::parse(&path, &text)?);
    }
    let mut track = Track::new();
    let values = serde_path_to_error::Deserializer::new(document.to_table(), &mut track);
    let mut unknown = Vec::new();
    match serde_ignored::deserialize(values, |path| unknown.push(KeyPath::from(&path))) {
        Ok(config) => {
            warnings.extend(unknown.into_iter().filter_map(|key| unknown_key(&document, key)));
            Ok(Loaded { config, warnings })
        }
        Err(error) => {
            let key = KeyPath::from(&track.path());
            Err(refused(&document, key, file, directory, &error))
        }
    }
}

/// Where the entries of the array `array` stand whose `name` is `name`, for who tells what is wrong with them. Empty if the
/// files cannot be read now.
pub fn named(file: &Path, directory: &Path, array: &str, name: &str) -> Vec<Origin> {
    let mut document = Document::default();
    for (path, text) in files::load(file, directory, &mut Vec::new()).unwrap_or_default() {
        match Document::parse(&path, &text) {
            Ok(patch) => document.overlay(patch),
            Err(_) => return Vec::new(),
        }
    }
    document.named(array, name)
}

/// A configuration, and what is strange about its files.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The typed configuration.
    pub config: T,
    /// To be logged.
    pub warnings: Vec<Warning>,
}

/// Something that is accepted but was perhaps not meant. `Display` is one clause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// A setting that nobody reads.
    UnknownKey {
        /// Where it was written.
        origin: Origin,
        /// The dotted key.
        key: KeyPath,
    },
    /// An entry of the directory that looks like a configuration file and is not read.
    Skipped {
        /// The entry.
        path: PathBuf,
        /// Why it is not read.
        why: Skip,
    },
    /// A file, or the directory of files, that others than its owner can write.
    Writable {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { origin, key } => {
                write!(f, "{origin}: {key} is not a known setting and is ignored")
            }
            Self::Skipped { path, why } => write!(f, "{} is ignored because {why}", path.display()),
            Self::Writable { path, mode } => {
                write!(
                    f,
                    "{} can be written by others than its owner, its mode is {mode:04o}",
                    path.display()
                )
            }
        }
    }
}

/// Why an entry of the directory is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skip {
    /// It is a symbolic link.
    Symlink,
    /// It is a directory, a pipe or the like.
    NotAFile,
    /// Its extension is not `toml` in lower case.
    Extension,
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Symlink => "it is a symbolic link",
            Self::NotAFile => "it is not a regular file",
            Self::Extension => "its extension is not .toml in lower case",
        })
    }
}

fn unknown_key(document: &Document, key: KeyPath) -> Option<Warning> {
    document.origin(&key).cloned().map(|origin| Warning::UnknownKey { origin, key })
}

fn refused(
    document: &Document,
    key: KeyPath,
    file: &Path,
    directory: &Path,
    error: &toml::de::Error,
) -> Error {
    let reason = without_value(error.message());
    match document.origin(&key) {
        Some(origin) if !key.is_root() => Error::Setting { origin: origin.clone(), key, reason },
        _ => Error::Configuration { file: file.to_owned(), directory: directory.to_owned(), reason },
    }
}

/// `reason` without the value that serde quotes in it, as `invalid type: string "0815", expected a map`, or `url` after it:
/// configuration may hold a PIN. Where it stands is told beside.
fn without_value(reason: &str) -> String {
    let quotes_value = QUOTING.iter().any(|start| reason.starts_with(start));
    match reason.rsplit_once(", expected ").filter(|_| quotes_value) {
        Some((found, expected)) => {
            let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
            format!("{kind}, expected {expected}")
        }
        None => match reason.split_once(": \"").filter(|_| reason.ends_with('"')) {
            Some((what, _)) => what.to_owned(),
            None => reason.to_owned(),
        },
    }
}

/// How the reasons begin in which serde quotes what was written (`serde::de::Error`).
const QUOTING: [&str; 3] = ["invalid type: ", "invalid value: ", "unknown variant "];

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::collections::BTreeMap;
    use std::fs;
    use tempfile::TempDir;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Config {
        max_requests: u32,
        principal: Vec<Principal>,
        preloaded_keys: BTreeMap<String, String>,
        endpoints: Endpoints,
        inner: Option<Inner>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Principal {
        uid: u32,
        keys: Vec<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Inner {
        x: i64,
    }

    /// Read a main file and the files of a directory, with their directory cut from all messages.
    fn read_texts<T: DeserializeOwned>(
        main: &str,
        patches: &[(&str, &str)],
    ) -> Result<(T, Vec<String>), String> {
        let dir = TempDir::new().unwrap();
        let (file, directory) = (dir.path().join("main.toml"), dir.path().join("d"));
        fs::write(&file, main).unwrap();
        fs::create_dir(&directory).unwrap();
        for (name, text) in patches {
            fs::write(directory.join(name), text).unwrap();
        }
        let cut = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
        match read(&file, &directory) {
            Ok(Loaded { config, warnings }) => {
                Ok((config, warnings.iter().map(|warning| cut(warning.to_string())).collect()))
            }
            Err(error) => Err(cut(error.to_string())),
        }
    }

    #[test]
    fn files_merge_into_one_typed_value() {
        let (config, warnings): (Config, _) = read_texts(
            "max_requests = 12\n[[principal]]\nuid = 1\nkeys = ['a']",
            &[
                ("20-b.toml", "[[principal]]\nuid = 1\nkeys = ['b']"),
                ("10-a.toml", "max_requests = 20\npreloaded_keys.'a.b' = 'file:///x'"),
            ],
        )
        .unwrap();
        assert_eq!(config.max_requests, 20);
        assert_eq!(config.principal.iter().flat_map(|p| p.keys.clone()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(config.preloaded_keys["a.b"], "file:///x");
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn nothing_at_all_is_an_empty_configuration() {
        let loaded: Loaded<Config> =
            read(Path::new("/nowhere/config.toml"), Path::new("/nowhere/d")).unwrap();
        assert_eq!((loaded.config, loaded.warnings), (Config::default(), vec![]));
    }

    #[test]
    fn unknown_keys_are_warnings_that_name_file_line_and_key() {
        let (_, warnings): (Config, _) = read_texts(
            "max_requets = 12\n[[principal]]\nuid = 1\nkeys = []",
            &[(
                "a.toml",
                "[[principal]]\nuid = 2\nkeys = []\nname.x = 1\n[inner]\nx = 1\ny = 2\n[more]\nz = 1",
            )],
        )
        .unwrap();
        let text = "is not a known setting and is ignored";
        let expected = [
            "d/a.toml:7: inner.y",
            "main.toml:1: max_requets",
            "d/a.toml:8: more",
            "d/a.toml:4: principal.1.name",
        ];
        assert_eq!(warnings, expected.map(|start| format!("{start} {text}")));
    }

    #[test]
    fn errors_name_the_file_that_is_wrong() {
        fn check(main: &str, patch: &str, expected: &str) {
            let error =
                read_texts::<Config>(main, &[("10-a.toml", "max_requests = 1"), ("20-b.toml", patch)])
                    .unwrap_err();
            assert!(error.starts_with(expected), "{error:?}, expected {expected:?}");
        }
        check("", "max_requests = 'x'", "d/20-b.toml:1: max_requests: invalid type: string");
        check("max_requests = 'x'\n[[principal]]", "", "main.toml:2: principal.0: missing field `uid`");
        check(
            "[[principal]]\nuid = 1\nkeys = []",
            "\n[[principal]]\nuid = -1",
            "d/20-b.toml:3: principal.1.uid: invalid value",
        );
        check(
            "",
            "[[principal]]\nuid = 1\nkeys = ['a', 5]",
            "d/20-b.toml:3: principal.0.keys.1: invalid type",
        );
        check("[inner]", "", "main.toml:1: inner: missing field `x`");
        check("", "principal = 3", "d/20-b.toml:1: principal: invalid type");
        check(
            "",
            "endpoints.aziot_keyd = 'http://x'",
            "d/20-b.toml:1: endpoints.aziot_keyd: the endpoint cannot be used, there are no TCP sockets",
        );
        check("", "max_requests = ", "d/20-b.toml:1: ");
        check("a = 1\na = 2", "", "main.toml:2: ");
    }

    #[test]
    fn errors_repeat_no_value() {
        #[derive(Debug, Deserialize)]
        enum Source {
            Manual,
        }
        #[derive(Debug, Deserialize)]
        #[serde(default)]
        struct Strict {
            table: BTreeMap<String, String>,
            text: String,
            byte: u8,
            user: User,
            source: Source,
            url: Option<url::Url>,
            socket: Option<Endpoint>,
        }
        impl Default for Strict {
            fn default() -> Self {
                let (table, text) = Default::default();
                Self {
                    table,
                    text,
                    byte: 0,
                    user: User::Uid(0),
                    source: Source::Manual,
                    url: None,
                    socket: None,
                }
            }
        }
        for (text, expected) in [
            ("table = 'x?pin=0815'", "table: invalid type: string, expected a map"),
            (r#"table = "x\", expected `0815`""#, "table: invalid type: string, expected a map"),
            ("table.x = ['0815']", "table.x: invalid type: sequence, expected a string"),
            ("text = 815", "text: invalid type: integer, expected a string"),
            ("text = 815.0815", "text: invalid type: floating point, expected a string"),
            ("text = true", "text: invalid type: boolean, expected a string"),
            ("text = [0815]", ""),
            ("text = 0815", ""),
            ("text = a0815", ""),
            ("text = 'a' 0815", ""),
            ("text = \"a\\0815\"", ""),
            ("byte = 815", "byte: invalid value: integer, expected u8"),
            ("user = -815", "user: invalid value: integer, expected a user's number"),
            ("url = 'https//joe:0815@x'", "url: relative URL without a base"),
            (r#"url = "https://joe:0815\": \"@[""#, "url: invalid IPv6 address"),
            ("socket = '0815'", "socket: the endpoint cannot be used, it is not a URI"),
            ("source = '0815'", "source: unknown variant, expected `Manual`"),
        ] {
            let error = read_texts::<Strict>(text, &[]).unwrap_err();
            assert!(error.starts_with(&format!("main.toml:1: {expected}")), "{error}");
            assert!(!error.contains("815"), "{error}");
        }
    }

    #[test]
    fn a_missing_top_level_key_names_the_places_where_it_could_stand() {
        let error = read_texts::<Inner>("", &[]).unwrap_err();
        assert_eq!(error, "main.toml and the files of d: missing field `x`");
    }

    #[test]
    fn skipped_and_writable_files_are_reported_through_read() {
        let (_, warnings): (Config, _) = read_texts("", &[("x.TOML", "max_requests = 'x'")]).unwrap();
        assert_eq!(warnings, ["d/x.TOML is ignored because its extension is not .toml in lower case"]);
    }
}
