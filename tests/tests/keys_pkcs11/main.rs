//! keyd with keys on PKCS #11 tokens: the same journeys on each kind of store, what only tokens have, and tokens that fail.
//! Numbers in the names of tests are lines of the checklist in keys-service.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod changes;
mod checklist;
mod golden;
mod hardship;
mod journeys;
mod outages;
mod pins;
mod sessions;
mod start;
mod stuck;
mod threads;
