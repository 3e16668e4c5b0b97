//! Why an EST server did not give what it was asked for.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_common::https::HttpsError;
use url::Url;

use super::Operation;
use super::answer::BadAnswer;
use super::chain::NotForKey;

/// Why a server did not give what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum EstError {
    /// No answer.
    #[error("no answer to {operation}")]
    NoAnswer {
        /// What was asked.
        operation: &'static str,
        /// Why.
        source: HttpsError,
    },
    /// An answer that says no.
    #[error("{url} answers {status}{hint}{text}")]
    Refused {
        /// What was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// Whether it is who asks that is refused, not what is asked for.
        is_unauthorized: bool,
        /// What may be wrong on our side.
        hint: &'static str,
        /// What the server says, if it says something.
        text: String,
    },
    /// The authority has not decided in time.
    #[error("{url} has not decided yet (202){}", .after.map(|after| format!(", it wants to be asked again in {} s", after.as_secs())).unwrap_or_default())]
    Pending {
        /// What was asked.
        url: String,
        /// When to ask again, if the server says so.
        after: Option<Duration>,
    },
    /// The server sends us elsewhere, where we must not go without being told by an administrator.
    #[error(
        "{from} redirects to {to}, which is not followed: {why}; if it is right, configure it as the URL"
    )]
    Redirected {
        /// What was asked.
        from: String,
        /// Where it sends us.
        to: String,
        /// Why not.
        why: &'static str,
    },
    /// An answer that cannot be understood.
    #[error("{url} answers something wrong")]
    BadAnswer {
        /// What was asked.
        url: String,
        /// What is wrong.
        source: BadAnswer,
    },
    /// What was issued is for somebody else.
    #[error("the EST server issued something else")]
    NotOurs(#[from] NotForKey),
    /// The configured URL or password cannot be sent.
    #[error("{0} cannot be sent")]
    Unsendable(&'static str),
    /// The time for everything together is over.
    #[error("the EST server took longer than {} s", .0.as_secs())]
    TooLate(Duration),
    /// No thread to do it on.
    #[error("cannot start a thread")]
    NoThread(#[source] std::io::Error),
}

impl EstError {
    /// Whether the server does not accept the TLS client certificate, or wants another kind of authentication.
    pub(crate) fn is_unauthorized(&self) -> bool {
        match self {
            Self::NoAnswer { source, .. } => matches!(source, HttpsError::CertificateRefused { .. }),
            Self::Refused { is_unauthorized, .. } => *is_unauthorized,
            _ => false,
        }
    }

    /// For an answer with a status that is none of success.
    pub(super) fn refused(url: &Url, operation: Operation, answer: &Response<Bytes>) -> Self {
        let status = answer.status();
        let is_unauthorized = is_unauthorized(operation, answer);
        let hint = match status {
            _ if is_unauthorized => " (are user name and password, or the client certificate, right?)",
            StatusCode::FORBIDDEN => " (it does not allow this to our identity)",
            StatusCode::NOT_FOUND => {
                " (is the path of the configured URL right, for example /.well-known/est?)"
            }
            _ => "",
        };
        let text = String::from_utf8_lossy(answer.body());
        let text: String =
            text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(TEXT).collect();
        let text = if text.is_empty() { text } else { format!(": {text:?}") };
        Self::Refused { url: url.to_string(), status, is_unauthorized, hint, text }
    }
}

/// Servers differ in how they refuse a TLS client certificate that their TLS did not: nginx says 400 to the client (495 and 496
/// are its own names for that), others 403. What everybody may have is refused to nobody but for who it is.
fn is_unauthorized(operation: Operation, answer: &Response<Bytes>) -> bool {
    match answer.status().as_u16() {
        401 | 495 | 496 => true,
        400 => OF_NGINX
            .iter()
            .any(|title| answer.body().windows(title.len()).any(|part| part == title.as_bytes())),
        403 => operation == Operation::CaCerts,
        _ => false,
    }
}

/// Titles of the pages that nginx sends for a certificate that it does not take, or that is missing.
const OF_NGINX: [&str; 2] = ["The SSL certificate error", "No required SSL certificate was sent"];

/// Characters of a server's text that are logged.
const TEXT: usize = 200;
