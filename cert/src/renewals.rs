//! The EST identities that are kept valid, and what is done to them, by order of `cert_renewal` (spec
//! certificates-service, 10.5). Knows no EST: `renew` asks for new ones.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use cert_api::{EstIdentity, KeyAlgorithm, TEMPORARY};
use cert_renewal::{Actor, Certificate, Journal, KeyKind, KeyPrint, Policy, Renewal, Slot, Status, Verdict};
use http_common::https::ClientIdentity;
use tokio::task::AbortHandle;

use crate::est::{Server, chain};
use crate::issue::{NotIssued, Target};
use crate::keys::{EST_ALGORITHMS, KeyError};
use crate::renew::{Renewable, identities as named};
use crate::{Certd, Current, blocking};

/// The renewal of one identity.
pub(crate) type EstRenewal = Renewal<Identity>;

/// The identities that are kept valid.
#[derive(Debug)]
pub(crate) struct Renewals {
    /// For the journals.
    directory: PathBuf,
    by_ids: Mutex<BTreeMap<Ids, Kept>>,
}

/// The ids of a certificate and of its key.
type Ids = (String, String);

/// An identity that is kept valid as long as this lives.
#[derive(Debug)]
struct Kept {
    renewal: Arc<EstRenewal>,
    task: AbortHandle,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Renewals {
    /// None yet; their journals will be in `directory`.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory, by_ids: Mutex::default() }
    }

    /// The renewal of `identity`.
    pub(crate) fn of(&self, identity: EstIdentity<'_>) -> Option<Arc<EstRenewal>> {
        let ids = (identity.cert.to_owned(), identity.pk.to_owned());
        self.by_ids().get(&ids).map(|kept| Arc::clone(&kept.renewal))
    }

    /// Somebody has changed the certificate `id`.
    pub(crate) fn changed(&self, id: &str) {
        let by_ids = self.by_ids();
        let concerned = by_ids.iter().filter(|((cert, _), _)| cert == id);
        concerned.for_each(|(_, kept)| kept.renewal.look_again());
    }

    /// Keeps what `issuance` names, and only that. Those that were kept before go on with what it says now.
    fn keep(&self, certd: &Arc<Certd>, wanted: Vec<Renewable>) {
        let mut by_ids = self.by_ids();
        let wanted: Vec<Ids> = wanted.into_iter().map(|Renewable { cert, pk, by: _ }| (cert, pk)).collect();
        by_ids.retain(|ids, kept| {
            kept.renewal.look_again();
            wanted.contains(ids)
        });
        for ids in wanted {
            by_ids.entry(ids).or_insert_with_key(|ids| {
                let (cert, pk) = ids.clone();
                let journal = Journal::new(&self.directory, &cert, &pk);
                let name = cert.clone();
                let identity = Identity { certd: Arc::downgrade(certd), cert, pk };
                let renewal = Arc::new(Renewal::new(&name, identity, journal));
                let running = Arc::clone(&renewal);
                let task = tokio::spawn(async move { running.run().await }).abort_handle();
                Kept { renewal, task }
            });
        }
    }

    fn by_ids(&self) -> MutexGuard<'_, BTreeMap<Ids, Kept>> {
        self.by_ids.lock().expect("no panic while held")
    }
}

impl Certd {
    /// Keeps the EST identities valid that the configuration names, from now on.
    pub(crate) fn keep_identities(self: &Arc<Self>) {
        self.renewals.keep(self, identities(&self.current()));
    }

    /// How the renewal of each EST identity goes, by the id of its certificate.
    pub fn renewals(&self) -> Vec<(String, Status)> {
        let by_ids = self.renewals.by_ids();
        by_ids.iter().map(|((cert, _), kept)| (cert.clone(), kept.renewal.status())).collect()
    }
}

/// The EST identities that the configuration wants to be kept valid.
fn identities(current: &Current) -> Vec<Renewable> {
    let spared = current.issuance.est.as_ref().is_some_and(|est| est.keep_preloaded_identities);
    let mut all = named(&current.issuance);
    all.retain(|identity| !(spared && current.store.is_preloaded(&identity.cert)));
    all
}

/// One EST identity.
#[derive(Debug)]
pub(crate) struct Identity {
    certd: Weak<Certd>,
    cert: String,
    pk: String,
}

/// Why a step of a renewal was not done.
#[derive(Debug, thiserror::Error)]
pub enum NotRenewed {
    /// certd ends.
    #[error("this service is about to end")]
    Ending,
    /// The configuration does not name it any more.
    #[error("the configuration does not name it any more")]
    NotConfigured,
    /// Something with certificates, keys or the EST server.
    #[error(transparent)]
    NotIssued(#[from] NotIssued),
}

impl Identity {
    fn certd(&self) -> Result<Arc<Certd>, NotRenewed> {
        self.certd.upgrade().ok_or(NotRenewed::Ending)
    }

    fn key_id(&self, slot: Slot) -> String {
        match slot {
            Slot::Current => self.pk.clone(),
            Slot::Temporary => temporary(&self.pk),
        }
    }

    /// What the configuration says of it now.
    fn configured(&self, current: &Current) -> Result<Renewable, NotRenewed> {
        let mut all = identities(current).into_iter();
        let this = all.find(|it| it.cert == self.cert && it.pk == self.pk);
        this.ok_or(NotRenewed::NotConfigured)
    }
}

impl Actor for Identity {
    type Error = NotRenewed;

    fn policy(&self) -> Policy {
        let configured = self.certd.upgrade().and_then(|certd| {
            let current = certd.current();
            current.issuance.est.as_ref().and_then(|est| est.identity_auto_renew.clone())
        });
        configured.unwrap_or_default().into()
    }

    async fn certificate(&self) -> Result<Option<String>, NotRenewed> {
        let (current, id) = (self.certd()?.current(), self.cert.clone());
        let text = blocking(move || current.store.read(&id)).await.ok_or(NotIssued::Worker)?;
        Ok(text.map_err(NotIssued::from)?)
    }

    async fn key(&self, slot: Slot) -> Result<Option<KeyPrint>, NotRenewed> {
        let keys = self.certd()?.issuing.est().keys().clone();
        let handle = match keys.load(&self.key_id(slot)).await {
            Err(KeyError::Missing(_)) => return Ok(None),
            handle => handle.map_err(NotIssued::from)?,
        };
        let print =
            move || -> Result<KeyPrint, NotIssued> { Ok(KeyPrint::of(&*keys.open_public(&handle)?)?) };
        Ok(Some(blocking(print).await.ok_or(NotIssued::Worker)??))
    }

    async fn obstacle(&self) -> Result<Option<String>, NotRenewed> {
        let keys = self.certd()?.issuing.est().keys().clone();
        let obstacle = keys.obstacle(&self.pk).await.map_err(NotIssued::from)?;
        Ok(obstacle.map(|why| http_common::chain(&why)))
    }

    fn is_refusal(error: &NotRenewed) -> bool {
        matches!(error, NotRenewed::NotIssued(NotIssued::Key(error)) if error.is_refusal())
    }

    fn least_pause(error: &NotRenewed) -> Option<Duration> {
        match error {
            NotRenewed::NotIssued(error) => error.ask_again_after(),
            NotRenewed::Ending | NotRenewed::NotConfigured => None,
        }
    }

    async fn make_key(&self, like: Option<KeyKind>) -> Result<(), NotRenewed> {
        let certd = self.certd()?;
        let current = certd.current();
        let target = Target::of(&current.issuance, &self.configured(&current)?.by)?;
        let configured = target.authentication.identity_key_algorithm.map(KeyAlgorithm::preferred);
        let algorithms = configured.unwrap_or_else(|| like.map_or(EST_ALGORITHMS, KeyKind::algorithms));
        let made = certd.issuing.est().keys().create(&temporary(&self.pk), algorithms).await;
        made.map_err(NotIssued::from)?;
        Ok(())
    }

    async fn request(&self, slot: Slot, old: &Certificate) -> Result<String, NotRenewed> {
        let certd = self.certd()?;
        let current = certd.current();
        let this = self.configured(&current)?;
        let place = current.check_writable(&self.cert).await.ok_or(NotIssued::Worker)?;
        place.map_err(NotIssued::from)?;
        let key = certd.issuing.est().key(&self.key_id(slot)).await?;
        let new = certd.reissue(&this, old.chain(), key).await?;
        Ok(chain::to_pem(&new).map_err(NotIssued::from)?)
    }

    /// The server must take it as a client's: that it has issued it does not mean that its front does.
    async fn accept(&self, new: &Certificate, slot: Slot) -> Result<Verdict, NotRenewed> {
        let certd = self.certd()?;
        let (current, est) = (certd.current(), certd.issuing.est());
        let target = Target::of(&current.issuance, &self.configured(&current)?.by)?;
        let way = est.way(&current, &target).await?;
        let key = est.key(&self.key_id(slot)).await?.private;
        let client = ClientIdentity { chain: new.chain().to_vec(), key };
        match est.talk(&way, Some(client), async |server: Server| server.authorities().await).await {
            Ok(_) => Ok(Verdict::Accepted),
            Err(error) if error.is_unauthorized() => Ok(Verdict::Refused(http_common::chain(&error))),
            Err(error) => Err(NotIssued::from(error).into()),
        }
    }

    async fn move_key(&self) -> Result<(), NotRenewed> {
        let certd = self.certd()?;
        let moved = certd.issuing.est().keys().rename(&temporary(&self.pk), &self.pk).await;
        Ok(moved.map_err(NotIssued::from)?)
    }

    async fn import(&self, new: &Certificate) -> Result<(), NotRenewed> {
        let certd = self.certd()?;
        Ok(certd.issuing.est().keep(&certd.current(), &self.cert, new.pem().to_owned()).await?)
    }

    async fn delete_key(&self) -> Result<(), NotRenewed> {
        let certd = self.certd()?;
        let deleted = certd.issuing.est().keys().delete(&temporary(&self.pk)).await;
        Ok(deleted.map_err(NotIssued::from)?)
    }
}

/// The id of the key that is to follow the key `id`.
pub(crate) fn temporary(id: &str) -> String {
    format!("{id}{TEMPORARY}")
}
