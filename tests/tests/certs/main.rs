//! The certificates service, line by line of the conformance checklist in certificates-service: the number in a test's
//! name is the number there. `decided` marks what this suite does on purpose otherwise than upstream.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod authorization;
mod bad_input;
mod bootstrap;
mod configuration;
mod enrolment;
mod files;
mod lint;
mod local;
mod patience;
mod preloaded;
mod requests;
#[path = "../../../cert/tests/support/mod.rs"]
mod support;

use openssl::x509::{X509, X509Req};
use serde_json::{Value, json};
use suite_tests::{
    harness::{BOUND, CERTD, Daemon, KEYD, Setup},
    http::{Client, Reply},
    keys::segment,
};
use support::authority::{self, ec_key};

/// A certd and the keyd that it uses.
struct Plant {
    keyd: Daemon,
    certd: Daemon,
}

impl Plant {
    /// With `toml` as certd's main file.
    fn new(toml: &str) -> Self {
        let keyd = Setup::new(&KEYD).start();
        let certd = certd(toml, &keyd).start();
        Self { keyd, certd }
    }

    fn client(&self) -> Client {
        self.certd.client()
    }
}

/// A certd that knows `keyd`.
fn certd(toml: &str, keyd: &Daemon) -> Setup {
    Setup::new(&CERTD).config(toml).reach(&KEYD, keyd.setup().socket_path())
}

/// What the journeys ask of the certificates service again and again.
trait Certs {
    fn issue(&self, id: &str, csr: &str) -> Reply;
    fn issue_by(&self, id: &str, csr: &str, issuer: &str, handle: &str) -> Reply;
    fn import(&self, id: &str, pem: &str) -> Reply;
    fn fetch(&self, id: &str) -> Reply;
    fn forget(&self, id: &str) -> Reply;
}

impl Certs for Client {
    #[track_caller]
    fn issue(&self, id: &str, csr: &str) -> Reply {
        self.post("/certificates", &json!({ "certId": id, "csr": csr }))
    }

    #[track_caller]
    fn issue_by(&self, id: &str, csr: &str, issuer: &str, handle: &str) -> Reply {
        let issuer = json!({ "certId": issuer, "privateKeyHandle": handle });
        self.post("/certificates", &json!({ "certId": id, "csr": csr, "issuer": issuer }))
    }

    #[track_caller]
    fn import(&self, id: &str, pem: &str) -> Reply {
        self.put(&format!("/certificates/{}", segment(id)), &json!({ "pem": pem }))
    }

    #[track_caller]
    fn fetch(&self, id: &str) -> Reply {
        self.get(&format!("/certificates/{}", segment(id)))
    }

    #[track_caller]
    fn forget(&self, id: &str) -> Reply {
        self.delete(&format!("/certificates/{}", segment(id)), None)
    }
}

/// A request in PEM for a key of its own.
fn csr(common_name: &str) -> String {
    pem_of(&authority::request(common_name, &ec_key(), vec![]))
}

fn pem_of(request: &X509Req) -> String {
    String::from_utf8(request.to_pem().unwrap()).unwrap()
}

/// The certificates in a reply, which must be a success.
#[track_caller]
fn chain(reply: Reply) -> Vec<X509> {
    let status = reply.status;
    assert!(status == 200 || status == 201, "{reply:?}");
    X509::stack_from_pem(reply.expect(status).string("pem").as_bytes()).unwrap()
}

/// Wait until the log says so.
#[track_caller]
fn says(certd: &Daemon, text: &str) {
    certd.wait_for_log(BOUND, |line| line.contains(text));
}

/// A certificate in PEM.
fn any_pem() -> String {
    authority::Issued::root("any").cert_pem()
}

fn principal(uid: u32, patterns: &[&str]) -> String {
    let patterns: Value = patterns.iter().copied().collect();
    format!("[[principal]]\nuid = {uid}\ncerts = {patterns}\n")
}
