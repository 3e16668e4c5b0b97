//! EST identities that exist: whether they can be used, and the use of them. Knows no way to get one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cert_api::EstIdentity;
use cert_renewal::{Digest, Error as Renewing, Hold, Pair, Slot};
use http_common::https::ClientIdentity;

use super::enroll::{Est, is_expired};
use super::{NotIssued, now};
use crate::keys::KeyError;
use crate::renewals::{EstRenewal, temporary};
use crate::{Current, blocking};

/// An identity to connect as.
pub(crate) struct Usable {
    pub(crate) client: ClientIdentity,
    /// Which certificate it is, if it is one that is renewed.
    pub(crate) digest: Option<Digest>,
    /// Certificate and key stay where they are until this is dropped.
    pub(crate) _kept: Option<Hold>,
}

/// Why an identity cannot be used.
pub(crate) enum NoIdentity {
    /// Another one is needed.
    Unusable(String),
    /// It is one that is renewed, and its time is over.
    Gone {
        /// Its certificate.
        digest: Digest,
        /// How one can see that.
        why: String,
    },
    /// That cannot be said now.
    Failed(NotIssued),
}

impl Est {
    /// An identity with its key, if it can be used: it exists, is valid, and the key is its key.
    pub(super) async fn identity(
        &self,
        current: &Arc<Current>,
        identity: EstIdentity<'_>,
    ) -> Result<Usable, NoIdentity> {
        match self.renewals.of(identity) {
            Some(renewal) => self.kept(&renewal, identity).await,
            None => self.unkept(current, identity).await,
        }
    }

    /// Another identity in the place of `digest`, which is not good any more: `why`. It has a new key, if that can be: the old
    /// one may be what is not liked.
    pub(super) async fn replaced(
        &self,
        renewal: &EstRenewal,
        identity: EstIdentity<'_>,
        digest: Digest,
        why: String,
        deadline: Instant,
    ) -> Result<Usable, NotIssued> {
        let cert = identity.cert.to_owned();
        let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(REST);
        // Whether it has helped is seen; and being interrupted does not harm it.
        let replaced = tokio::time::timeout(left, renewal.replace(digest)).await;
        match replaced {
            Ok(Err(error)) => Err(NotIssued::NotReplaced { cert, why, source: Arc::new(error) }),
            Ok(Ok(())) | Err(_) => match self.kept(renewal, identity).await {
                Ok(usable) if usable.digest != Some(digest) => Ok(usable),
                Err(NoIdentity::Failed(error)) => Err(error),
                _ => Err(NotIssued::NoIdentity { cert, why }),
            },
        }
    }

    /// One that is renewed, as it is now.
    async fn kept(&self, renewal: &EstRenewal, identity: EstIdentity<'_>) -> Result<Usable, NoIdentity> {
        let Pair { certificate, slot, hold } = pair(renewal).await?;
        let digest = certificate.digest();
        if certificate.validity().is_over(now()) {
            let until = certificate.chain().first().map(|leaf| leaf.not_after().to_string());
            let why = format!("it has expired ({})", until.unwrap_or_default());
            return Err(NoIdentity::Gone { digest, why });
        }
        let key = match slot {
            Slot::Current => self.private_key(identity.pk).await,
            Slot::Temporary => self.private_key(&temporary(identity.pk)).await,
        };
        let client = ClientIdentity { chain: certificate.chain().to_vec(), key: key? };
        Ok(Usable { client, digest: Some(digest), _kept: Some(hold) })
    }

    /// The same, where another one is no way out.
    pub(crate) async fn usable_identity(
        &self,
        current: &Arc<Current>,
        identity: EstIdentity<'_>,
    ) -> Result<ClientIdentity, NotIssued> {
        let usable = self.unkept(current, identity).await;
        usable.map(|usable| usable.client).map_err(|error| match error {
            NoIdentity::Failed(error) => error,
            NoIdentity::Unusable(why) | NoIdentity::Gone { why, .. } => {
                NotIssued::UnusableIdentity { cert: identity.cert.to_owned(), why }
            }
        })
    }

    /// One that nobody renews.
    async fn unkept(&self, current: &Arc<Current>, identity: EstIdentity<'_>) -> Result<Usable, NoIdentity> {
        let chain = match current.certificates(identity.cert).await {
            Err(NotIssued::Missing(_)) => return Err(NoIdentity::Unusable("there is none".to_owned())),
            Err(NotIssued::Unusable { source, .. }) => return Err(NoIdentity::Unusable(source.to_string())),
            chain => chain.map_err(NoIdentity::Failed)?,
        };
        if is_expired(&chain[0]) {
            return Err(NoIdentity::Unusable(format!("it has expired ({})", chain[0].not_after())));
        }
        let key = match self.key(identity.pk).await {
            Err(NotIssued::Key(error @ KeyError::Missing(_))) => {
                return Err(NoIdentity::Unusable(error.to_string()));
            }
            key => key.map_err(NoIdentity::Failed)?,
        };
        match chain[0].public_key().map(|public| public.public_eq(&key.public)) {
            Ok(true) => {
                Ok(Usable { client: ClientIdentity { chain, key: key.private }, digest: None, _kept: None })
            }
            Ok(false) => Err(NoIdentity::Unusable(format!("the key {:?} is not its key", identity.pk))),
            Err(error) => Err(NoIdentity::Failed(error.into())),
        }
    }

    async fn private_key(&self, id: &str) -> Result<openssl::pkey::PKey<openssl::pkey::Private>, NoIdentity> {
        let open = async {
            let (handle, keys) = (self.keys.load(id).await?, self.keys.clone());
            Ok(blocking(move || keys.open(&handle)).await.ok_or(NotIssued::Worker)??)
        };
        open.await.map_err(NoIdentity::Failed)
    }
}

async fn pair(renewal: &EstRenewal) -> Result<Pair, NoIdentity> {
    renewal.pair().await.map_err(|error| match error {
        Renewing::Stuck(why) => NoIdentity::Unusable(why.to_string()),
        Renewing::BadCertificate(why) => NoIdentity::Unusable(why.to_string()),
        error => NoIdentity::Failed(NotIssued::Renewing(Box::new(error))),
    })
}

/// What a renewal leaves of the time, for what it is needed for.
const REST: Duration = Duration::from_secs(10);
