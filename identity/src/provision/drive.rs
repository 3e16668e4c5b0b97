//! The loop that brings the device and its modules in line with the settings and never gives up: what is known is used at
//! once, the cloud is asked in the background, failures are followed by growing pauses that outlast a restart.
//!
//! Does not know what a round does, only whether it has failed. Nothing here is waited for by those who read.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_common::chain;
use http_common::retry::FailureKind;
use identity_api::config::Source;
use tokio::sync::mpsc;

use super::{Event, digest};
use crate::backup::Memo;
use crate::device::Phase;
use crate::{Error, Identityd, Settings};

/// When the next round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// At once.
    Now,
    /// Then.
    At(tokio::time::Instant),
    /// When there is a reason.
    Idle,
}

impl Identityd {
    /// Run for ever. `events` are reasons to look again.
    pub(crate) async fn drive(self: Arc<Self>, mut events: mpsc::Receiver<Event>) {
        let mut next = self.first_round();
        let mut looked = tokio::time::Instant::now();
        loop {
            let event = match next {
                Next::Now => {
                    looked = tokio::time::Instant::now();
                    next = self.round().await;
                    continue;
                }
                Next::Idle => events.recv().await,
                Next::At(then) => tokio::select! {
                    event = events.recv() => event,
                    () = tokio::time::sleep_until(then) => {
                        next = Next::Now;
                        continue;
                    }
                },
            };
            let Some(event) = event else { return };
            next = after_event(next, event, looked, tokio::time::Instant::now());
        }
    }

    /// Whether the pause after an earlier failure still lasts.
    fn first_round(&self) -> Next {
        let memo = self.memo.lock().expect("no panic while held").clone();
        let now = SystemTime::now();
        let longest = if memo.asked { Duration::MAX } else { UNASKED_PAUSE };
        let left = memo.backoff.left(now).min(longest);
        if left.is_zero() || memo.backoff_digest != digest(&self.settings().config.provisioning) {
            return Next::Now;
        }
        let failures = memo.backoff.failures();
        tracing::info!(
            "the cloud is left alone for {} s after {failures} failures before this start",
            left.as_secs()
        );
        self.update(|status| {
            status.phase = Phase::Waiting { failures, next: now + left, error: Arc::new(Error::Earlier) };
        });
        Next::At(tokio::time::Instant::now() + left)
    }

    async fn round(&self) -> Next {
        let _turn = self.turn.lock.lock().await;
        let settings = self.settings();
        self.update(|status| status.phase = Phase::Working);
        match self.background(&settings).await {
            Ok(()) => {
                self.settled().await;
                Next::Idle
            }
            Err(error) => Next::At(tokio::time::Instant::now() + self.failed(&settings, error).await),
        }
    }

    /// All is in line.
    pub(super) async fn settled(&self) {
        let phase = match self.settings().config.provisioning.source {
            Source::None => Phase::Off,
            Source::Manual(_) | Source::Dps(_) => Phase::Settled,
        };
        self.update(|status| status.phase = phase);
        self.told.lock().expect("no panic while held").take();
        self.keep_memo(|memo| memo.backoff.succeeded()).await;
    }

    /// How long to wait after `error`. A failure that is still the same is not told twice.
    async fn failed(&self, settings: &Settings, error: Error) -> Duration {
        let now = SystemTime::now();
        let cause = Cause::of(&error);
        let (mut wait, mut failures) = (Duration::ZERO, 0);
        let count = |memo: &mut Memo| {
            wait = memo.backoff.failed(now, cause.asked(), fastrand::f64());
            failures = memo.backoff.failures();
            memo.backoff_digest = digest(&settings.config.provisioning);
            memo.asked = cause.asked().is_some();
        };
        match cause {
            // A service that has answered must not be asked again for a restart; a network that was away may be back.
            Cause::Answered(_) => self.keep_memo(count).await,
            Cause::Unreachable | Cause::Other | Cause::Keyd => drop(self.with_memo(count)),
        }
        wait = cause.wait(wait, self.cloud.outage_left());
        let (text, seconds) = (chain(&error), wait.as_secs());
        match self.told.lock().expect("no panic while held").replace(text.clone()) {
            Some(before) if before == text => {
                tracing::debug!("still not complete, next attempt in {seconds} s: {text}");
            }
            _ => tracing::warn!("provisioning is not complete, next attempt in {seconds} s: {text}"),
        }
        let error = Arc::new(error);
        self.update(|status| status.phase = Phase::Waiting { failures, next: now + wait, error });
        wait
    }

    pub(super) fn with_memo(&self, change: impl FnOnce(&mut Memo)) -> Memo {
        let mut memo = self.memo.lock().expect("no panic while held");
        change(&mut memo);
        memo.clone()
    }

    /// Change the memo and write it down if that made a difference.
    async fn keep_memo(&self, change: impl FnOnce(&mut Memo)) {
        let before = self.memo.lock().expect("no panic while held").clone();
        let memo = self.with_memo(change);
        if memo == before {
            return;
        }
        if let Err(error) = self.on_disk(move |home| home.write_memo(&memo)).await {
            tracing::warn!("a restart will forget to wait: {}", chain(&error));
        }
    }
}

/// Whose fault a failure is, as far as it decides about pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A service of the cloud has answered, and not what was hoped for.
    Answered(FailureKind),
    /// keyd or tpmd could not be reached or gave no token, so that the cloud was not asked.
    Keyd,
    /// The cloud could not be reached.
    Unreachable,
    /// Anything else.
    Other,
}

impl Cause {
    /// Of `error`.
    pub(super) fn of(error: &Error) -> Self {
        match (error, error.failure_kind()) {
            (Error::Shared(error), _) => Self::of(error),
            (Error::ModuleKey(error), _) if error.is_transport() => Self::Keyd,
            (Error::Certificate(error), _) if error.is_cheap() => Self::Keyd,
            // DPS has been asked, and what it said did not help the TPM.
            (Error::Dps(dps_client::Error::Tpm(_)), Some(kind)) => Self::Answered(kind),
            (error, Some(kind)) if error.lacks_auth_key() => Self::Answered(kind),
            (_, Some(FailureKind::Credential)) => Self::Keyd,
            (_, Some(FailureKind::Network | FailureKind::Untrusted)) => Self::Unreachable,
            (_, None) => Self::Other,
            (_, Some(kind)) => Self::Answered(kind),
        }
    }

    /// The least pause that is asked for.
    fn asked(self) -> Option<Duration> {
        match self {
            Self::Answered(FailureKind::Forbidden) => Some(QUOTA_PAUSE),
            Self::Answered(FailureKind::Throttled { retry_after: None }) => Some(THROTTLED_PAUSE),
            Self::Answered(kind) => kind.retry_after(),
            Self::Keyd | Self::Unreachable | Self::Other => None,
        }
    }

    /// How long to wait, where the growing pause would be `growing`. A network that was away may be back: who finds out, and
    /// when, is agreed with those who wait for an answer now, once a minute at the least (`outage_left`).
    pub(super) fn wait(self, growing: Duration, outage_left: Duration) -> Duration {
        match self {
            Self::Answered(_) | Self::Other => growing,
            Self::Keyd => growing.min(KEYD_PAUSE),
            Self::Unreachable if outage_left.is_zero() => growing.min(UNREACHABLE_PAUSE),
            Self::Unreachable => outage_left,
        }
    }
}

/// What `event` makes of the plan to look `next`, if the last look was at `looked`.
fn after_event(next: Next, event: Event, looked: tokio::time::Instant, now: tokio::time::Instant) -> Next {
    match (next, event) {
        (_, Event::Config) => Next::Now,
        (_, Event::Settled) => Next::Idle,
        (Next::Idle, Event::Doubt) if looked + DOUBT_PAUSE <= now => Next::Now,
        (Next::Idle, Event::Doubt) => Next::At(looked + DOUBT_PAUSE),
        (Next::Idle, Event::Failed) => Next::At(now + DOUBT_PAUSE),
        (Next::Now | Next::At(_), Event::Doubt | Event::Failed) => next,
    }
}

/// The least pause after 403, which usually is about a quota.
const QUOTA_PAUSE: Duration = Duration::from_secs(10 * 60);
/// The least pause after 429 without `Retry-After`.
const THROTTLED_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause after somebody else has found the cloud again.
const UNREACHABLE_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause after a failure of keyd, whom it costs little to ask.
const KEYD_PAUSE: Duration = Duration::from_secs(30);
/// The longest pause that outlasts a restart although no service has asked for it: somebody may have set things right.
const UNASKED_PAUSE: Duration = Duration::from_secs(60);
/// The least time between two looks because of doubts.
const DOUBT_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use http_common::https::CloudFailure;
    use http_common::sas::SignError;
    use http_common::{ApiError, ClientError, StatusCode};

    use super::*;
    use crate::tpm::NoSignature;

    #[test]
    fn a_tpm_that_does_not_do_its_part_costs_ever_fewer_registrations() {
        let refused = || ClientError::Refused {
            service: "tpmd",
            error: ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "there is no auth key in the TPM"),
        };
        let hub = |source: Box<dyn std::error::Error + Send + Sync>| {
            Error::from(hub_client::Error::from(CloudFailure::from(SignError(source))))
        };
        let lacking = hub(Box::new(NoSignature(refused())));
        assert!(lacking.suggests_registration());
        for asked in [lacking, dps_client::Error::Tpm(Box::new(refused())).into()] {
            let cause = Cause::of(&Error::Shared(Arc::new(asked)));
            assert_eq!(cause, Cause::Answered(FailureKind::Credential));
            assert_eq!(cause.wait(QUOTA_PAUSE, Duration::ZERO), QUOTA_PAUSE);
        }
        let keyd = hub(Box::new(refused()));
        assert!(!keyd.suggests_registration(), "a new registration brings no key to keyd");
        for unasked in [keyd, dps_client::Error::NoTpmKeys(Box::new(refused())).into()] {
            assert_eq!(Cause::of(&unasked), Cause::Keyd);
        }
    }

    #[test]
    fn what_an_event_changes() {
        let start = tokio::time::Instant::now();
        let (soon, later) = (start + Duration::from_secs(5), start + Duration::from_secs(300));
        let table = [
            (Next::Idle, Event::Config, soon, Next::Now),
            (Next::At(later), Event::Config, soon, Next::Now),
            (Next::Idle, Event::Doubt, later, Next::Now),
            (Next::Idle, Event::Doubt, soon, Next::At(start + DOUBT_PAUSE)),
            (Next::At(later), Event::Doubt, soon, Next::At(later)),
            (Next::At(later), Event::Settled, soon, Next::Idle),
            (Next::At(later), Event::Failed, soon, Next::At(later)),
            (Next::Idle, Event::Failed, later, Next::At(later + DOUBT_PAUSE)),
        ];
        for (next, event, now, expected) in table {
            assert_eq!(after_event(next, event, start, now), expected, "{next:?} {event:?}");
        }
    }
}
