//! Who may do what: checklist 15-19.

use serde_json::{Value, json};
use suite_tests::{
    harness::{Daemon, KEYD, Setup},
    keys::{Keys, by_handle, hmac_request},
};

fn create(id: &str) -> Value {
    json!({ "keyId": id, "usage": "sign" })
}

/// A keyd where `uid` 1000 has these patterns.
fn keyd_for(patterns: &str) -> Daemon {
    Setup::new(&KEYD).config(&format!("[[principal]]\nuid = 1000\nkeys = {patterns}\n")).start()
}

#[test]
fn keys_15_only_root_may_do_all() {
    let keyd = keyd_for("['mine']");
    let root = keyd.client();
    for id in ["mine", "", "anything at all", "a/b"] {
        root.create_key(id, "sign");
    }
    root.create_pair("pair", "ec-p256");
    let stranger = keyd.as_uid(1001);
    for reply in [
        stranger.post("/key", &create("mine")),
        stranger.post("/key", &json!({ "keyId": "mine", "usage": "sign", "keyBytes": "AAAA" })),
        stranger.get("/key/mine"),
        stranger.get("/key/missing"), // whether a key exists is not for strangers
        stranger.post("/keypair", &json!({ "keyId": "pair" })),
        stranger.get("/keypair/pair"),
        stranger.post("/keypair/moved", &json!({ "from": "pair" })),
    ] {
        let message = reply.expect(401).string("message");
        assert!(message.contains("1001"), "{message}");
    }
    root.load_pair("pair");
}

#[test]
fn keys_15_an_id_that_cannot_be_authorized_is_not_looked_at() {
    let keyd = keyd_for("['mine']");
    keyd.as_uid(1000).post("/key", &create("a\0")).expect(401);
    keyd.as_uid(1000).create_key("mine", "sign");
}

#[test]
fn keys_15_no_pattern_grants_nothing() {
    let keyd = keyd_for("[]");
    keyd.as_uid(1000).post("/key", &create("")).expect(401);
    let keyd = keyd_for("['']");
    keyd.as_uid(1000).create_key("", "sign");
    keyd.as_uid(1000).post("/key", &create("a")).expect(401);
}

#[test]
fn keys_15_a_principal_for_root_takes_nothing_away() {
    let keyd = Setup::new(&KEYD).config("[[principal]]\nuid = 0\nkeys = ['only']\n").start();
    keyd.client().create_key("other", "sign");
}

#[test]
fn keys_16_patterns_match_whole_ids() {
    let cases: [(&str, &[&str], &[&str]); 7] = [
        ("a*", &["a", "ab", "a/b", "a b", "a.b", "aé"], &["", "ba", "A", "Ab"]),
        ("x?y", &["xzy", "x/y", "x\u{e9}y", "x\u{1F511}y", "x?y"], &["xzzy", "xy", "Xzy"]),
        ("*-1", &["-1", "a-1", "a-1-1"], &["a-1x", "1"]),
        ("**", &["", "a", "a/b"], &[]),
        ("a**b*", &["ab", "a1b2", "abb"], &["a", "ba"]),
        ("[ab]{c}", &["[ab]{c}"], &["a", "ac", "bc"]),
        (r"\*", &[r"\", r"\x"], &["*", "x"]),
    ];
    for (pattern, allowed, denied) in cases {
        let keyd = keyd_for(&format!("['{pattern}']"));
        let client = keyd.as_uid(1000);
        for id in allowed {
            assert_eq!(client.post("/key", &create(id)).status, 200, "{pattern} {id}");
        }
        for id in denied {
            assert_eq!(client.post("/key", &create(id)).status, 401, "{pattern} {id}");
        }
    }
}

#[test]
fn keys_17_principals_with_one_uid_add_up() {
    let principal = |keys: &str| format!("[[principal]]\nuid = 1000\nkeys = ['{keys}']\n");
    let setup = Setup::new(&KEYD).config(&format!("{}{}", principal("a"), principal("b")));
    let keyd = setup.drop_in("c.toml", &principal("c")).drop_in("d.toml", &principal("d")).start();
    for id in ["a", "b", "c", "d"] {
        keyd.as_uid(1000).create_key(id, "sign");
    }
}

#[test]
fn keys_18_move_needs_both_ids() {
    let keyd = keyd_for("['from', 'to']");
    let (root, client) = (keyd.client(), keyd.as_uid(1000));
    for (from, to, status) in [("other", "to", 401), ("from", "other", 401), ("from", "to", 204)] {
        root.create_pair("from", "ec-p256");
        root.create_pair("other", "ec-p256");
        client.post(&format!("/keypair/{to}"), &json!({ "from": from })).expect(status);
    }
}

#[test]
fn keys_19_a_handle_is_the_permission() {
    let keyd = keyd_for("[]");
    let (root, stranger) = (keyd.client(), keyd.as_uid(1001));
    let (key, pair) = (root.create_key("key", "derive"), root.create_pair("pair", "ec-p256"));
    assert_eq!(stranger.hmac(&key, b"m"), root.hmac(&key, b"m"));
    stranger.export(&stranger.derive(&key, b"data"));
    stranger.ecdsa(&pair, &[1; 32]);
    stranger.parameter(&pair, "ec-point");
    stranger.delete("/keypair", Some(&by_handle(&pair))).expect(204);
    stranger.delete("/key", Some(&by_handle(&key))).expect(204);
}

#[test]
fn keys_19_decided_a_setting_demands_a_principal_for_handles_too() {
    let config = "require_principal_for_handles = true\n[[principal]]\nuid = 1000\nkeys = ['key']\n";
    let keyd = Setup::new(&KEYD).config(config).start();
    let handle = keyd.client().create_key("key", "derive");
    keyd.as_uid(1000).hmac(&handle, b"m");
    keyd.as_uid(1001).post("/sign", &hmac_request(&handle, b"m")).expect(401);
    let derived = keyd.as_uid(1000).derive(&handle, b"data");
    keyd.as_uid(1000).export(&derived);
    keyd.as_uid(1001).post("/derivedkey/export", &by_handle(&derived)).expect(401);
    keyd.as_uid(1001).delete("/key", Some(&by_handle(&handle))).expect(401);
    keyd.client().hmac(&derived, b"m");
}
