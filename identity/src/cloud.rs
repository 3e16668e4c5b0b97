//! The ways to the cloud: one clock, one proxy, and connections that show the device's certificate if it has one. Does not
//! know what is said there.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cert_renewal::Undisturbed;
use config_common::read_regular;
use http_common::chain;
use http_common::https::{
    ClientIdentity, Cloud, CloudOptions, Https, HttpsOptions, Outages, ProxyRules, Trust,
};
use http_common::retry::RetryPolicy;
use http_common::sas::ServerClock;
use identity_api::config::Config;
use openssl::x509::X509;

use crate::Error;
use crate::credentials::DeviceCredentials;

/// How the cloud is reached.
pub(crate) struct CloudAccess {
    /// Connections that show no certificate.
    plain: Https,
    /// How all connections are made.
    options: HttpsOptions,
    clock: Arc<ServerClock>,
    attempt: Duration,
    /// When calls are repeated.
    retry: RetryPolicy,
    /// Which of its services cannot be reached, whoever has found that out.
    outages: Arc<Outages>,
}

/// When a call is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// As the policy says.
    AsConfigured,
    /// The same, but for a service that throttles: whoever calls has better to do than to wait in one call.
    UnlessThrottled,
    /// As the policy says, and whatever pause others have been asked for: something has begun.
    GoingOn,
}

impl CloudAccess {
    /// As `config` says. Connects to nobody. A file of authorities that cannot be used is warned about and left out: the rest
    /// may do, and local callers need no cloud.
    pub(crate) fn new(config: &Config, proxy: ProxyRules) -> Self {
        let given = config.trusted_certs.iter().flat_map(|file| authorities(file)).collect();
        let options = HttpsOptions { proxy, trust: Trust::SystemAnd(given), ..HttpsOptions::default() };
        Self {
            plain: Https::new(options.clone()),
            options,
            clock: Arc::default(),
            attempt: Duration::from_secs(config.cloud_timeout.as_secs()),
            retry: RetryPolicy::cloud(config.cloud_retries),
            outages: Arc::default(),
        }
    }

    /// Until services that cannot be reached may be tried again; zero if there are none.
    pub(crate) fn outage_left(&self) -> Duration {
        self.outages.left(Instant::now())
    }

    /// Whether `server` has asked to be left alone for long, so that whoever would ask it now is told so.
    pub(crate) fn is_paused(&self, server: &str) -> bool {
        self.outages.is_paused(server, Instant::now())
    }

    /// Calls by a device with these credentials.
    pub(crate) async fn of(&self, credentials: &DeviceCredentials, repeat: Repeat) -> Result<Cloud, Error> {
        let https = match credentials {
            DeviceCredentials::Certificate(certificate) => certificate.shown().await?.https(&self.options),
            DeviceCredentials::SymmetricKey(_) | DeviceCredentials::Tpm(_) => self.plain.clone(),
        };
        Ok(self.over(https, repeat))
    }

    /// The same for who registers the device with them. While the other value lives, no renewal registers it with another
    /// certificate; who has it must make no other calls of this device.
    pub(crate) async fn settled(
        &self,
        credentials: &DeviceCredentials,
        repeat: Repeat,
    ) -> Result<(Cloud, Option<Undisturbed>), Error> {
        match credentials {
            DeviceCredentials::Certificate(certificate) => {
                let (shown, undisturbed) = certificate.settled().await?;
                Ok((self.over(shown.https(&self.options), repeat), undisturbed))
            }
            DeviceCredentials::SymmetricKey(_) | DeviceCredentials::Tpm(_) => {
                Ok((self.over(self.plain.clone(), repeat), None))
            }
        }
    }

    /// Calls that show `identity`, whatever the credentials are.
    pub(crate) fn showing(&self, identity: ClientIdentity) -> Cloud {
        let options = HttpsOptions { identity: Some(identity), ..self.options.clone() };
        self.over(Https::on_own_thread(options), Repeat::AsConfigured)
    }

    fn over(&self, https: Https, repeat: Repeat) -> Cloud {
        let retry = match repeat {
            Repeat::AsConfigured | Repeat::GoingOn => self.retry,
            Repeat::UnlessThrottled => RetryPolicy { throttled: 0, ..self.retry },
        };
        let options = CloudOptions { retry, attempt: self.attempt, ..CloudOptions::default() };
        let cloud = Cloud::new(https, Arc::clone(&self.clock), options).sparing(Arc::clone(&self.outages));
        if repeat == Repeat::GoingOn { cloud.going_on() } else { cloud }
    }
}

/// The certificates in a PEM file.
fn authorities(file: &Path) -> Vec<X509> {
    let warn = |why: String| {
        tracing::warn!("trusted_certs: {} cannot be used: {why}", file.display());
        Vec::new()
    };
    let read = match read_regular(file) {
        Ok(pem) => X509::stack_from_pem(&pem),
        Err(error) => return warn(chain(&error)),
    };
    match read {
        Ok(certificates) if certificates.is_empty() => warn("it has no certificate in PEM".to_owned()),
        Ok(certificates) => certificates,
        Err(error) => warn(chain(&error)),
    }
}
