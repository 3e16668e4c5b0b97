//! The state directory: checklist 16, 17, 19, 50, and what a power cut leaves.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use suite_tests::harness::{CERTD, Setup};

use super::{Certs, any_pem, says};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/certd");

fn names(home: &Path) -> Vec<String> {
    let entries = fs::read_dir(home.join("certs")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn certs_16_17_file_names_are_upstreams() {
    for (id, name) in [
        ("plant/7 line?", "plant7line-c409f7e0ef54adb93052a9f8732220a43b7b8dea77cb774bc716b9a734800978.cer"),
        ("日本", "-cf2abf0c5be326cb922a70f8163f91079c4d9aa8655c60ead89ad545c9de2e92.cer"),
    ] {
        let certd = Setup::new(&CERTD).start();
        let pem = any_pem();
        certd.client().import(id, &pem).expect(201);
        assert_eq!(names(&certd.home()), [name]);
        assert_eq!(fs::read_to_string(certd.home().join("certs").join(name)).unwrap(), pem);
    }
    let certd = Setup::new(&CERTD).start();
    certd
        .client()
        .put("/certificates/plant%2F7%20line%3F", &serde_json::json!({ "pem": any_pem() }))
        .expect(201);
    assert!(names(&certd.home())[0].starts_with("plant7line-c409f7"));
    certd.client().fetch(&"a".repeat(187)).expect(400);
    certd.client().import(&"a".repeat(187), &any_pem()).expect(400);
    certd.client().import(&"a".repeat(186), &any_pem()).expect(201);
}

#[test]
fn certs_19_a_state_of_upstream_is_served_as_it_is() {
    let setup = Setup::new(&CERTD);
    let certs = setup.home().join("certs");
    fs::create_dir(&certs).unwrap();
    for entry in fs::read_dir(Path::new(GOLDEN).join("state/certs")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, certs.join(path.file_name().unwrap())).unwrap();
    }
    let facts: Value =
        serde_json::from_slice(&fs::read(Path::new(GOLDEN).join("facts.json")).unwrap()).unwrap();
    let certd = setup.start();
    let facts = facts["certs"].as_object().unwrap();
    assert!(facts.len() >= 4);
    for (id, pem) in facts {
        assert_eq!(certd.client().fetch(id).expect(200).string("pem"), pem.as_str().unwrap(), "{id}");
    }
}

#[test]
fn certs_19_what_upstream_imported_without_looking_is_served_too() {
    let certd = Setup::new(&CERTD).start();
    certd.client().import("x", &any_pem()).expect(201);
    let file = certd.home().join("certs").join(&names(&certd.home())[0]);
    fs::write(&file, "not a certificate").unwrap();
    assert_eq!(certd.client().fetch("x").expect(200).string("pem"), "not a certificate");
}

/// Upstream dies.
#[test]
fn certs_50_a_file_that_is_no_text_harms_nobody() {
    let mut certd = Setup::new(&CERTD).start();
    certd.client().import("x", &any_pem()).expect(201);
    let file = certd.home().join("certs").join(&names(&certd.home())[0]);
    fs::write(&file, [0x30, 0x82, 0xff]).unwrap();
    certd.client().fetch("x").expect(500);
    assert!(certd.is_running());
    says(&certd, "is not UTF-8");
    certd.client().import("x", &any_pem()).expect(201);
    certd.client().fetch("x").expect(200);
}

#[test]
fn an_empty_file_is_no_certificate() {
    let certd = Setup::new(&CERTD).start();
    certd.client().import("x", &any_pem()).expect(201);
    fs::write(certd.home().join("certs").join(&names(&certd.home())[0]), "").unwrap();
    certd.client().fetch("x").expect(400);
}

#[test]
fn files_are_for_the_service_alone_and_whole() {
    let certd = Setup::new(&CERTD).start();
    certd.client().fetch("x").expect(400);
    assert!(!certd.home().join("certs").exists(), "reading makes nothing");
    for _ in 0..20 {
        certd.client().import("x", &any_pem()).expect(201);
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let certs = certd.home().join("certs");
    assert_eq!(mode(&certs), 0o700);
    assert_eq!(names(&certd.home()).len(), 1, "no temporary file is left");
    assert_eq!(mode(&certs.join(&names(&certd.home())[0])), 0o600);
}
