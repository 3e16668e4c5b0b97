//! The PKCS #11 library: loaded once, made ready, and made ready anew when it has lost its token. Knows no tokens.
//!
//! Making it ready anew (`C_Finalize`, `C_Initialize`) ends the sessions of all tokens. Each time is an *epoch*; sessions
//! and object handles of another epoch must not be used, for their numbers may mean something else by now.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11};
use cryptoki::error::{Error as Pkcs11Error, RvError};

use super::back_off::BackOff;
use super::fault::Fault;
use super::login::Logins;

/// The library at one path.
pub(super) struct Module {
    path: PathBuf,
    logins: Logins,
    state: RwLock<State>,
    /// How many want to have it for themselves and have only begun to wait: new calls let them in.
    wanted: AtomicUsize,
}

#[derive(Default)]
struct State {
    library: Option<Pkcs11>,
    epoch: u64,
    back_off: BackOff,
}

/// The library, ready for calls as long as this is held.
pub(super) struct Ready<'m>(RwLockReadGuard<'m, State>);

impl Module {
    /// The library at `path`, which is not looked at yet. PINs that it refuses are remembered below `homedir`.
    pub(super) fn new(path: &Path, homedir: Option<&Path>) -> Self {
        let logins = Logins::new(homedir.map(|homedir| homedir.join(REFUSED_PINS)));
        Self { path: path.to_owned(), logins, state: RwLock::default(), wanted: AtomicUsize::new(0) }
    }

    /// Who is logged in to the tokens.
    pub(super) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Loads the library and makes it ready unless it is.
    pub(super) fn ready(&self) -> Result<Ready<'_>, Fault> {
        self.let_in();
        loop {
            let state = self.state.read().expect("no panic while held");
            if state.library.is_some() {
                return Ok(Ready(state));
            }
            drop(state);
            let mut state = self.exclusive()?;
            if state.library.is_none() {
                self.start(&mut state)?;
            }
        }
    }

    /// Makes the library ready anew, unless somebody did since `epoch`.
    pub(super) fn restart(&self, epoch: u64, reason: &Fault) -> Result<(), Fault> {
        let mut state = self.exclusive()?;
        if state.epoch != epoch {
            return Ok(());
        }
        tracing::warn!("the PKCS #11 library is made ready anew: {reason}");
        if let Some(library) = state.library.take() {
            finalize(library);
        }
        self.start(&mut state)
    }

    fn start(&self, state: &mut State) -> Result<(), Fault> {
        state.back_off.begin(Instant::now())?;
        let unusable = |error: Pkcs11Error| {
            Fault::Library(format!("{}: {}", self.path.display(), Fault::said("start")(error)))
        };
        state.epoch += 1;
        let library = Pkcs11::new(&self.path).map_err(unusable)?;
        let threads = CInitializeFlags::OS_LOCKING_OK | CInitializeFlags::LIBRARY_CANT_CREATE_OS_THREADS;
        match library.initialize(CInitializeArgs::new(threads)) {
            Ok(()) | Err(Pkcs11Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(unusable(error)),
        }
        if let Err(why) = check(&library) {
            finalize(library);
            return Err(Fault::Library(format!("{}: {why}", self.path.display())));
        }
        state.library = Some(library);
        state.back_off = BackOff::default();
        Ok(())
    }

    /// Lets those in who want the library for themselves, if it does not take long: else calls that follow one another
    /// closely would keep them out.
    fn let_in(&self) {
        let end = Instant::now() + COURTESY;
        while self.wanted.load(Ordering::Acquire) > 0 && Instant::now() < end {
            thread::sleep(POLL);
        }
    }

    /// Waits a moment until no call is in the library.
    fn exclusive(&self) -> Result<RwLockWriteGuard<'_, State>, Fault> {
        let wish = Wish::new(&self.wanted);
        // Waiting in the lock would keep new calls of other tokens out as well, however long one call hangs.
        match self.exclusive_until(Instant::now() + COURTESY) {
            Err(Fault::TimedOut(_)) => {
                drop(wish);
                self.exclusive_until(Instant::now() + PATIENCE)
            }
            done => done,
        }
    }

    fn exclusive_until(&self, end: Instant) -> Result<RwLockWriteGuard<'_, State>, Fault> {
        loop {
            match self.state.try_write() {
                Ok(state) => return Ok(state),
                Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(POLL),
                Err(TryLockError::WouldBlock) => return Err(Fault::TimedOut(PATIENCE)),
                Err(TryLockError::Poisoned(_)) => return Err(Fault::Thread),
            }
        }
    }
}

/// A wish for the library, told to others as long as this lives.
struct Wish<'m>(&'m AtomicUsize);

impl<'m> Wish<'m> {
    fn new(wanted: &'m AtomicUsize) -> Self {
        wanted.fetch_add(1, Ordering::AcqRel);
        Self(wanted)
    }
}

impl Drop for Wish<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Module {
    /// Leaves the token in a sane state, unless a call is still in the library.
    fn drop(&mut self) {
        if let Ok(mut state) = self.state.try_write()
            && let Some(library) = state.library.take()
        {
            finalize(library);
        }
    }
}

impl Ready<'_> {
    /// The library.
    pub(super) fn library(&self) -> Result<&Pkcs11, Fault> {
        self.0.library.as_ref().ok_or(Fault::Thread)
    }

    /// How often it has been made ready.
    pub(super) fn epoch(&self) -> u64 {
        self.0.epoch
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
/// The name of the file beside the directory of keys.
const REFUSED_PINS: &str = "refused-pins";
/// How long to wait for calls to leave the library before it is made ready anew.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long new calls let those in who want to make it ready anew.
const COURTESY: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_follow_one_another_closely_keep_nobody_out() {
        let module = Module::new(Path::new("/dev/null"), None);
        let over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                // Overlapping calls: there is always one in the library.
                scope.spawn(|| {
                    while !over.load(Ordering::Acquire) {
                        module.let_in();
                        let _call = module.state.read().unwrap();
                        thread::sleep(Duration::from_millis(10));
                    }
                });
            }
            thread::sleep(Duration::from_millis(50));
            let begun = Instant::now();
            let had = (0..5).all(|_| module.exclusive().is_ok());
            over.store(true, Ordering::Release);
            assert!(had && begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        });
    }

    #[test]
    fn what_is_no_library_is_refused_with_its_path() {
        let module = Module::new(Path::new("/dev/null"), None);
        let fault = module.ready().err().unwrap();
        assert!(fault.to_string().contains("/dev/null"), "{fault}");
        assert!(matches!(module.ready().err(), Some(Fault::BackingOff(_))));
    }
}
