//! Who may write a certificate last: of all changes of one id, the one that began last wins, however long each takes.
//! Nobody waits for anybody. Knows no certificates.
//!
//! An issuance may take a minute. A deletion or import that comes meanwhile is done at once, and what the issuance brings
//! is then too old to be kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// The changes that are under way.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    by_id: Mutex<HashMap<String, Line>>,
}

/// The changes of one id.
#[derive(Debug, Default)]
struct Line {
    /// How many are under way.
    under_way: usize,
    /// How many have begun since there was none.
    begun: u64,
    /// The number of the latest one that was done. Held while it is being done.
    done: Arc<Mutex<u64>>,
}

/// A change that has begun.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    id: String,
    number: u64,
    done: Arc<Mutex<u64>>,
}

impl Turns {
    /// Begins a change of `id`.
    pub(crate) fn begin(self: &Arc<Self>, id: &str) -> Turn {
        let mut by_id = self.by_id.lock().expect("no panic while held");
        let line = by_id.entry(id.to_owned()).or_default();
        line.under_way += 1;
        line.begun += 1;
        let (number, done) = (line.begun, Arc::clone(&line.done));
        Turn { turns: Arc::clone(self), id: id.to_owned(), number, done }
    }
}

impl Turn {
    /// Does `change`, unless one that began later is done already; then there is nothing to do. May wait for another
    /// change of the same id, thus for the disk.
    pub(crate) fn take<E>(&self, change: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        // A change that panicked was not done, and its number was not noted.
        let mut done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *done > self.number {
            tracing::info!(
                "a later change of the certificate {:?} is done already, this one is dropped",
                self.id
            );
            return Ok(());
        }
        change()?;
        *done = self.number;
        Ok(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut by_id = self.turns.by_id.lock().expect("no panic while held");
        if let Some(line) = by_id.get_mut(&self.id) {
            line.under_way -= 1;
            if line.under_way == 0 {
                by_id.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_began_last_wins() {
        let turns = Arc::new(Turns::default());
        let (slow, quick, other) = (turns.begin("a"), turns.begin("a"), turns.begin("b"));
        let mut log = Vec::new();
        for (turn, name) in [(&quick, "quick"), (&slow, "slow"), (&other, "other")] {
            let change = || {
                log.push(name);
                Ok::<_, ()>(())
            };
            turn.take(change).unwrap();
        }
        assert_eq!(log, ["quick", "other"]);
    }

    #[test]
    fn one_that_failed_does_not_count() {
        let turns = Arc::new(Turns::default());
        let (first, second) = (turns.begin("a"), turns.begin("a"));
        assert!(second.take(|| Err(())).is_err());
        let mut written = false;
        let change = || {
            written = true;
            Ok::<_, ()>(())
        };
        first.take(change).unwrap();
        assert!(written);
    }

    #[test]
    fn nothing_is_left_behind() {
        let turns = Arc::new(Turns::default());
        let first = turns.begin("a");
        drop(turns.begin("a"));
        assert_eq!(turns.by_id.lock().unwrap().len(), 1);
        drop(first);
        assert!(turns.by_id.lock().unwrap().is_empty());
    }
}
