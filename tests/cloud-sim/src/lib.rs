//! aziot-cloud-sim: Azure's Device Provisioning Service and IoT Hub on loopback TLS, as far as devices see them,
//! and an EST server.
//!
//! An independent double: it shares no code with the suite, so that it can prove it wrong. It checks every token,
//! etag and id as the services do, logs each request with the reason of its decision, and does wrong what it is
//! told to do wrong. `docs/cloud-sim.md` is its manual.
//!
//! ```no_run
//! use cloud_sim::{Options, Sim};
//! use serde_json::json;
//!
//! let sim = Sim::start(Options { seed: Some(1), ..Options::default() })?;
//! sim.admin("PUT", "/enrollments/press-17", &json!({"attestation": {"type": "symmetricKey"}}));
//! println!("a device may now register at {}", sim.ready().dps);
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Inside: `listener` reads a request, `cloud` decides it (a fault, or `dps`, `hub` or `est` on the `world`), `log`
//! keeps it, `listener` delivers the reply. `admin` changes all of these. Further protocols belong in folders of
//! their own.

mod admin;
mod answer;
mod authority;
mod call;
mod certificate;
mod clock;
mod cloud;
mod der;
mod dice;
mod dps;
mod est;
mod fault;
mod http;
mod http2;
mod hub;
mod keys;
mod listener;
mod log;
mod route;
mod sas;
mod settings;
mod sim;
mod store;
mod tls;
mod trust;
mod world;

pub mod cli;
pub mod tpm;

pub use sim::{DEFAULT_SCOPE, Options, Ready, Sim};
