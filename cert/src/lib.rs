//! certd issues, imports and serves certificates; the keys that sign are keyd's.
//!
//! ```text
//!   request ──► handlers ──► acl ──► Allowed<String> ──► store: files
//!                  │                                        ▲
//!                  └──► join: the same asked twice          │ turns: who began last wins
//!                         └──► issue: self-signed · local authority · issuer of the request · EST ──► est: RFC 7030
//!                                  └──► keys: keyd's handles, private keys behind OpenSSL
//!
//!   by itself: renewals ──► cert_renewal: EST identities stay valid; renew: how one is issued anew
//! ```
//!
//! Nothing waits for the network but who asked for it: a certificate is read from its file whatever else goes on.

mod daemon;
mod der;
mod engine;
mod error;
mod est;
mod handlers;
mod issue;
mod join;
mod keys;
mod pem;
pub mod renew;
mod renewals;
mod store;
#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
mod turns;

use std::sync::{Arc, RwLock};

use cert_api::{Config, CreateCertificate, Issuance, Issuer, TEMPORARY};
use cert_renewal::Journal;
use config_common::{Acl, Allowed, Service};
use http_common::https::ProxyRules;
use http_common::{Client, Peer};
use openssl::x509::X509;

use issue::{Csr, IssuerKey, Issuing};
use join::Joined;
use keys::Keys;
use pem::BadPem;
use renewals::Renewals;
use store::Store;
use turns::Turns;

pub use error::Error;
pub use est::EstError;
pub use issue::{BadCsr, BadSubject, NotIssued, NotSigned};
pub use keys::{BoxedError, KeyError, KeyPair, PrivateKeys};
pub use renewals::NotRenewed;
pub use store::StoreError;

/// The state of certd.
pub struct Certd {
    current: RwLock<Arc<Current>>,
    issuing: Issuing,
    turns: Arc<Turns>,
    renewals: Arc<Renewals>,
    under_way: Joined<CreateCertificate, Result<String, Arc<Error>>>,
    /// What the daemon was started with, to tell at a reload what needs a restart.
    started_with: Config,
}

/// What the configuration says at present; replaced as a whole by a reload.
pub(crate) struct Current {
    pub(crate) acl: Acl,
    pub(crate) store: Store,
    pub(crate) issuance: Issuance,
}

impl Certd {
    /// certd as `config` says, with private keys from `private`. Waits for the disk and for nobody else.
    pub fn new(config: Config, private: Arc<dyn PrivateKeys>) -> Self {
        let keyd = Client::new(config.endpoints.of(Service::Keyd).path());
        let turns = Arc::new(Turns::default());
        let journals = config.homedir_path.join("renewal");
        if let Err(error) = Journal::clean(&journals) {
            tracing::warn!("{}", http_common::chain(&error));
        }
        let renewals = Arc::new(Renewals::new(journals));
        let keys = Keys::new(keyd, private);
        let issuing = Issuing::new(keys, Arc::clone(&turns), Arc::clone(&renewals), &config.homedir_path);
        let current = Current::new(&config, &config);
        if let Err(error) = current.store.clean() {
            tracing::warn!("{}", http_common::chain(&error));
        }
        current.warn();
        let current = RwLock::new(Arc::new(current));
        Self { current, issuing, turns, renewals, under_way: Joined::default(), started_with: config }
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().expect("no panic while held"))
    }

    /// The proof that `peer` may change the certificate `id`.
    fn allow(&self, peer: &Peer, id: String) -> Result<Allowed<String>, Error> {
        let forbidden = Error::Forbidden { uid: peer.uid, id: id.clone() };
        self.current().acl.allow(peer, id).ok_or(forbidden)
    }

    /// The text of the certificate `id`.
    async fn read(&self, id: String) -> Result<String, Error> {
        let current = self.current();
        let name = id.clone();
        let text = blocking(move || current.store.read(&name)).await.ok_or(Error::Worker)??;
        text.ok_or(Error::NoSuchCertificate(id))
    }

    /// Keeps `pem`, if it is certificates.
    async fn import(&self, id: Allowed<String>, pem: String) -> Result<String, Error> {
        let (current, turn) = (self.current(), self.turns.begin(id.as_str()));
        let name = id.as_str().to_owned();
        let kept = blocking(move || {
            pem::check_public(&pem).map_err(Error::BadPem)?;
            turn.take(|| current.store.write(&id, &pem))?;
            Ok(pem)
        });
        let kept = kept.await.ok_or(Error::Worker)?;
        self.renewals.changed(&name);
        kept
    }

    async fn delete(&self, id: Allowed<String>) -> Result<(), Error> {
        let (current, turn) = (self.current(), self.turns.begin(id.as_str()));
        let name = id.as_str().to_owned();
        let deleted = blocking(move || turn.take(|| current.store.delete(&id)));
        let deleted = deleted.await.ok_or(Error::Worker)?;
        self.renewals.changed(&name);
        Ok(deleted?)
    }

    /// Issues and keeps a certificate. Who asks for what another one has just asked for gets the same.
    async fn create(&self, id: Allowed<String>, request: CreateCertificate) -> Result<String, Error> {
        let work = async { self.issue(id, request.clone()).await.map_err(Arc::new) };
        self.under_way.run(request.clone(), work).await.map_err(Error::Joined)
    }

    async fn issue(&self, id: Allowed<String>, request: CreateCertificate) -> Result<String, Error> {
        let CreateCertificate { cert_id, csr, issuer } = request;
        let (current, turn) = (self.current(), self.turns.begin(id.as_str()));
        let csr = blocking(move || Csr::parse(&csr)).await.ok_or(Error::Worker)?.map_err(Error::BadCsr)?;
        let issuer = match issuer {
            Some(issuer) => Some(issuer_key(&current, issuer).await?),
            None => None,
        };
        current.check_writable(&cert_id).await.ok_or(Error::Worker)??;
        let issued = self.issuing.issue(&current, &cert_id, Arc::new(csr), issuer).await;
        let pem = issued.map_err(|source| Error::not_issued(cert_id.clone(), source))?;
        let kept = blocking(move || {
            turn.take(|| current.store.write(&id, &pem))?;
            Ok(pem)
        });
        let kept = kept.await.ok_or(Error::Worker)?;
        self.renewals.changed(&cert_id);
        kept
    }
}

impl Current {
    /// `config`, but what needs a restart as it was in `started_with`.
    fn new(config: &Config, started_with: &Config) -> Self {
        // Who may change a certificate may also have the one made that is to follow it.
        let patterns = |certs: &[String]| -> Vec<String> {
            certs.iter().flat_map(|pattern| [pattern.clone(), format!("{pattern}{TEMPORARY}")]).collect()
        };
        let principals =
            config.principal.iter().map(|principal| (principal.who.clone(), patterns(&principal.certs)));
        Self {
            acl: principals.collect(),
            store: Store::new(&started_with.homedir_path, config.preloaded_certs.clone()),
            issuance: config.cert_issuance.clone(),
        }
    }

    /// Whether a certificate could be kept as `id`, so that none is issued in vain; none if a thread panicked.
    async fn check_writable(self: &Arc<Self>, id: &str) -> Option<Result<(), StoreError>> {
        let (current, id) = (Arc::clone(self), id.to_owned());
        blocking(move || current.store.check_writable(&id)).await
    }

    /// Tells what is accepted and was perhaps not meant. Waits for the disk.
    fn warn(&self) {
        for error in self.store.warnings() {
            tracing::warn!("{}", http_common::chain(&error));
        }
        for warning in issue::warnings(&self.issuance) {
            tracing::warn!("{warning}");
        }
        let Some(est) = &self.issuance.est else { return };
        for id in est.trusted_certs.iter().filter(|id| !matches!(self.store.read(id), Ok(Some(_)))) {
            tracing::warn!(
                "cert_issuance.est.trusted_certs: there is no certificate {id:?}; nothing is issued over EST"
            );
        }
        if let Err(error) = ProxyRules::from_env() {
            tracing::warn!("nothing is issued over EST: {}", http_common::chain(&error));
        }
    }
}

/// The issuer that a request names.
async fn issuer_key(current: &Arc<Current>, issuer: Issuer) -> Result<IssuerKey, Error> {
    let Issuer { cert_id: id, private_key_handle: handle } = issuer;
    let current = Arc::clone(current);
    let read = blocking(move || -> Result<Vec<X509>, Error> {
        let text = current.store.read(&id)?;
        match pem::certificates(&text.ok_or_else(|| Error::NoSuchIssuer(id.clone()))?) {
            Ok(chain) => Ok(chain),
            Err(BadPem::Empty) => Err(Error::EmptyIssuer(id)),
            Err(source) => Err(Error::BadIssuer { id, source }),
        }
    });
    let chain = read.await.ok_or(Error::Worker)??;
    match handle.as_str().contains('\0') {
        true => Err(Error::NulInHandle),
        false => Ok(IssuerKey { chain, handle }),
    }
}

/// Runs `job` on a thread that may wait; none if it panicked.
async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(job).await.ok()
}
