//! Why certd refuses, and which status that is. The only file of certd that knows statuses.

use std::sync::Arc;
use std::time::Duration;

use http_common::{ApiError, StatusCode};

use crate::issue::{BadCsr, NotIssued, NotSigned};
use crate::pem::BadPem;
use crate::store::StoreError;

/// What was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No principal of the caller names the certificate.
    #[error(
        "user {uid} is not authorized for the certificate {id:?}; a [[principal]] with this uid would have to match it"
    )]
    Forbidden {
        /// The caller.
        uid: u32,
        /// The id that was asked for.
        id: String,
    },
    /// There is no such certificate.
    #[error("invalid parameter \"id\": there is no certificate {0:?}")]
    NoSuchCertificate(String),
    /// An id that no file name has room for.
    #[error("invalid parameter \"id\"")]
    BadId(#[source] StoreError),
    /// The certificate signing request cannot be granted.
    #[error("invalid parameter \"csr\"")]
    BadCsr(#[source] BadCsr),
    /// The issuer's certificate does not exist.
    #[error("invalid parameter \"issuer.certId\": there is no certificate {0:?}")]
    NoSuchIssuer(String),
    /// The text that the issuer's id names has no certificate.
    #[error("invalid parameter \"issuer.certId\": the text of {0:?} has no certificate")]
    EmptyIssuer(String),
    /// The handle of the issuer's key contains U+0000.
    #[error("invalid parameter \"issuer.privateKeyHandle\": it contains U+0000")]
    NulInHandle,
    /// What was to be imported is no certificate.
    #[error("invalid parameter \"pem\"")]
    BadPem(#[source] BadPem),
    /// The certificate was not issued; callers are not told why, unless an EST server has not decided yet.
    #[error("the certificate {id:?} was not issued")]
    NotIssued {
        /// The certificate's id.
        id: String,
        /// Why.
        source: NotIssued,
    },
    /// The issuer's certificate cannot be used; callers are not told why.
    #[error("the certificate {id:?} cannot be used as an issuer")]
    BadIssuer {
        /// The issuer's id.
        id: String,
        /// Why.
        source: BadPem,
    },
    /// A file cannot be read or written; callers are not told why.
    #[error("internal error")]
    Store(#[source] StoreError),
    /// OpenSSL does not take keyd's keys.
    #[error("OpenSSL does not take keys that are in keyd")]
    NoKeyEngine(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A thread did not do its job.
    #[error("internal error: a worker thread failed")]
    Worker,
    /// The same as another caller got who asked for the same at the same time.
    #[error(transparent)]
    Joined(Arc<Error>),
}

impl Error {
    /// Why the certificate `id` was not issued; a fault of the request is one that the caller is told.
    pub(crate) fn not_issued(id: String, source: NotIssued) -> Self {
        match source {
            NotIssued::NotSigned(NotSigned::Extension(fault)) => Self::BadCsr(fault),
            source => Self::NotIssued { id, source },
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::IdTooLong(_) => Self::BadId(error),
            _ => Self::Store(error),
        }
    }
}

impl Error {
    /// The status table of spec certificates-service, chapters 2 and 5.
    fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden { .. } => StatusCode::UNAUTHORIZED,
            Self::NoSuchCertificate(_)
            | Self::BadId(_)
            | Self::BadCsr(_)
            | Self::NoSuchIssuer(_)
            | Self::EmptyIssuer(_)
            | Self::NulInHandle => StatusCode::BAD_REQUEST,
            Self::BadPem(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NotIssued { .. }
            | Self::BadIssuer { .. }
            | Self::Store(_)
            | Self::NoKeyEngine(_)
            | Self::Worker => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Joined(error) => error.status(),
        }
    }
}

impl Error {
    /// When an EST server wants to be asked again for a certificate, if that is all that is wrong.
    fn ask_again_after(&self) -> Option<Duration> {
        match self {
            Self::NotIssued { source, .. } => source.ask_again_after(),
            Self::Joined(error) => error.ask_again_after(),
            _ => None,
        }
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let mut refusal = Self::from_error(error.status(), &error);
        if let Some(wait) = error.ask_again_after() {
            refusal.message =
                "the EST server has not decided on this certificate yet; ask again later".to_owned();
            refusal.retry_after = Some(wait.as_secs()).filter(|wait| *wait > 0).or(Some(UNDECIDED));
        }
        refusal
    }
}

/// When to ask again for a certificate if the EST server does not say, in seconds.
const UNDECIDED: u64 = 60;
