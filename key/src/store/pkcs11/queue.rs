//! Some threads with a bounded queue and deadlines, for calls that may never return. Knows no tokens.
//!
//! A call that takes longer than it may keeps its thread, for there is no way to end it, but nobody waits for it any
//! more. While no call returns, new ones are refused at once, but for one now and then that finds out whether the
//! trouble is over. A thread that cannot work, because there is no place for one more, leaves its job to the others and ends.
//! A job that wants to be alone waits for those that run, and the ones behind it wait for it, as long as somebody wants it.

use std::collections::VecDeque;
use std::mem;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::reply::{Answer, Reply, pause, reply};
use super::threads::{Company, Running, Thread, Threads};

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
    threads: Threads,
    handles: Vec<JoinHandle<()>>,
    idle: usize,
    /// Threads that have done their job and watch for the next one.
    watching: usize,
    max_threads: usize,
    last_return: Instant,
    last_probe: Instant,
    is_closed: bool,
}

struct Job<W> {
    limit: Duration,
    company: Company,
    /// When a thread gave it up for the first time.
    given_up: Option<Instant>,
    work: Box<dyn Work<W>>,
}

/// Work that gives its own answer.
trait Work<W>: Send {
    /// Whether somebody waits for it still.
    fn is_awaited(&self) -> bool;

    /// Does it, if so.
    fn run(&mut self, context: &mut W, last: Last) -> Settled;
}

struct Answering<T, F> {
    answer: Option<Answer<T>>,
    work: F,
}

/// What becomes of a job.
pub(super) enum Outcome<T> {
    /// It is done, and this is the answer.
    Done(T),
    /// There is no place for this thread; this is the answer if there is none for others either.
    NoPlace(T),
}

/// Whether a job is to be answered, whatever its outcome is.
struct Last(bool);

/// Whether a job was answered.
struct Settled(bool);

impl<W: Default + Send + 'static> Queue<W> {
    /// A queue for one thread at first; `name` is that of the threads.
    pub(super) fn new(name: String) -> Self {
        let now = Instant::now();
        let state = State {
            waiting: VecDeque::new(),
            threads: Threads::default(),
            handles: Vec::new(),
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
        company: Company,
        work: impl FnMut(&mut W) -> Outcome<T> + Send + 'static,
    ) -> Result<Reply<T>, Fault> {
        let (answer, reply) = reply();
        let mut state = self.shared.state();
        state.admit(Instant::now())?;
        let work = Box::new(Answering { answer: Some(answer), work });
        state.waiting.push_back(Job { limit, company, given_up: None, work });
        self.shared.length.store(state.waiting.len(), Ordering::Release);
        if state.waiting.len() <= state.watching {
            // It is taken up within a microsecond or so.
        } else if state.idle > 0 {
            self.shared.more.notify_one();
        } else if state.threads.count() < state.most(Instant::now()) {
            let index = state.threads.place();
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(self.shared.name.clone()).stack_size(STACK);
            if let Ok(handle) = thread.spawn(move || shared.work(index)) {
                state.handles.retain(|handle| !handle.is_finished());
                state.handles.push(handle);
            } else {
                state.threads.set(index, Thread::Ended);
                if state.threads.count() == 0 {
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

impl<W> Queue<W> {
    /// Takes no more jobs, and blocks until its threads have ended, but for those whose jobs are overdue.
    pub(super) fn end(&self) {
        self.close();
        let handles = mem::take(&mut self.shared.state().handles);
        let lost = || self.shared.state().threads.overdue(Instant::now()).count();
        while handles.iter().filter(|handle| !handle.is_finished()).count() > lost() {
            thread::sleep(Duration::from_millis(2));
        }
        // A job that panics ends no thread.
        handles.into_iter().filter(JoinHandle::is_finished).for_each(|handle| drop(handle.join()));
    }

    /// Takes no jobs any more.
    pub(super) fn close(&self) {
        self.shared.state().is_closed = true;
        self.shared.more.notify_all();
    }
}

impl<W> Drop for Queue<W> {
    fn drop(&mut self) {
        self.close();
    }
}

impl<W> State<W> {
    /// Whether one more job may wait.
    fn admit(&mut self, now: Instant) -> Result<(), Fault> {
        if self.is_closed {
            return Err(Fault::Thread);
        }
        // Those before whom others have come back may just be slow.
        let stalled = self.threads.overdue(now).filter(|running| self.last_return < running.since);
        if let Some(Running { since, limit, company: _ }) =
            stalled.min_by_key(|running| running.since).copied()
        {
            // A new thread joins those that do not come back not at once, but when that has lasted.
            let is_lasting = now > since + limit + PROBE_EVERY;
            let has_thread = self.idle > 0 || (is_lasting && self.threads.count() < self.most(now));
            if !has_thread || now <= self.last_probe + PROBE_EVERY {
                return Err(Fault::Stalled(now - since));
            }
            self.last_probe = now;
        }
        match self.waiting.len() {
            length if length >= MAX_WAITING => Err(Fault::QueueFull(length)),
            _ => Ok(()),
        }
    }

    /// How many there may be: others take the place of some that do not come back.
    fn most(&self, now: Instant) -> usize {
        self.max_threads + self.threads.overdue(now).count().min(MAX_LOST)
    }

    /// The next job, if it may begin beside those that run, or if it is over because nobody waits for it.
    fn next(&mut self, now: Instant) -> Option<Job<W>> {
        let next = self.waiting.front()?;
        let may_begin = self.threads.have_room_for(next.company, now) || !next.work.is_awaited();
        if may_begin { self.waiting.pop_front() } else { None }
    }
}

impl<W, T, F> Work<W> for Answering<T, F>
where
    T: Send,
    F: FnMut(&mut W) -> Outcome<T> + Send,
{
    fn is_awaited(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::is_awaited)
    }

    fn run(&mut self, context: &mut W, Last(is_last): Last) -> Settled {
        // Dropped, also by a panic, it ends the wait.
        let Some(due) = self.answer.take().filter(Answer::is_awaited) else { return Settled(true) };
        match (self.work)(context) {
            Outcome::NoPlace(_) if !is_last => {
                self.answer = Some(due);
                Settled(false)
            }
            Outcome::Done(value) | Outcome::NoPlace(value) => {
                due.give(value);
                Settled(true)
            }
        }
    }
}

impl<W: Default> Shared<W> {
    fn work(&self, index: usize) {
        let mut context = W::default();
        let mut state = self.state();
        loop {
            if state.threads.count() > state.most(Instant::now()) {
                // It was taken for lost.
                state.threads.set(index, Thread::Ended);
                return;
            }
            let since = Instant::now();
            if let Some(mut job) = state.next(since) {
                let is_last = job.given_up.is_some_and(|given_up| since > given_up + PATIENCE);
                self.length.store(state.waiting.len(), Ordering::Release);
                state
                    .threads
                    .set(index, Thread::Running(Running { since, limit: job.limit, company: job.company }));
                drop(state);
                // The one who waits for it learns of a panic from the end of its reply.
                let done = catch_unwind(AssertUnwindSafe(|| job.work.run(&mut context, Last(is_last))));
                state = self.state();
                state.threads.set(index, Thread::Idle);
                state.last_return = Instant::now();
                if job.company == Company::Nobody {
                    self.more.notify_all();
                }
                if let Ok(Settled(false)) = done {
                    job.given_up.get_or_insert(since);
                    state = match self.give_up(state, index, job) {
                        Some(state) => state,
                        None => return,
                    };
                } else {
                    state = self.watch_for_more(state, since);
                }
            } else if state.is_closed && state.waiting.is_empty() {
                return;
            } else {
                state.idle += 1;
                state = match state.waiting.is_empty() {
                    true => self.more.wait(state).expect("no panic while held"),
                    // Nobody tells when a job that is in the way has taken too long.
                    false => self.more.wait_timeout(state, POLL).expect("no panic while held").0,
                };
                state.idle -= 1;
            }
        }
    }
}

impl<W> Shared<W> {
    /// Leaves `job` to the other threads, of which there will be no more than now, and ends this one; or, if it is the only
    /// one, keeps it for a while.
    fn give_up<'s>(
        &'s self,
        mut state: MutexGuard<'s, State<W>>,
        index: usize,
        job: Job<W>,
    ) -> Option<MutexGuard<'s, State<W>>> {
        state.waiting.push_front(job);
        self.length.store(state.waiting.len(), Ordering::Release);
        let others = state.threads.count() - 1 - state.threads.overdue(Instant::now()).count();
        if others == 0 {
            drop(state);
            thread::sleep(POLL);
            return Some(self.state());
        }
        state.threads.set(index, Thread::Ended);
        state.max_threads = others;
        drop(state);
        self.more.notify_one();
        None
    }

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
/// Threads that may be lost to calls that never return before no more take their place.
const MAX_LOST: usize = 32;
/// While no call returns, how often one more is made.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// How long a job waits for a place that others have, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
/// Libraries of tokens bring stacks of other libraries with them.
const STACK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);
    const LONG: Duration = Duration::from_secs(20);

    /// Whether jobs are refused at once, but for one now and then.
    fn refuses(queue: &Queue<u32>) -> bool {
        (0..8).any(|_| {
            let submitted = queue.submit(LIMIT, Company::Any, |_| Outcome::Done(1));
            matches!(submitted, Err(Fault::Stalled(_)))
        })
    }

    #[test]
    fn threads_own_their_context() {
        let queue = Queue::<u32>::new("test".to_owned());
        for expected in 1..10 {
            let count = |context: &mut u32| {
                *context += 1;
                Outcome::Done(*context)
            };
            assert_eq!(queue.submit(LONG, Company::Any, count).unwrap().wait(LONG).ok(), Some(expected));
        }
    }

    #[test]
    fn at_its_end_no_thread_is_left_and_none_is_started() {
        struct Slow(Arc<AtomicUsize>);
        impl Drop for Slow {
            fn drop(&mut self) {
                thread::sleep(LIMIT);
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let queue = Queue::<Option<Slow>>::new("test".to_owned());
        let ended = Arc::new(AtomicUsize::new(0));
        let mut slow = Some(Slow(Arc::clone(&ended)));
        let keep = move |context: &mut Option<Slow>| {
            *context = slow.take();
            Outcome::Done(())
        };
        assert!(queue.submit(LONG, Company::Any, keep).unwrap().wait(LONG).is_ok());
        queue.end();
        assert_eq!(ended.load(Ordering::SeqCst), 1);
        assert!(queue.submit(LONG, Company::Any, |_| Outcome::Done(1)).is_err());
    }

    #[test]
    fn the_end_waits_for_no_thread_that_is_lost() {
        let queue = Queue::<u32>::new("test".to_owned());
        let (end, ending) = mpsc::channel::<()>();
        let lost = queue.submit(LIMIT, Company::Any, move |_| Outcome::Done(ending.recv().is_ok())).unwrap();
        queue.end();
        assert!(lost.wait(Duration::ZERO).is_err(), "it goes on");
        end.send(()).unwrap();
    }

    #[test]
    fn a_panic_costs_one_job() {
        let queue = Queue::<u32>::new("test".to_owned());
        let panics = queue.submit(LONG, Company::Any, |_| -> Outcome<u32> { panic!("on purpose") }).unwrap();
        assert!(matches!(panics.wait(LONG), Err(Fault::Thread)));
        assert_eq!(queue.submit(LONG, Company::Any, |_| Outcome::Done(7)).unwrap().wait(LONG).ok(), Some(7));
    }

    #[test]
    fn a_call_that_does_not_return_is_not_waited_for_and_not_joined_by_others() {
        let queue = Queue::<u32>::new("test".to_owned());
        let (end, ending) = mpsc::channel::<()>();
        let stuck = queue.submit(LIMIT, Company::Any, move |_| Outcome::Done(ending.recv().is_ok())).unwrap();
        let behind = queue.submit(LIMIT, Company::Any, |_| Outcome::Done(1)).unwrap();
        assert!(matches!(stuck.wait(LIMIT), Err(Fault::TimedOut(_))));
        assert!(matches!(behind.wait(LIMIT), Err(Fault::TimedOut(_))));
        assert!(refuses(&queue));
        end.send(()).unwrap();
        let over = (0..).find_map(|_| queue.submit(LONG, Company::Any, |_| Outcome::Done(0)).ok());
        assert_eq!(over.unwrap().wait(LONG).ok(), Some(0));
        assert_eq!(queue.submit(LONG, Company::Any, |_| Outcome::Done(2)).unwrap().wait(LONG).ok(), Some(2));
    }

    #[test]
    fn calls_that_hang_behind_one_that_hung_before_others_returned_are_noticed() {
        let queue = Queue::<u32>::new("test".to_owned());
        queue.allow_threads(3);
        let (end, ending) = mpsc::channel::<()>();
        let ending = Arc::new(Mutex::new(ending));
        let hang = || {
            let ending = Arc::clone(&ending);
            queue
                .submit(LIMIT, Company::Any, move |_| Outcome::Done(ending.lock().unwrap().recv().is_ok()))
                .unwrap()
        };
        let first = hang();
        assert_eq!(queue.submit(LONG, Company::Any, |_| Outcome::Done(1)).unwrap().wait(LONG).ok(), Some(1));
        let second = hang();
        assert!(first.wait(LIMIT).is_err() && second.wait(LIMIT).is_err());
        let begun = Instant::now();
        while queue.shared.state().threads.overdue(Instant::now()).count() < 2 && begun.elapsed() < LONG {
            thread::sleep(POLL);
        }
        assert!(refuses(&queue));
        drop(end);
    }

    #[test]
    fn others_take_the_place_of_threads_that_are_lost_and_give_it_back() {
        let queue = Queue::<u32>::new("test".to_owned());
        let (end, ending) = mpsc::channel::<()>();
        let lost = queue.submit(LIMIT, Company::Any, move |_| Outcome::Done(ending.recv().is_ok())).unwrap();
        let holds = |what: &dyn Fn(&State<u32>) -> bool| {
            let begun = Instant::now();
            while !what(&queue.shared.state()) && begun.elapsed() < LONG {
                thread::sleep(POLL);
            }
            what(&queue.shared.state())
        };
        assert!(holds(&|state| state.threads.overdue(Instant::now()).count() == 1));
        assert!(lost.wait(LIMIT).is_err());
        // Somebody asks now and then, and then all may ask.
        for _ in 0..4 {
            let admitted = (0..).find_map(|_| queue.submit(LONG, Company::Any, |_| Outcome::Done(1)).ok());
            assert_eq!(admitted.unwrap().wait(LONG).ok(), Some(1));
        }
        assert_eq!(queue.shared.state().threads.count(), 2);
        end.send(()).unwrap();
        assert!(holds(&|state| state.threads.count() == 1));
        assert_eq!(queue.submit(LONG, Company::Any, |_| Outcome::Done(3)).unwrap().wait(LONG).ok(), Some(3));
    }

    #[test]
    fn what_nobody_waits_for_is_not_begun_and_the_queue_is_bounded() {
        let queue = Queue::<u32>::new("test".to_owned());
        let (end, ending) = mpsc::channel::<()>();
        let held = queue.submit(LONG, Company::Any, move |_| Outcome::Done(ending.recv().is_ok())).unwrap();
        thread::sleep(LIMIT);
        let given_up: Vec<_> = (0..MAX_WAITING)
            .map(|_| {
                let count = |context: &mut u32| {
                    *context += 1;
                    Outcome::Done(())
                };
                queue.submit(LIMIT, Company::Any, count).unwrap()
            })
            .collect();
        assert!(matches!(
            queue.submit(LIMIT, Company::Any, |_| Outcome::Done(1)).map(|_| ()),
            Err(Fault::QueueFull(MAX_WAITING))
        ));
        drop(given_up);
        end.send(()).unwrap();
        assert_eq!(held.wait(LONG).ok(), Some(true));
        let place =
            (0..).find_map(|_| queue.submit(LONG, Company::Any, |context| Outcome::Done(*context)).ok());
        assert_eq!(place.unwrap().wait(LONG).ok(), Some(0));
    }

    /// Places for so many threads, as sessions of a token are.
    #[derive(Default)]
    struct Placed(bool);

    #[test]
    fn a_thread_without_a_place_leaves_its_job_to_others() {
        let queue = Queue::<Placed>::new("test".to_owned());
        queue.allow_threads(4);
        let taken = Arc::new(AtomicUsize::new(0));
        let round = || {
            let jobs: Vec<_> = (0..40)
                .map(|number| {
                    let taken = Arc::clone(&taken);
                    let job = move |Placed(has_place): &mut Placed| {
                        *has_place = *has_place || taken.fetch_add(1, Ordering::SeqCst) < 2;
                        thread::sleep(Duration::from_millis(2));
                        if *has_place { Outcome::Done(Some(number)) } else { Outcome::NoPlace(None) }
                    };
                    queue.submit(LONG, Company::Any, job).unwrap()
                })
                .collect();
            for (number, job) in jobs.into_iter().enumerate() {
                assert_eq!(job.wait(LONG).ok().flatten(), Some(number));
            }
        };
        let begun = Instant::now();
        let threads = || {
            let state = queue.shared.state();
            (state.threads.count(), state.max_threads)
        };
        round();
        // A busy machine may not have let each thread have a job.
        while threads() != (2, 2) && begun.elapsed() < LONG {
            round();
        }
        assert_eq!(threads(), (2, 2));
        assert!(taken.load(Ordering::SeqCst) <= 4, "a thread that ended is not started again");
    }

    #[test]
    fn the_only_thread_waits_for_a_place() {
        let queue = Queue::<u32>::new("test".to_owned());
        let job = |context: &mut u32| {
            *context += 1;
            if *context == 4 { Outcome::Done(*context) } else { Outcome::NoPlace(0) }
        };
        assert_eq!(queue.submit(LONG, Company::Any, job).unwrap().wait(LONG).ok(), Some(4));
        let in_vain = queue.submit(LONG, Company::Any, |_| Outcome::NoPlace(0)).unwrap();
        assert_eq!(in_vain.wait(LONG).ok(), Some(0), "in the end it is told why not");
    }

    #[test]
    fn a_job_that_wants_to_be_alone_is() {
        let queue = Queue::<u32>::new("test".to_owned());
        queue.allow_threads(4);
        let running = Arc::new(AtomicUsize::new(0));
        let jobs: Vec<_> = (0..60)
            .map(|number| {
                let running = Arc::clone(&running);
                let company = if number % 5 == 4 { Company::Nobody } else { Company::Any };
                let job = move |_: &mut u32| {
                    let before = running.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(2));
                    let after = running.fetch_sub(1, Ordering::SeqCst) - 1;
                    Outcome::Done(company == Company::Any || (before, after) == (0, 0))
                };
                queue.submit(LONG, company, job).unwrap()
            })
            .collect();
        for job in jobs {
            assert_eq!(job.wait(LONG).ok(), Some(true));
        }
    }

    #[test]
    fn a_job_that_wants_to_be_alone_and_that_nobody_waits_for_is_in_nobodys_way() {
        let queue = Queue::<u32>::new("test".to_owned());
        queue.allow_threads(2);
        let (end, ending) = mpsc::channel::<()>();
        let long = queue.submit(LONG, Company::Any, move |_| Outcome::Done(ending.recv().is_ok())).unwrap();
        let alone = queue.submit(LONG, Company::Nobody, |_| Outcome::Done(1)).unwrap();
        let behind = queue.submit(LONG, Company::Any, |_| Outcome::Done(2)).unwrap();
        drop(alone);
        assert_eq!(behind.wait(LONG / 2).ok(), Some(2));
        end.send(()).unwrap();
        assert_eq!(long.wait(LONG).ok(), Some(true));
    }

    #[test]
    fn a_job_that_wants_to_be_alone_does_not_wait_for_one_that_is_lost() {
        for company in [Company::Any, Company::Nobody] {
            let queue = Queue::<u32>::new("test".to_owned());
            queue.allow_threads(2);
            let (end, ending) = mpsc::channel::<()>();
            let lost = queue.submit(LIMIT, company, move |_| Outcome::Done(ending.recv().is_ok())).unwrap();
            // On a busy machine the first may be overdue by now.
            let submit = |company, number| {
                let job = move |_: &mut u32| Outcome::Done(number);
                (0..).find_map(|_| queue.submit(LONG, company, job).ok()).unwrap()
            };
            let (alone, behind) = (submit(Company::Nobody, 1), submit(Company::Any, 2));
            assert!(lost.wait(LIMIT).is_err());
            assert_eq!((alone.wait(LONG).ok(), behind.wait(LONG).ok()), (Some(1), Some(2)));
            drop(end);
        }
    }
}
