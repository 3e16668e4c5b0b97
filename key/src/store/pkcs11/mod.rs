//! Keys on PKCS #11 tokens (spec keys-service, chapter 10): the tokens that the configuration names, and what can be done
//! with a key at one place on one of them. Knows neither files nor which of several places a key is at.
//!
//! ```text
//!  places ─► keys, pairs, objects ─► token: a queue, threads with sessions, one retry ─► module ─► instance: the library
//! ```

mod back_off;
mod copy;
mod fault;
mod generate;
mod halves;
mod inside;
mod instance;
mod keys;
mod login;
mod module;
mod objects;
mod pairs;
mod pin;
mod public;
mod queue;
mod refused;
mod reply;
mod slot;
mod threads;
mod token;
mod use_key;

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use key_api::{KeyUsage, ObjectName, PinSource, TokenName, TokenUri};
use zeroize::Zeroizing;

use crate::Error;
use crate::algorithm::{Algorithm, Preferences};
use crate::error::Internal;
use crate::id::KeyId;
use crate::store::Gate;
use fault::Remedy;
use generate::Made;
use keys::refusal;
use module::Module;
use objects::{Kept, Purpose};
use threads::Company;
use token::{Call, Changing, Token};

pub use fault::Fault;
pub(super) use keys::{TokenKey, TokenPair};

/// The tokens of a configuration, by name.
pub(super) struct Tokens {
    module: Arc<Module>,
    by_name: BTreeMap<TokenName, Arc<Token>>,
    /// Loads the library.
    start: Option<JoinHandle<()>>,
}

/// A place for one key on a token. The key need not exist.
pub(super) struct Place {
    token: Arc<Token>,
    name: ObjectName,
}

impl Tokens {
    /// The tokens that `uris` name, behind the library at `path`. Where their PINs differ, they are tried in this order,
    /// for a login counts for the whole process. PINs that tokens refuse are remembered below `homedir`.
    pub(super) fn new<'u>(
        path: &Path,
        homedir: Option<&Path>,
        uris: impl Iterator<Item = &'u TokenUri>,
    ) -> Self {
        let module = Arc::new(Module::new(path, homedir));
        let mut pins = BTreeMap::new();
        for uri in uris {
            let of_token: &mut Vec<PinSource> = pins.entry(uri.token().clone()).or_default();
            if let Some(pin) = uri.pin().filter(|pin| !of_token.contains(pin)) {
                of_token.push(pin.clone());
            }
        }
        let token =
            |(name, pins): (TokenName, _)| (name.clone(), Token::new(name, pins, Arc::clone(&module)));
        let by_name = pins.into_iter().map(token).collect();
        Self { module, by_name, start: None }
    }

    /// Loads the library without waiting for it, so that what is wrong with it is told at the start and not to the first who
    /// asks for a key.
    pub(super) fn prepare(&mut self) {
        let module = Arc::clone(&self.module);
        let load = move || {
            if let Err(fault) = module.ready(START).map(drop) {
                tracing::error!("keys on tokens cannot be used: {fault}");
            }
        };
        match thread::Builder::new().name("pkcs11-start".to_owned()).spawn(load) {
            Ok(thread) => self.start = Some(thread),
            Err(error) => tracing::warn!("the PKCS #11 library is loaded when it is needed: {error}"),
        }
    }

    /// Opens a session with the token of `uri`. A PIN that is of no use is logged and no error, lest a service that is
    /// started again and again lock the token.
    pub(super) fn connect(&self, uri: &TokenUri) -> Result<(), Error> {
        let token = self.token(uri);
        match token.call(START, Company::Any, |call| call.sees_all()) {
            Ok(()) => Ok(()),
            Err(fault) if fault.is_of_pin() => {
                tracing::error!("keys on the token {} cannot be used: {fault}", token.name());
                Ok(())
            }
            Err(fault) => {
                Err(Error::TokenUnavailable { token: token.name().to_string(), fault: Box::new(fault) })
            }
        }
    }

    /// The place that `uri` names; with a `label`, that object of its token.
    pub(super) fn place(&self, uri: &TokenUri, label: Option<&str>) -> Place {
        let name = match label {
            Some(label) => ObjectName { label: Some(label.into()), id: None },
            None => uri.object().clone(),
        };
        Place { token: self.token(uri), name }
    }

    fn token(&self, uri: &TokenUri) -> Arc<Token> {
        match self.by_name.get(uri.token()) {
            Some(token) => Arc::clone(token),
            None => Token::new(
                uri.token().clone(),
                uri.pin().cloned().into_iter().collect(),
                Arc::clone(&self.module),
            ),
        }
    }
}

impl Drop for Tokens {
    /// Leaves the tokens in a sane state, and for a while waits until nobody is in the library: what it does when the process
    /// ends goes wrong under calls.
    fn drop(&mut self) {
        let (module, tokens) = (Arc::clone(&self.module), mem::take(&mut self.by_name));
        let start = self.start.take();
        let end = move || {
            // How it went is told already.
            drop(start.map(JoinHandle::join));
            tokens.values().for_each(|token| token.queue.close());
            tokens.values().for_each(|token| token.queue.end());
            module.end();
        };
        let Ok(thread) = thread::Builder::new().name("pkcs11-end".to_owned()).spawn(end) else { return };
        let begun = Instant::now();
        while !thread.is_finished() {
            if begun.elapsed() > LONGEST_FAREWELL {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        // It has ended, but for what libraries do at the end of a thread.
        let _ = thread.join();
    }
}

impl Place {
    /// The symmetric key at this place.
    pub(super) fn load_key(&self, id: &KeyId) -> Result<Arc<TokenKey>, Error> {
        let name = self.name.clone();
        let find = self.token.call(LOOK, Company::Any, move |call| objects::find_key(call, &name));
        match find {
            Ok(Some(_)) => Ok(Arc::new(TokenKey::new(id, &self.token, &self.name))),
            Ok(None) => Err(Error::NoSuchKey(id.clone())),
            Err(fault) => Err(self.refusal(id, fault)),
        }
    }

    /// The key pair at this place.
    pub(super) fn load_pair(&self, id: &KeyId) -> Result<Arc<TokenPair>, Error> {
        let look = |find: pairs::Find| {
            let name = self.name.clone();
            move |call: &Call<'_>| {
                let halves = find(call, &name)?;
                halves.map(|halves| public::public(call.session, halves)).transpose()
            }
        };
        let mut found = self.token.call(LOOK, Company::Any, look(pairs::find_pair));
        if let Err(Fault::Interrupted) = found {
            found = self.token.call(LOOK, Company::Nobody, look(pairs::settle_pair));
        }
        match found {
            Ok(Some(public)) => Ok(Arc::new(TokenPair::new(id, &self.token, &self.name, public))),
            Ok(None) => Err(Error::NoSuchKey(id.clone())),
            Err(fault) => Err(self.refusal(id, fault)),
        }
    }

    /// The right to change the token; held from the look whether there is a key until it is made.
    pub(super) fn change(&self) -> Changing<'_> {
        self.token.change()
    }

    /// Makes a symmetric key unless there is one; whether the token can keep and use it.
    pub(super) fn create_key(&self, id: &KeyId, usage: KeyUsage) -> Result<bool, Error> {
        let (name, purpose) = (self.name.clone(), purpose(id, usage)?);
        let create = self
            .token
            .call(GENERATE, Company::Nobody, move |call| objects::generate_key(call, &name, purpose));
        create.map(|kept| kept == Kept::Yes).map_err(|fault| self.refusal(id, fault))
    }

    /// Puts a symmetric key in the place of what is there; whether the token can keep and use it. If not, what was there
    /// is there still.
    pub(super) fn import_key(&self, id: &KeyId, bytes: &[u8], usage: KeyUsage) -> Result<bool, Error> {
        let (name, purpose) = (self.name.clone(), purpose(id, usage)?);
        let bytes = Zeroizing::new(bytes.to_vec());
        let import = self
            .token
            .call(LOOK, Company::Nobody, move |call| objects::import_key(call, &name, purpose, &bytes));
        import.map(|kept| kept == Kept::Yes).map_err(|fault| self.refusal(id, fault))
    }

    /// Destroys a symmetric key; it may be missing.
    pub(super) fn delete_key(&self, id: &KeyId) -> Result<(), Error> {
        let name = self.name.clone();
        let delete = self.token.call(LOOK, Company::Nobody, move |call| objects::destroy_key(call, &name));
        delete.map_err(|fault| self.refusal(id, fault))
    }

    /// Makes a key pair unless there is one, by the most wanted algorithm that the token can.
    pub(super) fn create_pair(&self, id: &KeyId, preferences: &Preferences) -> Result<(), Error> {
        let end = Instant::now() + GENERATE;
        let mut trouble = None;
        for (position, algorithm) in preferences.iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now()).max(LOOK);
            match self.make_pair(left, algorithm) {
                Ok(Made::Pair) => {
                    if position > 0 {
                        tracing::warn!(
                            "the token has made a key pair by {algorithm:?}, which was not the first choice"
                        );
                    }
                    return Ok(());
                }
                // It may be this algorithm.
                Ok(Made::None(fault)) if fault.remedy() == Remedy::Ask => trouble = Some(fault),
                Ok(Made::None(_)) => {}
                Err(fault) => return Err(self.refusal(id, fault)),
            }
        }
        Err(trouble.map_or_else(|| Error::NoTokenAlgorithm(id.clone()), |fault| self.refusal(id, fault)))
    }

    /// Makes a key pair unless there is one.
    fn make_pair(&self, limit: Duration, algorithm: Algorithm) -> Result<Made, Fault> {
        let name = self.name.clone();
        let company = match algorithm {
            // It takes its time, in which others go on.
            Algorithm::Rsa(_) => Company::Any,
            Algorithm::EcP256 | Algorithm::EcP384 => Company::Nobody,
        };
        self.token.call(limit, company, move |call| pairs::make_pair(call, &name, algorithm))
    }

    /// Destroys a key pair; it may be missing.
    pub(super) fn delete_pair(&self, id: &KeyId) -> Result<(), Error> {
        let name = self.name.clone();
        let delete = self.token.call(LOOK, Company::Nobody, move |call| pairs::destroy_pair(call, &name));
        delete.map_err(|fault| self.refusal(id, fault))
    }

    /// Moves a key pair to another place on the same token, replacing what is there.
    pub(super) fn move_pair(&self, id: &KeyId, to: &Self) -> Result<(), Error> {
        let (from, to) = (self.name.clone(), to.name.clone());
        let has_begun = AtomicBool::new(false);
        let relocate = self
            .token
            .call(LOOK, Company::Nobody, move |call| pairs::move_pair(call, &from, &to, &has_begun));
        match relocate {
            Ok(()) => Ok(()),
            Err(Fault::NoObject) => Err(Internal::NothingToMove(id.clone()).into()),
            Err(fault) => Err(self.refusal(id, fault)),
        }
    }

    /// To be entered before anything else here is called.
    pub(super) fn gate(&self) -> Arc<Gate> {
        self.token.gate()
    }

    /// The token in words.
    pub(super) fn token_name(&self) -> &TokenName {
        self.token.name()
    }

    fn refusal(&self, id: &KeyId, fault: Fault) -> Error {
        refusal(id, &self.token, fault)
    }
}

fn purpose(id: &KeyId, usage: KeyUsage) -> Result<Purpose, Error> {
    Purpose::of(usage).ok_or_else(|| Error::MixedUsage(id.clone()))
}

/// How long a token may take to find or relabel some objects.
const LOOK: Duration = Duration::from_secs(20);
/// How long a token may take to make a key; RSA on a TPM takes its time.
const GENERATE: Duration = Duration::from_secs(120);
/// How long a token may take for the first session; a login may take seconds.
const START: Duration = Duration::from_secs(60);
/// How long the end of keyd waits for tokens that do not answer.
const LONGEST_FAREWELL: Duration = Duration::from_secs(5);
