//! One round of provisioning at a time, and one result for all who ask for the same at the same time. Does not know what a
//! round does.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::drive::Cause;
use crate::Error;

/// Whose turn it is to provision, and what came of the last turn with a registration.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// The one lock of this daemon that is held while the cloud is asked. It guards no data.
    pub(super) lock: AsyncMutex<()>,
    last: Mutex<Last>,
    left: Mutex<Left>,
}

/// The modules whose keys are still to be written once more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Left {
    /// As far as they are wanted.
    pub(super) repair: BTreeSet<String>,
    /// Since they were derived from a master key that is lost.
    pub(super) rekey: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Last {
    registrations: u64,
    failure: Option<Arc<Error>>,
    /// Failures since the last success, under the settings with this digest.
    failures: u32,
    digest: String,
    /// Until then, a wish gets the failure.
    closed_until: Option<Instant>,
}

impl Turn {
    /// How many registrations have ended.
    pub(super) fn registrations(&self) -> u64 {
        self.last.lock().expect("no panic while held").registrations
    }

    /// A registration has ended, well or not.
    pub(super) fn registered(&self) {
        self.last.lock().expect("no panic while held").registrations += 1;
    }

    /// The result of a turn whose registration has ended since there were `before`: what somebody who came when there were
    /// `before` would find out now. To be asked by who has the lock.
    pub(super) fn since(&self, before: u64) -> Option<Result<(), Error>> {
        let last = self.last.lock().expect("no panic while held");
        (last.registrations != before).then(|| match &last.failure {
            None => Ok(()),
            Some(error) => Err(Error::Shared(Arc::clone(error))),
        })
    }

    /// What whoever wishes for a registration under the settings with this `digest` is told without one: so shortly after
    /// it has failed, it would fail again.
    pub(super) fn too_early(&self, digest: &str, now: Instant) -> Option<Error> {
        let last = self.last.lock().expect("no panic while held");
        let is_early = last.closed_until.is_some_and(|until| now < until) && last.digest == digest;
        last.failure.clone().filter(|_| is_early).map(Error::Shared)
    }

    /// End a turn that had a registration under the settings with this `digest`.
    pub(super) fn end(&self, result: Result<(), Error>, digest: String, now: Instant) -> Result<(), Error> {
        let failure = result.err().map(Arc::new);
        let mut last = self.last.lock().expect("no panic while held");
        let failures = match &failure {
            Some(_) if last.digest == digest => last.failures.saturating_add(1),
            Some(_) => 1,
            None => 0,
        };
        let closed_until = failure.as_deref().map(|error| now + Cause::of(error).wishes_wait(failures));
        let registrations = last.registrations;
        *last = Last { registrations, failure: failure.clone(), failures, digest, closed_until };
        failure.map_or(Ok(()), |error| Err(Error::Shared(error)))
    }

    /// What earlier turns have left undone.
    pub(super) fn left(&self) -> Left {
        self.left.lock().expect("no panic while held").clone()
    }

    /// Leave this to later turns.
    pub(super) fn leave(&self, left: Left) {
        *self.left.lock().expect("no panic while held") = left;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn end(turn: &Turn, result: Result<(), Error>) -> Result<(), Error> {
        turn.end(result, "settings".to_owned(), Instant::now())
    }

    #[test]
    fn who_came_before_the_answer_of_dps_shares_its_result() {
        let turn = Turn::default();
        let before = turn.registrations();
        assert!(turn.since(before).is_none());
        turn.registered();
        let between = turn.registrations();
        assert!(end(&turn, Err(Error::Unfinished)).is_err());
        assert!(matches!(turn.since(before), Some(Err(Error::Shared(_)))));
        assert!(turn.since(between).is_none(), "DPS has answered before");
        turn.registered();
        end(&turn, Ok(())).unwrap();
        assert!(matches!(turn.since(between), Some(Ok(()))));
    }

    #[test]
    fn shortly_after_a_failure_it_is_told_again_and_other_settings_are_another_matter() {
        let (turn, now) = (Turn::default(), Instant::now());
        let at = |seconds| now + Duration::from_secs(seconds);
        let refused = || Err(dps_client::Error::Disabled.into());
        assert!(turn.too_early("a", now).is_none());
        turn.end(refused(), "a".to_owned(), now).unwrap_err();
        assert!(turn.too_early("a", at(4)).is_some() && turn.too_early("a", at(5)).is_none());
        assert!(turn.too_early("b", at(4)).is_none());
        turn.end(refused(), "a".to_owned(), at(5)).unwrap_err();
        assert!(turn.too_early("a", at(14)).is_some() && turn.too_early("a", at(15)).is_none());
        turn.end(refused(), "b".to_owned(), at(15)).unwrap_err();
        assert!(turn.too_early("b", at(19)).is_some() && turn.too_early("b", at(20)).is_none());
        turn.end(Ok(()), "b".to_owned(), at(20)).unwrap();
        assert!(turn.too_early("b", at(20)).is_none());
    }
}
