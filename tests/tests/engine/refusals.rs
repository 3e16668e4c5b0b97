//! Refusals that keyd is not asked for, or that OpenSSL would not let through: their texts say what is wrong. And what is
//! none, is not noted as one.

use std::fs;

use suite_tests::keys::Keys;

use super::engine::{equipped, with_engine};
use super::world::{KINDS, World, has_engine, probe, run, succeed};

#[test]
fn each_has_a_text_that_says_what_is_wrong() {
    let world = World::new();
    world.write("data", "text");
    world.write("too-large", [0xff; 256]);
    let long = "x".repeat(5000);
    let (rsa, absent) = ("aziot:id=rsa-2048", format!("aziot:id={long}"));
    for (words, key, reason) in [
        ("pkeyutl -decrypt -inkey {} -in too-large", rsa, "not below the modulus"),
        ("dgst -sm3 -sign {} data", rsa, "the digest \"sm3\""),
        ("dgst -blake2b512 -sign {} data", rsa, "the digest \"blake2b512\""),
        ("pkey -in {} -pubout", &absent, "letters and digits"),
    ] {
        // Which names are in capitals depends on the version of OpenSSL.
        let errors = world.openssl_fails(words, key).to_lowercase();
        assert!(errors.contains(reason), "{words}: {errors}");
    }
    let public = "aziot:id=ec-p256?type=public";
    world.openssl_fails("dgst -sha256 -sign {} data", public);
    if !has_engine() {
        return;
    }
    let world = equipped(world);
    for (name, reason) in [(public, "the private is wanted"), (&absent, "letters and digits")] {
        succeed(with_engine(&world, world.command(probe())).args(["engine-refused", name, "5", reason]));
    }
    let words = "pkeyutl -decrypt -engine aziot_keys -keyform engine -inkey {} -in too-large";
    let output = run(&mut with_engine(&world, world.openssl_command(words, rsa)));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not below the modulus"), "{output:?}");
    let words = "pkey -engine aziot_keys -inform engine -in {} -pubin -pubout";
    let shown = succeed(&mut with_engine(&world, world.openssl_command(words, public)));
    let handle = world.keyd.client().load_pair("ec-p256");
    assert_eq!(shown.as_bytes(), world.keyd.client().public_key(&handle));
}

/// OpenSSL tries to export a private key before it does anything else with it.
#[test]
fn a_key_that_works_is_noted_once() {
    let world = World::new();
    world.write("data", "text");
    for kind in KINDS {
        let (key, log) = (format!("aziot:id={kind}"), world.path(&format!("{kind}.log")));
        for words in [
            "req -new -x509 -key {} -subj /CN=x -out own.crt",
            "dgst -sha256 -sign {} -out signature data",
            "cms -sign -nodetach -signer own.crt -inkey {} -in data -out data.cms",
            "pkey -in {} -text",
        ] {
            succeed(world.openssl_command(words, &key).env("AZIOT_PROVIDER_DEBUG", &log));
            let noted = fs::read_to_string(&log).unwrap();
            assert!(noted.lines().count() == 1 && noted.contains("loaded"), "{words}: {noted}");
            fs::remove_file(&log).unwrap();
        }
    }
}
