//! Keys on a token, to be used as keys in memory are. Knows neither files nor how keys come onto a token.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use key_api::ObjectName;
use zeroize::Zeroizing;

use super::fault::Fault;
use super::public::{cut, der};
use super::token::{Call, Incarnation, Token};
use super::{objects, pairs, use_key};
use crate::error::Internal;
use crate::id::KeyId;
use crate::store::{KeyPair, Public, RsaPadding, SymmetricKey, Work};
use crate::{Error, aead};

/// A symmetric key on a token.
pub(in crate::store) struct TokenKey {
    object: Arc<Object>,
    /// Digests of what was found genuine before, so that it can be told without the token.
    verified: Mutex<HashSet<[u8; 32]>>,
}

/// A key pair on a token.
pub(in crate::store) struct TokenPair {
    object: Arc<Object>,
    public: Public,
}

/// How an object is found by its name.
type Find = fn(&Call<'_>, &ObjectName) -> Result<Option<ObjectHandle>, Fault>;

/// An object that was found once.
struct Object {
    id: KeyId,
    token: Arc<Token>,
    name: ObjectName,
    find: Find,
    /// Its handle, and the incarnation of the token in which it is one.
    handle: Mutex<Option<(Incarnation, ObjectHandle)>>,
    is_gone: AtomicBool,
}

impl TokenKey {
    /// The key `id`, which is on `token` as `name`.
    pub(super) fn new(id: &KeyId, token: &Arc<Token>, name: &ObjectName) -> Self {
        let object = Object::new(id, token, name, objects::find_key);
        Self { object: Arc::new(object), verified: Mutex::default() }
    }

    /// Whether it was missing when it was used last.
    pub(in crate::store) fn is_gone(&self) -> bool {
        self.object.is_gone.load(Ordering::Relaxed)
    }
}

impl TokenPair {
    /// The pair `id`, which is on `token` as `name` and has this public half.
    pub(super) fn new(id: &KeyId, token: &Arc<Token>, name: &ObjectName, public: Public) -> Self {
        let find = |call: &Call<'_>, name: &ObjectName| {
            Ok(pairs::find_pair(call, name)?.map(|halves| halves.private))
        };
        Self { object: Arc::new(Object::new(id, token, name, find)), public }
    }

    /// Whether it was missing when it was used last.
    pub(in crate::store) fn is_gone(&self) -> bool {
        self.object.is_gone.load(Ordering::Relaxed)
    }

    fn refusal<T>(&self, mechanism: &'static str) -> Work<'static, T> {
        Work::done(Err(Error::WrongMechanism { mechanism, key: self.public.kind() }))
    }
}

impl SymmetricKey for TokenKey {
    fn hmac<'a>(&'a self, message: &'a [u8]) -> Work<'a, [u8; 32]> {
        let message = message.to_vec();
        self.object.work(move |session, key| use_key::hmac(session, key, &message))
    }

    fn verify<'a>(&'a self, message: &'a [u8], mac: &'a [u8]) -> Work<'a, bool> {
        let digest = openssl::sha::sha256(&[mac, message].concat());
        if mac.len() != MAC {
            return Work::done(Ok(false));
        }
        if self.verified.lock().expect("no panic while held").contains(&digest) {
            return Work::done(Ok(true));
        }
        Work::later(async move {
            let is_genuine = openssl::memcmp::eq(&self.hmac(message).await?, mac);
            if is_genuine {
                let mut verified = self.verified.lock().expect("no panic while held");
                if verified.len() >= MAX_VERIFIED {
                    verified.clear();
                }
                verified.insert(digest);
            }
            Ok(is_genuine)
        })
    }

    fn seal<'a>(&'a self, iv: &'a [u8], aad: &'a [u8], plaintext: &'a [u8]) -> Work<'a, Vec<u8>> {
        if let Err(error) = aead::check_iv(iv) {
            return Work::done(Err(error));
        }
        let (iv, aad, plaintext) = (iv.to_vec(), aad.to_vec(), Zeroizing::new(plaintext.to_vec()));
        self.object.work(move |session, key| {
            use_key::seal(session, key, &iv, &aad, &plaintext).map(|sealed| aead::wrapped(&sealed))
        })
    }

    fn open<'a>(&'a self, iv: &'a [u8], aad: &'a [u8], sealed: &'a [u8]) -> Work<'a, Zeroizing<Vec<u8>>> {
        let sealed = match aead::unwrapped(sealed).and_then(|sealed| aead::check_iv(iv).map(|()| sealed)) {
            Ok(sealed) => sealed.to_vec(),
            Err(error) => return Work::done(Err(error)),
        };
        let (iv, aad) = (iv.to_vec(), aad.to_vec());
        self.object.work(move |session, key| use_key::open(session, key, &iv, &aad, &sealed))
    }

    fn check(&self) -> Work<'_, ()> {
        self.object.check()
    }
}

impl KeyPair for TokenPair {
    fn public(&self) -> &Public {
        &self.public
    }

    fn sign_digest<'a>(&'a self, digest: &'a [u8]) -> Work<'a, Vec<u8>> {
        if !matches!(self.public, Public::Ec { .. }) {
            return self.refusal("ECDSA");
        }
        let digest = cut(digest, &self.public).to_vec();
        self.object.work(move |session, key| der(&use_key::ecdsa(session, key, &digest)?))
    }

    fn rsa_private<'a>(&'a self, padding: RsaPadding, input: &'a [u8]) -> Work<'a, Vec<u8>> {
        let Public::Rsa { modulus, .. } = &self.public else {
            let name = if padding == RsaPadding::Pkcs1 { "RSA-PKCS1" } else { "RSA-NO-PADDING" };
            return self.refusal(name);
        };
        // Some tokens put zeros before what is too short.
        if padding == RsaPadding::None && input.len() != modulus.len() {
            return Work::done(
                Err(Internal::Unsuitable("the input of RSA is not as long as the key").into()),
            );
        }
        let input = Zeroizing::new(input.to_vec());
        self.object.work(move |session, key| use_key::rsa(session, key, padding, &input))
    }

    fn check(&self) -> Work<'_, ()> {
        self.object.check()
    }
}

impl Object {
    fn new(id: &KeyId, token: &Arc<Token>, name: &ObjectName, find: Find) -> Self {
        let (id, token, name) = (id.clone(), Arc::clone(token), name.clone());
        Self { id, token, name, find, handle: Mutex::default(), is_gone: AtomicBool::new(false) }
    }

    /// Uses the object on the token.
    fn work<T: Send + 'static>(
        self: &Arc<Self>,
        job: impl Fn(&Session, ObjectHandle) -> Result<T, Fault> + Send + 'static,
    ) -> Work<'_, T> {
        let object = Arc::clone(self);
        let call = move |call: &Call<'_>| object.in_call(call, &job);
        Work::later(async move {
            let result = self.token.call_later(USE, call).await;
            result.map_err(|fault| refusal(&self.id, &self.token, fault))
        })
    }

    fn check(self: &Arc<Self>) -> Work<'_, ()> {
        let object = Arc::clone(self);
        let find = move |call: &Call<'_>| object.find(call).map(drop);
        Work::later(async move {
            let found = self.token.call_later(USE, find).await;
            found.map_err(|fault| refusal(&self.id, &self.token, fault))
        })
    }

    fn in_call<T>(
        &self,
        call: &Call<'_>,
        job: &dyn Fn(&Session, ObjectHandle) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let known = *self.handle.lock().expect("no panic while held");
        let known = known.filter(|(incarnation, _)| *incarnation == call.incarnation);
        if let Some((_, handle)) = known {
            match job(call.session, handle) {
                Err(fault) if fault.is_stale_handle() => {}
                result => return result,
            }
        }
        job(call.session, self.find(call)?)
    }

    fn find(&self, call: &Call<'_>) -> Result<ObjectHandle, Fault> {
        let found = (self.find)(call, &self.name);
        if let Ok(None) | Err(Fault::Interrupted) = found {
            self.is_gone.store(true, Ordering::Relaxed);
        }
        let found = found?;
        *self.handle.lock().expect("no panic while held") = found.map(|handle| (call.incarnation, handle));
        found.ok_or(Fault::NoObject)
    }
}

/// The refusal that a fault with the key `id` is for a caller.
pub(super) fn refusal(id: &KeyId, token: &Token, fault: Fault) -> Error {
    let token = token.name().to_string();
    match fault {
        Fault::NoObject => Error::NoSuchKey(id.clone()),
        fault if fault.is_outage() => Error::TokenUnavailable { token, fault: Box::new(fault) },
        fault => Internal::Token { token, fault: Box::new(fault) }.into(),
    }
}

/// How long a token may take to use a key. A slow TPM with some callers before this one needs some seconds.
const USE: Duration = Duration::from_secs(10);
const MAC: usize = 32;
/// What is remembered as genuine, at most; beyond, all is forgotten and asked again.
const MAX_VERIFIED: usize = 1024;
