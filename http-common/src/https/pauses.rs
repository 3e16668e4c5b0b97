//! Which servers of the cloud have asked to be left alone while a call waits to ask once more: shared by all who call, so that
//! the others do not find that out anew, each for himself.
//!
//! When a call waits is `retry.rs`'s matter; calls are made by `cloud.rs`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::CloudFailure;
use crate::retry::FailureKind;

/// The servers that are left alone, by host and port.
#[derive(Debug, Default)]
pub(super) struct Pauses(Mutex<HashMap<Box<str>, Pause>>);

#[derive(Debug)]
struct Pause {
    until: Instant,
    failure: CloudFailure,
}

impl Pauses {
    /// `server` has answered with this `failure` and is not asked again before `until`.
    pub(super) fn begin(&self, server: &str, failure: CloudFailure, until: Instant) {
        let mut pauses = self.lock();
        if pauses.get(server).is_none_or(|pause| pause.until < until) {
            pauses.insert(server.into(), Pause { until, failure });
        }
    }

    /// How much is left of the pause of `server` at `now`, and what it has said.
    pub(super) fn of(&self, server: &str, now: Instant) -> Option<(Duration, CloudFailure)> {
        let mut pauses = self.lock();
        let Pause { until, failure } = pauses.get(server)?;
        let left = until.saturating_duration_since(now);
        if left.is_zero() {
            pauses.remove(server);
            return None;
        }
        Some((left, again(failure, left)))
    }

    /// Whether others are told so of `server` at `now`, since it takes long.
    pub(super) fn is_long(&self, server: &str, now: Instant) -> bool {
        self.lock().get(server).is_some_and(|pause| pause.until.saturating_duration_since(now) > SHARED)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Pause>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a failure of this kind is about all calls, and asks for a pause.
pub(super) fn asks_for_one(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Throttled { .. } | FailureKind::Server { retry_after: Some(_) })
}

/// The same for somebody else, when so much is `left` of the pause.
fn again(
    CloudFailure { kind, status, code, message, tracking_id, .. }: &CloudFailure,
    left: Duration,
) -> CloudFailure {
    let retry_after = Some(left);
    let kind = match kind {
        FailureKind::Server { .. } => FailureKind::Server { retry_after },
        _ => FailureKind::Throttled { retry_after },
    };
    CloudFailure {
        kind,
        status: *status,
        code: code.clone(),
        message: message.clone(),
        tracking_id: tracking_id.clone(),
        unheard: false,
        hearsay: true,
        source: None,
    }
}

/// The longest pause that a call waits for which has not been asked for it itself.
pub(super) const SHARED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn the_longest_pause_counts_and_says_what_is_left() {
        let (pauses, now) = (Pauses::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let busy =
            |kind| CloudFailure { kind, ..CloudFailure::invalid(StatusCode::TOO_MANY_REQUESTS, "busy") };
        assert!(pauses.of("hub", now).is_none());
        pauses.begin("hub", busy(FailureKind::Server { retry_after: Some(SHARED) }), at(30));
        pauses.begin("hub", busy(FailureKind::Throttled { retry_after: None }), at(20));
        let (left, told) = pauses.of("hub", at(12)).unwrap();
        assert_eq!(left, Duration::from_secs(18));
        assert_eq!(told.kind, FailureKind::Server { retry_after: Some(left) });
        assert!(told.hearsay);
        assert_eq!((told.status, &*told.message), (Some(StatusCode::TOO_MANY_REQUESTS), "busy"));
        assert!(pauses.of("dps", at(12)).is_none());
        assert!(pauses.is_long("hub", at(19)) && !pauses.is_long("hub", at(20)));
        assert!(!pauses.is_long("dps", at(19)));
        assert!(pauses.of("hub", at(30)).is_none());
    }
}
