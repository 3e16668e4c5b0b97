//! A client of Enrollment over Secure Transport (RFC 7030, with the tolerance of RFC 8951): certificates of the authority,
//! enrolment, re-enrolment, wishes of the authority. Knows no ids, no files and no configuration.
//!
//! ```text
//!   Server::{authorities, enroll, key_algorithms}     what a server can be asked
//!     └ exchange       again while it is pending (202), has trouble or cannot be reached; all before one deadline
//!         └ follow     redirects within the same origin (RFC 7030, 3.2.1)
//!             └ https  http_common: TLS, proxy, client certificate
//! ```

pub(crate) mod answer;
mod attributes;
pub(crate) mod chain;
mod error;
pub(crate) mod thread;

use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_common::https::{Https, HttpsOptions};
use http_common::retry::{Attempts, FailureKind, RetryPolicy, parse_retry_after};
use openssl::x509::{X509, X509ReqRef};
use url::Url;

pub use error::EstError;

/// One EST server, or one label of it, and how to talk to it.
pub(crate) struct Server {
    https: Https,
    base: Url,
    authorization: Option<HeaderValue>,
    deadline: Instant,
}

/// What a server is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The certificates of the authority.
    CaCerts,
    /// A first certificate.
    SimpleEnroll,
    /// A certificate instead of the one that the TLS client shows.
    SimpleReenroll,
    /// The wishes of the authority.
    CsrAttrs,
}

impl Server {
    /// The server at `base`, with HTTP Basic if `basic` is given. No request is begun, nor waited for, after `deadline`.
    pub(crate) fn new(
        base: &Url,
        basic: Option<(&str, &str)>,
        options: HttpsOptions,
        deadline: Instant,
    ) -> Result<Self, EstError> {
        let authorization = basic.map(|(name, password)| -> Result<HeaderValue, EstError> {
            let credentials = zeroize::Zeroizing::new(format!("{name}:{password}"));
            let text = zeroize::Zeroizing::new(format!("Basic {}", STANDARD.encode(credentials.as_bytes())));
            let mut value = HeaderValue::from_str(&text).map_err(|_| EstError::Unsendable("the password"))?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self {
            https: Https::new(options),
            base: base.clone(),
            authorization: authorization.transpose()?,
            deadline,
        })
    }

    /// The certificates of the authority.
    pub(crate) async fn authorities(&self) -> Result<Vec<X509>, EstError> {
        self.certificates(Operation::CaCerts, String::new(), &|_| {}).await
    }

    /// What the authority issues for `csr`, in the server's order. `undecided` is told when it has not decided yet, and
    /// when it wants to be asked again, if it says so.
    pub(crate) async fn enroll(
        &self,
        operation: Operation,
        csr: &X509ReqRef,
        undecided: &dyn Fn(Option<Duration>),
    ) -> Result<Vec<X509>, EstError> {
        let text = STANDARD.encode(csr.to_der().map_err(|_| EstError::Unsendable("the request"))?);
        match self.certificates(operation, lines(&text), undecided).await {
            // All should take line ends (RFC 8951, 3.1). Those that do not see garbage, and say so.
            Err(EstError::Refused { status: StatusCode::BAD_REQUEST, .. }) => {
                tracing::info!("{} asks {} again, without line ends", operation.name(), self.base);
                self.certificates(operation, text, undecided).await
            }
            answer => answer,
        }
    }

    /// The kinds of keys that the authority wishes, in keyd's form; none if it has no wish, or does not say.
    pub(crate) async fn key_algorithms(&self) -> Result<Option<&'static str>, EstError> {
        let (url, answer) = match self.exchange(Operation::CsrAttrs, "", &|_| {}).await {
            Err(EstError::Refused { status, .. }) if NOT_OFFERED.contains(&status) => return Ok(None),
            answer => answer?,
        };
        if answer.body().is_empty() {
            return Ok(None);
        }
        attributes::key_algorithms(answer.body())
            .map_err(|source| EstError::BadAnswer { url: url.into(), source })
    }

    async fn certificates(
        &self,
        operation: Operation,
        body: String,
        undecided: &dyn Fn(Option<Duration>),
    ) -> Result<Vec<X509>, EstError> {
        let (url, answer) = self.exchange(operation, &body, undecided).await?;
        let found = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let read = answer::check_type(found, PKCS7).and_then(|()| answer::certificates(answer.body()));
        read.map_err(|source| EstError::BadAnswer { url: url.into(), source })
    }

    /// The answer with a status of success, and where it came from.
    async fn exchange(
        &self,
        operation: Operation,
        body: &str,
        undecided: &dyn Fn(Option<Duration>),
    ) -> Result<(Url, Response<Bytes>), EstError> {
        let mut attempts = Attempts::default();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let pause = match self.follow(operation, body, left).await {
                Ok((url, answer)) if answer.status() == StatusCode::ACCEPTED => {
                    let after = retry_after(&answer);
                    undecided(after);
                    match after.map(|after| after.max(SHORTEST_WAIT)) {
                        Some(pause) if pause < left => pause,
                        _ => return Err(EstError::Pending { url: url.into(), after }),
                    }
                }
                Ok((url, answer)) if SUCCESS.contains(&answer.status()) => return Ok((url, answer)),
                Ok((url, answer)) => {
                    let failure = EstError::refused(&url, operation, &answer);
                    let kind = kind_of_status(answer.status(), retry_after(&answer));
                    attempts.after(kind, &RETRIES, left, fastrand::f64()).ok_or(failure)?
                }
                Err(EstError::NoAnswer { operation, source }) if source.is_network() => {
                    let pause = attempts.after(FailureKind::Network, &RETRIES, left, fastrand::f64());
                    pause.ok_or(EstError::NoAnswer { operation, source })?
                }
                Err(failure) => return Err(failure),
            };
            tracing::info!("{} asks {} again in {:.0} s", operation.name(), self.base, pause.as_secs_f32());
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt: the answer at the end of all redirects.
    async fn follow(
        &self,
        operation: Operation,
        body: &str,
        left: Duration,
    ) -> Result<(Url, Response<Bytes>), EstError> {
        let mut url = operation_url(&self.base, operation);
        for _ in 0..=REDIRECTS {
            let request = self.request(&url, operation, body)?;
            let no_answer = |source| EstError::NoAnswer { operation: operation.name(), source };
            let answer = self.https.send(request, left.min(ATTEMPT)).await.map_err(no_answer)?;
            if !REDIRECT.contains(&answer.status()) {
                return Ok((url, answer));
            }
            url = redirected(&url, operation, &answer)?;
        }
        Err(EstError::Redirected {
            from: self.base.to_string(),
            to: url.into(),
            why: "there is no end of redirects",
        })
    }

    fn request(&self, url: &Url, operation: Operation, body: &str) -> Result<Request<Bytes>, EstError> {
        let mut request = Request::builder().uri(url.as_str()).header(ACCEPT, operation.accept());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        if operation.method() == Method::POST {
            request = request.header(CONTENT_TYPE, "application/pkcs10").header(TRANSFER_ENCODING, "base64");
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        request.method(operation.method()).body(body).map_err(|_| EstError::Unsendable("the URL"))
    }
}

impl Operation {
    /// Its name in the URL.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::CaCerts => "cacerts",
            Self::SimpleEnroll => "simpleenroll",
            Self::SimpleReenroll => "simplereenroll",
            Self::CsrAttrs => "csrattrs",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::CaCerts | Self::CsrAttrs => Method::GET,
            Self::SimpleEnroll | Self::SimpleReenroll => Method::POST,
        }
    }

    fn accept(self) -> &'static str {
        match self {
            Self::CsrAttrs => "application/csrattrs, */*;q=0.1",
            Self::CaCerts | Self::SimpleEnroll | Self::SimpleReenroll => "application/pkcs7-mime, */*;q=0.1",
        }
    }
}

/// The name of the operation behind the last `/` of the base's path, which gets one if it has none.
fn operation_url(base: &Url, operation: Operation) -> Url {
    let mut url = base.clone();
    let slash = if base.path().ends_with('/') { "" } else { "/" };
    url.set_path(&format!("{}{slash}{}", base.path(), operation.name()));
    url.set_fragment(None);
    url
}

/// Where an answer sends us, if we may go there by ourselves: to the same scheme, host and port (RFC 7030, 3.2.1).
fn redirected(from: &Url, operation: Operation, answer: &Response<Bytes>) -> Result<Url, EstError> {
    let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let stop = |why| EstError::Redirected { from: from.to_string(), to: location.to_owned(), why };
    let to = from.join(location).map_err(|_| stop("it is no URL"))?;
    if location.is_empty() {
        return Err(stop("it does not say where"));
    }
    if to.origin() != from.origin() {
        return Err(stop("it is another server"));
    }
    if answer.status() == StatusCode::SEE_OTHER && operation.method() == Method::POST {
        return Err(stop("an enrolment cannot become a GET"));
    }
    Ok(to)
}

fn kind_of_status(status: StatusCode, retry_after: Option<Duration>) -> FailureKind {
    match status.as_u16() {
        429 => FailureKind::Throttled { retry_after },
        408 | 500 | 502 | 503 | 504 => FailureKind::Server { retry_after },
        _ => FailureKind::Rejected,
    }
}

fn retry_after(answer: &Response<Bytes>) -> Option<Duration> {
    parse_retry_after(answer.headers().get(RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

/// `text` in lines of 64 characters, each with its end, as libest wants it.
fn lines(text: &str) -> String {
    let line = |chunk| format!("{}\n", String::from_utf8_lossy(chunk));
    text.as_bytes().chunks(64).map(line).collect()
}

const TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");
const PKCS7: &str = "application/pkcs7-mime";
const SUCCESS: [StatusCode; 2] = [StatusCode::OK, StatusCode::CREATED];
const REDIRECT: [StatusCode; 5] = [
    StatusCode::MOVED_PERMANENTLY,
    StatusCode::FOUND,
    StatusCode::SEE_OTHER,
    StatusCode::TEMPORARY_REDIRECT,
    StatusCode::PERMANENT_REDIRECT,
];
/// What servers without csrattrs, or without wishes, answer (RFC 7030, 4.5.2).
const NOT_OFFERED: [StatusCode; 5] = [
    StatusCode::NO_CONTENT,
    StatusCode::BAD_REQUEST,
    StatusCode::NOT_FOUND,
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::NOT_IMPLEMENTED,
];
/// Redirects that are followed one after the other.
const REDIRECTS: usize = 3;
/// The longest time for one attempt.
const ATTEMPT: Duration = Duration::from_secs(25);
/// The shortest time before a pending request is repeated.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const RETRIES: RetryPolicy = RetryPolicy { network: 1, server: 1, throttled: 1 };

#[cfg(test)]
mod tests;
