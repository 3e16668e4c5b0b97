//! A slow or dead EST server delays nobody who does not need it: checklist 72, 73.

use std::thread;
use std::time::{Duration, Instant};

use suite_tests::http::{Connection, wait_for};

use super::{Certs, Plant, any_pem, chain, csr};
use crate::support::{Answer, EstServer, Settings};

fn plant(server: &EstServer) -> Plant {
    plant_with(server, "max_requests = 100")
}

fn plant_with(server: &EstServer, settings: &str) -> Plant {
    let plant = Plant::new(&format!(
        "{settings}\n[cert_issuance.press]\nmethod = 'est'\n[cert_issuance.est]\ntrusted_certs = ['est-root']\n\
         username = 'user'\npassword = 'word'\n[cert_issuance.est.urls]\ndefault = '{}'\n",
        server.url("")
    ));
    plant.client().import("est-root", &server.settings().root.cert_pem()).expect(201);
    plant.client().import("x", &any_pem()).expect(201);
    plant
}

/// The time that 99 of 100 reads take at most.
fn p99(plant: &Plant) -> Duration {
    let client = plant.client();
    let mut times: Vec<_> = (0..500)
        .map(|_| {
            let start = Instant::now();
            client.fetch("x").expect(200);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[test]
fn certs_72_reads_are_as_quick_while_enrolments_hang() {
    let server = EstServer::start(Settings::new());
    let plant = plant(&server);
    let before = p99(&plant);
    let hanging = 20;
    let _callers = hanging_enrolments(&server, &plant, hanging);
    let during = p99(&plant);
    println!("99 of 100 reads take {before:?} alone, {during:?} beside {hanging} hanging enrolments");
    assert!(during < before * 5 + Duration::from_millis(20), "{before:?} before, {during:?} during");
    let start = Instant::now();
    plant.client().import("press", &any_pem()).expect(201);
    plant.client().import("y", &any_pem()).expect(201);
    assert_eq!(plant.client().forget("press").status, 204);
    assert!(start.elapsed() < Duration::from_secs(2), "changes do not wait either, not even of the same id");
}

/// Callers whose enrolments hang, of which ten are under way.
#[track_caller]
fn hanging_enrolments(server: &EstServer, plant: &Plant, count: usize) -> Vec<Connection> {
    let client = plant.client();
    let ask = |number: usize| {
        server.next("cacerts", Answer::Hang);
        let body = serde_json::json!({ "certId": "press", "csr": csr(&number.to_string()) });
        let mut caller = client.connect();
        caller.send(client.bytes("POST", "/certificates", Some(&body)));
        caller
    };
    let callers = (0..count).map(ask).collect();
    wait_for("the enrolments to hang", Duration::from_secs(30), || (server.seen().len() >= 10).then_some(()));
    callers
}

#[test]
fn certs_72_hanging_enrolments_take_no_slot_from_reads() {
    let server = EstServer::start(Settings::new());
    let plant = plant_with(&server, "");
    let client = plant.client();
    let _callers = hanging_enrolments(&server, &plant, 12);
    let start = Instant::now();
    client.fetch("x").expect(200);
    client.import("y", &any_pem()).expect(201);
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

#[test]
fn certs_73_an_unreachable_server_keeps_nobody_from_starting() {
    let server = EstServer::start(Settings::new());
    let expired = super::support::Issued::with_validity("old", None, false, -7200, -3600);
    let mut plant = Plant::new(
        "[cert_issuance.press]\nmethod = 'est'\n[cert_issuance.est]\ntrusted_certs = ['missing']\n\
         identity_cert = 'est-id'\nidentity_pk = 'est-id'\n[cert_issuance.est.urls]\ndefault = 'https://127.0.0.1:1/'\n",
    );
    plant.client().import("est-id", &expired.cert_pem()).expect(201);
    plant.client().import("x", &any_pem()).expect(201);
    plant.certd.restart();
    plant.client().fetch("x").expect(200);
    plant.client().issue("press", &csr("a")).expect(500);
    assert!(server.seen().is_empty());
}

#[test]
fn the_same_asked_twice_is_enrolled_once() {
    let server = EstServer::start(Settings::new());
    let plant = plant(&server);
    server.next("simpleenroll", Answer::Late(Duration::from_secs(2)));
    let csr = csr("a");
    let issued: Vec<_> = thread::scope(|scope| {
        let issue = || scope.spawn(|| chain(plant.client().issue("press", &csr)));
        let both = [issue(), issue()];
        both.map(|one| one.join().unwrap()).into()
    });
    assert!(issued[0] == issued[1]);
    assert_eq!(server.enrolments().len(), 1);
}

#[test]
fn who_hangs_up_gets_the_certificate_later() {
    let server = EstServer::start(Settings::new());
    let plant = plant(&server);
    server.next("simpleenroll", Answer::Late(Duration::from_secs(1)));
    let client = plant.client();
    let mut connection = client.connect();
    connection.send(client.bytes(
        "POST",
        "/certificates",
        Some(&serde_json::json!({ "certId": "press", "csr": csr("a") })),
    ));
    wait_for("the enrolment", Duration::from_secs(10), || (!server.enrolments().is_empty()).then_some(()));
    drop(connection);
    wait_for("the certificate", Duration::from_secs(10), || {
        (client.fetch("press").status == 200).then_some(())
    });
}

#[test]
fn a_later_import_is_not_overwritten_by_an_earlier_enrolment() {
    let server = EstServer::start(Settings::new());
    let plant = plant(&server);
    server.next("simpleenroll", Answer::Late(Duration::from_secs(2)));
    let imported = any_pem();
    thread::scope(|scope| {
        let enrolment = scope.spawn(|| chain(plant.client().issue("press", &csr("a"))));
        wait_for("the enrolment", Duration::from_secs(10), || {
            (!server.enrolments().is_empty()).then_some(())
        });
        plant.client().import("press", &imported).expect(201);
        enrolment.join().unwrap();
    });
    assert_eq!(plant.client().fetch("press").expect(200).string("pem"), imported);
}
