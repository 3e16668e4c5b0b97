//! The daemons by name: executable, variables, places of configuration.
//!
//! Does not start or contact any. Source: specification of the common layer, 2.1.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{Error, Loaded, Origin, named, read};

/// The directory below which each daemon has its configuration.
pub const CONFIG_DIRECTORY: &str = "/etc/aziot";

/// The daemons of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Service {
    /// Creates, keeps and uses keys.
    Keyd,
    /// Issues, imports and serves certificates.
    Certd,
    /// Knows who this device and its modules are.
    Identityd,
    /// Uses the TPM.
    Tpmd,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Keyd, Self::Certd, Self::Identityd, Self::Tpmd];

    /// The short name, as in paths: `keyd`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyd => "keyd",
            Self::Certd => "certd",
            Self::Identityd => "identityd",
            Self::Tpmd => "tpmd",
        }
    }

    /// The name of its executable: `aziot-keyd`.
    pub fn binary(self) -> String {
        format!("aziot-{}", self.name())
    }

    /// The key of its endpoint in the table `[endpoints]`: `aziot_keyd`.
    pub fn endpoint_key(self) -> String {
        format!("aziot_{}", self.name())
    }

    /// The environment variable that moves its main file: `AZIOT_KEYD_CONFIG`.
    pub fn config_variable(self) -> String {
        format!("AZIOT_{}_CONFIG", self.name().to_uppercase())
    }

    /// The environment variable that moves its directory of further files: `AZIOT_KEYD_CONFIG_DIR`.
    pub fn config_directory_variable(self) -> String {
        format!("AZIOT_{}_CONFIG_DIR", self.name().to_uppercase())
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a daemon's configuration lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigPaths {
    /// The main file.
    pub file: PathBuf,
    /// The directory whose `*.toml` files are laid over it.
    pub directory: PathBuf,
}

impl ConfigPaths {
    /// The packaged places: `/etc/aziot/keyd/config.toml` and `/etc/aziot/keyd/config.d`.
    pub fn new(service: Service) -> Self {
        Self::with_variables(service, |_| None)
    }

    /// The packaged places, unless environment variables name others. An empty variable is an empty path.
    pub fn from_env(service: Service) -> Self {
        Self::with_variables(service, |name| env::var_os(name))
    }

    /// Read and merge the files; see [`read`].
    pub fn read<T: DeserializeOwned>(&self) -> Result<Loaded<T>, Error> {
        read(&self.file, &self.directory)
    }

    /// Where the entries of the array `array` stand whose `name` is `name`; see [`named`].
    pub fn named(&self, array: &str, name: &str) -> Vec<Origin> {
        named(&self.file, &self.directory, array, name)
    }

    fn with_variables(service: Service, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let base = Path::new(CONFIG_DIRECTORY).join(service.name());
        let place = |name: String, default| variable(&name).map_or_else(|| base.join(default), PathBuf::from);
        Self {
            file: place(service.config_variable(), "config.toml"),
            directory: place(service.config_directory_variable(), "config.d"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_move_the_configuration() {
        let variables = |name: &str| match name {
            "AZIOT_KEYD_CONFIG" => Some("/tmp/k.toml".into()),
            "AZIOT_CERTD_CONFIG_DIR" => Some(OsString::new()),
            _ => None,
        };
        let check = |service, file: &str, directory: &str| {
            let expected = ConfigPaths { file: file.into(), directory: directory.into() };
            assert_eq!(ConfigPaths::with_variables(service, variables), expected);
        };
        check(Service::Keyd, "/tmp/k.toml", "/etc/aziot/keyd/config.d");
        check(Service::Certd, "/etc/aziot/certd/config.toml", "");
        check(Service::Tpmd, "/etc/aziot/tpmd/config.toml", "/etc/aziot/tpmd/config.d");
    }
}
