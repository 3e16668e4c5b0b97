//! Key pairs in keyd with certificates of certd: obtained as they are, or made if there is no certificate (spec
//! identity-service, chapter 12 with its improvements). Does not know what they are for.

mod error;
mod make;

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cert_api::{CreateCertificate, DeleteCertificate, GetCertificate, ImportCertificate};
use http_common::https::ClientIdentity;
use http_common::{Client, ClientError, StatusCode};
use identity_api::config::{KeyAlgorithm, Subject};
use key_api::{CreateKeyPair, DeleteKeyPair, KeyHandle, LoadKeyPair, MoveKeyPair};
use key_engine::KeyEngine;
use openssl::asn1::Asn1Time;
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509Extension, X509Name};

use crate::csr;

pub(crate) use error::CertificateError;

/// A key pair and its certificate, by the ids that the services know them by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Certified {
    /// certd's id of the certificate.
    pub(crate) cert_id: String,
    /// keyd's id of the key pair.
    pub(crate) key_id: String,
    /// Whom a new certificate is for; none is requested without.
    pub(crate) subject: Option<Subject>,
    /// What a new key pair is.
    pub(crate) algorithm: KeyAlgorithm,
    /// Whether a new one is made when the time of the certificate is over. Otherwise nobody does that here.
    pub(crate) is_made_anew: bool,
}

/// Asks keyd and certd.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    keyd: Client,
    certd: Client,
    /// Made when it is needed: most devices never do.
    engine: Arc<OnceLock<KeyEngine>>,
}

impl Workshop {
    /// Of the services behind these clients. Asks nobody.
    pub(crate) fn new(keyd: Client, certd: &Path) -> Self {
        Self { keyd, certd: Client::with_limit(certd, CERTD_LIMIT).patient(), engine: Arc::default() }
    }

    /// The key pair with its certificate, which is requested if certd has none. They fit together and are valid now.
    pub(crate) async fn obtain(&self, what: &Certified) -> Result<ClientIdentity, CertificateError> {
        let (chain, key) = match self.certificate(&what.cert_id).await? {
            Some(chain) if what.is_made_anew && check_time(&what.cert_id, &chain).is_err() => {
                self.make(what).await?
            }
            Some(chain) => {
                let key = self.key_of(&chain, what).await?;
                (chain, key)
            }
            None => self.make(what).await?,
        };
        check_time(&what.cert_id, &chain)?;
        Ok(ClientIdentity { chain, key })
    }

    /// The certificates that certd has under `id`, the leaf first; `None` if it has none.
    pub(crate) async fn certificate(&self, id: &str) -> Result<Option<Vec<X509>>, CertificateError> {
        self.text(id).await?.map(|pem| parsed(id, &pem)).transpose()
    }

    /// The text that certd has under `id`; `None` if it has none.
    pub(crate) async fn text(&self, id: &str) -> Result<Option<String>, CertificateError> {
        match self.certd.call(&GetCertificate { cert_id: id.to_owned() }).await {
            Ok(reply) => Ok(Some(reply.pem)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(CertificateError::Certd { id: id.to_owned(), source }),
        }
    }

    /// What certd issues under `id` for a request in PEM: the text, and the certificates in it.
    pub(crate) async fn issue(&self, id: &str, csr: String) -> Result<(String, Vec<X509>), CertificateError> {
        let request = CreateCertificate { cert_id: id.to_owned(), csr, issuer: None };
        let failed = |source| CertificateError::Certd { id: id.to_owned(), source };
        let pem = self.certd.call(&request).await.map_err(failed)?.pem;
        let chain = parsed(id, &pem)?;
        Ok((pem, chain))
    }

    /// Let certd have `pem` under `id`, in place of what it has.
    pub(crate) async fn import(&self, id: &str, pem: &str) -> Result<(), CertificateError> {
        let imported =
            self.certd.call(&ImportCertificate { cert_id: id.to_owned(), pem: pem.to_owned() }).await;
        imported.map(drop).map_err(|source| CertificateError::Certd { id: id.to_owned(), source })
    }

    /// Let certd forget what it has under `id`.
    pub(crate) async fn forget(&self, id: &str) -> Result<(), CertificateError> {
        let failed = |source| CertificateError::Certd { id: id.to_owned(), source };
        self.certd.call(&DeleteCertificate { cert_id: id.to_owned() }).await.map_err(failed)
    }

    /// A fresh handle of the key pair `id`.
    pub(crate) async fn handle(&self, id: &str) -> Result<KeyHandle, ClientError> {
        Ok(self.keyd.call(&LoadKeyPair { key_id: id.to_owned() }).await?.key_handle)
    }

    /// Let keyd delete the key pair `id`, if it has one.
    pub(crate) async fn delete_key(&self, id: &str) -> Result<(), CertificateError> {
        let failed = |source| CertificateError::Keyd { id: id.to_owned(), source };
        match self.handle(id).await {
            Ok(key_handle) => self.keyd.call(&DeleteKeyPair { key_handle }).await.map_err(failed),
            Err(error) if is_absent(&error) => Ok(()),
            Err(source) => Err(failed(source)),
        }
    }

    /// A request in PEM, made where it may take a while.
    pub(crate) async fn request(
        &self,
        subject: Subject,
        key: PKey<Private>,
        extensions: Vec<X509Extension>,
    ) -> Result<String, CertificateError> {
        self.request_as(csr::name(&subject)?, key, extensions).await
    }

    /// The same with a name that exists.
    pub(crate) async fn request_as(
        &self,
        name: X509Name,
        key: PKey<Private>,
        extensions: Vec<X509Extension>,
    ) -> Result<String, CertificateError> {
        Ok(blocking(move || csr::request(&name, &key, extensions)).await??)
    }

    /// A key pair `id`, made if there is none. `algorithms` in keyd's form.
    pub(crate) async fn create(&self, id: &str, algorithms: &str) -> Result<(), CertificateError> {
        let preferred_algorithms = Some(algorithms.to_owned());
        let request = CreateKeyPair { key_id: id.to_owned(), preferred_algorithms };
        let failed = |source| CertificateError::Keyd { id: id.to_owned(), source };
        self.keyd.call(&request).await.map(drop).map_err(failed)
    }

    /// Give the key pair `new` the id `old`, in place of the key pair that has it.
    pub(crate) async fn replace(&self, old: &str, new: &str) -> Result<(), CertificateError> {
        let request = MoveKeyPair { key_id: old.to_owned(), from: new.to_owned() };
        let failed = |source| CertificateError::Keyd { id: old.to_owned(), source };
        self.keyd.call(&request).await.map_err(failed)
    }

    /// The key pair `id`, which must be there.
    pub(crate) async fn opened(&self, id: &str) -> Result<PKey<Private>, CertificateError> {
        self.open(id).await?.ok_or_else(|| CertificateError::NoKey { id: String::new(), key: id.to_owned() })
    }

    /// The key pair `id` as OpenSSL's; `None` if there is none.
    pub(crate) async fn open(&self, id: &str) -> Result<Option<PKey<Private>>, CertificateError> {
        let (engines, socket, name) =
            (Arc::clone(&self.engine), self.keyd.socket().to_owned(), id.to_owned());
        let open = move || {
            let engine = match engines.get() {
                Some(engine) => engine.clone(),
                None => {
                    let engine = KeyEngine::new(socket, KEY_LIMIT)?;
                    engines.get_or_init(|| engine).clone()
                }
            };
            engine.private_key_by_id(&name)
        };
        match blocking(open).await? {
            Ok(key) => Ok(Some(key)),
            Err(key_engine::Error::Keyd { source, .. }) if is_absent(&source) => Ok(None),
            Err(key_engine::Error::Keyd { source, .. }) => {
                Err(CertificateError::Keyd { id: id.to_owned(), source })
            }
            Err(source) => Err(CertificateError::Key { id: id.to_owned(), source: Box::new(source) }),
        }
    }
}

/// Whether `key` is the one in the leaf.
pub(crate) fn fits(chain: &[X509], key: &PKey<Private>) -> bool {
    chain.first().and_then(|leaf| leaf.public_key().ok()).is_some_and(|public| public.public_eq(key))
}

/// Whether now is in the life of the leaf.
pub(crate) fn check_time(id: &str, chain: &[X509]) -> Result<(), CertificateError> {
    let Some(leaf) = chain.first() else { return Ok(()) };
    let unreadable = |source| CertificateError::Unreadable { id: id.to_owned(), source };
    let now = Asn1Time::days_from_now(0).map_err(unreadable)?;
    match leaf.not_before() <= now && leaf.not_after() >= now {
        true => Ok(()),
        false => Err(CertificateError::NotNow {
            id: id.to_owned(),
            from: leaf.not_before().to_string(),
            to: leaf.not_after().to_string(),
        }),
    }
}

fn parsed(id: &str, pem: &str) -> Result<Vec<X509>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { id: id.to_owned(), source };
    let chain = X509::stack_from_pem(pem.as_bytes()).map_err(unreadable)?;
    if chain.is_empty() { Err(unreadable(ErrorStack::get())) } else { Ok(chain) }
}

/// keyd and certd say 400 for what is not there; a proxy in between or an older one may say 404.
fn is_absent(error: &ClientError) -> bool {
    matches!(error.status(), Some(StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND))
}

/// What keyd says of a key that is not ours to use or to replace.
fn is_refusal(error: &ClientError) -> bool {
    is_absent(error) || error.status() == Some(StatusCode::UNAUTHORIZED)
}

/// The id of the key that is to follow the key `key_id`.
pub(crate) fn temporary(key_id: &str) -> String {
    format!("{key_id}-temp")
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, CertificateError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CertificateError::Worker)
}

/// How long keyd may take for one operation with a key.
const KEY_LIMIT: Duration = Duration::from_secs(20);
/// How long certd may take: it may have to ask an EST server.
const CERTD_LIMIT: Duration = Duration::from_secs(150);
