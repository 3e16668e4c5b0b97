//! What has been found out of keys that may be on a token, so that it need not be asked again. Knows no tokens.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use crate::id::KeyId;

/// What has been found of each id, of one kind of keys.
pub(super) struct Known<T>(RwLock<State<T>>);

/// What is known of one id.
pub(super) enum Found<T> {
    /// On its token.
    Here(Arc<T>),
    /// Not on its token; it may be in a file.
    NotHere,
}

/// When somebody began to look: what has been seen does not count if a key has changed since.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen(u64);

struct State<T> {
    by_id: HashMap<String, Found<T>>,
    changes: u64,
}

impl<T> Known<T> {
    /// What was found of `id`.
    pub(super) fn get(&self, id: &KeyId) -> Option<Found<T>> {
        self.0.read().expect("no panic while held").by_id.get(id.as_str()).cloned()
    }

    /// Whether `id` is known not to be on its token.
    pub(super) fn is_not_here(&self, id: &KeyId) -> bool {
        matches!(self.get(id), Some(Found::NotHere))
    }

    /// To be called before a look at the token, for [`put`](Self::put).
    pub(super) fn look(&self) -> Seen {
        Seen(self.0.read().expect("no panic while held").changes)
    }

    /// Remembers what was found of `id`, unless it may be no longer true.
    pub(super) fn put(&self, id: &KeyId, found: Found<T>, Seen(changes): Seen) {
        let mut state = self.0.write().expect("no panic while held");
        if state.changes != changes {
            return;
        }
        if state.by_id.len() >= MAX_KNOWN {
            state.by_id.clear();
        }
        state.by_id.insert(id.as_str().to_owned(), found);
    }

    /// Forgets what was found of `id`: then the token is asked again.
    pub(super) fn forget(&self, id: &KeyId) {
        self.0.write().expect("no panic while held").by_id.remove(id.as_str());
    }

    /// The same because the key has perhaps been changed, also for those who are looking.
    pub(super) fn has_changed(&self, id: &KeyId) {
        self.0.write().expect("no panic while held").changes += 1;
        self.forget(id);
    }
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self(RwLock::new(State { by_id: HashMap::new(), changes: 0 }))
    }
}

impl<T> Clone for Found<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Here(found) => Self::Here(Arc::clone(found)),
            Self::NotHere => Self::NotHere,
        }
    }
}

/// Ids remembered at most; beyond, all are forgotten and looked for again.
const MAX_KNOWN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_before_a_change_is_not_remembered() {
        let (known, id) = (Known::<u32>::default(), KeyId::new("id").unwrap());
        let early = known.look();
        known.has_changed(&id);
        known.put(&id, Found::Here(Arc::new(1)), early);
        assert!(known.get(&id).is_none());
        let seen = known.look();
        known.forget(&id);
        known.put(&id, Found::Here(Arc::new(2)), seen);
        assert!(matches!(known.get(&id), Some(Found::Here(two)) if *two == 2));
        known.has_changed(&id);
        assert!(known.get(&id).is_none());
    }
}
