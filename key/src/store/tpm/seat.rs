//! The TPM, or how long it has been missing: opened when it is needed, again when the connection broke, and waited for if it was
//! there until a moment ago. Knows neither commands nor who asks.

use std::thread;
use std::time::{Duration, Instant};

use super::TpmFault;
use super::device::Tpm;

/// What the thread of the TPM owns.
pub(super) struct Seat {
    config: key_api::Tpm,
    tpm: Option<Tpm>,
    outage: Option<Outage>,
}

/// A time without TPM.
struct Outage {
    since: Instant,
    last_look: Option<Instant>,
}

impl Seat {
    /// Nothing is looked for yet.
    pub(super) fn new(config: key_api::Tpm) -> Self {
        Self { config, tpm: None, outage: None }
    }

    /// Does `job`, once more if the connection breaks: it may have been broken for long.
    pub(super) fn perform<T>(
        &mut self,
        job: &mut dyn FnMut(&mut Tpm) -> Result<T, TpmFault>,
    ) -> Result<T, TpmFault> {
        match job(self.patiently()?) {
            Err(fault) if fault.is_lost() => {
                tracing::warn!("the TPM is opened again: {}", http_common::chain(&fault));
                self.leave();
            }
            done => return done,
        }
        let done = job(self.patiently()?);
        if done.as_ref().is_err_and(TpmFault::is_lost) {
            self.leave();
        }
        done
    }

    /// Gives the connection up.
    pub(super) fn leave(&mut self) {
        self.tpm = None;
        self.begin_outage();
    }

    /// The TPM; waited for if it has been there until a moment ago.
    fn patiently(&mut self) -> Result<&mut Tpm, TpmFault> {
        let mut reason = TpmFault::BackingOff;
        while let Err(fault) = self.look() {
            if !matches!(fault, TpmFault::BackingOff) {
                reason = fault;
            }
            let is_young = self.begin_outage().since.elapsed() < PATIENCE;
            if !is_young || !reason.may_pass() {
                return Err(reason);
            }
            thread::sleep(SHORT_PAUSE);
        }
        self.tpm.as_mut().ok_or(TpmFault::BackingOff)
    }

    /// Opens the TPM unless it is open. Does not try more often than is sensible.
    fn look(&mut self) -> Result<(), TpmFault> {
        if self.tpm.is_some() {
            return Ok(());
        }
        if self.outage.as_ref().is_some_and(Outage::is_fresh) {
            return Err(TpmFault::BackingOff);
        }
        match Tpm::open(&self.config) {
            Ok(tpm) => {
                self.tpm = Some(tpm);
                self.outage = None;
                Ok(())
            }
            Err(fault) => {
                self.begin_outage().last_look = Some(Instant::now());
                Err(fault)
            }
        }
    }

    fn begin_outage(&mut self) -> &mut Outage {
        self.outage.get_or_insert_with(|| Outage { since: Instant::now(), last_look: None })
    }
}

impl Outage {
    /// Whether another look would see the same.
    fn is_fresh(&self) -> bool {
        let pause = if self.since.elapsed() < PATIENCE { SHORT_PAUSE } else { PAUSE };
        self.last_look.is_some_and(|look| look.elapsed() < pause)
    }
}

/// How long an outage is waited out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks meanwhile.
const SHORT_PAUSE: Duration = Duration::from_millis(200);
/// Between two looks afterwards.
const PAUSE: Duration = Duration::from_millis(500);
