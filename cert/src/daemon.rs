//! certd as a daemon: which settings matter when. Knows no certificates and no requests.

use std::sync::Arc;

use cert_api::Config;
use config_common::Service;
use http_common::Router;
use http_common::daemon::{Common, Daemon};

use crate::engine::Engine;
use crate::{Certd, Current, Error, blocking};

impl Daemon for Certd {
    const SERVICE: Service = Service::Certd;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const WORKERS: usize = 2;
    type Config = Config;

    fn common(config: &Config) -> Common {
        Common {
            max_requests: config.max_requests,
            endpoint: config.endpoints.of(Service::Certd),
            log_level: config.log_level.clone(),
            assumed_version: None,
        }
    }

    /// What can be wrong beyond what the schema says shows when it is used, and is warned about before.
    fn check(config: &Config) -> Result<(), Error> {
        for doubt in config.principal.iter().flat_map(|principal| principal.who.doubts()) {
            tracing::warn!("{doubt}");
        }
        Ok(())
    }

    fn warn(config: &Config) {
        Current::new(config, config).warn();
    }

    async fn start(config: Config) -> Result<Arc<Self>, Error> {
        let engine = Engine::new(config.endpoints.of(Service::Keyd).path());
        let engine = engine.map_err(|error| Error::NoKeyEngine(error.into()))?;
        let certd =
            blocking(move || Arc::new(Self::new(config, Arc::new(engine)))).await.ok_or(Error::Worker)?;
        certd.keep_identities();
        Ok(certd)
    }

    fn router() -> Router<Self> {
        cert_api::router()
    }

    async fn reload(self: &Arc<Self>, config: Config) {
        let new = Arc::new(Current::new(&config, &self.started_with));
        let read = Arc::clone(&new);
        // A panic in it is no reason to keep the old configuration.
        let _ = blocking(move || read.warn()).await;
        *self.current.write().expect("no panic while held") = new;
        self.keep_identities();
        for setting in needs_restart(&self.started_with, &config) {
            tracing::warn!("{setting} has changed; the change takes effect at the next start");
        }
    }
}

/// The settings that differ and are looked at only at the start.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // No `..`: whoever adds a field must decide here whether it may change.
    let Config {
        homedir_path,
        max_requests,
        log_level: _,
        cert_issuance: _,
        preloaded_certs: _,
        endpoints,
        principal: _,
    } = new;
    let settings = [
        ("homedir_path", *homedir_path != old.homedir_path),
        ("max_requests", *max_requests != old.max_requests),
        ("endpoints", *endpoints != old.endpoints),
    ];
    settings.into_iter().filter(|(_, has_changed)| *has_changed).map(|(name, _)| name).collect()
}
