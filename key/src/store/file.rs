//! Keys in files, one a key, as upstream lays them out (spec keys-service, 9.1). Knows nothing of tokens.
//!
//! Existing files are used as they are. Files are written with mode 0600 below a directory with mode 0700, complete
//! before they get their name. Files that the configuration names (preloaded keys) may be created and imported to, but
//! they are never deleted or moved: the administrator put them there, perhaps behind a link, and who may read them is the
//! administrator's matter.

mod damaged;
mod place;

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use config_common::{durable, open_regular};
use http_common::chain;
use key_api::{KeyUsage, PreloadedUri};
use zeroize::Zeroizing;

use super::cache::{Cache, Stamp};
use super::content::{Content, Fault};
use super::tpm::Tpm;
use super::{Gate, KeyPair, KeyStore, SoftPair, SymmetricKey, Task};
use crate::Error;
use crate::algorithm::Preferences;
use crate::error::Internal;
use crate::id::{KeyId, Permit};
use place::{FILE_MODE, Place};

/// Keys in `<homedir>/keys` and in files that the configuration names.
pub struct FileStore {
    directory: Option<PathBuf>,
    preloaded: BTreeMap<String, PreloadedUri>,
    tpm: Option<Tpm>,
    cache: Cache,
    /// Held by whoever changes files, so that looking and changing are one step.
    changing: Mutex<()>,
}

impl FileStore {
    /// The store below `homedir`, with `preloaded` keys at places of their own. Removes what a crash left half-written.
    pub fn new(homedir: Option<&Path>, preloaded: BTreeMap<String, PreloadedUri>) -> Self {
        let directory = homedir.map(|homedir| homedir.join("keys"));
        match directory.as_deref().map(durable::clean_leftovers) {
            None | Some(Ok(0)) => {}
            Some(Ok(removed)) => tracing::warn!("removed {removed} half-written key files"),
            Some(Err(error)) => tracing::warn!("half-written key files may be left: {}", chain(&error)),
        }
        Self { directory, preloaded, tpm: None, cache: Cache::default(), changing: Mutex::default() }
    }

    /// The same with the TPM that `config` names: keys may be wrapped by it, and are made in it where it says so.
    pub fn with_tpm(self, config: Option<&key_api::Tpm>) -> Result<Self, Error> {
        let tpm = config.map(Tpm::new).transpose()?;
        Ok(Self { tpm, ..self })
    }

    fn place(&self, key: &Permit) -> Result<Place, Error> {
        let id = key.id();
        let usual = || {
            let directory = self.directory.as_ref().ok_or_else(|| Error::NoPlace(id.clone()))?;
            file_name(id).map(|name| directory.join(name))
        };
        match self.preloaded.get(id.as_str()) {
            Some(PreloadedUri::File(path)) => {
                Ok(Place { path: path.clone(), is_preloaded: true, is_of_admin: true })
            }
            Some(PreloadedUri::Pkcs11(_)) => Err(Error::NoToken(id.clone())),
            Some(PreloadedUri::Tpm(_)) if self.tpm.is_none() => Err(Error::NoTpm(id.clone())),
            Some(PreloadedUri::Tpm(own)) => {
                let path = own.clone().map_or_else(usual, Ok)?;
                Ok(Place { path, is_preloaded: true, is_of_admin: false })
            }
            None => Ok(Place { path: usual()?, is_preloaded: false, is_of_admin: false }),
        }
    }

    /// The TPM, if a new key with this id is to be made in it. The key that makes handles genuine is not: it is needed for
    /// every request, also for keys that have nothing to do with the TPM.
    fn maker(&self, key: &Permit) -> Option<&Tpm> {
        let tpm = self.tpm.as_ref()?;
        let is_wanted = match self.preloaded.get(key.id().as_str()) {
            Some(PreloadedUri::Tpm(_)) => true,
            Some(PreloadedUri::File(_) | PreloadedUri::Pkcs11(_)) => false,
            None => tpm.makes_new_keys() && !key.id().is_validation_key(),
        };
        is_wanted.then_some(tpm)
    }

    /// What is at `place` as a symmetric key: nothing to do, or what is damaged there.
    fn room_for_key(&self, id: &KeyId, place: &Place) -> Result<Room, Error> {
        match self.content(id, place)?.key {
            Ok(_) => Ok(Room::Taken),
            Err(fault) => vacancy(id, place, fault).map(Room::Free),
        }
    }

    /// The same as a key pair.
    fn room_for_pair(&self, id: &KeyId, place: &Place) -> Result<Room, Error> {
        match self.content(id, place)?.pair {
            Ok(_) => Ok(Room::Taken),
            Err(fault) => vacancy(id, place, fault).map(Room::Free),
        }
    }

    /// What is at `place` now, from memory or from the disk.
    fn content(&self, id: &KeyId, place: &Place) -> Result<Content, Error> {
        if let Some(content) = self.cache.get(id.as_str(), Content::clone) {
            return Ok(content);
        }
        match read(&place.path) {
            Ok((bytes, stamp)) => {
                let content = Content::of(bytes, place.is_of_admin, self.tpm.as_ref());
                self.cache.put(id.as_str(), &place.path, stamp, &content);
                Ok(content)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.cache.forget(id.as_str());
                Ok(Content::missing())
            }
            Err(source) => Err(Internal::Unreadable { path: place.path.clone(), source }.into()),
        }
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().expect("no panic while held")
    }

    /// Puts a key to its place. With `damage`, what is there is kept beside it.
    fn write(&self, id: &KeyId, place: &Place, bytes: &[u8], damage: Option<&str>) -> Result<(), Error> {
        let (path, mut mode) = place.target(self.directory.as_deref())?;
        if let Some(damage) = damage {
            // What was useless may be open to all, what takes its place is secret.
            mode = FILE_MODE;
            let beside = damaged::keep(&path)?;
            tracing::error!(
                "the file of key {id} was unusable ({damage}); a new key takes its place, the old file is kept as {}",
                beside.display()
            );
        }
        if let Some(directory) = self.directory.as_ref().filter(|directory| path.starts_with(directory)) {
            durable::create_dir(directory, DIRECTORY_MODE).map_err(Internal::Unwritable)?;
        }
        durable::rewrite(&path, bytes, mode).map_err(Internal::Unwritable)?;
        self.cache.forget(id.as_str());
        Ok(())
    }

    /// Removes the file of `key` if `may_go` has nothing against its content.
    fn delete(&self, key: &Permit, may_go: impl FnOnce(&Content) -> Result<(), Error>) -> Result<(), Error> {
        let place = self.place(key)?;
        if place.is_preloaded {
            return Err(Error::Preloaded(key.id().clone()));
        }
        let _changing = self.change();
        let content = self.content(key.id(), &place)?;
        // It may be of either kind.
        if let Err(fault @ Fault::Foreign(_)) = &content.key {
            return Err(refusal(key.id(), &place, fault.clone()));
        }
        may_go(&content)?;
        durable::remove(&place.path).map_err(Internal::Unwritable)?;
        self.cache.forget(key.id().as_str());
        Ok(())
    }
}

impl KeyStore for FileStore {
    /// The text of a file is enough to load a key of the TPM.
    fn gate(&self, key: &Permit, task: Task) -> Option<Arc<Gate>> {
        match task {
            Task::LoadKey | Task::LoadPair => None,
            Task::Change => self.maker(key).map(Tpm::gate),
        }
    }

    fn key_at_hand(&self, key: &Permit) -> Option<Arc<dyn SymmetricKey>> {
        let key = self.cache.get(key.id().as_str(), |content| content.key.clone().ok())??;
        Some(key)
    }

    fn load_key(&self, key: &Permit) -> Result<Arc<dyn SymmetricKey>, Error> {
        let place = self.place(key)?;
        match self.content(key.id(), &place)?.key {
            Ok(key) => Ok(key),
            Err(fault) => Err(refusal(key.id(), &place, fault)),
        }
    }

    fn create_key(&self, key: &Permit, usage: KeyUsage) -> Result<(), Error> {
        let (id, place) = (key.id(), self.place(key)?);
        // The TPM takes its time, in which others may change keys; what they did is looked at afterwards.
        let wrapped = match self.maker(key) {
            Some(tpm) if matches!(self.room_for_key(id, &place)?, Room::Free(_)) => {
                tpm.make_key(id, None, usage)?
            }
            _ => None,
        };
        let _changing = self.change();
        let Room::Free(damage) = self.room_for_key(id, &place)? else { return Ok(()) };
        if let Some(wrapped) = wrapped {
            return self.write(id, &place, &wrapped, damage.as_deref());
        }
        let mut bytes = Zeroizing::new([0; KEY_LENGTH]);
        openssl::rand::rand_bytes(&mut bytes[..]).map_err(Error::crypto("make random numbers"))?;
        self.write(id, &place, &bytes[..], damage.as_deref())
    }

    fn import_key(&self, key: &Permit, bytes: &[u8], usage: KeyUsage) -> Result<(), Error> {
        let (id, place) = (key.id(), self.place(key)?);
        let wrapped = match self.maker(key) {
            Some(tpm) => tpm.make_key(id, Some(bytes), usage)?,
            None => None,
        };
        let _changing = self.change();
        self.write(id, &place, wrapped.as_deref().unwrap_or(bytes), None)
    }

    fn delete_key(&self, key: &Permit) -> Result<(), Error> {
        self.delete(key, |content| match content.key {
            Err(Fault::IsPair) => Err(Error::IsKeyPair(key.id().clone())),
            _ => Ok(()),
        })
    }

    fn makes_pairs_elsewhere(&self, key: &Permit) -> bool {
        self.maker(key).is_some()
    }

    fn pair_at_hand(&self, key: &Permit) -> Option<Arc<dyn KeyPair>> {
        let pair = self.cache.get(key.id().as_str(), |content| content.pair.clone().ok())??;
        Some(pair)
    }

    fn load_pair(&self, key: &Permit) -> Result<Arc<dyn KeyPair>, Error> {
        let place = self.place(key)?;
        match self.content(key.id(), &place)?.pair {
            Ok(pair) => Ok(pair),
            // Upstream's status for a symmetric key here is 500 as well.
            Err(fault) => Err(refusal(key.id(), &place, fault)),
        }
    }

    fn create_pair(&self, key: &Permit, preferences: &Preferences) -> Result<(), Error> {
        let (id, place) = (key.id(), self.place(key)?);
        let Room::Free(_) = self.room_for_pair(id, &place)? else { return Ok(()) };
        // Others may change keys while this one is made; what they did in the meantime is looked at afterwards.
        let pem = match self.maker(key) {
            Some(tpm) => Zeroizing::new(tpm.make_pair(id, preferences)?),
            None => SoftPair::generate(preferences.first())?,
        };
        let _changing = self.change();
        let Room::Free(damage) = self.room_for_pair(id, &place)? else { return Ok(()) };
        self.write(id, &place, &pem, damage.as_deref())
    }

    fn is_preloaded(&self, key: &Permit) -> bool {
        self.preloaded.contains_key(key.id().as_str())
    }

    fn move_pair(&self, from: &Permit, to: &Permit) -> Result<(), Error> {
        let (source, target) = (self.place(from)?, self.place(to)?);
        for (place, key) in [(&source, from), (&target, to)] {
            if place.is_preloaded {
                return Err(Error::Preloaded(key.id().clone()));
            }
        }
        let _changing = self.change();
        match self.content(from.id(), &source)?.pair {
            Ok(_) => {}
            Err(Fault::Missing) => return Err(Internal::NothingToMove(from.id().clone()).into()),
            Err(Fault::IsKey) => return Err(Error::IsKey(from.id().clone())),
            Err(fault) => return Err(refusal(from.id(), &source, fault)),
        }
        if matches!(self.content(to.id(), &target)?.pair, Err(Fault::IsKey)) {
            return Err(Error::IsKey(to.id().clone()));
        }
        let moved = durable::rename(&source.path, &target.path).map_err(Internal::Unwritable);
        self.cache.forget(from.id().as_str());
        self.cache.forget(to.id().as_str());
        Ok(moved?)
    }

    fn delete_pair(&self, key: &Permit) -> Result<(), Error> {
        self.delete(key, |content| match content.pair {
            Err(Fault::IsKey) => Err(Error::IsKey(key.id().clone())),
            _ => Ok(()),
        })
    }
}

/// Whether a new key may be put to a place.
enum Room {
    /// There is such a key.
    Taken,
    /// It may; what is damaged there is told.
    Free(Option<String>),
}

/// The refusal to load a key.
fn refusal(id: &KeyId, place: &Place, fault: Fault) -> Error {
    let unusable = |why| Internal::Unusable { path: place.path.clone(), why }.into();
    match fault {
        Fault::Missing => Error::NoSuchKey(id.clone()),
        Fault::IsPair => Error::IsKeyPair(id.clone()),
        Fault::IsKey => unusable("it is not a PEM private key".to_owned()),
        Fault::Damaged(why) => unusable(why),
        Fault::Foreign(why) => unusable(why.to_owned()),
    }
}

/// Whether a new key may take the place, and if so, what is damaged there; refused if a key would be destroyed.
fn vacancy(id: &KeyId, place: &Place, fault: Fault) -> Result<Option<String>, Error> {
    match fault {
        Fault::Missing => Ok(None),
        Fault::Damaged(why) => Ok(Some(why)),
        Fault::IsKey => Err(Error::IsKey(id.clone())),
        fault @ (Fault::IsPair | Fault::Foreign(_)) => Err(refusal(id, place, fault)),
    }
}

/// The bytes of a key file, and the stamp it had before they were read.
fn read(path: &Path) -> io::Result<(Zeroizing<Vec<u8>>, Stamp)> {
    let file = open_regular(path)?;
    let meta = file.metadata()?;
    let length = usize::try_from(meta.len()).unwrap_or(MAX_FILE).min(MAX_FILE);
    // One more than the file has: a vector that needs not grow leaves no copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() > MAX_FILE {
        true => Err(ErrorKind::FileTooLarge.into()),
        false => Ok((bytes, Stamp::of(&meta))),
    }
}

/// `<S>-<H>.key`: the ASCII letters and digits of the id, and the SHA-256 of all of it in lower-case hex.
fn file_name(id: &KeyId) -> Result<String, Error> {
    let mut name: String = id.as_str().chars().filter(char::is_ascii_alphanumeric).collect();
    if name.len() > MAX_NAME - HASH_AND_SUFFIX {
        return Err(Error::IdTooLong { id: id.clone(), max: MAX_NAME - HASH_AND_SUFFIX });
    }
    name.push('-');
    for byte in openssl::sha::sha256(id.as_str().as_bytes()) {
        name.push(char::from(HEX[usize::from(byte >> 4)]));
        name.push(char::from(HEX[usize::from(byte & 15)]));
    }
    name.push_str(".key");
    Ok(name)
}

/// Bytes of a generated symmetric key.
const KEY_LENGTH: usize = 32;
/// A larger file is no key; imports are bounded by the largest request.
const MAX_FILE: usize = 1 << 20;
/// The longest file name that Linux file systems take, in bytes.
const MAX_NAME: usize = 255;
const HASH_AND_SUFFIX: usize = 1 + 64 + 4;
const HEX: &[u8; 16] = b"0123456789abcdef";
const DIRECTORY_MODE: u32 = 0o700;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preloaded_place_that_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert_eq!(read(&pipe).unwrap_err().kind(), ErrorKind::InvalidInput);
    }

    #[test]
    fn file_names() {
        let check = |id: &str, expected: &str| {
            assert_eq!(file_name(&KeyId::new(id).unwrap()).unwrap(), expected);
        };
        check("", "-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.key");
        check("demo key/1", "demokey1-4df6bd919836f92c2ce2f55f0972866f2eae7563dae2ed091e86f70068a3b058.key");
        let id = |letters| KeyId::new("ä".repeat(300) + &"a".repeat(letters)).unwrap();
        assert_eq!(file_name(&id(186)).unwrap().len(), 255);
        assert!(matches!(file_name(&id(187)), Err(Error::IdTooLong { max: 186, .. })));
    }
}
