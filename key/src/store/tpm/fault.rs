//! What goes wrong with a TPM. Knows no keys.

use std::time::Duration;

use tpm_device::{Failure, OpenError, Refusal, code};

/// Why something could not be done in the TPM.
#[derive(Debug, thiserror::Error)]
pub enum TpmFault {
    /// There is no way to it.
    #[error(
        "the TPM cannot be reached through the TCTI {tcti:?}; is there a TPM, and may the user of keyd open it?"
    )]
    Unreachable {
        /// The configured string.
        tcti: String,
        /// Why.
        #[source]
        error: OpenError,
    },
    /// It was looked for in vain only a moment ago.
    #[error("the TPM could not be reached a moment ago")]
    BackingOff,
    /// Keys have nothing to be below.
    #[error("there is no storage root key in the TPM, and none can be made")]
    NoRoot(#[source] Failure),
    /// The owner hierarchy does not accept its authorization value.
    #[error(
        "the owner hierarchy of the TPM does not accept the value of tpm.hierarchy_authorization.owner; correct it in keyd's \
         configuration and restart keyd"
    )]
    Unauthorized(#[source] Failure),
    /// A key, or its parent, wants to be authorized.
    #[error(
        "{0} in the TPM asks for a password, which is not supported here; lest the TPM be locked, it is left alone until the TPM \
         is opened again"
    )]
    Locked(&'static str),
    /// The TPM cannot load a key.
    #[error("the TPM cannot load the key: it was made by another TPM, or the TPM has been cleared since")]
    NotOurs(#[source] Failure),
    /// It refused, or the connection broke.
    #[error("the TPM does not do what it should")]
    Failed(#[from] Failure),
    /// What it answered makes no sense.
    #[error("{0}")]
    Odd(&'static str),
    /// It did not answer in time.
    #[error("the TPM did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It has not answered for so long that nothing more is asked of it.
    #[error("the TPM has not answered for {} s", .0.as_secs())]
    Stalled(Duration),
    /// Too many wait already.
    #[error("too many requests wait for the TPM")]
    QueueFull,
    /// The thread cannot be had or has failed.
    #[error("the thread of the TPM does not run")]
    Thread,
}

impl TpmFault {
    /// Whether a new connection may help.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Failed(failure) | Self::NoRoot(failure) | Self::NotOurs(failure) => failure.is_lost(),
            _ => false,
        }
    }

    /// Whether a TPM that cannot be opened may be there in a moment.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::BackingOff | Self::Unreachable { error: OpenError::Refused(_), .. })
            || self.is_lost()
    }

    /// Whether the TPM cannot do what was asked with what it was given.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.blames_input())
    }

    /// Whether an authorization value is wanted that nobody has.
    pub(super) fn is_lock(&self) -> bool {
        let Self::Failed(failure) = self else { return false };
        matches!(failure.refusal(), Some(code::AUTH_FAIL | code::BAD_AUTH))
    }

    /// Whether the TPM, or the way to it, is at fault and not the key.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::NotOurs(_) | Self::Locked(_) | Self::Odd(_) => false,
            Self::Failed(failure) => failure.is_lost(),
            Self::Unreachable { .. }
            | Self::BackingOff
            | Self::NoRoot(_)
            | Self::Unauthorized(_)
            | Self::TimedOut(_)
            | Self::Stalled(_)
            | Self::QueueFull
            | Self::Thread => true,
        }
    }
}

impl From<Refusal> for TpmFault {
    /// Only what keys are below is made in the name of a hierarchy.
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unauthorized { hierarchy: _, failure } => Self::Unauthorized(failure),
            Refusal::Failed(failure) => Self::NoRoot(failure),
        }
    }
}
