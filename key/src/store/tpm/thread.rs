//! The one thread that talks to the TPM, with a bounded queue and deadlines. Knows no commands.
//!
//! A TPM does one thing at a time. While one does not answer, whoever waits is told so after a while, and nobody else has
//! to wait at all.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use http_common::wait_apart;
use tokio::sync::oneshot;

use super::TpmFault;
use super::device::Tpm;
use super::seat::Seat;

/// Hands jobs to the thread.
pub(super) struct TpmThread {
    jobs: SyncSender<Job>,
    running: Arc<Mutex<Option<Running>>>,
}

struct Job {
    limit: Duration,
    work: Box<dyn FnOnce(&mut Seat) + Send>,
}

/// What the thread is at.
struct Running {
    since: Instant,
    limit: Duration,
}

impl TpmThread {
    /// Starts the thread for the TPM that `config` names. It is not looked for before the first job.
    pub(super) fn start(config: key_api::Tpm) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let running = Arc::<Mutex<Option<Running>>>::default();
        let (seat, seen) = (Seat::new(config), Arc::clone(&running));
        thread::Builder::new().name("tpm".to_owned()).spawn(move || work(seat, &queue, &seen))?;
        Ok(Self { jobs, running })
    }

    /// Does `job`, which may take as long as `limit`, after those that came earlier. It may be done twice, if the
    /// connection breaks the first time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        mut job: impl FnMut(&mut Tpm) -> Result<T, TpmFault> + Send + 'static,
    ) -> Result<T, TpmFault> {
        let reply = self.submit(limit, move |seat| seat.perform(&mut job))?;
        match wait_apart(tokio::time::timeout(limit, reply)).await {
            Ok(result) => result.map_err(|_| TpmFault::Thread)?,
            Err(_) => Err(TpmFault::TimedOut(limit)),
        }
    }

    /// The same for a thread of tokio's that may block.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnMut(&mut Tpm) -> Result<T, TpmFault> + Send + 'static,
    ) -> Result<T, TpmFault> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| TpmFault::Thread)?;
        runtime.block_on(self.run(limit, job))
    }

    fn submit<T: Send + 'static>(
        &self,
        limit: Duration,
        job: impl FnOnce(&mut Seat) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<T>, TpmFault> {
        if let Some(Running { since, limit }) = &*state(&self.running)
            && since.elapsed() > *limit
        {
            return Err(TpmFault::Stalled(since.elapsed()));
        }
        let (reply, result) = oneshot::channel();
        let work = Box::new(move |seat: &mut Seat| {
            // What nobody waits for any more is not begun.
            if !reply.is_closed() {
                let _ = reply.send(job(seat));
            }
        });
        match self.jobs.try_send(Job { limit, work }) {
            Ok(()) => Ok(result),
            Err(TrySendError::Full(_)) => Err(TpmFault::QueueFull),
            Err(TrySendError::Disconnected(_)) => Err(TpmFault::Thread),
        }
    }
}

fn work(mut seat: Seat, queue: &Receiver<Job>, running: &Mutex<Option<Running>>) {
    while let Ok(Job { limit, work }) = queue.recv() {
        *state(running) = Some(Running { since: Instant::now(), limit });
        // The one who waits for it learns of a panic from the end of its channel. Nobody knows what it left in the TPM.
        if catch_unwind(AssertUnwindSafe(|| work(&mut seat))).is_err() {
            seat.leave();
        }
        *state(running) = None;
    }
}

fn state(running: &Mutex<Option<Running>>) -> MutexGuard<'_, Option<Running>> {
    running.lock().expect("no panic while held")
}

/// Jobs that wait; more are refused.
const QUEUE: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_costs_one_job() {
        let thread = TpmThread::start(key_api::Tpm::default()).unwrap();
        let long = Duration::from_secs(20);
        let panics = thread.submit(long, |_| -> u32 { panic!("on purpose") }).unwrap();
        assert!(panics.await.is_err());
        assert_eq!(thread.submit(long, |_| 7).unwrap().await, Ok(7));
    }
}
