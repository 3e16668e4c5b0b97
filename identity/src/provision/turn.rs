//! One round of provisioning at a time, and one result for all who ask for the same at the same time. Does not know what a
//! round does.

use std::sync::{Arc, Mutex};

use tokio::sync::Mutex as AsyncMutex;

use crate::Error;

/// Whose turn it is to provision, and what came of the last turn that asked DPS or was asked for.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// The one lock of this daemon that is held while the cloud is asked. It guards no data.
    pub(super) lock: AsyncMutex<()>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    turns: u64,
    failure: Option<Arc<Error>>,
}

impl Turn {
    pub(super) fn turns(&self) -> u64 {
        self.last.lock().expect("no panic while held").turns
    }

    /// The result of a turn that has ended since there were `before`.
    pub(super) fn since(&self, before: u64) -> Option<Result<(), Error>> {
        let last = self.last.lock().expect("no panic while held");
        (last.turns != before).then(|| match &last.failure {
            None => Ok(()),
            Some(error) => Err(Error::Shared(Arc::clone(error))),
        })
    }

    /// End a turn with this result.
    pub(super) fn end(&self, result: Result<(), Error>) -> Result<(), Error> {
        let failure = result.err().map(Arc::new);
        let mut last = self.last.lock().expect("no panic while held");
        last.turns += 1;
        last.failure.clone_from(&failure);
        failure.map_or(Ok(()), |error| Err(Error::Shared(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waited_for_a_turn_shares_its_result() {
        let turn = Turn::default();
        let before = turn.turns();
        assert!(turn.since(before).is_none());
        assert!(turn.end(Err(Error::Earlier)).is_err());
        assert!(matches!(turn.since(before), Some(Err(Error::Shared(_)))));
        let after = turn.turns();
        assert!(turn.since(after).is_none());
        turn.end(Ok(())).unwrap();
        assert!(matches!(turn.since(after), Some(Ok(()))));
    }
}
