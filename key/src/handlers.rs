//! The thirteen requests: authorize, call once, reply (spec keys-service, chapter 4). What needs more than that is in
//! `lib.rs`.

use std::sync::Arc;

use config_common::Secret;
use http_common::{Handlers, Peer, Serve};
use key_api::{
    Ciphertext, CreateDerivedKey, CreateKey, CreateKeyPair, Decrypt, DeleteKey, DeleteKeyPair, DerivedKey,
    Encrypt, EncryptMechanism, ExportDerivedKey, GetParameter, KeyHandleReply, LoadKey, LoadKeyPair,
    MoveKeyPair, PRELOADED, Parameter, Plaintext, Sign, SignMechanism, Signature,
};

use crate::algorithm::{Algorithm, Preferences};
use crate::handle::{Opened, Subject};
use crate::store::{KeyStore, RsaPadding, Task};
use crate::{Error, Keyd, Permit, parameter};

impl Handlers for Keyd {
    type Error = Error;
}

impl Serve<CreateKey> for Keyd {
    async fn serve(&self, peer: Peer, request: CreateKey) -> Result<KeyHandleReply, Error> {
        let CreateKey { key_id, usage, key_bytes } = request;
        let permit = self.allow(&peer, &key_id)?;
        let key = permit.clone();
        match key_bytes {
            Some(bytes) if bytes.is_empty() => return Err(Error::EmptyImport),
            Some(bytes) => {
                let import =
                    move |store: &dyn KeyStore, key: &Permit| store.import_key(key, bytes.as_bytes(), usage);
                self.blocking(key, Task::Change, import).await?;
            }
            None if self.has_at_hand(&key).await => {}
            None => self.blocking(key, Task::Change, move |store, key| store.create_key(key, usage)).await?,
        }
        self.handle_of_key(&permit).await
    }
}

impl Serve<LoadKey> for Keyd {
    async fn serve(&self, peer: Peer, request: LoadKey) -> Result<KeyHandleReply, Error> {
        let permit = self.allow(&peer, &request.key_id)?;
        self.key(permit.clone()).await?.check().await?;
        self.handle_of_key(&permit).await
    }
}

impl Serve<DeleteKey> for Keyd {
    async fn serve(&self, peer: Peer, request: DeleteKey) -> Result<(), Error> {
        let permit = self.open(&peer, &request.key_handle).await?.into_key()?;
        self.blocking(permit, Task::Change, |store, key| store.delete_key(key)).await
    }
}

impl Serve<CreateKeyPair> for Keyd {
    async fn serve(&self, peer: Peer, request: CreateKeyPair) -> Result<KeyHandleReply, Error> {
        let permit = self.allow(&peer, &request.key_id)?;
        if self.present_pair(permit.clone()).await.is_err() {
            // Why there is none, or whether one may be made, is for the store to say while it makes one.
            let preferences = Preferences::parse(request.preferred_algorithms.as_deref())?;
            self.generate(permit.clone(), preferences).await?;
        }
        self.handle_of_pair(&permit).await
    }
}

impl Serve<LoadKeyPair> for Keyd {
    async fn serve(&self, peer: Peer, request: LoadKeyPair) -> Result<KeyHandleReply, Error> {
        let permit = self.allow(&peer, &request.key_id)?;
        self.present_pair(permit.clone()).await?;
        self.handle_of_pair(&permit).await
    }
}

impl Serve<MoveKeyPair> for Keyd {
    async fn serve(&self, peer: Peer, request: MoveKeyPair) -> Result<(), Error> {
        if request.from == request.key_id {
            return Err(Error::MoveToSelf(request.from));
        }
        let from = self.allow(&peer, &request.from)?;
        let to = self.allow(&peer, &request.key_id)?;
        self.blocking(from, Task::Change, move |store, from| store.move_pair(from, &to)).await
    }
}

impl Serve<DeleteKeyPair> for Keyd {
    async fn serve(&self, peer: Peer, request: DeleteKeyPair) -> Result<(), Error> {
        let permit = self.open(&peer, &request.key_handle).await?.into_key_pair()?;
        self.blocking(permit, Task::Change, |store, key| store.delete_pair(key)).await
    }
}

impl Serve<GetParameter> for Keyd {
    /// The kind of the handle does not matter, as with upstream: the id in it is looked up as a key pair.
    async fn serve(&self, peer: Peer, request: GetParameter) -> Result<Parameter, Error> {
        let permit = self.open(&peer, &request.key_handle).await?.permit().clone();
        parameter::check_name(&request.parameter_name)?;
        let pair = self.pair(permit.clone()).await?;
        let value = match request.parameter_name.as_str() {
            PRELOADED => self.store.is_preloaded(&permit).to_string(),
            name => parameter::value(pair.public(), name)?,
        };
        Ok(Parameter { value })
    }
}

impl Serve<CreateDerivedKey> for Keyd {
    async fn serve(&self, peer: Peer, request: CreateDerivedKey) -> Result<KeyHandleReply, Error> {
        let CreateDerivedKey { base_key_handle: base, derivation_data } = request;
        match self.open(&peer, &base).await? {
            Opened::Key(_) | Opened::KeyPair(_) => {}
            Opened::Derived { .. } => return Err(Error::NestedDerivation),
        }
        let subject = Subject::Derived { base: &base, data: derivation_data.as_ref() };
        Ok(KeyHandleReply { key_handle: self.mint(subject).await? })
    }
}

impl Serve<ExportDerivedKey> for Keyd {
    async fn serve(&self, peer: Peer, request: ExportDerivedKey) -> Result<DerivedKey, Error> {
        let (base, data) = self.open(&peer, &request.key_handle).await?.into_derived()?;
        let mut key = self.derive(base, &data).await?;
        Ok(DerivedKey { key: Secret::new(std::mem::take(&mut *key)) })
    }
}

impl Serve<Sign> for Keyd {
    async fn serve(&self, peer: Peer, request: Sign) -> Result<Signature, Error> {
        let opened = self.open(&peer, &request.key_handle).await?;
        let signature = match request.mechanism {
            SignMechanism::HmacSha256(message) => {
                self.symmetric(opened, "HMAC-SHA256").await?.hmac(message.as_ref()).await?.to_vec()
            }
            SignMechanism::Ecdsa(digest) => {
                self.asymmetric(opened, "ECDSA").await?.sign_digest(digest.as_ref()).await?
            }
        };
        Ok(Signature { signature: signature.into() })
    }
}

impl Serve<Encrypt> for Keyd {
    async fn serve(&self, peer: Peer, request: Encrypt) -> Result<Ciphertext, Error> {
        let Encrypt { key_handle, mechanism, plaintext } = request;
        let opened = self.open(&peer, &key_handle).await?;
        let name = name(&mechanism);
        let padding = match mechanism {
            EncryptMechanism::Aead(aead) => {
                let key = self.symmetric(opened, name).await?;
                let sealed = key.seal(aead.iv.as_ref(), aead.aad.as_ref(), plaintext.as_bytes()).await?;
                return Ok(Ciphertext { ciphertext: sealed.into() });
            }
            EncryptMechanism::RsaPkcs1 => RsaPadding::Pkcs1,
            EncryptMechanism::RsaNoPadding => RsaPadding::None,
        };
        let pair = self.asymmetric(opened, name).await?;
        let output = pair.rsa_private(padding, plaintext.as_bytes()).await?;
        Ok(Ciphertext { ciphertext: output.into() })
    }
}

impl Serve<Decrypt> for Keyd {
    async fn serve(&self, peer: Peer, request: Decrypt) -> Result<Plaintext, Error> {
        let Decrypt { key_handle, mechanism, ciphertext } = request;
        let opened = self.open(&peer, &key_handle).await?;
        let name = name(&mechanism);
        let EncryptMechanism::Aead(aead) = mechanism else {
            return Err(Error::WrongMechanism { mechanism: "decryption", key: name });
        };
        let key = self.symmetric(opened, name).await?;
        let mut plaintext = key.open(aead.iv.as_ref(), aead.aad.as_ref(), ciphertext.as_ref()).await?;
        Ok(Plaintext { plaintext: Secret::new(std::mem::take(&mut *plaintext)) })
    }
}

impl Keyd {
    async fn handle_of_key(&self, permit: &Permit) -> Result<KeyHandleReply, Error> {
        Ok(KeyHandleReply { key_handle: self.mint(Subject::Key(permit)).await? })
    }

    async fn handle_of_pair(&self, permit: &Permit) -> Result<KeyHandleReply, Error> {
        Ok(KeyHandleReply { key_handle: self.mint(Subject::KeyPair(permit)).await? })
    }

    /// Whether the symmetric key can be had without waiting, and is still where it was.
    async fn has_at_hand(&self, permit: &Permit) -> bool {
        match self.store.key_at_hand(permit) {
            Some(key) => key.check().await.is_ok(),
            None => false,
        }
    }

    /// An error unless the key pair can be had and is still where it was.
    async fn present_pair(&self, permit: Permit) -> Result<(), Error> {
        self.pair(permit).await?.check().await
    }

    /// Makes a key pair: an EC one is a matter of microseconds, RSA ones queue up at a thread of their own.
    async fn generate(&self, permit: Permit, preferences: Preferences) -> Result<(), Error> {
        let algorithm = preferences.first();
        let is_elsewhere = self.store.makes_pairs_elsewhere(&permit);
        let make = move |store: &dyn KeyStore, key: &Permit| store.create_pair(key, &preferences);
        match algorithm {
            Algorithm::Rsa(_) if !is_elsewhere => {
                let store = Arc::clone(&self.store);
                self.generator.run(move || make(&*store, &permit)).await
            }
            Algorithm::EcP256 | Algorithm::EcP384 | Algorithm::Rsa(_) => {
                self.blocking(permit, Task::Change, make).await
            }
        }
    }
}

/// The name of an encryption mechanism on the wire.
fn name(mechanism: &EncryptMechanism) -> &'static str {
    match mechanism {
        EncryptMechanism::Aead(_) => "AEAD",
        EncryptMechanism::RsaPkcs1 => "RSA-PKCS1",
        EncryptMechanism::RsaNoPadding => "RSA-NO-PADDING",
    }
}
