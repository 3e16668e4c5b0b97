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

    /// Whether the hub has said so to another call, and was not asked by this one.
    pub fn is_hearsay(&self) -> bool {
        matches!(self, Self::Cloud(failure) if failure.hearsay)
    }

    /// Whether the hub knows no such thing, without it being said here whether that is the module or the device.
    pub(crate) fn is_not_found(&self) -> bool {
        self.kind() == FailureKind::NotFound
    }

    /// Whether the hub says that it does not know the device: 404 with the code 404001 (spec cloud-protocols, 7.4).
    pub fn is_unknown_device(&self) -> bool {
        self.is_not_found() && self.names(&["DeviceNotFound", "404001"])
    }

    /// Whether the hub says that the device has no such module: 404 with the code 404010. A 404 that says neither may
    /// come from anybody on the way.
    pub fn is_unknown_module(&self) -> bool {
        self.is_not_found() && self.names(&["ModuleNotFound", "404010"])
    }

    /// Whether one of these codes is in what the service says.
    fn names(&self, codes: &[&str]) -> bool {
        let Self::Cloud(failure) = self else { return false };
        let said = |text: &str| codes.iter().any(|code| text.contains(code));
        failure.code.as_deref().is_some_and(said) || said(&failure.message)
    }
}
