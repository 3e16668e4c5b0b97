//! Why a renewal does not go on.

use crate::certificate::BadCertificate;
use crate::journal::JournalError;
use crate::step::Stuck;

/// Why a renewal does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// A step failed.
    #[error("cannot {doing}")]
    Failed {
        /// Which one.
        doing: &'static str,
        /// Why.
        source: E,
    },
    /// What was issued or is in place is no certificate.
    #[error("the certificate cannot be used")]
    BadCertificate(#[from] BadCertificate),
    /// What was issued has another key.
    #[error("the certificate that was issued is for another key")]
    OtherKey,
    /// What was issued has expired; perhaps the clock is wrong.
    #[error("the certificate that was issued has expired already; is the clock right?")]
    Expired,
    /// Who must accept it does not.
    #[error("the new certificate is refused, the old one stays: {0}")]
    Refused(String),
    /// There is nothing to renew.
    #[error(transparent)]
    Stuck(Stuck),
    /// The journal fails.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No end in sight.
    #[error("the renewal goes round in circles")]
    Endless,
    /// A thread did not do its job.
    #[error("a worker thread failed")]
    Worker,
}
