//! One loaded PKCS #11 library: made ready, entered by calls, and made ready anew when it has lost its token. Knows no tokens,
//! and not that there may be another one.
//!
//! Making it ready anew (`C_Finalize`, `C_Initialize`) ends the sessions of all tokens. Each time is an *epoch*; sessions
//! and object handles of another epoch must not be used, for their numbers may mean something else by now.
//!
//! What is loaded is never unloaded: threads that were in it may have something of it to do when they end.

use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};

use super::back_off::BackOff;
use super::copy::Copy;
use super::fault::Fault;
use super::inside::Inside;

/// A library. It need not be loaded yet.
pub(super) struct Instance {
    path: PathBuf,
    /// Whether to load a copy of the file, which has variables of its own.
    is_copy: bool,
    /// Counts all instances' epochs.
    epochs: Arc<AtomicU64>,
    state: Mutex<State>,
    /// Somebody has come out, or may come in.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    library: Option<Pkcs11>,
    epoch: u64,
    back_off: BackOff,
    inside: Inside,
    /// Somebody has it for himself.
    is_taken: bool,
    /// How many wait for a change: without them nobody has to be woken, which would cost each call a system call.
    sleepers: usize,
    /// How many want to have it for themselves and have only begun to wait: new calls let them in.
    wanted: usize,
    /// Nobody comes in any more; whoever leaves last ends it.
    is_left_behind: bool,
    /// The library, be it ready or not, once it is loaded.
    loaded: Option<Pkcs11>,
}

/// The library, ready for calls as long as this is held.
pub(super) struct Ready {
    instance: Arc<Instance>,
    visit: u64,
    library: Pkcs11,
    epoch: u64,
}

/// The library with no calls in it, as long as this is held.
struct Exclusive<'i> {
    instance: &'i Instance,
    visit: u64,
}

impl Instance {
    /// The library at `path`, or a copy of it.
    pub(super) fn new(path: PathBuf, is_copy: bool, epochs: Arc<AtomicU64>) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(Self { path, is_copy, epochs, state, changed })
    }

    /// Whether it is a copy.
    pub(super) fn is_copy(&self) -> bool {
        self.is_copy
    }

    /// Whether it was ready at any time.
    pub(super) fn was_ready(&self) -> bool {
        self.state().epoch > 0
    }

    /// Comes in for a call that should be over after `limit`; makes the library ready if it is not. None if somebody has
    /// the library for himself: then the caller should look again.
    pub(super) fn enter(self: &Arc<Self>, limit: Duration) -> Result<Option<Ready>, Fault> {
        // Else calls that follow one another closely would keep those out who want it for themselves.
        let (mut state, _) = self.wait_while(self.state(), COURTESY, |state| state.wanted > 0);
        if state.is_taken {
            drop(self.wait_while(state, LOOK_AGAIN, |state| state.is_taken));
            return Ok(None);
        }
        match state.library.clone() {
            Some(library) => {
                let visit = state.inside.enter(Instant::now(), limit);
                Ok(Some(Ready { instance: Arc::clone(self), visit, library, epoch: state.epoch }))
            }
            None => self.start(&self.take(state)).map(|()| None),
        }
    }

    /// The same if it is ready and in this `epoch`.
    pub(super) fn enter_in(self: &Arc<Self>, epoch: u64, limit: Duration) -> Option<Ready> {
        let mut state = self.state();
        let library = state.library.clone().filter(|_| !state.is_taken && state.epoch == epoch)?;
        let visit = state.inside.enter(Instant::now(), limit);
        Some(Ready { instance: Arc::clone(self), visit, library, epoch })
    }

    /// Makes the library ready anew, unless somebody did since `epoch`. Waits a moment until no call is in it.
    pub(super) fn restart(&self, epoch: u64, reason: &Fault) -> Result<(), Fault> {
        if self.state().epoch != epoch {
            return Ok(());
        }
        let exclusive = self.exclusive()?;
        let library = {
            let mut state = self.state();
            if state.epoch != epoch {
                return Ok(());
            }
            state.library.take()
        };
        tracing::warn!("the PKCS #11 library is made ready anew: {reason}");
        if let Some(library) = library {
            finalize(library);
        }
        self.start(&exclusive)
    }

    /// For how long no call has come out that should have.
    pub(super) fn stuck(&self) -> Option<Duration> {
        self.state().inside.stuck(Instant::now())
    }

    /// From now on nobody comes in; how long the oldest call has been in there. None if there is none.
    pub(super) fn leave_behind(&self) -> Option<Duration> {
        let mut state = self.state();
        let oldest = state.inside.oldest(Instant::now())?;
        state.is_left_behind = true;
        Some(oldest)
    }

    /// Whether nobody is in there.
    pub(super) fn is_free(&self) -> bool {
        let state = self.state();
        state.inside.is_empty() && !state.is_taken
    }

    /// From now on it is entered again.
    pub(super) fn take_up(&self) {
        self.state().is_left_behind = false;
    }

    /// Leaves the tokens in a sane state, unless a call is still in the library.
    pub(super) fn end(&self) {
        let state = self.state();
        if state.inside.is_empty() && !state.is_taken {
            let _exclusive = self.take(state);
            let library = self.state().library.take();
            if let Some(library) = library {
                finalize(library);
            }
        }
    }

    /// Waits a moment until no call is in the library.
    fn exclusive(&self) -> Result<Exclusive<'_>, Fault> {
        let is_in_use = |state: &State| state.is_taken || !state.inside.is_empty();
        let mut state = self.state();
        state.wanted += 1;
        let (mut state, _) = self.wait_while(state, COURTESY, is_in_use);
        state.wanted -= 1;
        // From now on others come in meanwhile: those of other tokens must not wait as long as one call hangs.
        self.changed.notify_all();
        let (state, is_in_use) = self.wait_while(state, PATIENCE, is_in_use);
        if is_in_use { Err(Fault::TimedOut(PATIENCE)) } else { Ok(self.take(state)) }
    }

    /// Waits for `limit` at most until `holds` does not hold; whether it still does.
    fn wait_while<'s>(
        &'s self,
        mut state: MutexGuard<'s, State>,
        limit: Duration,
        holds: impl Fn(&State) -> bool,
    ) -> (MutexGuard<'s, State>, bool) {
        if !holds(&state) {
            return (state, false);
        }
        state.sleepers += 1;
        let waited = self.changed.wait_timeout_while(state, limit, |state| holds(state));
        let (mut state, _) = waited.expect("no panic while held");
        state.sleepers -= 1;
        let still = holds(&state);
        (state, still)
    }

    fn take(&self, mut state: MutexGuard<'_, State>) -> Exclusive<'_> {
        state.is_taken = true;
        Exclusive { instance: self, visit: state.inside.enter(Instant::now(), START) }
    }

    fn start(&self, _: &Exclusive<'_>) -> Result<(), Fault> {
        self.state().back_off.begin(Instant::now())?;
        let library = self.load().map_err(|why| {
            let copy = if self.is_copy { "a copy of " } else { "" };
            Fault::Library(format!("{copy}{}: {why}", self.path.display()))
        })?;
        let mut state = self.state();
        state.epoch = self.epochs.fetch_add(1, Ordering::AcqRel) + 1;
        state.library = Some(library);
        state.back_off = BackOff::default();
        Ok(())
    }

    fn load(&self) -> Result<Pkcs11, String> {
        let said = |error| Fault::said("start")(error).to_string();
        let library = self.loaded()?;
        let threads = CInitializeFlags::OS_LOCKING_OK | CInitializeFlags::LIBRARY_CANT_CREATE_OS_THREADS;
        match library.initialize(CInitializeArgs::new(threads)) {
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(said(error)),
        }
        if let Err(why) = check(&library) {
            finalize(library);
            return Err(why);
        }
        Ok(library)
    }

    fn loaded(&self) -> Result<Pkcs11, String> {
        if let Some(library) = &self.state().loaded {
            return Ok(library.clone());
        }
        let copy = match self.is_copy {
            true => Some(Copy::of(&self.path).map_err(|error| error.to_string())?),
            false => None,
        };
        let path = copy.as_ref().map_or_else(|| self.path.clone(), Copy::path);
        let library = Pkcs11::new(path).map_err(|error| Fault::said("start")(error).to_string())?;
        mem::forget((copy, library.clone()));
        Ok(self.state().loaded.insert(library).clone())
    }

    fn left(&self, visit: u64) {
        self.left_in(self.state(), visit);
    }

    fn left_in(&self, mut state: MutexGuard<'_, State>, visit: u64) {
        state.inside.leave(visit, Instant::now());
        let is_last = state.inside.is_empty();
        let is_end = is_last && state.is_left_behind && state.library.is_some();
        let has_sleepers = state.sleepers > 0;
        drop(state);
        if is_last && has_sleepers {
            self.changed.notify_all();
        }
        if is_end {
            self.end();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

impl Ready {
    /// The library.
    pub(super) fn library(&self) -> &Pkcs11 {
        &self.library
    }

    /// Which epoch it is, of all instances.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.instance.left(self.visit);
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        let mut state = self.instance.state();
        state.is_taken = false;
        self.instance.left_in(state, self.visit);
    }
}

fn finalize(library: Pkcs11) {
    if let Err(error) = library.finalize() {
        tracing::debug!("{}", Fault::said("end")(error));
    }
}

/// Whether the library is new enough and complete.
fn check(library: &Pkcs11) -> Result<(), String> {
    let info =
        library.get_library_info().map_err(|error| Fault::said("tell its version")(error).to_string())?;
    let version = info.cryptoki_version();
    match (version.major(), version.minor()) {
        (2, 20..) | (3, _) => {}
        (major, minor) => {
            return Err(format!("it is of version {major}.{minor}; 2.20 to 3.x are known here"));
        }
    }
    match NEEDED.iter().find(|function| !library.is_fn_supported(**function)) {
        Some(function) => Err(format!("it has no C_{function:?}")),
        None => Ok(()),
    }
}

/// What the specification asks of a library (10.1).
const NEEDED: [Function; 22] = [
    Function::GetSlotList,
    Function::GetTokenInfo,
    Function::OpenSession,
    Function::CloseSession,
    Function::GetSessionInfo,
    Function::Login,
    Function::CreateObject,
    Function::DestroyObject,
    Function::GetAttributeValue,
    Function::SetAttributeValue,
    Function::FindObjectsInit,
    Function::FindObjects,
    Function::FindObjectsFinal,
    Function::EncryptInit,
    Function::Encrypt,
    Function::DecryptInit,
    Function::Decrypt,
    Function::SignInit,
    Function::Sign,
    Function::Initialize,
    Function::GenerateKey,
    Function::GenerateKeyPair,
];
/// How long to wait for calls to leave the library before it is made ready anew.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long new calls let those in who want to make it ready anew.
const COURTESY: Duration = Duration::from_millis(200);
/// How long a start may take.
const START: Duration = Duration::from_secs(20);
/// How long a call waits for who has the library for himself before it finds out whether it still makes sense.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn instance() -> Arc<Instance> {
        Instance::new(Path::new("/dev/null").to_owned(), false, Arc::default())
    }

    #[test]
    fn calls_that_follow_one_another_closely_keep_nobody_out() {
        let instance = instance();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                // Overlapping calls: there is always one in the library.
                scope.spawn(|| {
                    while !over.load(Ordering::Acquire) {
                        let waited = instance.wait_while(instance.state(), COURTESY, |it| it.wanted > 0);
                        let (mut state, _) = waited;
                        let visit = state.inside.enter(Instant::now(), PATIENCE);
                        drop(state);
                        thread::sleep(Duration::from_millis(10));
                        instance.left(visit);
                    }
                });
            }
            thread::sleep(Duration::from_millis(50));
            let begun = Instant::now();
            let had = (0..5).all(|_| instance.exclusive().is_ok());
            over.store(true, Ordering::Release);
            assert!(had && begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        });
    }

    #[test]
    fn who_is_in_there_keeps_it_from_being_made_ready_anew_and_from_being_taken_up() {
        let instance = instance();
        let visit = instance.state().inside.enter(Instant::now(), PATIENCE);
        assert!(matches!(instance.restart(0, &Fault::NoObject), Err(Fault::TimedOut(PATIENCE))));
        assert!(instance.leave_behind().is_some() && !instance.is_free());
        instance.left(visit);
        assert!(instance.is_free() && instance.leave_behind().is_none());
    }
}
