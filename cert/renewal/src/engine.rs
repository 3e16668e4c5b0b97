//! Renewal as it happens: looks, decides, does one step, looks again; then waits. Does not know what the steps are made of,
//! see [`Actor`].

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_common::chain;
use tokio::sync::{Mutex as Turn, Notify, OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

use crate::certificate::{BadCertificate, Certificate, Digest, KeyKind, KeyPrint};
use crate::clock::{Clock, WallClock};
use crate::journal::{Journal, JournalError, Memory};
use crate::policy::{Policy, Validity, chance};
use crate::status::Status;
use crate::step::{Facts, Order, Pending, Slot, Stage, Step, Stuck, good_pair, next};

/// What is done to one certificate and its key. Each may fail and be asked again, also after it was done.
pub trait Actor: Send + Sync + 'static {
    /// Why something was not done.
    type Error: std::error::Error + Send + Sync + 'static;

    /// The certificate in place, in PEM; none if there is none.
    fn certificate(&self) -> impl Future<Output = Result<Option<String>, Self::Error>> + Send;

    /// The public key of the pair in `slot`; none if there is no such pair.
    fn key(&self, slot: Slot) -> impl Future<Output = Result<Option<KeyPrint>, Self::Error>> + Send;

    /// Makes the temporary key pair, unless there is one; of the kind `like`, unless something else is configured.
    fn make_key(&self, like: Option<KeyKind>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Has a certificate issued for the key in `slot`, in place of `old`: a chain in PEM. Keeps it nowhere. If `old` has
    /// expired, by means of what the first one was got with.
    fn request(
        &self,
        slot: Slot,
        old: &Certificate,
    ) -> impl Future<Output = Result<String, Self::Error>> + Send;

    /// Whether `new`, with its key in `slot`, is accepted by all who must accept it. An error is no answer: they will be
    /// asked again.
    fn accept(
        &self,
        new: &Certificate,
        slot: Slot,
    ) -> impl Future<Output = Result<Verdict, Self::Error>> + Send;

    /// Gives the temporary key pair the place of the current one.
    fn move_key(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Gives `new` the place of the old certificate.
    fn import(&self, new: &Certificate) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Deletes the temporary key pair. That there is none is success.
    fn delete_key(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What who must accept a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is good.
    Accepted,
    /// It is not, and will not become so: why.
    Refused(String),
}

/// Why a renewal does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error<E: std::error::Error + 'static> {
    /// A step failed.
    #[error("cannot {doing}")]
    Failed {
        /// Which one.
        doing: &'static str,
        /// Why.
        source: E,
    },
    /// What was issued or is in place is no certificate.
    #[error("the certificate cannot be used")]
    BadCertificate(#[from] BadCertificate),
    /// What was issued has another key.
    #[error("the certificate that was issued is for another key")]
    OtherKey,
    /// What was issued has expired; perhaps the clock is wrong.
    #[error("the certificate that was issued has expired already; is the clock right?")]
    Expired,
    /// Who must accept it does not.
    #[error("the new certificate is refused, the old one stays: {0}")]
    Refused(String),
    /// There is nothing to renew.
    #[error(transparent)]
    Stuck(Stuck),
    /// The journal fails.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// No end in sight.
    #[error("the renewal goes round in circles")]
    Endless,
    /// A thread did not do its job.
    #[error("a worker thread failed")]
    Worker,
}

/// Keeps one certificate valid, and its key with it.
pub struct Renewal<A, M = Journal, C = WallClock> {
    name: String,
    policy: Policy,
    actor: A,
    memory: Arc<M>,
    clock: C,
    state: Mutex<State>,
    /// One renewal at a time.
    turn: Turn<()>,
    /// Nobody uses a pair while it is exchanged.
    exchange: Arc<RwLock<()>>,
    changed: Notify,
}

/// The good certificate, and where its key is. The key stays there until this is dropped, so do not keep it.
#[derive(Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: Certificate,
    /// Where its key is.
    pub slot: Slot,
    _exchange: OwnedRwLockReadGuard<()>,
}

#[derive(Debug, Default)]
struct State {
    status: Status,
    /// The certificate that was in place at the last look.
    seen: Option<(Digest, Validity)>,
    /// Nothing is tried before.
    not_before: Option<Instant>,
}

/// When to look again.
#[derive(Debug, Clone, Copy)]
struct Plan {
    wall: Option<i64>,
    pause: Option<Instant>,
}

impl<A: Actor> Renewal<A> {
    /// Of the certificate that the log calls `name`. Does nothing until it [`run`](Self::run)s.
    pub fn new(name: &str, policy: Policy, actor: A, journal: Journal) -> Self {
        Self::with_clock(name, policy, actor, journal, WallClock)
    }
}

impl<A: Actor, M: Memory, C: Clock> Renewal<A, M, C> {
    /// The same with another memory and clock.
    pub fn with_clock(name: &str, policy: Policy, actor: A, memory: M, clock: C) -> Self {
        Self {
            name: name.to_owned(),
            policy,
            actor,
            memory: Arc::new(memory),
            clock,
            state: Mutex::default(),
            turn: Turn::default(),
            exchange: Arc::default(),
            changed: Notify::new(),
        }
    }

    /// Finishes what was begun before, and then renews whenever it is time; for ever. May be dropped at any moment, which
    /// is no more than a crash.
    pub async fn run(&self) {
        loop {
            let plan = self.go_on().await;
            self.wait(plan).await;
        }
    }

    /// Look again now: the certificate or its key may have been changed by somebody else.
    pub fn look_again(&self) {
        self.changed.notify_one();
    }

    /// The pair to use now. In the middle of an exchange, it is not what certd and keyd have under the ids.
    ///
    /// # Errors
    ///
    /// There is no certificate with its key, or certd or keyd cannot be asked.
    pub async fn pair(&self) -> Result<Pair, Error<A::Error>> {
        let _exchange = Arc::clone(&self.exchange).read_owned().await;
        let facts = self.look(false).await?;
        match good_pair(&facts) {
            Some((certificate, slot)) => Ok(Pair { certificate: certificate.clone(), slot, _exchange }),
            None => Err(Error::Stuck(match (&facts.certificate, facts.current) {
                (None, _) => Stuck::NoCertificate,
                (_, None) => Stuck::NoKey,
                _ => Stuck::OtherKey,
            })),
        }
    }

    /// How it goes.
    pub fn status(&self) -> Status {
        self.state().status.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    async fn wait(&self, plan: Plan) {
        let wall = async {
            match plan.wall {
                Some(at) => self.clock.until(at.min(self.clock.now().saturating_add(HOUR))).await,
                None => std::future::pending().await,
            }
        };
        let pause = async {
            match plan.pause {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.changed.notified() => {}
            () = wall => {}
            () = pause => {}
        }
    }

    /// Does all that can be done now.
    async fn go_on(&self) -> Plan {
        let _turn = self.turn.lock().await;
        match self.work().await {
            Ok(()) => self.rest(),
            Err(error) => self.failed(&error),
        }
    }

    async fn work(&self) -> Result<(), Error<A::Error>> {
        for _ in 0..MOST_STEPS {
            let facts = self.look(true).await?;
            if self.must_wait(&facts) {
                return Ok(());
            }
            let now = self.clock.now();
            let is_due = facts.certificate.as_ref().is_some_and(|it| self.is_due(it, now));
            let order = Order { is_due, rotate_key: self.policy.rotate_key, now };
            match next(&facts, &order) {
                Step::Rest => {
                    let mut state = self.state();
                    (state.status.failures, state.status.last_error) = (0, None);
                    return Ok(());
                }
                Step::Stuck(why) => return Err(Error::Stuck(why)),
                step => self.perform(step, &facts).await?,
            }
        }
        Err(Error::Endless)
    }

    fn is_due(&self, certificate: &Certificate, now: i64) -> bool {
        let of = certificate.validity();
        now >= self.policy.begin_at(of, chance(certificate.digest().seed(), 0)) || of.is_over(now)
    }

    /// Whether it is too early for another attempt, for the certificate that the last one was about.
    fn must_wait(&self, facts: &Facts) -> bool {
        let seen = facts.certificate.as_ref().map(|it| (it.digest(), it.validity()));
        let mut state = self.state();
        if seen != state.seen {
            state.not_before = None;
            state.status.failures = 0;
            state.seen = seen;
        }
        state.status.not_after = seen.map(|(_, validity)| validity.not_after);
        state.status.stage = facts.pending.as_ref().map(|pending| pending.stage.name());
        state.not_before = state.not_before.filter(|at| *at > Instant::now());
        state.not_before.is_some()
    }

    /// What is there. The temporary key is looked for if it may matter.
    async fn look(&self, is_to_renew: bool) -> Result<Facts, Error<A::Error>> {
        let text = self.actor.certificate().await.map_err(failed("read the certificate"))?;
        let certificate = text.map(Certificate::parse).transpose()?;
        let pending = self.remembered(|memory| memory.read()).await?;
        let current = self.actor.key(Slot::Current).await.map_err(failed("look at the key"))?;
        let mut facts = Facts { pending, certificate, current, temporary: None };
        let is_due = |it: &Certificate| is_to_renew && self.is_due(it, self.clock.now());
        let matters = facts.pending.is_some()
            || good_pair(&facts).is_none()
            || facts.certificate.as_ref().is_some_and(is_due);
        if matters {
            facts.temporary = match self.actor.key(Slot::Temporary).await {
                // Without a journal, it is not ours; nor may we be allowed to use it.
                Err(error) if facts.pending.is_none() => {
                    tracing::debug!("no look at the temporary key of {:?}: {}", self.name, chain(&error));
                    None
                }
                key => key.map_err(failed("look at the temporary key"))?,
            };
        }
        Ok(facts)
    }

    async fn perform(&self, step: Step, facts: &Facts) -> Result<(), Error<A::Error>> {
        let old = facts.certificate.as_ref();
        match step {
            Step::Rest | Step::Stuck(_) => Ok(()),
            Step::Begin => {
                let Some(old) = old else { return Ok(()) };
                tracing::info!("the certificate {:?} is renewed", self.name);
                let rotate_key = self.policy.rotate_key;
                self.note(Pending { rotate_key, replaces: old.digest(), stage: Stage::Preparing }).await
            }
            Step::MakeKey => {
                let like = old.and_then(Certificate::key_kind);
                self.actor.make_key(like).await.map_err(failed("make a new key"))
            }
            Step::Request(slot) => match old {
                Some(old) => self.request(slot, old, facts).await,
                None => Ok(()),
            },
            Step::Ask(slot) => self.ask(slot, facts).await,
            Step::MoveKey => {
                let _exchange = self.exchange.write().await;
                self.actor.move_key().await.map_err(failed("put the new key in place"))
            }
            Step::Import => {
                let Some(Pending { stage: Stage::Accepted(new), .. }) = &facts.pending else { return Ok(()) };
                let _exchange = self.exchange.write().await;
                self.actor.import(new).await.map_err(failed("put the new certificate in place"))
            }
            Step::Finish => {
                self.remembered(|memory| memory.clear()).await?;
                self.finished(facts);
                Ok(())
            }
            Step::DeleteKey => self.actor.delete_key().await.map_err(failed("delete the temporary key")),
            Step::GiveUp(why) => {
                tracing::warn!("the renewal of {:?} is given up: {why}", self.name);
                self.remembered(|memory| memory.clear()).await
            }
        }
    }

    async fn request(&self, slot: Slot, old: &Certificate, facts: &Facts) -> Result<(), Error<A::Error>> {
        let Some(pending) = &facts.pending else { return Ok(()) };
        self.state().status.attempts += 1;
        let pem = self.actor.request(slot, old).await.map_err(failed("get a new certificate"))?;
        let new = Certificate::parse(pem)?;
        let key = match slot {
            Slot::Current => facts.current,
            Slot::Temporary => facts.temporary,
        };
        if key != Some(new.key()) {
            return Err(Error::OtherKey);
        }
        if new.validity().is_over(self.clock.now()) {
            return Err(Error::Expired);
        }
        self.note(Pending { stage: Stage::Issued(new), ..pending.clone() }).await
    }

    async fn ask(&self, slot: Slot, facts: &Facts) -> Result<(), Error<A::Error>> {
        let Some(pending @ Pending { stage: Stage::Issued(new), .. }) = &facts.pending else { return Ok(()) };
        let verdict = self.actor.accept(new, slot).await;
        match verdict.map_err(failed("learn whether the new certificate is accepted"))? {
            Verdict::Accepted => {
                self.note(Pending { stage: Stage::Accepted(new.clone()), ..pending.clone() }).await
            }
            Verdict::Refused(why) => {
                if slot == Slot::Temporary {
                    self.actor.delete_key().await.map_err(failed("delete the temporary key"))?;
                }
                self.remembered(|memory| memory.clear()).await?;
                Err(Error::Refused(why))
            }
        }
    }

    async fn note(&self, pending: Pending) -> Result<(), Error<A::Error>> {
        self.remembered(move |memory| memory.write(&pending)).await
    }

    async fn remembered<T: Send + 'static>(
        &self,
        work: impl FnOnce(&M) -> Result<T, JournalError> + Send + 'static,
    ) -> Result<T, Error<A::Error>> {
        let memory = Arc::clone(&self.memory);
        let worked = tokio::task::spawn_blocking(move || work(&memory)).await;
        Ok(worked.map_err(|_| Error::Worker)??)
    }

    fn finished(&self, facts: &Facts) {
        let Some(new) = &facts.certificate else { return };
        tracing::info!("the certificate {:?} was renewed: {}", self.name, new.describe());
        // One that is due as soon as it is made must not be renewed without end.
        let pause = self.pause_after(1, Some((new.digest(), new.validity())));
        let mut state = self.state();
        state.seen = Some((new.digest(), new.validity()));
        state.not_before = Instant::now().checked_add(pause);
        state.status.renewals += 1;
        (state.status.failures, state.status.last_error) = (0, None);
    }

    fn pause_after(&self, failures: u32, seen: Option<(Digest, Validity)>) -> Duration {
        match seen {
            Some((digest, validity)) => {
                let chance = chance(digest.seed(), failures);
                self.policy.pause(validity, failures, self.clock.now(), chance)
            }
            None => (FIRST_PAUSE * (1 << failures.min(8))).min(Duration::from_secs(HOUR.unsigned_abs())),
        }
    }

    /// Nothing more to do now.
    fn rest(&self) -> Plan {
        let now = self.clock.now();
        let mut state = self.state();
        let begin = state.seen.map(|(digest, of)| self.policy.begin_at(of, chance(digest.seed(), 0)));
        let wait = state.not_before.map(|at| seconds_until(at).saturating_add(now));
        state.status.next = begin.max(wait);
        // If it has begun already, only the pause is waited for.
        let wall = begin.filter(|at| *at > now).unwrap_or(now.saturating_add(HOUR));
        Plan { wall: Some(wall), pause: state.not_before }
    }

    fn failed(&self, error: &Error<A::Error>) -> Plan {
        let now = self.clock.now();
        let seen = self.state().seen;
        let failures = self.state().status.failures.saturating_add(1);
        let pause = self.pause_after(failures, seen);
        let text = chain(error);
        let mut state = self.state();
        if let Error::Stuck(_) | Error::BadCertificate(_) = error
            && state.status.stage.is_none()
        {
            if state.status.last_error.as_ref() != Some(&text) {
                tracing::warn!("the certificate {:?} cannot be renewed: {text}", self.name);
            }
            state.status.next = None;
            state.status.last_error = Some(text);
            let is_absent = matches!(error, Error::Stuck(Stuck::NoCertificate));
            return Plan { wall: (!is_absent).then_some(now.saturating_add(HOUR)), pause: None };
        }
        tracing::warn!(
            "the certificate {:?} was not renewed, the next attempt is in {} s: {text}",
            self.name,
            pause.as_secs()
        );
        state.not_before = Instant::now().checked_add(pause);
        state.status.failures = failures;
        state.status.last_error = Some(text);
        state.status.next = state.not_before.map(|at| seconds_until(at).saturating_add(now));
        Plan { wall: Some(now.saturating_add(HOUR)), pause: state.not_before }
    }
}

impl<A, M, C> fmt::Debug for Renewal<A, M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Renewal({})", self.name)
    }
}

fn failed<E: std::error::Error + 'static>(doing: &'static str) -> impl FnOnce(E) -> Error<E> {
    move |source| Error::Failed { doing, source }
}

fn seconds_until(at: Instant) -> i64 {
    let left = at.saturating_duration_since(Instant::now());
    i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

/// The longest time in seconds until the clock and the certificate are looked at again, when something is planned.
const HOUR: i64 = 3600;
/// The pause after a failure when not even the certificate is known; doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(15);
/// More steps than any renewal takes with one that is given up before.
const MOST_STEPS: usize = 30;

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
