//! The certificate that the device shows to the cloud, with its key in keyd. Does not know how it is obtained
//! (`workshop.rs`), nor whom it is shown to.
//!
//! It is looked at anew in each round of provisioning, so that one that somebody has replaced is taken up. What was good
//! stays in use while keyd or certd cannot be asked. Whoever renews it and its key exchanges both at keyd and certd, and has
//! it looked at then; the ids stay, and nobody else needs to know.

use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use cert_renewal::Undisturbed;
use http_common::chain;
use http_common::https::{ClientIdentity, Https, HttpsOptions};
use openssl::nid::Nid;
use openssl::x509::X509;
use tokio::sync::Mutex as AsyncMutex;

use crate::Error;
use crate::renew::{self, DeviceRenewal, Kept};
use crate::workshop::{CertificateError, Certified, Workshop, check_time};

/// The device's certificate, wherever it has got to.
#[derive(Debug)]
pub(crate) struct DeviceCertificate {
    workshop: Workshop,
    what: Certified,
    /// One look at a time. It guards no data.
    turn: AsyncMutex<()>,
    seen: Mutex<Seen>,
    /// Who keeps it valid, if anybody does.
    renewal: Mutex<Option<Kept>>,
}

#[derive(Debug, Default)]
struct Seen {
    looks: u64,
    shown: Option<Arc<Shown>>,
    failure: Option<Arc<CertificateError>>,
}

/// A certificate in use.
pub(crate) struct Shown {
    identity: ClientIdentity,
    https: OnceLock<Https>,
}

impl DeviceCertificate {
    /// The certificate `what`. Asks nobody yet.
    pub(crate) fn new(workshop: Workshop, what: Certified) -> Self {
        Self {
            workshop,
            what,
            turn: AsyncMutex::default(),
            seen: Mutex::default(),
            renewal: Mutex::default(),
        }
    }

    /// The ids.
    pub(crate) fn what(&self) -> &Certified {
        &self.what
    }

    /// Those who have the key and the certificate.
    pub(crate) fn workshop(&self) -> &Workshop {
        &self.workshop
    }

    /// The certificate to show: the one in use if it is valid, else as [`Self::look_again`].
    pub(crate) async fn shown(&self) -> Result<Arc<Shown>, Error> {
        match self.good() {
            Some(shown) => Ok(shown),
            None => self.look_again().await,
        }
    }

    /// What keyd and certd have now, or make. Who asks while somebody looks gets the same.
    pub(crate) async fn look_again(&self) -> Result<Arc<Shown>, Error> {
        let before = self.seen().looks;
        let _turn = self.turn.lock().await;
        if self.seen().looks == before {
            let (obtained, _hold) = match self.renewal() {
                Some(renewal) => renew::obtain(&renewal, &self.workshop, &self.what).await,
                None => (self.workshop.obtain(&self.what).await, None),
            };
            self.seen().take_up(obtained, &self.what.cert_id);
        }
        let seen = self.seen();
        match (&seen.shown, &seen.failure) {
            (Some(shown), _) => Ok(Arc::clone(shown)),
            (None, Some(failure)) => Err(Error::Certificate(Arc::clone(failure))),
            (None, None) => Err(Error::Certificate(Arc::new(CertificateError::Worker))),
        }
    }

    /// See to it that there is one to show, if the one in use is over and is kept valid. May take as long as a renewal does.
    pub(crate) async fn revive(&self) {
        if self.good().is_none()
            && let Some(renewal) = self.renewal()
        {
            renew::revive(renewal).await;
        }
    }

    /// The certificate to show for who makes it known as the device's, and what keeps a renewal from doing that with another
    /// one meanwhile. Whoever has it must not look again.
    pub(crate) async fn settled(&self) -> Result<(Arc<Shown>, Option<Undisturbed>), Error> {
        let Some(renewal) = self.renewal() else { return Ok((self.shown().await?, None)) };
        let mut shown = self.shown().await?;
        for _ in 0..LOOKS {
            let undisturbed = renewal.undisturbed().await;
            let good = self.good();
            if let Some(good) = good.filter(|good| Arc::ptr_eq(good, &shown))
                && renew::is_pair(&renewal, &good.identity).await
            {
                return Ok((good, Some(undisturbed)));
            }
            drop(undisturbed);
            shown = self.look_again().await?;
        }
        Ok((shown, None))
    }

    /// Whether another one is shown than `before`, or is about to be.
    pub(crate) async fn is_other_than(&self, before: Option<&Arc<Shown>>) -> bool {
        let Some(renewal) = self.renewal() else { return false };
        drop(renewal.undisturbed().await);
        self.good().is_some_and(|shown| before.is_none_or(|before| !Arc::ptr_eq(before, &shown)))
    }

    /// Wait until it has been looked at once, if that does not take too long: both may be about to be made.
    ///
    /// # Errors
    ///
    /// There is none, or nothing that is one. That it cannot be used now, or certd not be asked, is no error here.
    pub(crate) async fn first_look(&self) -> Result<(), Error> {
        if self.seen().looks == 0 {
            // Whether it has taken too long is seen by whoever goes on.
            let _ = tokio::time::timeout(FIRST_LOOK, self.look_again()).await;
        }
        if self.good().is_some() {
            return Ok(());
        }
        let Some(failure) = self.seen().failure.clone() else { return Ok(()) };
        match tokio::time::timeout(FIRST_LOOK, self.workshop.certificate(&self.what.cert_id)).await {
            Ok(Ok(None) | Err(CertificateError::Unreadable { .. })) => Err(Error::Certificate(failure)),
            _ => Ok(()),
        }
    }

    /// Use `identity` from now on, for its key has a new place.
    pub(crate) fn take_up(&self, identity: ClientIdentity) {
        let mut seen = self.seen();
        seen.shown = None;
        seen.take_up(Ok(identity), &self.what.cert_id);
    }

    /// Let it be kept valid by whom `start` makes, unless somebody does already; or by nobody.
    pub(crate) fn keep(&self, is_wanted: bool, start: impl FnOnce() -> Kept) {
        let mut renewal = self.renewal.lock().expect("no panic while held");
        match renewal.as_ref() {
            Some(kept) if is_wanted => kept.renewal().look_again(),
            None if is_wanted => *renewal = Some(start()),
            _ => *renewal = None,
        }
    }

    fn renewal(&self) -> Option<Arc<DeviceRenewal>> {
        self.renewal.lock().expect("no panic while held").as_ref().map(Kept::renewal)
    }

    /// The one in use, if it is valid.
    pub(crate) fn good(&self) -> Option<Arc<Shown>> {
        self.seen().shown.clone().filter(|shown| shown.is_valid(&self.what.cert_id))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no panic while held")
    }
}

impl Seen {
    fn take_up(&mut self, obtained: Result<ClientIdentity, CertificateError>, id: &str) {
        self.looks += 1;
        match obtained {
            Ok(identity) => {
                self.failure = None;
                // The same keeps its connections.
                if self.shown.as_ref().is_some_and(|shown| shown.identity.chain == identity.chain) {
                    return;
                }
                if let Some(leaf) = identity.chain.first() {
                    tracing::info!("the certificate {id:?} is used, valid until {}", leaf.not_after());
                }
                self.shown = Some(Arc::new(Shown { identity, https: OnceLock::new() }));
            }
            Err(error) => {
                self.shown = self.shown.take().filter(|shown| shown.is_valid(id));
                if self.shown.is_some() {
                    tracing::warn!("the certificate {id:?} stays in use, but: {}", chain(&error));
                }
                self.failure = Some(Arc::new(error));
            }
        }
    }
}

impl Shown {
    /// Connections that show this certificate. They live on a thread of their own, because keyd signs in each handshake.
    pub(crate) fn https(&self, options: &HttpsOptions) -> Https {
        let make = || {
            let identity = Some(self.identity.clone());
            Https::on_own_thread(HttpsOptions { identity, ..options.clone() })
        };
        self.https.get_or_init(make).clone()
    }

    fn is_valid(&self, id: &str) -> bool {
        check_time(id, &self.identity.chain).is_ok()
    }
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.identity.fmt(f)
    }
}

/// Looks at what renewals have done, before one goes on with what is shown.
const LOOKS: usize = 3;
/// How long a caller waits for the first look, or for certd.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// The first common name of the first of `chain`.
pub(crate) fn common_name(chain: &[X509]) -> Option<String> {
    let leaf = chain.first()?;
    let entry = leaf.subject_name().entries_by_nid(Nid::COMMONNAME).next()?;
    let name = entry.data().to_string().ok()?;
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use http_common::Client;
    use identity_api::config::KeyAlgorithm;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certd_that_hangs_holds_up_nobody_for_long() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("certd.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let what = Certified {
            cert_id: "c".to_owned(),
            key_id: "k".to_owned(),
            subject: None,
            algorithm: KeyAlgorithm::default(),
            is_made_anew: false,
        };
        let workshop = Workshop::new(Client::new(directory.path()), &socket);
        let certificate = DeviceCertificate::new(workshop, what);
        certificate.seen().take_up(Err(CertificateError::Worker), "c");
        let asked = tokio::time::Instant::now();
        certificate.first_look().await.unwrap();
        assert_eq!(asked.elapsed().as_secs(), FIRST_LOOK.as_secs());
    }
}
