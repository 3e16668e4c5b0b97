//! At most so many requests of one uid at a time; the next ones wait a while. Knows nothing of HTTP.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Slots for requests in flight, by uid (spec service-common 5.3 as decided in spec/README: requests count, not
/// connections; up to 100 wait for up to 10 s).
#[derive(Debug)]
pub struct Limits {
    max: usize,
    by_uid: Mutex<HashMap<u32, Arc<Slots>>>,
}

/// Why there is no slot.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Throttled {
    /// Too many wait already.
    #[error("user {uid} has {max} requests in work and {WAITING} waiting; try again later")]
    QueueFull {
        /// Whose requests.
        uid: u32,
        /// The configured limit.
        max: usize,
    },
    /// None of the requests in work ended in time.
    #[error("user {uid} has {max} requests in work, none ended within {} s; try again later", PATIENCE.as_secs())]
    TooSlow {
        /// Whose requests.
        uid: u32,
        /// The configured limit.
        max: usize,
    },
    /// `max_requests` is 0.
    #[error("max_requests is 0 in the configuration of this service: every request is refused")]
    Closed,
}

#[derive(Debug)]
struct Slots {
    free: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Limits {
    /// Admits `max` requests at a time for each uid. What no semaphore can count is as good as no limit.
    pub fn new(max: usize) -> Self {
        Self { max: max.min(Semaphore::MAX_PERMITS), by_uid: Mutex::default() }
    }

    /// A slot for `uid`, given back when dropped; `None` if all are taken.
    pub fn try_admit(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots(uid).free).try_acquire_owned().ok()
    }

    /// A slot for `uid`, given back when dropped. Waits in order of arrival.
    pub(crate) async fn admit(&self, uid: u32) -> Result<OwnedSemaphorePermit, Throttled> {
        let max = self.max;
        if max == 0 {
            return Err(Throttled::Closed);
        }
        let slots = self.slots(uid);
        if let Ok(permit) = Arc::clone(&slots.free).try_acquire_owned() {
            return Ok(permit);
        }
        let _place = Place::take(&slots).ok_or(Throttled::QueueFull { uid, max })?;
        let permit = timeout(PATIENCE, Arc::clone(&slots.free).acquire_owned()).await;
        permit
            .map(|permit| permit.expect("the semaphore is never closed"))
            .map_err(|_| Throttled::TooSlow { uid, max })
    }

    fn slots(&self, uid: u32) -> Arc<Slots> {
        let mut by_uid = self.by_uid.lock().expect("no panic while held");
        if by_uid.len() > REMEMBERED {
            by_uid
                .retain(|_, slots| slots.free.available_permits() < self.max || Arc::strong_count(slots) > 1);
        }
        let slots = by_uid.entry(uid).or_insert_with(|| {
            Arc::new(Slots { free: Arc::new(Semaphore::new(self.max)), waiting: AtomicUsize::new(0) })
        });
        Arc::clone(slots)
    }
}

/// A place in the queue, given back when dropped.
struct Place<'s>(&'s Slots);

impl<'s> Place<'s> {
    fn take(slots: &'s Slots) -> Option<Self> {
        let place = Self(slots);
        (slots.waiting.fetch_add(1, Ordering::Relaxed) < WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests of one uid that may wait for a slot.
const WAITING: usize = 100;
/// How long a request waits for a slot.
const PATIENCE: Duration = Duration::from_secs(10);
/// Above so many uids, those without requests are forgotten.
const REMEMBERED: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slot_is_free_again_when_dropped() {
        let limits = Limits::new(1);
        drop(limits.admit(7).await.unwrap());
        assert!(limits.admit(7).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_request_waits_and_is_refused_in_the_end() {
        let limits = Limits::new(1);
        let _held = limits.admit(7).await.unwrap();
        let start = tokio::time::Instant::now();
        assert_eq!(limits.admit(7).await.unwrap_err(), Throttled::TooSlow { uid: 7, max: 1 });
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_request_gets_the_slot_that_becomes_free() {
        let limits = Arc::new(Limits::new(1));
        let held = limits.admit(7).await.unwrap();
        let waiting = tokio::spawn({
            let limits = Arc::clone(&limits);
            async move { limits.admit(7).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(held);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_other_users_do_not_notice() {
        let limits = Arc::new(Limits::new(1));
        let _held = limits.admit(7).await.unwrap();
        for _ in 0..WAITING {
            let limits = Arc::clone(&limits);
            tokio::spawn(async move { limits.admit(7).await.map(drop) });
        }
        while limits.slots(7).waiting.load(Ordering::Relaxed) < WAITING {
            tokio::task::yield_now().await;
        }
        assert_eq!(limits.admit(7).await.unwrap_err(), Throttled::QueueFull { uid: 7, max: 1 });
        assert!(limits.admit(8).await.is_ok());
    }

    #[tokio::test]
    async fn who_does_not_wait_learns_it_at_once_and_takes_from_nobody_else() {
        let limits = Limits::new(1);
        let held = limits.try_admit(7).unwrap();
        assert!(limits.try_admit(7).is_none() && limits.try_admit(8).is_some());
        drop(held);
        assert!(limits.try_admit(7).is_some() && Limits::new(0).try_admit(7).is_none());
    }

    #[tokio::test]
    async fn zero_refuses_everybody() {
        assert_eq!(Limits::new(0).admit(0).await.unwrap_err(), Throttled::Closed);
    }

    #[tokio::test]
    async fn a_limit_beyond_all_counting_admits() {
        assert!(Limits::new(usize::MAX).admit(7).await.is_ok());
    }

    #[tokio::test]
    async fn users_without_requests_are_forgotten() {
        let limits = Limits::new(1);
        for uid in 0..10_000 {
            drop(limits.admit(uid).await.unwrap());
        }
        assert!(limits.by_uid.lock().unwrap().len() <= REMEMBERED + 1);
    }
}
