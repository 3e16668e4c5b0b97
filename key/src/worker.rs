//! One thread of low priority with a bounded queue, for jobs that take seconds of computing. Knows no keys.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::error::Internal;

/// The thread's owner; the thread is started by the first job and ends with this.
pub(crate) struct Worker {
    name: &'static str,
    niceness: i32,
    queue: usize,
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

type Job = Box<dyn FnOnce() + Send>;

impl Worker {
    /// A thread that runs at `niceness` (0 normal, 19 last of all), before which `queue` jobs may wait.
    pub(crate) fn new(name: &'static str, niceness: i32, queue: usize) -> Self {
        Self { name, niceness, queue, jobs: Mutex::new(None) }
    }

    /// Runs `job` after those that came earlier. With a full queue this waits for a place.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, result) = oneshot::channel();
        let job = Box::new(move || {
            // Whoever asked may have gone; the job is done all the same.
            let _ = reply.send(job());
        });
        self.jobs()?.send(job).await.map_err(|_| Internal::Worker)?;
        result.await.map_err(|_| Internal::Worker)?
    }

    fn jobs(&self) -> Result<mpsc::Sender<Job>, Error> {
        let mut jobs = self.jobs.lock().expect("no panic while held");
        if let Some(jobs) = &*jobs {
            return Ok(jobs.clone());
        }
        let (sender, receiver) = mpsc::channel(self.queue);
        let niceness = self.niceness;
        let work = move || work(receiver, niceness);
        thread::Builder::new().name(self.name.to_owned()).spawn(work).map_err(|_| Internal::Worker)?;
        Ok(jobs.insert(sender).clone())
    }
}

fn work(mut jobs: mpsc::Receiver<Job>, niceness: i32) {
    // On Linux the priority is the thread's own (setpriority(2), NOTES).
    if let Err(error) = rustix::process::setpriority_process(None, niceness) {
        tracing::debug!("a worker keeps its priority: {error}");
    }
    while let Some(job) = jobs.blocking_recv() {
        // The one who waits for it learns of a panic from the end of its channel.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn jobs_run_one_at_a_time_and_at_low_priority() {
        let worker = Arc::new(Worker::new("test", 10, 2));
        let at_once = Arc::new(AtomicUsize::new(0));
        let jobs = (0..20).map(|number| {
            let (worker, at_once) = (Arc::clone(&worker), Arc::clone(&at_once));
            tokio::spawn(async move {
                let job = move || {
                    assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0);
                    thread::yield_now();
                    at_once.fetch_sub(1, Ordering::SeqCst);
                    let niceness = rustix::process::getpriority_process(None);
                    assert_eq!(niceness.ok(), Some(10));
                    Ok(number)
                };
                assert_eq!(worker.run(job).await.unwrap(), number);
            })
        });
        for job in jobs.collect::<Vec<_>>() {
            job.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_panic_costs_one_job() {
        let worker = Worker::new("test", 10, 2);
        assert!(worker.run(|| -> Result<(), Error> { panic!("on purpose") }).await.is_err());
        assert_eq!(worker.run(|| Ok(7)).await.unwrap(), 7);
    }
}
