//! One token: in which slot it is, sessions that are logged in, calls on threads of its own. Knows no keys.
//!
//! A call that fails for its session is made once more in a new one; a call that fails for its token, once more after
//! the library has been made ready anew. A token that has gone only now is waited for, so that whoever comes while it is
//! exchanged or started anew is late, but served.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use http_common::wait_apart;
use key_api::{PinSource, TokenName};

use super::back_off::BackOff;
use super::fault::{Fault, Remedy};
use super::instance::Ready;
use super::login::{Standing, is_logged_in};
use super::module::Module;
use super::queue::{Outcome, Queue};
use super::reply::Reply;
use super::slot::{find_slot, sessions};
use super::threads::Company;
use crate::Error;
use crate::store::Gate;

/// A token that the configuration names.
pub(super) struct Token {
    name: TokenName,
    pins: Vec<PinSource>,
    module: Arc<Module>,
    pub(super) queue: Queue<Seat>,
    gate: Arc<Gate>,
    /// In which epoch it is where.
    slot: Mutex<Option<(u64, Slot)>>,
    was_there: AtomicBool,
    restarts: Mutex<BackOff>,
    /// Since when it has not been there, if it is not.
    gone: Mutex<Option<Instant>>,
    is_troubled: AtomicBool,
    /// Changes whenever object handles may have changed their meaning although the epoch is the same.
    changes: AtomicU64,
    /// Held, outside of the threads, by whoever changes objects, so that looking and changing are one step.
    changing: Mutex<()>,
}

/// What a call is made with.
pub(super) struct Call<'c> {
    /// A session that is logged in if there is a PIN.
    pub(super) session: &'c Session,
    /// Object handles of other incarnations are void.
    pub(super) incarnation: Incarnation,
    standing: Standing,
    end: Option<Instant>,
}

impl Call<'_> {
    /// A fault if the token hides private objects for want of a login: then what is not found may be there all the same.
    pub(super) fn sees_all(&self) -> Result<(), Fault> {
        match self.standing {
            Standing::User | Standing::Free => Ok(()),
            Standing::Public if is_logged_in(self.session)? => Ok(()),
            Standing::Public => Err(Fault::PinMissing),
        }
    }

    /// A fault if the caller waits no longer, who may have begun the same anew by now: to be asked before each change that
    /// follows another one.
    pub(super) fn goes_on(&self) -> Result<(), Fault> {
        match self.end {
            Some(end) if Instant::now() > end => Err(Fault::TimedOut(Duration::ZERO)),
            _ => Ok(()),
        }
    }
}

/// In what state of the library and the token an object handle was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Incarnation {
    epoch: u64,
    changes: u64,
}

/// The session of one thread.
#[derive(Default)]
pub(super) struct Seat {
    session: Option<Seated>,
    /// Until when the caller waits whose call is made.
    end: Option<Instant>,
    /// What it is a session of.
    module: Option<Arc<Module>>,
}

/// Why an attempt was in vain, and whether that is because the token is not there.
struct Failure {
    fault: Fault,
    is_away: bool,
}

impl From<Fault> for Failure {
    /// The fault of a library that cannot be made ready.
    fn from(fault: Fault) -> Self {
        Self { is_away: matches!(fault, Fault::Library(_) | Fault::BackingOff(_)), fault }
    }
}

struct Seated {
    epoch: u64,
    session: Session,
    /// How it was opened; it may have been logged in since.
    standing: Standing,
}

impl Token {
    /// The token `name` behind `module`, which has one of these `pins`. Nothing is done yet.
    pub(super) fn new(name: TokenName, pins: Vec<PinSource>, module: Arc<Module>) -> Arc<Self> {
        let words = name.to_string();
        let busy = move || Error::TokenUnavailable { token: words.clone(), fault: Box::new(Fault::Busy) };
        Arc::new(Self {
            name,
            pins,
            module,
            gate: Gate::new(busy),
            queue: Queue::new("token".to_owned()),
            slot: Mutex::default(),
            was_there: AtomicBool::new(false),
            restarts: Mutex::default(),
            gone: Mutex::default(),
            is_troubled: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            changing: Mutex::default(),
        })
    }

    /// How the configuration calls it.
    pub(super) fn name(&self) -> &TokenName {
        &self.name
    }

    /// To be entered by whoever blocks.
    pub(super) fn gate(&self) -> Arc<Gate> {
        Arc::clone(&self.gate)
    }

    /// Makes a call and blocks until it has returned, for `limit` at most. What changes objects, unless that takes minutes,
    /// wants to be alone: others would see half of it, and some libraries go wrong when objects are looked for meanwhile.
    pub(super) fn call<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        company: Company,
        call: impl Fn(&Call<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.submit(limit, company, call)?.wait(limit)?
    }

    /// A call from a task, beside others.
    pub(super) async fn call_later<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        call: impl Fn(&Call<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let reply = self.submit(limit, Company::Any, call)?;
        self.queue.watch(&reply);
        wait_apart(reply.within(limit)).await?
    }

    /// The right to change objects. Held while calls are waited for, each of which has a deadline.
    pub(super) fn change(&self) -> Changing<'_> {
        Changing { token: self, _guard: self.changing.lock().expect("no panic while held") }
    }

    fn submit<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        company: Company,
        call: impl Fn(&Call<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Reply<Result<T, Fault>>, Fault> {
        let (token, end) = (Arc::clone(self), Instant::now() + limit);
        self.queue.submit(limit, company, move |seat: &mut Seat| {
            seat.end = Some(end);
            match token.perform(limit, seat, &call) {
                // Other threads have a session.
                Err(fault) if fault.is_session_count() => Outcome::NoPlace(Err(fault)),
                done => Outcome::Done(done),
            }
        })
    }

    /// Makes a call; again and again for a moment, if the token has gone: it may be on its way back.
    fn perform<T>(
        &self,
        limit: Duration,
        seat: &mut Seat,
        call: &dyn Fn(&Call<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        loop {
            match self.attempt(limit, seat, call) {
                Ok(value) => {
                    self.has_worked();
                    return Ok(value);
                }
                Err(Failure { is_away: true, .. }) if self.may_be_back_soon() => thread::sleep(POLL),
                Err(Failure { fault, .. }) => return Err(fault),
            }
        }
    }

    /// Makes a call, in a new session or with the library made ready anew if need be.
    fn attempt<T>(
        &self,
        limit: Duration,
        seat: &mut Seat,
        call: &dyn Fn(&Call<'_>) -> Result<T, Fault>,
    ) -> Result<T, Failure> {
        let (mut may_reopen, mut may_restart) = (true, true);
        loop {
            let ready = self.module.ready(limit)?;
            let epoch = ready.epoch();
            let fault = match self.once(&ready, seat, call) {
                Ok(value) => return Ok(value),
                Err(fault) => fault,
            };
            let remedy = match fault.remedy() {
                Remedy::Ask if seat.is_alive() => Remedy::None,
                // Other tokens have sessions, too.
                Remedy::Reopen if !may_reopen && seat.is_alive() => Remedy::None,
                Remedy::Ask => Remedy::Restart,
                Remedy::Restart if !self.may_come_back(&ready, &fault) => Remedy::None,
                remedy => remedy,
            };
            match remedy {
                Remedy::Reopen if may_reopen => {
                    // Once for each time of trouble.
                    if self.is_troubled.swap(true, Ordering::Relaxed) {
                        tracing::debug!("a new session is opened with the token {}: {fault}", self.name);
                    } else {
                        tracing::warn!("a new session is opened with the token {}: {fault}", self.name);
                    }
                    may_reopen = false;
                    seat.close(epoch);
                    self.renew();
                }
                Remedy::Reopen | Remedy::Restart if may_restart => {
                    may_restart = false;
                    drop(ready);
                    self.renew();
                    if self.restarts().begin(Instant::now()).is_err() {
                        return Err(Failure { fault, is_away: true });
                    }
                    self.module.restart(epoch, &fault)?;
                }
                Remedy::None => return Err(Failure { fault, is_away: false }),
                _ => return Err(Failure { fault, is_away: true }),
            }
        }
    }

    /// Whether the token, which is not there, was there until a moment ago.
    fn may_be_back_soon(&self) -> bool {
        let mut gone = self.gone.lock().expect("no panic while held");
        self.is_troubled.store(true, Ordering::Relaxed);
        self.was_there.load(Ordering::Relaxed) && gone.get_or_insert_with(Instant::now).elapsed() < PATIENCE
    }

    /// After a success the next restart need not wait.
    fn has_worked(&self) {
        if self.is_troubled.swap(false, Ordering::Relaxed) {
            tracing::info!("the token {} works again", self.name);
            *self.gone.lock().expect("no panic while held") = None;
            *self.restarts.lock().expect("no panic while held") = BackOff::default();
        }
    }

    fn restarts(&self) -> MutexGuard<'_, BackOff> {
        self.is_troubled.store(true, Ordering::Relaxed);
        self.restarts.lock().expect("no panic while held")
    }

    fn once<T>(
        &self,
        ready: &Ready,
        seat: &mut Seat,
        call: &dyn Fn(&Call<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (changes, end) = (self.changes.load(Ordering::Acquire), seat.end);
        let incarnation = Incarnation { epoch: ready.epoch(), changes };
        // A session of another epoch is gone, whatever its number means now.
        seat.session.take_if(|seated| seated.epoch != ready.epoch());
        let &mut Seated { ref session, standing, .. } = match &mut seat.session {
            Some(seated) => seated,
            place => {
                seat.module = Some(Arc::clone(&self.module));
                place.insert(self.open(ready)?)
            }
        };
        call(&Call { session, incarnation, standing, end }).map_err(|fault| match fault.answer() {
            Some(RvError::UserNotLoggedIn) if standing != Standing::User => Fault::PinMissing,
            _ => fault,
        })
    }

    /// Forgets where the token and its objects are.
    fn renew(&self) {
        *self.slot.lock().expect("no panic while held") = None;
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a token that is missing may be found by making the library ready anew: not at the cost of other tokens,
    /// unless it was there before.
    fn may_come_back(&self, ready: &Ready, fault: &Fault) -> bool {
        let is_missing =
            matches!(fault, Fault::NoToken { .. }) || fault.answer() == Some(RvError::SlotIdInvalid);
        let was_there = self.was_there.load(Ordering::Relaxed);
        !is_missing
            || was_there
            || ready.library().get_slots_with_token().map_or(true, |slots| slots.is_empty())
    }

    /// A new session, logged in if there is a PIN.
    fn open(&self, ready: &Ready) -> Result<Seated, Fault> {
        let library = ready.library();
        let slot = self.slot(library, ready.epoch())?;
        let session = library.open_rw_session_no_drop(slot).map_err(Fault::said("open a session"))?;
        match self.module.logins().log_in(ready, (&self.name, slot), &session, &self.pins) {
            Ok(standing) => Ok(Seated { epoch: ready.epoch(), session, standing }),
            Err(fault) => {
                // Nobody else has it; if it cannot be closed it is gone.
                let _ = session.close();
                Err(fault)
            }
        }
    }

    fn slot(&self, library: &Pkcs11, epoch: u64) -> Result<Slot, Fault> {
        // Not held while the library is asked, which may never answer.
        let known = || self.slot.lock().expect("no panic while held");
        let here = known().filter(|(known_epoch, _)| *known_epoch == epoch);
        if let Some((_, slot)) = here {
            return Ok(slot);
        }
        let slot = find_slot(library, &self.name)?;
        if let Ok(info) = library.get_token_info(slot) {
            self.queue.allow_threads(sessions(&info));
            self.was_there.store(true, Ordering::Relaxed);
        }
        *known() = Some((epoch, slot));
        Ok(slot)
    }
}

/// The right to change a token's objects.
pub(in crate::store) struct Changing<'t> {
    token: &'t Token,
    _guard: MutexGuard<'t, ()>,
}

impl Drop for Changing<'_> {
    /// Some tokens give the numbers of objects that are gone to new ones.
    fn drop(&mut self) {
        self.token.changes.fetch_add(1, Ordering::AcqRel);
    }
}

impl Seat {
    /// Whether the session still answers.
    fn is_alive(&self) -> bool {
        self.session.as_ref().is_some_and(|seated| seated.session.get_session_info().is_ok())
    }

    /// Gives the session back if it is one of this epoch.
    fn close(&mut self, epoch: u64) {
        if let Some(seated) = self.session.take()
            && seated.epoch == epoch
        {
            // It is broken; that it cannot even be closed is no news.
            let _ = seated.session.close();
        }
    }
}

impl Drop for Seat {
    /// A thread that ends leaves no session behind, of which a token may have few.
    fn drop(&mut self) {
        if let (Some(seated), Some(module)) = (&self.session, &self.module)
            && let Some(ready) = module.ready_in(seated.epoch, CLOSE)
        {
            self.close(ready.epoch());
        }
    }
}

/// How long a token may take to close a session.
const CLOSE: Duration = Duration::from_secs(5);
/// How long a token is waited for that has gone.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);
