//! One logical call to the cloud: a fresh token and a request for each attempt, until it succeeds, fails for good, or
//! its deadline is reached.
//!
//! Does not know who signs, nor what the services say beyond success and error.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, IF_MATCH};
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use serde::de::DeserializeOwned;

use super::Https;
use super::failure::{self, CloudFailure};
use super::outages::Outages;
use super::pauses;
use crate::retry::{Attempts, FailureKind, Passage, RetryPolicy};
use crate::sas::{Scope, ServerClock, SignError, Signer};

/// How calls to the cloud are made. Cheap to clone; clones share connections and clock.
#[derive(Clone)]
pub struct Cloud {
    https: Https,
    clock: Arc<ServerClock>,
    options: CloudOptions,
    outages: Option<Arc<Outages>>,
    /// Whether a pause that others have been asked for is waited for.
    heeds_pauses: bool,
}

/// The numbers of [`Cloud`].
#[derive(Clone, Copy, Debug)]
pub struct CloudOptions {
    /// When to try again.
    pub retry: RetryPolicy,
    /// The time for one attempt (`cloud_timeout_sec`).
    pub attempt: Duration,
    /// For how long a token is valid.
    pub token_life: Duration,
}

impl Default for CloudOptions {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self { retry: RetryPolicy::cloud(1), attempt: Duration::from_secs(70), token_life: hour }
    }
}

/// How a call proves who makes it.
#[derive(Clone, Debug)]
pub enum Credentials<S> {
    /// By a token that is signed with the device key.
    Sas(S),
    /// By the TLS client certificate of the [`Https`] client, hence by nothing in the request.
    Certificate,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// The absolute URL.
    pub uri: Uri,
    /// `If-Match`, if any.
    pub if_match: Option<HeaderValue>,
    /// The JSON body, if any.
    pub body: Option<Bytes>,
    /// What the token must cover.
    pub scope: &'a Scope,
    /// Which statuses are answers; all others are failures.
    pub accept: &'a [StatusCode],
}

/// An answer with an accepted status.
#[derive(Debug)]
pub struct Reply {
    /// One of the accepted.
    pub status: StatusCode,
    /// What `Retry-After` asks for, for services that say with it when to come back.
    pub retry_after: Option<Duration>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The JSON body. Its content type must say so, or say nothing.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CloudFailure> {
        let kind = self.headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
        if let Some(kind) = kind.filter(|kind| !kind.to_ascii_lowercase().contains("application/json")) {
            return Err(CloudFailure::invalid(self.status, format!("expected JSON, got {kind:?}")));
        }
        serde_json::from_slice(&self.body)
            .map_err(|err| CloudFailure::invalid(self.status, format!("not the expected JSON: {err}")))
    }
}

impl Cloud {
    /// Make calls through `https`, with tokens by `clock`, which all clients of the cloud should share.
    pub fn new(https: Https, clock: Arc<ServerClock>, options: CloudOptions) -> Self {
        Self { https, clock, options, outages: None, heeds_pauses: true }
    }

    /// The same, but a service that cannot be reached is left alone as `outages` says, which all who ask it should share:
    /// calls fail at once with what the last one failed with, and one at a time, without repetitions, finds out whether the
    /// service is back. A service that has asked for a pause is left alone by all while a call makes it: if it is short, calls
    /// that would make one wait for its end, and otherwise fail with what was said.
    pub fn sparing(self, outages: Arc<Outages>) -> Self {
        Self { outages: Some(outages), ..self }
    }

    /// The same for calls that go on with what has begun: half done it would be worse than a call too many. They are made
    /// whatever pause others have been asked for.
    pub fn going_on(self) -> Self {
        Self { heeds_pauses: false, ..self }
    }

    /// The same with at most `attempt` for each attempt.
    pub fn with_shorter_attempts(&self, attempt: Duration) -> Self {
        let attempt = attempt.min(self.options.attempt);
        Self { options: CloudOptions { attempt, ..self.options }, ..self.clone() }
    }

    /// Make `call`, again where the retry policy says so, at most until `deadline`.
    pub async fn call<S: Signer>(
        &self,
        call: &Call<'_>,
        credentials: &Credentials<S>,
        deadline: Instant,
    ) -> Result<Reply, CloudFailure> {
        let Some((outages, server)) = self.shared(call) else {
            return self.repeat(call, credentials, deadline, &self.options.retry).await;
        };
        let passage = outages.ask(server, Instant::now())?;
        let retry = match passage {
            Passage::Probe => RetryPolicy { network: 0, ..self.options.retry },
            Passage::Free | Passage::Closed { .. } => self.options.retry,
        };
        let result = self.repeat(call, credentials, deadline, &retry).await;
        outages.note(server, passage, result.as_ref().err(), Instant::now());
        result
    }

    async fn repeat<S: Signer>(
        &self,
        call: &Call<'_>,
        credentials: &Credentials<S>,
        deadline: Instant,
        retry: &RetryPolicy,
    ) -> Result<Reply, CloudFailure> {
        let mut attempts = Attempts::default();
        let (mut told_the_time, mut unheard) = (false, false);
        loop {
            // What may have begun goes on.
            if self.heeds_pauses && !unheard {
                self.share_pause(call, deadline, retry, &mut attempts).await?;
            }
            let offset = self.clock.offset();
            let failure = match self.attempt(call, credentials, deadline).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => CloudFailure { unheard, ..failure },
            };
            unheard |= matches!(failure.kind, FailureKind::Network | FailureKind::Server { .. });
            // A token by a wrong clock is refused, but the refusal tells the time. Once.
            let refused = failure.kind == FailureKind::Unauthorized;
            if refused && !told_the_time && self.clock.offset() != offset {
                told_the_time = true;
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(pause) = attempts.after(failure.kind, retry, left, fastrand::f64()) else {
                return Err(failure);
            };
            tracing::info!("trying again in {:.1} s: {}", pause.as_secs_f32(), crate::chain(&failure));
            if let Some((outages, server)) = self.shared(call)
                && pauses::asks_for_one(failure.kind)
            {
                outages.pauses.begin(server, failure, Instant::now() + pause);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Wait for the end of a pause that another call has been asked for, after which that goes first. It counts like a refused
    /// attempt, and if it is long the call has failed with that.
    async fn share_pause(
        &self,
        call: &Call<'_>,
        deadline: Instant,
        retry: &RetryPolicy,
        attempts: &mut Attempts,
    ) -> Result<(), CloudFailure> {
        let Some((outages, server)) = self.shared(call) else { return Ok(()) };
        while let Some((pause, failure)) = outages.pauses.of(server, Instant::now()) {
            // Some time must be left for the call.
            let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(FOLLOW);
            let pause = attempts.after(failure.kind, retry, left, 0.0).filter(|_| pause <= pauses::SHARED);
            let Some(pause) = pause else { return Err(failure) };
            tokio::time::sleep(pause + FOLLOW.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
        Ok(())
    }

    /// What is known of the server of `call`, and its name, if that is shared.
    fn shared<'a>(&'a self, call: &'a Call<'_>) -> Option<(&'a Outages, &'a str)> {
        Some((self.outages.as_deref()?, call.uri.authority()?.as_str()))
    }

    async fn attempt<S: Signer>(
        &self,
        call: &Call<'_>,
        credentials: &Credentials<S>,
        deadline: Instant,
    ) -> Result<Reply, CloudFailure> {
        let request = self.request(call, credentials).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(CloudFailure::out_of_time());
        }
        let (head, body) = self.https.send(request, self.options.attempt.min(left)).await?.into_parts();
        let now = SystemTime::now();
        if let Some(date) = failure::date(&head.headers).filter(|_| call.uri.scheme() == Some(&Scheme::HTTPS))
        {
            self.clock.learn(now, date);
        }
        if !call.accept.contains(&head.status) {
            return Err(CloudFailure::from_answer(head.status, &head.headers, &body, now));
        }
        let retry_after = failure::retry_after(&head.headers, now);
        Ok(Reply { status: head.status, retry_after, headers: head.headers, body })
    }

    async fn request<S: Signer>(
        &self,
        call: &Call<'_>,
        credentials: &Credentials<S>,
    ) -> Result<Request<Bytes>, CloudFailure> {
        let mut request = Request::new(call.body.clone().unwrap_or_default());
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.uri.clone();
        let headers = request.headers_mut();
        if call.body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(etag) = &call.if_match {
            headers.insert(IF_MATCH, etag.clone());
        }
        if let Credentials::Sas(signer) = credentials {
            let expiry = self.clock.expiry(SystemTime::now(), self.options.token_life);
            let token = call.scope.token(expiry, signer).await?;
            let mut token = HeaderValue::from_str(&token).map_err(|err| SignError(Box::new(err)))?;
            token.set_sensitive(true);
            headers.insert(AUTHORIZATION, token);
        }
        Ok(request)
    }
}

/// `text` as one segment of a URL's path: everything reserved is encoded.
pub fn path_segment(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, SEGMENT)
}

/// How long after the end of a pause those call who have not been asked for it, at most.
const FOLLOW: Duration = Duration::from_secs(1);
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
