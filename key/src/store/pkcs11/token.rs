//! One token: in which slot it is, sessions that are logged in, calls on threads of its own. Knows no keys.
//!
//! A call that fails for its session is made once more in a new one; a call that fails for its token, once more after
//! the library has been made ready anew. A PIN that the token refused is never tried twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cryptoki::context::Pkcs11;
use cryptoki::error::RvError;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use key_api::{PinSource, TokenName};

use super::back_off::BackOff;
use super::fault::{Fault, Remedy};
use super::module::{Module, Ready};
use super::pin::{self, Digest};
use super::queue::Queue;
use super::reply::Reply;
use super::slot::{find_slot, sessions};
use crate::Error;
use crate::store::Gate;

/// A token that the configuration names.
pub(super) struct Token {
    name: TokenName,
    pin: Option<PinSource>,
    module: Arc<Module>,
    queue: Queue<Seat>,
    gate: Arc<Gate>,
    slot: Mutex<Option<(u64, Slot)>>,
    was_there: AtomicBool,
    login: Mutex<Login>,
    restarts: Mutex<BackOff>,
    is_troubled: AtomicBool,
    /// Changes whenever object handles may have changed their meaning.
    incarnation: AtomicU64,
    /// Held, outside of the threads, by whoever changes objects, so that looking and changing are one step.
    changing: Mutex<()>,
}

/// What a call is made with.
pub(super) struct Call<'c> {
    /// A session that is logged in if there is a PIN.
    pub(super) session: &'c Session,
    /// Object handles of other incarnations are void.
    pub(super) incarnation: u64,
}

/// The session of one thread.
#[derive(Default)]
pub(super) struct Seat {
    session: Option<(u64, Session)>,
}

#[derive(Default)]
struct Login {
    has_worked: bool,
    refused: Option<(Digest, &'static str)>,
}

impl Token {
    /// The token `name` behind `module`. Nothing is done yet.
    pub(super) fn new(name: TokenName, pin: Option<PinSource>, module: Arc<Module>) -> Arc<Self> {
        let words = name.to_string();
        let busy = move || Error::TokenUnavailable { token: words.clone(), fault: Box::new(Fault::Busy) };
        Arc::new(Self {
            name,
            pin,
            module,
            gate: Gate::new(busy),
            queue: Queue::new("token".to_owned()),
            slot: Mutex::default(),
            was_there: AtomicBool::new(false),
            login: Mutex::default(),
            restarts: Mutex::default(),
            is_troubled: AtomicBool::new(false),
            incarnation: AtomicU64::new(0),
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

    /// Makes a call and blocks until it has returned, for `limit` at most.
    pub(super) fn call<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        call: impl Fn(&Call<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.submit(limit, call)?.wait(limit)?
    }

    /// The same from a task.
    pub(super) async fn call_later<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        call: impl Fn(&Call<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let reply = self.submit(limit, call)?;
        self.queue.watch(&reply);
        reply.within(limit).await?
    }

    /// The right to change objects. Held while calls are waited for, each of which has a deadline.
    pub(super) fn change(&self) -> Changing<'_> {
        Changing { token: self, _guard: self.changing.lock().expect("no panic while held") }
    }

    fn submit<T: Send + 'static>(
        self: &Arc<Self>,
        limit: Duration,
        call: impl Fn(&Call<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<Reply<Result<T, Fault>>, Fault> {
        let token = Arc::clone(self);
        self.queue.submit(limit, move |seat| token.perform(seat, &call))
    }

    /// Makes a call, in a new session or with the library made ready anew if need be.
    fn perform<T>(&self, seat: &mut Seat, call: &dyn Fn(&Call<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let (mut may_reopen, mut may_restart) = (true, true);
        loop {
            let ready = self.module.ready()?;
            let epoch = ready.epoch();
            let fault = match self.once(&ready, seat, call) {
                Ok(value) => {
                    self.has_worked();
                    return Ok(value);
                }
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
                    tracing::warn!("a new session is opened with the token {}: {fault}", self.name);
                    may_reopen = false;
                    seat.close(epoch);
                    self.renew();
                }
                Remedy::Reopen | Remedy::Restart if may_restart => {
                    may_restart = false;
                    drop(ready);
                    self.renew();
                    if self.restarts().begin(Instant::now()).is_err() {
                        return Err(fault);
                    }
                    self.module.restart(epoch, &fault)?;
                }
                _ => return Err(fault),
            }
        }
    }

    /// After a success the next restart need not wait.
    fn has_worked(&self) {
        if self.is_troubled.swap(false, Ordering::Relaxed) {
            tracing::info!("the token {} works again", self.name);
            *self.restarts.lock().expect("no panic while held") = BackOff::default();
        }
    }

    fn restarts(&self) -> MutexGuard<'_, BackOff> {
        self.is_troubled.store(true, Ordering::Relaxed);
        self.restarts.lock().expect("no panic while held")
    }

    fn once<T>(
        &self,
        ready: &Ready<'_>,
        seat: &mut Seat,
        call: &dyn Fn(&Call<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let incarnation = self.incarnation.load(Ordering::Acquire);
        let session = match &mut seat.session {
            Some((epoch, session)) if *epoch == ready.epoch() => session,
            // A session of another epoch is gone, whatever its number means now.
            place => &mut place.insert((ready.epoch(), self.open(ready)?)).1,
        };
        call(&Call { session, incarnation }).map_err(|fault| match fault.answer() {
            Some(RvError::UserNotLoggedIn) if self.pin.is_none() => Fault::PinMissing,
            _ => fault,
        })
    }

    /// Forgets where the token and its objects are.
    fn renew(&self) {
        *self.slot.lock().expect("no panic while held") = None;
        self.incarnation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether a token that is missing may be found by making the library ready anew: not at the cost of other tokens,
    /// unless it was there before.
    fn may_come_back(&self, ready: &Ready<'_>, fault: &Fault) -> bool {
        let is_missing = matches!(fault, Fault::NoToken { .. });
        let was_there = self.was_there.load(Ordering::Relaxed);
        let others = ready
            .library()
            .and_then(|library| library.get_slots_with_token().map_err(Fault::said("list its slots")));
        !is_missing || was_there || others.map_or(true, |slots| slots.is_empty())
    }

    /// A new session, logged in if there is a PIN.
    fn open(&self, ready: &Ready<'_>) -> Result<Session, Fault> {
        let library = ready.library()?;
        let slot = self.slot(library, ready.epoch())?;
        let session = library.open_rw_session_no_drop(slot).map_err(Fault::said("open a session"))?;
        match self.log_in(library, slot, &session) {
            Ok(()) => Ok(session),
            Err(fault) => {
                // Nobody else has it; if it cannot be closed it is gone.
                let _ = session.close();
                Err(fault)
            }
        }
    }

    fn slot(&self, library: &Pkcs11, epoch: u64) -> Result<Slot, Fault> {
        let mut known = self.slot.lock().expect("no panic while held");
        if let Some((known_epoch, slot)) = *known
            && known_epoch == epoch
        {
            return Ok(slot);
        }
        let slot = find_slot(library, &self.name)?;
        if let Ok(info) = library.get_token_info(slot) {
            self.queue.allow_threads(sessions(&info));
        }
        self.was_there.store(true, Ordering::Relaxed);
        *known = Some((epoch, slot));
        Ok(slot)
    }

    fn log_in(&self, library: &Pkcs11, slot: Slot, session: &Session) -> Result<(), Fault> {
        let info = session.get_session_info().map_err(Fault::said("tell about a session"))?;
        let Some(source) = &self.pin else { return Ok(()) };
        let mut login = self.login.lock().expect("no panic while held");
        if matches!(info.session_state(), SessionState::RwUser | SessionState::RwSecurityOfficer) {
            login.has_worked = true;
            return Ok(());
        }
        let pin = pin::read(source)?;
        let digest = pin::digest(&pin);
        if let Some((refused, why)) = login.refused
            && refused == digest
        {
            return Err(Fault::PinRefused(why));
        }
        let token = library.get_token_info(slot).map_err(Fault::said("tell about the token"))?;
        if token.user_pin_final_try() && !login.has_worked {
            return Err(Fault::LastTry);
        }
        let raw = RawAuthPin::new(Box::new(pin.to_vec()));
        let fault = match session.login_with_raw(UserType::User, &raw) {
            Ok(()) => None,
            Err(error) => Some(Fault::said("log in")(error)),
        };
        match fault.as_ref().map(|fault| (fault.answer(), refusal(fault))) {
            None | Some((Some(RvError::UserAlreadyLoggedIn), _)) => {
                *login = Login { has_worked: true, refused: None };
                Ok(())
            }
            Some((_, Some(why))) => {
                login.refused = Some((digest, why));
                tracing::error!("the token {} refused the PIN ({why}); it is not tried again", self.name);
                Err(Fault::PinRefused(why))
            }
            Some((_, None)) => Err(fault.unwrap_or(Fault::Thread)),
        }
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
        self.token.incarnation.fetch_add(1, Ordering::AcqRel);
    }
}

impl Seat {
    /// Whether the session still answers.
    fn is_alive(&self) -> bool {
        self.session.as_ref().is_some_and(|(_, session)| session.get_session_info().is_ok())
    }

    /// Gives the session back if it is one of this epoch.
    fn close(&mut self, epoch: u64) {
        if let Some((of, session)) = self.session.take()
            && of == epoch
        {
            // It is broken; that it cannot even be closed is no news.
            let _ = session.close();
        }
    }
}

/// Why a PIN is of no use, if that is the matter.
fn refusal(fault: &Fault) -> Option<&'static str> {
    match fault.answer()? {
        RvError::PinIncorrect => Some("it is wrong"),
        RvError::PinInvalid => Some("it has characters that the token does not take"),
        RvError::PinLenRange => Some("it is too short or too long"),
        RvError::PinExpired => Some("it has expired"),
        RvError::PinLocked => Some("it is locked"),
        RvError::UserPinNotInitialized => Some("the token has no PIN yet"),
        _ => None,
    }
}
