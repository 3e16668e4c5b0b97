//! The TPM service on a software TPM, line by line of the conformance checklist in tpm-service: the number in a test's name
//! is the number there. `decided` marks what this suite does on purpose otherwise than upstream.
//!
//! Knows TPMs by the tools of tpm2-tools, and the provisioning service by the simulator's own code.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod configuration;
mod endurance;
mod hardship;
mod http;
mod import;
mod keys;
mod registration;
mod show;
mod signing;

use std::time::Duration;

use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};
use serde_json::{Value, json};
use suite_tests::{
    harness::{Daemon, Setup, TPMD},
    http::{Client, Reply, base64, wait_for},
    swtpm::Swtpm,
};

/// A daemon on a TPM of its own. The daemon ends first: the TPM must outlive it.
struct Site {
    tpmd: Daemon,
    tpm: Swtpm,
}

impl Site {
    /// A new TPM, and tpmd on it.
    #[track_caller]
    fn start() -> Site {
        Site::on(Swtpm::start())
    }

    /// tpmd on this TPM.
    #[track_caller]
    fn on(tpm: Swtpm) -> Site {
        Site::with(tpm, "")
    }

    /// tpmd on this TPM with further configuration.
    #[track_caller]
    fn with(tpm: Swtpm, config: &str) -> Site {
        let tpmd = setup(&tpm).config(config).start();
        Site { tpmd, tpm }
    }

    fn client(&self) -> Client {
        self.tpmd.client()
    }

    /// Both public keys.
    #[track_caller]
    fn keys(&self) -> (Vec<u8>, Vec<u8>) {
        let reply = self.client().get("/get_tpm_keys").expect(200);
        (reply.bytes("endorsement_key"), reply.bytes("storage_root_key"))
    }

    /// `key` wrapped for this TPM.
    #[track_caller]
    fn wrap(&self, key: &[u8]) -> Vec<u8> {
        let (endorsement_key, storage_root_key) = self.keys();
        cloud_sim::tpm::wrap(&endorsement_key, &storage_root_key, key).unwrap()
    }

    /// Make `key` the auth key.
    #[track_caller]
    fn import(&self, key: &[u8]) {
        let reply = self.try_import(&self.wrap(key)).expect(200);
        assert_eq!(reply.json(), json!({}));
    }

    fn try_import(&self, wrapped: &[u8]) -> Reply {
        self.client().post("/import_auth_key", &json!({ "key": base64(wrapped) }))
    }

    fn try_sign(&self, data: &[u8]) -> Reply {
        self.client().post("/sign_with_auth_key", &signing(data))
    }

    /// The auth key must be `key`.
    #[track_caller]
    fn signs_with(&self, key: &[u8]) {
        for data in [&b""[..], b"hub/devices/press-17\n1893456030"] {
            assert_eq!(self.try_sign(data).expect(200).bytes("digest"), hmac(key, data));
        }
    }

    /// The TPM, which was away or held up, soon signs again: what tpmd says of it changes with the TPM's first answer.
    #[track_caller]
    fn signs_again(&self) {
        wait_for("a signature", Duration::from_secs(10), || {
            (self.try_sign(b"x").status == 200).then_some(())
        });
    }

    /// Stop tpmd, so that tools can use the TPM.
    #[track_caller]
    fn stop(self) -> (Swtpm, Setup) {
        (self.tpm, self.tpmd.stop())
    }

    /// Stop tpmd, which must have left nothing in the TPM.
    #[track_caller]
    fn stop_and_check(self) -> (Swtpm, Setup) {
        let (tpm, setup) = self.stop();
        tpm.holds_nothing_transient();
        (tpm, setup)
    }
}

/// tpmd, set to this TPM.
fn setup(tpm: &Swtpm) -> Setup {
    Setup::new(&TPMD).drop_in("02-tcti.toml", &format!("tcti = '{}'\n", tpm.tcti()))
}

/// The body of a request to sign.
fn signing(data: &[u8]) -> Value {
    json!({ "data": base64(data) })
}

fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = PKey::hmac(key).unwrap();
    Signer::new(MessageDigest::sha256(), &key).unwrap().sign_oneshot_to_vec(data).unwrap()
}

/// The refusal must be a 500 with this text, without a word of the TPM's (checklist 38).
#[track_caller]
fn refused(reply: Reply, text: &str) {
    let message = reply.expect(500).string("message");
    assert!(message.contains(text), "{message}");
    for secret in ["0x", "TPM_RC", "TPM2_", "tcti"] {
        assert!(!message.contains(secret), "{message}");
    }
}

const AUTH_KEY: u32 = 0x8100_0100;
const ENDORSEMENT_KEY: u32 = 0x8101_0001;
const STORAGE_ROOT_KEY: u32 = 0x8100_0001;
