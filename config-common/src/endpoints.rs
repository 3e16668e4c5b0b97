//! Where each daemon's socket is.
//!
//! An endpoint is a Unix socket and nothing else: there is no TCP listener in any build. Does not open anything.
//! Source: specification of the common layer, 4.1 and 4.2.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{Error, Service};

/// The directory of all sockets.
pub const SOCKET_DIRECTORY: &str = "/run/aziot";

/// The table `[endpoints]`: sockets that are not at their default place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Endpoints {
    /// keyd's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aziot_keyd: Option<Endpoint>,
    /// certd's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aziot_certd: Option<Endpoint>,
    /// identityd's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aziot_identityd: Option<Endpoint>,
    /// tpmd's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aziot_tpmd: Option<Endpoint>,
}

impl Endpoints {
    /// The endpoint of `service`: the configured one or the default.
    pub fn of(&self, service: Service) -> Endpoint {
        let configured = match service {
            Service::Keyd => &self.aziot_keyd,
            Service::Certd => &self.aziot_certd,
            Service::Identityd => &self.aziot_identityd,
            Service::Tpmd => &self.aziot_tpmd,
        };
        configured.clone().unwrap_or_else(|| Endpoint::default_of(service))
    }
}

/// A Unix socket, written `unix:///absolute/path`, percent-encoded where needed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint(PathBuf);

impl Endpoint {
    /// The endpoint at `path`, which must be absolute and short enough for a socket address.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let endpoint = Self(path.into());
        match refusal(endpoint.0.as_os_str()) {
            Some(reason) => Err(Error::BadEndpoint { reason }),
            None => Ok(endpoint),
        }
    }

    /// Where `service` listens when nothing else is configured: `unix:///run/aziot/keyd.sock`.
    pub fn default_of(service: Service) -> Self {
        Self(Path::new(SOCKET_DIRECTORY).join(format!("{}.sock", service.name())))
    }

    /// The path of the socket.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(uri: &str) -> Result<Self, Error> {
        parse(uri).map(Self).map_err(|reason| Error::BadEndpoint { reason })
    }
}

impl TryFrom<String> for Endpoint {
    type Error = Error;

    fn try_from(uri: String) -> Result<Self, Error> {
        uri.parse()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", percent_encode(self.0.as_os_str().as_bytes(), ESCAPED))
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "uri", "pattern": "^unix://(localhost)?/" })
    }
}

fn parse(uri: &str) -> Result<PathBuf, &'static str> {
    let url = Url::parse(uri).map_err(|_| "it is not a URI such as unix:///run/aziot/keyd.sock")?;
    match url.scheme() {
        "unix" => (),
        "http" | "https" => return Err("there are no TCP sockets, use unix:///absolute/path"),
        "fd" => return Err("inherited sockets are found through LISTEN_FDS, use unix:///absolute/path"),
        _ => return Err("its scheme is unknown, use unix:///absolute/path"),
    }
    let local = url.host_str().is_none_or(|host| host.is_empty() || host == "localhost");
    if !local || url.port().is_some() || !url.username().is_empty() || url.password().is_some() {
        return Err("a Unix socket has no host, use three slashes: unix:///absolute/path");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it has a query or a fragment");
    }
    let path = OsString::from_vec(percent_decode_str(url.path()).collect());
    match refusal(&path) {
        Some(reason) => Err(reason),
        None => Ok(path.into()),
    }
}

/// Why no socket can be at `path`.
fn refusal(path: &OsStr) -> Option<&'static str> {
    let bytes = path.as_bytes();
    if !bytes.starts_with(b"/") {
        Some("its path is not absolute")
    } else if bytes.ends_with(b"/") {
        Some("its path names no file")
    } else if bytes.contains(&0) {
        Some("its path contains a NUL byte")
    } else if bytes.len() > MAX_SOCKET_PATH {
        Some("its path is longer than 107 bytes, which no socket address holds")
    } else {
        None
    }
}

/// What `sun_path` holds besides its final NUL; see unix(7).
const MAX_SOCKET_PATH: usize = 107;

/// All but the unreserved characters of RFC 3986, 2.3, and the slash.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unix_uris_are_endpoints() {
        fn check(uri: &str, expected: Result<&str, &str>) {
            match (uri.parse::<Endpoint>(), expected) {
                (Ok(endpoint), Ok(path)) => assert_eq!(endpoint.path(), Path::new(path), "{uri}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{uri}: {error}"),
                (parsed, _) => panic!("{uri}: {parsed:?}, expected {expected:?}"),
            }
        }
        let long = format!("unix:///{}", "x".repeat(107));
        for (uri, expected) in [
            ("unix:///run/aziot/keyd.sock", Ok("/run/aziot/keyd.sock")),
            ("unix://localhost/run/x", Ok("/run/x")),
            ("unix:/run/x", Ok("/run/x")),
            ("unix:///run/a%20b%25c", Ok("/run/a b%c")),
            ("UNIX:///run/x", Ok("/run/x")),
            ("unix://elsewhere/run/x", Err("no host")),
            ("unix://localhost:80/run/x", Err("no host")),
            ("unix://me@localhost/run/x", Err("no host")),
            ("unix:run/x", Err("not absolute")),
            ("unix:///", Err("names no file")),
            ("unix:///run/x?y", Err("query")),
            ("unix:///run/x#y", Err("fragment")),
            ("unix:///run/%00", Err("NUL")),
            (&long, Err("107")),
            ("http://localhost:8080", Err("no TCP")),
            ("fd://3", Err("LISTEN_FDS")),
            ("file:///run/x", Err("scheme")),
            ("/run/x", Err("not a URI")),
            ("", Err("not a URI")),
        ] {
            check(uri, expected);
        }
    }

    #[test]
    fn an_endpoint_is_written_as_it_is_read() {
        for path in ["/run/aziot/keyd.sock", "/tmp/a b%20/é?#/x", "/x/[y]"] {
            let endpoint = Endpoint::unix(path).unwrap();
            assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint, "{path}");
            let json = serde_json::to_string(&endpoint).unwrap();
            assert_eq!(serde_json::from_str::<Endpoint>(&json).unwrap(), endpoint, "{path}");
        }
        assert!(Endpoint::unix("relative").is_err());
    }

    #[test]
    fn endpoints_default_to_the_run_directory() {
        let endpoints: Endpoints = toml::from_str("aziot_certd = 'unix:///tmp/c.sock'").unwrap();
        assert_eq!(endpoints.of(Service::Certd).path(), Path::new("/tmp/c.sock"));
        assert_eq!(endpoints.of(Service::Keyd).to_string(), "unix:///run/aziot/keyd.sock");
        assert_eq!(endpoints.of(Service::Identityd).path(), Path::new("/run/aziot/identityd.sock"));
        assert_eq!(endpoints.of(Service::Tpmd).path(), Path::new("/run/aziot/tpmd.sock"));
    }

    #[test]
    fn every_service_has_its_own_key_in_the_table() {
        for service in Service::ALL {
            let text = format!("{} = 'unix:///tmp/mine'", service.endpoint_key());
            let endpoints: Endpoints = toml::from_str(&text).unwrap();
            for other in Service::ALL {
                assert_eq!(endpoints.of(other).path() == Path::new("/tmp/mine"), other == service);
            }
        }
    }
}
