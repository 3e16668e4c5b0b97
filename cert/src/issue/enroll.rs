//! Issuance over EST: as whom, and what to do when that does not do (spec certificates-service, 9.3). Knows nothing of
//! EST's messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cert_api::{EstIdentity, KeyAlgorithm};
use cert_renewal::Digest;
use http_common::https::{ClientIdentity, HttpsOptions, ProxyRules, Trust};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Public};
use openssl::x509::{X509, X509Name, X509Req, X509ReqRef};
use url::Url;

use super::csr::Csr;
use super::identity::{NoIdentity, Usable};
use super::name::SubjectOverride;
use super::target::Target;
use super::undecided::{Kept, Undecided};
use super::{NotIssued, now};
use crate::est::thread::Threads;
use crate::est::{EstError, Operation, Server, chain};
use crate::join::Joined;
use crate::keys::{KeyPair, Keys};
use crate::renewals::Renewals;
use crate::turns::Turns;
use crate::{Current, blocking, pem};

/// Issues over EST.
pub(crate) struct Est {
    pub(super) keys: Keys,
    pub(super) turns: Arc<Turns>,
    pub(super) renewals: Arc<Renewals>,
    undecided: Undecided,
    threads: Threads,
    /// First identities that are being got, by the ids of certificate and key.
    bootstraps: Joined<(String, String), Result<ClientIdentity, Arc<NotIssued>>>,
}

/// How to get to a server, all read and checked.
#[derive(Clone)]
pub(crate) struct Way {
    url: Url,
    basic: Option<(String, zeroize::Zeroizing<String>)>,
    anchors: Vec<X509>,
    proxy: ProxyRules,
    /// What a new key pair of the identity is, if that is configured.
    pub(super) key_algorithm: Option<KeyAlgorithm>,
    pub(super) deadline: Instant,
}

impl Est {
    pub(crate) fn new(keys: Keys, turns: Arc<Turns>, renewals: Arc<Renewals>, undecided: Undecided) -> Self {
        let (threads, bootstraps) = (Threads::default(), Joined::default());
        Self { keys, turns, renewals, undecided, threads, bootstraps }
    }

    /// The chain for `csr` under the id `id`, in PEM.
    pub(crate) async fn issue(
        &self,
        current: &Arc<Current>,
        id: &str,
        csr: Arc<Csr>,
    ) -> Result<String, NotIssued> {
        let target = Target::of(&current.issuance, id)?;
        let way = self.way(current, &target).await?;
        let enroll = |client| self.enroll(&way, client, Operation::SimpleEnroll, csr.request());
        let Some((identity, bootstrap)) = target.authentication.identity() else {
            return Ok(chain::to_pem(&enroll(None).await?)?);
        };
        let subject = || match current.issuance.of(id).and_then(SubjectOverride::of) {
            Some(subject) => {
                subject.name().map_err(|error| NotIssued::from(super::NotSigned::Subject(error)))
            }
            None => Ok(csr.subject().to_owned()?),
        };
        let first = match self.identity(current, identity).await {
            // It stays what it is until the answer is there.
            Ok(Usable { client, digest, _kept }) => (enroll(Some(client)).await, digest),
            Err(NoIdentity::Failed(error)) => return Err(error),
            Err(NoIdentity::Unusable(why)) if bootstrap.is_none() => {
                return Err(NotIssued::NoIdentity { cert: identity.cert.to_owned(), why });
            }
            Err(NoIdentity::Unusable(why)) => {
                tracing::info!("a new EST identity {:?} is needed: {why}", identity.cert);
                let client = self.bootstrapped(current, &way, identity, bootstrap, subject()?).await?;
                return Ok(chain::to_pem(&enroll(Some(client)).await?)?);
            }
            Err(NoIdentity::Gone { digest, why }) => {
                return self.enroll_anew(&way, identity, digest, why, csr.request()).await;
            }
        };
        let chain = match first {
            // With a password in play, it may be that which is wrong.
            (Err(error), digest) if error.is_unauthorized() && way.basic.is_none() && bootstrap.is_some() => {
                tracing::warn!("the EST server does not accept the identity {:?}: {error}", identity.cert);
                if let Some(digest) = digest {
                    let why = "the EST server does not accept it".to_owned();
                    return self.enroll_anew(&way, identity, digest, why, csr.request()).await;
                }
                let client = self.bootstrapped(current, &way, identity, bootstrap, subject()?).await?;
                enroll(Some(client)).await?
            }
            (chain, _) => chain?,
        };
        Ok(chain::to_pem(&chain)?)
    }

    /// The chain for `csr` by another identity in the place of `digest`, which is not good any more: `why`.
    async fn enroll_anew(
        &self,
        way: &Way,
        identity: EstIdentity<'_>,
        digest: Digest,
        why: String,
        csr: &X509ReqRef,
    ) -> Result<String, NotIssued> {
        let cert = || identity.cert.to_owned();
        let Some(renewal) = self.renewals.of(identity) else {
            return Err(NotIssued::NoIdentity { cert: cert(), why });
        };
        let Usable { client, _kept, .. } =
            self.replaced(&renewal, identity, digest, why, way.deadline).await?;
        let chain = self.enroll(way, Some(client), Operation::SimpleEnroll, csr).await?;
        Ok(chain::to_pem(&chain)?)
    }

    /// What is needed to talk to the server of `target`.
    pub(crate) async fn way(&self, current: &Arc<Current>, target: &Target) -> Result<Way, NotIssued> {
        let mut anchors = Vec::new();
        for id in &target.trusted {
            match current.certificates(id).await {
                Ok(certificates) => anchors.extend(certificates),
                Err(NotIssued::Unusable { source: pem::BadPem::Empty, .. }) => {
                    tracing::warn!("the trusted certificate {id:?} has no certificate in it");
                }
                Err(error) => return Err(error),
            }
        }
        let basic = target.authentication.basic();
        Ok(Way {
            url: target.url.clone(),
            basic: basic.map(|(name, password)| (name.to_owned(), password.to_owned().into())),
            anchors,
            proxy: ProxyRules::from_env().map_err(NotIssued::Proxy)?,
            key_algorithm: target.authentication.identity_key_algorithm,
            deadline: Instant::now() + DEADLINE,
        })
    }

    /// Has `csr` issued by the server, as `client`: the chain, the leaf first. If the server has not decided yet on a
    /// request that says the same, it is asked with that one; if it does not want to be asked yet, it is not.
    pub(crate) async fn enroll(
        &self,
        way: &Way,
        client: Option<ClientIdentity>,
        operation: Operation,
        csr: &X509ReqRef,
    ) -> Result<Vec<X509>, EstError> {
        let unsendable = || EstError::Unsendable("the request");
        let csr = copy(csr).map_err(|_| unsendable())?;
        let place = self.undecided.place(&way.url, operation, &csr).ok_or_else(unsendable)?;
        let look = place.clone();
        let csr = match blocking(move || look.kept()).await.flatten() {
            Some(Kept { wait: Some(wait), .. }) => {
                return Err(EstError::Pending { url: way.url.to_string(), after: Some(wait) });
            }
            Some(Kept { request, wait: None }) => request,
            None => csr,
        };
        let keeping = place.clone();
        let issued = self.talk(way, client, async move |server: Server| {
            let key: PKey<Public> = csr.public_key().map_err(|_| EstError::Unsendable("the request"))?;
            let authorities = server.authorities().await?;
            let issued = server.enroll(operation, &csr, &|wait| keeping.keep(&csr, wait)).await?;
            Ok(chain::build(&key, issued, authorities)?)
        });
        let issued = issued.await;
        if is_decided(&issued) {
            blocking(move || place.forget()).await;
        }
        issued
    }

    /// Has a conversation with the server, as `client`.
    pub(crate) async fn talk<T, F>(
        &self,
        way: &Way,
        client: Option<ClientIdentity>,
        job: F,
    ) -> Result<T, EstError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(Server) -> Result<T, EstError> + Send + 'static,
    {
        let Way { url, basic, anchors, proxy, deadline, key_algorithm: _ } = way.clone();
        let options = HttpsOptions { trust: Trust::SystemAnd(anchors), identity: client, proxy };
        let conversation = async move || {
            let basic = basic.as_ref().map(|(name, password)| (name.as_str(), password.as_str()));
            job(Server::new(&url, basic, options, deadline)?).await
        };
        self.threads.run(deadline, conversation).await
    }

    /// The keys in keyd.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The key pair `id`, which must exist.
    pub(crate) async fn key(&self, id: &str) -> Result<KeyPair, NotIssued> {
        let handle = self.keys.load(id).await?;
        let keys = self.keys.clone();
        let opened = blocking(move || keys.open_pair(&handle));
        Ok(opened.await.ok_or(NotIssued::Worker)??)
    }

    /// A new identity by means of the bootstrap identity, also if somebody else is getting it just now.
    async fn bootstrapped(
        &self,
        current: &Arc<Current>,
        way: &Way,
        identity: EstIdentity<'_>,
        bootstrap: Option<EstIdentity<'_>>,
        subject: X509Name,
    ) -> Result<ClientIdentity, NotIssued> {
        let bootstrap = bootstrap.ok_or(NotIssued::NoAuthentication)?;
        let ids = (identity.cert.to_owned(), identity.pk.to_owned());
        let work = async {
            let renewal = self.renewals.of(identity);
            let _hold = match &renewal {
                Some(renewal) => Some(renewal.hold().await),
                None => None,
            };
            self.bootstrap(current, way, identity, bootstrap, &subject).await.map_err(Arc::new)
        };
        let client = self.bootstraps.run(ids, work).await;
        client.map_err(|source| NotIssued::NotBootstrapped { cert: identity.cert.to_owned(), source })
    }
}

/// Whether a certificate's time is over.
pub(crate) fn is_expired(certificate: &X509) -> bool {
    openssl::asn1::Asn1Time::from_unix(now()).is_ok_and(|now| certificate.not_after() <= now)
}

/// Whether the server need not be asked again with the same request.
fn is_decided(issued: &Result<Vec<X509>, EstError>) -> bool {
    use http_common::StatusCode as Status;
    match issued {
        Ok(_) | Err(EstError::NotOurs(_)) => true,
        // It may be who asks that is refused, not what is asked for.
        Err(EstError::Refused { status, is_unauthorized, .. }) => {
            let others = [Status::FORBIDDEN, Status::TOO_MANY_REQUESTS];
            status.is_client_error() && !is_unauthorized && !others.contains(status)
        }
        Err(_) => false,
    }
}

/// `openssl` has no `Clone` for requests.
fn copy(request: &X509ReqRef) -> Result<X509Req, ErrorStack> {
    X509Req::from_der(&request.to_der()?)
}

/// The time for everything that one issuance takes, the first identity included.
const DEADLINE: Duration = Duration::from_secs(60);
