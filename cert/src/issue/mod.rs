//! Issuing: which method, with which key (spec certificates-service, chapter 7). Knows no requests and stores nothing of
//! what was asked for.

mod bootstrap;
mod csr;
mod enroll;
mod identity;
mod name;
mod own_key;
mod sign;
mod target;
mod undecided;
mod usable;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cert_api::{IssuanceOptions, Method};
use key_api::KeyHandle;
use openssl::error::ErrorStack;
use openssl::x509::X509;
use tokio::sync::Semaphore;

use crate::est::EstError;
use crate::keys::{KeyError, Keys};
use crate::pem::{self, BadPem};
use crate::renewals::{NotRenewed, Renewals};
use crate::store::StoreError;
use crate::turns::Turns;
use crate::{Current, blocking};

use enroll::Est;
use name::SubjectOverride;
use sign::Options;
use undecided::Undecided;

pub use csr::BadCsr;
pub(crate) use csr::Csr;
pub(crate) use enroll::is_expired;
pub use name::BadSubject;
pub use sign::NotSigned;
pub(crate) use target::Target;

/// Issues certificates.
pub(crate) struct Issuing {
    keys: Keys,
    est: Est,
    signing: Semaphore,
}

/// Who issues: the chain, of which the first is the issuer, and the key of that.
pub(crate) struct IssuerKey {
    pub(crate) chain: Vec<X509>,
    pub(crate) handle: KeyHandle,
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum NotIssued {
    /// The request names no issuer, and the configuration has no method.
    #[error("it has no [cert_issuance.{0:?}], and the request names no issuer")]
    NotConfigured(String),
    /// The method is the local authority, and there is none.
    #[error("there is no [cert_issuance.local_ca]")]
    NoLocalCa,
    /// An authority, identity or trust anchor that is configured does not exist.
    #[error("the certificate {0:?}, which is needed for that, does not exist")]
    Missing(String),
    /// It exists and cannot be used.
    #[error("the certificate {id:?}, which is needed for that, cannot be used")]
    Unusable {
        /// Its id.
        id: String,
        /// Why.
        source: BadPem,
    },
    /// It cannot be read or written.
    #[error("a certificate that is needed for that cannot be read or kept")]
    Store(#[from] StoreError),
    /// The key that signs is not to be had.
    #[error("the key for that is not to be had")]
    Key(#[from] KeyError),
    /// Signing failed.
    #[error("it cannot be signed")]
    NotSigned(#[from] NotSigned),
    /// No URL.
    #[error(
        "no URL of an EST server is configured for it: set cert_issuance.{0:?}.url, or cert_issuance.est.urls.default"
    )]
    NoUrl(String),
    /// No authentication.
    #[error(
        "no complete authentication to an EST server is configured for it, neither there nor in cert_issuance.est"
    )]
    NoAuthentication,
    /// The proxy variables cannot be used.
    #[error("the proxy cannot be used")]
    Proxy(#[source] http_common::https::HttpsError),
    /// No identity, and no way to get one.
    #[error("the EST identity {cert:?} cannot be used, {why}, and no bootstrap identity is configured")]
    NoIdentity {
        /// The id of its certificate.
        cert: String,
        /// What is wrong with it.
        why: String,
    },
    /// The identity to get another one with cannot be used.
    #[error("the bootstrap identity {cert:?} cannot be used, {why}")]
    UnusableIdentity {
        /// The id of its certificate.
        cert: String,
        /// What is wrong with it.
        why: String,
    },
    /// The first identity was not issued.
    #[error("the EST identity {cert:?} could not be got with the bootstrap identity")]
    NotBootstrapped {
        /// The id of its certificate.
        cert: String,
        /// Why.
        source: Arc<NotIssued>,
    },
    /// An identity that is not good any more was not replaced.
    #[error("the EST identity {cert:?} is not good any more, {why}, and could not be replaced")]
    NotReplaced {
        /// The id of its certificate.
        cert: String,
        /// What is wrong with it.
        why: String,
        /// Why.
        source: Arc<cert_renewal::Error<NotRenewed>>,
    },
    /// Nothing can be said about an identity that is kept valid.
    #[error("its EST identity cannot be looked at")]
    Renewing(#[source] Box<cert_renewal::Error<NotRenewed>>),
    /// The EST server did not issue.
    #[error("the EST server did not issue it")]
    Est(#[from] EstError),
    /// OpenSSL failed.
    #[error("OpenSSL failed")]
    OpenSsl(#[from] ErrorStack),
    /// A thread did not do its job.
    #[error("a worker thread failed")]
    Worker,
}

impl NotIssued {
    /// When the EST server wants to be asked again, if that is all that is wrong.
    pub(crate) fn ask_again_after(&self) -> Option<Duration> {
        match self {
            Self::Est(EstError::Pending { after, .. }) => Some(after.unwrap_or_default()),
            Self::NotBootstrapped { source, .. } => source.ask_again_after(),
            Self::NotReplaced { source, .. } => match &**source {
                cert_renewal::Error::Failed { source: NotRenewed::NotIssued(error), .. } => {
                    error.ask_again_after()
                }
                _ => None,
            },
            _ => None,
        }
    }
}

impl Issuing {
    /// With state in the directory `home`. May wait for the disk.
    pub(crate) fn new(keys: Keys, turns: Arc<Turns>, renewals: Arc<Renewals>, home: &Path) -> Self {
        let undecided = Undecided::new(home.join(undecided::DIRECTORY));
        if let Err(error) = undecided.clean() {
            tracing::warn!("{}", http_common::chain(&error));
        }
        let est = Est::new(keys.clone(), turns, renewals, undecided);
        Self { est, keys, signing: Semaphore::new(SIGNING) }
    }

    /// The chain for `csr` under the id `id`, in PEM.
    pub(crate) async fn issue(
        &self,
        current: &Arc<Current>,
        id: &str,
        csr: Arc<Csr>,
        issuer: Option<IssuerKey>,
    ) -> Result<String, NotIssued> {
        let options = current.issuance.of(id);
        let local = Options::of(options);
        if let Some(IssuerKey { chain, handle }) = issuer {
            return self.sign(csr, chain, handle, local).await;
        }
        match options.ok_or_else(|| NotIssued::NotConfigured(id.to_owned()))?.method {
            Method::SelfSigned => {
                let handle = self.own_key(id, &csr).await?;
                self.sign(csr, Vec::new(), handle, local).await
            }
            Method::LocalCa => {
                let authority = current.issuance.local_ca.as_ref().ok_or(NotIssued::NoLocalCa)?;
                let chain = current.certificates(&authority.cert).await?;
                let handle = self.keys.load(&authority.pk).await?;
                self.sign(csr, chain, handle, local).await
            }
            Method::Est => self.est.issue(current, id, csr).await,
        }
    }

    /// The part that has to do with EST, for renewal.
    pub(crate) fn est(&self) -> &Est {
        &self.est
    }

    async fn sign(
        &self,
        csr: Arc<Csr>,
        chain: Vec<X509>,
        handle: KeyHandle,
        options: Options,
    ) -> Result<String, NotIssued> {
        // Threads that wait for keyd must not be all there are.
        let _slot = self.signing.acquire().await;
        let keys = self.keys.clone();
        let signed = blocking(move || {
            let key = keys.open(&handle)?;
            let issuer = chain.first();
            if issuer.is_some_and(|issuer| sign::is_authority(issuer) != Some(true)) {
                tracing::info!(
                    "an issuer's certificate does not say that it is one of an authority (CA:TRUE)"
                );
            }
            let certificate = sign::certificate(&csr, issuer.map(|issuer| &**issuer), &key, &options, now())?;
            Ok(pem::text(&[&[certificate], chain.as_slice()].concat())?)
        });
        signed.await.ok_or(NotIssued::Worker)?
    }
}

impl Options {
    fn of(options: Option<&IssuanceOptions>) -> Self {
        Self {
            expiry_days: options.and_then(|options| options.expiry_days).map(Into::into),
            subject: options.and_then(SubjectOverride::of),
        }
    }
}

impl Current {
    /// The certificates that the text of `id` has, at least one.
    async fn certificates(self: &Arc<Self>, id: &str) -> Result<Vec<X509>, NotIssued> {
        let (current, id) = (Arc::clone(self), id.to_owned());
        let read = blocking(move || match current.store.read(&id)? {
            None => Err(NotIssued::Missing(id)),
            Some(text) => pem::certificates(&text).map_err(|source| NotIssued::Unusable { id, source }),
        });
        read.await.ok_or(NotIssued::Worker)?
    }
}

/// What is wrong with the configuration of issuance, though it reads well.
pub(crate) fn warnings(issuance: &cert_api::Issuance) -> Vec<String> {
    let mut warnings = target::warnings(issuance);
    for (id, options) in &issuance.certs {
        if options.common_name.is_some() && options.subject.is_some() {
            warnings.push(format!("cert_issuance.{id:?} has common_name and subject; common_name counts"));
        }
        if options.subject == Some(cert_api::Subject::Unusable) {
            warnings
                .push(format!("cert_issuance.{id:?}.subject has a value that is no text; it has no effect"));
        }
        if let Some(Err(error)) = SubjectOverride::of(options).map(|subject| subject.name()) {
            warnings.push(format!("cert_issuance.{id:?}: the subject cannot be used: {error}"));
        }
        if options.method == Method::LocalCa && issuance.local_ca.is_none() {
            warnings.push(format!("cert_issuance.{id:?} has the method local_ca, {}", NotIssued::NoLocalCa));
        }
        for key in options.unknown.keys() {
            warnings.push(format!("cert_issuance.{id:?}.{key} is not a known setting and is ignored"));
        }
    }
    warnings
}

/// Unix seconds.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

/// Certificates that are signed at a time.
const SIGNING: usize = 4;
