//! The one thread that talks to the TPM: opens it, does one job after another, opens it again when the connection broke.
//! Knows neither requests nor commands.
//!
//! That there is no TPM is a state like any other: jobs are refused with the reason, and the TPM is looked for with
//! growing pauses. A short outage is not even noticed by jobs that come meanwhile; they wait for its end.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use http_common::chain;
use http_common::daemon::notify_status;
use tokio::sync::oneshot;
use tpm_api::Config;
use tpm_device::{Connection, OpenError};

use crate::Error;
use crate::error::Unavailable;
use crate::tpm::{Tpm, TpmError};

/// Hands jobs to the thread. When dropped, it lets the thread finish what it is doing: who leaves the TPM in the middle of
/// something leaves things in the TPM.
pub(crate) struct Owner {
    /// Always there until it is dropped.
    jobs: Option<SyncSender<Job>>,
    thread: JoinHandle<()>,
    work: Arc<Work>,
}

/// Since when the thread is at what it does; `None` while it waits for jobs.
#[derive(Default)]
struct Work(Mutex<Option<Instant>>);

type Job = Box<dyn FnOnce(&mut Keeper) + Send>;

impl Owner {
    /// Starts the thread, which looks for the TPM at once.
    pub(crate) fn start(config: Config) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let (keeper, work) = (Keeper { config, tpm: None, outage: None }, Arc::<Work>::default());
        let seen = Arc::clone(&work);
        let thread =
            thread::Builder::new().name("tpm".to_owned()).spawn(move || keeper.work(&queue, &seen))?;
        Ok(Self { jobs: Some(jobs), thread, work })
    }

    /// Does `job` after those that came earlier. It may be done twice, if the connection breaks the first time. While the
    /// TPM has not answered for longer than anybody waits, nobody has to wait for that again.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        mut job: impl FnMut(&mut Tpm) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, Error> {
        if let Some(time) = self.work.time().filter(|time| *time > LONGEST_JOB) {
            return Err(Error::Stalled(time));
        }
        let (reply, result) = oneshot::channel();
        let job = Box::new(move |keeper: &mut Keeper| {
            // What nobody waits for any more is not begun: who asked has been told that it was not done.
            if !reply.is_closed() {
                let _ = reply.send(keeper.run(&mut job));
            }
        });
        let jobs = self.jobs.as_ref().ok_or(Error::Worker)?;
        jobs.try_send(job).map_err(|refused| match refused {
            TrySendError::Full(_) => Error::Busy,
            TrySendError::Disconnected(_) => Error::Worker,
        })?;
        match tokio::time::timeout(LONGEST_JOB, result).await {
            Ok(result) => result.map_err(|_| Error::Worker)?,
            Err(_) => Err(Error::TooSlow(LONGEST_JOB)),
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.jobs = None; // the thread ends when its queue does
        let start = Instant::now();
        while !self.thread.is_finished() && start.elapsed() < LONGEST_FAREWELL {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Work {
    /// How long it has been at what it does.
    fn time(&self) -> Option<Duration> {
        self.begun().map(|begun| begun.elapsed())
    }

    /// Does `something`, and lets others see how long that takes.
    fn at<T>(&self, something: impl FnOnce() -> T) -> T {
        *self.begun() = Some(Instant::now());
        let done = something();
        *self.begun() = None;
        done
    }

    fn begun(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().expect("no panic while held")
    }
}

/// The TPM, or why there is none.
struct Keeper {
    config: Config,
    tpm: Option<Tpm>,
    outage: Option<Outage>,
}

/// A time without TPM.
struct Outage {
    since: Instant,
    last_try: Instant,
    reason: Arc<Unavailable>,
}

impl Keeper {
    fn work(mut self, queue: &Receiver<Job>, work: &Work) {
        // Failures are logged where they are noted.
        let _ = work.at(|| self.look());
        loop {
            let job = match &self.outage {
                None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(outage) => queue.recv_timeout(outage.pause()),
            };
            match job {
                Ok(job) => work.at(|| job(&mut self)),
                Err(RecvTimeoutError::Timeout) => drop(work.at(|| self.look())),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does `job`, once more if the connection breaks: it may have been broken for long.
    fn run<T>(&mut self, job: &mut dyn FnMut(&mut Tpm) -> Result<T, TpmError>) -> Result<T, Error> {
        match job(self.patiently()?) {
            Err(error) if error.is_lost() => {
                self.lost(error);
                job(self.patiently()?).map_err(|error| self.judge(error))
            }
            Err(error) => Err(error.into()),
            Ok(result) => Ok(result),
        }
    }

    fn judge(&mut self, error: TpmError) -> Error {
        match error.is_lost() {
            true => Error::NoTpm(self.lost(error)),
            false => error.into(),
        }
    }

    /// The TPM; waited for if it has been there until a moment ago.
    fn patiently(&mut self) -> Result<&mut Tpm, Error> {
        while let Err(error) = self.look() {
            let Some(outage) = &self.outage else { return Err(error) };
            if outage.since.elapsed() >= PATIENCE || !outage.reason.is_transient() {
                return Err(error);
            }
            thread::sleep(SHORTEST_PAUSE);
        }
        self.tpm.as_mut().ok_or(Error::Worker)
    }

    /// Opens the TPM unless it is open. Does not try more often than is sensible.
    fn look(&mut self) -> Result<(), Error> {
        if self.tpm.is_some() {
            return Ok(());
        }
        if let Some(outage) = self.outage.as_ref().filter(|outage| outage.is_fresh()) {
            return Err(Error::NoTpm(Arc::clone(&outage.reason)));
        }
        match open(&self.config) {
            Ok(tpm) => {
                self.tpm = Some(tpm);
                self.outage = None;
                tracing::info!("the TPM is ready");
                notify_status("the TPM is ready");
                Ok(())
            }
            Err(reason) => Err(Error::NoTpm(self.begin_outage(reason))),
        }
    }

    fn lost(&mut self, error: TpmError) -> Arc<Unavailable> {
        self.tpm = None;
        self.begin_outage(Unavailable::Unusable(error))
    }

    /// Notes that there is no TPM, and logs it if that is news.
    fn begin_outage(&mut self, reason: Unavailable) -> Arc<Unavailable> {
        let text = chain(&reason);
        if self.outage.as_ref().is_none_or(|outage| chain(&*outage.reason) != text) {
            tracing::error!("{text}; requests are refused until that changes");
            notify_status(&text);
        }
        let now = Instant::now();
        let reason = Arc::new(reason);
        let since = self.outage.as_ref().map_or(now, |outage| outage.since);
        self.outage = Some(Outage { since, last_try: now, reason: Arc::clone(&reason) });
        reason
    }
}

impl Outage {
    /// Until the next look, when nobody asks for one: the longer it lasts, the rarer.
    fn pause(&self) -> Duration {
        (self.since.elapsed() / 4).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// Whether another look would see the same. A TPM that answers is left alone for longer: making keys is hard work.
    fn is_fresh(&self) -> bool {
        let pause = if self.reason.is_transient() { SHORTEST_PAUSE } else { self.pause() };
        self.last_try.elapsed() < pause
    }
}

/// Opens and prepares the TPM that `config` names.
pub(crate) fn open(config: &Config) -> Result<Tpm, Unavailable> {
    let name = config.tcti.as_bytes();
    let connection = Connection::open(name).map_err(|error| match error {
        OpenError::BadName => Unavailable::BadTcti,
        OpenError::NoLoader(_) => Unavailable::NoLoader(error),
        OpenError::Refused(code) => {
            Unavailable::Unreachable { tcti: String::from_utf8_lossy(name).into_owned(), code }
        }
    })?;
    Tpm::prepare(connection, config).map_err(Unavailable::Unusable)
}

/// Jobs that wait; more are refused.
const QUEUE: usize = 32;
/// Less than the 30 s after which clients give up.
const LONGEST_JOB: Duration = Duration::from_secs(25);
/// How long a TPM may keep the daemon from ending.
const LONGEST_FAREWELL: Duration = Duration::from_secs(10);
/// How long an outage is waited out by jobs.
const PATIENCE: Duration = Duration::from_secs(5);
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
