//! The ways to the cloud: one clock, one proxy, and connections that show the device's certificate if it has one. Does not
//! know what is said there.

use std::sync::Arc;
use std::time::Duration;

use http_common::https::{Cloud, CloudOptions, Https, HttpsOptions, ProxyRules};
use http_common::retry::RetryPolicy;
use http_common::sas::ServerClock;
use identity_api::config::Config;

use crate::Error;
use crate::credentials::DeviceCredentials;

/// How the cloud is reached.
pub(crate) struct CloudAccess {
    /// Connections that show no certificate.
    plain: Https,
    proxy: ProxyRules,
    clock: Arc<ServerClock>,
    attempt: Duration,
    /// When calls are repeated.
    pub(crate) retry: RetryPolicy,
}

/// Whether a call may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// As the policy says.
    AsConfigured,
    /// Never: it must not be repeated blindly.
    Never,
}

impl CloudAccess {
    /// As `config` says. Opens nothing.
    pub(crate) fn new(config: &Config, proxy: ProxyRules) -> Self {
        Self {
            plain: Https::new(HttpsOptions { proxy: proxy.clone(), ..HttpsOptions::default() }),
            proxy,
            clock: Arc::default(),
            attempt: Duration::from_secs(config.cloud_timeout.as_secs()),
            retry: RetryPolicy::cloud(config.cloud_retries),
        }
    }

    /// Calls by a device with these credentials.
    pub(crate) async fn of(&self, credentials: &DeviceCredentials, repeat: Repeat) -> Result<Cloud, Error> {
        let https = match credentials {
            DeviceCredentials::Certificate(certificate) => certificate.shown().await?.https(&self.proxy),
            DeviceCredentials::SymmetricKey(_) | DeviceCredentials::Tpm(_) => self.plain.clone(),
        };
        let retry = match repeat {
            Repeat::AsConfigured => self.retry,
            Repeat::Never => RetryPolicy::NEVER,
        };
        let options = CloudOptions { retry, attempt: self.attempt, ..CloudOptions::default() };
        Ok(Cloud::new(https, Arc::clone(&self.clock), options))
    }
}
