//! The first EST identity, got with a bootstrap identity (spec certificates-service, 9.3 B). Knows nothing of EST's
//! messages.

use std::sync::Arc;

use cert_api::{EstIdentity, KeyAlgorithm};
use cert_renewal::KeyKind;
use config_common::{Acl, Allowed};
use http_common::https::ClientIdentity;
use openssl::x509::X509NameRef;

use super::NotIssued;
use super::csr::Csr;
use super::enroll::{Est, Way};
use crate::est::{Operation, Server, chain};
use crate::keys::{EST_ALGORITHMS, KeyError, KeyPair};
use crate::renewals::temporary;
use crate::{Current, blocking};

impl Est {
    /// Gets `identity` with `subject` from the server, as `bootstrap`, and keeps it.
    ///
    /// A key pair that exists is used as it is, unless the configuration wants another kind: an administrator may have made it,
    /// and nothing is lost if this fails.
    pub(super) async fn bootstrap(
        &self,
        current: &Arc<Current>,
        way: &Way,
        identity: EstIdentity<'_>,
        bootstrap: EstIdentity<'_>,
        subject: &X509NameRef,
    ) -> Result<ClientIdentity, NotIssued> {
        current.check_writable(identity.cert).await.ok_or(NotIssued::Worker)??;
        let client = self.usable_identity(current, bootstrap).await?;
        let (key, is_beside) = match self.key(identity.pk).await {
            Err(NotIssued::Key(KeyError::Missing(_))) => {
                (self.new_key(way, &client, identity.pk).await?, false)
            }
            key => self.of_wanted_kind(way, identity.pk, key?).await?,
        };
        let (signer, subject) = (key.clone(), subject.to_owned()?);
        let csr = blocking(move || Csr::for_client(&subject, &signer));
        let csr = csr.await.ok_or(NotIssued::Worker)??;
        let chain = self.enroll(way, Some(client), Operation::SimpleEnroll, &csr).await?;
        let key = match is_beside {
            true => {
                self.keys.rename(&temporary(identity.pk), identity.pk).await?;
                self.key(identity.pk).await?
            }
            false => key,
        };
        self.keep(current, identity.cert, chain::to_pem(&chain)?).await?;
        self.renewals.changed(identity.cert);
        tracing::info!("got the EST identity {:?}, valid until {}", identity.cert, chain[0].not_after());
        Ok(ClientIdentity { chain, key: key.private })
    }

    /// The key pair `id`, which is `key`; or one beside it, if that is not of the kind that is configured and keyd lets another
    /// one take its place. Whether it is beside it.
    async fn of_wanted_kind(&self, way: &Way, id: &str, key: KeyPair) -> Result<(KeyPair, bool), NotIssued> {
        let Some(algorithm) = way.key_algorithm.map(KeyAlgorithm::preferred) else { return Ok((key, false)) };
        if KeyKind::of(&*key.public).map(KeyKind::algorithms) == Some(algorithm) {
            return Ok((key, false));
        }
        let beside = match self.keys.obstacle(id).await? {
            Some(why) => Err(why.into()),
            None => self.beside(id, algorithm).await,
        };
        match beside {
            Ok(beside) => Ok((beside, true)),
            Err(NotIssued::Key(why)) if why.is_refusal() || matches!(why, KeyError::Preloaded(_)) => {
                tracing::warn!(
                    "the key pair {id:?} stays, though it is not of the kind that is configured: {}",
                    http_common::chain(&why)
                );
                Ok((key, false))
            }
            Err(error) => Err(error),
        }
    }

    /// The key pair that is to take the place of the key pair `id`; made unless it was before, lest a server that has not
    /// decided yet is asked anew.
    async fn beside(&self, id: &str, algorithms: &str) -> Result<KeyPair, NotIssued> {
        let id = temporary(id);
        self.keys.create(&id, algorithms).await?;
        self.key(&id).await
    }

    /// A key pair of the kind that is configured, or that the authority wishes.
    async fn new_key(&self, way: &Way, client: &ClientIdentity, id: &str) -> Result<KeyPair, NotIssued> {
        let algorithms = match way.key_algorithm {
            Some(algorithm) => algorithm.preferred(),
            None => self.wished_for(way, client).await.unwrap_or(EST_ALGORITHMS),
        };
        self.keys.create(id, algorithms).await?;
        self.key(id).await
    }

    /// The kind of key that the authority wishes, if it says so.
    async fn wished_for(&self, way: &Way, client: &ClientIdentity) -> Option<&'static str> {
        let wishes =
            self.talk(way, Some(client.clone()), async |server: Server| server.key_algorithms().await);
        wishes.await.unwrap_or_else(|error| {
            tracing::info!(
                "the EST server does not say which keys it wishes: {}",
                http_common::chain(&error)
            );
            None
        })
    }

    /// Keeps the identity `id`.
    pub(crate) async fn keep(&self, current: &Arc<Current>, id: &str, pem: String) -> Result<(), NotIssued> {
        let (turn, current, id) = (self.turns.begin(id), Arc::clone(current), own(id));
        let kept = blocking(move || turn.take(|| current.store.write(&id, &pem)));
        Ok(kept.await.ok_or(NotIssued::Worker)??)
    }
}

/// certd itself may write what it was configured to get.
fn own(id: &str) -> Allowed<String> {
    Acl::default().allow(ROOT, id.to_owned()).expect("root may do everything")
}

const ROOT: u32 = 0;
