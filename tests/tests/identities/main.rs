//! The identity service, line by line of the conformance checklist in identity-service: the number in a test's name is the
//! number there. `decided` marks what this suite does on purpose otherwise than upstream.
//!
//! Not here: what needs certificates or a TPM is in `identities_x509`.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod authorization;
mod clients;
mod cloud;
mod configuration;
mod device;
mod draft;
mod gateway;
mod hardship;
mod kills;
mod many;
mod master;
mod modules;
mod outage;
mod provisioning;
mod proxy;
mod refusals;
mod requests;
mod state;
mod weather;
mod weather_writes;
