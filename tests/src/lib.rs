//! What the journeys share: daemons on temporary sockets, raw HTTP, key requests, the openssl command.
//!
//! Nothing here, and no journey, knows how the daemons are built inside: they are programs with a configuration, a
//! socket, a state directory and a log. Set `AZIOT_BIN_DIR` to run the same journeys against another build.
//!
//! ```no_run
//! use serde_json::json;
//! use suite_tests::harness::{KEYD, Setup};
//!
//! let keyd = Setup::new(&KEYD).config("max_requests = 3").start();
//! let reply = keyd.client().post("/key", &json!({ "keyId": "a", "usage": "sign" }));
//! reply.expect(200);
//! keyd.as_uid(1000).get("/key/a").expect(401);
//! ```
//!
//! Tools the journeys call besides the daemons: `openssl`, `curl`, `prlimit`, `mount` and `unshare` (util-linux), `sh`.
//! Journeys that act as other users need root, and say so when they do not have it.

pub mod door;
pub mod harness;
pub mod http;
pub mod keys;
pub mod lint;
pub mod openssl;
pub mod p11_kit;
mod process;
pub mod softhsm;
pub mod subject;
pub mod swtpm;
pub mod tpm2_pkcs11;
