//! Wrapped keys (spec tpm-service, chapter 7): to import one, unwrap it, and only then let go of the one before it.

use tpm_device::command::{ACTIVATE_CREDENTIAL, Command, IMPORT, LOAD, POLICY_SECRET, START_AUTH_SESSION};
use tpm_device::primary::{ENDORSEMENT, Hierarchy, STORAGE_ROOT};
use tpm_device::{Failure, NONE, Refusal, SHA256, code};
use zeroize::Zeroizing;

use super::{Tpm, TpmError, value};
use crate::wrapped::{WrappedKey, is_hmac_key};

impl Tpm {
    /// Makes the key that is wrapped in `bytes` the auth key. Until the TPM has accepted it, the one before it stays.
    pub(crate) fn import(&mut self, bytes: &[u8]) -> Result<(), TpmError> {
        let key = WrappedKey::parse(bytes)?;
        let previous = self.connection.read_public(self.auth_key)?;
        if previous.as_ref().is_some_and(|public| !is_hmac_key(public)) {
            return Err(TpmError::Taken { handle: self.auth_key });
        }
        self.has_auth_key = previous.is_some();
        let loaded = self.load(&key)?;
        self.with(loaded, |tpm, loaded| {
            // It may want an authorization value that nobody has.
            tpm.connection.hmac(loaded, &[]).map_err(useless)?;
            if tpm.has_auth_key {
                tpm.evict(tpm.auth_key)?;
                tpm.has_auth_key = false;
            }
            tpm.evict(loaded)?;
            tpm.has_auth_key = true;
            Ok(())
        })
    }

    /// HMAC-SHA256 of `data` with the key that is wrapped in `bytes`. The auth key is not touched.
    pub(crate) fn sign_once(&mut self, bytes: &[u8], data: &[u8]) -> Result<Vec<u8>, TpmError> {
        let loaded = self.load(&WrappedKey::parse(bytes)?)?;
        self.with(loaded, |tpm, loaded| Ok(tpm.connection.hmac(loaded, data)?.to_vec()))
    }

    /// Makes a transient `object` the auth key, or removes the one there is.
    fn evict(&mut self, object: u32) -> Result<(), TpmError> {
        let owner = value(&self.authorization, Hierarchy::Owner);
        Ok(self.connection.evict_control(object, self.auth_key, owner)?)
    }

    /// The key as a transient object.
    fn load(&mut self, key: &WrappedKey<'_>) -> Result<u32, TpmError> {
        let private = self.unwrap(key).map_err(|error| self.blame(error))?;
        let load =
            Command::new(LOAD).handle(STORAGE_ROOT.handle).password(&[]).sized(&private).sized(key.public);
        self.connection.run(&load, |response| response.handle()).map_err(not_ours)
    }

    /// The private part, wrapped anew by the storage root key.
    fn unwrap(&mut self, key: &WrappedKey<'_>) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let inner_key = self.unwrap_credential(key)?;
        let import = Command::new(IMPORT)
            .handle(STORAGE_ROOT.handle)
            .password(&[])
            .sized(&inner_key)
            .sized(key.public)
            .sized(key.duplicate)
            .sized(key.seed)
            .raw(&AES_128_CFB);
        self.connection.run(&import, |response| response.sized()).map_err(not_ours)
    }

    /// Some TPMs report a secret that was not encrypted to them as if they had failed. If they go on working, it was the key.
    fn blame(&mut self, error: TpmError) -> TpmError {
        match error {
            TpmError::Failed(failure)
                if failure.refusal() == Some(code::FAILURE)
                    && self.connection.read_public(ENDORSEMENT.handle).is_ok() =>
            {
                TpmError::NotOurs(failure)
            }
            error => error,
        }
    }

    /// The key of the inner wrapper: the TPM gives it to nobody but the one it was made for.
    fn unwrap_credential(&mut self, key: &WrappedKey<'_>) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let mut nonce = [0; 32];
        openssl::rand::rand_bytes(&mut nonce).map_err(TpmError::NoRandomness)?;
        let start = Command::new(START_AUTH_SESSION)
            .handle(NONE)
            .handle(NONE)
            .sized(&nonce)
            .sized(&[]) // no salt
            .raw(&[POLICY_SESSION])
            .raw(&AES_128_CFB)
            .u16(SHA256);
        let session = self.connection.run(&start, |response| response.handle())?;
        self.with(session, |tpm, session| {
            let secret = Command::new(POLICY_SECRET)
                .handle(Hierarchy::Endorsement.handle())
                .handle(session)
                .password(value(&tpm.authorization, Hierarchy::Endorsement))
                .sized(&[]) // no nonce, no parameters' hash, no reference, no expiration
                .sized(&[])
                .sized(&[])
                .u32(0);
            tpm.connection.order(&secret).map_err(|failure| Refusal::by(Hierarchy::Endorsement, failure))?;
            let activate = Command::new(ACTIVATE_CREDENTIAL)
                .handle(STORAGE_ROOT.handle)
                .handle(ENDORSEMENT.handle)
                .password(&[])
                .policy(session)
                .sized(key.credential)
                .sized(key.credential_seed);
            tpm.connection.run(&activate, |response| response.sized()).map_err(not_ours)
        })
    }
}

fn useless(failure: Failure) -> TpmError {
    match failure.blames_input() {
        true => TpmError::Useless(failure),
        false => failure.into(),
    }
}

fn not_ours(failure: Failure) -> TpmError {
    match failure.refusal() {
        // It is the storage root key that asks for a password.
        Some(code::AUTH_FAIL | code::BAD_AUTH) => failure.into(),
        _ if failure.blames_input() => TpmError::NotOurs(failure),
        _ => failure.into(),
    }
}

const POLICY_SESSION: u8 = 1;
const AES_128_CFB: [u8; 6] = [0, 0x06, 0, 0x80, 0, 0x43];

#[cfg(test)]
mod tests {
    use tpm_device::{Connection, ResponseCode, Transport};

    use super::*;

    /// A TPM that answers every command with this code.
    struct Refusing(u32);

    impl Transport for Refusing {
        fn send(&mut self, _command: &[u8]) -> Result<(), ResponseCode> {
            Ok(())
        }

        fn receive(&mut self) -> Result<Zeroizing<Vec<u8>>, ResponseCode> {
            Ok(Zeroizing::new([&[0x80, 1, 0, 0, 0, 10][..], &self.0.to_be_bytes()].concat()))
        }
    }

    #[test]
    fn a_key_is_not_blamed_for_a_tpm_that_is_busy() {
        let refusal = |code| Connection::new(Box::new(Refusing(code)), false).hmac(1, &[]).unwrap_err();
        for lockout_or_failure in [0x921, 0x101] {
            assert!(matches!(useless(refusal(lockout_or_failure)), TpmError::Failed(_)));
            assert!(matches!(not_ours(refusal(lockout_or_failure)), TpmError::Failed(_)));
        }
        let wrong_password = 0x98E;
        assert!(matches!(useless(refusal(wrong_password)), TpmError::Useless(_)));
        assert!(matches!(not_ours(refusal(wrong_password)), TpmError::Failed(_)));
        assert!(matches!(not_ours(refusal(0x2DF)), TpmError::NotOurs(_)));
    }
}
