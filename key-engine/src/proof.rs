//! When to check what keyd made with the public part that a key was loaded with. Does not know how.
//!
//! keyd may have put another key under the same id, as renewals do, and signs with that one from then on. To check every
//! result would cost as much as making it; to check one now and then finds that out too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When the results of one key are checked: the first, then one when the last good one is older than [`PAUSE`], and
/// after a bad one all.
#[derive(Debug)]
pub(crate) struct Proofs {
    loaded: Instant,
    /// Milliseconds after `loaded`. Not behind a lock, which a fork could leave locked for ever.
    due: AtomicU64,
}

impl Proofs {
    /// Of a key that is loaded `now`.
    pub(crate) fn new(now: Instant) -> Self {
        Self { loaded: now, due: AtomicU64::new(0) }
    }

    /// Whether a result of `now` is to be checked.
    pub(crate) fn are_due(&self, now: Instant) -> bool {
        self.millis(now) >= self.due.load(Ordering::Relaxed)
    }

    /// A result of `now` was good.
    pub(crate) fn passed(&self, now: Instant) {
        self.due.store(self.millis(now + PAUSE), Ordering::Relaxed);
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.loaded).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Short, because so long a program may use a key that was replaced without knowing why it fails; long enough that a
/// server with hundreds of handshakes a second does not notice.
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_result_then_one_a_second_and_all_after_a_bad_one() {
        let begin = Instant::now();
        let at = |millis| begin + Duration::from_millis(millis);
        let proofs = Proofs::new(begin);
        assert!(proofs.are_due(at(0)));
        proofs.passed(at(0));
        assert!(!proofs.are_due(at(0)) && !proofs.are_due(at(999)) && proofs.are_due(at(1000)));
        proofs.passed(at(5000));
        assert!(!proofs.are_due(at(5999)));
        // Nobody says that the next ones passed.
        assert!(proofs.are_due(at(6000)) && proofs.are_due(at(6001)) && proofs.are_due(at(60_000)));
    }
}
