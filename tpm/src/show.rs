//! `aziot-tpmd --show-ek`: what an operator needs to enrol this device with the provisioning service. Asks the running
//! daemon, which may be the only one that can use the TPM; opens the TPM by itself if there is none.

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_common::{ConfigPaths, Service};
use http_common::blocking::Client;
use http_common::{ClientError, chain};
use tpm_api::{Config, GetTpmKeys};

use crate::error::Unavailable;
use crate::{TpmError, owner};

/// Prints the endorsement key and a registration id for it.
pub fn show_ek() -> ExitCode {
    match endorsement_key() {
        Ok(key) => {
            let shown = writeln!(
                io::stdout(),
                "endorsement key: {}\nregistration id: {}",
                STANDARD.encode(&key),
                registration_id(&key)
            );
            // Who does not read it any more has closed the pipe, which is no fault.
            if let Err(error) = shown
                && error.kind() != ErrorKind::BrokenPipe
            {
                return failed(&error);
            }
            let _ = writeln!(
                io::stderr(),
                "Enrol the device with attestation type TPM and this endorsement key. The registration id is the one \
                 that Azure's tools propose; any other will do, if the enrolment and [provisioning.attestation] have \
                 the same."
            );
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    // Where nobody listens, the status has to do.
    let _ = writeln!(io::stderr(), "{}: {}", Service::Tpmd.binary(), chain(error));
    ExitCode::FAILURE
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum ShowError {
    #[error("the configuration cannot be read")]
    Config(#[source] config_common::Error),
    #[error("the running daemon cannot be asked")]
    Daemon(#[source] ClientError),
    #[error(
        "this user may not ask the running daemon; try as root, or as a member of the group that may open its socket"
    )]
    Forbidden(#[source] ClientError),
    #[error("there is no endorsement key")]
    Open(#[source] Unavailable),
    #[error("there is no endorsement key")]
    Read(#[source] TpmError),
}

fn endorsement_key() -> Result<Vec<u8>, ShowError> {
    let config = ConfigPaths::from_env(Service::Tpmd).read::<Config>().map_err(ShowError::Config)?.config;
    let daemon = Client::new(config.endpoints.of(Service::Tpmd).path(), PATIENCE);
    match daemon.call(&GetTpmKeys {}) {
        Ok(keys) => Ok(keys.endorsement_key.0),
        Err(error) if is_forbidden(&error) => Err(ShowError::Forbidden(error)),
        Err(ClientError::Unreachable { .. }) => {
            let mut tpm = owner::open(&config).map_err(ShowError::Open)?;
            Ok(tpm.public_keys().map_err(ShowError::Read)?.endorsement_key)
        }
        Err(error) => Err(ShowError::Daemon(error)),
    }
}

/// Whether there is a daemon, whose socket this user may not open.
fn is_forbidden(error: &ClientError) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut reasons = causes.filter_map(|cause| cause.downcast_ref::<io::Error>());
    reasons.any(|reason| reason.kind() == ErrorKind::PermissionDenied)
}

/// The SHA-256 of the key in base 32 (RFC 4648, 6) without padding, in lower case: 52 letters and digits.
fn registration_id(key: &[u8]) -> String {
    let digest = openssl::sha::sha256(key);
    let bit = |at: usize| digest.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let digits = (0..digest.len() * 8).step_by(5).map(|start| {
        let value = (start..start + 5).fold(0, |value, at| value << 1 | bit(at));
        char::from(if value < 26 { b'a' + value } else { b'2' + value - 26 })
    });
    digits.collect()
}

/// As long as any client waits.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registration_id_is_base_32_of_the_hash() {
        // By `printf abc | openssl sha256 -binary | base32`.
        assert_eq!(registration_id(b"abc"), "xj4bnp4pahh6uqkbidpf3lrceoyagyndsylxvhfucd7wd4qacwwq");
    }
}
