//! Why a call to the hub was not made or failed. Knows no HTTP statuses; `CloudFailure` does.

use http_common::https::CloudFailure;
use http_common::retry::FailureKind;

/// A failed call to the registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The hub (or gateway) could not be asked, or refused the call.
    #[error("the hub did not take the call")]
    Cloud(#[from] CloudFailure),
    /// Not a name that a module can have.
    #[error("{id:?} cannot be the name of a module")]
    BadModuleId {
        /// The name.
        id: String,
    },
    /// Not the name of a hub or gateway.
    #[error("{host:?} is not the name of a hub or gateway")]
    BadHost {
        /// The name.
        host: String,
    },
    /// Not an etag.
    #[error("{etag:?} is not an etag")]
    BadEtag {
        /// The text.
        etag: String,
    },
}

impl Error {
    /// The failure, as far as it decides what to do next.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Cloud(failure) => failure.kind,
            Self::BadModuleId { .. } | Self::BadHost { .. } | Self::BadEtag { .. } => FailureKind::Rejected,
        }
    }

    /// Whether an earlier attempt of the failed call may have been carried out all the same, since its answer was lost.
    pub fn is_after_unheard(&self) -> bool {
        matches!(self, Self::Cloud(failure) if failure.unheard)
    }
}
