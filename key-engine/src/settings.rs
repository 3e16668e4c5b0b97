//! Where keyd is and how patient to be: built-in defaults, then the section of `openssl.cnf`, then the environment. Does
//! not read any of them.

use std::path::PathBuf;
use std::time::Duration;

use config_common::{Endpoint, Service};

use crate::Error;

/// How to reach keyd.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The socket of keyd.
    pub socket: PathBuf,
    /// How long it may take to load a key, or to use it once.
    pub limit: Duration,
    /// Where to note what happens: a file that is appended to, or `stderr`; nowhere if absent.
    pub debug: Option<PathBuf>,
}

/// What one source says, as text.
#[derive(Debug, Default)]
pub struct Overrides {
    /// A `unix:` URI or an absolute path.
    pub socket: Option<String>,
    /// Whole seconds, 1 to 600.
    pub timeout: Option<String>,
    /// A path, or `stderr`.
    pub debug: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { socket: Endpoint::default_of(Service::Keyd).path().to_owned(), limit: LIMIT, debug: None }
    }
}

impl Settings {
    /// These settings with what `overrides` says instead.
    pub fn with(mut self, overrides: Overrides) -> Result<Self, Error> {
        let Overrides { socket, timeout, debug } = overrides;
        if let Some(socket) = socket {
            self.socket = parse_socket(&socket)?;
        }
        if let Some(timeout) = timeout {
            let seconds = timeout.trim().parse().ok().filter(|seconds| SECONDS.contains(seconds));
            self.limit = seconds
                .map(Duration::from_secs)
                .ok_or(Error::Refused("the timeout must be 1 to 600 seconds"))?;
        }
        if let Some(debug) = debug.filter(|debug| !debug.is_empty()) {
            self.debug = Some(debug.into());
        }
        Ok(self)
    }
}

/// The path in `text`, a `unix:` URI or an absolute path.
fn parse_socket(text: &str) -> Result<PathBuf, Error> {
    let endpoint = match text.starts_with('/') {
        true => Endpoint::unix(text),
        false => text.parse::<Endpoint>(),
    };
    endpoint.map(|endpoint| endpoint.path().to_owned()).map_err(|_| Error::BadSocket(text.to_owned()))
}

/// How long an operation may take by default.
const LIMIT: Duration = Duration::from_secs(30);
const SECONDS: std::ops::RangeInclusive<u64> = 1..=600;

#[cfg(test)]
mod tests {
    use super::*;

    fn with(socket: &str, timeout: &str) -> Option<(String, u64)> {
        let overrides =
            Overrides { socket: Some(socket.into()), timeout: Some(timeout.into()), ..Overrides::default() };
        let settings = Settings::default().with(overrides).ok()?;
        Some((settings.socket.to_str().unwrap().to_owned(), settings.limit.as_secs()))
    }

    #[test]
    fn engine_26_the_default_is_the_socket_of_the_package() {
        let settings = Settings::default();
        assert_eq!(settings.socket, PathBuf::from("/run/aziot/keyd.sock"));
        assert_eq!(settings.limit, Duration::from_secs(30));
    }

    #[test]
    fn sockets_and_timeouts() {
        for (socket, timeout, expected) in [
            ("unix:///tmp/k.sock", "5", Some(("/tmp/k.sock", 5))),
            ("/tmp/a b", " 600 ", Some(("/tmp/a b", 600))),
            ("tmp/k.sock", "5", None),
            ("http://localhost:80", "5", None),
            ("/tmp/k", "0", None),
            ("/tmp/k", "601", None),
            ("/tmp/k", "soon", None),
        ] {
            let expected = expected.map(|(socket, limit)| (socket.to_owned(), limit));
            assert_eq!(with(socket, timeout), expected, "{socket} {timeout}");
        }
        let never = Overrides { timeout: Some("0".into()), ..Overrides::default() };
        let error = Settings::default().with(never).unwrap_err().to_string();
        assert!(error.contains("timeout") && !error.contains("provider"), "the engine says it too: {error}");
    }
}
