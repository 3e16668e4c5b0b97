//! Why there is no key with a certificate. Knows no services.

use http_common::ClientError;
use openssl::error::ErrorStack;

use super::is_refusal;
use crate::csr::BadRequest;

/// Why there is no key with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// certd does not give or issue it.
    #[error("the certificate {id:?} cannot be had from certd")]
    Certd {
        /// certd's id.
        id: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// keyd does not do what is needed.
    #[error(
        "the key pair {id:?} cannot be had from keyd; is it there, and has keyd a [[principal]] for it with our uid?"
    )]
    Keyd {
        /// keyd's id.
        id: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// The key does not become one of OpenSSL's.
    #[error("the key pair {id:?} cannot be used")]
    Key {
        /// keyd's id.
        id: String,
        /// Why.
        #[source]
        source: Box<key_engine::Error>,
    },
    /// certd has something else under the id.
    #[error("what certd has as {id:?} cannot be read as certificates")]
    Unreadable {
        /// certd's id.
        id: String,
        /// What OpenSSL says.
        #[source]
        source: ErrorStack,
    },
    /// A certificate is to be requested, for nobody.
    #[error("there is no certificate {id:?}, and to request one takes the setting registration_id")]
    NoSubject {
        /// certd's id.
        id: String,
    },
    /// A certificate without its key.
    #[error("there is a certificate {id:?}, but keyd has no key pair {key:?}")]
    NoKey {
        /// certd's id.
        id: String,
        /// keyd's id.
        key: String,
    },
    /// A certificate for another key.
    #[error("the certificate {id:?} is not for the key pair {key:?}")]
    OtherKey {
        /// certd's id.
        id: String,
        /// keyd's id.
        key: String,
    },
    /// Its time is over, or has not come.
    #[error("the certificate {id:?} is valid from {from} to {to}, not now; is the clock right?")]
    NotNow {
        /// certd's id.
        id: String,
        /// The first moment.
        from: String,
        /// The last moment.
        to: String,
    },
    /// The request cannot be made.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// A thread did not do its job.
    #[error("a worker thread failed")]
    Worker,
}

impl CertificateError {
    /// Whether a new attempt asks nobody outside of this device.
    pub(crate) fn is_cheap(&self) -> bool {
        match self {
            Self::Certd { source, .. } | Self::Keyd { source, .. } => source.is_transport(),
            Self::Key { .. } | Self::NoKey { .. } | Self::OtherKey { .. } | Self::NotNow { .. } => true,
            Self::Unreadable { .. } | Self::NoSubject { .. } | Self::Request(_) | Self::Worker => false,
        }
    }
}

impl CertificateError {
    /// Whether keyd says no, and will until somebody changes its configuration.
    pub(crate) fn is_refusal_of_keyd(&self) -> bool {
        matches!(self, Self::Keyd { source, .. } if is_refusal(source))
    }
}
