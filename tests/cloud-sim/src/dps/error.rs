//! What DPS refuses, and its error envelope.

use crate::{clock::iso, dice::Dice, http::Reply};
use serde_json::json;

/// A refusal of DPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DpsError {
    /// HTTP status; the first three digits of the code.
    pub(crate) status: u16,
    /// `errorCode`.
    pub(crate) code: u32,
    /// For a person; also the reason in the log.
    pub(crate) message: String,
}

impl DpsError {
    /// A refusal with this code; its first three digits are the status.
    #[must_use]
    pub(crate) fn new(code: u32, message: impl Into<String>) -> DpsError {
        let status = u16::try_from(code / 1000).unwrap_or(500);
        DpsError { status, code, message: message.into() }
    }

    /// An error that a test asked for.
    #[must_use]
    pub(crate) fn injected(status: u16) -> DpsError {
        DpsError {
            status,
            code: u32::from(status) * 1000 + 1,
            message: format!("injected fault, status {status}"),
        }
    }

    /// The reply that says so.
    #[must_use]
    pub(crate) fn reply(&self, now_ms: i64, dice: &mut Dice) -> Reply {
        let tracking = dice.uuid();
        let body = json!({
            "errorCode": self.code,
            "trackingId": tracking,
            "message": self.message,
            "timestampUtc": iso(now_ms),
        });
        let reply = Reply::json(self.status, &body);
        reply.with("x-ms-error-code", self.code.to_string()).with("x-ms-request-id", tracking)
    }
}

/// Malformed request, invalid id, body and URL that differ.
pub(crate) const BAD_REQUEST: u32 = 400_004;
/// Missing or unknown api-version.
pub(crate) const BAD_VERSION: u32 = 400_001;
/// The proof of identity is missing or wrong.
pub(crate) const UNAUTHORIZED: u32 = 401_002;
/// No enrolment for this registration id.
pub(crate) const NO_ENROLLMENT: u32 = 404_201;
/// No such registration.
pub(crate) const NO_REGISTRATION: u32 = 404_202;
/// No such operation, or not any more.
pub(crate) const NO_OPERATION: u32 = 404_203;
/// No such id scope.
pub(crate) const NO_SCOPE: u32 = 404_001;
/// No such path.
pub(crate) const NO_PATH: u32 = 404_000;
/// A method that the path does not have.
pub(crate) const BAD_METHOD: u32 = 405_000;
/// A body that is not JSON by its content type.
pub(crate) const BAD_MEDIA_TYPE: u32 = 415_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_carries_the_code_twice() {
        let reply = DpsError::new(NO_ENROLLMENT, "no enrolment").reply(0, &mut Dice::new(1));
        assert_eq!(reply.status, 404);
        assert_eq!(reply.body_value()["errorCode"], 404_201);
        assert!(reply.headers.contains(&("x-ms-error-code".into(), "404201".into())));
    }
}
