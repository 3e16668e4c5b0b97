//! When a certificate is due, and how long to pause after a failure: arithmetic on whole seconds (spec
//! certificates-service 10.3, identity-service 13.1). Reads no clock and rolls no dice: time and chance are arguments.

use std::time::Duration;

use config_common::AutoRenew;

/// A part of a certificate's life, or a time.
pub use config_common::Policy as Span;

/// How certificates of one kind are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether a renewal is begun at all. One that has begun is finished in any case.
    pub enabled: bool,
    /// When to begin: after this part of the life, or this time before its end.
    pub threshold: Span,
    /// The pause after a failure; no less than a second.
    pub retry: Span,
    /// Whether each renewal makes a new key.
    pub rotate_key: bool,
}

/// The life of a certificate, in seconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub not_before: i64,
    /// Its last second; at this one it counts as expired.
    pub not_after: i64,
}

/// Why there is no new certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Somebody could not be asked, or has no answer yet.
    Unanswered,
    /// It was made, and is not accepted. Another one will hardly be, and costs an authority one more.
    Refused,
}

impl Validity {
    /// Whether its time is over, or never was.
    pub fn is_over(self, now: i64) -> bool {
        now >= self.not_after || self.not_before >= self.not_after
    }

    /// In seconds; 0 if it ends before it begins.
    fn life(self) -> i64 {
        self.not_after.saturating_sub(self.not_before).max(0)
    }
}

impl From<AutoRenew> for Policy {
    fn from(configured: AutoRenew) -> Self {
        let AutoRenew { enabled, rotate_key, threshold, retry } = configured;
        Self { enabled, threshold, retry, rotate_key }
    }
}

impl Policy {
    /// Whether renewal begins at `now` or has to have begun.
    pub fn is_due(&self, of: Validity, now: i64, chance: u64) -> bool {
        self.enabled && (now >= self.begin_at(of, chance) || of.is_over(now))
    }

    /// The second at which the threshold is reached.
    pub fn threshold_at(&self, of: Validity) -> i64 {
        match self.threshold {
            Span::Percent(part) => of.not_before.saturating_add(percent(of, part)),
            Span::Seconds(time) => of.not_after.saturating_sub(seconds(time)),
        }
    }

    /// The second at which renewal begins: the threshold, and up to a twentieth of what is left then, by `chance`, so that
    /// devices that were made together do not come together. Never after the end.
    pub fn begin_at(&self, of: Validity, chance: u64) -> i64 {
        let threshold = self.threshold_at(of);
        if of.is_over(threshold) {
            return threshold.min(of.not_after);
        }
        let left = of.not_after.saturating_sub(threshold);
        threshold.saturating_add(below(left / SPREAD, chance))
    }

    /// The pause after the `failures`th failure in a row, which happened at `now`: what is configured, and up to an
    /// eighth more by `chance`; half of what is left if the end would come first, but then no less than a minute. Pauses of
    /// less than a minute double up to that. Once it is over, nothing works any more: a minute at the most, then more and more
    /// of them, as long as nobody has an answer to a quarter of an hour.
    pub fn pause(&self, of: Validity, trouble: Trouble, failures: u32, now: i64, chance: u64) -> Duration {
        let configured = match self.retry {
            Span::Percent(part) => percent(of, part),
            Span::Seconds(time) => seconds(time),
        };
        let configured = configured.min(LONGEST);
        let doubled = configured.max(1).saturating_mul(1 << failures.saturating_sub(1).min(6));
        let wanted = doubled.min(SHORT).max(configured).max(1);
        let left = of.not_after.saturating_sub(now);
        let wanted = match (1..=wanted).contains(&left) {
            _ if of.is_over(now) => {
                wanted.min((SHORT << failures.saturating_sub(1).min(9)).min(trouble.longest()))
            }
            true => wanted.min(SHORT).max(left / 2),
            false => wanted,
        };
        // In milliseconds, so that short pauses spread too; rounding keeps it short of the end.
        let room = if left > wanted { (left - wanted).saturating_mul(1000) - 1 } else { i64::MAX };
        let millis = wanted.saturating_mul(1000);
        let spread = below((millis / 8).min(room), chance);
        Duration::from_millis(u64::try_from(millis.saturating_add(spread)).unwrap_or(1000))
    }
}

impl Trouble {
    /// The longest pause, in seconds, once the certificate is over.
    fn longest(self) -> i64 {
        match self {
            Self::Unanswered => 15 * 60,
            Self::Refused => 6 * 3600,
        }
    }
}

/// Chance for the `number`th use of `seed`: looks random, and is the same again after a restart.
pub(crate) fn chance(seed: u64, number: u32) -> u64 {
    // SplitMix64.
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(u64::from(number) + 1));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn percent(of: Validity, part: u8) -> i64 {
    let part = i128::from(of.life()) * i128::from(part) / 100;
    i64::try_from(part).unwrap_or(i64::MAX)
}

fn seconds(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// A number from 0 to `most`.
fn below(most: i64, chance: u64) -> i64 {
    let choices = u64::try_from(most).unwrap_or(0).saturating_add(1);
    i64::try_from(chance % choices).unwrap_or(0)
}

/// The part of the time left after the threshold in which renewals spread.
const SPREAD: i64 = 20;
/// No pause is longer, in seconds.
const LONGEST: i64 = 366 * 86_400;
/// Pauses shorter than this, in seconds, grow.
const SHORT: i64 = 60;
#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    fn policy(threshold: Span, retry: Span) -> Policy {
        Policy { enabled: true, threshold, retry, rotate_key: true }
    }

    fn life(not_before: i64, not_after: i64) -> Validity {
        Validity { not_before, not_after }
    }

    #[test]
    fn thresholds() {
        let check = |threshold, of: Validity, at: i64| {
            let policy = policy(threshold, Span::Percent(4));
            assert_eq!(policy.threshold_at(of), at, "{threshold:?} {of:?}");
            assert_eq!(policy.begin_at(of, 0), at.min(of.not_after), "{threshold:?} {of:?}");
        };
        check(Span::Percent(80), life(0, 90 * DAY), 72 * DAY);
        check(Span::Percent(80), life(1000, 1030), 1024);
        check(Span::Percent(1), life(7, 8), 7);
        check(Span::Percent(33), life(-100, 101), -34);
        check(Span::Seconds(60), life(0, 90 * DAY), 90 * DAY - 60);
        check(Span::Seconds(7200), life(0, 3600), -3600);
        check(Span::Percent(99), life(i64::MIN, i64::MAX), i64::MIN + i64::MAX / 100 * 99 + 6);
        check(Span::Seconds(u64::MAX), life(0, 10), 10 - i64::MAX);
        check(Span::Percent(50), life(10, 10), 10);
        check(Span::Percent(50), life(20, 10), 20);
    }

    #[test]
    fn beginnings_spread_and_never_pass_the_end() {
        let year = life(0, 365 * DAY);
        let at = |chance| policy(Span::Percent(80), Span::Percent(4)).begin_at(year, chance);
        let all: Vec<_> = (0..1000).map(|number| at(chance(42, number))).collect();
        let (first, last) = (*all.iter().min().unwrap(), *all.iter().max().unwrap());
        assert!(first >= 292 * DAY && last <= 292 * DAY + 73 * DAY / 20);
        assert!(last - first > 3 * DAY, "they spread over days: {first} to {last}");
        for threshold in [Span::Percent(1), Span::Percent(99), Span::Seconds(60), Span::Seconds(1)] {
            for end in [1, 2, 30, 1000] {
                let at = policy(threshold, Span::Percent(1)).begin_at(life(0, end), u64::MAX);
                assert!(at < end, "{threshold:?} {end}: {at}");
            }
        }
    }

    #[test]
    fn pauses() {
        let check = |retry, of, failures, now, pause: u64| {
            let policy = policy(Span::Percent(80), retry);
            let found = policy.pause(of, Trouble::Unanswered, failures, now, 0);
            assert_eq!(found, Duration::from_secs(pause), "{retry:?} {of:?} {failures} {now}");
        };
        let quarter = life(0, 90 * DAY);
        check(Span::Percent(4), quarter, 1, 72 * DAY, 311_040);
        check(Span::Percent(4), quarter, 9, 72 * DAY, 311_040);
        check(Span::Seconds(1800), quarter, 1, 72 * DAY, 1800);
        // The end is nearer than the pause.
        check(Span::Percent(4), quarter, 1, 90 * DAY - 1000, 500);
        check(Span::Percent(4), quarter, 1, 90 * DAY - 1, 60);
        // It is over: the device is locked out until the authority is back.
        for (failures, pause) in [(1, 60), (2, 120), (3, 240), (4, 480), (5, 900), (u32::MAX, 900)] {
            check(Span::Percent(4), quarter, failures, 90 * DAY, pause);
            check(Span::Percent(4), quarter, failures, 190 * DAY, pause);
        }
        check(Span::Seconds(600), quarter, 5, 90 * DAY, 600);
        let policy = policy(Span::Percent(80), Span::Percent(4));
        let refused = |nth| policy.pause(quarter, Trouble::Refused, nth, 90 * DAY, 0).as_secs();
        assert_eq!([1, 2, 5, 9, 10, u32::MAX].map(refused), [60, 120, 960, 15_360, 21_600, 21_600]);
        // Short ones grow.
        for (failures, pause) in [(1, 1), (2, 2), (4, 8), (6, 32), (7, 60), (100, 60), (u32::MAX, 60)] {
            check(Span::Percent(4), life(0, 30), failures, 1000, pause);
        }
        check(Span::Percent(1), life(20, 10), 1, 30, 1);
        check(Span::Seconds(u64::MAX), life(0, 10), 1, 5, 60);
        check(Span::Seconds(u64::MAX), life(0, 500 * DAY), 1, 30, 366 * 86_400);
    }

    #[test]
    fn pauses_spread_and_do_not_jump_over_the_end() {
        for left in 121..4000_i64 {
            let of = life(0, 10_000);
            let policy = policy(Span::Percent(50), Span::Percent(10));
            let pause = policy.pause(of, Trouble::Unanswered, 1, 10_000 - left, u64::MAX - 1);
            assert!(pause < Duration::from_secs(left.unsigned_abs()), "{left}: {pause:?}");
            assert!(pause <= Duration::from_secs(1125));
        }
        let pauses: std::collections::BTreeSet<_> = (0..100)
            .map(|number| {
                let policy = policy(Span::Percent(80), Span::Percent(4));
                policy.pause(life(0, 30), Trouble::Unanswered, 1, 0, chance(1, number))
            })
            .collect();
        assert!(pauses.len() > 30, "even a pause of a second spreads");
    }

    #[test]
    fn an_odd_life_is_over() {
        assert!(life(10, 10).is_over(5));
        assert!(life(0, 10).is_over(10));
        assert!(!life(0, 10).is_over(9));
        assert!(!life(5, 10).is_over(0), "what has not begun is not over");
    }
}
