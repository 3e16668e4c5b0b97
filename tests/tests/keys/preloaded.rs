//! Settings of keyd: preloaded keys and starts that must fail: checklist 50-52.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};

use serde_json::json;
use suite_tests::{
    harness::{KEYD, Setup},
    keys::{Keys, by_handle},
    openssl::{hmac, openssl},
};

#[test]
fn keys_50_a_preloaded_key_of_any_length_works() {
    let setup = Setup::new(&KEYD);
    let file = setup.directory().join("device id");
    fs::write(&file, b"short").unwrap();
    let uri = format!("file://{}/device%20id", setup.directory().display());
    let keyd = setup.config(&format!("[preloaded_keys]\ndevice-id = '{uri}'\n")).start();
    let client = keyd.client();
    assert_eq!(client.hmac(&client.load_key("device-id"), b"m"), hmac(b"short", b"m"));
    client.create_key("device-id", "sign");
    assert_eq!(fs::read(&file).unwrap(), b"short", "it exists, so it stays");
}

#[test]
fn keys_50_a_preloaded_pair_is_a_pem_file() {
    let setup = Setup::new(&KEYD);
    let file = setup.directory().join("id.pem");
    let pem = openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], b"");
    fs::write(&file, &pem).unwrap();
    let keyd = setup.config(&format!("[preloaded_keys]\nest-id = 'file://{}'\n", file.display())).start();
    let client = keyd.client();
    let pair = client.load_pair("est-id");
    assert_eq!(client.public_key(&pair), openssl(&["pkey", "-pubout"], &pem));
    // Whoever wants to replace it learns before that this is in vain.
    assert_eq!(client.parameter(&pair, "preloaded"), "true");
    let other = client.create_pair("other", "ec-p256");
    assert_eq!(client.parameter(&other, "preloaded"), "false");
}

#[test]
fn keys_50_what_is_missing_is_created_in_place() {
    let setup = Setup::new(&KEYD);
    let directory = setup.directory().to_owned();
    let uri = |name: &str| format!("{name} = 'file://localhost{}/{name}'\n", directory.display());
    let keyd =
        setup.config(&format!("[preloaded_keys]\n{}{}{}", uri("key"), uri("pair"), uri("imported"))).start();
    let client = keyd.client();
    client.get("/key/key").expect(400);
    let key = client.create_key("key", "sign");
    assert_eq!(client.hmac(&key, b"m"), hmac(&fs::read(directory.join("key")).unwrap(), b"m"));
    let pair = client.create_pair("pair", "ec-p256");
    let pem = fs::read(directory.join("pair")).unwrap();
    assert_eq!(client.public_key(&pair), openssl(&["pkey", "-pubout"], &pem));
    client.import_key("imported", "sign", b"bytes");
    assert_eq!(fs::read(directory.join("imported")).unwrap(), b"bytes");
    let keys = keyd.home().join("keys");
    assert_eq!(fs::read_dir(keys).unwrap().count(), 1, "only the validation key lies among the others");
}

#[test]
fn keys_50_decided_an_import_goes_where_links_lead_and_changes_no_mode() {
    let setup = Setup::new(&KEYD);
    let (link, file) = (setup.directory().join("link"), setup.directory().join("backed-up"));
    fs::write(&file, b"old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    symlink("backed-up", &link).unwrap();
    let keyd = setup.config(&format!("[preloaded_keys]\nkey = 'file://{}'\n", link.display())).start();
    let client = keyd.client();
    let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
    let key = client.import_key("key", "sign", b"new");
    assert_eq!((fs::read(&file).unwrap(), mode()), (b"new".to_vec(), 0o644));
    assert_eq!(client.hmac(&key, b"m"), hmac(b"new", b"m"));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    fs::remove_file(&file).unwrap();
    client.create_key("key", "sign");
    assert_eq!(mode(), 0o600, "a new file is nobody's but keyd's");
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    client.post("/key", &json!({ "keyId": "key", "usage": "sign", "keyBytes": "AQID" })).expect(500);
}

/// Whoever may write beside a key must neither choose which file is written nor read what is written.
#[test]
fn keys_50_decided_links_of_others_and_to_other_keys_are_not_followed_and_new_keys_are_secret() {
    let setup = Setup::new(&KEYD);
    let directory = setup.directory().to_owned();
    let place = |name: &str| directory.join(name);
    let lines: String = ["foreign", "inward", "empty"]
        .map(|name| format!("{name} = 'file://{}'\n", place(name).display()))
        .concat();
    fs::write(place("victim"), b"theirs").unwrap();
    symlink("victim", place("foreign")).unwrap();
    lchown(place("foreign"), Some(65534), Some(65534)).unwrap();
    fs::write(place("empty"), b"").unwrap();
    fs::set_permissions(place("empty"), fs::Permissions::from_mode(0o644)).unwrap();
    let keyd = setup.config(&format!("[preloaded_keys]\n{lines}")).start();
    let client = keyd.client();
    client.create_key("own", "sign");
    let own = fs::read_dir(keyd.home().join("keys")).unwrap().map(|entry| entry.unwrap().path());
    let own = own.into_iter().find(|path| path.to_string_lossy().contains("/own-")).unwrap();
    let before = fs::read(&own).unwrap();
    symlink(&own, place("inward")).unwrap();
    for name in ["foreign", "inward"] {
        let import = json!({ "keyId": name, "usage": "sign", "keyBytes": "AQID" });
        client.post("/key", &import).expect(500);
    }
    assert_eq!((fs::read(place("victim")).unwrap(), fs::read(&own).unwrap()), (b"theirs".to_vec(), before));
    client.create_key("empty", "sign");
    let empty = fs::metadata(place("empty")).unwrap();
    assert_eq!((empty.len() > 0, empty.permissions().mode() & 0o777), (true, 0o600));
}

/// Renewal of certificates replaces preloaded keys in this way (keys-service 4.3, 9.9).
#[test]
fn keys_48_49_decided_delete_and_move_never_touch_a_preloaded_file() {
    let setup = Setup::new(&KEYD);
    let file = setup.directory().join("id.pem");
    let keyd = setup.config(&format!("[preloaded_keys]\nid = 'file://{}'\n", file.display())).start();
    let client = keyd.client();
    let pair = client.create_pair("id", "ec-p256");
    let before = fs::read(&file).unwrap();
    client.create_pair("other", "ec-p256");
    client.post("/keypair/id", &json!({ "from": "other" })).expect(400);
    client.post("/keypair/other", &json!({ "from": "id" })).expect(400);
    client.delete("/keypair", Some(&by_handle(&pair))).expect(400);
    assert_eq!(fs::read(&file).unwrap(), before);
    client.ecdsa(&client.load_pair("id"), &[7; 32]);
    client.load_pair("other");
}

#[test]
fn keys_51_a_preloaded_token_key_without_library_is_400() {
    let keyd =
        Setup::new(&KEYD).config("[preloaded_keys]\na = 'pkcs11:token=t;object=o?pin-value=1'\n").start();
    let client = keyd.client();
    client.get("/key/a").expect(400);
    client.get("/keypair/a").expect(400);
    client.post("/key", &json!({ "keyId": "a", "usage": "sign" })).expect(400);
    client.create_key("b", "sign");
}

#[test]
fn keys_52_settings_that_cannot_be_end_the_start() {
    for config in [
        "[aziot_keys]\nunknown = 'x'\n",
        "[aziot_keys]\nhomedir_path = 1\n",
        "[preloaded_keys]\n'' = 'file:///tmp/x'\n",
        "[preloaded_keys]\na = 'nonsense'\n",
        "[preloaded_keys]\na = 'http://host/path'\n",
        "[preloaded_keys]\na = 'file://host/path'\n",
        "[preloaded_keys]\na = 7\n",
        "[preloaded_keys]\na = 'pkcs11:object=o'\n",
        "[[principal]]\nuid = 1000\n",
        "[[principal]]\nkeys = []\n",
        "[[principal]]\nuid = -1\nkeys = []\n",
        "[[principal]]\nuid = 4294967296\nkeys = []\n",
        "[[principal]]\nuid = 1000\nkeys = '*'\n",
    ] {
        let ended = Setup::new(&KEYD).drop_in("50-wrong.toml", config).start_and_end();
        assert_eq!(ended.status.code(), Some(1), "{config}: {}", ended.log);
        assert!(ended.log.lines().any(|line| line.starts_with("<3>")), "{config}: {}", ended.log);
    }
}
