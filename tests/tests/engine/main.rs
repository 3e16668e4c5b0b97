//! Keys that stay in keyd, used by programs as they are: the OpenSSL provider, the OpenSSL engine, key-reference files.
//! Line by line of the conformance checklist in openssl-engine: the number in a test's name is the number there.
//!
//! keyd runs as another user when the journey is root's. `AZIOT_OPENSSL` names another openssl command, and
//! `AZIOT_PROVIDER` another build of `aziot.so`, so that the same journeys judge other versions of OpenSSL;
//! `probe.c` is then built with the flags in `AZIOT_OPENSSL_FLAGS`. `scripts/test-openssl4.sh` does all that.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod building;
mod engine;
mod hardship;
mod making;
mod memory;
mod notes;
mod programs;
mod provider;
mod refusals;
mod rotation;
mod speed;
mod stores;
mod world;
