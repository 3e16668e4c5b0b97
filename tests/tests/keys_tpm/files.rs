//! What is in the files, and who can read it.

use std::fs;

use suite_tests::{
    keys::Keys,
    openssl::{SHA256_DIGEST_INFO, hmac, sha256, verifies},
    swtpm::Swtpm,
};

use super::{Site, is_wrapped, name, openssl};

#[test]
fn openssl_uses_our_pairs() {
    let site = Site::start();
    let client = site.client();
    let publics = [("ec", "ec-p256"), ("rsa", "rsa-2048")].map(|(id, algorithm)| {
        let public = client.public_key(&client.create_pair(id, algorithm));
        assert!(is_wrapped(&site.file(id)));
        (id, public)
    });
    let (files, tpm) = site.end();
    let digest = sha256(b"m");
    tpm.write("digest", &digest);
    for (id, public) in publics {
        let (_, text) = files.iter().find(|(file, _)| *file == name(id)).unwrap();
        tpm.write(id, text);
        assert_eq!(openssl(&tpm, &["pkey", "-in", id, "-pubout"]), public, "{id}");
        let mut sign = vec!["pkeyutl", "-sign", "-inkey", id, "-in", "digest"];
        let options: &[&str] = if id == "rsa" { &["-pkeyopt", "digest:sha256"] } else { &[] };
        sign.extend(options);
        assert!(verifies(&public, &digest, &openssl(&tpm, &sign), options), "{id}");
    }
}

#[test]
fn we_use_pairs_of_openssl() {
    let tpm = Swtpm::start();
    tpm.tpm2("tpm2_createprimary", &["-C", "o", "-g", "sha256", "-G", "ecc", "-c", "root.ctx"]);
    tpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", "root.ctx", "0x81000001"]);
    tpm.tpm2("tpm2_flushcontext", &["-t"]);
    let ec = ["-algorithm", "EC", "-pkeyopt", "group:P-256"];
    let rsa = ["-algorithm", "RSA", "-pkeyopt", "bits:2048"];
    let below_root = ["-pkeyopt", "parent:0x81000001"];
    for (file, kind, parent) in
        [("ec.pem", ec, &[][..]), ("ec2.pem", ec, &below_root), ("rsa.pem", rsa, &below_root)]
    {
        openssl(&tpm, &[&["genpkey", "-out", file], &kind[..], parent].concat());
    }
    let path = tpm.path().display();
    let preloaded = format!(
        "[preloaded_keys]\nec = 'file://{path}/ec.pem'\nec2 = 'file://{path}/ec2.pem'\nrsa = 'tpm:?file={path}/rsa.pem'\n"
    );
    let site = Site::on(tpm, &preloaded);
    let (client, digest) = (site.client(), sha256(b"m"));
    for id in ["ec", "ec2", "ec"] {
        let ec = client.load_pair(id);
        assert!(verifies(&client.public_key(&ec), &digest, &client.ecdsa(&ec, &digest), &[]), "{id}");
    }
    let rsa = client.load_pair("rsa");
    let info = [SHA256_DIGEST_INFO.as_slice(), &digest].concat();
    let signature = client.rsa(&rsa, "RSA-PKCS1", &info);
    assert!(verifies(&client.public_key(&rsa), &digest, &signature, &["-pkeyopt", "digest:sha256"]));
    site.end().1.holds_nothing_transient();
}

#[test]
fn p384_signs_digests_of_all_lengths() {
    let site = Site::start();
    let client = site.client();
    let pair = client.create_pair("p384", "ec-p384");
    let signatures = [20, 32, 48, 64].map(|length| (length, client.ecdsa(&pair, &vec![7; length])));
    let text = fs::read(site.file("p384")).unwrap();
    let (_, tpm) = site.end();
    tpm.write("p384", &text);
    let public = openssl(&tpm, &["pkey", "-in", "p384", "-pubout"]);
    for (length, signature) in signatures {
        assert!(verifies(&public, &vec![7; length.min(48)], &signature, &[]), "{length}");
    }
}

/// Only keys that the TPM cannot use, and the one that every request needs, are in files as they are.
#[test]
fn files_hold_secrets_only_where_they_must() {
    let site = Site::start();
    let client = site.client();
    client.create_key("made", "sign,derive");
    let long = [7; 200];
    let given = client.import_key("given", "sign", &long);
    assert_eq!(client.hmac(&given, b"m"), hmac(&long, b"m"), "longer than the block of the hash");
    client.create_key("cipher", "encrypt");
    for id in ["made", "given"] {
        assert!(is_wrapped(&site.file(id)), "{id}");
    }
    assert_eq!(fs::read(site.file("cipher")).unwrap().len(), 32);
    site.keyd.wait_until_logged("TPMs cannot encrypt; the key \"cipher\" is kept in a file");
    let (files, _) = site.end();
    let handles = files.iter().find(|(file, _)| file.starts_with("handlevalidationkey-")).unwrap();
    assert_eq!(handles.1.len(), 32);
}

#[test]
fn nothing_is_left_in_the_tpm() {
    let site = Site::start();
    let client = site.client();
    let (key, pair) = (client.create_key("key", "sign"), client.create_pair("pair", "ec-p256"));
    client.create_pair("rsa", "rsa-4096:rsa-2048");
    for _ in 0..5 {
        client.hmac(&key, &[1; 10_000]);
        client.ecdsa(&pair, &[2; 32]);
    }
    let (_, tpm) = site.end();
    tpm.holds_nothing_transient();
    assert_eq!(tpm.handles("persistent"), [0x8100_0001]);
}
