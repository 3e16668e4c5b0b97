//! Why a call to the cloud failed, sorted: from an attempt without answer, or from an answer that says no.
//!
//! Reads every error envelope the services and gateways use (spec/cloud-protocols.md 7.4 and 9.4). Does not decide what
//! to do; `retry.rs` and the caller do.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use super::HttpsError;
use crate::retry::{FailureKind, parse_retry_after};
use crate::sas::SignError;

/// A call to the cloud that has failed.
#[derive(Debug, thiserror::Error)]
pub struct CloudFailure {
    /// What went wrong, as far as it decides what to do next.
    pub kind: FailureKind,
    /// The status, if there was an answer.
    pub status: Option<StatusCode>,
    /// The service's own error code, such as `401002` or `ModuleNotFound`.
    pub code: Option<Box<str>>,
    /// The service's words, or what we have to say.
    pub message: Box<str>,
    /// What the service's support asks for.
    pub tracking_id: Option<Box<str>>,
    /// Whether an earlier attempt of this call may have been carried out: its answer was lost, or said nothing of that.
    pub unheard: bool,
    /// Whether this is what another call was told, and this one was not made.
    pub hearsay: bool,
    /// The error below, if there was no answer.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl std::fmt::Display for CloudFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(status) = self.status else { return f.write_str(&self.message) };
        write!(f, "the service answered {}", status.as_u16())?;
        if let Some(code) = &self.code {
            write!(f, " ({code})")?;
        }
        if !self.message.is_empty() {
            write!(f, " {:?}", self.message)?;
        }
        match &self.tracking_id {
            Some(id) => write!(f, ", tracking id {id}"),
            None => Ok(()),
        }
    }
}

impl CloudFailure {
    /// An answer whose status was fine but which does not say what it should; `what` names it.
    pub fn invalid(status: StatusCode, what: impl Into<Box<str>>) -> Self {
        let status = Some(status);
        Self {
            kind: FailureKind::Invalid,
            status,
            code: None,
            message: what.into(),
            tracking_id: None,
            unheard: false,
            hearsay: false,
            source: None,
        }
    }

    /// From an answer that is not one of those the call accepts, received at `now`.
    pub fn from_answer(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Self {
        let envelope = Envelope::read(body);
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let code = text("iothub-errorcode").or_else(|| text("x-ms-error-code")).map(clean);
        let tracking_id = text("x-ms-request-id").map(clean);
        Self {
            kind: kind_of(status, envelope.network_error, retry_after(headers, now)),
            status: Some(status),
            code: code.or(envelope.code),
            message: envelope.message,
            tracking_id: envelope.tracking_id.or(tracking_id),
            unheard: false,
            hearsay: false,
            source: None,
        }
    }

    /// The deadline of the call was reached before anything was sent.
    pub(super) fn out_of_time() -> Self {
        Self::without_answer(FailureKind::Network, "no time is left for this call", None)
    }

    /// The service was not asked, because it could not be reached before; `last` is what that call failed with.
    pub(super) fn not_asked(kind: FailureKind, left: Duration, last: &str) -> Self {
        let seconds = left.as_secs_f64().ceil();
        let message =
            format!("the service cannot be reached and is tried again in {seconds} s; last: {last}");
        Self::without_answer(kind, &message, None)
    }

    fn without_answer(
        kind: FailureKind,
        message: &str,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let (message, status) = (message.into(), None);
        Self { kind, status, code: None, message, tracking_id: None, unheard: false, hearsay: false, source }
    }
}

impl From<HttpsError> for CloudFailure {
    fn from(err: HttpsError) -> Self {
        let kind = match &err {
            HttpsError::NotConnected { .. }
            | HttpsError::Proxy { .. }
            | HttpsError::TimedOut { .. }
            | HttpsError::Broken { .. } => FailureKind::Network,
            HttpsError::Untrusted { .. } => FailureKind::Untrusted,
            HttpsError::CertificateRefused { .. } => FailureKind::CertificateRefused,
            HttpsError::TooLarge { .. } => FailureKind::Invalid,
            HttpsError::BadProxy { .. } | HttpsError::Setup(_) | HttpsError::NoThread(_) => {
                FailureKind::Credential
            }
        };
        Self::without_answer(kind, "the service could not be asked", Some(Box::new(err)))
    }
}

impl From<SignError> for CloudFailure {
    fn from(err: SignError) -> Self {
        Self::without_answer(FailureKind::Credential, "could not make a token", Some(Box::new(err)))
    }
}

fn kind_of(status: StatusCode, network_error: bool, retry_after: Option<Duration>) -> FailureKind {
    match status.as_u16() {
        _ if network_error => FailureKind::Network,
        401 => FailureKind::Unauthorized,
        403 => FailureKind::Forbidden,
        404 => FailureKind::NotFound,
        409 => FailureKind::Conflict,
        412 => FailureKind::Precondition,
        429 => FailureKind::Throttled { retry_after },
        408 | 500 | 502 | 503 | 504 => FailureKind::Server { retry_after },
        ..=399 => FailureKind::Invalid,
        _ => FailureKind::Rejected,
    }
}

/// What `Retry-After` asks for; a date is compared with the service's own clock.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let asked = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(asked, date(headers).unwrap_or(now))
}

/// The service's time.
pub(super) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()
}

/// What can be found in an error's body.
#[derive(Default)]
struct Envelope {
    code: Option<Box<str>>,
    message: Box<str>,
    tracking_id: Option<Box<str>>,
    network_error: bool,
}

impl Envelope {
    /// Services differ in names, case and types of the members.
    fn read(body: &[u8]) -> Self {
        let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
            return Self { message: clean(&plain_text(body)), ..Self::default() };
        };
        if let Some(Value::Object(inner)) = members.remove("error") {
            members = inner;
        }
        let find = |names: &[&str]| names.iter().find_map(|name| as_text(members.get(*name)?));
        let message = ["message", "Message", "errorMessage", "ExceptionMessage", "exceptionMessage"];
        Self {
            code: find(&["errorCode", "code", "ErrorCode", "Code"]),
            message: find(&message).unwrap_or_default(),
            tracking_id: find(&["trackingId", "TrackingId"]),
            network_error: members.get("networkError") == Some(&Value::Bool(true)),
        }
    }
}

fn as_text(value: &Value) -> Option<Box<str>> {
    match value {
        Value::String(text) if !text.is_empty() => Some(clean(text)),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    }
}

/// What remains of a page or of text when tags and runs of blanks are left out.
fn plain_text(body: &[u8]) -> String {
    let mut in_tag = false;
    let text = String::from_utf8_lossy(body.get(..body.len().min(PAGE_LIMIT)).unwrap_or_default());
    let text: String = text
        .chars()
        .filter_map(|c| match c {
            '<' => {
                in_tag = true;
                Some(' ')
            }
            '>' => {
                in_tag = false;
                None
            }
            _ => (!in_tag).then_some(c),
        })
        .collect();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fit for one line of a log.
fn clean(text: &str) -> Box<str> {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MESSAGE_LIMIT).collect::<String>().into()
}

const PAGE_LIMIT: usize = 4096;
const MESSAGE_LIMIT: usize = 500;

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, headers: &[(&'static str, &str)], body: &str) -> CloudFailure {
        let headers =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        CloudFailure::from_answer(
            StatusCode::from_u16(status).unwrap(),
            &headers,
            body.as_bytes(),
            SystemTime::now(),
        )
    }

    #[test]
    fn every_envelope_is_understood() {
        let table = [
            (
                failure(
                    404,
                    &[("iothub-errorcode", "ModuleNotFound")],
                    r#"{"Message":"m","ExceptionMessage":"e"}"#,
                ),
                "the service answered 404 (ModuleNotFound) \"m\"",
            ),
            (failure(400, &[], r#"{"errorMessage":"bad"}"#), "the service answered 400 \"bad\""),
            (
                failure(
                    401,
                    &[("x-ms-request-id", "h")],
                    r#"{"errorCode":401002,"message":"no","trackingId":"t"}"#,
                ),
                "the service answered 401 (401002) \"no\", tracking id t",
            ),
            (failure(401, &[("x-ms-request-id", "h")], ""), "the service answered 401, tracking id h"),
            (
                failure(400, &[], r#"{"error":{"code":"Bad","message":"arm"}}"#),
                "the service answered 400 (Bad) \"arm\"",
            ),
            (
                failure(502, &[], "<html><h1>502 Bad\n Gateway</h1><p class='a'>x</html>"),
                "the service answered 502 \"502 Bad Gateway x\"",
            ),
            (
                failure(400, &[], r#"{"message":"cut"#),
                "the service answered 400 \"{\\\"message\\\":\\\"cut\"",
            ),
            (failure(400, &[], r#"{"message":{"odd":1},"errorCode":[]}"#), "the service answered 400"),
            (failure(400, &[], "[1]"), "the service answered 400 \"[1]\""),
            (failure(400, &[], "\u{0}\u{7}"), "the service answered 400 \"  \""),
        ];
        for (failure, expected) in table {
            assert_eq!(failure.to_string(), expected);
        }
    }

    #[test]
    fn the_status_decides_unless_a_gateway_is_offline() {
        use FailureKind::*;
        let table = [
            (301, Invalid),
            (400, Rejected),
            (401, Unauthorized),
            (403, Forbidden),
            (404, NotFound),
            (409, Conflict),
            (412, Precondition),
            (415, Rejected),
            (429, Throttled { retry_after: None }),
            (500, Server { retry_after: None }),
            (501, Rejected),
            (503, Server { retry_after: None }),
        ];
        for (status, kind) in table {
            assert_eq!(failure(status, &[], "").kind, kind, "{status}");
            let offline = r#"{"errorMessage":"no upstream","networkError":true}"#;
            assert_eq!(failure(status, &[], offline).kind, Network, "{status}");
        }
    }

    #[test]
    fn retry_after_is_measured_by_the_services_clock() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let asked =
            failure(429, &[date, ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT")], "").kind.retry_after();
        assert_eq!(asked, Some(Duration::from_secs(30)));
        assert_eq!(
            failure(503, &[("retry-after", "9")], "").kind.retry_after(),
            Some(Duration::from_secs(9))
        );
    }

    #[test]
    fn long_messages_are_cut() {
        assert_eq!(failure(400, &[], &"é".repeat(9000)).message.chars().count(), MESSAGE_LIMIT);
    }
}
