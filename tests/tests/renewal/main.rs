//! Renewal of EST identities (device.rs: of the device identity), with power lost at each of its steps: after the restart key and certificate belong together
//! and the device is let in.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

mod device;
mod gate;
mod pending;
mod rights;
mod schedule;
mod site;
mod wishes;

use std::{thread, time::Duration};

use gate::Side;
use openssl::{
    ec::{EcGroup, EcKey},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    x509::{X509Name, X509Req},
};
use serde_json::json;
use site::Site;

const ROTATING: &str = "identity_auto_renew = { rotate_key = true, threshold = '80%', retry = '50%' }";
const KEEPING: &str = "identity_auto_renew = { rotate_key = false, threshold = '80%', retry = '50%' }";

/// Kills certd at every request to keyd of a whole renewal, on one side of it: how many there were.
fn kill_at_every_request(settings: &str, side: Side, rotates: bool) {
    let mut site = Site::new(settings);
    let mut steps = Vec::new();
    for number in 0.. {
        let (old, old_key) = (site.identity(), site.key());
        let reached = site.crash_at(number, side);
        site.recover();
        let story = format!("killed {side:?} {number}, {reached:?}");
        assert!(site.certd.log().contains("was renewed"), "{story}: {}", site.certd.log());
        site.check_rest(&story);
        site.check_pair(&story);
        assert!(site.identity() != old, "{story}");
        assert_eq!(site.key() != old_key, rotates, "{story}");
        match reached {
            Some(step) => steps.push(step),
            None => break,
        }
    }
    println!("{} runs, {side:?}", steps.len() + 1);
    let moves = steps.iter().filter(|step| step.starts_with("POST /keypair/")).count();
    assert_eq!(moves, usize::from(rotates), "{steps:?}");
    assert!(steps.len() > 20, "{steps:?}");
}

#[test]
fn power_loss_before_each_request_with_a_new_key() {
    kill_at_every_request(ROTATING, Side::Before, true);
}

#[test]
fn power_loss_after_each_request_with_a_new_key() {
    kill_at_every_request(ROTATING, Side::After, true);
}

#[test]
fn power_loss_before_each_request_with_the_same_key() {
    kill_at_every_request(KEEPING, Side::Before, false);
}

#[test]
fn power_loss_after_each_request_with_the_same_key() {
    kill_at_every_request(KEEPING, Side::After, false);
}

/// The server issues certificates and lets nobody in with them.
fn kill_while_refused(settings: &str, side: Side) {
    let mut site = Site::new(settings);
    let refuse = |site: &Site, skip| {
        site.heal();
        // The first is asked for by the old identity.
        site.fault("est.cacerts", skip, &json!({ "status": 403 }));
    };
    let (old, old_key) = (site.identity(), site.key());
    for number in 0.. {
        refuse(&site, 1);
        let reached = site.crash_at(number, side);
        refuse(&site, 0);
        site.recover();
        site.heal();
        let story = format!("refused, killed {side:?} {number}, {reached:?}");
        assert!(site.certd.log().contains("was not renewed"), "{story}");
        assert!(site.identity() == old && site.key() == old_key, "{story}: the old pair stays");
        site.check_pair(&story);
        if reached.is_none() {
            break;
        }
    }
    site.certd.kill();
    site.recover();
    site.check_rest("the server lets us in again");
    site.check_pair("the server lets us in again");
    assert!(site.identity() != old);
}

#[test]
fn power_loss_before_each_request_while_refused() {
    kill_while_refused(ROTATING, Side::Before);
}

#[test]
fn power_loss_after_each_request_while_refused_with_the_same_key() {
    kill_while_refused(KEEPING, Side::After);
}

#[test]
fn power_loss_while_the_server_works() {
    for settings in [ROTATING, KEEPING] {
        let mut site = Site::new(settings);
        for (operation, skip) in [("est.cacerts", 0), ("est.reenroll", 0), ("est.cacerts", 1)] {
            for action in [json!({ "stall": true }), json!({ "delay_ms": 600_000 })] {
                let story = format!("{operation} after {skip}: {action}");
                site.certd.kill();
                site.forget_requests();
                site.fault(operation, skip, &action);
                let wanted = usize::try_from(skip).unwrap() + 1;
                let reached = site.crash(|site| (site.count(operation) >= wanted).then_some(()));
                assert!(reached.is_some(), "{story}");
                site.heal();
                site.recover();
                site.check_rest(&story);
                site.check_pair(&story);
            }
        }
    }
}

#[test]
fn power_loss_at_any_time() {
    let mut site = Site::new(ROTATING);
    for run in 0..40 {
        let pause = Duration::from_millis(run * 12);
        site.certd.kill();
        site.certd.restart();
        thread::sleep(pause);
        site.certd.kill();
        site.recover();
        let story = format!("killed after {pause:?}");
        site.check_rest(&story);
        site.check_pair(&story);
    }
}

#[test]
fn a_new_identity_that_is_refused_leaves_the_old_one() {
    let site = Site::new(ROTATING);
    site.says("was renewed");
    let (old, old_key) = (site.identity(), site.key());
    site.fault("est.cacerts", 1, &json!({ "status": 403 }));
    let mut site = site;
    site.certd.kill();
    site.recover();
    assert!(site.certd.log().contains("is refused, the old one stays"), "{}", site.certd.log());
    site.check_rest("refused");
    site.heal();
    site.check_pair("refused");
    assert!(site.identity() == old && site.key() == old_key);
}

/// A request for a certificate, with a key of its own.
fn csr() -> String {
    csr_for(&new_key())
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// The same for `key`, with a signature that is another one each time.
fn csr_for(key: &PKey<Private>) -> String {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "press 12").unwrap();
    let mut builder = X509Req::builder().unwrap();
    builder.set_subject_name(&name.build()).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.sign(key, MessageDigest::sha256()).unwrap();
    String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
}
