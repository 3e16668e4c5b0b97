//! Configuration at the start and at run time: checklist 24, 25, 66-71.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use suite_tests::harness::{BOUND, CERTD, Setup};
use suite_tests::http::wait_for;

use super::{Certs, any_pem, principal};

#[test]
fn certs_24_the_mode_of_the_socket() {
    let certd = Setup::new(&CERTD).start();
    assert_eq!(fs::metadata(certd.setup().socket_path()).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn certs_66_67_68_what_keeps_it_from_starting() {
    for bad in [
        "[cert_issuance.est.identity_auto_renew]\nthreshold = '80%'\nretry = '4%'",
        "[cert_issuance.est.identity_auto_renew]\nrotate_key = true\nthreshold = '100%'\nretry = '4%'",
        "[cert_issuance]\nx = 'est'",
        "[cert_issuance.x]\nmethod = 'est'\nexpiry_days = 0",
        "[preloaded_certs]\na = '/etc/a.pem'",
    ] {
        let ended = Setup::new(&CERTD).config(bad).start_and_end();
        assert_eq!(ended.status.code(), Some(1), "{bad}");
        assert!(ended.log.contains("config.toml"), "{}", ended.log);
    }
    let ended = Setup::bare(&CERTD).start_and_end();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("homedir_path"), "{}", ended.log);
}

#[test]
fn certs_69_drop_in_files() {
    let certd = Setup::new(&CERTD)
        .config(&principal(1000, &["a"]))
        .drop_in("50-b.toml", &principal(1000, &["b"]))
        .drop_in("60-c.conf", &principal(1000, &["c"]))
        .start();
    for (id, status) in [("a", 201), ("b", 201), ("c", 401)] {
        certd.as_uid(1000).import(id, &any_pem()).expect(status);
    }
}

#[test]
fn certs_70_71_changes_at_run_time() {
    let mut certd = Setup::new(&CERTD).start();
    certd.as_uid(1000).import("a", &any_pem()).expect(401);
    certd.write_drop_in(
        "50-a.toml",
        &format!("max_requests = 0\nhomedir_path = '/nowhere'\n{}", principal(1000, &["a"])),
    );
    wait_for("the permission", BOUND, || {
        (certd.as_uid(1000).import("a", &any_pem()).status == 201).then_some(())
    });
    assert!(certd.home().join("certs").exists(), "the state directory is the old one");
    certd.write_drop_in("60-broken.toml", "[cert_issuance]\nx = 'est'");
    certd.wait_for_log(Duration::from_secs(20), |line| {
        line.starts_with("<4>") && line.contains("the old one stays")
    });
    certd.as_uid(1000).import("a", &any_pem()).expect(201);
    assert!(certd.is_running());
}

/// What is accepted and warned about, and the warnings.
const DOUBTFUL: &str = "
unknown = 1
[cert_issuance.est]
username = 'only'
trusted_certs = ['nowhere']
[cert_issuance.est.auth]
password = 'x'
[cert_issuance.est.urls]
default = 'http://host/'
[cert_issuance.a]
method = 'est'
typo = 1
subject = { O = 5 }
[cert_issuance.b]
method = 'local_ca'
subject = { C = 'DEU' }
[preloaded_certs]
web = 'https://host/a.pem'
self = ['self']
";
const DOUBTS: [&str; 12] = [
    "unknown is not a known setting",
    "cert_issuance.est has an incomplete authentication",
    "cert_issuance.est.auth is not a known setting and is ignored; its keys belong directly",
    "urls.\"default\" is an http URL",
    "there is no certificate \"nowhere\"",
    "cert_issuance.\"a\".typo is not a known setting",
    "cert_issuance.\"a\".subject has a value that is no text",
    "the certificate \"a\" cannot be issued over EST",
    "cert_issuance.\"b\" has the method local_ca, there is no [cert_issuance.local_ca]",
    "cert_issuance.\"b\": the subject cannot be used",
    "preloaded_certs.\"web\": https://host/a.pem is no file",
    "preloaded_certs.\"self\": the bundle contains itself",
];

#[test]
fn what_was_perhaps_not_meant_is_said() {
    let certd = Setup::new(&CERTD).config(DOUBTFUL).start();
    for wanted in DOUBTS {
        certd.wait_for_log(BOUND, |line| line.starts_with("<4>") && line.contains(wanted));
    }
}

#[test]
fn a_check_of_the_configuration_says_what_a_start_says() {
    let check = ["sh", "-c", r#"exec "$@" --check-config"#, "sh"];
    let ended = Setup::new(&CERTD).config(DOUBTFUL).wrapper(check).start_and_end();
    assert!(ended.status.success(), "{}", ended.log);
    for wanted in DOUBTS {
        let is_said = ended.log.lines().any(|line| line.starts_with("<4>") && line.contains(wanted));
        assert!(is_said, "{wanted} in {}", ended.log);
    }
}
