//! Keys on tokens and in files: which place is asked in which order (spec keys-service, chapter 7, 9.2 to 9.4, 9.8, 9.9).
//! Knows neither how files nor how tokens work.
//!
//! | key | places |
//! |---|---|
//! | preloaded from a file | that file |
//! | preloaded from a token | that object |
//! | any other, with a base slot | the object of its name there, then the file |
//! | any other, without | the file |
//!
//! What has been found is remembered, and so is that the token does not have a key: then its file is used without asking
//! the token, which may be slow or broken.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use key_api::{AziotKeys, Config, KeyUsage, PreloadedUri, TokenUri};

use super::known::{Found, Known};
use super::pkcs11::{Place, TokenKey, TokenPair, Tokens};
use super::{Fault, FileStore, Gate, KeyPair, KeyStore, SymmetricKey, Task};
use crate::Error;
use crate::algorithm::Preferences;
use crate::error::Internal;
use crate::id::{KeyId, Permit};

/// Keys on tokens and in files.
pub struct LocatedStore {
    files: FileStore,
    has_files: bool,
    tokens: Tokens,
    base: Option<TokenUri>,
    preloaded: BTreeMap<String, PreloadedUri>,
    keys: Known<TokenKey>,
    pairs: Known<TokenPair>,
}

impl LocatedStore {
    /// The stores of `config`, with the tokens behind the library at `path`. With a base slot its token has to be there.
    pub fn new(path: &Path, config: &Config) -> Result<Self, Error> {
        let AziotKeys { homedir_path, pkcs11_lib_path: _, pkcs11_base_slot: base } = &config.aziot_keys;
        let preloaded = config.preloaded_keys.values().filter_map(|uri| match uri {
            PreloadedUri::Pkcs11(uri) => Some(uri),
            PreloadedUri::File(_) | PreloadedUri::Tpm(_) => None,
        });
        let mut tokens = Tokens::new(path, homedir_path.as_deref(), base.iter().chain(preloaded));
        match base {
            Some(base) => tokens.connect(base)?,
            None => tokens.prepare(),
        }
        Ok(Self {
            files: FileStore::new(homedir_path.as_deref(), config.preloaded_keys.clone())
                .with_tpm(config.tpm.as_ref())?,
            has_files: homedir_path.is_some(),
            tokens,
            base: base.clone(),
            preloaded: config.preloaded_keys.clone(),
            keys: Known::default(),
            pairs: Known::default(),
        })
    }

    fn on_token(&self, id: &KeyId) -> Option<OnToken> {
        match (self.preloaded.get(id.as_str()), &self.base) {
            (Some(PreloadedUri::File(_) | PreloadedUri::Tpm(_)), _) | (None, None) => None,
            (Some(PreloadedUri::Pkcs11(uri)), _) => {
                Some(OnToken { place: self.tokens.place(uri, None), is_preloaded: true })
            }
            (None, Some(base)) => {
                Some(OnToken { place: self.tokens.place(base, Some(id.as_str())), is_preloaded: false })
            }
        }
    }

    /// Whether no token is asked for the key.
    fn is_in_file_only(&self, id: &KeyId) -> bool {
        match self.preloaded.get(id.as_str()) {
            Some(PreloadedUri::File(_) | PreloadedUri::Tpm(_)) => true,
            Some(PreloadedUri::Pkcs11(_)) => false,
            None => self.base.is_none(),
        }
    }

    /// The place on a token of a key that is to be deleted or moved.
    fn removable(&self, id: &KeyId) -> Result<Option<Place>, Error> {
        match self.on_token(id) {
            Some(OnToken { is_preloaded: true, .. }) => Err(Error::Preloaded(id.clone())),
            Some(OnToken { place, .. }) => Ok(Some(place)),
            None => Ok(None),
        }
    }

    fn find_key(&self, place: &OnToken, key: &Permit) -> Result<Search<dyn SymmetricKey>, Error> {
        let id = key.id();
        let seen = self.keys.look();
        if !self.keys.is_not_here(id) {
            match place.place.load_key(id) {
                Ok(found) => {
                    self.keys.put(id, Found::Here(Arc::clone(&found)), seen);
                    return Ok(Search::Found(found));
                }
                Err(Error::NoSuchKey(_)) => self.keys.forget(id),
                Err(error) if self.has_file(place) && is_hidden(&error) => {
                    return self.files.load_key(key).map(Search::Found).map_err(|_| error);
                }
                Err(error) => return Err(error),
            }
        }
        if !self.has_file(place) {
            return Ok(Search::Missing);
        }
        let found = Search::of_file(self.files.load_key(key));
        match found {
            Search::Found(_) => self.keys.put(id, Found::NotHere, seen),
            Search::Missing | Search::BadFile(_) => self.keys.forget(id),
        }
        Ok(found)
    }

    fn find_pair(&self, place: &OnToken, key: &Permit) -> Result<Search<dyn KeyPair>, Error> {
        let id = key.id();
        let seen = self.pairs.look();
        if !self.pairs.is_not_here(id) {
            match place.place.load_pair(id) {
                Ok(found) => {
                    self.pairs.put(id, Found::Here(Arc::clone(&found)), seen);
                    return Ok(Search::Found(found));
                }
                Err(Error::NoSuchKey(_)) => self.pairs.forget(id),
                Err(error) if self.has_file(place) && is_hidden(&error) => {
                    return self.files.load_pair(key).map(Search::Found).map_err(|_| error);
                }
                Err(error) => return Err(error),
            }
        }
        if !self.has_file(place) {
            return Ok(Search::Missing);
        }
        let found = Search::of_file(self.files.load_pair(key));
        match found {
            Search::Found(_) => self.pairs.put(id, Found::NotHere, seen),
            Search::Missing | Search::BadFile(_) => self.pairs.forget(id),
        }
        Ok(found)
    }

    /// Whether a key at `place` may be in a file instead.
    fn has_file(&self, place: &OnToken) -> bool {
        self.has_files && !place.is_preloaded
    }

    /// Whether a key may be kept in a file because its token cannot keep it, which the log tells.
    fn falls_back(&self, place: &OnToken, id: &KeyId) -> Result<(), Error> {
        let token = place.place.token_name();
        if !self.has_file(place) {
            return Err(Internal::NotKept { id: id.clone(), token: token.to_string() }.into());
        }
        tracing::warn!("the token {token} cannot keep or use the key {id}, which is kept in a file instead");
        Ok(())
    }
}

/// Whether a token may have a key, but does not show it without a login: then a file is used as before, if there is one.
fn is_hidden(error: &Error) -> bool {
    matches!(error, Error::TokenUnavailable { fault, .. } if matches!(**fault, Fault::PinMissing))
}

/// What became of a file that was to be deleted: an id that is too long for one has none.
fn none_if_too_long(deleted: Result<(), Error>) -> Result<(), Error> {
    match deleted {
        Err(Error::IdTooLong { .. }) => Ok(()),
        deleted => deleted,
    }
}

/// What is found of a key in the places where it may be.
enum Search<T: ?Sized> {
    /// It is there.
    Found(Arc<T>),
    /// There is none.
    Missing,
    /// It is not on its token, and its file is of no use.
    BadFile(Error),
}

impl<T: ?Sized> Search<T> {
    fn or_missing(self, id: &KeyId) -> Result<Arc<T>, Error> {
        match self {
            Self::Found(key) => Ok(key),
            Self::Missing => Err(Error::NoSuchKey(id.clone())),
            Self::BadFile(error) => Err(error),
        }
    }

    /// What a file says of a key that its token does not have.
    fn of_file(loaded: Result<Arc<T>, Error>) -> Self {
        match loaded {
            Ok(key) => Self::Found(key),
            // An id that is too long for a file has none.
            Err(Error::NoSuchKey(_) | Error::IdTooLong { .. }) => Self::Missing,
            Err(error) => Self::BadFile(error),
        }
    }
}

/// A place on a token.
struct OnToken {
    place: Place,
    is_preloaded: bool,
}

impl KeyStore for LocatedStore {
    fn gate(&self, key: &Permit, task: Task) -> Option<Arc<Gate>> {
        let id = key.id();
        let is_in_file = match task {
            Task::LoadKey => self.keys.is_not_here(id),
            Task::LoadPair => self.pairs.is_not_here(id),
            Task::Change => false,
        };
        match self.on_token(id) {
            Some(_) if is_in_file => None,
            Some(OnToken { place, .. }) => Some(place.gate()),
            None => self.files.gate(key, task),
        }
    }

    fn key_at_hand(&self, key: &Permit) -> Option<Arc<dyn SymmetricKey>> {
        match self.keys.get(key.id()) {
            Some(Found::Here(found)) if !found.is_gone() => Some(found),
            Some(Found::NotHere) => self.files.key_at_hand(key),
            None if self.is_in_file_only(key.id()) => self.files.key_at_hand(key),
            Some(Found::Here(_)) | None => None,
        }
    }

    fn load_key(&self, key: &Permit) -> Result<Arc<dyn SymmetricKey>, Error> {
        match self.on_token(key.id()) {
            Some(place) => self.find_key(&place, key)?.or_missing(key.id()),
            None => self.files.load_key(key),
        }
    }

    fn create_key(&self, key: &Permit, usage: KeyUsage) -> Result<(), Error> {
        let id = key.id();
        let Some(place) = self.on_token(id) else { return self.files.create_key(key, usage) };
        let _changing = place.place.change();
        match self.find_key(&place, key)? {
            Search::Found(_) => return Ok(()),
            Search::Missing => {}
            // The store of files decides what becomes of a file that is of no use.
            Search::BadFile(_) => return self.files.create_key(key, usage),
        }
        let is_kept = place.place.create_key(id, usage);
        self.keys.has_changed(id);
        if is_kept? {
            return Ok(());
        }
        self.falls_back(&place, id)?;
        self.files.create_key(key, usage)
    }

    fn import_key(&self, key: &Permit, bytes: &[u8], usage: KeyUsage) -> Result<(), Error> {
        let id = key.id();
        let Some(place) = self.on_token(id) else { return self.files.import_key(key, bytes, usage) };
        let _changing = place.place.change();
        let is_kept = place.place.import_key(id, bytes, usage);
        self.keys.has_changed(id);
        if !is_kept? {
            self.falls_back(&place, id)?;
            self.files.import_key(key, bytes, usage)?;
            // The token is asked first: what it has would hide the file.
            let deleted = place.place.delete_key(id);
            self.keys.has_changed(id);
            deleted?;
        }
        Ok(())
    }

    fn delete_key(&self, key: &Permit) -> Result<(), Error> {
        let Some(place) = self.removable(key.id())? else { return self.files.delete_key(key) };
        let _changing = place.change();
        let deleted = place.delete_key(key.id());
        self.keys.has_changed(key.id());
        deleted?;
        if self.has_files { none_if_too_long(self.files.delete_key(key)) } else { Ok(()) }
    }

    fn makes_pairs_elsewhere(&self, key: &Permit) -> bool {
        !self.is_in_file_only(key.id()) || self.files.makes_pairs_elsewhere(key)
    }

    fn pair_at_hand(&self, key: &Permit) -> Option<Arc<dyn KeyPair>> {
        match self.pairs.get(key.id()) {
            Some(Found::Here(found)) if !found.is_gone() => Some(found),
            Some(Found::NotHere) => self.files.pair_at_hand(key),
            None if self.is_in_file_only(key.id()) => self.files.pair_at_hand(key),
            Some(Found::Here(_)) | None => None,
        }
    }

    fn load_pair(&self, key: &Permit) -> Result<Arc<dyn KeyPair>, Error> {
        match self.on_token(key.id()) {
            Some(place) => self.find_pair(&place, key)?.or_missing(key.id()),
            None => self.files.load_pair(key),
        }
    }

    fn create_pair(&self, key: &Permit, preferences: &Preferences) -> Result<(), Error> {
        let id = key.id();
        let Some(place) = self.on_token(id) else { return self.files.create_pair(key, preferences) };
        let _changing = place.place.change();
        match self.find_pair(&place, key)? {
            Search::Found(_) => return Ok(()),
            // A file that is of no use is no reason against a pair on the token.
            Search::Missing | Search::BadFile(_) => {}
        }
        let created = place.place.create_pair(id, preferences);
        self.pairs.has_changed(id);
        created
    }

    fn is_preloaded(&self, key: &Permit) -> bool {
        self.preloaded.contains_key(key.id().as_str())
    }

    fn move_pair(&self, from: &Permit, to: &Permit) -> Result<(), Error> {
        let (Some(source), Some(target)) = (self.removable(from.id())?, self.removable(to.id())?) else {
            // At least one of the two is a preloaded file, which is refused there, or there is no base slot.
            return self.files.move_pair(from, to);
        };
        let _changing = source.change();
        let moved = source.move_pair(from.id(), &target);
        self.pairs.has_changed(from.id());
        self.pairs.has_changed(to.id());
        moved
    }

    fn delete_pair(&self, key: &Permit) -> Result<(), Error> {
        let Some(place) = self.removable(key.id())? else { return self.files.delete_pair(key) };
        let _changing = place.change();
        let deleted = place.delete_pair(key.id());
        self.pairs.has_changed(key.id());
        deleted?;
        if self.has_files { none_if_too_long(self.files.delete_pair(key)) } else { Ok(()) }
    }
}
