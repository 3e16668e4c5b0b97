//! One round of provisioning at a time, and one result for all who ask for the same at the same time. Does not know what a
//! round does.

use std::sync::{Arc, Mutex};

use tokio::sync::Mutex as AsyncMutex;

use crate::Error;

/// Whose turn it is to provision, and what came of the last turn with a registration.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// The one lock of this daemon that is held while the cloud is asked. It guards no data.
    pub(super) lock: AsyncMutex<()>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    registrations: u64,
    failure: Option<Arc<Error>>,
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

    /// End a turn that had a registration with this result.
    pub(super) fn end(&self, result: Result<(), Error>) -> Result<(), Error> {
        let failure = result.err().map(Arc::new);
        self.last.lock().expect("no panic while held").failure.clone_from(&failure);
        failure.map_or(Ok(()), |error| Err(Error::Shared(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_came_before_the_answer_of_dps_shares_its_result() {
        let turn = Turn::default();
        let before = turn.registrations();
        assert!(turn.since(before).is_none());
        turn.registered();
        let between = turn.registrations();
        assert!(turn.end(Err(Error::Earlier)).is_err());
        assert!(matches!(turn.since(before), Some(Err(Error::Shared(_)))));
        assert!(turn.since(between).is_none(), "DPS has answered before");
        turn.registered();
        turn.end(Ok(())).unwrap();
        assert!(matches!(turn.since(between), Some(Ok(()))));
    }
}
