//! EST identities that exist: whether they can be used, and the use of them. Knows no way to get one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cert_api::EstIdentity;
use cert_renewal::{Error as Renewing, Hold, Pair, Slot};
use http_common::https::ClientIdentity;

use super::enroll::{Est, is_expired};
use super::{NotIssued, now};
use crate::keys::KeyError;
use crate::renewals::{EstRenewal, temporary};
use crate::{Current, blocking};

/// An identity to connect as.
pub(crate) struct Usable {
    pub(crate) client: ClientIdentity,
    /// Certificate and key stay where they are until this is dropped.
    pub(crate) _kept: Option<Hold>,
}

/// Why an identity cannot be used.
pub(crate) enum NoIdentity {
    /// Another one is needed.
    Unusable(String),
    /// That cannot be said now.
    Failed(NotIssued),
}

impl Est {
    /// An identity with its key, if it can be used: it exists, is valid, and the key is its key. One that has expired is
    /// renewed first, until `deadline`.
    pub(super) async fn identity(
        &self,
        current: &Arc<Current>,
        identity: EstIdentity<'_>,
        deadline: Instant,
    ) -> Result<Usable, NoIdentity> {
        let Some(renewal) = self.renewals.of(identity) else { return self.unkept(current, identity).await };
        let pair = match pair(&renewal).await? {
            pair if pair.certificate.validity().is_over(now()) => {
                drop(pair);
                let left = deadline.saturating_duration_since(Instant::now());
                // Whether it has helped is seen; and being interrupted does not harm it.
                let _ = tokio::time::timeout(left.saturating_sub(REST), renewal.go_on()).await;
                self::pair(&renewal).await?
            }
            pair => pair,
        };
        let Pair { certificate, slot, hold } = pair;
        if certificate.validity().is_over(now()) {
            let until = certificate.chain().first().map(|leaf| leaf.not_after().to_string());
            return Err(NoIdentity::Unusable(format!("it has expired ({})", until.unwrap_or_default())));
        }
        let key = match slot {
            Slot::Current => self.private_key(identity.pk).await,
            Slot::Temporary => self.private_key(&temporary(identity.pk)).await,
        };
        let client = ClientIdentity { chain: certificate.chain().to_vec(), key: key? };
        Ok(Usable { client, _kept: Some(hold) })
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
            NoIdentity::Unusable(why) => NotIssued::UnusableIdentity { cert: identity.cert.to_owned(), why },
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
            Ok(true) => Ok(Usable { client: ClientIdentity { chain, key: key.private }, _kept: None }),
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
