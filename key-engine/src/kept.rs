//! A value that the threads of a process share without ever waiting for each other: after a fork, the child may have the
//! lock of a thread that it does not have. Does not know what the value is for, nor how it is had anew.

use std::sync::{RwLock, TryLockError};

/// A value that may be there; who does not get it makes it anew.
#[derive(Debug)]
pub(crate) struct Kept<T>(RwLock<Option<T>>);

impl<T: Clone> Kept<T> {
    /// With a value, or none yet.
    pub(crate) fn new(value: Option<T>) -> Self {
        Self(RwLock::new(value))
    }

    /// The value. None also while another thread puts one there, or if that has never come to its end.
    pub(crate) fn get(&self) -> Option<T> {
        match self.0.try_read() {
            Ok(value) => value.clone(),
            Err(TryLockError::Poisoned(value)) => value.into_inner().clone(),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Replaces the value, unless another thread looks at it or replaces it.
    pub(crate) fn put(&self, value: T) {
        match self.0.try_write() {
            Ok(mut place) => *place = Some(value),
            Err(TryLockError::Poisoned(place)) => *place.into_inner() = Some(value),
            Err(TryLockError::WouldBlock) => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_a_lock_that_stays_locked() {
        let kept = Kept::new(Some(1));
        {
            let _writer = kept.0.write().unwrap();
            assert_eq!(kept.get(), None);
            kept.put(2);
        }
        assert_eq!(kept.get(), Some(1));
        {
            let _reader = kept.0.read().unwrap();
            assert_eq!(kept.get(), Some(1));
            kept.put(2);
        }
        assert_eq!(kept.get(), Some(1));
        kept.put(2);
        assert_eq!(kept.get(), Some(2));
    }
}
