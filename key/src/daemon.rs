//! keyd as a daemon: which settings matter when. Knows no keys and no requests.

use std::sync::Arc;

use config_common::Service;
use http_common::Router;
use http_common::daemon::{Common, Daemon};
use key_api::Config;

use crate::{Error, Keyd};

impl Daemon for Keyd {
    const SERVICE: Service = Service::Keyd;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const WORKERS: usize = 2;
    type Config = Config;

    fn common(config: &Config) -> Common {
        Common {
            max_requests: config.max_requests,
            endpoint: config.endpoints.of(Service::Keyd),
            log_level: config.log_level.clone(),
            assumed_version: None,
        }
    }

    fn check(config: &Config) -> Result<(), Error> {
        for doubt in config.principal.iter().flat_map(|principal| principal.who.doubts()) {
            tracing::warn!("{doubt}");
        }
        Ok(())
    }

    fn warn(config: &Config) {
        crate::warn(config);
    }

    async fn start(config: Config) -> Result<Arc<Self>, Error> {
        Self::new(config).map(Arc::new)
    }

    fn router() -> Router<Self> {
        key_api::router()
    }

    async fn reload(self: &Arc<Self>, config: Config) {
        self.access.replace(&config);
        for setting in needs_restart(&self.started_with, &config) {
            tracing::warn!("{setting} has changed; the change takes effect at the next start");
        }
    }
}

/// The settings that differ and are looked at only at the start.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    // No `..`: whoever adds a field must decide here whether it may change.
    let Config {
        max_requests,
        log_level: _,
        require_principal_for_handles: _,
        aziot_keys,
        preloaded_keys,
        tpm,
        endpoints,
        principal: _,
    } = new;
    let settings = [
        ("max_requests", *max_requests != old.max_requests),
        ("aziot_keys", *aziot_keys != old.aziot_keys),
        ("preloaded_keys", *preloaded_keys != old.preloaded_keys),
        ("tpm", *tpm != old.tpm),
        ("endpoints", *endpoints != old.endpoints),
    ];
    settings.into_iter().filter(|(_, has_changed)| *has_changed).map(|(name, _)| name).collect()
}
