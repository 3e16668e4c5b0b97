//! The error a client sees, and the one way to print an error with its causes. Knows no service's errors.

use std::error::Error;

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// What a caller is told when a request is refused: a status and the text of `{"message": …}`
/// (spec service-common, chapter 8).
///
/// Each service has one `impl From<Error> for ApiError`; that is the only place where it names statuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// For people: what was refused and what to do. Constant for status 500.
    pub message: String,
    /// Seconds after which a repetition is worth while; sent as `Retry-After`.
    pub retry_after: Option<u64>,
    /// For programs, beside `message`.
    pub facts: Option<Box<Facts>>,
}

/// What the body of a refusal has besides `message`, where a service knows it. Older clients do not look at it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// One word for the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// The status with which the cloud refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_status: Option<u16>,
    /// The seconds that the cloud asks to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
}

impl ApiError {
    /// A refusal with a text of its own.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), retry_after: None, facts: None }
    }

    /// The refusal for `error`: its causes are told, one a line, unless `status` is 500, whose cause belongs
    /// into the log only.
    pub fn from_error(status: StatusCode, error: &dyn Error) -> Self {
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            return Self::new(status, INTERNAL);
        }
        let message =
            causes(error).fold(error.to_string(), |text, cause| format!("{text}\ncaused by: {cause}"));
        Self::new(status, message)
    }
}

/// The message of `error` and of everything that caused it, on one line.
pub fn chain(error: &dyn Error) -> String {
    causes(error).fold(error.to_string(), |line, cause| format!("{line}: {cause}"))
}

fn causes(error: &dyn Error) -> impl Iterator<Item = &dyn Error> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// The body of an error reply as clients of this suite read it.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorBody {
    /// See [`ApiError::message`].
    pub(crate) message: String,
}

impl ApiError {
    /// The body of the reply, in JSON.
    pub(crate) fn body(&self) -> Vec<u8> {
        let body = WrittenBody { message: &self.message, facts: self.facts.as_deref() };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct WrittenBody<'a> {
    message: &'a str,
    #[serde(flatten)]
    facts: Option<&'a Facts>,
}

/// What a caller is told of an internal error: nothing.
const INTERNAL: &str = "internal error; the service's log has the cause";

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the key")]
    struct Outer(#[source] std::io::Error);

    fn outer() -> Outer {
        Outer(std::io::Error::new(std::io::ErrorKind::NotFound, "no such file /secret/path"))
    }

    #[test]
    fn facts_stand_beside_the_message() {
        let mut refused = ApiError::new(StatusCode::NOT_FOUND, "no");
        assert_eq!(refused.body(), br#"{"message":"no"}"#);
        let facts = Facts { code: Some("x"), cloud_status: Some(429), retry_after_seconds: Some(7) };
        refused.facts = Some(Box::new(facts));
        assert_eq!(refused.body(), br#"{"message":"no","code":"x","cloudStatus":429,"retryAfterSeconds":7}"#);
    }

    #[test]
    fn a_chain_is_one_line() {
        assert_eq!(chain(&outer()), "cannot open the key: no such file /secret/path");
    }

    #[test]
    fn internal_errors_tell_nothing() {
        let refused = ApiError::from_error(StatusCode::INTERNAL_SERVER_ERROR, &outer());
        assert!(!refused.message.contains("secret"), "{}", refused.message);
    }

    #[test]
    fn other_errors_tell_their_causes_by_line() {
        let refused = ApiError::from_error(StatusCode::BAD_REQUEST, &outer());
        assert_eq!(refused.message, "cannot open the key\ncaused by: no such file /secret/path");
    }
}
