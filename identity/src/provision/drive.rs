//! The loop that brings the device and its modules in line with the settings and never gives up: what is known is used at
//! once, the cloud is asked in the background, failures are followed by growing pauses that outlast a restart.
//!
//! Does not know what a round does, only whether it has failed. Nothing here is waited for by those who read.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http_common::chain;
use http_common::retry::FailureKind;
use identity_api::config::Source;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::round::Failed;
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
    At(Instant),
    /// When there is a reason.
    Idle,
}

impl Identityd {
    /// Run for ever. `events` are reasons to look again.
    pub(crate) async fn drive(self: Arc<Self>, mut events: mpsc::Receiver<Event>) {
        let mut next = self.first_round();
        let mut looked = Instant::now();
        loop {
            let event = match next {
                Next::Now => {
                    (looked, next) = self.round().await;
                    continue;
                }
                Next::Idle => next_event(&self.changed, &mut events).await,
                Next::At(then) => tokio::select! {
                    event = next_event(&self.changed, &mut events) => event,
                    () = tokio::time::sleep_until(then) => {
                        next = Next::Now;
                        continue;
                    }
                },
            };
            let Some(event) = event else { return };
            if event == Event::Keys && self.module_credentials.loss().is_none() {
                continue;
            }
            next = after_event(next, event, looked, Instant::now(), self.must_wait());
        }
    }

    /// The settings have changed, or what they name: look again as soon as may be.
    pub(crate) fn has_changed(&self) {
        if !self.must_wait() {
            // At once, so that whoever asks for a new module waits for it.
            self.update(|status| status.phase = status.phase.again());
        }
        self.changed.notify_one();
    }

    /// Whether the cloud has asked a device with these settings to wait, and it still does.
    pub(super) fn must_wait(&self) -> bool {
        let memo = self.memo.lock().expect("no panic while held").clone();
        memo.asked
            && !memo.backoff.left(SystemTime::now()).is_zero()
            && memo.backoff_digest == digest(&self.settings().config.provisioning)
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
            status.phase = Phase::Waiting { failures, next: now + left, error: Arc::new(self.earlier()) };
        });
        Next::At(Instant::now() + left)
    }

    /// What is remembered of the failure that is paused after.
    pub(super) fn earlier(&self) -> Error {
        let (memo, now) = (self.memo.lock().expect("no panic while held").clone(), SystemTime::now());
        Error::Earlier { cause: memo.cause, until: now + memo.backoff.left(now) }
    }

    /// One round: when it began, with the lock in hand, and when the next one is.
    async fn round(&self) -> (Instant, Next) {
        let _turn = self.turn.lock.lock().await;
        let began = Instant::now();
        let settings = self.settings();
        self.update(|status| status.phase = status.phase.again());
        let next = match self.background(&settings).await {
            Ok(()) => {
                self.settled(&settings).await;
                Next::Idle
            }
            Err(failed) => Next::At(Instant::now() + self.failed(&settings, failed).await),
        };
        (began, next)
    }

    /// All is in line with `settings`.
    pub(super) async fn settled(&self, settings: &Settings) {
        self.told.lock().expect("no panic while held").take();
        self.keep_memo(|memo| {
            memo.backoff.succeeded();
            memo.cause = None;
        })
        .await;
        let phase = match settings.config.provisioning.source {
            Source::None => Phase::Off,
            Source::Manual(_) | Source::Dps(_) => Phase::Settled,
        };
        self.end_phase(settings, phase);
    }

    /// A turn with `settings` has ended. If there is other work by now, its turn is next: who waits for that goes on waiting.
    pub(super) fn end_phase(&self, settings: &Settings, phase: Phase) {
        self.update(|status| {
            // Asked with the status in hand: whoever changes the settings changes the phase after that.
            let is_last = self.settings().is_same_work(&settings.config) || self.must_wait();
            status.phase = if is_last { phase } else { status.phase.again() };
        });
    }

    /// How long to wait after a failure. One that is still the same is not told twice.
    async fn failed(&self, settings: &Settings, Failed { error, after_hub }: Failed) -> Duration {
        let now = SystemTime::now();
        let (cause, text) = (Cause::of(&error), chain(&error));
        // The hub would be asked each time.
        let cause = if after_hub && cause == Cause::Here { Cause::Other } else { cause };
        let (mut wait, mut failures) = (Duration::ZERO, 1);
        let count = |memo: &mut Memo| {
            wait = memo.backoff.failed(now, cause.asked(), fastrand::f64());
            failures = memo.backoff.failures();
            memo.backoff_digest = digest(&settings.config.provisioning);
            memo.asked = cause.asked().is_some();
            memo.cause = Some(text.chars().take(LONGEST_CAUSE).collect());
        };
        match cause {
            // Nobody was asked, so that nobody has to be spared.
            Cause::Here => {}
            // A service that has answered must not be asked again for a restart; a network that was away may be back.
            Cause::Answered(_) => self.keep_memo(count).await,
            Cause::Unreachable | Cause::Other | Cause::Keyd => drop(self.with_memo(count)),
        }
        wait = cause.wait(wait, self.cloud.outage_left());
        let seconds = wait.as_secs();
        // What is told of a service that was not asked again differs by the seconds that are left.
        let told = if cause == Cause::Unreachable { "unreachable".to_owned() } else { text.clone() };
        match self.told.lock().expect("no panic while held").replace(told.clone()) {
            Some(before) if before == told => {
                tracing::debug!("still not complete, next attempt in {seconds} s: {text}");
            }
            _ => tracing::warn!("provisioning is not complete, next attempt in {seconds} s: {text}"),
        }
        let error = Arc::new(error);
        self.end_phase(settings, Phase::Waiting { failures, next: now + wait, error });
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
    /// Something on this machine is wrong, which was found before anybody was asked.
    Here,
    /// Anything else.
    Other,
}

impl Cause {
    /// Of `error`.
    pub(super) fn of(error: &Error) -> Self {
        match (error, error.failure_kind()) {
            (Error::Shared(error), _) => Self::of(error),
            (Error::Payload { .. }, _) => Self::Here,
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
            Self::Keyd | Self::Unreachable | Self::Here | Self::Other => None,
        }
    }

    /// How long to wait, where the growing pause would be `growing`. A network that was away may be back: who finds out, and
    /// when, is agreed with those who wait for an answer now, once a minute at the least (`outage_left`).
    pub(super) fn wait(self, growing: Duration, outage_left: Duration) -> Duration {
        match self {
            Self::Answered(_) | Self::Other => growing,
            Self::Keyd => growing.min(KEYD_PAUSE),
            Self::Here => HERE_PAUSE,
            Self::Unreachable if outage_left.is_zero() => growing.min(UNREACHABLE_PAUSE),
            Self::Unreachable => outage_left,
        }
    }

    /// How long nobody's wish for a new registration leads to one after so many failures, the last of this cause: clients
    /// wish for one after any error of theirs. Whoever is asked within this device may be asked again at once, and a
    /// network that is away is spared by all anyway.
    pub(super) fn wishes_wait(self, failures: u32) -> Duration {
        let growing = WISH_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        match self {
            Self::Keyd | Self::Unreachable | Self::Here => Duration::ZERO,
            Self::Other => WISH_PAUSE,
            Self::Answered(_) => self.asked().unwrap_or(growing.min(LONGEST_WISH_PAUSE)),
        }
    }
}

/// The next reason to look again. Changed settings are never missed, however many doubts there are.
async fn next_event(changed: &Notify, events: &mut mpsc::Receiver<Event>) -> Option<Event> {
    tokio::select! {
        biased;
        () = changed.notified() => Some(Event::Config),
        event = events.recv() => event,
    }
}

/// What `event` makes of the plan to look `next`, if the last look began at `looked`. `must_wait` if the cloud has asked for the
/// pause: other settings for the same device are no way around that. What somebody else has found out before the last look is
/// no news.
fn after_event(next: Next, event: Event, looked: Instant, now: Instant, must_wait: bool) -> Next {
    match (next, event) {
        (Next::At(_), Event::Config) if must_wait => next,
        (_, Event::Config) | (Next::Idle, Event::Keys) => Next::Now,
        (_, Event::Settled(when) | Event::Failed(when)) if when < looked => next,
        (_, Event::Settled(_)) => Next::Idle,
        (Next::Idle, Event::Doubt) if looked + DOUBT_PAUSE <= now => Next::Now,
        (Next::Idle, Event::Doubt) => Next::At(looked + DOUBT_PAUSE),
        (Next::Idle, Event::Failed(_)) => Next::At(now + DOUBT_PAUSE),
        (Next::Now | Next::At(_), Event::Doubt | Event::Failed(_) | Event::Keys) => next,
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
/// The pause after a failure that costs nobody anything.
const HERE_PAUSE: Duration = Duration::from_secs(5);
/// How much of a failure is remembered over a restart, in characters.
const LONGEST_CAUSE: usize = 500;
/// The longest pause that outlasts a restart although no service has asked for it: somebody may have set things right.
const UNASKED_PAUSE: Duration = Duration::from_secs(60);
/// The least time between two registrations that were wished for and failed, and what it grows to.
const WISH_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_WISH_PAUSE: Duration = Duration::from_secs(60);
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

    #[tokio::test]
    async fn what_is_wrong_here_is_looked_at_every_five_seconds() {
        let (daemon, _home) = crate::tests::daemon(crate::tests::SAS).await;
        let payload = || {
            let (uri, source) = ("http://x/y".to_owned(), "only file: can be used".into());
            Error::Shared(Arc::new(Error::Payload { uri, source }))
        };
        for _ in 0..6 {
            let wait = daemon.failed(&daemon.settings(), payload().into()).await;
            assert_eq!(wait, Duration::from_secs(5));
        }
        assert_eq!(daemon.memo.lock().unwrap().backoff.failures(), 0);
        assert_eq!(Cause::of(&payload()).wishes_wait(3), Duration::ZERO);
        // Unless the hub is asked each time before it is found.
        let mut waits = Vec::new();
        for _ in 0..6 {
            let failed = Failed { error: payload(), after_hub: true };
            waits.push(daemon.failed(&daemon.settings(), failed).await);
        }
        assert_eq!(daemon.memo.lock().unwrap().backoff.failures(), 6);
        assert!(waits[5] > 2 * waits[0], "{waits:?}");
    }

    #[tokio::test]
    async fn a_restart_knows_why_it_waits_and_how_long() {
        let (daemon, _home) = crate::tests::daemon(crate::tests::SAS).await;
        let kind = FailureKind::Throttled { retry_after: Some(Duration::from_secs(600)) };
        let failure =
            CloudFailure { kind, ..CloudFailure::invalid(StatusCode::TOO_MANY_REQUESTS, "slow down") };
        let error = Error::from(dps_client::Error::from(failure));
        let text = chain(&error);
        daemon.failed(&daemon.settings(), error.into()).await;
        *daemon.memo.lock().unwrap() = daemon.home.memo();
        assert!(matches!(daemon.first_round(), Next::At(_)));
        let told = ApiError::from(daemon.too_early(&daemon.settings()).unwrap());
        assert_eq!(told.message, format!("an attempt before this start has failed: {text}"));
        let facts = told.facts.unwrap();
        assert_eq!(facts.code, Some("notProvisioned"));
        assert!((590..=620).contains(&facts.retry_after_seconds.unwrap()), "{facts:?}");
    }

    #[test]
    fn wishes_for_registrations_are_paced() {
        let waits = |cause: Cause| (1..=6).map(|nth| cause.wishes_wait(nth).as_secs()).collect::<Vec<_>>();
        assert_eq!(waits(Cause::Answered(FailureKind::Unauthorized)), [5, 10, 20, 40, 60, 60]);
        let asked = FailureKind::Throttled { retry_after: Some(Duration::from_secs(300)) };
        assert_eq!(waits(Cause::Answered(asked)), [300; 6]);
        assert_eq!(waits(Cause::Answered(FailureKind::Forbidden)), [600; 6]);
        assert_eq!(waits(Cause::Other), [5; 6]);
        assert_eq!((waits(Cause::Keyd), waits(Cause::Unreachable)), (vec![0; 6], vec![0; 6]));
    }

    #[tokio::test]
    async fn changed_settings_are_seen_past_any_number_of_doubts() {
        let (changed, (send, mut events)) = (Notify::new(), mpsc::channel(2));
        while send.try_send(Event::Doubt).is_ok() {}
        changed.notify_one();
        changed.notify_one();
        assert_eq!(next_event(&changed, &mut events).await, Some(Event::Config));
        assert_eq!(next_event(&changed, &mut events).await, Some(Event::Doubt));
    }

    #[test]
    fn what_an_event_changes() {
        let start = Instant::now();
        let (soon, later) = (start + Duration::from_secs(5), start + Duration::from_secs(300));
        let early = start - Duration::from_secs(1);
        let table = [
            (Next::Idle, Event::Config, soon, Next::Now),
            (Next::At(later), Event::Config, soon, Next::Now),
            (Next::Idle, Event::Doubt, later, Next::Now),
            (Next::Idle, Event::Doubt, soon, Next::At(start + DOUBT_PAUSE)),
            (Next::At(later), Event::Doubt, soon, Next::At(later)),
            (Next::At(later), Event::Settled(start), soon, Next::Idle),
            // The round that has failed knew more than whoever settled all before it.
            (Next::At(later), Event::Settled(early), soon, Next::At(later)),
            (Next::At(later), Event::Failed(start), soon, Next::At(later)),
            (Next::Idle, Event::Failed(start), later, Next::At(later + DOUBT_PAUSE)),
            (Next::Idle, Event::Failed(early), later, Next::Idle),
            (Next::Idle, Event::Keys, soon, Next::Now),
            (Next::At(later), Event::Keys, soon, Next::At(later)),
        ];
        for (next, event, now, expected) in table {
            assert_eq!(after_event(next, event, start, now, false), expected, "{next:?} {event:?}");
        }
        assert_eq!(after_event(Next::At(later), Event::Config, start, soon, true), Next::At(later));
        assert_eq!(after_event(Next::Idle, Event::Config, start, soon, true), Next::Now);
    }
}
