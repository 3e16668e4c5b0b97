//! The identity service with certificates and with a TPM, line by line of the conformance checklist in identity-service: the
//! number in a test's name is the number there. `decided` marks what this suite does on purpose otherwise than upstream.
//!
//! Knows the simulator by its command line and admin interface, the daemons by their configuration.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod clients;
#[path = "../identities/cloud.rs"]
#[allow(dead_code, reason = "the journeys of symmetric keys use the rest")]
mod cloud;
mod device;
mod hardship;
mod local;
mod module_renewal;
mod modules;
mod plant;
mod refusals;
mod self_signed;
mod tpm;
mod trust;
