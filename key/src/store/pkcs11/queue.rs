//! Some threads with a bounded queue and deadlines, for calls that may never return. Knows no tokens.
//!
//! A call that takes longer than it may keeps its thread, for there is no way to end it, but nobody waits for it any
//! more. While no call returns, new ones are refused at once, but for one now and then that finds out whether the
//! trouble is over.

use std::collections::VecDeque;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::reply::{Reply, pause, reply};

/// Threads that each own a `W`, and the jobs that wait for them. The threads are started as they are needed.
pub(super) struct Queue<W> {
    shared: Arc<Shared<W>>,
}

struct Shared<W> {
    name: String,
    state: Mutex<State<W>>,
    more: Condvar,
    /// Jobs that wait, to be looked at without the lock.
    length: AtomicUsize,
    /// How long the last jobs took, on average, in nanoseconds; none yet is very long.
    usual: AtomicU64,
    /// Whether somebody watches for an answer.
    is_watched: AtomicBool,
}

struct State<W> {
    waiting: VecDeque<Job<W>>,
    /// What each thread is at.
    threads: Vec<Option<Running>>,
    idle: usize,
    /// Threads that have done their job and watch for the next one.
    watching: usize,
    max_threads: usize,
    last_return: Instant,
    last_probe: Instant,
    is_closed: bool,
}

#[derive(Clone, Copy)]
struct Running {
    since: Instant,
    limit: Duration,
}

struct Job<W> {
    limit: Duration,
    work: Box<dyn FnOnce(&mut W) + Send>,
}

impl<W: Default + Send + 'static> Queue<W> {
    /// A queue for one thread at first; `name` is that of the threads.
    pub(super) fn new(name: String) -> Self {
        let now = Instant::now();
        let state = State {
            waiting: VecDeque::new(),
            threads: Vec::new(),
            idle: 0,
            watching: 0,
            max_threads: 1,
            last_return: now,
            last_probe: now,
            is_closed: false,
        };
        let shared = Shared {
            name,
            state: Mutex::new(state),
            more: Condvar::new(),
            length: AtomicUsize::new(0),
            usual: AtomicU64::new(u64::MAX),
            is_watched: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// From now on there may be `threads` of them.
    pub(super) fn allow_threads(&self, threads: usize) {
        let mut state = self.shared.state();
        state.max_threads = state.max_threads.max(threads);
    }

    /// Lets a thread do `work`, which may take as long as `limit`. What nobody waits for any more is not begun.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl FnOnce(&mut W) -> T + Send + 'static,
    ) -> Result<Reply<T>, Fault> {
        let (answer, reply) = reply();
        let work = Box::new(move |context: &mut W| {
            if answer.is_awaited() {
                answer.give(work(context));
            }
        });
        let mut state = self.shared.state();
        state.admit(Instant::now())?;
        state.waiting.push_back(Job { limit, work });
        self.shared.length.store(state.waiting.len(), Ordering::Release);
        if state.waiting.len() <= state.watching {
            // It is taken up within a microsecond or so.
        } else if state.idle > 0 {
            self.shared.more.notify_one();
        } else if state.threads.len() < state.max_threads {
            let index = state.threads.len();
            state.threads.push(None);
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(self.shared.name.clone()).stack_size(STACK);
            if thread.spawn(move || shared.work(index)).is_err() {
                state.threads.pop();
                if state.threads.is_empty() {
                    state.waiting.clear();
                    return Err(Fault::Thread);
                }
            }
        }
        Ok(reply)
    }
}

impl<W> Queue<W> {
    /// Watches for an answer that is likely to come before a task could be woken. Only one at a time does so, for there are
    /// others who need the processors.
    pub(super) fn watch<T>(&self, reply: &Reply<T>) {
        if let Some(usual) = self.shared.usual_if_short()
            && !self.shared.is_watched.swap(true, Ordering::AcqRel)
        {
            reply.watch(usual * 2);
            self.shared.is_watched.store(false, Ordering::Release);
        }
    }
}

impl<W> Drop for Queue<W> {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.shared.more.notify_all();
    }
}

impl<W> State<W> {
    /// Whether one more job may wait.
    fn admit(&mut self, now: Instant) -> Result<(), Fault> {
        let overdue = self.threads.iter().flatten().filter(|running| now > running.since + running.limit);
        if let Some(since) = overdue.map(|running| running.since).min()
            && self.last_return < since
        {
            let is_probe = now > self.last_probe + PROBE_EVERY && self.idle > 0;
            if !is_probe {
                return Err(Fault::Stalled(now - since));
            }
            self.last_probe = now;
        }
        match self.waiting.len() {
            length if length >= MAX_WAITING => Err(Fault::QueueFull(length)),
            _ => Ok(()),
        }
    }
}

impl<W: Default> Shared<W> {
    fn work(&self, index: usize) {
        let mut context = W::default();
        let mut state = self.state();
        loop {
            if let Some(Job { limit, work }) = state.waiting.pop_front() {
                let since = Instant::now();
                self.length.store(state.waiting.len(), Ordering::Release);
                state.threads[index] = Some(Running { since, limit });
                drop(state);
                // The one who waits for it learns of a panic from the end of its reply.
                let _ = catch_unwind(AssertUnwindSafe(|| work(&mut context)));
                state = self.state();
                state.threads[index] = None;
                state.last_return = Instant::now();
                state = self.watch_for_more(state, since);
            } else if state.is_closed {
                return;
            } else {
                state.idle += 1;
                state = self.more.wait(state).expect("no panic while held");
                state.idle -= 1;
            }
        }
    }
}

impl<W> Shared<W> {
    /// After a short job, waits a moment for the next one without going to sleep.
    fn watch_for_more<'s>(
        &'s self,
        mut state: MutexGuard<'s, State<W>>,
        since: Instant,
    ) -> MutexGuard<'s, State<W>> {
        let taken = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let usual = match self.usual.load(Ordering::Relaxed) {
            u64::MAX => taken,
            before => before - before / 8 + taken / 8,
        };
        self.usual.store(usual, Ordering::Relaxed);
        if self.usual_if_short().is_none() || !state.waiting.is_empty() || state.watching > 0 {
            return state;
        }
        state.watching += 1;
        drop(state);
        let end = Instant::now() + NEXT;
        while self.length.load(Ordering::Acquire) == 0 && Instant::now() < end {
            pause();
        }
        state = self.state();
        state.watching -= 1;
        state
    }

    /// How long a job usually takes, if that is shorter than to sleep and be woken is worth. With one processor nobody
    /// can watch others work.
    fn usual_if_short(&self) -> Option<Duration> {
        let usual = Duration::from_nanos(self.usual.load(Ordering::Relaxed));
        (usual < SHORT && has_processors()).then_some(usual)
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().expect("no panic while held")
    }
}

fn has_processors() -> bool {
    static COUNT: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get));
    *COUNT > 1
}

/// Tokens that are this fast are watched; those in software are, those in hardware are not.
const SHORT: Duration = Duration::from_micros(300);
/// How long a thread watches for the next job, about the time of a caller who asks again at once.
const NEXT: Duration = Duration::from_micros(80);
/// Jobs that may wait; with these threads a token works on them for some seconds at worst.
const MAX_WAITING: usize = 64;
/// While no call returns, how often one more is made.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Libraries of tokens bring stacks of other libraries with them.
const STACK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn threads_own_their_context() {
        let queue = Queue::<u32>::new("test".to_owned());
        for expected in 1..10 {
            let count = |context: &mut u32| {
                *context += 1;
                *context
            };
            assert_eq!(queue.submit(LONG, count).unwrap().wait(LONG).ok(), Some(expected));
        }
    }

    #[test]
    fn a_panic_costs_one_job() {
        let queue = Queue::<u32>::new("test".to_owned());
        let panics = queue.submit(LONG, |_| -> u32 { panic!("on purpose") }).unwrap();
        assert!(matches!(panics.wait(LONG), Err(Fault::Thread)));
        assert_eq!(queue.submit(LONG, |_| 7).unwrap().wait(LONG).ok(), Some(7));
    }

    #[test]
    fn a_call_that_does_not_return_is_not_waited_for_and_not_joined_by_others() {
        let queue = Queue::<u32>::new("test".to_owned());
        let (end, ending) = mpsc::channel::<()>();
        let stuck = queue.submit(LIMIT, move |_| ending.recv().is_ok()).unwrap();
        let behind = queue.submit(LIMIT, |_| 1).unwrap();
        assert!(matches!(stuck.wait(LIMIT), Err(Fault::TimedOut(_))));
        assert!(matches!(behind.wait(LIMIT), Err(Fault::TimedOut(_))));
        let begun = Instant::now();
        assert!(matches!(queue.submit(LIMIT, |_| 1).map(|_| ()), Err(Fault::Stalled(_))));
        assert!(begun.elapsed() < LIMIT);
        end.send(()).unwrap();
        let over = (0..).find_map(|_| queue.submit(LONG, |_| 0).ok());
        assert_eq!(over.unwrap().wait(LONG).ok(), Some(0));
        assert_eq!(queue.submit(LONG, |_| 2).unwrap().wait(LONG).ok(), Some(2));
    }

    #[test]
    fn what_nobody_waits_for_is_not_begun_and_the_queue_is_bounded() {
        let queue = Queue::<u32>::new("test".to_owned());
        let (end, ending) = mpsc::channel::<()>();
        let held = queue.submit(LONG, move |_| ending.recv().is_ok()).unwrap();
        thread::sleep(LIMIT);
        let given_up: Vec<_> =
            (0..MAX_WAITING).map(|_| queue.submit(LIMIT, |context| *context += 1).unwrap()).collect();
        assert!(matches!(queue.submit(LIMIT, |_| 1).map(|_| ()), Err(Fault::QueueFull(MAX_WAITING))));
        drop(given_up);
        end.send(()).unwrap();
        assert_eq!(held.wait(LONG).ok(), Some(true));
        let place = (0..).find_map(|_| queue.submit(LONG, |context| *context).ok());
        assert_eq!(place.unwrap().wait(LONG).ok(), Some(0));
    }
}
