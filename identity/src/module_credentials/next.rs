//! The next certificate of a module, with its key: made beside those in use, then put in their place. Knows no hub, nor when this
//! is to be done.

use std::time::Instant;

use http_common::chain;
use identity_api::config::{Registration, module_certificate};

use super::{ModuleCredentials, thumbprint};
use crate::Error;
use crate::module_renewal::UnderWay;
use crate::workshop::{CertificateError, Certified, fits, temporary};

/// A certificate that is about to be used.
pub(crate) struct Next {
    /// With what vouches for it, in PEM.
    pem: String,
    has_new_key: bool,
    /// Of the certificate in use and of this one, if the hub is to know them.
    pub(crate) thumbprints: Option<(String, String)>,
}

impl ModuleCredentials {
    /// A renewal of the certificate of the module `id`, if it is to begin at `now`.
    pub(crate) fn begin_renewal(&self, id: &str, now: Instant) -> Option<UnderWay> {
        self.renewals.begin(id, now).filter(|_| self.is_certified(id))
    }

    /// The next certificate of a module, made beside the one in use. May take as long as an EST server does.
    pub(crate) async fn prepare(&self, device_id: &str, module_id: &str) -> Result<Next, Error> {
        let (registration, what) = self.certified(device_id, module_id)?;
        let Certified { cert_id, key_id, subject: Some(subject), .. } = &what else {
            return Err(CertificateError::NoSubject { id: what.cert_id }.into());
        };
        let has_new_key = self.make_key(&what).await?;
        let key = if has_new_key { temporary(key_id) } else { key_id.clone() };
        let key = self.workshop.opened(&key).await?;
        let csr = self.workshop.request(subject.clone(), key.clone(), vec![]).await?;
        let id = temporary(cert_id);
        let (pem, issued) = self.workshop.issue(&id, csr).await?;
        if let Err(error) = self.workshop.forget(&id).await {
            tracing::info!("certd keeps a certificate {id:?} that nobody needs: {}", chain(&error));
        }
        let now = self.workshop.certificate(cert_id).await?.unwrap_or_default();
        let thumbprints = match (registration, now.first(), issued.first().filter(|_| fits(&issued, &key))) {
            (_, _, None) => return Err(CertificateError::OtherKey { id, key: key_id.clone() }.into()),
            (Registration::Thumbprint, Some(now), Some(next)) => {
                Some((thumbprint(cert_id, now)?, thumbprint(cert_id, next)?))
            }
            (Registration::Thumbprint, None, _) | (Registration::Ca, _, _) => None,
        };
        Ok(Next { pem, has_new_key, thumbprints })
    }

    /// Put the next certificate of a module, and its key, in place of those in use.
    pub(crate) async fn exchange(&self, module_id: &str, next: &Next) -> Result<(), Error> {
        let id = module_certificate(module_id);
        let turn = self.turn(module_id);
        let _turn = turn.lock().await;
        // The key after the certificate: whoever finds it missing gives it its place (`workshop.rs`).
        self.workshop.import(&id, &next.pem).await?;
        if next.has_new_key {
            self.workshop.replace(&id, &temporary(&id)).await?;
        }
        Ok(())
    }

    /// Makes the next key pair of a module, unless it is there already, or the one in use has to stay.
    async fn make_key(
        &self,
        Certified { key_id, algorithm, .. }: &Certified,
    ) -> Result<bool, CertificateError> {
        let temporary = temporary(key_id);
        if self.workshop.open(&temporary).await?.is_some() {
            return Ok(true);
        }
        if let Some(why) = self.workshop.obstacle(key_id).await? {
            tracing::info!("the key pair {key_id:?} stays when its certificate is renewed: {why}");
            return Ok(false);
        }
        self.workshop.create(&temporary, algorithm.preferred()).await.map(|()| true)
    }
}
