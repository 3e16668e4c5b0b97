//! Registers a device with the Device Provisioning Service: who is my hub, what is my name there?
//!
//! ```text
//! DpsClient::register (this file)   performs what the protocol asks for: calls, waits
//!   ├ protocol.rs                   decides: a pure state machine
//!   ├ tpm.rs                        what it needs of a TPM
//!   ├ schema.rs                     the JSON
//!   └ http_common::https::Cloud     tokens, attempts, TLS, proxy
//! ```
//!
//! Does not know who signs ([`Signer`]), nor what becomes of the answer.

mod auth;
mod error;
mod protocol;
mod schema;
mod tpm;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use http_common::https::{Call, Cloud, Credentials};
use http_common::sas::{Scope, Signer};
use serde_json::Value;
use url::Url;

pub use auth::derive_device_key;
pub use error::Error;
pub use schema::{Assignment, TpmKeys};
pub use tpm::{Tpm, TpmError};

use protocol::{Action, Register};
use tpm::{Challenged, NoTpm, TakesKeys};

/// A device side client of DPS.
#[derive(Clone)]
pub struct DpsClient {
    cloud: Cloud,
    /// Scheme, host and port, without a slash at the end.
    base: String,
}

/// Whom to register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The id scope, such as `0ne00ABC123`.
    pub id_scope: String,
    /// The registration id; for X.509 the common name of the certificate.
    pub registration_id: String,
    /// What a custom allocation function is told, if anything.
    pub payload: Option<Value>,
}

impl DpsClient {
    /// A client for the service at `global_endpoint`, an `https` (or, for test beds, `http`) URL. Its path is not used.
    pub fn new(cloud: Cloud, global_endpoint: &str) -> Result<Self, Error> {
        let bad = || bad_endpoint(global_endpoint);
        let url: Url = global_endpoint.trim().parse().map_err(|_| bad())?;
        let host = url.host().ok_or_else(bad)?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err(bad());
        }
        if url.scheme() == "http" {
            tracing::warn!("DPS is reached without TLS at {global_endpoint}; use this in test beds only");
        }
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self { cloud, base: format!("{}://{host}{port}", url.scheme()) })
    }

    /// Register and wait for the assignment, at most until `deadline`, and never longer than ten minutes.
    pub async fn register<S: Signer>(
        &self,
        registration: &Registration,
        credentials: &Credentials<S>,
        deadline: Instant,
    ) -> Result<Assignment, Error> {
        self.run(registration, Register::new(registration), credentials, &NoTpm, deadline).await
    }

    /// The same for a device that proves by its TPM who it is. When this succeeds, the TPM has imported the key for the hub;
    /// when it fails, the TPM still has the key that it had before.
    pub async fn register_with_tpm<T: Tpm>(
        &self,
        registration: &Registration,
        tpm: &T,
        deadline: Instant,
    ) -> Result<Assignment, Error> {
        let keys = tpm.public_keys().await.map_err(Error::NoTpmKeys)?;
        let protocol = Register::with_tpm(registration, &keys);
        let tpm = Challenged::new(tpm);
        let result = self.run(registration, protocol, &Credentials::Sas(&tpm), &&tpm, deadline).await;
        result.map_err(Error::of_tpm)
    }

    async fn run<S: Signer>(
        &self,
        registration: &Registration,
        mut protocol: Register,
        credentials: &Credentials<S>,
        tpm: &impl TakesKeys,
        deadline: Instant,
    ) -> Result<Assignment, Error> {
        let scope = Scope::dps(&registration.id_scope, &registration.registration_id);
        let started = Instant::now();
        let polls = self.cloud.with_shorter_attempts(POLL_ATTEMPT);
        let mut action = protocol.start();
        loop {
            let (cloud, method, path, body, signed) = match action {
                Action::Put { path, body, signed } => {
                    (&self.cloud, Method::PUT, path, Some(Bytes::from(body)), signed)
                }
                Action::WaitThenGet { after, path } => {
                    if after >= deadline.saturating_duration_since(Instant::now()) {
                        return Err(Error::TooSlow { waited: started.elapsed() });
                    }
                    tokio::time::sleep(after).await;
                    (&polls, Method::GET, path, None, true)
                }
                Action::SignWith { key } => {
                    tpm.sign_with(key)?;
                    action = protocol.on_key();
                    continue;
                }
                Action::Import { key } => {
                    tpm.import(key.as_bytes()).await?;
                    action = protocol.on_key();
                    continue;
                }
                Action::Done(assignment) => return Ok(*assignment),
            };
            let uri = format!("{}{path}", self.base).parse().map_err(|_| bad_endpoint(&self.base))?;
            let call = Call { method, uri, if_match: None, body, scope: &scope, accept: protocol.accepts() };
            let credentials = if signed { credentials } else { &Credentials::Certificate };
            let reply = cloud.call(&call, credentials, deadline).await?;
            action = protocol.on_reply(&reply, started.elapsed())?;
        }
    }
}

fn bad_endpoint(url: &str) -> Error {
    Error::BadEndpoint { url: url.to_owned() }
}

/// The time for one question about the operation's status.
const POLL_ATTEMPT: Duration = Duration::from_secs(30);

#[cfg(test)]
#[path = "../../http-common/src/https/test_server.rs"]
mod test_server;
#[cfg(test)]
mod tests;
