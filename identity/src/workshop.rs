//! Key pairs in keyd with certificates of certd: obtained as they are, or made if there is no certificate (spec
//! identity-service, chapter 12 with its improvements). Does not know what they are for.
//!
//! A new certificate has a new key, which is made beside the old one, `…-temp`. The old one gives way when certd has the
//! certificate; wherever this is interrupted, the next attempt goes on. Only "there is none" makes anything new: a service
//! that is away or refuses changes nothing.

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

use crate::csr::{self, BadRequest};

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

/// Why there is no key with a certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// certd does not give or issue it.
    #[error("the certificate {id:?} cannot be had from certd")]
    Certd {
        /// certd's id.
        id: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// keyd does not do what is needed.
    #[error(
        "the key pair {id:?} cannot be had from keyd; is it there, and has keyd a [[principal]] for it with our uid?"
    )]
    Keyd {
        /// keyd's id.
        id: String,
        /// Why.
        #[source]
        source: ClientError,
    },
    /// The key does not become one of OpenSSL's.
    #[error("the key pair {id:?} cannot be used")]
    Key {
        /// keyd's id.
        id: String,
        /// Why.
        #[source]
        source: Box<key_engine::Error>,
    },
    /// certd has something else under the id.
    #[error("what certd has as {id:?} cannot be read as certificates")]
    Unreadable {
        /// certd's id.
        id: String,
        /// What OpenSSL says.
        #[source]
        source: ErrorStack,
    },
    /// A certificate is to be requested, for nobody.
    #[error("there is no certificate {id:?}, and to request one takes the setting registration_id")]
    NoSubject {
        /// certd's id.
        id: String,
    },
    /// A certificate without its key.
    #[error("there is a certificate {id:?}, but keyd has no key pair {key:?}")]
    NoKey {
        /// certd's id.
        id: String,
        /// keyd's id.
        key: String,
    },
    /// A certificate for another key.
    #[error("the certificate {id:?} is not for the key pair {key:?}")]
    OtherKey {
        /// certd's id.
        id: String,
        /// keyd's id.
        key: String,
    },
    /// Its time is over, or has not come.
    #[error("the certificate {id:?} is valid from {from} to {to}, not now; is the clock right?")]
    NotNow {
        /// certd's id.
        id: String,
        /// The first moment.
        from: String,
        /// The last moment.
        to: String,
    },
    /// The request cannot be made.
    #[error(transparent)]
    Request(#[from] BadRequest),
    /// A thread did not do its job.
    #[error("a worker thread failed")]
    Worker,
}

impl CertificateError {
    /// Whether a new attempt asks nobody outside of this device.
    pub(crate) fn is_cheap(&self) -> bool {
        match self {
            Self::Certd { source, .. } | Self::Keyd { source, .. } => source.is_transport(),
            Self::Key { .. } | Self::NoKey { .. } | Self::OtherKey { .. } | Self::NotNow { .. } => true,
            Self::Unreadable { .. } | Self::NoSubject { .. } | Self::Request(_) | Self::Worker => false,
        }
    }
}

impl Workshop {
    /// Of the services behind these clients. Asks nobody.
    pub(crate) fn new(keyd: Client, certd: &Path) -> Self {
        Self { keyd, certd: Client::with_limit(certd, CERTD_LIMIT), engine: Arc::default() }
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

    /// The key of a certificate that is there already. That of an interrupted [`Self::make`] gets its place.
    async fn key_of(&self, chain: &[X509], what: &Certified) -> Result<PKey<Private>, CertificateError> {
        let Certified { cert_id, key_id, .. } = what;
        let current = self.open(key_id).await?;
        if let Some(key) = current.as_ref().filter(|key| fits(chain, key)) {
            return Ok(key.clone());
        }
        let temporary = temporary(key_id);
        // We may not be allowed to see whether there is one.
        let new = self.open(&temporary).await.unwrap_or_default();
        if new.is_some_and(|key| fits(chain, &key)) {
            self.replace(key_id, &temporary).await?;
            tracing::info!("the key pair {key_id:?} is now that of the certificate {cert_id:?}");
            return self.opened(key_id).await;
        }
        let (id, key) = (cert_id.clone(), key_id.clone());
        Err(match current {
            Some(_) => CertificateError::OtherKey { id, key },
            None => CertificateError::NoKey { id, key },
        })
    }

    /// A new certificate, for a new key if keyd lets us make one.
    async fn make(&self, what: &Certified) -> Result<(Vec<X509>, PKey<Private>), CertificateError> {
        let Certified { cert_id, key_id, subject, algorithm, is_made_anew: _ } = what;
        let Some(subject) = subject else {
            return Err(CertificateError::NoSubject { id: cert_id.clone() });
        };
        tracing::info!("certd has no certificate {cert_id:?} that can be used; one is requested");
        if self.open(key_id).await?.is_none() {
            self.create(key_id, algorithm.preferred()).await?;
            return self.certify(cert_id, key_id, subject).await;
        }
        let temporary = temporary(key_id);
        match self.create(&temporary, algorithm.preferred()).await {
            Ok(()) => {}
            Err(CertificateError::Keyd { source, .. }) if source.status().is_some() => {
                tracing::info!(
                    "the key pair {key_id:?} is used again: keyd does not let us make {temporary:?}, a [[principal]] with our uid could"
                );
                return self.certify(cert_id, key_id, subject).await;
            }
            Err(error) => return Err(error),
        }
        let (chain, _) = self.certify(cert_id, &temporary, subject).await?;
        match self.replace(key_id, &temporary).await {
            Ok(()) => Ok((chain, self.opened(key_id).await?)),
            // It belongs to the administrator, so the certificate must be for that key.
            Err(CertificateError::Keyd { source, .. }) if is_absent(&source) => {
                tracing::info!("the key pair {key_id:?} cannot be replaced and is used again");
                let certified = self.certify(cert_id, key_id, subject).await?;
                self.delete_key(&temporary).await?;
                Ok(certified)
            }
            Err(error) => Err(error),
        }
    }

    /// A certificate for the key pair `key_id`.
    async fn certify(
        &self,
        cert_id: &str,
        key_id: &str,
        subject: &Subject,
    ) -> Result<(Vec<X509>, PKey<Private>), CertificateError> {
        let key = self.opened(key_id).await?;
        let csr = self.request(subject.clone(), key.clone(), vec![]).await?;
        let (_, chain) = self.issue(cert_id, csr).await?;
        match fits(&chain, &key) {
            true => Ok((chain, key)),
            false => Err(CertificateError::OtherKey { id: cert_id.to_owned(), key: key_id.to_owned() }),
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
