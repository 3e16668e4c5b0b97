//! What keyd does with a TPM, command by command. Knows no files and no threads; it waits for the TPM as long as that
//! takes.
//!
//! A key is in the TPM only while it is used. Behind a resource manager the last few stay a while: to load one is half of
//! the work of using it.

use std::sync::Arc;

use key_api::AuthValue;
use tpm_device::command::{CREATE, Command, LOAD, RSA_DECRYPT, SIGN, sized};
use tpm_device::primary::{Hierarchy, STORAGE_ROOT};
use tpm_device::{Connection, Failure, NONE, code};
use zeroize::Zeroizing;

use super::tss2::{Blob, OWNER};
use super::{TpmFault, area};

/// A TPM with a storage root key in place.
pub(super) struct Tpm {
    connection: Connection,
    /// What the owner hierarchy asks for.
    owner: AuthValue,
    /// Keys that stay in the TPM, with their handles; the one used last at the end.
    kept: Vec<(Arc<Blob>, u32)>,
    /// Keys that ask for a password. Each attempt without brings the lockout of the whole TPM nearer.
    locked: Vec<Arc<Blob>>,
}

/// A new key, as its parent wraps it.
pub(super) struct Made {
    pub(super) public: Vec<u8>,
    pub(super) private: Vec<u8>,
}

impl Tpm {
    /// The TPM that `config` names; its storage root key is made if there is none.
    pub(super) fn open(config: &key_api::Tpm) -> Result<Self, TpmFault> {
        let key_api::Tpm { tcti, new_keys: _, hierarchy_authorization } = config;
        let owner = hierarchy_authorization.owner.clone();
        let mut connection = Connection::open(tcti.as_bytes()).map_err(|error| TpmFault::Unreachable {
            tcti: String::from_utf8_lossy(tcti.as_bytes()).into_owned(),
            error,
        })?;
        connection.ensure(&STORAGE_ROOT, |hierarchy| match hierarchy {
            Hierarchy::Owner => owner.as_bytes(),
            Hierarchy::Endorsement => &[], // nothing is done in its name
        })?;
        Ok(Self::new(connection, owner))
    }

    fn new(connection: Connection, owner: AuthValue) -> Self {
        Self { connection, owner, kept: Vec::new(), locked: Vec::new() }
    }

    /// A new key below the storage root key, by a `template`; a key that is given has its bytes in `secret`.
    pub(super) fn create(&mut self, template: &[u8], secret: &[u8]) -> Result<Made, TpmFault> {
        let mut sensitive = Zeroizing::new(Vec::with_capacity(4 + secret.len()));
        sized(&mut sensitive, &[]); // no authorization value
        sized(&mut sensitive, secret);
        let create = Command::new(CREATE)
            .handle(STORAGE_ROOT.handle)
            .password(&[])
            .sized(&sensitive)
            .sized(template)
            .sized(&[]) // nothing to be certified along
            .u32(0); // no PCRs
        let made = self.connection.run(&create, |response| {
            let private = response.sized()?.to_vec();
            Ok(Made { private, public: response.sized()?.to_vec() })
        });
        made.map_err(of_parent)
    }

    /// ECDSA over `digest`, which has the length of the hash: r and s.
    pub(super) fn sign(&mut self, key: &Arc<Blob>, digest: &[u8]) -> Result<[Vec<u8>; 2], TpmFault> {
        let hash = if digest.len() == 48 { SHA384 } else { tpm_device::SHA256 };
        self.with(key, |connection, key| {
            let sign = Command::new(SIGN)
                .handle(key)
                .password(&[])
                .sized(digest)
                .u16(ECDSA)
                .u16(hash)
                .u16(HASH_CHECK) // without proof that the TPM has made the digest
                .u32(NONE)
                .sized(&[]);
            connection.run(&sign, |response| {
                let (_scheme, _hash) = (response.u16()?, response.u16()?);
                Ok([response.sized()?.to_vec(), response.sized()?.to_vec()])
            })
        })
    }

    /// `input ^ d mod n`.
    pub(super) fn rsa(&mut self, key: &Arc<Blob>, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmFault> {
        self.with(key, |connection, key| {
            let decrypt =
                Command::new(RSA_DECRYPT).handle(key).password(&[]).sized(input).u16(NO_SCHEME).sized(&[]);
            connection.run(&decrypt, |response| response.sized())
        })
    }

    /// HMAC-SHA256 of `message`.
    pub(super) fn hmac(&mut self, key: &Arc<Blob>, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, TpmFault> {
        self.with(key, |connection, key| connection.hmac(key, message))
    }

    /// Works with `key` in the TPM, unless it is known to ask for a password.
    fn with<T>(
        &mut self,
        key: &Arc<Blob>,
        work: impl Fn(&mut Connection, u32) -> Result<T, Failure>,
    ) -> Result<T, TpmFault> {
        if self.locked.contains(key) {
            return Err(LOCKED_KEY);
        }
        match self.with_loaded(key, work) {
            Err(fault) if fault.is_lock() => {
                self.locked.push(Arc::clone(key));
                Err(LOCKED_KEY)
            }
            done => done,
        }
    }

    /// Works with `key` in the TPM. A key that stayed may have been removed by others; then it is loaded again.
    fn with_loaded<T>(
        &mut self,
        key: &Arc<Blob>,
        work: impl Fn(&mut Connection, u32) -> Result<T, Failure>,
    ) -> Result<T, TpmFault> {
        if let Some(at) = self.kept.iter().position(|(kept, _)| Arc::ptr_eq(kept, key)) {
            let (_, handle) = self.kept.remove(at);
            match work(&mut self.connection, handle) {
                Err(failure) if is_gone(&failure) => {}
                done => {
                    self.kept.push((Arc::clone(key), handle));
                    return Ok(done?);
                }
            }
        }
        let handle = self.load(key)?;
        let done = work(&mut self.connection, handle);
        match self.connection.is_managed() && done.is_ok() {
            true => self.keep(key, handle),
            false => self.connection.release(handle),
        }
        Ok(done?)
    }

    fn keep(&mut self, key: &Arc<Blob>, handle: u32) {
        if self.kept.len() >= MAX_KEPT {
            let (_, oldest) = self.kept.remove(0);
            self.connection.release(oldest);
        }
        self.kept.push((Arc::clone(key), handle));
    }

    fn load(&mut self, key: &Blob) -> Result<u32, TpmFault> {
        if key.parent != OWNER {
            return self.load_below(key.parent, key);
        }
        // It takes room for two keys, which there may not be.
        while let Some((_, kept)) = self.kept.pop() {
            self.connection.release(kept);
        }
        let (parent, _) =
            self.connection.create_primary(Hierarchy::Owner, &area::owner_root(), self.owner.as_bytes())?;
        let loaded = self.load_below(parent, key);
        self.connection.release(parent);
        loaded
    }

    fn load_below(&mut self, parent: u32, key: &Blob) -> Result<u32, TpmFault> {
        let load = Command::new(LOAD).handle(parent).password(&[]).sized(&key.private).sized(&key.public);
        let loaded = self.connection.run(&load, |response| response.handle());
        let handle = loaded.map_err(|failure| match of_parent(failure) {
            TpmFault::Failed(failure) if failure.blames_input() => TpmFault::NotOurs(failure),
            fault => fault,
        })?;
        // Whatever had this handle is no longer there.
        self.kept.retain(|(_, kept)| *kept != handle);
        Ok(handle)
    }
}

/// What `failure` means for a command that the parent of a key authorizes.
fn of_parent(failure: Failure) -> TpmFault {
    let fault = TpmFault::from(failure);
    if fault.is_lock() { LOCKED_PARENT } else { fault }
}

/// Whether a key is no longer in the TPM.
fn is_gone(failure: &Failure) -> bool {
    matches!(failure.refusal(), Some(code::HANDLE | code::REFERENCE_H0))
}

/// The kernel's resource manager has room for three objects; one is needed for the sequence of an HMAC.
const MAX_KEPT: usize = 2;
const LOCKED_KEY: TpmFault = TpmFault::Locked("the key");
const LOCKED_PARENT: TpmFault = TpmFault::Locked("the parent of the key");
const SHA384: u16 = 0x000C;
const NO_SCHEME: u16 = 0x0010;
const ECDSA: u16 = 0x0018;
/// TPM_ST_HASHCHECK.
const HASH_CHECK: u16 = 0x8024;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tpm_device::{ResponseCode, Transport};

    use super::*;

    /// A TPM that has lost what was in it, and gives the next key that it loads the handle 0x80000001.
    struct Forgetful(u8);

    impl Transport for Forgetful {
        fn send(&mut self, command: &[u8]) -> Result<(), ResponseCode> {
            self.0 = command[9];
            Ok(())
        }

        fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ResponseCode> {
            let good = [0x80, 2, 0, 0, 0, 50, 0, 0, 0, 0, 0, 0, 0, 36, 0, 32];
            Ok(Zeroizing::new(match self.0 {
                0x57 => vec![0x80, 2, 0, 0, 0, 18, 0, 0, 0, 0, 0x80, 0, 0, 1, 0, 0, 0, 0],
                0x55 => [&good[..], &[7; 34]].concat(),
                _ => vec![0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0],
            }))
        }
    }

    #[test]
    fn the_handle_of_a_new_key_is_no_longer_that_of_another() {
        let blob = |byte| Arc::new(Blob { parent: 0x8100_0001, public: vec![byte], private: vec![byte] });
        let (old, other, new) = (blob(1), blob(2), blob(3));
        let connection = Connection::new(Box::new(Forgetful(0)), false);
        let kept = vec![(Arc::clone(&old), 0x8000_0001), (Arc::clone(&other), 0x8000_0002)];
        let mut tpm = Tpm { kept, ..Tpm::new(connection, AuthValue::default()) };
        assert_eq!(*tpm.hmac(&new, b"m").unwrap(), [7; 32]);
        assert!(matches!(&tpm.kept[..], [(key, 0x8000_0002)] if Arc::ptr_eq(key, &other)));
    }
    /// A TPM in which something asks for a password by this command. Counts how often it was asked.
    struct Locked {
        by: u8,
        asked: Arc<AtomicU32>,
        loaded: Forgetful,
    }

    impl Transport for Locked {
        fn send(&mut self, command: &[u8]) -> Result<(), ResponseCode> {
            self.loaded.send(command)
        }

        fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ResponseCode> {
            if self.loaded.0 != self.by {
                return self.loaded.receive();
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            Ok(Zeroizing::new(vec![0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x8E]))
        }
    }

    /// A few attempts more would lock the TPM, for everybody.
    #[test]
    fn what_asks_for_a_password_is_asked_once() {
        for (by, who) in [(0x57, "the parent of the key"), (0x55, "the key"), (0x53, "the parent of the key")]
        {
            let asked = Arc::<AtomicU32>::default();
            let transport = Locked { by, asked: Arc::clone(&asked), loaded: Forgetful(0) };
            let mut tpm = Tpm::new(Connection::new(Box::new(transport), false), AuthValue::default());
            let key = || Arc::new(Blob { parent: STORAGE_ROOT.handle, public: vec![1], private: vec![1] });
            for _ in 0..3 {
                let fault = match by {
                    0x53 => tpm.create(&[], &[]).err(),
                    _ => tpm.hmac(&key(), b"m").err(),
                };
                assert!(matches!(fault, Some(TpmFault::Locked(found)) if found == who), "{fault:?}");
            }
            assert_eq!(asked.load(Ordering::Relaxed), 1, "{by:#x}");
        }
    }
}
