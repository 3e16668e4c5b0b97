//! One answer from a thread to whoever waits for it, on a thread or in a task. Knows nothing of what is answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use super::fault::Fault;

/// A place for an answer: one end gives it, the other waits.
pub(super) fn reply<T>() -> (Answer<T>, Reply<T>) {
    let state = State { value: None, waker: None, is_over: false };
    let is_over = AtomicBool::new(false);
    let slot = Arc::new(Slot { state: Mutex::new(state), given: Condvar::new(), is_over });
    (Answer(Arc::clone(&slot)), Reply(slot))
}

/// The end that answers. Dropped without an answer, it ends the wait with an error.
pub(super) struct Answer<T>(Arc<Slot<T>>);

/// The end that waits. Dropped, it tells the other end that nobody waits.
pub(super) struct Reply<T>(Arc<Slot<T>>);

struct Slot<T> {
    state: Mutex<State<T>>,
    given: Condvar,
    /// The same as in `state`, to be looked at without the lock.
    is_over: AtomicBool,
}

struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
    is_over: bool,
}

impl<T> Answer<T> {
    /// Whether somebody waits still.
    pub(super) fn is_awaited(&self) -> bool {
        !self.0.state().is_over
    }

    /// Gives the answer.
    pub(super) fn give(self, value: T) {
        self.0.state().value = Some(value);
    }
}

impl<T> Drop for Answer<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.state();
            state.is_over = true;
            self.0.is_over.store(true, Ordering::Release);
            state.waker.take()
        };
        self.0.given.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Reply<T> {
    /// Blocks until the answer is there, at most for `limit`.
    pub(super) fn wait(self, limit: Duration) -> Result<T, Fault> {
        let end = Instant::now() + limit;
        let mut state = self.0.state();
        loop {
            if let Some(ended) = state.ended() {
                return ended;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::TimedOut(limit));
            }
            state = self.0.given.wait_timeout(state, left).expect("no panic while held").0;
        }
    }

    /// Looks again and again for the answer, for a moment, without giving up the thread; cheaper than to be woken if
    /// the answer comes soon.
    pub(super) fn watch(&self, moment: Duration) {
        let end = Instant::now() + moment;
        while !self.0.is_over.load(Ordering::Acquire) && Instant::now() < end {
            pause();
        }
    }

    /// The same as [`wait`](Self::wait) for a task.
    pub(super) async fn within(self, limit: Duration) -> Result<T, Fault> {
        tokio::time::timeout(limit, self).await.unwrap_or(Err(Fault::TimedOut(limit)))
    }
}

impl<T> Future for Reply<T> {
    type Output = Result<T, Fault>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.state();
        match state.ended() {
            Some(ended) => Poll::Ready(ended),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.0.state().is_over = true;
    }
}

impl<T> State<T> {
    /// The answer, or that there will be none.
    fn ended(&mut self) -> Option<Result<T, Fault>> {
        match self.value.take() {
            Some(value) => Some(Ok(value)),
            None if self.is_over => Some(Err(Fault::Thread)),
            None => None,
        }
    }
}

impl<T> Slot<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no panic while held")
    }
}

/// Lets a moment pass that is shorter than a sleep, and lets others run if they want to.
pub(super) fn pause() {
    for _ in 0..PAUSE {
        std::hint::spin_loop();
    }
    thread::yield_now();
}

/// About a microsecond.
const PAUSE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn to_a_thread_and_to_a_task() {
        for _ in 0..100 {
            let ((first, to_thread), (second, to_task)) = (reply(), reply());
            thread::spawn(move || {
                first.give(1);
                second.give(2);
            });
            assert_eq!(to_task.within(LONG).await.ok(), Some(2));
            assert_eq!(to_thread.wait(LONG).ok(), Some(1));
        }
    }

    #[tokio::test]
    async fn no_answer_and_no_wait() {
        let (answer, reply_of_none) = reply::<u32>();
        drop(answer);
        assert!(matches!(reply_of_none.within(LONG).await, Err(Fault::Thread)));
        let (answer, late) = reply::<u32>();
        assert!(answer.is_awaited());
        assert!(matches!(late.within(Duration::from_millis(10)).await, Err(Fault::TimedOut(_))));
        assert!(!answer.is_awaited());
        answer.give(1);
    }
}
