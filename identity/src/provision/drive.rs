//! The loop that brings the device and its modules in line with the settings and never gives up: what is known is used at
//! once, the cloud is asked in the background, failures are followed by growing pauses that outlast a restart.
//!
//! One round at a time, serialised by [`Turn`], also for `POST /identities/device/reprovision`. Nothing here is waited
//! for by those who read.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use http_common::chain;
use http_common::retry::FailureKind;
use hub_client::Module;
use identity_api::config::Source;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::{Decision, Event, decide, digest, dps};
use crate::authz::Principals;
use crate::backup::{Memo, Record};
use crate::credentials::DeviceCredentials;
use crate::device::{Device, Phase};
use crate::modules::Modules;
use crate::reconcile::{self, Mode};
use crate::records::Records;
use crate::{Error, Identityd, Settings};

/// Whose turn it is to provision, and what came of the last turn that asked DPS or was asked for.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// The one lock of this daemon that is held while the cloud is asked. It guards no data.
    lock: AsyncMutex<()>,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    turns: u64,
    failure: Option<Arc<Error>>,
}

/// When the next round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// At once.
    Now,
    /// Then.
    At(tokio::time::Instant),
    /// When there is a reason.
    Idle,
}

impl Identityd {
    /// Run for ever. `events` are reasons to look again.
    pub(crate) async fn drive(self: Arc<Self>, mut events: mpsc::Receiver<Event>) {
        let mut next = self.first_round();
        let mut looked = tokio::time::Instant::now();
        loop {
            let event = match next {
                Next::Now => {
                    looked = tokio::time::Instant::now();
                    next = self.round().await;
                    continue;
                }
                Next::Idle => events.recv().await,
                Next::At(then) => tokio::select! {
                    event = events.recv() => event,
                    () = tokio::time::sleep_until(then) => {
                        next = Next::Now;
                        continue;
                    }
                },
            };
            let Some(event) = event else { return };
            next = after_event(next, event, looked, tokio::time::Instant::now());
        }
    }

    /// Use what is known, without the cloud: at the start, before anybody asks.
    pub(crate) async fn recall(&self, settings: &Settings) -> Result<bool, Error> {
        let known = match self.device() {
            Some(device) => Some((device.record.clone(), device.digest.clone())),
            None => {
                let digest = self.memo.lock().expect("no panic while held").digest.clone();
                self.on_disk(|home| home.record()).await.map(|record| (record, digest))
            }
        };
        let provisioning = &settings.config.provisioning;
        let now = digest(provisioning);
        match decide(provisioning, known.as_ref().map(|(record, with)| (record, with.as_deref()))) {
            Decision::Off => {
                self.update(|status| status.device = None);
                Ok(true)
            }
            Decision::Use(record) => {
                self.publish(&record, Some(now.clone()), settings).await?;
                self.remember(record, now).await?;
                Ok(true)
            }
            Decision::Register { meanwhile } => {
                if let Some(record) = meanwhile {
                    let with = known.and_then(|(_, with)| with);
                    self.publish(&record, with, settings).await?;
                    tracing::info!(
                        "the provisioning settings have changed; registering again, as {} until then",
                        record.device_id
                    );
                }
                Ok(false)
            }
        }
    }

    /// Register again even if nothing seems to be wrong, and write the keys of the modules once more. The device that
    /// works stays until the new one is in hand. Who asks while this is being done gets the same result.
    pub(crate) async fn reprovision(&self) -> Result<(), Error> {
        let before = self.turn.turns();
        let _turn = self.turn.lock.lock().await;
        if let Some(result) = self.turn.since(before) {
            return result;
        }
        let settings = self.settings();
        let result = self.reprovision_alone(&settings).await;
        let event = match &result {
            Ok(()) => Event::Settled,
            Err(_) => Event::Failed,
        };
        if result.is_ok() {
            self.settled().await;
        }
        // A full queue holds a reason to look already.
        let _ = self.events.try_send(event);
        self.turn.end(result)
    }

    async fn reprovision_alone(&self, settings: &Settings) -> Result<(), Error> {
        match settings.config.provisioning.source {
            Source::None => return Ok(()),
            Source::Manual(_) => self.recall(settings).await.map(|_| ())?,
            Source::Dps(_) => self.register(settings).await?,
        }
        let Some(device) = self.device() else { return Ok(()) };
        let at_hub = device.modules.at_hub(Instant::now() + LIST_LIMIT).await?;
        self.bring_in_line(settings, &device, &at_hub, Mode::Repair).await
    }

    /// Whether the pause after an earlier failure still lasts.
    fn first_round(&self) -> Next {
        let memo = self.memo.lock().expect("no panic while held").clone();
        let now = SystemTime::now();
        let left = memo.backoff.left(now);
        if left.is_zero() || memo.backoff_digest != digest(&self.settings().config.provisioning) {
            return Next::Now;
        }
        let failures = memo.backoff.failures();
        tracing::info!(
            "the cloud is left alone for {} s after {failures} failures before this start",
            left.as_secs()
        );
        self.update(|status| {
            status.phase = Phase::Waiting { failures, next: now + left, error: Arc::new(Error::Earlier) };
        });
        Next::At(tokio::time::Instant::now() + left)
    }

    async fn round(&self) -> Next {
        let _turn = self.turn.lock.lock().await;
        let settings = self.settings();
        self.update(|status| status.phase = Phase::Working);
        match self.background(&settings).await {
            Ok(()) => {
                self.settled().await;
                Next::Idle
            }
            Err(error @ Error::Unsupported { .. }) => {
                tracing::error!("this device cannot be provisioned: {error}");
                self.update(|status| status.phase = Phase::Impossible(Arc::new(error)));
                Next::Idle
            }
            Err(error) => Next::At(tokio::time::Instant::now() + self.failed(&settings, error).await),
        }
    }

    /// One round in the background: what is known first, DPS only if need be.
    async fn background(&self, settings: &Settings) -> Result<(), Error> {
        let is_dps = matches!(settings.config.provisioning.source, Source::Dps(_));
        let mut registered = false;
        if !self.recall(settings).await? {
            self.register_in_background(settings).await?;
            registered = true;
        }
        let Some(device) = self.device() else { return Ok(()) };
        match device.modules.at_hub(Instant::now() + LIST_LIMIT).await {
            Ok(at_hub) => self.bring_in_line(settings, &device, &at_hub, Mode::Keep).await,
            Err(error) if is_dps && !registered && error.kind().suggests_registration() => {
                tracing::warn!("the hub does not know this device, asking DPS: {}", chain(&error));
                self.register_in_background(settings).await?;
                let Some(device) = self.device() else { return Ok(()) };
                let at_hub = device.modules.at_hub(Instant::now() + LIST_LIMIT).await?;
                self.bring_in_line(settings, &device, &at_hub, Mode::Keep).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A registration whose result also serves those who ask for one meanwhile.
    async fn register_in_background(&self, settings: &Settings) -> Result<(), Error> {
        let result = self.register(settings).await;
        self.turn.end(result)
    }

    async fn register(&self, settings: &Settings) -> Result<(), Error> {
        let Source::Dps(dps) = &settings.config.provisioning.source else { return Ok(()) };
        let Some(credentials) = DeviceCredentials::obtain(&settings.config.provisioning.source, &self.keyd)?
        else {
            return Ok(());
        };
        tracing::info!("registering with {}", dps.global_endpoint);
        let record = dps::register(dps, &credentials, &self.cloud, Instant::now() + REGISTER_LIMIT).await?;
        let with = digest(&settings.config.provisioning);
        self.publish(&record, Some(with.clone()), settings).await?;
        self.remember(record, with).await
    }

    /// Let everybody see this device, unless they do already.
    async fn publish(&self, record: &Record, with: Option<String>, settings: &Settings) -> Result<(), Error> {
        let Some(credentials) = DeviceCredentials::obtain(&settings.config.provisioning.source, &self.keyd)?
        else {
            return Ok(());
        };
        let unchanged = |device: &Arc<Device>| {
            device.record == *record && device.digest == with && device.credentials.is_same(&credentials)
        };
        if self.device().as_ref().is_some_and(unchanged) {
            return Ok(());
        }
        let known = record.clone();
        let records = self.on_disk(move |home| Records::load(home, &known)).await;
        let hub = hub_client::HubClient::new(self.cloud.clone(), at(record), credentials.for_cloud());
        let modules = Arc::new(Modules::new(hub, records, self.events.clone()));
        tracing::info!("this device is {} at {}", record.device_id, record.hub);
        let device = Device { record: record.clone(), digest: with, credentials, modules };
        self.update(|status| status.device = Some(Arc::new(device)));
        Ok(())
    }

    /// Write down who this device is, and with which settings it became that.
    async fn remember(&self, record: Record, with: String) -> Result<(), Error> {
        let memo = self.with_memo(|memo| memo.digest = Some(with));
        self.on_disk(move |home| home.write_record(&record, &memo)).await
    }

    /// Bring the modules in line with the principals; all of them are tried, the first failure is told.
    async fn bring_in_line(
        &self,
        settings: &Settings,
        device: &Device,
        at_hub: &[Module],
        mode: Mode,
    ) -> Result<(), Error> {
        let wanted = settings.principals.modules();
        let record = device.record.clone();
        let previous = self.on_disk(move |home| home.prev_state(&record)).await;
        let is_there = |id: &String| at_hub.iter().any(|module| module.module_id == *id);
        let mut ours: BTreeSet<String> = match previous {
            Some(previous) => Principals::new(&previous.principal).modules().clone(),
            None => BTreeSet::new(),
        };
        ours.retain(|id| wanted.contains(id) || is_there(id));
        let steps = reconcile::plan(at_hub, wanted, &ours, mode);
        let outcome = reconcile::carry_out(steps, ours, &device.modules, &self.master).await;
        let remembered = reconcile::remembered(&settings.config, &outcome.ours);
        self.on_disk(move |home| home.write_prev_state(&remembered)).await?;
        outcome.failures.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// All is in line.
    async fn settled(&self) {
        let phase = match self.settings().config.provisioning.source {
            Source::None => Phase::Off,
            Source::Manual(_) | Source::Dps(_) => Phase::Settled,
        };
        self.update(|status| status.phase = phase);
        self.keep_memo(|memo| memo.backoff.succeeded()).await;
    }

    /// How long to wait after `error`.
    async fn failed(&self, settings: &Settings, error: Error) -> Duration {
        let now = SystemTime::now();
        let kind = error.failure_kind();
        let asked = match kind {
            Some(FailureKind::Forbidden) => Some(QUOTA_PAUSE),
            kind => kind.and_then(FailureKind::retry_after),
        };
        let mut wait = Duration::ZERO;
        let mut failures = 0;
        let count = |memo: &mut Memo| {
            wait = memo.backoff.failed(now, asked, fastrand::f64());
            failures = memo.backoff.failures();
            memo.backoff_digest = digest(&settings.config.provisioning);
        };
        match kind {
            // A service that has answered must not be asked again for a restart; a network that was away may be back.
            Some(FailureKind::Network | FailureKind::Credential | FailureKind::Untrusted) | None => {
                self.with_memo(count);
            }
            Some(_) => self.keep_memo(count).await,
        }
        tracing::warn!(
            "provisioning is not complete, next attempt in {} s: {}",
            wait.as_secs(),
            chain(&error)
        );
        let error = Arc::new(error);
        self.update(|status| status.phase = Phase::Waiting { failures, next: now + wait, error });
        wait
    }

    fn with_memo(&self, change: impl FnOnce(&mut Memo)) -> Memo {
        let mut memo = self.memo.lock().expect("no panic while held");
        change(&mut memo);
        memo.clone()
    }

    /// Change the memo and write it down if that made a difference.
    async fn keep_memo(&self, change: impl FnOnce(&mut Memo)) {
        let before = self.memo.lock().expect("no panic while held").clone();
        let memo = self.with_memo(change);
        if memo == before {
            return;
        }
        if let Err(error) = self.on_disk(move |home| home.write_memo(&memo)).await {
            tracing::warn!("a restart will forget to wait: {}", chain(&error));
        }
    }
}

impl Turn {
    fn turns(&self) -> u64 {
        self.last.lock().expect("no panic while held").turns
    }

    /// The result of a turn that has ended since there were `before`.
    fn since(&self, before: u64) -> Option<Result<(), Error>> {
        let last = self.last.lock().expect("no panic while held");
        (last.turns != before).then(|| match &last.failure {
            None => Ok(()),
            Some(error) => Err(Error::Shared(Arc::clone(error))),
        })
    }

    /// End a turn with this result.
    fn end(&self, result: Result<(), Error>) -> Result<(), Error> {
        let failure = result.err().map(Arc::new);
        let mut last = self.last.lock().expect("no panic while held");
        last.turns += 1;
        last.failure.clone_from(&failure);
        failure.map_or(Ok(()), |error| Err(Error::Shared(error)))
    }
}

/// What `event` makes of the plan to look `next`, if the last look was at `looked`.
fn after_event(next: Next, event: Event, looked: tokio::time::Instant, now: tokio::time::Instant) -> Next {
    match (next, event) {
        (_, Event::Config) => Next::Now,
        (_, Event::Settled) => Next::Idle,
        (Next::Idle, Event::Doubt) if looked + DOUBT_PAUSE <= now => Next::Now,
        (Next::Idle, Event::Doubt) => Next::At(looked + DOUBT_PAUSE),
        (Next::Idle, Event::Failed) => Next::At(now + DOUBT_PAUSE),
        (Next::Now | Next::At(_), Event::Doubt | Event::Failed) => next,
    }
}

fn at(record: &Record) -> hub_client::Device {
    let Record { hub, gateway, device_id } = record.clone();
    let gateway = (gateway != hub).then_some(gateway);
    hub_client::Device { hub, gateway, device_id }
}

/// How long a list call may take in the background: long enough for one pause after 429.
const LIST_LIMIT: Duration = Duration::from_secs(150);
/// How long a registration may take: less than the 600 s that known clients wait.
const REGISTER_LIMIT: Duration = Duration::from_secs(9 * 60);
/// The least pause after 403, which usually is about a quota.
const QUOTA_PAUSE: Duration = Duration::from_secs(10 * 60);
/// The least time between two looks because of doubts.
const DOUBT_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_event_changes() {
        let start = tokio::time::Instant::now();
        let (soon, later) = (start + Duration::from_secs(5), start + Duration::from_secs(300));
        let table = [
            (Next::Idle, Event::Config, soon, Next::Now),
            (Next::At(later), Event::Config, soon, Next::Now),
            (Next::Idle, Event::Doubt, later, Next::Now),
            (Next::Idle, Event::Doubt, soon, Next::At(start + DOUBT_PAUSE)),
            (Next::At(later), Event::Doubt, soon, Next::At(later)),
            (Next::At(later), Event::Settled, soon, Next::Idle),
            (Next::At(later), Event::Failed, soon, Next::At(later)),
            (Next::Idle, Event::Failed, later, Next::At(later + DOUBT_PAUSE)),
        ];
        for (next, event, now, expected) in table {
            assert_eq!(after_event(next, event, start, now), expected, "{next:?} {event:?}");
        }
    }

    #[test]
    fn who_waited_for_a_turn_shares_its_result() {
        let turn = Turn::default();
        let before = turn.turns();
        assert!(turn.since(before).is_none());
        assert!(turn.end(Err(Error::HubTooSlow)).is_err());
        assert!(matches!(turn.since(before), Some(Err(Error::Shared(_)))));
        let after = turn.turns();
        assert!(turn.since(after).is_none());
        turn.end(Ok(())).unwrap();
        assert!(matches!(turn.since(after), Some(Ok(()))));
    }
}
