//! Deleting and moving: checklist 48, 49.

use serde_json::json;
use suite_tests::keys::{Keys, by_handle, ecdsa_request, hmac_request, key_file};

use super::keyd;

#[test]
fn keys_48_delete_wants_the_right_kind_and_may_be_repeated() {
    let (keyd, client) = keyd();
    let (key, pair) = (client.create_key("key", "derive"), client.create_pair("pair", "ec-p256"));
    let derived = client.derive(&key, b"d");
    client.delete("/key", Some(&by_handle(&pair))).expect(400);
    client.delete("/key", Some(&by_handle(&derived))).expect(400);
    client.delete("/keypair", Some(&by_handle(&key))).expect(400);
    client.delete("/keypair", Some(&by_handle(&derived))).expect(400);
    client.hmac(&key, b"m");
    client.ecdsa(&pair, &[1; 32]);
    for _ in 0..2 {
        client.delete("/key", Some(&by_handle(&key))).expect(204);
        client.delete("/keypair", Some(&by_handle(&pair))).expect(204);
    }
    assert!(!key_file(&keyd.home(), "key").exists() && !key_file(&keyd.home(), "pair").exists());
    client.post("/sign", &hmac_request(&key, b"m")).expect(400);
    client.post("/sign", &hmac_request(&derived, b"m")).expect(400);
    client.post("/sign", &ecdsa_request(&pair, &[1; 32])).expect(400);
    client.post("/parameters/algorithm", &by_handle(&pair)).expect(400);
    client.get("/key/key").expect(400);
    client.get("/keypair/pair").expect(400);
}

#[test]
fn keys_48_an_old_handle_works_for_a_key_made_anew() {
    let (_keyd, client) = keyd();
    let old = client.create_key("a", "sign");
    let before = client.hmac(&old, b"m");
    client.delete("/key", Some(&by_handle(&old))).expect(204);
    client.create_key("a", "sign");
    assert_ne!(client.hmac(&old, b"m"), before, "a handle names an id, not bytes");
}

#[test]
fn keys_49_a_move_replaces_the_target() {
    let (_keyd, client) = keyd();
    let (from, to) = (client.create_pair("from", "ec-p256"), client.create_pair("to", "rsa-2048"));
    let public = client.public_key(&from);
    client.post("/keypair/to", &json!({ "from": "from" })).expect(204);
    client.get("/keypair/from").expect(400);
    client.post("/sign", &ecdsa_request(&from, &[1; 32])).expect(400);
    assert_eq!(client.public_key(&to), public, "handles made before name the new key");
    assert_eq!(client.public_key(&client.load_pair("to")), public);
    client.post("/keypair/new", &json!({ "from": "to" })).expect(204);
    assert_eq!(client.public_key(&client.load_pair("new")), public);
}

#[test]
fn keys_49_moves_that_cannot_be() {
    let (_keyd, client) = keyd();
    let public = client.public_key(&client.create_pair("a", "ec-p256"));
    client.create_key("key", "sign");
    client.post("/keypair/a", &json!({ "from": "a" })).expect(400);
    client.post("/keypair/a", &json!({ "from": "missing" })).expect(500);
    client.post("/key/b", &json!({ "from": "key" })).expect(400);
    client.post("/key/b", &json!({ "from": "a" })).expect(400);
    client.request("POST", "/keypair/b", None).expect(400);
    assert_eq!(client.public_key(&client.load_pair("a")), public, "the target of a failed move is untouched");
}
