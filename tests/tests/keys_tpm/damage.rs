//! What a crash leaves of the files of keys in a TPM.

use std::fs;

use serde_json::json;
use suite_tests::{keys::Keys, swtpm::Swtpm};

use super::{Site, is_wrapped};

/// It is no key, least of all one that others can guess. A new one takes its place, and the file is kept.
#[test]
fn what_is_left_of_a_key_file_is_no_key() {
    let site = Site::on(Swtpm::start(), "new_keys = true\n[preloaded_keys]\npreloaded = 'tpm:'\n");
    let client = site.client();
    for id in ["plain", "preloaded"] {
        let (pair, file) = (client.create_pair(id, "ec-p256"), site.file(id));
        let (public, text) = (client.public_key(&pair), fs::read(&file).unwrap());
        for length in [19, 32, 33, 100, text.len() - 10] {
            fs::write(&file, &text[..length]).unwrap();
            client.get(&format!("/key/{id}")).expect(500);
            client.get(&format!("/keypair/{id}")).expect(500);
            assert_ne!(client.public_key(&client.create_pair(id, "ec-p256")), public, "cut at {length}");
            assert!(is_wrapped(&file));
            let kept = file.with_extension("key.corrupt");
            assert_eq!(fs::read(&kept).unwrap(), text[..length]);
        }
        fs::write(&file, &text[..100]).unwrap();
        client.create_key(id, "sign");
        client.post("/keypair", &json!({ "keyId": id })).expect(400);
    }
    site.keyd.wait_for_log(suite_tests::harness::BOUND, |line| {
        line.starts_with("<3>") && line.contains("was unusable")
    });
}
