//! Logging in to tokens, so that no PIN is tried twice: what was refused is known of the token, by whichever of its names it
//! is called, and after a restart too. Knows no calls and no sessions but the one that logs in.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use cryptoki::error::RvError;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::RawAuthPin;
use key_api::{PinSource, TokenName};

use super::fault::Fault;
use super::instance::Ready;
use super::pin::{self, Digest};
use super::refused::Refused;

/// What a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is logged in.
    User,
    /// There is no PIN, and the token asks for none.
    Free,
    /// There is no PIN, and the token hides what is private.
    Public,
}

/// The logins to all tokens of a library.
pub(super) struct Logins {
    by_token: Mutex<HashMap<String, Arc<Login>>>,
    refused: Option<Refused>,
}

/// The login to one token.
#[derive(Default)]
struct Login {
    known: Mutex<Known>,
    /// Held while the token looks at a PIN, lest two sessions try the same one. In another epoch it is another one, for a
    /// call of an earlier one may never return.
    turn: Mutex<(u64, Arc<Mutex<()>>)>,
}

/// What is known of PINs.
#[derive(Default)]
struct Known {
    /// The PIN that the token took last, and where it is.
    worked: Option<(Digest, PinSource)>,
    refused: Vec<(Digest, &'static str)>,
    /// The PINs that the token looks at, be it that it never says what it thinks of them.
    tried: Vec<Digest>,
}

/// A PIN that the token looks at as long as this lives.
struct Try<'l> {
    login: &'l Login,
    digest: Digest,
}

impl Logins {
    /// None yet. Refused PINs are remembered over restarts in the file `memory`, if there is one.
    pub(super) fn new(memory: Option<PathBuf>) -> Self {
        Self { by_token: Mutex::default(), refused: memory.map(Refused::new) }
    }

    /// Logs `session` of the library that is `ready` in to the token in `slot`, which is called `name`, by the first PIN
    /// from `sources` that is of use, or by one that came with another of its names.
    pub(super) fn log_in(
        &self,
        ready: &Ready,
        (name, slot): (&TokenName, Slot),
        session: &Session,
        sources: &[PinSource],
    ) -> Result<Standing, Fault> {
        let tell = || ready.library().get_token_info(slot).map_err(Fault::said("tell about the token"));
        let token = identity(&tell()?);
        let login = self.of(&token);
        let turn = login.turn(ready.epoch());
        let _turn = turn.lock().expect("no panic while held");
        if is_logged_in(session)? {
            return Ok(Standing::User);
        }
        let worked = login.known().worked.clone().map(|(_, source)| source);
        let sources = sources.iter().cloned().chain(worked);
        let mut in_vain = None;
        for source in sources {
            // Told anew each time: how often it still lets a PIN be wrong.
            match self.try_source(&login, (name, &tell()?), session, source) {
                Ok(()) => {
                    // Of several PINs a wrong one stays wrong.
                    if in_vain.is_none() {
                        login.known().refused = Vec::new();
                        self.refused.iter().for_each(|refused| refused.forget(&token));
                    }
                    return Ok(Standing::User);
                }
                Err(fault @ (Fault::PinRefused(_) | Fault::NoPin { .. })) => in_vain = Some(fault),
                Err(fault) => return Err(fault),
            }
        }
        match in_vain {
            Some(fault) => Err(fault),
            None if tell()?.login_required() => Ok(Standing::Public),
            None => Ok(Standing::Free),
        }
    }

    /// Logs in by the PIN from `source`.
    fn try_source(
        &self,
        login: &Login,
        (name, info): (&TokenName, &TokenInfo),
        session: &Session,
        source: PinSource,
    ) -> Result<(), Fault> {
        let pin = pin::read(&source)?;
        let digest = pin::digest(&pin);
        let _tries = self.try_pin(login, (name, info), &pin)?;
        let raw = RawAuthPin::new(Box::new(pin.to_vec()));
        let fault = match session.login_with_raw(UserType::User, &raw) {
            Ok(()) => None,
            Err(error) => Some(Fault::said("log in")(error)),
        };
        let Some(fault) = fault.filter(|fault| fault.answer() != Some(RvError::UserAlreadyLoggedIn)) else {
            login.known().worked = Some((digest, source));
            return Ok(());
        };
        let Some(why) = refusal(&fault) else { return Err(fault) };
        login.known().refused.push((digest, why));
        tracing::error!("the token {name} refused the PIN ({why}); it is not tried again");
        if let Some(refused) = self.refused.as_ref().filter(|_| is_lasting(&fault)) {
            refused.note(&identity(info), &pin);
        }
        Err(Fault::PinRefused(why))
    }

    /// A fault if the token might be locked by this PIN.
    fn try_pin<'l>(
        &self,
        login: &'l Login,
        token: (&TokenName, &TokenInfo),
        pin: &[u8],
    ) -> Result<Try<'l>, Fault> {
        let digest = pin::digest(pin);
        let mut known = login.known();
        self.may_be_tried(&mut known, token, pin)?;
        known.tried.push(digest);
        Ok(Try { login, digest })
    }

    fn may_be_tried(
        &self,
        known: &mut Known,
        (name, info): (&TokenName, &TokenInfo),
        pin: &[u8],
    ) -> Result<(), Fault> {
        let digest = pin::digest(pin);
        if let Some((_, why)) = known.refused.iter().find(|(refused, _)| *refused == digest) {
            return Err(Fault::PinRefused(why));
        }
        let has_worked = known.worked.as_ref().is_some_and(|(worked, _)| *worked == digest);
        // A good one may have been changed meanwhile.
        if known.tried.iter().filter(|tried| **tried == digest).count() > usize::from(has_worked) {
            return Err(Fault::Unanswered);
        }
        if has_worked {
            return Ok(());
        }
        if let Some(refused) = self.refused.as_ref().filter(|refused| refused.has(&identity(info), pin)) {
            known.refused.push((digest, EARLIER));
            tracing::error!(
                "the token {name} refused the PIN before keyd was started; it is not tried again. If it is right by now, \
                 remove {} and start keyd again",
                refused.path().display()
            );
            return Err(Fault::PinRefused(EARLIER));
        }
        match info.user_pin_final_try() {
            true => Err(Fault::LastTry),
            false => Ok(()),
        }
    }

    fn of(&self, token: &str) -> Arc<Login> {
        let mut by_token = self.by_token.lock().expect("no panic while held");
        Arc::clone(by_token.entry(token.to_owned()).or_default())
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        let mut known = self.login.known();
        if let Some(tried) = known.tried.iter().position(|tried| *tried == self.digest) {
            known.tried.swap_remove(tried);
        }
    }
}

impl Login {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while held")
    }

    fn turn(&self, epoch: u64) -> Arc<Mutex<()>> {
        let mut turn = self.turn.lock().expect("no panic while held");
        match turn.0.cmp(&epoch) {
            Ordering::Less => *turn = (epoch, Arc::default()),
            Ordering::Equal => {}
            // Who comes late out of a library that was left behind keeps nobody from the one in its place.
            Ordering::Greater => return Arc::default(),
        }
        Arc::clone(&turn.1)
    }
}

/// Whether `session` is logged in, be it by another one: a login counts for all sessions of this process with the token.
pub(super) fn is_logged_in(session: &Session) -> Result<bool, Fault> {
    let state = session.get_session_info().map_err(Fault::said("tell about a session"))?;
    Ok(matches!(state.session_state(), SessionState::RwUser | SessionState::RwSecurityOfficer))
}

/// What makes a token the same one under another name and after a restart, on one line.
fn identity(info: &TokenInfo) -> String {
    let parts = [info.manufacturer_id(), info.model(), info.serial_number(), info.label()];
    parts.map(|part| format!("{:?}", part.trim())).join(" ")
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

/// Whether a refused PIN stays wrong. Locked, expired and missing ones are put right on the token.
fn is_lasting(fault: &Fault) -> bool {
    matches!(fault.answer(), Some(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange))
}

const EARLIER: &str = "at an earlier start";
