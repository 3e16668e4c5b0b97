//! tpmd as a daemon: which settings matter when. Knows no TPM and no requests.

use std::sync::Arc;

use config_common::Service;
use http_common::Router;
use http_common::daemon::{Common, Daemon};
use tpm_api::Config;

use crate::{Error, Tpmd};

impl Daemon for Tpmd {
    const SERVICE: Service = Service::Tpmd;
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const WORKERS: usize = 0;
    const MORE_OPTIONS: &[(&str, &str)] = &[(
        "--show-ek",
        "print the endorsement key and a registration id, with which an operator enrols this device",
    )];
    type Config = Config;

    fn common(config: &Config) -> Common {
        Common {
            max_requests: config.max_requests,
            endpoint: config.endpoints.of(Service::Tpmd),
            log_level: config.log_level.clone(),
            assumed_version: None,
        }
    }

    fn check(config: &Config) -> Result<(), Error> {
        for doubt in config.principal.iter().flat_map(|principal| principal.who.doubts()) {
            tracing::warn!("{doubt}");
        }
        // All that can be wrong with it is wrong when it is read.
        Ok(())
    }

    async fn start(config: Config) -> Result<Arc<Self>, Error> {
        Self::new(config).map(Arc::new)
    }

    fn router() -> Router<Self> {
        tpm_api::router()
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
        tcti,
        auth_key_index,
        hierarchy_authorization,
        endpoints,
        principal: _,
    } = new;
    let settings = [
        ("max_requests", *max_requests != old.max_requests),
        ("tcti", *tcti != old.tcti),
        ("auth_key_index", *auth_key_index != old.auth_key_index),
        ("hierarchy_authorization", *hierarchy_authorization != old.hierarchy_authorization),
        ("endpoints", *endpoints != old.endpoints),
    ];
    settings.into_iter().filter(|(_, has_changed)| *has_changed).map(|(name, _)| name).collect()
}
