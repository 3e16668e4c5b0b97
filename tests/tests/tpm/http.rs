//! What every endpoint has in common: checklist 1 to 7.

use std::{
    os::unix::fs::PermissionsExt,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use suite_tests::{
    http::{PATIENCE, base64, with_body},
    swtpm::Swtpm,
};

use super::{Site, hmac, refused, setup, signing};

#[test]
fn tpm_01_02_03_requests_that_reach_no_handler() {
    // No TPM is needed to refuse them.
    let tpmd = setup(&Swtpm::absent()).start();
    let client = tpmd.client();
    client.send("GET /get_tpm_keys HTTP/1.1\r\nhost: x\r\n\r\n").expect(400);
    for version in ["2021-05-01", "2020-09-01-preview", ""] {
        client.version(version).get("/get_tpm_keys").expect(400);
    }
    client.get("/get_keys").expect(404);
    client.get("/get_tpm_keys/").expect(404);
    client.get("/sign_with_auth_key").expect(400);
    client.get("/import_auth_key").expect(400);
    client.post("/get_tpm_keys", &json!({})).expect(400);
    for path in ["/import_auth_key", "/sign_with_auth_key"] {
        client.request("POST", path, None).expect(400);
        let field = if path.starts_with("/import") { "key" } else { "data" };
        for body in
            [json!({}), json!({ "other": "AA==" }), json!({ field: 7 }), json!({ field: "AA" }), json!([])]
        {
            client.post(path, &body).expect(422);
        }
        let head = format!("POST {path}?api-version=2020-09-01 HTTP/1.1\r\n");
        client.send(with_body(&head, &[("content-type", "application/json")], "{")).expect(422);
        client.send(with_body(&head, &[("content-type", "text/plain")], "{}")).expect(400);
    }
}

#[test]
fn tpm_04_a_stalled_body_is_given_up() {
    let tpmd = setup(&Swtpm::absent()).start();
    let mut connection = tpmd.client().connect();
    let request =
        with_body("POST /sign_with_auth_key?api-version=2020-09-01 HTTP/1.1\r\n", &[], "{\"data\":\"\"}");
    connection.send(&request[..request.len() - 1]);
    let start = Instant::now();
    connection.reply().expect(408);
    assert!((4..15).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[test]
fn tpm_05_everybody_may_call_who_can_open_the_socket() {
    let site = Site::start();
    site.tpmd.as_uid(12345).get("/get_tpm_keys").expect(200).expect_plain();
}

#[test]
fn decided_principals_limit_who_may_call() {
    let site = Site::with(Swtpm::start(), "[[principal]]\nuid = 12345\n");
    site.tpmd.as_uid(12345).get("/get_tpm_keys").expect(200);
    site.client().get("/get_tpm_keys").expect(200);
    let stranger = site.tpmd.as_uid(12346);
    let message = stranger.get("/get_tpm_keys").expect(401).string("message");
    assert!(message.contains("12346"), "{message}");
    stranger.post("/sign_with_auth_key", &signing(b"x")).expect(401);
    stranger.post("/import_auth_key", &json!({ "key": "AA==" })).expect(401);
    // Principals are taken up without a restart.
    site.tpmd.write_drop_in("50-more.toml", "[[principal]]\nuid = 12346\n");
    site.tpmd.wait_for_log(PATIENCE, |line| line.contains("configuration is in force"));
    stranger.get("/get_tpm_keys").expect(200);
}

#[test]
fn tpm_06_the_socket_is_for_owner_and_group() {
    let tpmd = setup(&Swtpm::absent()).start();
    let mode = std::fs::metadata(tpmd.setup().socket_path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
}

/// Upstream closes the connection that is one too many; here it waits for its turn.
#[test]
fn tpm_07_decided_one_request_too_many_waits() {
    let site = Site::with(Swtpm::start(), "max_requests = 1\n");
    site.import(&[1; 32]);
    site.tpm.signal(Signal::STOP);
    let held: Vec<_> = (0..3_u8)
        .map(|number| {
            let client = site.client();
            thread::spawn(move || client.post("/sign_with_auth_key", &signing(&[number])))
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    assert!(held.iter().all(|request| !request.is_finished()), "the TPM hangs");
    site.tpm.signal(Signal::CONT);
    for request in held {
        request.join().unwrap().expect(200);
    }
    let none = Site::with(Swtpm::absent(), "max_requests = 0\n");
    assert_eq!(none.client().get("/get_tpm_keys").status, 429);
}

/// Row 17: the identity service's three calls, byte by byte.
#[test]
fn row_17_the_identity_service_asks() {
    let site = Site::start();
    let get = "GET /get_tpm_keys?api-version=2020-09-01 HTTP/1.1\r\nhost: tpmd.sock\r\n\r\n";
    let keys = site.client().send(get).expect(200).expect_plain();
    let (endorsement_key, storage_root_key) = (keys.bytes("endorsement_key"), keys.bytes("storage_root_key"));
    let wrapped = cloud_sim::tpm::wrap(&endorsement_key, &storage_root_key, &[1; 32]).unwrap();
    let post = |path: &str, body: String| {
        let head = format!("POST {path}?api-version=2020-09-01 HTTP/1.1\r\nhost: tpmd.sock\r\n");
        let request = with_body(&head, &[("content-type", "application/json")], body);
        site.client().send(request).expect(200).expect_plain()
    };
    let imported = post("/import_auth_key", format!(r#"{{"key":"{}"}}"#, base64(wrapped)));
    assert_eq!(imported.body, b"{}");
    let data = b"0ne00abc123/registrations/press-17\n1893456030";
    let signed = post("/sign_with_auth_key", format!(r#"{{"data":"{}"}}"#, base64(data)));
    assert_eq!(signed.bytes("digest"), hmac(&[1; 32], data));
}

#[test]
fn row_17_decided_a_get_may_have_a_body() {
    // Old builds of the identity service send one.
    let site = Site::start();
    let request = with_body("GET /get_tpm_keys?api-version=2020-09-01 HTTP/1.1\r\n", &[], "{}");
    site.client().send(request).expect(200).expect_plain();
    refused(site.try_sign(b""), "no auth key");
}
