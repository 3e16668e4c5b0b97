//! The trust bundle: what certd has under a configured id, also without certd; nothing unless configured.

use std::{os::unix::net::UnixListener, time::Instant};

use openssl::x509::X509;
use suite_tests::http::Reply;

use crate::plant::{Plant, Site};

const NONE: &str = "hostname = 'device'\n[provisioning]\nsource = 'none'\n";

fn plant() -> Plant {
    Site::new("").start(&format!("trust_bundle = 'trust-bundle'\n{NONE}"))
}

/// To whom no principal gives anything.
fn asked(plant: &Plant) -> Reply {
    plant.as_uid(41009).get("/trust-bundle")
}

fn bundle(plant: &Plant) -> Vec<X509> {
    X509::stack_from_pem(asked(plant).expect(200).string("certificate").as_bytes()).unwrap()
}

#[test]
fn what_certd_has_is_given_to_everybody_also_without_certd() {
    let mut plant = plant();
    assert_eq!(asked(&plant).expect(200).string("certificate"), "", "certd has nothing of that name");
    plant.identityd.wait_for_log(crate::cloud::WAIT, |line| line.contains("\"trust-bundle\""));
    plant
        .certd
        .write_drop_in("50-bundle.toml", "[preloaded_certs]\ntrust-bundle = ['site-ca', 'cloud-ca']\n");
    plant.certd.restart();
    let both = [plant.certificate("site-ca"), plant.certificate("cloud-ca")].concat();
    assert!(both.len() == 2 && bundle(&plant) == both);
    plant.certd.terminate();
    assert!(bundle(&plant) == both, "as certd has said before");
    plant.identityd.restart();
    assert!(bundle(&plant) == both, "also after a restart");
    std::fs::remove_file(plant.certd.setup().socket_path()).unwrap();
    let silent = UnixListener::bind(plant.certd.setup().socket_path()).unwrap();
    let asking = Instant::now();
    assert!(bundle(&plant) == both && asking.elapsed().as_secs() < 10, "certd is not waited for for long");
    drop(silent);
    // Another bundle is not this one, and one that nobody knows is not empty.
    plant.identityd.write_drop_in("50-bundle.toml", "trust_bundle = 'other'\n");
    suite_tests::http::wait_for("the other bundle", crate::cloud::WAIT, || {
        (asked(&plant).status == 500).then_some(())
    });
    plant.identityd.write_drop_in("50-bundle.toml", "trust_bundle = 'trust-bundle'\n");
    suite_tests::http::wait_for("the bundle", crate::cloud::WAIT, || {
        (asked(&plant).status == 200).then_some(())
    });
}

#[test]
fn a_key_beside_the_certificates_is_nobodys_business() {
    let plant = plant();
    let file = plant.certd.setup().directory().join("with-key.pem");
    let key = std::fs::read_to_string(suite_tests::keys::key_file(&plant.keyd.home(), "site-ca")).unwrap();
    let certificate = plant.certd.client().get("/certificates/site-ca").expect(200).string("pem");
    std::fs::write(&file, format!("{key}{certificate}")).unwrap();
    let preloaded = format!("[preloaded_certs]\ntrust-bundle = 'file://{}'\n", file.display());
    plant.certd.write_drop_in("50-bundle.toml", &preloaded);
    suite_tests::http::wait_for("the bundle", crate::cloud::WAIT, || {
        (!bundle(&plant).is_empty()).then_some(())
    });
    let given = asked(&plant).string("certificate");
    assert!(given.starts_with("-----BEGIN CERTIFICATE") && !given.contains("PRIVATE"), "{given}");
}

#[test]
fn without_the_setting_certd_is_not_asked() {
    let mut plant = Site::new("").start(NONE);
    plant.certd.terminate();
    assert_eq!(asked(&plant).expect(200).string("certificate"), "");
}
