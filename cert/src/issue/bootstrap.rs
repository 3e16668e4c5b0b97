//! The first EST identity, got with a bootstrap identity (spec certificates-service, 9.3 B). Knows nothing of EST's
//! messages.

use std::sync::Arc;

use cert_api::EstIdentity;
use config_common::{Acl, Allowed};
use http_common::https::ClientIdentity;
use openssl::x509::X509NameRef;

use super::NotIssued;
use super::csr::Csr;
use super::enroll::{Est, Way};
use crate::est::{Operation, Server, chain};
use crate::keys::{EST_ALGORITHMS, KeyError, KeyPair};
use crate::{Current, blocking};

impl Est {
    /// Gets `identity` with `subject` from the server, as `bootstrap`, and keeps it.
    ///
    /// A key pair that exists is used as it is: an administrator may have made it, and nothing is lost if this fails.
    pub(super) async fn bootstrap(
        &self,
        current: &Arc<Current>,
        way: &Way,
        identity: EstIdentity<'_>,
        bootstrap: EstIdentity<'_>,
        subject: &X509NameRef,
    ) -> Result<ClientIdentity, NotIssued> {
        let client = self.usable_identity(current, bootstrap).await?;
        let key = match self.key(identity.pk).await {
            Err(NotIssued::Key(KeyError::Missing(_))) => self.new_key(way, &client, identity.pk).await?,
            key => key?,
        };
        let (signer, subject) = (key.clone(), subject.to_owned()?);
        let csr = blocking(move || Csr::for_client(&subject, &signer));
        let csr = csr.await.ok_or(NotIssued::Worker)??;
        let chain = self.enroll(way, Some(client), Operation::SimpleEnroll, &csr).await?;
        self.keep(current, identity.cert, chain::to_pem(&chain)?).await?;
        self.renewals.changed(identity.cert);
        tracing::info!("got the EST identity {:?}, valid until {}", identity.cert, chain[0].not_after());
        Ok(ClientIdentity { chain, key: key.private })
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
