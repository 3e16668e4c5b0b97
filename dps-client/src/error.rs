//! Why a registration did not lead to an assignment. Knows no HTTP statuses; `CloudFailure` does.

use std::time::Duration;

use http_common::https::CloudFailure;
use http_common::retry::FailureKind;
use http_common::sas::SignError;

/// A registration that has failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configured endpoint is not usable.
    #[error("{url:?} is not the URL of a provisioning service, expected https://host")]
    BadEndpoint {
        /// What was configured.
        url: String,
    },
    /// The service could not be asked, or refused the call.
    #[error("the provisioning service did not take the call")]
    Cloud(#[from] CloudFailure),
    /// The service took the registration and then failed it.
    #[error("the provisioning service failed the registration with code {code}: {message}")]
    Failed {
        /// DPS's error code, 0 if it gave none.
        code: i64,
        /// DPS's words.
        message: String,
    },
    /// The enrolment is disabled.
    #[error("the enrolment of this device is disabled in the provisioning service")]
    Disabled,
    /// The device is enrolled but belongs to no hub.
    #[error("the provisioning service has assigned this device to no hub")]
    Unassigned,
    /// The service does not know the TPM.
    #[error("the provisioning service does not admit the TPM of this device: {message}")]
    UnknownTpm {
        /// DPS's words.
        message: String,
    },
    /// The TPM did not tell its public keys, so that the service was not asked.
    #[error("the TPM does not tell its public keys")]
    NoTpmKeys(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The TPM did not take a key from the service, or did not sign with it.
    #[error("the TPM did not do its part of the registration")]
    Tpm(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The service says something that is not part of the protocol.
    #[error("the provisioning service answered with {what}")]
    Unexpected {
        /// What it said or left out.
        what: String,
    },
    /// The assignment took longer than allowed.
    #[error("no assignment within {} s", .waited.as_secs())]
    TooSlow {
        /// How long it took so far.
        waited: Duration,
    },
}

impl Error {
    /// The same where a TPM signs.
    pub(crate) fn of_tpm(self) -> Self {
        match self {
            Self::Cloud(CloudFailure { source: Some(source), .. }) if source.is::<SignError>() => {
                Self::Tpm(source)
            }
            other => other,
        }
    }

    /// The failure, as far as it decides what to do next.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Cloud(failure) => failure.kind,
            Self::BadEndpoint { .. } | Self::Failed { .. } | Self::Disabled | Self::Unassigned => {
                FailureKind::Rejected
            }
            Self::UnknownTpm { .. } => FailureKind::Unauthorized,
            Self::NoTpmKeys(_) | Self::Tpm(_) => FailureKind::Credential,
            Self::Unexpected { .. } => FailureKind::Invalid,
            Self::TooSlow { .. } => FailureKind::Server { retry_after: None },
        }
    }
}
