//! The modules of one device: what callers ask of them, between the hub and what is known already (spec identity-service,
//! chapter 11).
//!
//! How long a caller waits for the cloud:
//!
//! | call | waits |
//! |---|---|
//! | get, module known | never; if the knowledge is older than [`FRESH`] the list is asked for in the background |
//! | get, module unknown | for the hub, at most [`GET_LIMIT`] |
//! | list | for the hub, at most [`LIST_LIMIT`]; then what is known, and the answer is taken up when it comes |
//! | list, when the last one has failed | never |
//! | create, update, delete | for the hub, at most [`CHANGE_LIMIT`] |
//!
//! With `prefer_module_identity_cache` what is known is not asked for again at all. All callers share one list call at a
//! time, and after a failure none is made for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http_common::chain;
use http_common::retry::{Attempts, FailureKind};
use hub_client::{Deleted, HubClient, IfMatch, Module, ModuleCertificate};
use identity_api::Auth;
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::cloud::{CloudAccess, Repeat};
use crate::credentials::{DeviceCredentials, TokenSigner};
use crate::module_credentials::{ForHub, Granted, ModuleCredentials};
use crate::module_id::ModuleId;
use crate::provision::Event;
use crate::records::{ModuleRecord, Records};

/// The modules of one device.
pub(crate) struct Modules {
    cloud: Arc<CloudAccess>,
    device: hub_client::Device,
    credentials: DeviceCredentials,
    records: Arc<Records>,
    refresh: Mutex<Refresh>,
    /// The certificates that the hub was told of since the start.
    certified: Mutex<BTreeMap<String, ModuleCertificate>>,
    events: mpsc::Sender<Event>,
}

/// The list call that all callers share.
#[derive(Default)]
struct Refresh {
    running: Option<Running>,
    confirmed: Option<Instant>,
    closed_until: Option<Instant>,
    /// Failures since the last success.
    failures: u32,
}

#[derive(Clone)]
struct Running {
    since: Instant,
    /// `None` until the call has ended; `Some(None)` if it has failed.
    done: watch::Receiver<Option<Option<Arc<[ModuleRecord]>>>>,
}

impl Modules {
    /// The modules of `device`, of which `records` are known. Doubts that the hub still knows the device go to `events`.
    pub(crate) fn new(
        cloud: Arc<CloudAccess>,
        device: hub_client::Device,
        credentials: DeviceCredentials,
        records: Records,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            cloud,
            device,
            credentials,
            records: Arc::new(records),
            refresh: Mutex::default(),
            certified: Mutex::default(),
            events,
        }
    }

    async fn hub(&self) -> Result<HubClient<TokenSigner>, Error> {
        self.hub_with(Repeat::AsConfigured).await
    }

    async fn hub_with(&self, repeat: Repeat) -> Result<HubClient<TokenSigner>, Error> {
        let cloud = self.cloud.of(&self.credentials, repeat).await?;
        Ok(HubClient::new(cloud, self.device.clone(), self.credentials.for_cloud()))
    }

    /// All modules, in the order of the hub if it answers in time.
    pub(crate) async fn list(self: &Arc<Self>, prefer_known: bool) -> Vec<ModuleRecord> {
        if !prefer_known && let Some(fresh) = self.fresh_list().await {
            return fresh.to_vec();
        }
        self.records.all()
    }

    /// Whether the hub need not be asked for the module.
    pub(crate) fn knows(&self, id: &ModuleId) -> bool {
        self.records.get(id.as_str()).is_some_and(|known| known.generation_id.is_some())
    }

    /// One module.
    pub(crate) async fn get(
        self: &Arc<Self>,
        id: &ModuleId,
        prefer_known: bool,
    ) -> Result<ModuleRecord, Error> {
        // Without its generation a record is of no use to anybody; perhaps the hub tells it by now.
        if let Some(known) = self.records.get(id.as_str()).filter(|known| known.generation_id.is_some()) {
            if !prefer_known && !self.is_fresh() {
                self.start_refresh();
            }
            return Ok(known);
        }
        match self.hub().await?.get(id.as_str(), Instant::now() + GET_LIMIT).await {
            Ok(module) => {
                self.records.see(&module).await;
                Ok(ModuleRecord::from(&module))
            }
            Err(error) => {
                self.doubt(error.kind() == FailureKind::Unauthorized);
                Err(error.into())
            }
        }
    }

    /// A new module with keys of ours, and a manager if one is named. If it cannot be given them it is removed again.
    pub(crate) async fn create(
        &self,
        id: &ModuleId,
        managed_by: Option<String>,
        credentials: &ModuleCredentials,
    ) -> Result<(ModuleRecord, Auth), Error> {
        credentials.ensure(id.as_str()).await?;
        let deadline = Instant::now() + CHANGE_LIMIT;
        let created = self.make(id, deadline).await?;
        let managed_by = managed_by.or_else(|| created.managed_by.clone());
        let created = Module { managed_by, ..created };
        match self.give_credentials(&created, credentials, deadline).await {
            Ok(module) => Ok(module),
            Err(error) => {
                self.undo(&created).await;
                Err(error)
            }
        }
    }

    /// Our keys for a module that exists, under whichever keys it has now.
    pub(crate) async fn update(
        &self,
        id: &ModuleId,
        credentials: &ModuleCredentials,
    ) -> Result<(ModuleRecord, Auth), Error> {
        let deadline = Instant::now() + CHANGE_LIMIT;
        let module = self.hub().await?.get(id.as_str(), deadline).await?;
        self.give_credentials(&module, credentials, deadline).await
    }

    /// No such module any more.
    pub(crate) async fn delete(&self, id: &ModuleId, credentials: &ModuleCredentials) -> Result<(), Error> {
        let hub = self.hub().await?;
        let deleted = hub.delete(id.as_str(), &IfMatch::Any, Instant::now() + CHANGE_LIMIT).await?;
        self.records.forget(id.as_str()).await;
        self.certified().remove(id.as_str());
        credentials.forget(id.as_str()).await;
        match deleted {
            Deleted::Removed => Ok(()),
            Deleted::WasAbsent => Err(Error::NoSuchModule { id: id.as_str().to_owned() }),
        }
    }

    /// What the hub has; taken up as known.
    pub(crate) async fn at_hub(&self, deadline: Instant) -> Result<Vec<Module>, Error> {
        let asked = self.records.moment();
        let modules = self.hub().await?.list(deadline).await?;
        self.records.see_all(&modules, asked).await;
        self.with_refresh(|refresh| {
            refresh.confirmed = Some(Instant::now());
            refresh.closed_until = None;
            refresh.failures = 0;
        });
        Ok(modules)
    }

    /// What `module`, of which this is known, proves itself with. The hub is told of a certificate that it may not know.
    pub(crate) async fn auth(
        &self,
        module: &ModuleRecord,
        credentials: &ModuleCredentials,
    ) -> Result<Auth, Error> {
        let id = &module.module_id;
        if !credentials.is_certified(id) {
            let no_generation = || Error::NoGenerationId { id: id.clone() };
            let generation = module.generation_id.as_deref().ok_or_else(no_generation)?;
            return credentials.key(id, generation).await;
        }
        let (certificate, auth) = credentials.certificate(&module.device_id, id).await?;
        if self.certified().get(id) == Some(&certificate) {
            return Ok(auth);
        }
        match self.update(&ModuleId::parse(id)?, credentials).await {
            Ok((_, auth)) => Ok(auth),
            Err(error) if error.failure_kind().is_some_and(FailureKind::is_transient) => {
                tracing::warn!("the hub may not know the certificate of {id:?}: {}", chain(&error));
                Ok(auth)
            }
            Err(error) => Err(error),
        }
    }

    /// Give `module`, as read from the hub, what it proves itself with.
    pub(crate) async fn give_credentials(
        &self,
        module: &Module,
        credentials: &ModuleCredentials,
        deadline: Instant,
    ) -> Result<(ModuleRecord, Auth), Error> {
        let Granted { for_hub, auth } = credentials.grant(module).await?;
        let hub = self.hub().await?;
        let module = match for_hub {
            ForHub::Keys(keys) => hub.set_keys(module, &keys, &IfMatch::Any, deadline).await?,
            ForHub::Certificate(certificate) => {
                let module = hub.set_certificate(module, &certificate, &IfMatch::Any, deadline).await?;
                self.certified().insert(module.module_id.clone(), certificate);
                module
            }
        };
        self.records.see(&module).await;
        Ok((ModuleRecord::from(&module), auth))
    }

    fn certified(&self) -> MutexGuard<'_, BTreeMap<String, ModuleCertificate>> {
        self.certified.lock().expect("no panic while held")
    }

    /// A module with keys of the hub. When an answer was lost, the hub may say next that there is one: ours.
    async fn make(&self, id: &ModuleId, deadline: Instant) -> Result<Module, Error> {
        let mut attempts = Attempts::default();
        let mut unheard = false;
        let hub = self.hub_with(Repeat::Never).await?;
        loop {
            let error = match hub.create(id.as_str(), deadline).await {
                Ok(created) => return Ok(created),
                Err(error) => error,
            };
            match error.kind() {
                FailureKind::Conflict if unheard => {
                    return Ok(self.hub().await?.get(id.as_str(), deadline).await?);
                }
                FailureKind::Conflict => return Err(Error::ModuleExists { id: id.as_str().to_owned() }),
                FailureKind::Network | FailureKind::Server { .. } => unheard = true,
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(pause) = attempts.after(error.kind(), &self.cloud.retry, left, fastrand::f64()) else {
                return Err(error.into());
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Remove a module that did not get its keys.
    async fn undo(&self, module: &Module) {
        let id = &module.module_id;
        let deleted = match self.hub().await {
            Ok(hub) => hub.delete(id, &IfMatch::Any, Instant::now() + UNDO_LIMIT).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match deleted {
            Ok(_) => tracing::info!("the module {id:?} did not get its keys and was removed again"),
            Err(error) => tracing::warn!(
                "the module {id:?} has not got its keys and could not be removed; update or delete it: {}",
                chain(&error)
            ),
        }
    }

    /// The hub's list, if it comes in time. While the hub fails nobody waits for it.
    async fn fresh_list(self: &Arc<Self>) -> Option<Arc<[ModuleRecord]>> {
        let has_failed = self.with_refresh(|refresh| refresh.closed_until.is_some());
        let Running { since, mut done } = self.start_refresh()?;
        if has_failed {
            return None;
        }
        let until = tokio::time::Instant::from_std(since + LIST_LIMIT);
        let ended = tokio::time::timeout_at(until, done.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()?
    }

    /// Ask the hub for the list, unless that is being done already; `None` while it would be of no use.
    fn start_refresh(self: &Arc<Self>) -> Option<Running> {
        self.with_refresh(|refresh| {
            let now = Instant::now();
            // A call whose task has died is none.
            if let Some(running) =
                refresh.running.as_ref().filter(|running| running.done.has_changed().is_ok())
            {
                return Some(running.clone());
            }
            if refresh.closed_until.is_some_and(|until| until > now) {
                return None;
            }
            let (send, done) = watch::channel(None);
            let running = Running { since: now, done };
            refresh.running = Some(running.clone());
            let modules = Arc::clone(self);
            tokio::spawn(async move { send.send_replace(Some(modules.run_refresh().await)) });
            Some(running)
        })
    }

    async fn run_refresh(&self) -> Option<Arc<[ModuleRecord]>> {
        let result = self.at_hub(Instant::now() + REFRESH_LIMIT).await;
        self.with_refresh(|refresh| refresh.running = None);
        match result {
            Ok(modules) => Some(modules.iter().map(ModuleRecord::from).collect()),
            Err(error) => {
                let failures = self.with_refresh(|refresh| {
                    refresh.failures = refresh.failures.saturating_add(1);
                    refresh.failures
                });
                let pause = pause_after(error.failure_kind(), failures);
                tracing::debug!(
                    "the hub's module list is left alone for {} s: {}",
                    pause.as_secs(),
                    chain(&error)
                );
                self.with_refresh(|refresh| refresh.closed_until = Some(Instant::now() + pause));
                self.doubt(error.suggests_registration());
                None
            }
        }
    }

    /// Say that the hub may not know this device any more.
    fn doubt(&self, doubtful: bool) {
        if doubtful {
            // A full queue holds a reason to look already.
            let _ = self.events.try_send(Event::Doubt);
        }
    }

    fn is_fresh(&self) -> bool {
        self.with_refresh(|refresh| refresh.confirmed.is_some_and(|when| when.elapsed() < FRESH))
    }

    fn with_refresh<T>(&self, change: impl FnOnce(&mut Refresh) -> T) -> T {
        change(&mut self.refresh.lock().expect("no panic while held"))
    }
}

/// How long the hub is not asked for the list after so many failures, the last of this kind.
fn pause_after(kind: Option<FailureKind>, failures: u32) -> Duration {
    let growing =
        SHORT_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(LONGEST_PAUSE);
    let Some(kind) = kind else { return growing };
    match kind {
        FailureKind::Throttled { retry_after } => retry_after.unwrap_or(THROTTLED_PAUSE),
        FailureKind::Server { retry_after: Some(asked) } => asked,
        FailureKind::Network | FailureKind::Server { .. } | FailureKind::Credential => growing,
        _ => LONG_PAUSE,
    }
}

/// How long what is known of a module is served without asking again.
const FRESH: Duration = Duration::from_secs(15);
/// How long a caller waits for a module that is not known.
const GET_LIMIT: Duration = Duration::from_secs(30);
/// How long a caller waits for a list.
const LIST_LIMIT: Duration = Duration::from_secs(2);
/// How long a list call may take in the background.
const REFRESH_LIMIT: Duration = Duration::from_secs(75);
/// How long a caller waits for a change: less than the time-outs of known clients, long enough for one pause after 429.
const CHANGE_LIMIT: Duration = Duration::from_secs(140);
const UNDO_LIMIT: Duration = Duration::from_secs(20);
const SHORT_PAUSE: Duration = Duration::from_secs(5);
/// So that a device which has been off the network for long tries seldom, whoever asks it for lists.
const LONGEST_PAUSE: Duration = Duration::from_secs(240);
const LONG_PAUSE: Duration = Duration::from_secs(30);
const THROTTLED_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_the_network_is_away_the_less_it_is_tried() {
        let pauses =
            |kind| (1..=8).map(|failures| pause_after(Some(kind), failures).as_secs()).collect::<Vec<_>>();
        assert_eq!(pauses(FailureKind::Network), [5, 10, 20, 40, 80, 160, 240, 240]);
        assert_eq!(pauses(FailureKind::Unauthorized), [30; 8]);
        let asked = FailureKind::Throttled { retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(pauses(asked), [7; 8]);
    }
}
