//! When a hub that has refused, or has not answered, is left alone, and what those are told meanwhile who would ask it. Pure:
//! time is an argument. Knows no calls; a hub that cannot be reached is `http_common::https::Outages`' matter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_common::retry::FailureKind;

use crate::Error;

/// What the hub has said last of all that is asked of it, whoever asked. The default is that nothing is wrong.
#[derive(Debug, Default)]
pub(super) struct Gate(Option<Trouble>);

#[derive(Debug)]
struct Trouble {
    error: Arc<Error>,
    /// Failures since the last answer that was none.
    failures: u32,
    /// Before that, nobody reads.
    reads: Instant,
    /// Before that, nobody changes anything.
    changes: Instant,
    /// Before that, whoever finds out whether it is well again may say so.
    trial: Option<Instant>,
}

/// Whether the hub may be asked for something.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// As ever.
    Open,
    /// To find out for all whether it is well again; it was not, for this reason.
    Trial(Arc<Error>),
    /// Not now: this is what it said.
    Closed(Arc<Error>),
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// Something that is known there.
    Read,
    /// A change.
    Change,
}

impl Gate {
    /// Whether something may be read at `now`.
    pub(super) fn ask_to_read(&mut self, now: Instant) -> Way {
        let Some(trouble) = &mut self.0 else { return Way::Open };
        let error = Arc::clone(&trouble.error);
        if now < trouble.reads || trouble.trial.is_some_and(|until| now < until) {
            return Way::Closed(error);
        }
        trouble.trial = Some(now + TRIAL_LIMIT);
        Way::Trial(error)
    }

    /// Whether nothing is known to be wrong.
    pub(super) fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether something may be changed at `now`; otherwise why not.
    pub(super) fn ask_to_change(&self, now: Instant) -> Result<(), Arc<Error>> {
        match &self.0 {
            Some(trouble) if now < trouble.changes => Err(Arc::clone(&trouble.error)),
            _ => Ok(()),
        }
    }

    /// The hub is well.
    pub(super) fn answered(&mut self) {
        self.0 = None;
    }

    /// The hub has failed at `now`, so that others would fare no better. What began before it was known to be in trouble counts
    /// once.
    pub(super) fn failed(&mut self, asked: Asked, error: &Arc<Error>, now: Instant) {
        let before = self.0.take();
        let failures = match &before {
            None => 1,
            Some(trouble) if now < trouble.reads => trouble.failures,
            Some(trouble) => trouble.failures.saturating_add(1),
        };
        let pause = match error.failure_kind() {
            Some(kind) => pause_after(kind, failures),
            None => growing(failures, SHORT_PAUSE, LONGEST_UNHEARD),
        };
        let is_asked = error.failure_kind().is_some_and(|kind| kind.retry_after().is_some());
        let of_changes = pause.min(if is_asked { LONGEST_OF_CHANGES } else { SHORT_PAUSE });
        // A quota for changes says nothing of what can be read.
        let is_theirs = asked == Asked::Change && error.failure_kind() == Some(FailureKind::Forbidden);
        let reads = if is_theirs { now } else { now + pause };
        let latest = |new: Instant, old: Option<Instant>| old.map_or(new, |old| old.max(new));
        self.0 = Some(Trouble {
            error: Arc::clone(error),
            failures,
            reads: latest(reads, before.as_ref().map(|trouble| trouble.reads)),
            changes: latest(now + of_changes, before.map(|trouble| trouble.changes)),
            trial: None,
        });
    }
}

/// Whether a failure of this kind awaits all who ask the hub for a module, not only one module's.
pub(crate) fn concerns_all(kind: FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::Throttled { .. }
            | FailureKind::Server { .. }
            | FailureKind::Unauthorized
            | FailureKind::Forbidden
            | FailureKind::CertificateRefused
            | FailureKind::Credential
    )
}

/// How long the hub is not asked again after so many failures, the last of this kind, which was an answer.
pub(super) fn pause_after(kind: FailureKind, failures: u32) -> Duration {
    match kind {
        FailureKind::Throttled { retry_after } => retry_after.unwrap_or(THROTTLED_PAUSE),
        FailureKind::Server { retry_after: Some(asked) } => asked,
        FailureKind::Forbidden => growing(failures, QUOTA_PAUSE, LONGEST_REFUSED.max(QUOTA_PAUSE)),
        FailureKind::Network | FailureKind::Untrusted | FailureKind::Server { .. } => {
            growing(failures, SHORT_PAUSE, LONGEST_PAUSE)
        }
        FailureKind::Credential => growing(failures, SHORT_PAUSE, LONGEST_UNSIGNED),
        FailureKind::CertificateRefused
        | FailureKind::Unauthorized
        | FailureKind::NotFound
        | FailureKind::Conflict
        | FailureKind::Precondition
        | FailureKind::Rejected
        | FailureKind::Invalid => growing(failures, REFUSED_PAUSE, LONGEST_REFUSED),
    }
}

/// `first`, twice that, and so on up to `longest`.
pub(super) fn growing(failures: u32, first: Duration, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(longest)
}

const SHORT_PAUSE: Duration = Duration::from_secs(5);
/// So that a hub which has been in trouble for long is seldom asked, whoever wants something.
const LONGEST_PAUSE: Duration = Duration::from_secs(240);
/// After what asks nobody but keyd.
const LONGEST_UNSIGNED: Duration = Duration::from_secs(30);
/// After a hub that did not answer soon.
const LONGEST_UNHEARD: Duration = Duration::from_secs(60);
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_REFUSED: Duration = Duration::from_secs(15 * 60);
/// 403 usually is about a quota.
const QUOTA_PAUSE: Duration = Duration::from_secs(10 * 60);
const THROTTLED_PAUSE: Duration = Duration::from_secs(60);
/// How long the one who finds out whether the hub is well again may take before another one tries.
pub(super) const TRIAL_LIMIT: Duration = Duration::from_secs(1);
/// Somebody wants each change, so that once in this time one is tried whatever the hub asked for.
const LONGEST_OF_CHANGES: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use http_common::StatusCode;
    use http_common::https::CloudFailure;

    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn hub(kind: FailureKind) -> Arc<Error> {
        let failure = CloudFailure { kind, ..CloudFailure::invalid(StatusCode::OK, "no") };
        Arc::new(hub_client::Error::from(failure).into())
    }

    #[test]
    fn a_hub_in_trouble_is_asked_less_and_less() {
        let pauses = |kind| (1..=8).map(|nth| pause_after(kind, nth).as_secs()).collect::<Vec<_>>();
        assert_eq!(pauses(FailureKind::Server { retry_after: None }), [5, 10, 20, 40, 80, 160, 240, 240]);
        assert_eq!(pauses(FailureKind::Network), [5, 10, 20, 40, 80, 160, 240, 240]);
        assert_eq!(pauses(FailureKind::Credential), [5, 10, 20, 30, 30, 30, 30, 30]);
        assert_eq!(pauses(FailureKind::Unauthorized), [30, 60, 120, 240, 480, 900, 900, 900]);
        assert_eq!(pauses(FailureKind::Forbidden), [600, 900, 900, 900, 900, 900, 900, 900]);
        assert_eq!(pauses(FailureKind::Throttled { retry_after: Some(secs(7)) }), [7; 8]);
        assert_eq!(pauses(FailureKind::Throttled { retry_after: None }), [60; 8]);
    }

    /// The seconds, of so many, at which a hub that always fails so is asked by who asks each second.
    fn asked(kind: Option<FailureKind>, asked: Asked, seconds: u64) -> Vec<u64> {
        let (mut gate, start) = (Gate::default(), Instant::now());
        let error = kind.map_or_else(|| Arc::new(Error::Unfinished), hub);
        let mut made = Vec::new();
        for second in 0..seconds {
            let now = start + secs(second);
            let is_closed = match asked {
                Asked::Read => matches!(gate.ask_to_read(now), Way::Closed(_)),
                Asked::Change => gate.ask_to_change(now).is_err(),
            };
            if !is_closed {
                made.push(second);
                gate.failed(asked, &error, now);
            }
        }
        made
    }

    #[test]
    fn what_is_asked_of_a_hub_that_fails() {
        use FailureKind::{Forbidden, Server, Throttled, Unauthorized};
        let throttled = Throttled { retry_after: Some(secs(90)) };
        assert_eq!(asked(Some(throttled), Asked::Read, 200), [0, 90, 180]);
        assert_eq!(asked(Some(throttled), Asked::Change, 200), [0, 60, 120, 180]);
        assert_eq!(asked(Some(Server { retry_after: None }), Asked::Read, 100), [0, 5, 15, 35, 75]);
        assert_eq!(asked(Some(Unauthorized), Asked::Read, 100), [0, 30, 90]);
        assert_eq!(asked(Some(Unauthorized), Asked::Change, 20), [0, 5, 10, 15]);
        assert_eq!(asked(Some(Forbidden), Asked::Read, 1000), [0, 600]);
        assert_eq!(asked(None, Asked::Read, 200), [0, 5, 15, 35, 75, 135, 195]);
    }

    #[test]
    fn an_answer_ends_it_and_a_quota_for_changes_closes_no_reads() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        gate.failed(Asked::Change, &hub(FailureKind::Forbidden), now);
        assert!(gate.ask_to_change(now).is_err());
        assert!(matches!(gate.ask_to_read(now), Way::Trial(_)));
        assert!(matches!(gate.ask_to_read(now), Way::Closed(_)), "one finds out for all");
        gate.failed(Asked::Read, &hub(FailureKind::Throttled { retry_after: Some(secs(50)) }), now);
        gate.failed(Asked::Read, &hub(FailureKind::Server { retry_after: None }), now);
        let Way::Closed(error) = gate.ask_to_read(now + secs(49)) else {
            panic!("a later failure opens nothing")
        };
        assert!(matches!(error.failure_kind(), Some(FailureKind::Server { .. })));
        assert!(matches!(gate.ask_to_read(now + secs(50)), Way::Trial(_)));
        gate.answered();
        assert!(gate.ask_to_change(now).is_ok() && matches!(gate.ask_to_read(now), Way::Open));
    }
}
