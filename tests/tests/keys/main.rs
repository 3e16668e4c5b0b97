//! The keys service, line by line of the conformance checklist in keys-service: the number in a test's name is the number
//! there. `decided` marks what this suite does on purpose otherwise than upstream.
//!
//! Not repeated here, because tests of the common rules prove them with keyd: 1-7, 9, 11-13 (HTTP and limits), 53 (no
//! configuration), 54, 55 (drop-in files, reload), 68 (internal errors). 56-62 are proved on tokens in `keys_pkcs11`,
//! 65-67 need the C library.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod authorization;
mod ciphers;
mod files;
mod golden;
mod handles;
mod lifecycle;
mod pairs;
mod preloaded;
mod requests;

use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    http::{Client, Reply},
};

/// A keyd without special configuration, and root's client.
fn keyd() -> (Daemon, Client) {
    let keyd = Setup::new(&KEYD).start();
    let client = keyd.client();
    (keyd, client)
}

/// The reply must be an error that blames the request: what this suite refuses where upstream does harm.
#[track_caller]
fn refused(reply: &Reply) {
    assert!((400..500).contains(&reply.status), "{reply:?}");
    reply.clone().expect(reply.status);
}
