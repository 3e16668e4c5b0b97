//! The EST server: whom it lets in, what it issues, what it refuses, and how it misbehaves on order.
#![allow(clippy::unwrap_used, reason = "this is test code, though clippy does not see it")]

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cloud_sim::{Options, Sim};
use common::*;
use openssl::{
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkcs7::Pkcs7,
    pkey::{PKey, Private},
    rsa::Rsa,
    stack::Stack,
    x509::{X509, X509Name, X509Req, extension},
};
use serde_json::{Value, json};
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const ENROLL: &str = "/.well-known/est/simpleenroll";
const REENROLL: &str = "/.well-known/est/simplereenroll";
const CACERTS: &str = "/.well-known/est/cacerts";
const PASSWORD: (&str, &str) = ("authorization", "Basic ZGV2aWNlOnNlY3JldA==");

fn server() -> Sim {
    sim_with(Options { est: Some(0), ..Options::default() })
}

fn authority(sim: &Sim) -> String {
    let url = sim.ready().est.as_deref().unwrap();
    url.strip_prefix("https://").unwrap().strip_suffix("/.well-known/est").unwrap().to_owned()
}

fn get(sim: &Sim, target: &str) -> Answer {
    call(sim.ready(), &authority(sim), "GET", target, &[], &Value::Null).unwrap()
}

fn post(sim: &Sim, shown: Option<&Identity>, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut client = Client::connect_as(sim.ready(), &authority(sim), shown).unwrap();
    let headers = [&[("content-type", "application/pkcs10")], headers].concat();
    client.send_text("POST", target, &headers, body).unwrap()
}

/// How the default label behaves.
fn label(sim: &Sim, manners: &Value) {
    let (status, answer) = sim.admin("PUT", "/est/labels/default", manners);
    assert_eq!(status, 200, "{answer}");
}

fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn request(name: &str, key: &PKey<Private>, names: &[&str], ca: bool) -> X509Req {
    let mut subject = X509Name::builder().unwrap();
    subject.append_entry_by_nid(Nid::COMMONNAME, name).unwrap();
    let mut builder = X509Req::builder().unwrap();
    builder.set_subject_name(&subject.build()).unwrap();
    builder.set_pubkey(key).unwrap();
    let mut extensions = Stack::new().unwrap();
    extensions.push(extension::ExtendedKeyUsage::new().server_auth().build().unwrap()).unwrap();
    if ca {
        extensions.push(extension::BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    }
    if !names.is_empty() {
        let mut alternative = extension::SubjectAlternativeName::new();
        for name in names {
            alternative.dns(name);
        }
        let alternative = alternative.build(&builder.x509v3_context(None)).unwrap();
        extensions.push(alternative).unwrap();
    }
    builder.add_extensions(&extensions).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

fn csr(name: &str, key: &PKey<Private>) -> String {
    STANDARD.encode(request(name, key, &[], false).to_der().unwrap())
}

/// The certificates of a reply, read as tolerant clients do.
fn certificates(answer: &Answer) -> Vec<X509> {
    let lines = answer.text.split(['\r', '\n']).filter(|line| !line.starts_with("-----"));
    let der = STANDARD.decode(lines.collect::<String>()).unwrap();
    let pkcs7 = Pkcs7::from_der(&der).unwrap();
    let certificates = pkcs7.signed().and_then(|signed| signed.certificates());
    certificates.into_iter().flatten().map(|it| it.to_owned()).collect()
}

fn enrolled(answer: &Answer) -> X509 {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let all = certificates(answer);
    assert_eq!(all.len(), 1);
    all[0].clone()
}

#[test]
fn a_device_enrols_and_renews() {
    let sim = server();
    let ca = get(&sim, CACERTS);
    assert_eq!((ca.status, ca.header("content-type")), (200, Some("application/pkcs7-mime")));
    let (_, est) = sim.admin("GET", "/est", &Value::Null);
    let issuers = certificates(&ca);
    let pem = |it: &X509| String::from_utf8(it.to_pem().unwrap()).unwrap();
    assert_eq!(json!([pem(&issuers[0]), pem(&issuers[1])]), json!([est["issuer"], est["root"]]));
    assert!(issuers[0].verify(&issuers[1].public_key().unwrap()).unwrap());

    let key = ec_key();
    let answer = post(&sim, None, ENROLL, &[PASSWORD], &csr("pump", &key));
    assert_eq!(answer.header("content-type"), Some("application/pkcs7-mime; smime-type=certs-only"));
    assert_eq!(answer.header("content-transfer-encoding"), Some("base64"));
    let first = enrolled(&answer);
    assert!(first.public_key().unwrap().public_eq(&key));
    assert!(first.verify(&issuers[0].public_key().unwrap()).unwrap());

    let shown = Identity { chain: vec![first.clone()], key: key.clone() };
    let second = enrolled(&post(&sim, Some(&shown), REENROLL, &[], &csr("pump", &ec_key())));
    assert!(!second.public_key().unwrap().public_eq(&key));
    assert_eq!(second.subject_name().try_cmp(first.subject_name()).unwrap(), std::cmp::Ordering::Equal);
    let entry = last_entry(&sim);
    assert_eq!(
        (&entry["operation"], &entry["client_certificate"]["common_name"]),
        (&json!("est.reenroll"), &json!("pump"))
    );
    assert_eq!(entry["notes"][0], "admitted: certificate of pump, trusted by aziot-cloud-sim EST issuer");
    let (_, issued) = sim.admin("GET", "/est/issued", &Value::Null);
    assert_eq!((&issued[0]["operation"], &issued[0]["to"]), (&json!("simpleenroll"), &json!("user device")));
    assert_eq!((issued.as_array().unwrap().len(), &issued[1]["certificate"]), (2, &json!(pem(&second))));
    assert_eq!(sim.admin("GET", "/state", &Value::Null).1["est"]["issued"], issued);
}

#[test]
fn reenrolment_renews_what_was_shown_only() {
    let sim = server();
    let key = ec_key();
    let with =
        |name: &str, names: &[&str]| STANDARD.encode(request(name, &key, names, false).to_der().unwrap());
    let plain = enrolled(&post(&sim, None, ENROLL, &[PASSWORD], &with("a", &[])));
    let named = enrolled(&post(&sim, None, ENROLL, &[PASSWORD], &with("a", &["a.test", "b.test"])));
    assert_eq!(named.subject_alt_names().unwrap()[1].dnsname(), Some("b.test"));
    let renew = |old: &X509, csr: &str| {
        let shown = Identity { chain: vec![old.clone()], key: key.clone() };
        post(&sim, Some(&shown), REENROLL, &[PASSWORD], csr).status
    };
    assert_eq!(renew(&plain, &with("a", &[])), 200);
    assert_eq!(renew(&named, &with("a", &["a.test", "b.test"])), 200);
    for (old, csr) in [
        (&plain, with("b", &[])),
        (&plain, with("a", &["a.test"])),
        (&named, with("a", &[])),
        (&named, with("a", &["a.test"])),
    ] {
        assert_eq!(renew(old, &csr), 400);
    }
    assert_eq!(post(&sim, None, REENROLL, &[PASSWORD], &with("a", &[])).status, 403, "nothing to renew");
    sim.admin("POST", "/clock", &json!({"offset_secs": 100 * 86_400}));
    label(&sim, &json!({"authentication": "certificate"}));
    assert_eq!(renew(&plain, &with("a", &[])), 403, "expired");
}

#[test]
fn labels_let_in_as_they_are_told() {
    let (sim, foreign) = (server(), server());
    let (own, other) = (
        Identity::issued(&sim, &json!({"common_name": "boot"})),
        Identity::issued(&foreign, &json!({"common_name": "boot"})),
    );
    let wrong = ("authorization", "Basic ZGV2aWNlOndyb25n");
    let token = ("authorization", "Bearer abc");
    let body = csr("pump", &ec_key());
    let (no_password, no_certificate) = (&[][..], None);
    for (manner, shown, headers, status) in [
        ("none", no_certificate, no_password, 200),
        ("basic", no_certificate, &[PASSWORD][..], 200),
        ("basic", no_certificate, &[wrong], 401),
        ("basic", no_certificate, &[token], 401),
        ("basic", Some(&own), no_password, 401),
        ("certificate", Some(&own), no_password, 200),
        ("certificate", Some(&other), no_password, 403),
        ("certificate", no_certificate, &[PASSWORD], 403),
        ("either", Some(&own), no_password, 200),
        ("either", Some(&other), &[PASSWORD], 200),
        ("either", no_certificate, no_password, 401),
        ("both", Some(&own), &[PASSWORD], 200),
        ("both", Some(&own), &[wrong], 401),
        ("both", no_certificate, &[PASSWORD], 403),
    ] {
        label(&sim, &json!({"authentication": manner}));
        let answer = post(&sim, shown, ENROLL, headers, &body);
        assert_eq!(answer.status, status, "{manner}: {}", answer.text);
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
    label(&sim, &json!({"authentication": "certificate"}));
    let (_, est) = foreign.admin("GET", "/est", &Value::Null);
    sim.admin("PUT", "/certificates/plant", &json!({"certificate": est["root"]}));
    assert_eq!(post(&sim, Some(&other), ENROLL, &[], &body).status, 200, "an uploaded CA is trusted");
    label(&sim, &json!({"authentication": "certificate", "trusted": []}));
    assert_eq!(post(&sim, Some(&other), ENROLL, &[], &body).status, 403);

    assert_eq!(get(&sim, CACERTS).status, 200);
    label(&sim, &json!({"protect_cacerts": true, "users": {"joe": "x"}}));
    assert_eq!(get(&sim, CACERTS).status, 401);
    assert_eq!(post(&sim, None, ENROLL, &[("authorization", "basic am9lOng=")], &body).status, 200);

    assert_eq!(get(&sim, "/.well-known/est/plant/cacerts").status, 404);
    assert_eq!(sim.admin("PUT", "/est/labels/plant", &json!({"authentication": "none"})).0, 200);
    assert_eq!(get(&sim, "/.well-known/est/plant/cacerts").status, 200);
    assert_eq!(post(&sim, None, "/.well-known/est/plant/simpleenroll", &[], &body).status, 200);
    assert_eq!(sim.admin("DELETE", "/est/labels/plant", &Value::Null).0, 204);
    assert_eq!(sim.admin("DELETE", "/est/labels/default", &Value::Null).0, 400);
    assert_eq!(sim.admin("PUT", "/est/labels/default", &json!({"autentication": "none"})).0, 400);
}

#[test]
fn requests_are_proven() {
    let sim = server();
    let key = ec_key();
    let good = csr("pump", &key);
    let enroll = |body: &str| post(&sim, None, ENROLL, &[PASSWORD], body).status;
    let wrapped = |length: usize, end: &str| {
        let lines: Vec<&str> =
            good.as_bytes().chunks(length).map(|it| std::str::from_utf8(it).unwrap()).collect();
        lines.join(end) + end
    };
    for body in [good.clone(), wrapped(64, "\n"), wrapped(76, "\r\n")] {
        assert_eq!(enroll(&body), 200);
    }
    let mut forged = request("pump", &key, &[], false).to_der().unwrap();
    *forged.last_mut().unwrap() ^= 1;
    let pem = String::from_utf8(request("pump", &key, &[], false).to_pem().unwrap()).unwrap();
    for body in [STANDARD.encode(&forged), pem, good[4..].to_owned(), "!".to_owned(), String::new()] {
        assert_eq!(enroll(&body), 400, "{body}");
    }
    let weak = csr("pump", &PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap());
    assert_eq!(enroll(&weak), 400);
    assert_eq!(enroll(&csr("pump", &PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap())), 200);
    label(&sim, &json!({"refuse_weak_keys": false}));
    assert_eq!(enroll(&weak), 200);

    let ca = STANDARD.encode(request("edge", &key, &[], true).to_der().unwrap());
    assert_eq!(enroll(&ca), 200);
    label(&sim, &json!({"allow_ca": false, "max_line": 64}));
    let refused = post(
        &sim,
        None,
        ENROLL,
        &[PASSWORD],
        &ca.as_bytes().chunks(64).map(|it| std::str::from_utf8(it).unwrap()).collect::<Vec<_>>().join("\n"),
    );
    assert_eq!((refused.status, refused.text.trim()), (400, "CA certificates are not issued here"));
    assert_eq!((enroll(&good), enroll(&wrapped(64, "\n"))), (400, 200), "libest wants lines of 64");

    let mut client = Client::connect(sim.ready(), &authority(&sim)).unwrap();
    let json = [PASSWORD, ("content-type", "application/json")];
    assert_eq!(client.send_text("POST", ENROLL, &json, &good).unwrap().status, 415);
    assert_eq!(client.send_text("GET", ENROLL, &[PASSWORD], "").unwrap().status, 405);
    assert_eq!(
        client.send_text("POST", "/.well-known/est/serverkeygen", &[PASSWORD], "").unwrap().status,
        501
    );
    assert_eq!(client.send_text("GET", "/.well-known/est/nothing", &[], "").unwrap().status, 404);
    let hub = client.send_text("GET", "/devices/d/modules?api-version=2017-11-08-preview", &[], "").unwrap();
    assert_eq!(hub.status, 404, "the hub lives elsewhere");
    assert_eq!(
        call(sim.ready(), &sim.ready().hubs[0], "GET", CACERTS, &[], &Value::Null).unwrap().status,
        404
    );
}

#[test]
fn certificates_last_as_long_as_told() {
    let sim = server();
    label(&sim, &json!({"validity_secs": 7, "backdate_secs": 2}));
    sim.admin("POST", "/clock", &json!({"frozen_at": 1_893_456_030}));
    let certificate = enrolled(&post(&sim, None, ENROLL, &[PASSWORD], &csr("pump", &ec_key())));
    let at = |secs: i64| openssl::asn1::Asn1Time::from_unix(secs).unwrap();
    assert!(certificate.not_before() == at(1_893_456_028) && certificate.not_after() == at(1_893_456_037));
    let usage = certificate.extended_key_usage().unwrap();
    assert_eq!(format!("{usage:?}"), "X509ExtendedKeyUsage(SSL_SERVER)", "as the request says");
}

#[test]
fn a_request_may_have_to_wait() {
    let sim = server();
    label(&sim, &json!({"pending": 2, "retry_after": 9}));
    let (one, two) = (csr("one", &ec_key()), csr("two", &ec_key()));
    let enroll = |body: &str| {
        let answer = post(&sim, None, ENROLL, &[PASSWORD], body);
        (answer.status, answer.header("retry-after").map(str::to_owned))
    };
    let wait = (202, Some("9".to_owned()));
    let answers =
        [enroll(&one), enroll(&two), enroll(&one), enroll(&one), enroll(&two), enroll(&two), enroll(&one)];
    let granted = (200, None);
    assert_eq!(
        answers,
        [wait.clone(), wait.clone(), wait.clone(), granted.clone(), wait.clone(), granted, wait]
    );
    assert_eq!(sim.admin("GET", "/est", &Value::Null).1["pending"].as_object().unwrap().len(), 1);
    let attributes = |manners: Value| {
        label(&sim, &manners);
        get(&sim, "/.well-known/est/csrattrs")
    };
    assert_eq!(attributes(json!({})).status, 204);
    let answer = attributes(json!({"csrattrs": "MAA="}));
    assert_eq!(
        (answer.status, answer.header("content-type"), answer.text.as_str()),
        (200, Some("application/csrattrs"), "MAA=")
    );
}

#[test]
fn replies_come_in_every_form() {
    let sim = server();
    let key = ec_key();
    let once = |pkcs7: Value| {
        let rule = json!({"match": {"operation": "est.enroll"}, "times": 1, "action": {"pkcs7": pkcs7}});
        assert_eq!(sim.admin("POST", "/faults", &rule).0, 201);
        post(&sim, None, ENROLL, &[PASSWORD], &csr("pump", &key))
    };
    let count = |pkcs7: Value| certificates(&once(pkcs7)).len();
    assert_eq!(count(json!({"contents": "none"})), 0);
    assert_eq!(count(json!({"contents": "data"})), 0);
    assert_eq!(count(json!({"contents": "issuers"})), 2);
    assert_eq!(count(json!({"contents": "chain"})), 3);
    assert_eq!(count(json!({"contents": "doubled"})), 6);
    assert_eq!(count(json!({"contents": "reversed", "line_ending": "cr", "line_length": 10})), 3);
    let pem = once(json!({"pem": true, "line_length": 64, "line_ending": "crlf"}));
    assert!(pem.text.starts_with("-----BEGIN PKCS7-----\r\nMII"), "{}", pem.text);
    assert_eq!(
        Pkcs7::from_pem(pem.text.as_bytes()).unwrap().signed().unwrap().certificates().unwrap().len(),
        1
    );
    let binary = once(json!({"binary": true}));
    assert_eq!((binary.status, STANDARD.decode(&binary.text).is_ok()), (200, false));
    assert_eq!(once(json!({})).text.lines().count(), 1);

    label(&sim, &json!({"foreign_key": true}));
    let foreign = enrolled(&post(&sim, None, ENROLL, &[PASSWORD], &csr("pump", &key)));
    assert!(!foreign.public_key().unwrap().public_eq(&key));
}

#[test]
fn faults_strike_est_too() {
    let sim = server();
    let body = csr("pump", &ec_key());
    let once = |action: Value| {
        let rule =
            json!({"match": {"operation": "est.enroll", "listener": "est"}, "times": 1, "action": action});
        assert_eq!(sim.admin("POST", "/faults", &rule).0, 201);
        let mut client = Client::connect(sim.ready(), &authority(&sim)).unwrap();
        client.send_text("POST", ENROLL, &[PASSWORD, ("content-type", "application/pkcs10")], &body)
    };
    let broken = once(json!({"status": 500})).unwrap();
    assert_eq!((broken.status, broken.header("content-type")), (500, Some("text/plain; charset=utf-8")));
    assert_eq!(sim.admin("GET", "/est/issued", &Value::Null).1, json!([]), "not done");
    assert_eq!(once(json!({"body": "garbage"})).unwrap().text, "garbage");
    assert_eq!(once(json!({"content_type": "text/html"})).unwrap().header("content-type"), Some("text/html"));
    let later = once(json!({"status": 202, "retry_after": 30})).unwrap();
    assert_eq!((later.status, later.header("retry-after")), (202, Some("30")));
    assert_eq!(once(json!({"truncated": true})).unwrap().status, 200);
    assert!(once(json!({"reset": true})).is_err());
    sim.admin(
        "POST",
        "/faults",
        &json!({"match": {"operation": "est"}, "times": 1, "action": {"stall": true}}),
    );
    let begun = Instant::now();
    let mut client = Client::connect(sim.ready(), &authority(&sim)).unwrap();
    client.patience(Duration::from_millis(200));
    assert!(
        client.send_text("GET", CACERTS, &[], "").is_err() && begun.elapsed() >= Duration::from_millis(200)
    );
}

#[test]
fn the_ca_and_the_labels_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let (dir, state) = (dir.path().to_owned(), dir.path().join("state.json"));
        sim_with(Options { est: Some(0), dir: Some(dir), state: Some(state), ..Options::default() })
    };
    let sim = start();
    sim.admin("PUT", "/est/labels/plant", &json!({"validity_secs": 5}));
    let key = ec_key();
    let shown =
        Identity { chain: vec![enrolled(&post(&sim, None, ENROLL, &[PASSWORD], &csr("a", &key)))], key };
    let before = sim.admin("GET", "/est", &Value::Null).1;
    drop(sim);
    let sim = start();
    assert_eq!(sim.admin("GET", "/est", &Value::Null).1, before);
    enrolled(&post(&sim, Some(&shown), REENROLL, &[], &csr("a", &ec_key())));
    drop(sim);
    std::fs::remove_file(dir.path().join("est-root-key.pem")).unwrap();
    let after = start().admin("GET", "/est", &Value::Null).1;
    assert!(
        after["root"] != before["root"] && after["issuer"] != before["issuer"],
        "a new root has a new issuer"
    );
}

#[test]
fn an_identity_from_est_registers_at_dps() {
    let sim = server();
    let (_, est) = sim.admin("GET", "/est", &Value::Null);
    let signing = json!({"signingCertificates": {"primary": {"certificate": est["issuer"]}}});
    sim.admin("PUT", "/enrollmentGroups/line", &json!({"attestation": {"type": "x509", "x509": signing}}));
    let key = ec_key();
    let shown =
        Identity { chain: vec![enrolled(&post(&sim, None, ENROLL, &[PASSWORD], &csr("Pump-7", &key)))], key };
    let mut client = Client::connect_as(sim.ready(), &sim.ready().hubs[0], Some(&shown)).unwrap();
    let target = format!("/{}/registrations/pump-7/register?api-version=2021-06-01", sim.ready().scope);
    let answer = client.send("PUT", &target, &[], &json!({"registrationId": "pump-7"})).unwrap();
    assert_eq!(answer.status, 202, "{}", answer.text);
}

#[test]
fn serial_numbers_repeat_with_the_seed() {
    let serial = || {
        let sim = server();
        enrolled(&post(&sim, None, ENROLL, &[PASSWORD], &csr("a", &ec_key())));
        sim.admin("GET", "/est/issued", &Value::Null).1[0]["serial"].take()
    };
    assert_eq!(serial(), serial());
}

/// An EST client by other people enrols, waits, and renews.
#[test]
fn strongswan_enrols() {
    let dir = tempfile::tempdir().unwrap();
    let sim = sim_with(Options { est: Some(0), dir: Some(dir.path().to_owned()), ..Options::default() });
    assert!(
        pki(dir.path(), &["--gen", "--type", "ecdsa", "--outform", "pem"], "key.pem"),
        "there is no pki; it comes with the package strongswan-pki (make setup)"
    );
    label(&sim, &json!({"pending": 1, "retry_after": 1, "validity_secs": 600}));
    let url = format!("https://{}", authority(&sim));
    let cas = ["--cacert", "ca.pem", "--cacert", "est-root.pem", "--cacert", "est-issuer.pem"];
    let run = |args: &[&str], out: &str| assert!(pki(dir.path(), args, out), "pki {args:?}");
    run(&["--estca", "--url", &url, "--cacert", "ca.pem", "--caout", "got", "--outform", "pem"], "log");
    run(&["--req", "--in", "key.pem", "--type", "ecdsa", "--dn", "CN=pump-7", "--outform", "pem"], "csr.pem");
    let enroll = ["--est", "--url", &url, "--in", "csr.pem", "--interval", "1", "--outform", "pem"];
    run(&[&enroll[..], &cas, &["--userpass", "device:secret"]].concat(), "one.pem");
    run(&[&enroll[..], &cas, &["--cert", "one.pem", "--key", "key.pem"]].concat(), "two.pem");
    let read = |file: &str| X509::from_pem(&std::fs::read(dir.path().join(file)).unwrap()).unwrap();
    let root = read("est-root.pem").to_der().unwrap();
    assert!(["got.pem", "got-1.pem"].iter().any(|file| read(file).to_der().unwrap() == root));
    let numbers = ["one.pem", "two.pem"].map(|file| read(file).serial_number().to_bn().unwrap().to_string());
    let (_, issued) = sim.admin("GET", "/est/issued", &Value::Null);
    assert_ne!(numbers[0], numbers[1]);
    assert_eq!(
        (&issued[0]["operation"], &issued[1]["operation"]),
        (&json!("simpleenroll"), &json!("simplereenroll"))
    );
    let (_, log) = sim.admin("GET", "/log", &Value::Null);
    let statuses: Vec<&Value> = log["entries"].as_array().unwrap().iter().map(|it| &it["status"]).collect();
    assert_eq!(statuses, [200, 202, 200, 202, 200]);
}

/// Run strongSwan's `pki`, its output into a file; false when it fails or does not exist.
fn pki(dir: &Path, args: &[&str], out: &str) -> bool {
    let output = std::fs::File::create(dir.join(out)).unwrap();
    let mut pki = Command::new("pki");
    pki.args(args).current_dir(dir).stdout(output).stderr(std::fs::File::create(dir.join("stderr")).unwrap());
    let done = pki.status().is_ok_and(|status| status.success());
    if !done {
        eprintln!("{}", std::fs::read_to_string(dir.join("stderr")).unwrap());
    }
    done
}
