//! What the threads of a queue are at: which of them are lost, and what may run beside the others. Starts none, and reads no
//! clock.

use std::time::{Duration, Instant};

/// The threads of a queue. The place of one that has ended is taken by the next one.
#[derive(Default)]
pub(super) struct Threads(Vec<Thread>);

/// What a thread is at.
#[derive(Clone, Copy)]
pub(super) enum Thread {
    /// It is no more.
    Ended,
    /// It has no job.
    Idle,
    /// It has one.
    Running(Running),
}

/// A job that has begun.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// When it began.
    pub(super) since: Instant,
    /// How long it may take.
    pub(super) limit: Duration,
    /// What may run at the same time.
    pub(super) company: Company,
}

/// What may run at the same time as a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// Any other job that does not mind.
    Any,
    /// No other job, but for those that do not come back.
    Nobody,
}

impl Threads {
    /// How many have not ended.
    pub(super) fn count(&self) -> usize {
        self.0.iter().filter(|thread| !matches!(thread, Thread::Ended)).count()
    }

    /// The jobs that should have been done.
    pub(super) fn overdue(&self, now: Instant) -> impl Iterator<Item = &Running> {
        self.running().filter(move |running| running.is_overdue(now))
    }

    /// Whether a job that wants this `company` may begin.
    pub(super) fn have_room_for(&self, company: Company, now: Instant) -> bool {
        let minds = |running: &Running| company == Company::Nobody || running.company == Company::Nobody;
        self.running().all(|running| !minds(running) || running.is_overdue(now))
    }

    /// The place of a new thread.
    pub(super) fn place(&mut self) -> usize {
        let free = self.0.iter().position(|thread| matches!(thread, Thread::Ended));
        let index = free.unwrap_or(self.0.len());
        match free {
            Some(index) => self.0[index] = Thread::Idle,
            None => self.0.push(Thread::Idle),
        }
        index
    }

    /// Notes what the thread at the place `index` is at.
    pub(super) fn set(&mut self, index: usize, thread: Thread) {
        self.0[index] = thread;
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.0.iter().filter_map(|thread| match thread {
            Thread::Running(running) => Some(running),
            Thread::Ended | Thread::Idle => None,
        })
    }
}

impl Running {
    fn is_overdue(&self, now: Instant) -> bool {
        now > self.since + self.limit
    }
}
