//! What goes wrong with a token, and what may help. Knows no keys.

use cryptoki::context::Function;
use cryptoki::error::{Error as Pkcs11Error, RvError};
use std::time::Duration;

/// Why something could not be done on a token.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The library or the token refused.
    #[error("the PKCS #11 library says {} to {what}", said(error))]
    Said {
        /// What was asked of it.
        what: &'static str,
        /// Its answer; no source, for it says in a paragraph what the name of the answer says.
        error: Pkcs11Error,
    },
    /// The library cannot be used.
    #[error("the PKCS #11 library cannot be used: {0}")]
    Library(String),
    /// No token has what the URI says.
    #[error("there is no token {token}; there are {present}")]
    NoToken {
        /// What was looked for.
        token: String,
        /// What was found.
        present: String,
    },
    /// Several tokens have what the URI says.
    #[error(
        "there are several tokens {token}, with the serial numbers {serials}; add ;serial=… to the URI to choose one"
    )]
    Ambiguous {
        /// What was looked for.
        token: String,
        /// What was found.
        serials: String,
    },
    /// The PIN cannot be had.
    #[error("the PIN cannot be read from {place}: {why}")]
    NoPin {
        /// Where it should be.
        place: String,
        /// What the system said.
        why: String,
    },
    /// A key needs a login, and there is no PIN.
    #[error(
        "the URI of the token has no PIN, without which it does nothing with private keys; add ?pin-source=/path to the URI"
    )]
    PinMissing,
    /// The token refused the PIN, and is not asked again.
    #[error(
        "the token refused the PIN ({0}); it is not tried again until another one is configured, so that it does not lock the token"
    )]
    PinRefused(&'static str),
    /// The token was asked to log in with this PIN, and has not answered.
    #[error(
        "the token has not answered a login by this PIN; it is not tried again before, so that it does not lock the token"
    )]
    Unanswered,
    /// One more wrong PIN would lock the token.
    #[error(
        "the token lets the PIN be wrong one more time only; log in by hand, for example with pkcs11-tool --login, before the PIN of the configuration is tried"
    )]
    LastTry,
    /// A call did not return in time.
    #[error("the token did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// Calls have not returned for so long that no more are made.
    #[error("the token has not answered for {} s", .0.as_secs())]
    Stalled(Duration),
    /// Too many calls wait already.
    #[error("{0} calls wait for the token already")]
    QueueFull(usize),
    /// Too many threads wait for it already.
    #[error("too many requests wait for the token")]
    Busy,
    /// An attempt failed only a moment ago.
    #[error("it failed a moment ago; the next attempt is in {} ms", .0.as_millis())]
    BackingOff(Duration),
    /// There is no such object.
    #[error("there is no such object on the token")]
    NoObject,
    /// A move of a key pair was left half done.
    #[error("a move of the key pair was interrupted")]
    Interrupted,
    /// Objects of one label do not make a key.
    #[error("{0}")]
    Unusable(&'static str),
    /// A thread cannot be had or has failed.
    #[error("a thread for the token failed")]
    Thread,
}

/// What a fault means for the session it was met in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// The session is good; the answer stands.
    None,
    /// Another session may do better.
    Reopen,
    /// The library has to be made ready anew.
    Restart,
    /// Only the session can tell.
    Ask,
}

impl Fault {
    /// Wraps an answer of the library, given when it was asked for `what`.
    pub(super) fn said(what: &'static str) -> impl FnOnce(Pkcs11Error) -> Self {
        move |error| Self::Said { what, error }
    }

    /// The answer of the library, if there was one.
    pub(super) fn answer(&self) -> Option<RvError> {
        match self {
            Self::Said { error: Pkcs11Error::Pkcs11(answer, _), .. } => Some(*answer),
            _ => None,
        }
    }

    /// What may help.
    pub(super) fn remedy(&self) -> Remedy {
        let Some(answer) = self.answer() else {
            return if matches!(self, Self::NoToken { .. }) { Remedy::Restart } else { Remedy::None };
        };
        match answer {
            RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::UserNotLoggedIn
            | RvError::OperationActive
            | RvError::OperationNotInitialized
            | RvError::FunctionCanceled
            | RvError::DeviceError => Remedy::Reopen,
            RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::CryptokiNotInitialized => Remedy::Restart,
            RvError::GeneralError | RvError::FunctionFailed => Remedy::Ask,
            _ => Remedy::None,
        }
    }

    /// Whether the token, or the way to it, is at fault and not the request.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Said { .. } => {
                matches!(self.remedy(), Remedy::Reopen | Remedy::Restart) || self.is_session_count()
            }
            Self::NoObject | Self::Interrupted | Self::Unusable(_) => false,
            Self::Library(_)
            | Self::NoToken { .. }
            | Self::Ambiguous { .. }
            | Self::NoPin { .. }
            | Self::PinMissing
            | Self::PinRefused(_)
            | Self::Unanswered
            | Self::LastTry
            | Self::TimedOut(_)
            | Self::Stalled(_)
            | Self::QueueFull(_)
            | Self::Busy
            | Self::BackingOff(_)
            | Self::Thread => true,
        }
    }

    /// In words that go on from "the token": what it did not do for a caller, if the token is not at fault.
    pub(crate) fn in_short(&self) -> String {
        match self {
            Self::Said { what, .. } => format!("refuses to {what}"),
            _ => "is of no use".to_owned(),
        }
    }

    /// Whether the PIN is at fault.
    pub(super) fn is_of_pin(&self) -> bool {
        matches!(self, Self::NoPin { .. } | Self::PinMissing | Self::PinRefused(_) | Self::LastTry)
    }

    /// Whether the token does not know a mechanism.
    pub(super) fn is_unsupported(&self) -> bool {
        matches!(self.answer(), Some(RvError::FunctionNotSupported | RvError::MechanismInvalid))
            || matches!(self, Self::Said { error: Pkcs11Error::NullFunctionPointer, .. })
    }

    /// Whether the same may be done a moment later.
    pub(super) fn is_of_the_moment(&self) -> bool {
        self.remedy() == Remedy::Ask
            || matches!(self.answer(), Some(RvError::DeviceMemory | RvError::HostMemory))
    }

    /// Whether the token has as many sessions open as it can.
    pub(super) fn is_session_count(&self) -> bool {
        self.answer() == Some(RvError::SessionCount)
    }

    /// Whether an object is gone that was there.
    pub(super) fn is_stale_handle(&self) -> bool {
        matches!(self.answer(), Some(RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid))
    }
}

/// An answer of the library in a few words; its own texts are whole paragraphs.
fn said(error: &Pkcs11Error) -> String {
    let call = |function: &Function| format!("{function:?}");
    match error {
        Pkcs11Error::Pkcs11(RvError::VendorDefined(code) | RvError::UnknownErrorCode(code), function) => {
            format!("{code:#x} (C_{})", call(function))
        }
        Pkcs11Error::Pkcs11(answer, function) => format!("{answer:?} (C_{})", call(function)),
        other => format!("\"{other}\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(answer: RvError) -> Fault {
        Fault::said("sign")(Pkcs11Error::Pkcs11(answer, Function::Sign))
    }

    #[test]
    fn remedies() {
        for (answer, remedy) in [
            (RvError::SessionHandleInvalid, Remedy::Reopen),
            (RvError::UserNotLoggedIn, Remedy::Reopen),
            (RvError::DeviceError, Remedy::Reopen),
            (RvError::DeviceRemoved, Remedy::Restart),
            (RvError::TokenNotPresent, Remedy::Restart),
            (RvError::GeneralError, Remedy::Ask),
            (RvError::KeyFunctionNotPermitted, Remedy::None),
            (RvError::PinIncorrect, Remedy::None),
            (RvError::EncryptedDataInvalid, Remedy::None),
        ] {
            assert_eq!(fault(answer).remedy(), remedy, "{answer:?}");
        }
        for fault in [Fault::PinRefused(""), Fault::PinMissing] {
            assert_eq!(fault.remedy(), Remedy::None, "no session has another PIN");
        }
    }

    #[test]
    fn messages_are_short_and_name_the_call() {
        assert_eq!(
            fault(RvError::DeviceRemoved).to_string(),
            "the PKCS #11 library says DeviceRemoved (C_Sign) to sign"
        );
        assert!(fault(RvError::VendorDefined(0x8000_0001)).to_string().contains("0x80000001 (C_Sign)"));
    }
}
