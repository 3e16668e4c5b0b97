//! New certificates: for a new key if there can be one, and what to do where that was interrupted. Does not know whom they
//! are for.
//!
//! A new certificate has a new key, which is made beside the old one, `…-temp`, also if there is no old one: so who has to be
//! asked again for the certificate is asked with the same key. It gets its place when certd has the certificate; wherever
//! this is interrupted, the next attempt goes on. Only "there is none" makes anything new: a service that is away or refuses
//! changes nothing.

use http_common::chain;
use identity_api::config::Subject;
use key_api::{GetParameter, PRELOADED};
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use super::{CertificateError, Certified, Workshop, fits, is_absent, is_refusal, temporary};

/// Why a key cannot be replaced.
const STAYS: &str =
    "keyd's configuration names the key pair (preloaded_keys), so that no other takes its place";
/// The certificates, the leaf first, and its key.
type WithKey = (Vec<X509>, PKey<Private>);

impl Workshop {
    /// The key of a certificate that is there already. That of an interrupted [`Self::make`] gets its place.
    pub(super) async fn key_of(
        &self,
        chain: &[X509],
        what: &Certified,
    ) -> Result<PKey<Private>, CertificateError> {
        let Certified { cert_id, key_id, .. } = what;
        let current = self.open(key_id).await?;
        if let Some(key) = current.as_ref().filter(|key| fits(chain, key)) {
            return Ok(key.clone());
        }
        // We may not be allowed to see whether there is one.
        let new = self.open(&temporary(key_id)).await.unwrap_or_default();
        if let Some(key) = new.filter(|key| fits(chain, key)) {
            return self.settle(what, key).await;
        }
        let (id, key) = (cert_id.clone(), key_id.clone());
        Err(match current {
            Some(_) => CertificateError::OtherKey { id, key },
            None => CertificateError::NoKey { id, key },
        })
    }

    /// A new certificate, for a new key if keyd lets us make one that can have the place of `key_id`.
    pub(super) async fn make(&self, what: &Certified) -> Result<WithKey, CertificateError> {
        let Certified { cert_id, key_id, subject, algorithm, is_made_anew: _ } = what;
        let Some(subject) = subject else {
            return Err(CertificateError::NoSubject { id: cert_id.clone() });
        };
        tracing::info!("certd has no certificate {cert_id:?} that can be used; one is requested");
        if let Some(why) = self.refusal_of_another(what).await? {
            tracing::info!(
                "the certificate {cert_id:?} is requested for the key pair {key_id:?} itself: {why}"
            );
            self.create(key_id, algorithm.preferred()).await?;
            return self.certify(cert_id, key_id, subject).await;
        }
        let temporary = temporary(key_id);
        let (chain, key) = self.certify(cert_id, &temporary, subject).await?;
        match self.replace(key_id, &temporary).await {
            Ok(()) => Ok((chain, self.opened(key_id).await?)),
            // It belongs to the administrator, so the certificate must be for that key.
            Err(CertificateError::Keyd { source, .. }) if is_refusal(&source) => {
                tracing::info!("the key pair {key_id:?} cannot be replaced and is used again");
                self.create(key_id, algorithm.preferred()).await?;
                let certified = self.certify(cert_id, key_id, subject).await;
                match certified {
                    Ok(certified) => {
                        self.delete_key(&temporary).await?;
                        Ok(certified)
                    }
                    Err(error) => {
                        tracing::warn!(
                            "the key pair {temporary:?} is used as it is: {}",
                            http_common::chain(&error)
                        );
                        Ok((chain, key))
                    }
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Why keyd would not give another key pair the id of the key pair `key_id`, for administrators; none if it would. A keyd
    /// that cannot say, as upstream's, would.
    pub(crate) async fn obstacle(&self, key_id: &str) -> Result<Option<String>, CertificateError> {
        let failed = |source| CertificateError::Keyd { id: key_id.to_owned(), source };
        let key_handle = match self.handle(key_id).await {
            Err(error) if is_absent(&error) => return Ok(None),
            handle => handle.map_err(failed)?,
        };
        let request = GetParameter { parameter_name: PRELOADED.to_owned(), key_handle };
        match self.keyd.call(&request).await {
            Ok(reply) => Ok((reply.value == "true").then(|| STAYS.to_owned())),
            Err(error) if error.status().is_some() => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Puts the new key, which the certificate in certd is for, in its place. If keyd refuses, it is good where it is.
    async fn settle(&self, what: &Certified, key: PKey<Private>) -> Result<PKey<Private>, CertificateError> {
        let Certified { cert_id, key_id, .. } = what;
        let temporary = temporary(key_id);
        match self.replace(key_id, &temporary).await {
            Ok(()) => {
                tracing::info!("the key pair {key_id:?} is now that of the certificate {cert_id:?}");
                self.opened(key_id).await
            }
            Err(error) if error.is_refusal_of_keyd() => {
                tracing::warn!("the key pair {temporary:?} is used where it is: {}", chain(&error));
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the key pair `…-temp`, unless there is one: then it has been asked for a certificate for it already. Why it
    /// cannot be, if keyd refuses.
    async fn refusal_of_another(&self, what: &Certified) -> Result<Option<String>, CertificateError> {
        let temporary = temporary(&what.key_id);
        let refused = |error: CertificateError| match error.is_refusal_of_keyd() {
            true => Ok(Some(chain(&error))),
            false => Err(error),
        };
        match self.open(&temporary).await {
            Ok(Some(_)) => return Ok(None),
            Ok(None) => {}
            Err(error) => return refused(error),
        }
        if self.open(&what.key_id).await?.is_some()
            && let Some(why) = self.obstacle(&what.key_id).await?
        {
            return Ok(Some(why));
        }
        match self.create(&temporary, what.algorithm.preferred()).await {
            Ok(()) => Ok(None),
            Err(error) => refused(error),
        }
    }

    /// A certificate for the key pair `key_id`.
    async fn certify(
        &self,
        cert_id: &str,
        key_id: &str,
        subject: &Subject,
    ) -> Result<WithKey, CertificateError> {
        let key = self.opened(key_id).await?;
        let csr = self.request(subject.clone(), key.clone(), vec![]).await?;
        let (_, chain) = self.issue(cert_id, csr).await?;
        match fits(&chain, &key) {
            true => Ok((chain, key)),
            false => Err(CertificateError::OtherKey { id: cert_id.to_owned(), key: key_id.to_owned() }),
        }
    }
}
