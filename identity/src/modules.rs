//! The modules of one device: what callers ask of them, between the hub and what is known already (spec identity-service,
//! chapter 11).
//!
//! How long a caller waits for the cloud:
//!
//! | call | waits |
//! |---|---|
//! | get, module known | never; if the knowledge is older than [`FRESH`] the list is asked for in the background |
//! | get, module unknown (`reads.rs`) | for the hub, a few seconds; never, if it has refused just that lately |
//! | list, asked for less than [`LIST_FRESH`] ago, and nothing was changed here since | never |
//! | list | for the hub, at most [`LIST_LIMIT`]; then what is known, and the answer is taken up when it comes |
//! | list, when the last one has failed | never |
//! | create, update, delete (`changes.rs`) | for the hub, at most [`CHANGE_LIMIT`](changes::CHANGE_LIMIT) |
//! | any of these while the hub is known to be away, or has refused (`gate.rs`) | never, but for one now and then that finds out whether it is well again |
//! | any of these while another call waits since the hub has asked for a pause (`http_common::https::Cloud`) | as above if the pause is short, never if it is long; a get of an unknown module never if the hub throttles |
//!
//! With `prefer_module_identity_cache` what is known is not asked for again at all. All callers share one list call at a
//! time and one call for each unknown module, and after a failure none is made for a while. The hub is told of the
//! certificates of modules in the background (`certified.rs`).

mod certified;
mod changes;
mod gate;
mod reads;
mod renewal;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http_common::chain;
use http_common::retry::FailureKind;
use hub_client::{HubClient, Module};
use identity_api::Auth;
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::cloud::{CloudAccess, Repeat};
use crate::credentials::{DeviceCredentials, TokenSigner};
use crate::module_credentials::ModuleCredentials;
use crate::module_id::ModuleId;
use crate::provision::Event;
use crate::records::{ModuleRecord, Records};

pub(crate) use changes::Effort;
pub(crate) use gate::concerns_all;

use certified::Certified;
use gate::{Asked, Gate, Way};
use reads::Reads;

/// The modules of one device.
pub(crate) struct Modules {
    cloud: Arc<CloudAccess>,
    device: hub_client::Device,
    credentials: DeviceCredentials,
    records: Arc<Records>,
    refresh: Mutex<Refresh>,
    reads: Reads,
    gate: Mutex<Gate>,
    certified: Certified,
    events: mpsc::Sender<Event>,
}

/// The list call that all callers share.
#[derive(Default)]
struct Refresh {
    running: Option<Running>,
    confirmed: Option<Instant>,
    listed: Listed,
    closed_until: Option<Instant>,
    /// Failures since the last success.
    failures: u32,
}

/// The hub's last list, for those who ask soon after.
#[derive(Default)]
struct Listed {
    /// When it was asked for, and what it said; `None` when something has been changed or seen here since.
    last: Option<(Instant, Arc<[ModuleRecord]>)>,
    /// How often something was.
    changes: u64,
}

impl Listed {
    /// The list, if it is as good as a new one at `now`.
    fn fresh(&self, now: Instant) -> Option<Arc<[ModuleRecord]>> {
        let (_, list) = self.last.as_ref().filter(|(asked, _)| now < *asked + LIST_FRESH)?;
        Some(Arc::clone(list))
    }

    /// Take up what the hub said when it was asked at `asked`, where there had been so many `changes`.
    fn take_up(&mut self, list: Arc<[ModuleRecord]>, asked: Instant, changes: u64) {
        let is_older = self.last.as_ref().is_some_and(|(last, _)| asked < *last);
        if changes == self.changes && !is_older {
            self.last = Some((asked, list));
        }
    }

    /// Whatever the hub has said is no news any more.
    fn outdate(&mut self) {
        self.changes += 1;
        self.last = None;
    }
}

#[derive(Clone)]
struct Running {
    since: Instant,
    /// How many [changes](Listed::changes) there had been.
    changes: u64,
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
            reads: Reads::default(),
            gate: Mutex::default(),
            certified: Certified::default(),
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
        if prefer_known {
            return self.records.all();
        }
        let known = self.with_refresh(|refresh| refresh.listed.fresh(Instant::now()));
        match known {
            Some(known) => known.to_vec(),
            None => self.fresh_list().await.map_or_else(|| self.records.all(), |fresh| fresh.to_vec()),
        }
    }

    /// Whether the hub need not be asked for the module.
    pub(crate) fn knows(&self, id: &ModuleId) -> bool {
        self.records.get(id.as_str()).is_some_and(|known| known.generation_id.is_some())
    }

    /// Whether nothing is known that would keep the hub from answering.
    pub(crate) fn is_hub_well(&self) -> bool {
        self.gate().is_open()
            && self.cloud.outage_left().is_zero()
            && !self.cloud.is_paused(&self.device.server())
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
        self.read(id).await
    }

    /// What the hub has; taken up as known.
    pub(crate) async fn at_hub(&self, deadline: Instant) -> Result<Vec<Module>, Error> {
        let hub = self.hub().await?;
        let (asked, at) = (self.records.moment(), Instant::now());
        let changes = self.with_refresh(|refresh| refresh.listed.changes);
        let listed = hub.list(deadline).await;
        let mut modules = self.noted(Asked::Read, listed)?;
        modules.retain(|module| self.records.is_ours(module));
        modules.iter().for_each(|module| self.certified.see(module));
        self.records.see_all(&modules, asked).await;
        let list = modules.iter().map(ModuleRecord::from).collect();
        self.with_refresh(|refresh| {
            refresh.listed.take_up(list, at, changes);
            refresh.confirmed = Some(Instant::now());
            refresh.closed_until = None;
            refresh.failures = 0;
        });
        Ok(modules)
    }

    /// What `module`, of which this is known, proves itself with. The hub is told of a certificate that it may not know.
    pub(crate) async fn auth(
        self: &Arc<Self>,
        module: &ModuleRecord,
        credentials: &Arc<ModuleCredentials>,
    ) -> Result<Auth, Error> {
        let id = &module.module_id;
        if !credentials.is_certified(id) {
            let no_generation = || Error::NoGenerationId { id: id.clone() };
            let generation = module.generation_id.as_deref().ok_or_else(no_generation)?;
            return credentials.key(id, generation).await;
        }
        let (certificate, auth) = credentials.certificate(&module.device_id, id).await?;
        if !self.certified.knows(id, &certificate) {
            self.tell_of_certificate(&ModuleId::parse(id)?, credentials).await;
        }
        Ok(auth)
    }

    /// Take up what the hub says of one module.
    async fn see(&self, module: &Module) {
        if self.records.is_ours(module) {
            self.certified.see(module);
            self.records.see(module).await;
            self.outdate_list();
        }
    }

    /// Take up that there is no module `id`.
    async fn forget(&self, id: &str) {
        self.certified.forget(id);
        self.records.forget(id).await;
        self.outdate_list();
    }

    /// Whoever asks for the list from now on gets a new one.
    fn outdate_list(&self) {
        self.with_refresh(|refresh| refresh.listed.outdate());
    }

    /// Take up how the hub has answered, for all who would ask it.
    fn noted<T>(&self, asked: Asked, result: Result<T, hub_client::Error>) -> Result<T, Error> {
        if asked == Asked::Change {
            // However it has ended, the hub may have done it.
            self.outdate_list();
        }
        let error = match result {
            Ok(answer) => {
                self.gate().answered();
                return Ok(answer);
            }
            Err(error) if error.is_hearsay() => return Err(error.into()),
            Err(error) => Error::from(error),
        };
        let kind = error.failure_kind();
        if kind.is_some_and(concerns_all) || is_unknown_device(&error) {
            let error = Arc::new(error);
            self.gate().failed(asked, &error, Instant::now());
            return Err(Error::Shared(error));
        }
        if matches!(kind, Some(FailureKind::NotFound | FailureKind::Conflict | FailureKind::Precondition)) {
            self.gate().answered();
        }
        Err(error)
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("no panic while held")
    }

    /// The hub's list, if it comes in time and nothing was changed here since it was asked for. While the hub fails nobody
    /// waits for it.
    async fn fresh_list(self: &Arc<Self>) -> Option<Arc<[ModuleRecord]>> {
        let has_failed =
            self.with_refresh(|refresh| refresh.closed_until.is_some()) || !self.gate().is_open();
        let Running { since, changes, mut done } = self.start_refresh()?;
        if has_failed {
            return None;
        }
        let until = tokio::time::Instant::from_std(since + LIST_LIMIT);
        let ended = tokio::time::timeout_at(until, done.wait_for(Option::is_some)).await;
        // What was changed here meanwhile may be missing in the hub's answer, but not in what is known.
        self.with_refresh(|refresh| refresh.listed.changes == changes).then_some(())?;
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
            let is_closed = refresh.closed_until.is_some_and(|until| until > now);
            if is_closed || matches!(self.gate().ask_to_read(now), Way::Closed(_)) {
                return None;
            }
            let (send, done) = watch::channel(None);
            let running = Running { since: now, changes: refresh.listed.changes, done };
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
                let pause = pause_after(error.failure_kind(), failures, self.cloud.outage_left());
                tracing::debug!(
                    "the hub's module list is left alone for {} s: {}",
                    pause.as_secs(),
                    chain(&error)
                );
                self.with_refresh(|refresh| refresh.closed_until = Some(Instant::now() + pause));
                if error.suggests_registration() {
                    self.doubt();
                }
                None
            }
        }
    }

    /// Say that the hub may not know this device any more.
    fn doubt(&self) {
        // A full queue holds a reason to look already.
        let _ = self.events.try_send(Event::Doubt);
    }

    /// Say so if a call about one module has failed so: a 404 may be about the module only.
    fn doubt_after(&self, error: &Error) {
        let is_refused =
            matches!(error.failure_kind(), Some(FailureKind::Unauthorized | FailureKind::CertificateRefused));
        if is_refused || is_unknown_device(error) || error.lacks_auth_key() {
            self.doubt();
        }
    }

    fn is_fresh(&self) -> bool {
        self.with_refresh(|refresh| refresh.confirmed.is_some_and(|when| when.elapsed() < FRESH))
    }

    fn with_refresh<T>(&self, change: impl FnOnce(&mut Refresh) -> T) -> T {
        change(&mut self.refresh.lock().expect("no panic while held"))
    }
}

/// How long the hub is not asked for the list after so many failures, the last of this kind. While it cannot be reached that
/// is until it may be tried again, in `outage_left`.
pub(crate) fn pause_after(kind: Option<FailureKind>, failures: u32, outage_left: Duration) -> Duration {
    match kind {
        Some(FailureKind::Network | FailureKind::Untrusted) if !outage_left.is_zero() => outage_left,
        kind => gate::pause_after(kind.unwrap_or(FailureKind::Credential), failures),
    }
}

fn is_unknown_device(error: &Error) -> bool {
    match error {
        Error::Hub(error) => error.is_unknown_device(),
        Error::Shared(error) => is_unknown_device(error),
        _ => false,
    }
}

/// How long what is known of a module is served without asking again.
const FRESH: Duration = Duration::from_secs(15);
/// How long after the hub was asked for the list others get the same one.
const LIST_FRESH: Duration = Duration::from_secs(2);
/// How long a call for a module that is not known may take in the background.
const GET_LIMIT: Duration = Duration::from_secs(30);
/// How long a caller waits for a list.
const LIST_LIMIT: Duration = Duration::from_secs(2);
/// How long a list call may take in the background.
const REFRESH_LIMIT: Duration = Duration::from_secs(75);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_good_for_a_moment_unless_something_changes() {
        let (mut listed, start) = (Listed::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let list = |count: usize| {
            let record = ModuleRecord {
                module_id: "m".into(),
                managed_by: None,
                device_id: "d".into(),
                generation_id: None,
            };
            vec![record; count].into()
        };
        let count = |listed: &Listed, ms| listed.fresh(at(ms)).map(|list| list.len());
        assert_eq!(count(&listed, 0), None);
        listed.take_up(list(1), at(100), 0);
        assert_eq!((count(&listed, 2099), count(&listed, 2100)), (Some(1), None));
        listed.take_up(list(2), at(50), 0);
        assert_eq!(count(&listed, 500), Some(1), "a slow answer is the older one");
        listed.outdate();
        assert_eq!(count(&listed, 500), None);
        listed.take_up(list(3), at(400), 0);
        assert_eq!(count(&listed, 500), None, "it was asked for before the change");
        listed.take_up(list(4), at(400), 1);
        assert_eq!(count(&listed, 500), Some(4));
    }

    #[test]
    fn a_list_of_a_hub_that_is_away_is_asked_for_when_it_may_be_tried() {
        let minute = Duration::from_secs(60);
        let pauses = |kind, left| {
            (1..=8).map(|failures| pause_after(Some(kind), failures, left).as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(pauses(FailureKind::Network, minute), [60; 8]);
        assert_eq!(pauses(FailureKind::Network, Duration::ZERO), [5, 10, 20, 40, 80, 160, 240, 240]);
        let trouble = FailureKind::Server { retry_after: None };
        assert_eq!(pauses(trouble, minute), [5, 10, 20, 40, 80, 160, 240, 240]);
    }
}
