//! Why tpmd refuses, and which status that is. The only file of tpmd that knows statuses.
//!
//! Nearly all of them are 500, as upstream has it; the texts tell what to do. What the TPM itself says stands in the log
//! only.

use std::sync::Arc;
use std::time::Duration;

use http_common::{ApiError, StatusCode};
use tpm_device::{OpenError, ResponseCode};

use crate::tpm::TpmError;

/// What was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller is no principal.
    #[error(
        "user {uid} may not use the TPM; a [[principal]] with this uid would have to be in tpmd's configuration"
    )]
    Forbidden {
        /// The caller.
        uid: u32,
    },
    /// There is no usable TPM at present.
    #[error("the TPM cannot be used at present; the log of aziot-tpmd says why")]
    NoTpm(#[source] Arc<Unavailable>),
    /// Too many requests wait for the TPM.
    #[error("too many requests wait for the TPM; try again later")]
    Busy,
    /// The TPM needs longer than a caller waits.
    #[error("the TPM has not answered within {} s; try again later", .0.as_secs())]
    TooSlow(Duration),
    /// The TPM has not answered for so long that nothing more is asked of it.
    #[error("the TPM has not answered for {} s; try again later", .0.as_secs())]
    Stalled(Duration),
    /// There is nothing to sign with.
    #[error("there is no auth key in the TPM; the device has to be provisioned first")]
    NoAuthKey(#[source] TpmError),
    /// What was to be imported is no wrapped key.
    #[error("the key is malformed")]
    MalformedKey(#[source] TpmError),
    /// The TPM cannot unwrap the key.
    #[error("the key was not made for this TPM, or is damaged; the auth key before it stays")]
    KeyNotOurs(#[source] TpmError),
    /// The TPM does not sign with the key.
    #[error("the TPM does not sign with the key; the auth key before it stays")]
    UselessKey(#[source] TpmError),
    /// Another object is where the auth key belongs.
    #[error("the TPM holds another object where the auth key belongs; configure another auth_key_index")]
    IndexTaken(#[source] TpmError),
    /// The configured authorization value is wrong.
    #[error(
        "the TPM does not accept the value of hierarchy_authorization.{0}; correct it in tpmd's configuration"
    )]
    WrongAuthorization(&'static str, #[source] TpmError),
    /// The TPM fails; callers are told nothing of it.
    #[error("internal error")]
    Tpm(#[source] TpmError),
    /// The thread of the TPM is gone.
    #[error("the thread of the TPM does not run")]
    Worker,
}

/// Why there is no usable TPM.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The TCTI cannot be opened.
    #[error(
        "the TPM cannot be reached through the TCTI {tcti:?}; is there a TPM, and may the user of this daemon open it?"
    )]
    Unreachable {
        /// The configured string.
        tcti: String,
        /// What tpm2-tss says.
        #[source]
        code: ResponseCode,
    },
    /// The TCTI's name is none.
    #[error("the TCTI string contains a zero byte")]
    BadTcti,
    /// tpm2-tss is not there.
    #[error("the TPM cannot be reached")]
    NoLoader(#[source] OpenError),
    /// The TPM does not do what it should.
    #[error("the TPM cannot be used")]
    Unusable(#[source] TpmError),
}

impl Unavailable {
    /// Whether a moment's patience may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Unusable(error) => error.is_lost(),
            Self::BadTcti | Self::NoLoader(_) => false,
        }
    }
}

impl From<TpmError> for Error {
    fn from(error: TpmError) -> Self {
        let because = match &error {
            TpmError::NoAuthKey { .. } => Self::NoAuthKey,
            TpmError::Malformed(_) => Self::MalformedKey,
            TpmError::NotOurs(_) => Self::KeyNotOurs,
            TpmError::Useless(_) => Self::UselessKey,
            TpmError::Taken { .. } => Self::IndexTaken,
            TpmError::Unauthorized { hierarchy, .. } => {
                let hierarchy = *hierarchy;
                return Self::WrongAuthorization(hierarchy, error);
            }
            TpmError::NoRandomness(_) | TpmError::Failed(_) => Self::Tpm,
        };
        because(error)
    }
}

impl From<Error> for ApiError {
    /// The status table of spec tpm-service, chapter 2. Texts of status 500 are ours alone: no causes, no codes.
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Forbidden { .. } => StatusCode::UNAUTHORIZED,
            Error::NoTpm(_)
            | Error::Busy
            | Error::TooSlow(_)
            | Error::Stalled(_)
            | Error::NoAuthKey(_)
            | Error::MalformedKey(_)
            | Error::KeyNotOurs(_)
            | Error::UselessKey(_)
            | Error::IndexTaken(_)
            | Error::WrongAuthorization(..)
            | Error::Tpm(_)
            | Error::Worker => StatusCode::INTERNAL_SERVER_ERROR,
        };
        match &error {
            Error::Tpm(_) | Error::Worker => Self::from_error(status, &error),
            _ => Self::new(status, error.to_string()),
        }
    }
}
