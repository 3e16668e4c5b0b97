//! The certificate authorities that programs on this device are told to trust (spec identity-service, 5.10): those that the
//! configuration names at certd, or none, as with upstream, whose DPS handed out none. Does not know whom they vouch for, and
//! waits for no cloud.
//!
//! What certd has said is kept in the state directory, for the time when certd cannot be asked.

use std::time::Duration;

use http_common::{ClientError, chain};
use identity_api::TrustBundle;
use openssl::error::ErrorStack;
use openssl::x509::X509;

use crate::workshop::CertificateError;
use crate::{Error, Identityd};

impl Identityd {
    /// The bundle: what certd has now, else what it has said before.
    pub(crate) async fn trust_bundle(&self) -> Result<TrustBundle, Error> {
        let Some(id) = self.settings().config.trust_bundle.clone() else {
            return Ok(TrustBundle { certificate: String::new() });
        };
        let certificate = match self.bundle_at_certd(&id).await {
            Ok(certificates) => {
                self.keep_bundle(id, certificates.clone()).await;
                certificates
            }
            Err(error) => self.kept_bundle(id, error).await?,
        };
        Ok(TrustBundle { certificate })
    }

    async fn bundle_at_certd(&self, id: &str) -> Result<String, CertificateError> {
        let too_slow = |_| {
            let source = ClientError::TimedOut { service: "certd", limit: LIMIT };
            CertificateError::Certd { id: id.to_owned(), source }
        };
        let asked = tokio::time::timeout(LIMIT, self.services.workshop.text(id)).await;
        let Some(pem) = asked.map_err(too_slow)?? else {
            tracing::warn!(
                "trust_bundle is {id:?}, of which certd has nothing; nobody is told to trust anybody"
            );
            return Ok(String::new());
        };
        certificates(&pem).map_err(|source| CertificateError::Unreadable { id: id.to_owned(), source })
    }

    async fn keep_bundle(&self, id: String, certificates: String) {
        if let Err(error) = self.on_disk(move |home| home.keep_bundle(&id, &certificates)).await {
            tracing::warn!("without certd there will be no trust bundle: {}", chain(&error));
        }
    }

    async fn kept_bundle(&self, id: String, error: CertificateError) -> Result<String, Error> {
        match self.on_disk(move |home| home.bundle(&id)).await {
            Some(certificates) => {
                tracing::warn!("the trust bundle is what certd has said before: {}", chain(&error));
                Ok(certificates)
            }
            None => Err(error.into()),
        }
    }
}

/// The certificates in `pem`, and nothing else of it.
fn certificates(pem: &str) -> Result<String, ErrorStack> {
    let mut text = String::new();
    for certificate in X509::stack_from_pem(pem.as_bytes())? {
        text += &String::from_utf8_lossy(&certificate.to_pem()?);
    }
    Ok(text)
}

/// How long certd may take. It has the bundle at hand; who is in its way is not waited for.
const LIMIT: Duration = Duration::from_secs(5);
