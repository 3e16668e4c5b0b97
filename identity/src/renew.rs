//! The device's certificate is kept valid, by order of `cert_renewal` (spec identity-service, chapter 13 with its
//! improvements). DPS and the hub must accept a new one before the old one gives way; modules have nothing to do with it.
//! Knows no schedule.

use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use cert_renewal::{
    Actor, Certificate, Hold, Journal, KeyKind, KeyPrint, Pair, Policy, Renewal, Slot, Verdict,
};
use http_common::chain;
use http_common::https::{ClientIdentity, Cloud};
use http_common::retry::FailureKind;
use hub_client::HubClient;
use identity_api::config::{Attestation, AutoRenew, Dps, KeyAlgorithm, Manual, ManualCredentials, Source};
use openssl::pkey::PKey;
use tokio::task::AbortHandle;

use crate::backup::Record;
use crate::credentials::DeviceCredentials;
use crate::device::Phase;
use crate::provision::{Decision, REGISTER_LIMIT, at, decide, register};
use crate::workshop::{CertificateError, Certified, Workshop, check_time, temporary};
use crate::x509::DeviceCertificate;
use crate::{Error, Identityd, Settings};

/// The renewal of the device's certificate.
pub(crate) type DeviceRenewal = Renewal<DeviceIdentity>;

/// A certificate that is kept valid as long as this lives.
#[derive(Debug)]
pub(crate) struct Kept {
    renewal: Arc<DeviceRenewal>,
    task: AbortHandle,
}

impl Kept {
    pub(crate) fn renewal(&self) -> Arc<DeviceRenewal> {
        Arc::clone(&self.renewal)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Identityd {
    /// Keeps the device's certificate valid if `settings` say so.
    pub(crate) fn keep_certificate(self: &Arc<Self>, settings: &Settings) {
        let source = &settings.config.provisioning.source;
        let Some(DeviceCredentials::Certificate(certificate)) = self.services.credentials(source) else {
            return;
        };
        certificate.keep(auto_renew(source).is_some(), || {
            let Certified { cert_id, key_id, .. } = certificate.what().clone();
            let directory = self.home.renewals();
            if let Err(error) = Journal::clean(&directory) {
                tracing::warn!("{}", chain(&error));
            }
            let journal = Journal::new(&directory, &cert_id, &key_id);
            let name = cert_id.clone();
            let daemon = Arc::downgrade(self);
            let identity = DeviceIdentity { daemon, cert_id, key_id, record: Mutex::default() };
            let renewal = Arc::new(Renewal::new(&name, identity, journal));
            let running = Arc::clone(&renewal);
            let task = tokio::spawn(async move { running.run().await }).abort_handle();
            Kept { renewal, task }
        });
    }
}

/// The pair that is good now; made if there is no certificate. It stays where it is while the other value lives.
pub(crate) async fn obtain(
    renewal: &DeviceRenewal,
    workshop: &Workshop,
    what: &Certified,
) -> (Result<ClientIdentity, CertificateError>, Option<Hold>) {
    let mut pair = renewal.pair().await;
    if pair.as_ref().is_ok_and(|pair| pair.slot == Slot::Temporary) {
        // It is about to get its place.
        drop(pair);
        renewal.go_on().await;
        pair = renewal.pair().await;
    }
    match pair {
        Ok(Pair { certificate, slot, hold }) => (open(&certificate, slot, workshop, what).await, Some(hold)),
        Err(_) => {
            let hold = renewal.hold().await;
            let obtained = workshop.obtain(what).await;
            renewal.look_again();
            (obtained, Some(hold))
        }
    }
}

/// Somebody wishes to be let in: if the certificate's time is over, another one takes its place, as far as that can be had
/// now. What fails is told by the renewal, which goes on if nobody waits for it any more.
pub(crate) async fn revive(renewal: Arc<DeviceRenewal>) {
    let revived = tokio::spawn(async move { renewal.revive().await });
    // Whether it has helped is seen by whoever looks.
    let _ = revived.await;
}

/// Whether `identity` has the certificate that is good now, as far as that can be seen.
pub(crate) async fn is_pair(renewal: &DeviceRenewal, identity: &ClientIdentity) -> bool {
    let pair = renewal.pair().await;
    pair.map_or(true, |pair| pair.certificate.chain().first() == identity.chain.first())
}

async fn open(
    certificate: &Certificate,
    slot: Slot,
    workshop: &Workshop,
    what: &Certified,
) -> Result<ClientIdentity, CertificateError> {
    check_time(&what.cert_id, certificate.chain())?;
    let key = match slot {
        Slot::Current => workshop.opened(&what.key_id).await?,
        Slot::Temporary => workshop.opened(&temporary(&what.key_id)).await?,
    };
    Ok(ClientIdentity { chain: certificate.chain().to_vec(), key })
}

/// The device identity.
#[derive(Debug)]
pub(crate) struct DeviceIdentity {
    daemon: Weak<Identityd>,
    cert_id: String,
    key_id: String,
    /// What DPS has said to the new certificate.
    record: Mutex<Option<Record>>,
}

/// Why a step of a renewal was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRenewed {
    /// identityd ends.
    #[error("this service is about to end")]
    Ending,
    /// The configuration does not name it any more.
    #[error("the configuration does not name it any more")]
    NotConfigured,
    /// certd or keyd.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The cloud.
    #[error(transparent)]
    Cloud(#[from] Error),
}

impl DeviceIdentity {
    fn daemon(&self) -> Result<Arc<Identityd>, NotRenewed> {
        self.daemon.upgrade().ok_or(NotRenewed::Ending)
    }

    fn key_id(&self, slot: Slot) -> String {
        match slot {
            Slot::Current => self.key_id.clone(),
            Slot::Temporary => temporary(&self.key_id),
        }
    }

    /// How the device gets its identity by the configuration of now, if still with this certificate.
    fn configured(&self, daemon: &Identityd) -> Result<(Arc<Settings>, Arc<DeviceCertificate>), NotRenewed> {
        let settings = daemon.settings();
        match daemon.services.credentials(&settings.config.provisioning.source) {
            Some(DeviceCredentials::Certificate(certificate))
                if certificate.what().cert_id == self.cert_id =>
            {
                Ok((settings, certificate))
            }
            _ => Err(NotRenewed::NotConfigured),
        }
    }

    /// Who the device is with what it shows now: DPS says so, or the configuration, and the hub knows it as well.
    async fn registered(&self, daemon: &Identityd, cloud: &Cloud) -> Result<Record, NotRenewed> {
        let (settings, certificate) = self.configured(daemon)?;
        let credentials = DeviceCredentials::Certificate(certificate);
        let deadline = Instant::now() + REGISTER_LIMIT;
        let provisioning = &settings.config.provisioning;
        let record = match (&provisioning.source, decide(provisioning, None)) {
            (_, Decision::Use(record)) => record,
            (Source::Dps(dps), Decision::Register { .. }) => {
                register(dps, &credentials, cloud, &daemon.services.workshop, deadline).await?
            }
            _ => return Err(NotRenewed::NotConfigured),
        };
        let hub = HubClient::new(cloud.clone(), at(&record), credentials.for_cloud());
        for pause in HUB_PAUSES {
            match hub.list(deadline).await {
                Ok(_) => return Ok(record),
                // What DPS has told the hub takes a while to be known everywhere.
                Err(error) if error.kind() == FailureKind::Unauthorized => tokio::time::sleep(pause).await,
                Err(error) => return Err(Error::from(error).into()),
            }
        }
        hub.list(deadline).await.map_err(Error::from)?;
        Ok(record)
    }
}

impl Actor for DeviceIdentity {
    type Error = NotRenewed;

    fn policy(&self) -> Policy {
        let settings = self.daemon.upgrade().map(|daemon| daemon.settings());
        let configured = settings.and_then(|it| auto_renew(&it.config.provisioning.source).cloned());
        configured.unwrap_or_default().into()
    }

    async fn certificate(&self) -> Result<Option<String>, NotRenewed> {
        Ok(self.daemon()?.services.workshop.text(&self.cert_id).await?)
    }

    async fn key(&self, slot: Slot) -> Result<Option<KeyPrint>, NotRenewed> {
        let id = self.key_id(slot);
        let Some(key) = self.daemon()?.services.workshop.open(&id).await? else { return Ok(None) };
        // The private key is elsewhere; of its public part OpenSSL needs one of its own.
        let print = || KeyPrint::of(&*PKey::public_key_from_der(&key.public_key_to_der()?)?);
        let print = print().map_err(|source| CertificateError::Unreadable { id, source })?;
        Ok(Some(print))
    }

    async fn obstacle(&self) -> Result<Option<String>, NotRenewed> {
        Ok(self.daemon()?.services.workshop.obstacle(&self.key_id).await?)
    }

    fn is_refusal(error: &NotRenewed) -> bool {
        matches!(error, NotRenewed::Certificate(error) if error.is_refusal_of_keyd())
    }

    /// What the cloud asks for. certd, which knows another one, asks the server not before.
    fn least_pause(error: &NotRenewed) -> Option<Duration> {
        match error {
            NotRenewed::Cloud(error) => error.failure_kind()?.retry_after(),
            NotRenewed::Certificate(_) | NotRenewed::Ending | NotRenewed::NotConfigured => None,
        }
    }

    async fn make_key(&self, like: Option<KeyKind>) -> Result<(), NotRenewed> {
        let daemon = self.daemon()?;
        let (settings, _) = self.configured(&daemon)?;
        let wanted = options(&settings.config.provisioning.source).and_then(|(_, algorithm)| algorithm);
        let alike = || like.map_or(KeyAlgorithm::default().preferred(), KeyKind::algorithms);
        let algorithms = wanted.map_or_else(alike, KeyAlgorithm::preferred);
        Ok(daemon.services.workshop.create(&temporary(&self.key_id), algorithms).await?)
    }

    /// Under another id, so that what is in place stays there.
    async fn request(&self, slot: Slot, old: &Certificate) -> Result<String, NotRenewed> {
        let daemon = self.daemon()?;
        let workshop = &daemon.services.workshop;
        let id = temporary(&self.cert_id);
        let unreadable = |source| CertificateError::Unreadable { id: self.cert_id.clone(), source };
        let leaf = old.chain().first().ok_or(NotRenewed::NotConfigured)?;
        let subject = leaf.subject_name().to_owned().map_err(unreadable)?;
        let key = workshop.opened(&self.key_id(slot)).await?;
        let (pem, _) = workshop.issue(&id, workshop.request_as(subject, key, vec![]).await?).await?;
        if let Err(error) = workshop.forget(&id).await {
            tracing::info!("certd keeps a certificate {id:?} that nobody needs: {}", chain(&error));
        }
        Ok(pem)
    }

    async fn accept(&self, new: &Certificate, slot: Slot) -> Result<Verdict, NotRenewed> {
        let daemon = self.daemon()?;
        let key = daemon.services.workshop.opened(&self.key_id(slot)).await?;
        let cloud = daemon.cloud.showing(ClientIdentity { chain: new.chain().to_vec(), key });
        match self.registered(&daemon, &cloud).await {
            Ok(record) => {
                *self.record.lock().expect("no panic while held") = Some(record);
                Ok(Verdict::Accepted)
            }
            Err(NotRenewed::Cloud(error)) if error.failure_kind().is_some_and(is_final) => {
                Ok(Verdict::Refused(chain(&error)))
            }
            Err(error) => Err(error),
        }
    }

    async fn move_key(&self) -> Result<(), NotRenewed> {
        Ok(self.daemon()?.services.workshop.replace(&self.key_id, &temporary(&self.key_id)).await?)
    }

    async fn import(&self, new: &Certificate) -> Result<(), NotRenewed> {
        let daemon = self.daemon()?;
        let workshop = &daemon.services.workshop;
        workshop.import(&self.cert_id, new.pem()).await?;
        let key = workshop.opened(&self.key_id).await?;
        let (_, certificate) = self.configured(&daemon)?;
        certificate.take_up(ClientIdentity { chain: new.chain().to_vec(), key });
        let record = self.record.lock().expect("no panic while held").take();
        let device = daemon.device();
        match (record, device) {
            (Some(new), Some(device)) if new != device.record => {
                tracing::info!("with the new certificate, this device is another one");
                register_later(daemon);
            }
            _ if !matches!(daemon.status.borrow().phase, Phase::Settled) => {
                // Perhaps the old one was all that was wrong.
                daemon.has_changed();
            }
            _ => {}
        }
        Ok(())
    }

    async fn delete_key(&self) -> Result<(), NotRenewed> {
        Ok(self.daemon()?.services.workshop.delete_key(&temporary(&self.key_id)).await?)
    }
}

/// A function of its own, for what it starts may wait for a renewal. A wish may come too early after others.
fn register_later(daemon: Arc<Identityd>) {
    tokio::spawn(async move {
        for pause in REGISTER_PAUSES {
            let Err(error) = daemon.reprovision().await else { return };
            tracing::warn!("the other device is not in use yet: {}", chain(&error));
            tokio::time::sleep(pause).await;
        }
    });
}

fn auto_renew(source: &Source) -> Option<&AutoRenew> {
    options(source).and_then(|(renew, _)| renew)
}

/// What is said of the device's certificate, if it has one: when to renew it, and what a new key is.
fn options(source: &Source) -> Option<(Option<&AutoRenew>, Option<KeyAlgorithm>)> {
    match source {
        Source::Dps(Dps {
            attestation: Attestation::X509 { identity_auto_renew, key_algorithm, .. },
            ..
        })
        | Source::Manual(Manual {
            authentication: ManualCredentials::X509 { identity_auto_renew, key_algorithm, .. },
            ..
        }) => Some((identity_auto_renew.as_ref(), *key_algorithm)),
        Source::None | Source::Dps(_) | Source::Manual(_) => None,
    }
}

/// Whether asking again with the same certificate is in vain.
fn is_final(kind: FailureKind) -> bool {
    use FailureKind::{CertificateRefused, NotFound, Rejected, Unauthorized};
    matches!(kind, CertificateRefused | NotFound | Rejected | Unauthorized)
}

/// The pauses after wishes for a registration that failed; in the end the next start or configuration sees to it.
const REGISTER_PAUSES: [Duration; 4] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(15 * 60),
    Duration::from_secs(60 * 60),
];
/// The pauses before a hub is asked again that does not know a certificate yet.
const HUB_PAUSES: [Duration; 3] = [Duration::from_secs(2), Duration::from_secs(10), Duration::from_secs(30)];
