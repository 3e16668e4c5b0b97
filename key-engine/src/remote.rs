//! A key pair that stays in keyd: its public part, and what its private part can be asked to do. Knows nothing of
//! OpenSSL's objects: whoever uses the key brings the public operation, by which a result of keyd is checked now and
//! then.
//!
//! Every operation has a deadline, whatever number of calls it takes. Connections are kept for later calls, but never
//! across a fork; after a restart of keyd the next call connects anew.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_common::{Base64, Secret};
use http_common::blocking::Client;
use http_common::{ClientError, Endpoint, StatusCode};
use key_api::{
    CreateKeyPair, Encrypt, EncryptMechanism, GetParameter, KeyHandle, LoadKeyPair, Sign, SignMechanism,
};
use zeroize::Zeroizing;

use crate::kept::Kept;
use crate::padding::{Hash, unpad_pkcs1};
use crate::proof::Proofs;
pub use crate::public::{Curve, PublicKey};
use crate::{Error, KeyName};

/// keyd, as far as key pairs are concerned. Safe to use from many threads and after a fork.
#[derive(Debug)]
pub struct Keyd {
    client: Client,
    socket: PathBuf,
    limit: Duration,
}

/// A key pair in keyd. Its public part is asked for once, when it is loaded.
#[derive(Debug)]
pub struct RemoteKey {
    keyd: Arc<Keyd>,
    name: KeyName,
    /// Replaced when keyd does not accept it any more and the key was loaded by its id.
    handle: Kept<Zeroizing<String>>,
    public: PublicKey,
    proofs: Proofs,
    /// See [`Self::secret`].
    secret: Kept<Zeroizing<Vec<u8>>>,
}

/// The private operations of RSA that keyd offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsaOperation {
    /// Pads with PKCS #1 v1.5 block type 1 first.
    Pkcs1Sign,
    /// `x^d mod n` of as many bytes as the modulus has.
    Raw,
}

impl Keyd {
    /// The keyd that listens at `socket`. To make, to load or to use a key may take `limit`, however many calls it needs
    /// and however often one is repeated.
    pub fn new(socket: impl Into<PathBuf>, limit: Duration) -> Self {
        let socket = socket.into();
        Self { client: Client::new(&socket, limit), socket, limit }
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Makes a key pair unless there is one with this id. `algorithms` as in [`CreateKeyPair`].
    pub fn create(&self, id: &str, algorithms: &str) -> Result<(), Error> {
        let request =
            CreateKeyPair { key_id: id.to_owned(), preferred_algorithms: Some(algorithms.to_owned()) };
        let name = KeyName::Id(id.to_owned());
        let reply = self.call(&request, self.deadline());
        reply.map(drop).map_err(|source| Error::of(source, "create", &name))
    }

    /// When an operation that begins now must be over.
    fn deadline(&self) -> Instant {
        Instant::now() + self.limit
    }

    /// Calls, and repeats the call shortly after when keyd (as upstream's does when it is busy) closed the connection
    /// without a byte of answer.
    fn call<E: Endpoint>(&self, request: &E, deadline: Instant) -> Result<E::Reply, ClientError> {
        let mut attempt = 0;
        loop {
            let result = self.client.call_until(request, deadline);
            if attempt == REPETITIONS || !result.as_ref().is_err_and(was_reset) {
                return result;
            }
            let pause = pause();
            if Instant::now() + pause >= deadline {
                return result;
            }
            attempt += 1;
            std::thread::sleep(pause);
        }
    }

    fn handle(&self, name: &KeyName, deadline: Instant) -> Result<Zeroizing<String>, Error> {
        match name {
            KeyName::Handle(handle) => Ok(handle.clone()),
            KeyName::Id(id) => {
                let reply = self.call(&LoadKeyPair { key_id: id.clone() }, deadline);
                let reply = reply.map_err(|source| Error::of(source, "load", name))?;
                Ok(Zeroizing::new(reply.key_handle.as_str().to_owned()))
            }
        }
    }
}

impl RemoteKey {
    /// Asks keyd for the public part of the key `name`.
    pub fn load(keyd: Arc<Keyd>, name: KeyName) -> Result<Self, Error> {
        let deadline = keyd.deadline();
        let handle = keyd.handle(&name, deadline)?;
        let public = Parameters { keyd: &keyd, handle: &handle, name: &name, deadline }.public()?;
        let (handle, proofs) = (Kept::new(Some(handle)), Proofs::new(Instant::now()));
        Ok(Self { keyd, name, handle, public, proofs, secret: Kept::new(None) })
    }

    /// The name it was loaded by.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Its public part.
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The ECDSA signature of `digest`, as DER `ECDSA-Sig-Value`. A digest that is longer than the order of the curve
    /// is cut, which not every token does. `verifies` says whether a signature is one of `digest` by the public part;
    /// it is asked now and then.
    pub fn sign_ecdsa(&self, digest: &[u8], verifies: impl FnOnce(&[u8]) -> bool) -> Result<Vec<u8>, Error> {
        let PublicKey::Ec { curve, .. } = &self.public else {
            return Err(Error::Refused("an RSA key makes no ECDSA signatures"));
        };
        let deadline = self.keyd.deadline();
        let digest = &digest[..digest.len().min(curve.order_bytes())];
        let reply = self.call("sign with", deadline, |key_handle| Sign {
            key_handle,
            mechanism: SignMechanism::Ecdsa(Base64(digest.to_vec())),
        })?;
        self.prove(deadline, || verifies(&reply.signature.0))?;
        Ok(reply.signature.0)
    }

    /// The private operation of RSA on `input`; the result is as long as the modulus. `public` is the public operation,
    /// `x^e mod n`; it is asked now and then.
    pub fn rsa(
        &self,
        operation: RsaOperation,
        input: &[u8],
        public: impl FnOnce(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.rsa_until(self.keyd.deadline(), operation, input, public)
    }

    /// The message in a PKCS #1 v1.5 ciphertext; what is badly padded decrypts to bytes that are made up, always the
    /// same for this key and this ciphertext. `hash` and `public` as in [`unpad_pkcs1`] and [`Self::rsa`].
    pub fn decrypt_pkcs1(
        &self,
        ciphertext: &[u8],
        hash: &dyn Hash,
        public: impl Fn(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let deadline = self.keyd.deadline();
        let secret = self.secret(deadline, hash, &public)?;
        let block = self.rsa_until(deadline, RsaOperation::Raw, ciphertext, &public)?;
        unpad_pkcs1(hash, &secret, ciphertext, &block)
    }

    /// What only the private key can make, the same in every process: the digest of what it makes of a number that no
    /// padding gives, because that begins with at most one zero.
    fn secret(
        &self,
        deadline: Instant,
        hash: &dyn Hash,
        public: impl Fn(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let made = self.rsa_until(deadline, RsaOperation::Raw, SECRET_LABEL, public)?;
        let secret = hash.digest(&[&made])?;
        self.secret.put(secret.clone());
        Ok(secret)
    }

    fn rsa_until(
        &self,
        deadline: Instant,
        operation: RsaOperation,
        input: &[u8],
        public: impl FnOnce(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let PublicKey::Rsa { modulus, .. } = &self.public else {
            return Err(Error::Refused("an EC key does no RSA operations"));
        };
        let block = operation.block(input, modulus)?;
        let (mechanism, plaintext) = match operation {
            RsaOperation::Pkcs1Sign => (EncryptMechanism::RsaPkcs1, input),
            RsaOperation::Raw => (EncryptMechanism::RsaNoPadding, block.as_slice()),
        };
        let reply = self.call("use", deadline, |key_handle| Encrypt {
            key_handle,
            mechanism: mechanism.clone(),
            plaintext: Secret::new(plaintext.to_vec()),
        })?;
        let result = Zeroizing::new(reply.ciphertext.0);
        let result = left_padded(&result, modulus.len()).ok_or_else(|| Error::Unsupported {
            what: "a result longer than the modulus".into(),
            key: self.name.to_string(),
        })?;
        self.prove(deadline, || {
            public(&result)
                .is_some_and(|original| left_padded(&original, block.len()).as_ref() == Some(&block))
        })?;
        Ok(result)
    }

    /// Refuses a result that is not one of the key that was loaded; only looks when that is due.
    fn prove(&self, deadline: Instant, is_ours: impl FnOnce() -> bool) -> Result<(), Error> {
        let now = Instant::now();
        if !self.proofs.are_due(now) {
            return Ok(());
        }
        if is_ours() {
            self.proofs.passed(now);
            return Ok(());
        }
        let handle = self.current_handle(deadline)?;
        match (Parameters { keyd: &self.keyd, handle: &handle, name: &self.name, deadline }).public()? {
            public if public == self.public => {
                Err(Error::Refused("what keyd made does not fit the public part of the key; see keyd's log"))
            }
            _ => Err(REPLACED),
        }
    }

    /// Calls with the handle; once more with a new one when keyd refuses it and the key has an id: the key of keyd's
    /// that makes handles may have been replaced.
    fn call<E: Endpoint>(
        &self,
        operation: &'static str,
        deadline: Instant,
        request: impl Fn(KeyHandle) -> E,
    ) -> Result<E::Reply, Error> {
        let ask = |handle: &str| self.keyd.call(&request(KeyHandle::from(handle.to_owned())), deadline);
        let refused = match ask(&self.current_handle(deadline)?) {
            Err(error) if error.status() == Some(StatusCode::BAD_REQUEST) => error,
            result => return result.map_err(|source| Error::of(source, operation, &self.name)),
        };
        if matches!(self.name, KeyName::Handle(_)) {
            return Err(Error::of(refused, operation, &self.name));
        }
        let fresh = self.keyd.handle(&self.name, deadline)?;
        let parameters = Parameters { keyd: &self.keyd, handle: &fresh, name: &self.name, deadline };
        if parameters.public()? != self.public {
            return Err(REPLACED);
        }
        self.handle.put(fresh.clone());
        ask(&fresh).map_err(|source| Error::of(source, operation, &self.name))
    }

    fn current_handle(&self, deadline: Instant) -> Result<Zeroizing<String>, Error> {
        self.handle.get().map_or_else(|| self.keyd.handle(&self.name, deadline), Ok)
    }
}

impl RsaOperation {
    /// What is raised to the private power: as many bytes as the modulus has.
    fn block(self, input: &[u8], modulus: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        match (self, modulus.len().checked_sub(input.len() + PKCS1_OVERHEAD)) {
            (Self::Pkcs1Sign, None) => Err(Error::Refused("the data is too long for this RSA key")),
            (Self::Pkcs1Sign, Some(more)) => {
                let padding = vec![0xff; PKCS1_PADDING + more];
                Ok(Zeroizing::new([&[0, 1], padding.as_slice(), &[0], input].concat()))
            }
            (Self::Raw, _) => {
                let block = left_padded(input, modulus.len())
                    .ok_or(Error::Refused("the data is longer than the modulus of the RSA key"))?;
                match block.as_slice() < modulus {
                    true => Ok(block),
                    false => Err(Error::Refused(
                        "the data, as a number, is not below the modulus of the RSA key: it was not made for this key",
                    )),
                }
            }
        }
    }
}

impl Error {
    fn of(source: ClientError, operation: &'static str, name: &KeyName) -> Self {
        Self::Keyd { operation, key: name.to_string(), source }
    }
}

/// Asks for the public properties of one key.
struct Parameters<'a> {
    keyd: &'a Keyd,
    handle: &'a str,
    name: &'a KeyName,
    deadline: Instant,
}

impl Parameters<'_> {
    fn public(&self) -> Result<PublicKey, Error> {
        match self.text("algorithm")?.as_str() {
            "ECDSA" => {
                let oid = self.bytes("ec-curve-oid")?;
                let curve = Curve::from_oid(&oid).ok_or_else(|| self.unsupported("an unknown curve"))?;
                Ok(PublicKey::Ec { curve, point: self.bytes("ec-point")? })
            }
            "RSA" => {
                let (modulus, exponent) = (self.bytes("rsa-modulus")?, self.bytes("rsa-exponent")?);
                match (MODULUS_BYTES.contains(&modulus.len()), modulus.first(), exponent.first()) {
                    (true, Some(1..), Some(1..)) => Ok(PublicKey::Rsa { modulus, exponent }),
                    _ => Err(self.unsupported("an RSA key of unusable size")),
                }
            }
            other => Err(self.unsupported(&format!("the algorithm {other:?}"))),
        }
    }

    fn bytes(&self, parameter: &str) -> Result<Vec<u8>, Error> {
        STANDARD
            .decode(self.text(parameter)?)
            .map_err(|_| self.unsupported(&format!("a garbled {parameter}")))
    }

    fn text(&self, parameter: &str) -> Result<String, Error> {
        let key_handle = KeyHandle::from(self.handle.to_owned());
        let request = GetParameter { parameter_name: parameter.to_owned(), key_handle };
        let reply = self.keyd.call(&request, self.deadline);
        Ok(reply.map_err(|source| Error::of(source, "describe", self.name))?.value)
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::Unsupported { what: what.to_owned(), key: self.name.to_string() }
    }
}

const REPLACED: Error = Error::Refused(
    "keyd has another key under this id by now, as after a renewal with a new key; let the program load key and \
     certificate again: reload or restart it",
);

/// Whether keyd closed the connection without an answer.
fn was_reset(error: &ClientError) -> bool {
    let ClientError::Unreachable { source, .. } = error else { return false };
    let kind = source.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
}

/// How long to wait before a repetition: not as long as all the others that were dropped.
fn pause() -> Duration {
    let mut random = [0];
    // Without a random byte, the shortest.
    let _ = getrandom::fill(&mut random);
    SHORTEST_PAUSE + PAUSES * u32::from(random[0])
}

/// `bytes` with zeros before it, `length` bytes in all; None if it is longer.
fn left_padded(bytes: &[u8], length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let missing = length.checked_sub(bytes.len())?;
    let mut padded = Zeroizing::new(vec![0; length]);
    padded[missing..].copy_from_slice(bytes);
    Some(padded)
}

/// RSA from 1024 to 16384 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 128..=2048;
/// What PKCS #1 v1.5 adds at least: 0, 1, padding, 0.
const PKCS1_OVERHEAD: usize = 3 + PKCS1_PADDING;
/// The least padding of PKCS #1 v1.5.
const PKCS1_PADDING: usize = 8;
const SECRET_LABEL: &[u8] = b"aziot: what a badly padded ciphertext decrypts to is made up of this. ";
/// How often a call is repeated that keyd dropped.
const REPETITIONS: u32 = 3;
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The 256th part of what may be added.
const PAUSES: Duration = Duration::from_micros(1800);
