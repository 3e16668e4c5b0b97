//! What one round does: use what is known, register if need be, bring the modules in line. Does not know when the next one
//! is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_common::chain;
use hub_client::{AuthType, Module};
use identity_api::config::{Config, Source};
use tokio::time::timeout_at;

use super::turn::Left;
use super::{Decision, Event, decide, digest, dps};
use crate::authz::Principals;
use crate::backup::Record;
use crate::cloud::Repeat;
use crate::credentials::DeviceCredentials;
use crate::device::{Device, Phase};
use crate::module_keys::Loss;
use crate::modules::Modules;
use crate::reconcile;
use crate::records::Records;
use crate::{Error, Identityd, Settings};

impl Identityd {
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
                self.publish(&record, Some(now.clone()), self.credentials(settings)).await;
                self.remember(record, now).await.map(|()| true)
            }
            Decision::Register { meanwhile } => {
                if let Some(record) = meanwhile
                    && self.device().is_none()
                {
                    let with = known.and_then(|(_, with)| with);
                    let credentials = self.former_credentials(&record, with.as_deref(), settings).await;
                    self.publish(&record, with, credentials).await;
                }
                if let Some(device) = self.device() {
                    tracing::info!(
                        "the provisioning settings have changed; registering, as {device:?} until then"
                    );
                }
                Ok(false)
            }
        }
    }

    /// Register again even if nothing seems to be wrong, and write the keys of the modules once more. The device that
    /// works stays until the new one is in hand. Who asks while DPS is being asked gets the same result, and who asks soon
    /// after a failure gets that. Whatever is not done in [`WISH_LIMIT`] is left to the rounds in the background.
    pub(crate) async fn reprovision(&self) -> Result<(), Error> {
        let deadline = Instant::now() + WISH_LIMIT;
        let before = self.turn.registrations();
        let Ok(_turn) = timeout_at(deadline.into(), self.turn.lock.lock()).await else {
            return Err(Error::Unfinished);
        };
        if let Some(result) = self.turn.since(before) {
            return result;
        }
        let settings = self.settings();
        if let Some(failure) = self.too_early(&settings) {
            return Err(failure);
        }
        let phase = self.status.borrow().phase.clone();
        self.update(|status| status.phase = status.phase.again());
        let alone = self.reprovision_alone(&settings, deadline);
        let result = timeout_at((deadline + GRACE).into(), alone).await.unwrap_or(Err(Error::Unfinished));
        let now = tokio::time::Instant::now();
        let event = match &result {
            Ok(()) => {
                self.settled(&settings).await;
                Event::Settled(now)
            }
            Err(_) => {
                self.end_phase(&settings, phase);
                Event::Failed(now)
            }
        };
        // A full queue holds a reason to look already.
        let _ = self.events.try_send(event);
        self.end_turn(&settings, result)
    }

    /// The failure that stands for another try, which must wait.
    pub(super) fn too_early(&self, settings: &Settings) -> Option<Error> {
        let digest = digest(&settings.config.provisioning);
        let failure = self.turn.too_early(&digest, tokio::time::Instant::now());
        failure.or_else(|| {
            self.must_wait().then(|| match &self.status.borrow().phase {
                Phase::Waiting { error, .. } | Phase::Working { before: Some(error) } => {
                    Error::Shared(Arc::clone(error))
                }
                Phase::Working { before: None } | Phase::Settled | Phase::Off => self.earlier(),
            })
        })
    }

    fn end_turn(&self, settings: &Settings, result: Result<(), Error>) -> Result<(), Error> {
        let digest = digest(&settings.config.provisioning);
        self.turn.end(result, digest, tokio::time::Instant::now())
    }

    async fn reprovision_alone(&self, settings: &Settings, deadline: Instant) -> Result<(), Error> {
        if let Some(credentials) = self.credentials(settings) {
            credentials.revive().await?;
        }
        match settings.config.provisioning.source {
            Source::None => return Ok(()),
            Source::Manual(_) => {
                self.recall(settings).await?;
                self.turn.registered();
            }
            Source::Dps(_) => {
                let deadline = deadline.min(Instant::now() + REGISTER_LIMIT);
                self.register(settings, Repeat::AsConfigured, deadline).await?;
            }
        }
        let Some(device) = self.device() else { return Ok(()) };
        let at_hub = list(&device, deadline.min(Instant::now() + LIST_LIMIT)).await?;
        self.bring_in_line(settings, &device, &at_hub, Mode::Repair, Some(deadline)).await
    }

    /// One round in the background: what is known first, DPS only if need be. A round with a registration also serves
    /// those who have asked for one meanwhile.
    pub(super) async fn background(&self, settings: &Settings) -> Result<(), Failed> {
        let recalled = self.recall(settings).await?;
        self.look_at_credentials(settings).await?;
        if !recalled {
            let registered = self.register_and_go_on(settings).await;
            return Ok(self.end_turn(settings, registered)?);
        }
        let Some(device) = self.device() else { return Ok(()) };
        let is_dps = matches!(settings.config.provisioning.source, Source::Dps(_));
        match list(&device, Instant::now() + LIST_LIMIT).await {
            Ok(at_hub) => Ok(self.bring_in_line(settings, &device, &at_hub, Mode::Keep, None).await?),
            Err(error) if is_dps && error.suggests_registration() => {
                tracing::warn!("this device has to be registered again, asking DPS: {}", chain(&error));
                let registered = self.register_and_go_on(settings).await;
                self.end_turn(settings, registered).map_err(|error| Failed { error, after_hub: true })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Before the cloud is asked: is there anything to ask it with?
    async fn look_at_credentials(&self, settings: &Settings) -> Result<(), Error> {
        match self.credentials(settings) {
            Some(credentials) => credentials.look_again().await,
            None => Ok(()),
        }
    }

    async fn register_and_go_on(&self, settings: &Settings) -> Result<(), Error> {
        // A DPS that throttles is asked again in another round, which waits as long as it asks, over restarts too.
        let deadline = Instant::now() + REGISTER_LIMIT;
        self.register(settings, Repeat::UnlessThrottled, deadline).await?;
        let Some(device) = self.device() else { return Ok(()) };
        let at_hub = list(&device, Instant::now() + LIST_LIMIT).await?;
        self.bring_in_line(settings, &device, &at_hub, Mode::Keep, None).await
    }

    async fn register(&self, settings: &Settings, repeat: Repeat, deadline: Instant) -> Result<(), Error> {
        let Source::Dps(dps) = &settings.config.provisioning.source else { return Ok(()) };
        let Some(credentials) = self.credentials(settings) else {
            return Ok(());
        };
        let settled = self.cloud.settled(&credentials, repeat);
        let registered = match timeout_at(deadline.into(), settled).await {
            Ok(Ok((cloud, _undisturbed))) => {
                dps::register(dps, &credentials, &cloud, &self.services.workshop, deadline).await
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::Unfinished),
        };
        self.turn.registered();
        let record = registered?;
        let with = digest(&settings.config.provisioning);
        // Written first: whoever sees the device now finds it after a restart. A full disk hides it from nobody.
        let written = self.remember(record.clone(), with.clone()).await;
        self.publish(&record, Some(with), Some(credentials)).await;
        written
    }

    /// Let everybody see this device, unless they do already.
    async fn publish(&self, record: &Record, with: Option<String>, credentials: Option<DeviceCredentials>) {
        let Some(credentials) = credentials else { return };
        let unchanged = |device: &Arc<Device>| {
            device.record == *record && device.digest == with && device.credentials.is_same(&credentials)
        };
        if self.device().as_ref().is_some_and(unchanged) {
            return;
        }
        let known = record.clone();
        let records = self.on_disk(move |home| Records::load(home, &known)).await;
        let cloud = Arc::clone(&self.cloud);
        let modules = Modules::new(cloud, at(record), credentials.clone(), records, self.events.clone());
        tracing::info!("this device is {} at {}", record.device_id, record.hub);
        let device = Device { record: record.clone(), digest: with, credentials, modules: Arc::new(modules) };
        self.update(|status| status.device = Some(Arc::new(device)));
    }

    fn credentials(&self, settings: &Settings) -> Option<DeviceCredentials> {
        self.services.credentials(&settings.config.provisioning.source)
    }

    /// What the device `record`, obtained with settings of the digest `with`, proved itself with before the settings changed,
    /// as far as it is remembered.
    async fn former_credentials(
        &self,
        record: &Record,
        with: Option<&str>,
        settings: &Settings,
    ) -> Option<DeviceCredentials> {
        let record = record.clone();
        let previous = self.on_disk(move |home| home.prev_state(&record)).await;
        match previous.filter(|previous| Some(digest(&previous.provisioning).as_str()) == with) {
            Some(previous) => self.services.former_credentials(&previous.provisioning.source),
            None => self.credentials(settings),
        }
    }

    /// Write down who this device is, and with which settings it became that.
    async fn remember(&self, record: Record, with: String) -> Result<(), Error> {
        let new = record.clone();
        if self.on_disk(move |home| home.is_news(&new)).await {
            // What is due, and whose keys are ours, was about another device's modules.
            self.turn.leave(Left::default());
            self.module_credentials.forget_keys().await;
        }
        let memo = self.with_memo(|memo| memo.digest = Some(with));
        self.on_disk(move |home| home.write_record(&record, &memo)).await
    }

    /// Bring the modules in line with the principals; all of them are tried until the deadline, if there is one; the first
    /// failure is told.
    async fn bring_in_line(
        &self,
        settings: &Settings,
        device: &Device,
        at_hub: &[Module],
        mode: Mode,
        deadline: Option<Instant>,
    ) -> Result<(), Error> {
        let wanted = &settings.modules;
        let record = device.record.clone();
        let previous = self.on_disk(move |home| home.prev_state(&record)).await;
        let is_there = |id: &String| at_hub.iter().any(|module| module.module_id == *id);
        let same = |previous: &Config| previous.module_x509 == settings.config.module_x509;
        // Otherwise modules may have what they should no longer have.
        let mode = if previous.as_ref().is_none_or(same) { mode } else { Mode::Repair };
        let mut ours: BTreeSet<String> = match previous {
            Some(previous) => Principals::new(&previous.principal).modules().clone(),
            None => BTreeSet::new(),
        };
        ours.retain(|id| wanted.contains(id) || is_there(id));
        let Left { mut repair, rekey } = self.turn.left();
        let (loss, rekey) = self.lost_keys(at_hub, wanted, &ours, rekey).await;
        if mode == Mode::Repair {
            repair.extend(wanted.iter().cloned());
        }
        let steps = reconcile::plan(at_hub, wanted, &ours, &repair, &rekey);
        let (modules, credentials) = (&device.modules, &self.module_credentials);
        let outcome = reconcile::carry_out(steps, ours, modules, credentials, deadline.map(Into::into)).await;
        let undone_of =
            |ids: &BTreeSet<String>| outcome.undone().filter(|id| ids.contains(*id)).cloned().collect();
        let left = Left { repair: undone_of(&repair), rekey: undone_of(&rekey) };
        let is_all = left.rekey.is_empty();
        self.turn.leave(left);
        credentials.mended(loss, is_all).await;
        let remembered = reconcile::remembered(&settings.config, &outcome.ours);
        self.on_disk(move |home| home.write_prev_state(&remembered)).await?;
        outcome.result()
    }
}

impl Identityd {
    /// Whether the master key of the keys of modules is another one, and the modules that need new keys: those that have keys,
    /// by all that is known ours, if it is; otherwise what was `left` of them.
    async fn lost_keys(
        &self,
        at_hub: &[Module],
        wanted: &BTreeSet<String>,
        ours: &BTreeSet<String>,
        left: BTreeSet<String>,
    ) -> (Option<Loss>, BTreeSet<String>) {
        let credentials = &self.module_credentials;
        let has_key = |module: &&Module| {
            matches!(module.auth_type, None | Some(AuthType::Sas))
                && module.generation_id.is_some()
                && !credentials.is_certified(&module.module_id)
        };
        let keyed = at_hub.iter().filter(has_key).map(|module| module.module_id.clone());
        let mut keyed: BTreeSet<_> = keyed.collect();
        if !keyed.is_empty() {
            credentials.look_at_master().await;
        }
        let loss = credentials.loss();
        let given = credentials.given();
        keyed.retain(|id| match loss {
            Some(_) => wanted.contains(id) || ours.contains(id) || given.contains(id),
            None => left.contains(id),
        });
        (loss, keyed)
    }
}

/// The modules at the hub. If a renewal has made another certificate the device's meanwhile, the hub is asked with that.
async fn list(device: &Device, deadline: Instant) -> Result<Vec<Module>, Error> {
    let DeviceCredentials::Certificate(certificate) = &device.credentials else {
        return device.modules.at_hub(deadline).await;
    };
    let before = certificate.good();
    match device.modules.at_hub(deadline).await {
        Err(error) if error.suggests_registration() => {
            let is_other = certificate.is_other_than(before.as_ref());
            match timeout_at(deadline.into(), is_other).await {
                Ok(true) => device.modules.at_hub(deadline).await,
                Ok(false) | Err(_) => Err(error),
            }
        }
        listed => listed,
    }
}

/// How a round has failed.
pub(super) struct Failed {
    /// Why.
    pub(super) error: Error,
    /// Whether the hub was asked before, and did not want this device.
    pub(super) after_hub: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, after_hub: false }
    }
}

/// What to do about modules that are ours already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Nothing, unless that was to be done before and was not.
    Keep,
    /// Write their keys once more.
    Repair,
}

/// The device at its hub.
pub(crate) fn at(record: &Record) -> hub_client::Device {
    let Record { hub, gateway, device_id } = record.clone();
    let gateway = (gateway != hub).then_some(gateway);
    hub_client::Device { hub, gateway, device_id }
}

/// How long a list call may take in the background: long enough for one pause after 429.
const LIST_LIMIT: Duration = Duration::from_secs(150);
/// How long somebody waits who wishes for a registration and all that follows: known clients give up after 600 s.
const WISH_LIMIT: Duration = Duration::from_secs(570);
/// How much longer keyd and certd may take to do what has been begun.
const GRACE: Duration = Duration::from_secs(20);
/// How long a registration may take.
pub(crate) const REGISTER_LIMIT: Duration = Duration::from_secs(9 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Step;
    use crate::tests::{SAS, daemon};
    use http_common::daemon::Daemon;

    #[tokio::test(start_paused = true)]
    async fn who_wishes_waits_no_longer_than_clients_do() {
        let (daemon, _home) = daemon(SAS).await;
        let _turn = daemon.turn.lock.lock().await;
        let begun = tokio::time::Instant::now();
        assert!(matches!(daemon.reprovision().await, Err(Error::Unfinished)));
        let took = begun.elapsed().as_secs();
        assert!((500..600).contains(&took), "{took} s");
    }

    #[tokio::test]
    async fn what_is_not_done_in_time_is_left_to_the_next_round() {
        let (daemon, _home) = daemon(SAS).await;
        let (device, now) = (daemon.device().unwrap(), tokio::time::Instant::now());
        let steps = ["a", "b"].map(|id| Step::Create(id.to_owned())).to_vec();
        let (modules, credentials) = (&device.modules, &daemon.module_credentials);
        let outcome = reconcile::carry_out(steps, BTreeSet::new(), modules, credentials, Some(now)).await;
        assert_eq!(outcome.undone().collect::<Vec<_>>(), ["a", "b"]);
        assert!(matches!(outcome.result(), Err(Error::Unfinished)));
    }

    #[tokio::test]
    async fn who_waits_for_a_new_principals_module_goes_on_when_a_turn_without_it_ends() {
        let (daemon, _home) = daemon(SAS).await;
        let _turn = daemon.turn.lock.lock().await;
        let settings = daemon.settings();
        let is_working = || matches!(daemon.status.borrow().phase, Phase::Working { .. });
        daemon.settled(&settings).await;
        assert!(!is_working());
        let mut other = settings.config.clone();
        other.prefer_module_identity_cache = true;
        daemon.reload(other.clone()).await;
        daemon.settled(&settings).await;
        assert!(!is_working(), "no other turn follows from that");
        other.principal = vec![toml::from_str("uid = 7\nname = 'm'\nidtype = ['module']").unwrap()];
        daemon.reload(other).await;
        daemon.settled(&settings).await;
        assert!(is_working(), "the next turn makes the module");
        daemon.end_phase(&settings, Phase::Settled);
        assert!(is_working(), "after a failure too");
        daemon.settled(&daemon.settings()).await;
        assert!(!is_working());
    }
}
