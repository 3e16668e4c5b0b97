//! Local identities: checklist 31 to 34, 36, 48.

use openssl::{
    asn1::Asn1Time,
    pkey::{Id, PKey, Private},
    x509::X509,
};
use serde_json::{Value, json};
use suite_tests::{
    harness::{CERTD, IDENTITYD, Setup},
    http::{Reply, wait_for},
    lint::{is_for_host, lint_chain},
};

use crate::cloud::WAIT;
use crate::plant::{Plant, Site, common_name};

const ISSUANCE: &str =
    "web = { method = 'local_ca' }\nhmi = { method = 'local_ca' }\nmodule-only = { method = 'local_ca' }";
const PRINCIPALS: &str = "[localid]\ndomain = 'line4.example'\n\
    [[principal]]\nuid = 41001\nname = 'hmi'\nidtype = ['local']\nlocalid = { type = 'x509', attributes = 'server' }\n";

/// A plant without any hub.
fn plant(more: &str) -> Plant {
    let site = Site::new(ISSUANCE);
    site.start(&format!("hostname = 'device'\n[provisioning]\nsource = 'none'\n{PRINCIPALS}{more}"))
}

fn local(id: &str, options: Option<Value>) -> Value {
    let mut body = json!({ "type": "local", "moduleId": id });
    if let Some(options) = options {
        body["localIdOpts"] = options;
    }
    body
}

/// Key and certificates of a local identity, after the checks that hold for all.
#[track_caller]
fn checked(reply: Reply, id: &str) -> (PKey<Private>, Vec<X509>) {
    let identity = reply.expect(200).json();
    assert_eq!((&identity["type"], &identity["spec"]["moduleId"]), (&json!("local"), &json!(id)));
    let auth = &identity["spec"]["auth"];
    assert_eq!(auth.as_object().unwrap().len(), 3, "{auth}");
    let text = |name: &str| auth[name].as_str().unwrap();
    assert!(text("privateKey").starts_with("-----BEGIN PRIVATE KEY-----\n"), "PKCS #8");
    let key = PKey::private_key_from_pem(text("privateKey").as_bytes()).unwrap();
    let chain = X509::stack_from_pem(text("certificate").as_bytes()).unwrap();
    assert!(chain[0].public_key().unwrap().public_eq(&key));
    let expiration = text("expiration");
    assert!(expiration.len() == 25 && expiration.ends_with("+00:00"), "{expiration}");
    let digits: String = expiration[..19].chars().filter(char::is_ascii_digit).collect();
    let expiration = Asn1Time::from_str(&format!("{digits}Z")).unwrap();
    assert!(chain[0].not_after() == expiration, "{}", chain[0].not_after());
    (key, chain)
}

fn text(certificate: &X509) -> String {
    String::from_utf8(certificate.to_text().unwrap()).unwrap()
}

#[test]
fn identity_31_32_33_a_principal_gets_its_certificate() {
    let plant = plant("");
    let hmi = plant.as_uid(41001);
    let (key, chain) = checked(hmi.get("/identities/modules/hmi?type=local"), "hmi");
    assert_eq!((key.id(), key.bits()), (Id::RSA, 2048));
    assert_eq!(common_name(&chain), "hmi.device.line4.example");
    let said = text(&chain[0]);
    for part in [
        "X509v3 Basic Constraints: critical\n                CA:FALSE",
        "X509v3 Key Usage: critical\n                Digital Signature, Non Repudiation, Key Encipherment\n",
        "X509v3 Extended Key Usage: critical\n                TLS Web Client Authentication, TLS Web Server Authentication\n",
        "DNS:hmi.device.line4.example\n",
    ] {
        assert!(said.contains(part), "{part}\n{said}");
    }
    let host = "hmi.device.line4.example";
    let issued = [&chain[..1], &plant.certificate("site-ca")].concat();
    lint_chain(&issued, &["-purpose", "sslserver", "-verify_hostname", host]);
    assert!(is_for_host(&chain[0], host) && !is_for_host(&chain[0], "line4.example"));
    let (other, again) = checked(hmi.get("/identities/modules/hmi?type=local"), "hmi");
    assert!(again[0].serial_number() != chain[0].serial_number());
    assert!(!other.public_eq(&key), "each call makes a new key");
    hmi.get("/identities/modules/web?type=local").expect(401);
    plant.client().get("/identities/modules/web?type=local").expect(400);
    plant.client().get("/identities/modules/hmi?type=local").expect(200);
}

#[test]
fn identity_34_by_name_for_those_who_are_no_principals() {
    let plant = plant("");
    let client = plant.client();
    client.post("/identities/modules", &local("hmi", None)).expect(400);
    client.post("/identities/modules", &local("unknown-to-certd", None)).expect(500);
    client.post("/identities/modules", &local("a/b", None)).expect(400);
    client.post("/identities/modules", &local("", None)).expect(400);
    plant.as_uid(41001).post("/identities/modules", &local("web", None)).expect(401);
    let (_, chain) = checked(client.post("/identities/modules", &local("web", None)), "web");
    assert!(!text(&chain[0]).contains("Server Authentication"), "client is the default");
    lint_chain(&[&chain[..1], &plant.certificate("site-ca")].concat(), &["-purpose", "sslclient"]);
    let server = Some(json!({ "type": "x509", "attributes": "server" }));
    let (_, chain) = checked(client.post("/identities/modules", &local("web", server)), "web");
    assert!(text(&chain[0]).contains("Client Authentication, TLS Web Server Authentication"));
    assert_eq!(
        plant.certificate("web")[0].to_der().unwrap(),
        chain[0].to_der().unwrap(),
        "certd keeps a copy"
    );
}

#[test]
fn decided_no_local_identity_takes_the_place_of_another_certificate() {
    let names = ["device-id", "module-cam-1"];
    let principal = |name: &str| format!("[[principal]]\nuid = 41002\nname = '{name}'\nidtype = ['local']\n");
    let principals = names.map(principal).concat();
    let plant = Plant::provisioned(&format!(
        "[localid]\ndomain = 'x'\n[module_x509]\nmodules = ['cam-*']\n{principals}"
    ));
    let certificate = plant.certificate("device-id");
    for name in names {
        plant.as_uid(41002).get(&format!("/identities/modules/{name}?type=local")).expect(400);
        plant.identityd.wait_until_logged(&format!("{name:?} gets no local identity"));
    }
    for name in ["device-id-temp", "module-cam-2"] {
        let message =
            plant.client().post("/identities/modules", &local(name, None)).expect(400).string("message");
        assert!(message.contains("another certificate"), "{message}");
    }
    assert!(plant.certificate("device-id") == certificate);
}

#[test]
fn decided_options_that_cannot_be_read_are_422() {
    let plant = plant("");
    let no_key = json!({ "type": "x509", "keyAlgorithm": "rsa-1024" });
    for options in
        [json!({ "type": "x509", "attributes": "sever" }), json!({ "type": "psk" }), json!("x509"), no_key]
    {
        plant.client().post("/identities/modules", &local("web", Some(options))).expect(422);
    }
}

#[test]
fn decided_the_algorithm_can_be_chosen() {
    let plant = plant("");
    let changed = PRINCIPALS.replace("domain", "key_algorithm = 'ec-p256'\ndomain");
    let site_config = format!("hostname = 'device'\n[provisioning]\nsource = 'none'\n{changed}");
    let setup = plant.identityd.stop().config(&site_config);
    let identityd = setup.start();
    let client = identityd.client().version("2022-08-01");
    let (key, _) = checked(client.post("/identities/modules", &local("web", None)), "web");
    assert_eq!((key.id(), key.bits()), (Id::EC, 256));
    let options = json!({ "type": "x509", "attributes": "server", "keyAlgorithm": "ec-p384" });
    let (key, chain) = checked(client.post("/identities/modules", &local("web", Some(options))), "web");
    assert_eq!((key.id(), key.bits()), (Id::EC, 384));
    assert!(text(&chain[0]).contains("Server Authentication"));
    let principal = "[[principal]]\nuid = 41003\nname = 'module-only'\nidtype = ['local']\n\
        localid = { type = 'x509', key_algorithm = 'rsa-3072' }\n";
    identityd.write_drop_in("50-principal.toml", principal);
    let agent = identityd.as_uid(41003).version("2022-08-01");
    let path = "/identities/modules/module-only?type=local";
    let reply = wait_for("the principal", WAIT, || Some(agent.get(path)).filter(|reply| reply.status == 200));
    let (key, _) = checked(reply, "module-only");
    assert_eq!((key.id(), key.bits()), (Id::RSA, 3072));
}

#[test]
fn identity_36_48_local_identities_need_a_domain_and_certd_but_no_hub() {
    let none = "hostname = 'device'\n[provisioning]\nsource = 'none'\n";
    let identityd = Setup::new(&IDENTITYD).config(none).start();
    let message =
        identityd.client().post("/identities/modules", &local("web", None)).expect(500).string("message");
    assert!(message.contains("localid.domain"), "{message}");

    let mut plant = plant("");
    plant.certd.terminate();
    plant.client().post("/identities/modules", &local("web", None)).expect(500);
    plant.certd.restart();
    checked(plant.client().post("/identities/modules", &local("web", None)), "web");
    assert!(plant.certd.setup().socket_path().ends_with(CERTD.socket));
}

#[test]
fn a_name_that_is_too_long_is_cut_in_the_subject_only() {
    let site = Site::new(ISSUANCE);
    let host = "x".repeat(60);
    let plant = site.start(&format!("hostname = '{host}'\n[provisioning]\nsource = 'none'\n{PRINCIPALS}"));
    let (_, chain) = checked(plant.client().post("/identities/modules", &local("web", None)), "web");
    assert_eq!(common_name(&chain), format!("web.{host}"));
    assert!(text(&chain[0]).contains(&format!("DNS:web.{host}.line4.example\n")));
}
