//! Why a configuration or a state file was refused: which file, which key, what is wrong.
//!
//! Knows nothing of what a setting means, and prints no cause: `http_common::chain` does that.

use std::io;
use std::path::PathBuf;

use crate::merge::{KeyPath, Origin};

/// What was refused. `Display` is one clause and never contains its source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration file or its directory exists but cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A configuration file is not UTF-8.
    #[error("{} is not UTF-8 text", file.display())]
    NotUtf8 {
        /// The file.
        file: PathBuf,
    },

    /// A configuration file is not a TOML document.
    #[error("{}:{line}: {reason}", file.display())]
    Syntax {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },

    /// A setting has the wrong type or a value that cannot be used, or its table lacks a key.
    #[error("{origin}: {key}: {reason}")]
    Setting {
        /// Where the setting was written.
        origin: Origin,
        /// The dotted key.
        key: KeyPath,
        /// What was expected.
        reason: String,
    },

    /// The merged configuration as a whole is refused, for example because it lacks a top-level key.
    #[error("{} and the files of {}: {reason}", file.display(), directory.display())]
    Configuration {
        /// The main file, which may not exist.
        file: PathBuf,
        /// The directory of further files, which may not exist.
        directory: PathBuf,
        /// What is missing.
        reason: String,
    },

    /// A text is not the URI of a Unix socket.
    #[error("the endpoint cannot be used, {reason}")]
    BadEndpoint {
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A state file was not written; the old one is still there.
    #[error("cannot write {}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A directory was not created.
    #[error("cannot create the directory {}", path.display())]
    NotCreated {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A state file was not removed.
    #[error("cannot remove {}", path.display())]
    NotRemoved {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A state file was not renamed.
    #[error("cannot rename {} to {}", from.display(), to.display())]
    NotRenamed {
        /// The old name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// The kind of the system's error behind this one, if there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Unreadable { source, .. }
            | Self::Unwritable { source, .. }
            | Self::NotCreated { source, .. }
            | Self::NotRemoved { source, .. }
            | Self::NotRenamed { source, .. } => Some(source.kind()),
            Self::NotUtf8 { .. }
            | Self::Syntax { .. }
            | Self::Setting { .. }
            | Self::Configuration { .. }
            | Self::BadEndpoint { .. } => None,
        }
    }
}
