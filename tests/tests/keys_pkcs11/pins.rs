//! PINs that are missing or wrong: what a token is asked, by the calls that its library sees.

use std::{fs, path::PathBuf};

use serde_json::json;
use suite_tests::{
    harness::{BOUND, KEYD, Setup},
    http::Client,
    keys::{Keys, by_handle, hmac_request},
    softhsm::{LABEL, PIN, SoftHsm},
};

/// What to start, with a library that writes its calls to a file, and that file.
fn watched(token: &SoftHsm, preloaded: &str) -> (Setup, Calls) {
    let setup = Setup::new(&KEYD);
    let calls = setup.directory().join("calls");
    let setup = token.known_to(setup).drop_in("60-spy.toml", &SoftHsm::spy_settings());
    let setup = setup.drop_in("70-preloaded.toml", &format!("[preloaded_keys]\n{preloaded}"));
    (setup.env("PKCS11SPY", SoftHsm::library()).env("PKCS11SPY_OUTPUT", &calls), Calls(calls))
}

/// The file with the calls that a library has seen.
struct Calls(PathBuf);

impl Calls {
    fn number_of(&self, function: &str) -> usize {
        let ends = |line: &&str| line.trim().ends_with(&format!(": {function}"));
        fs::read_to_string(&self.0).unwrap().lines().filter(ends).count()
    }
}

#[test]
fn keys_need_11_without_a_pin_nobody_else_is_disturbed() {
    let token = SoftHsm::new();
    let (setup, calls) = watched(&token, &format!("bare = 'pkcs11:token={LABEL};object=bare'\n"));
    let keyd = setup.start();
    for _ in 0..12 {
        keyd.client().post("/keypair", &json!({ "keyId": "bare" })).expect(500);
    }
    keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("has no PIN"));
    assert_eq!(calls.number_of("C_Initialize"), 1, "to make the library ready anew ends all sessions");
    assert_eq!(calls.number_of("C_Login"), 0);
}

/// A token is locked after a few wrong PINs. One that is wrong costs one of them, whatever the token is called, and however
/// often keyd is started.
#[test]
fn keys_need_11_a_wrong_pin_is_tried_once_by_all_names_and_over_restarts() {
    let token = SoftHsm::new();
    let pin = token.config().with_file_name("pin");
    fs::write(&pin, "0000").unwrap();
    let names = [
        format!("token={LABEL}"),
        format!("slot-id={}", token.slot_id()),
        format!("token={LABEL};model=SoftHSM%20v2"),
    ];
    let names = names.iter().enumerate().map(|(number, name)| {
        format!("key{number} = 'pkcs11:{name};object=key{number}?pin-source={}'\n", pin.display())
    });
    let (setup, calls) = watched(&token, &names.collect::<String>());
    let mut keyd = setup.start();
    let try_all = |client: &Client, status| {
        for number in [0, 1, 2, 0, 1, 2] {
            client.post("/keypair", &json!({ "keyId": format!("key{number}") })).expect(status);
        }
    };
    for _ in 0..3 {
        try_all(&keyd.client(), 500);
        keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("refused the PIN"));
        assert_eq!(calls.number_of("C_Login"), 1);
        keyd.restart();
    }
    try_all(&keyd.client(), 500);
    let told = keyd.wait_for_log(BOUND, |line| line.contains("before keyd was started"));
    let memory = keyd.home().join("refused-pins");
    assert!(told.contains(memory.to_str().unwrap()), "{told}");
    assert!(!fs::read_to_string(&memory).unwrap().contains("0000"));
    fs::write(&pin, PIN).unwrap();
    try_all(&keyd.client(), 200);
    assert_eq!(calls.number_of("C_Login"), 2, "another PIN is tried, and all sessions are logged in by it");
    assert!(!memory.exists(), "a PIN that is right by now is no longer a wrong one");
}

/// A login counts for the whole process: one wrong PIN is no reason against keys whose URIs have the right one, and is asked
/// of the token once and for all.
#[test]
fn keys_need_11_one_wrong_pin_of_several_for_a_token_does_no_harm() {
    let token = SoftHsm::new();
    let uri = |pin: &str| format!("'pkcs11:token={LABEL};object=key?pin-value={pin}'");
    let names = format!(
        "a-wrong = {}
b-right = {}
c-other = {}
",
        uri("0000"),
        uri(PIN),
        uri("1111")
    );
    let (setup, calls) = watched(&token, &names);
    let mut keyd = setup.start();
    for logins in [2, 3] {
        let client = keyd.client();
        for id in ["b-right", "a-wrong", "c-other"] {
            client.post("/keypair", &json!({ "keyId": id })).expect(200);
        }
        assert_eq!(
            calls.number_of("C_Login"),
            logins,
            "a wrong PIN is tried once, and one after the right one never"
        );
        keyd.restart();
    }
}

/// Without a login a token shows public halves only. That is no reason to take the other half for missing.
#[test]
fn keys_need_11_without_a_pin_nothing_is_destroyed_and_all_is_refused() {
    let token = SoftHsm::new();
    let setup = Setup::new(&KEYD);
    let file = setup.directory().join("validation-key");
    fs::write(&file, [7; 32]).unwrap();
    let preloaded = format!("[preloaded_keys]\nhandle-validation-key = 'file://{}'\n", file.display());
    let mut keyd = token.base_slot(setup).drop_in("50-preloaded.toml", &preloaded).start();
    let client = keyd.client();
    let (pair, key) = (client.create_pair("pair", "ec-p256"), client.create_key("key", "sign"));
    client.create_pair("other", "ec-p256");
    let before = (token.objects(), client.public_key(&pair), client.hmac(&key, b"m"));
    let without = format!("[aziot_keys]\npkcs11_base_slot = 'pkcs11:token={LABEL}'\n");
    keyd.write_drop_in("70-without.toml", &without);
    keyd.restart();
    keyd.wait_for_log(BOUND, |line| line.starts_with("<3>") && line.contains("has no PIN"));
    let import = json!({ "keyId": "key", "usage": "sign", "keyBytes": "AQID" });
    for reply in [
        client.get("/keypair/pair"),
        client.get("/key/key"),
        client.get("/keypair/missing"),
        client.post("/keypair", &json!({ "keyId": "pair" })),
        client.post("/key", &json!({ "keyId": "key", "usage": "sign" })),
        client.post("/key", &import),
        client.post("/keypair/other", &json!({ "from": "pair" })),
        client.post("/sign", &hmac_request(&key, b"m")),
        client.delete("/keypair", Some(&by_handle(&pair))),
        client.delete("/key", Some(&by_handle(&key))),
    ] {
        let message = reply.expect(500).string("message");
        assert!(message.contains("token") && message.contains("not available"), "{message}");
    }
    keyd.remove_drop_in("70-without.toml");
    keyd.restart();
    let after = (client.public_key(&client.load_pair("pair")), client.hmac(&client.load_key("key"), b"m"));
    assert_eq!((token.objects(), after.0, after.1), before);
}

/// Some tokens want no login at all. And half a pair is there until there is a whole one, whatever the reason for that.
#[test]
fn keys_need_11_a_token_that_wants_no_login_needs_no_pin() {
    let token = SoftHsm::new();
    let setup = token.base_slot_at(Setup::new(&KEYD), &format!("pkcs11:token={LABEL}"));
    let (library, no_pairs) = (setup.directory().join("free.so"), setup.directory().join("no-pairs"));
    SoftHsm::wrap(&FREE.replace("PIN", &format!("{PIN:?}")), &library);
    let free = format!("[aziot_keys]\npkcs11_lib_path = '{}'\n", library.display());
    let keyd = setup.drop_in("60-free.toml", &free).env("NO_PAIRS", &no_pairs).start();
    let client = keyd.client();
    client.get("/keypair/pair").expect(400);
    let (pair, key) = (client.create_pair("pair", "ec-p256"), client.create_key("key", "sign"));
    client.ecdsa(&pair, &[1; 32]);
    client.hmac(&key, b"m");
    client.post("/keypair/moved", &json!({ "from": "pair" })).expect(204);
    client.ecdsa(&client.load_pair("moved"), &[1; 32]);
    client.delete("/key", Some(&by_handle(&key))).expect(204);
    assert!(!keyd.log().contains("<3>"), "{}", keyd.log());

    token.tool(&["--delete-object", "--type", "privkey", "--label", "moved"]);
    let before = token.objects();
    fs::write(&no_pairs, "").unwrap();
    client.post("/keypair", &json!({ "keyId": "moved" })).expect(400);
    assert_eq!(token.objects(), before, "half a pair stays if there is no whole one");
    fs::remove_file(&no_pairs).unwrap();
    client.ecdsa(&client.create_pair("moved", "ec-p256"), &[1; 32]);
    assert_eq!(token.objects().len(), 3, "{:?}", token.objects());
}

/// SoftHSM2 as a token that wants no login, and that makes no pairs while there is a file `NO_PAIRS`. 0x70 is
/// `CKR_MECHANISM_INVALID`, 4 `CKF_LOGIN_REQUIRED`, 2 `CKS_RW_PUBLIC_SESSION`.
const FREE: &str = r#"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct token_info { char text[96]; ul flags; };
struct session_info { ul slot, state, flags, error; };

static struct list list;
static ul (*token_info)(ul, struct token_info *);
static ul (*open_session)(ul, ul, void *, void *, ul *);
static ul (*session_info)(ul, struct session_info *);
static ul (*log_in)(ul, ul, const char *, ul);
static ul (*make_pair)(ul, void *, void *, ul, void *, ul, ul *, ul *);

static ul tell_of_token(ul slot, struct token_info *info) {
    ul answer = token_info(slot, info);
    info->flags &= ~4UL;
    return answer;
}

static ul open_logged_in(ul slot, ul flags, void *application, void *notify, ul *session) {
    ul answer = open_session(slot, flags, application, notify, session);
    if (answer == 0) log_in(*session, 1, PIN, strlen(PIN));
    return answer;
}

static ul tell_of_session(ul session, struct session_info *info) {
    ul answer = session_info(session, info);
    info->state = 2;
    return answer;
}

static ul make_pair_perhaps(ul session, void *mechanism, void *a, ul as, void *b, ul bs, ul *public, ul *private) {
    if (access(getenv("NO_PAIRS"), F_OK) == 0) return 0x70;
    return make_pair(session, mechanism, a, as, b, bs, public, private);
}

ul C_GetFunctionList(struct list **out) {
    list = *softhsm();
    token_info = list.function[6];
    open_session = list.function[12];
    session_info = list.function[15];
    log_in = list.function[18];
    make_pair = list.function[59];
    list.function[6] = tell_of_token;
    list.function[12] = open_logged_in;
    list.function[15] = tell_of_session;
    list.function[59] = make_pair_perhaps;
    *out = &list;
    return 0;
}
"#;
