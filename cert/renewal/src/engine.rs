//! Renewal as it happens: looks, decides, does one step, looks again; then waits. Does not know what the steps are made of,
//! see [`Actor`].

mod look;
mod wish;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use http_common::chain;
use tokio::sync::{Mutex as Turn, Notify, OwnedMutexGuard, OwnedRwLockReadGuard, RwLock};
use tokio::time::Instant;

use crate::actor::{Actor, Verdict};
use crate::certificate::{Certificate, Digest};
use crate::clock::{Clock, WallClock};
use crate::error::Error;
use crate::journal::{Journal, JournalError, Memory};
use crate::pace::{Now, Pace, Plan};
use crate::policy::{Trouble, chance};
use crate::status::Status;
use crate::step::{Facts, Order, Pending, Slot, Stage, Step, Stuck, good_pair, next};

use look::{Purpose, Rotation};

/// Keeps one certificate valid, and its key with it.
pub struct Renewal<A, M = Journal, C = WallClock> {
    name: String,
    actor: A,
    memory: Arc<M>,
    clock: C,
    pace: Mutex<Pace>,
    /// One renewal at a time.
    one_at_a_time: Turn<()>,
    /// One at a time has a certificate accepted, and puts it in place.
    settling: Arc<Turn<()>>,
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
    /// What keeps them so.
    pub hold: Hold,
}

/// While it lives, renewal exchanges no certificate and no key, and deletes none.
#[derive(Debug)]
pub struct Hold {
    _exchange: OwnedRwLockReadGuard<()>,
}

/// Why an attempt came to no good end.
struct Failure<E: std::error::Error + 'static> {
    error: Error<E>,
    /// Whether nothing could be seen, so that nothing was tried.
    is_blind: bool,
}

impl<E: std::error::Error + 'static> From<Error<E>> for Failure<E> {
    fn from(error: Error<E>) -> Self {
        Self { error, is_blind: false }
    }
}

/// While it lives, renewal has no certificate accepted, nor puts one in place that was: the one in place stays the one that
/// is known to who must accept it. Who has it must not wait for a renewal.
#[derive(Debug)]
pub struct Undisturbed {
    _settling: OwnedMutexGuard<()>,
}

impl<A: Actor> Renewal<A> {
    /// Of the certificate that the log calls `name`. Does nothing until it [`run`](Self::run)s.
    pub fn new(name: &str, actor: A, journal: Journal) -> Self {
        Self::with_clock(name, actor, journal, WallClock)
    }
}

impl<A: Actor, M: Memory, C: Clock> Renewal<A, M, C> {
    /// The same with another memory and clock.
    pub fn with_clock(name: &str, actor: A, memory: M, clock: C) -> Self {
        Self {
            name: name.to_owned(),
            actor,
            memory: Arc::new(memory),
            clock,
            pace: Mutex::default(),
            one_at_a_time: Turn::default(),
            settling: Arc::default(),
            exchange: Arc::default(),
            changed: Notify::new(),
        }
    }

    /// Finishes what was begun before, and then renews whenever it is time; for ever. May be dropped at any moment, which
    /// is no more than a crash.
    pub async fn run(&self) {
        loop {
            let plan = self.turn().await;
            self.wait(plan).await;
        }
    }

    /// Does now what there is to do, after what is being done already; not before the pause after a failure is over.
    pub async fn go_on(&self) {
        self.turn().await;
        // Whoever waits has an old plan.
        self.look_again();
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
        let hold = self.hold().await;
        let facts = self.look(Purpose::Use).await?;
        if self.pace().is_blind() {
            // Whoever could not be asked is back.
            self.look_again();
        }
        match good_pair(&facts, self.clock.now()) {
            Some((certificate, slot)) => Ok(Pair { certificate: certificate.clone(), slot, hold }),
            None => Err(Error::Stuck(match (&facts.certificate, facts.current) {
                (None, _) => Stuck::NoCertificate,
                (_, None) => Stuck::NoKey,
                _ => Stuck::OtherKey,
            })),
        }
    }

    /// For who changes the certificate or its key in another way.
    pub async fn hold(&self) -> Hold {
        Hold { _exchange: Arc::clone(&self.exchange).read_owned().await }
    }

    /// For who makes the certificate in place known to who must accept it. Waits until a renewal that does the same with
    /// another one has put that in place, or has given it up.
    pub async fn undisturbed(&self) -> Undisturbed {
        Undisturbed { _settling: Arc::clone(&self.settling).lock_owned().await }
    }

    /// How it goes.
    pub fn status(&self) -> Status {
        self.pace().status.clone()
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().expect("no panic while held")
    }

    async fn wait(&self, plan: Plan) {
        let wall = async {
            match plan.wall {
                Some(at) => self.clock.until(at).await,
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
    async fn turn(&self) -> Plan {
        let _turn = self.one_at_a_time.lock().await;
        match self.work(None).await {
            Ok(()) => self.pace().rest(self.actor.policy(), self.now()),
            Err(failure) => self.failed(&failure),
        }
    }

    async fn work(&self, refused: Option<Digest>) -> Result<(), Failure<A::Error>> {
        let (mut rotation, mut settling) = (Rotation::default(), None);
        for _ in 0..MOST_STEPS {
            let facts = match self.look(Purpose::Renewal { refused }).await {
                Ok(facts) => rotation.ours(facts),
                // It has been told, and who asks more often is told nothing new.
                Err(_) if refused.is_none() && self.pace().is_waiting(self.now()) => return Ok(()),
                Err(error) => return Err(Failure { error, is_blind: true }),
            };
            let is_refused = facts.certificate.as_ref().is_some_and(|it| Some(it.digest()) == refused);
            if self.pace().must_wait(&facts, self.actor.policy(), self.now()) && !is_refused {
                return Ok(());
            }
            let now = self.clock.now();
            let is_due = is_refused || facts.certificate.as_ref().is_some_and(|it| self.is_due(it, now));
            let is_wanted = is_due || facts.pending.as_ref().is_some_and(|pending| pending.is_forced);
            let rotate_key = is_wanted && self.rotates(&facts, &mut rotation).await?;
            let order = Order { is_due, rotate_key, can_move: rotation.can_move, now };
            let step = next(&facts, &order);
            if settling.is_none() && step.settles() {
                settling = Some(self.settling.lock().await);
            }
            match step {
                Step::Rest => {
                    self.pace().at_rest();
                    return Ok(());
                }
                Step::Stuck(why) => return Err(Error::Stuck(why).into()),
                step => match self.perform(step, &facts, &order).await {
                    Err(Error::Failed { source, .. })
                        if A::is_refusal(&source) && rotation.is_given_up(step) =>
                    {
                        tracing::warn!("the key of {:?} cannot be replaced: {}", self.name, chain(&source));
                    }
                    done => done?,
                },
            }
        }
        Err(Error::Endless.into())
    }

    fn is_due(&self, certificate: &Certificate, now: i64) -> bool {
        self.actor.policy().is_due(certificate.validity(), now, chance(certificate.digest().seed(), 0))
    }

    async fn perform(&self, step: Step, facts: &Facts, order: &Order) -> Result<(), Error<A::Error>> {
        let old = facts.certificate.as_ref();
        match step {
            Step::Rest | Step::Stuck(_) => Ok(()),
            Step::Begin => {
                let Some(old) = old else { return Ok(()) };
                tracing::info!("the certificate {:?} is renewed", self.name);
                let pending = Pending {
                    rotate_key: order.rotate_key,
                    replaces: old.digest(),
                    is_forced: !self.is_due(old, order.now),
                    stage: Stage::Preparing,
                };
                self.note(pending).await
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
            Step::DeleteKey => {
                let _exchange = self.exchange.write().await;
                self.actor.delete_key().await.map_err(failed("delete the temporary key"))
            }
            Step::GiveUp(why) => {
                tracing::warn!("the renewal of {:?} is given up: {why}", self.name);
                self.remembered(|memory| memory.clear()).await
            }
        }
    }

    async fn request(&self, slot: Slot, old: &Certificate, facts: &Facts) -> Result<(), Error<A::Error>> {
        let Some(pending) = &facts.pending else { return Ok(()) };
        self.pace().status.attempts += 1;
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
                    let _exchange = self.exchange.write().await;
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
        self.pace().renewed(facts, self.actor.policy(), self.now());
    }

    fn failed(&self, failure: &Failure<A::Error>) -> Plan {
        let Failure { error, is_blind } = failure;
        let (policy, now, text) = (self.actor.policy(), self.now(), chain(error));
        let mut pace = self.pace();
        if pace.status.stage.is_none() && matches!(error, Error::Stuck(_) | Error::BadCertificate(_)) {
            let is_absent = matches!(error, Error::Stuck(Stuck::NoCertificate));
            let (plan, is_new) = pace.stuck(text.clone(), is_absent, now);
            if is_new && !is_absent {
                tracing::warn!("the certificate {:?} cannot be renewed: {text}", self.name);
            }
            return plan;
        }
        let cause = match error {
            Error::Failed { source, .. } => (Trouble::Unanswered, A::least_pause(source)),
            Error::Refused(_) => (Trouble::Refused, None),
            _ => (Trouble::Unanswered, None),
        };
        let (plan, pause) = match is_blind {
            true => pace.blind(text.clone(), now),
            false => pace.failed(text.clone(), policy, cause, now),
        };
        tracing::warn!(
            "the certificate {:?} was not renewed, the next attempt is in {} s: {text}",
            self.name,
            pause.as_secs()
        );
        plan
    }

    fn now(&self) -> Now {
        Now { wall: self.clock.now(), steady: Instant::now() }
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

/// More steps than any renewal takes with one that is given up before.
const MOST_STEPS: usize = 30;

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
