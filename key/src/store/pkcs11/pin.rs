//! The PIN of a token, from wherever the configuration says it is. Does not know what it is used for.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use key_api::PinSource;
use zeroize::Zeroizing;

use super::fault::Fault;

/// What tells one PIN from another without giving it away to a reader of memory at once.
pub(super) type Digest = [u8; 32];

/// Reads the PIN. From a file, line ends at the end are no part of it.
pub(super) fn read(source: &PinSource) -> Result<Zeroizing<Vec<u8>>, Fault> {
    match source {
        PinSource::Value(pin) => Ok(Zeroizing::new(pin.as_bytes().to_vec())),
        PinSource::File(path) => read_file(path),
        PinSource::Credential(name) => match env::var_os(DIRECTORY) {
            Some(directory) => read_file(&PathBuf::from(directory).join(name)),
            None => Err(Fault::NoPin {
                place: format!("the credential {name}"),
                why: format!("{DIRECTORY} is not set; the unit needs LoadCredential={name}:…"),
            }),
        },
    }
}

/// The digest of a PIN.
pub(super) fn digest(pin: &[u8]) -> Digest {
    openssl::sha::sha256(pin)
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut pin = match fs::read(path) {
        Ok(pin) => Zeroizing::new(pin),
        Err(error) => {
            return Err(Fault::NoPin { place: path.display().to_string(), why: error.to_string() });
        }
    };
    while matches!(pin.last(), Some(b'\n' | b'\r')) {
        pin.pop();
    }
    Ok(pin)
}

/// Where systemd puts the credentials of a service.
const DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

#[cfg(test)]
mod tests {
    use config_common::Secret;

    use super::*;

    #[test]
    fn values_and_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pin");
        let value = PinSource::Value(Secret::new(b"0815".to_vec()));
        assert_eq!(*read(&value).unwrap(), b"0815");
        for (content, pin) in [("0815", "0815"), ("0815\n", "0815"), (" 08 15\r\n\n", " 08 15"), ("", "")] {
            fs::write(&path, content).unwrap();
            assert_eq!(*read(&PinSource::File(path.clone())).unwrap(), pin.as_bytes());
        }
        let missing = read(&PinSource::File(directory.path().join("none"))).unwrap_err().to_string();
        assert!(missing.contains("none") && missing.contains("No such file"), "{missing}");
    }
}
