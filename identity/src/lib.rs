//! `aziot-identityd`: who this device and its modules are.
//!
//! ```text
//! handlers.rs ── authz.rs: may this peer?        provision/drive.rs: one round after the other, for ever
//!      │                                              │ decides (provision/mod.rs), registers (provision/dps.rs)
//!      ▼                                              ▼ brings modules in line (reconcile.rs)
//!  Device (device.rs) ◄── swapped as a whole ─── what a round has found
//!      ├ credentials.rs   the device's key: in keyd; with a certificate (x509.rs, workshop.rs); in the TPM (tpm.rs)
//!      └ modules.rs       the modules: hub ⇄ records.rs;  module_keys.rs: their keys, derived in keyd
//! ```
//!
//! The socket is served at once, and for as long as the process lives; whatever the cloud does or keyd lacks is a matter of
//! the background. Nothing but a bad configuration ends the process. Local identities (local.rs) need neither device nor cloud.

mod authz;
mod backup;
mod cloud;
mod credentials;
mod csr;
mod device;
mod draft;
mod error;
mod handlers;
mod kind;
mod local;
mod module_credentials;
mod module_id;
mod module_keys;
mod module_renewal;
mod modules;
mod provision;
mod reconcile;
mod records;
mod renew;
mod tpm;
mod trust_bundle;
mod workshop;
mod x509;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use config_common::Service;
use http_common::daemon::{Common, Daemon, notify_status};
use http_common::https::ProxyRules;
use http_common::{Limits, Router, chain};
use identity_api::Identity;
use identity_api::config::{Config, Source};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;

pub use error::Error;

use authz::Principals;
use backup::{Home, Memo};
use cloud::CloudAccess;
use credentials::Services;
use device::{Device, Phase, Status};
use module_credentials::ModuleCredentials;
use module_id::ModuleId;
use module_keys::MasterKey;
use provision::{Event, Turn};

/// The state of the daemon.
pub struct Identityd {
    settings: RwLock<Arc<Settings>>,
    status: watch::Sender<Status>,
    turn: Turn,
    events: mpsc::Sender<Event>,
    /// That the settings have changed since the last look at them.
    changed: Notify,
    home: Home,
    memo: Mutex<Memo>,
    services: Services,
    module_credentials: Arc<ModuleCredentials>,
    cloud: Arc<CloudAccess>,
    /// The failure that the log told last, so that it is not told again and again.
    told: Mutex<Option<String>>,
    /// Places of requests that wait for the device: some of each user's.
    waiting: Limits,
}

/// What the configuration says, swapped as a whole.
struct Settings {
    config: Config,
    principals: Principals,
    /// The modules that must exist at the hub: those of the principals whose names a hub takes.
    modules: BTreeSet<String>,
}

impl Daemon for Identityd {
    const SERVICE: Service = Service::Identityd;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const WORKERS: usize = 0;
    type Config = Config;

    fn common(config: &Config) -> Common {
        Common {
            max_requests: config.max_requests,
            endpoint: config.endpoints.of(Service::Identityd),
            log_level: config.log_level.clone(),
            assumed_version: config.draft_api.then_some(identity_api::draft::VERSION),
        }
    }

    fn check(config: &Config) -> Result<(), Error> {
        config.check()?;
        for doubt in config.doubts() {
            tracing::warn!("{doubt}");
        }
        let subject = credentials::subject(&config.provisioning.source);
        if let Some(Err(error)) = subject.map(|subject| csr::name(&subject)) {
            tracing::warn!("no certificate of the device can be requested: {}", chain(&error));
        }
        Ok(())
    }

    fn warn(config: &Config) {
        drop(modules_of(&Principals::new(&config.principal)));
    }

    async fn start(config: Config) -> Result<Arc<Self>, Error> {
        let home = Home::open(&config.homedir)?;
        let proxy = ProxyRules::from_env().map_err(Error::Proxy)?;
        let (events, reasons) = mpsc::channel(EVENTS);
        let services = Services::new(&config);
        let master = MasterKey::new(services.keyd.clone(), home.clone(), events.clone());
        let daemon = Arc::new(Self {
            status: watch::Sender::new(Status {
                device: None,
                phase: Phase::Working { before: None },
                stopping: false,
            }),
            turn: Turn::default(),
            told: Mutex::default(),
            events,
            changed: Notify::new(),
            memo: Mutex::new(home.memo()),
            home,
            module_credentials: Arc::new(module_credentials(master, &services, &config)),
            services,
            cloud: Arc::new(CloudAccess::new(&config, proxy)),
            waiting: Limits::new(config.max_requests.saturating_sub(KEPT_FREE).max(1)),
            settings: RwLock::new(Arc::new(Settings::new(config))),
        });
        let settings = daemon.settings();
        daemon.keep_certificate(&settings);
        if let Err(error) = daemon.recall(&settings).await {
            // The first round meets it again, and decides what it means.
            tracing::debug!("nothing is known without the cloud: {}", chain(&error));
        }
        if matches!(settings.config.provisioning.source, Source::None) {
            daemon.update(|status| status.phase = Phase::Off);
        }
        tokio::spawn(Arc::clone(&daemon).drive(reasons));
        tokio::spawn(Arc::clone(&daemon).let_go());
        Ok(daemon)
    }

    fn router() -> Router<Self> {
        identity_api::router()
    }

    fn check_change(&self, config: &Config) -> Result<(), Error> {
        Ok(self.settings().config.check_change(config)?)
    }

    async fn reload(self: &Arc<Self>, config: Config) {
        let old = self.settings();
        for setting in needs_restart(&old.config, &config) {
            tracing::warn!("{setting} has changed; this needs a restart to take effect");
        }
        let nothing_to_do = old.is_same_work(&config);
        self.module_credentials.take_up(config.module_x509.as_ref());
        let settings = Arc::new(Settings::new(config));
        *self.settings.write().expect("no panic while held") = Arc::clone(&settings);
        self.keep_certificate(&settings);
        if !nothing_to_do {
            self.has_changed();
        }
    }
}

/// The modules that principals get; what cannot be the name of one is told.
fn modules_of(principals: &Principals) -> BTreeSet<String> {
    let mut modules = principals.modules().clone();
    modules.retain(|name| match ModuleId::parse(name) {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!("a [[principal]] gets no module: {error}");
            false
        }
    });
    modules
}

impl Settings {
    fn new(config: Config) -> Self {
        let principals = Principals::new(&config.principal);
        let modules = modules_of(&principals);
        Self { config, principals, modules }
    }

    /// Whether the same device and modules are to be had with `config`.
    fn is_same_work(&self, config: &Config) -> bool {
        self.config.provisioning == config.provisioning
            && self.config.principal == config.principal
            && self.config.module_x509 == config.module_x509
    }
}

impl Identityd {
    fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read().expect("no panic while held"))
    }

    /// The device, if there is one.
    fn device(&self) -> Option<Arc<Device>> {
        self.status.borrow().device.clone()
    }

    /// The device, or why there is none.
    fn device_now(&self) -> Result<Arc<Device>, Error> {
        let status = self.status.borrow();
        status.device.clone().ok_or_else(|| status.absence(SystemTime::now()))
    }

    /// The device, which may take a while.
    ///
    /// A client that deployed with upstream takes every refusal of its device identity as "register again", so the request
    /// is held as long as there is hope, up to [`HOLD`]. Some slots of each user stay free for other requests.
    async fn device_or_wait(&self, uid: u32) -> Result<Arc<Device>, Error> {
        self.wait_while(uid, Status::is_pending).await;
        self.device_now()
    }

    /// Wait while `what` holds, up to [`HOLD`], unless too many of this user do so already or the process is about to end.
    async fn wait_while(&self, uid: u32, what: impl Fn(&Status) -> bool) {
        let what = |status: &Status| !status.stopping && what(status);
        if what(&self.status.borrow())
            && let Some(_place) = self.waiting.try_admit(uid)
        {
            let mut status = self.status.subscribe();
            // Besides the status, what is known of the hub may end it.
            let ended =
                async { while timeout(LOOK, status.wait_for(|status| !what(status))).await.is_err() {} };
            // Whether it has ended or taken too long is seen by whoever goes on.
            let _ = timeout(HOLD, ended).await;
        }
    }

    /// Let nobody who waits for the device delay the end of the process.
    async fn let_go(self: Arc<Self>) {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => {
                terminate.recv().await;
                self.status.send_modify(|status| status.stopping = true);
            }
            Err(error) => tracing::debug!("the end will be slow if somebody waits: {error}"),
        }
    }

    async fn device_identity(&self, uid: u32) -> Result<Identity, Error> {
        let device = self.device_or_wait(uid).await?;
        Ok(device.identity(device.credentials.auth().await?))
    }

    /// The identity of a module. One that is about to be made is waited for, unless that takes a hub that is in trouble.
    async fn module_identity(&self, uid: u32, device: &Device, id: &ModuleId) -> Result<Identity, Error> {
        let settings = self.settings();
        let modules = Arc::clone(&device.modules);
        if settings.modules.contains(id.as_str()) && !modules.knows(id) {
            let is_working =
                |status: &Status| matches!(status.phase, Phase::Working { .. }) && modules.is_hub_well();
            self.wait_while(uid, is_working).await;
        }
        let prefer_known = settings.config.prefer_module_identity_cache;
        let module = modules.get(id, prefer_known).await?;
        let auth = modules.auth(&module, &self.module_credentials).await?;
        modules.keep_valid(&module, &self.module_credentials);
        Ok(device.module_identity(&module, Some(auth)))
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
        notify_status(&self.status.borrow().line(SystemTime::now()));
    }

    /// Use the state directory where blocking is allowed.
    async fn on_disk<T: Send + 'static>(&self, work: impl FnOnce(&Home) -> T + Send + 'static) -> T {
        let home = self.home.clone();
        let worked = tokio::task::spawn_blocking(move || work(&home)).await;
        worked.expect("reading and writing state does not panic")
    }
}

fn module_credentials(master: MasterKey, services: &Services, config: &Config) -> ModuleCredentials {
    ModuleCredentials::new(master, services.workshop.clone(), config.module_x509.as_ref())
}

/// The settings that have changed and are read at the start only.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // No `..`: whoever adds a setting must decide here whether it may change.
    let Config {
        hostname: _,
        homedir,
        prefer_module_identity_cache: _,
        max_requests,
        cloud_timeout,
        cloud_retries,
        log_level: _,
        draft_api,
        trusted_certs,
        trust_bundle: _,
        provisioning: _,
        principal: _,
        localid: _,
        module_x509: _,
        endpoints,
    } = new;
    let changed = [
        ("homedir", old.homedir != *homedir),
        ("max_requests", old.max_requests != *max_requests),
        ("cloud_timeout_sec", old.cloud_timeout != *cloud_timeout),
        ("cloud_retries", old.cloud_retries != *cloud_retries),
        ("draft_api", old.draft_api != *draft_api),
        ("trusted_certs", old.trusted_certs != *trusted_certs),
        ("endpoints", old.endpoints != *endpoints),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
}

/// How long a request waits for the device.
const HOLD: Duration = Duration::from_secs(60);
/// How often it is looked whether there still is something to wait for.
const LOOK: Duration = Duration::from_secs(1);
/// Slots of each user that requests which wait for the device leave free.
const KEPT_FREE: usize = 2;
/// Reasons to look again that may queue up; more than one of a kind is never needed.
const EVENTS: usize = 16;

#[cfg(test)]
mod tests;
