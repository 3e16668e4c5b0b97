//! When to look again, and how it goes so far. Reads no clock; does nothing to certificates.

use std::time::Duration;

use tokio::time::Instant;

use crate::certificate::Digest;
use crate::policy::{Policy, Trouble, Validity, chance};
use crate::status::Status;
use crate::step::{Facts, Stage};

/// What is known between two looks.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    pub(crate) status: Status,
    /// The certificate that was in place at the last look.
    seen: Option<(Digest, Validity)>,
    /// Nothing is tried before it is over.
    pause: Option<Pause>,
    /// The part of it that somebody has asked for.
    asked: Option<Pause>,
    /// Whether it is only because nothing could be seen.
    is_blind: bool,
    /// Before that, a wish is no reason for another attempt.
    wishes_from: Option<Instant>,
    /// What the pause was measured by.
    policy: Option<Policy>,
}

/// It is over when either clock shows its end: the one that is never set does not count the time that the system sleeps.
#[derive(Debug, Clone, Copy)]
struct Pause {
    steady: Instant,
    /// In seconds since 1970.
    wall: i64,
}

/// When to look again, if nobody asks for it: at the earlier of both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    /// On the wall clock, in seconds since 1970.
    pub(crate) wall: Option<i64>,
    /// However the clock is set.
    pub(crate) pause: Option<Instant>,
}

/// The two clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// In seconds since 1970.
    pub(crate) wall: i64,
    /// The one that is never set.
    pub(crate) steady: Instant,
}

impl Pace {
    /// Takes note of what is there. Whether it is too early for another attempt: one with the same certificate, under the same
    /// policy, has failed.
    pub(crate) fn must_wait(&mut self, facts: &Facts, policy: Policy, now: Now) -> bool {
        let seen = facts.certificate.as_ref().map(|it| (it.digest(), it.validity()));
        if seen != self.seen {
            (self.pause, self.asked, self.wishes_from) = (None, None, None);
            self.status.failures = 0;
            self.seen = seen;
        }
        if self.policy.replace(policy) != Some(policy) || self.is_blind {
            // Whom somebody has asked to wait, waits.
            self.pause = self.asked;
            self.is_blind = false;
        }
        self.status.not_after = seen.map(|(_, validity)| validity.not_after);
        self.status.stage = facts.pending.as_ref().map(|pending| pending.stage.name());
        self.asked = self.asked.and_then(|pause| pause.left(now));
        self.is_waiting(now)
    }

    /// Whether the pause is not over yet.
    pub(crate) fn is_waiting(&mut self, now: Now) -> bool {
        self.pause = self.pause.and_then(|pause| pause.left(now));
        self.pause.is_some()
    }

    /// Whether the last failure was that nothing could be seen.
    pub(crate) fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Whether somebody's wish may lead to an attempt, in the pause too.
    pub(crate) fn is_open_to_wishes(&self, now: Now) -> bool {
        self.wishes_from.is_none_or(|from| from <= now.steady)
    }

    /// A renewal is done. One that is due as soon as it is made must not be renewed without end.
    pub(crate) fn renewed(&mut self, facts: &Facts, policy: Policy, now: Now) {
        self.seen = facts.certificate.as_ref().map(|it| (it.digest(), it.validity()));
        self.pause = Pause::of(self.after(Trouble::Unanswered, 1, policy, now), now);
        self.status.renewals += 1;
        self.at_rest();
    }

    /// All is as it should be.
    pub(crate) fn at_rest(&mut self) {
        (self.status.failures, self.status.last_error) = (0, None);
    }

    /// When to go on after all that could be done.
    pub(crate) fn rest(&mut self, policy: Policy, now: Now) -> Plan {
        let seen = self.seen.filter(|_| policy.enabled);
        let begin = seen.map(|(digest, of)| policy.begin_at(of, chance(digest.seed(), 0)));
        self.status.next = begin.max(self.wall(now));
        // If it has begun already, only the pause is waited for.
        let wall = begin.filter(|at| *at > now.wall).unwrap_or(i64::MAX).min(now.in_an_hour());
        self.plan(wall)
    }

    /// When to go on after a failure, and the pause until then, which is no shorter than `least`.
    pub(crate) fn failed(
        &mut self,
        error: String,
        policy: Policy,
        (trouble, least): (Trouble, Option<Duration>),
        now: Now,
    ) -> (Plan, Duration) {
        let failures = self.status.failures.saturating_add(1);
        let pause = self.after(trouble, failures, policy, now).max(least.unwrap_or_default());
        self.asked = least.and_then(|least| Pause::of(least, now));
        let wish =
            (FIRST_WISH * (1 << (failures - 1).min(8))).min(LONGEST_WISH).max(least.unwrap_or_default());
        self.wishes_from = now.steady.checked_add(wish.min(pause));
        self.is_blind = false;
        (self.go_on_after(pause, error, now), pause)
    }

    /// The same where nothing could be seen, because of services on this device.
    pub(crate) fn blind(&mut self, error: String, now: Now) -> (Plan, Duration) {
        let failures = self.status.failures.saturating_add(1);
        let pause = unseen(failures);
        self.is_blind = true;
        (self.go_on_after(pause, error, now), pause)
    }

    fn go_on_after(&mut self, pause: Duration, error: String, now: Now) -> Plan {
        self.pause = Pause::of(pause, now);
        self.status.failures = self.status.failures.saturating_add(1);
        self.status.last_error = Some(error);
        self.status.next = self.wall(now);
        self.plan(now.in_an_hour())
    }

    /// When to go on where there is nothing to be done, and whether that is news. What is `absent` will be told of.
    pub(crate) fn stuck(&mut self, error: String, is_absent: bool, now: Now) -> (Plan, bool) {
        let is_new = self.status.last_error.as_ref() != Some(&error);
        self.status.next = None;
        self.status.last_error = Some(error);
        (Plan { wall: (!is_absent).then_some(now.in_an_hour()), pause: None }, is_new)
    }

    fn plan(&self, wall: i64) -> Plan {
        let end = self.pause.map_or(i64::MAX, |pause| pause.wall);
        Plan { wall: Some(wall.min(end)), pause: self.pause.map(|pause| pause.steady) }
    }

    fn after(&self, trouble: Trouble, failures: u32, policy: Policy, now: Now) -> Duration {
        match self.seen {
            Some((digest, of)) => {
                policy.pause(of, trouble, failures, now.wall, chance(digest.seed(), failures))
            }
            None => unseen(failures),
        }
    }

    /// The end of the pause on the wall clock.
    fn wall(&self, now: Now) -> Option<i64> {
        Some(now.wall.saturating_add(seconds(self.pause?.steady.saturating_duration_since(now.steady))))
    }
}

impl Pause {
    /// None if it has no end; then nothing waits for it.
    fn of(length: Duration, now: Now) -> Option<Self> {
        let steady = now.steady.checked_add(length)?;
        // A second more, for the one that has begun.
        Some(Self { steady, wall: now.wall.saturating_add(seconds(length)).saturating_add(1) })
    }

    /// What is left of it. It does not become longer when the wall clock is set back.
    fn left(self, now: Now) -> Option<Self> {
        if self.steady <= now.steady || self.wall <= now.wall {
            return None;
        }
        let anew = Self::of(self.steady.saturating_duration_since(now.steady), now)?;
        Some(Self { wall: self.wall.min(anew.wall), ..self })
    }
}

/// The pause after so many failures, when not even the certificate is known.
fn unseen(failures: u32) -> Duration {
    (FIRST_PAUSE * (1 << failures.min(8))).min(HOUR)
}

/// In whole seconds, and no less.
fn seconds(length: Duration) -> i64 {
    i64::try_from(length.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

impl Now {
    fn in_an_hour(self) -> i64 {
        self.wall.saturating_add_unsigned(HOUR.as_secs())
    }
}

impl Stage {
    /// In one word.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Issued(_) => "issued",
            Self::Accepted(_) => "accepted",
        }
    }
}

/// The longest time until the clock and the certificate are looked at again, when something is planned.
const HOUR: Duration = Duration::from_secs(3600);
/// Half of the first pause when not even the certificate is known; doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// How long after a failure no wish leads to another attempt; doubles.
const FIRST_WISH: Duration = Duration::from_secs(5);
const LONGEST_WISH: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_even_known_is_asked_for_less_and_less_often() {
        let now = Now { wall: 1000, steady: Instant::now() };
        let mut pace = Pace::default();
        let mut pause = || pace.blind("away".to_owned(), now).1.as_secs();
        let pauses: Vec<_> = (0..9).map(|_| pause()).collect();
        assert_eq!(pauses, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        assert_eq!((pace.status.failures, pace.status.next), (9, Some(4600)));
    }

    #[test]
    fn wishes_are_paced_and_whom_a_server_asks_to_wait_waits() {
        let policy = Policy::from(config_common::AutoRenew::default());
        let start = Now { wall: 1000, steady: Instant::now() };
        let later = |seconds| Now { wall: 1000, steady: start.steady + Duration::from_secs(seconds) };
        let mut pace = Pace::default();
        assert!(pace.is_open_to_wishes(start));
        for seconds in [5, 10, 20, 40, 60, 60] {
            pace.failed("away".to_owned(), policy, (Trouble::Unanswered, None), start);
            assert!(!pace.is_open_to_wishes(later(seconds - 1)) && pace.is_open_to_wishes(later(seconds)));
        }
        let asked = Some(Duration::from_secs(300));
        pace.failed("not decided".to_owned(), policy, (Trouble::Unanswered, asked), start);
        assert!(!pace.is_open_to_wishes(later(299)) && pace.is_open_to_wishes(later(300)));
        let other = Policy { enabled: !policy.enabled, ..policy };
        let facts = Facts::default();
        assert!(pace.must_wait(&facts, other, later(299)), "another policy is no way around that");
        assert!(!pace.must_wait(&facts, other, later(301)));
    }

    #[test]
    fn what_is_absent_wakes_nobody() {
        let now = Now { wall: 1000, steady: Instant::now() };
        let mut pace = Pace::default();
        let (plan, is_new) = pace.stuck("none".to_owned(), true, now);
        assert!(plan.wall.is_none() && plan.pause.is_none() && is_new);
        let (plan, is_new) = pace.stuck("none".to_owned(), false, now);
        assert!(plan.wall == Some(4600) && !is_new);
    }
}
