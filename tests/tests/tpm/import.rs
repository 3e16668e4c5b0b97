//! Importing the auth key: checklist 18, 19, 21 to 28, 38.

use serde_json::json;
use suite_tests::{
    http::{PATIENCE, base64},
    swtpm::Swtpm,
};

use super::{AUTH_KEY, ENDORSEMENT_KEY, STORAGE_ROOT_KEY, Site, refused};

#[test]
fn tpm_18_23_a_key_that_was_wrapped_for_this_tpm() {
    let site = Site::start();
    site.import(&[1; 32]);
    site.signs_with(&[1; 32]);
    let (tpm, _) = site.stop_and_check();
    assert_eq!(tpm.handles("persistent"), [STORAGE_ROOT_KEY, AUTH_KEY, ENDORSEMENT_KEY]);
}

#[test]
fn tpm_19_what_follows_the_key_is_ignored() {
    let site = Site::start();
    let wrapped = site.wrap(&[2; 32]);
    site.try_import(&[&wrapped[..], b"an encrypted URI, perhaps"].concat()).expect(200);
    site.signs_with(&[2; 32]);
}

#[test]
fn tpm_21_the_key_outlasts_restart_and_reset() {
    let mut site = Site::start();
    site.import(&[3; 32]);
    site.tpmd.restart();
    site.signs_with(&[3; 32]);
    site.tpmd.terminate();
    site.tpm.reset();
    site.tpmd.restart();
    site.signs_with(&[3; 32]);
}

#[test]
fn tpm_22_23_each_key_replaces_the_one_before_it() {
    let site = Site::start();
    for key in 1..=5 {
        site.import(&[key; 32]);
        site.signs_with(&[key; 32]);
    }
    let (tpm, _) = site.stop_and_check();
    assert_eq!(tpm.handles("persistent").len(), 3);
}

#[test]
fn tpm_24_25_damaged_keys_are_refused_and_the_old_one_stays() {
    let site = Site::start();
    site.import(&[4; 32]);
    let good = site.wrap(&[5; 32]);
    for length in [0, 1, 3, 53, 54, 55, 311, 312, 455, 456, 713, 714, 763] {
        refused(site.try_import(&good[..length]), "the key is malformed");
        site.signs_with(&[4; 32]);
    }
    // One byte in each of the five structures, and in their lengths.
    for at in [0, 10, 53, 55, 100, 313, 320, 400, 457, 500, 714, 740, 763] {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        refused(site.try_import(&bad), "the key");
        site.signs_with(&[4; 32]);
    }
    refused(site.try_import(&[0xFF; 2000]), "the key is malformed");
    site.stop_and_check();
}

#[test]
fn tpm_25_the_old_key_stays_after_requests_that_cannot_be_read() {
    let site = Site::start();
    site.import(&[6; 32]);
    site.client().post("/import_auth_key", &json!({ "key": "AAA" })).expect(422);
    site.client().post("/import_auth_key", &json!({ "key": base64([0; 3]) })).expect(500);
    site.signs_with(&[6; 32]);
}

/// What is taken and then of no use would cost the device its key.
#[test]
fn tpm_25_keys_that_cannot_sign_are_refused_and_the_old_one_stays() {
    let site = Site::start();
    site.import(&[6; 32]);
    let (endorsement_key, storage_root_key) = site.keys();
    // Restricted; no userWithAuth; decrypt instead of sign; gone after a restart of the TPM; fixed to another one.
    let wrap = |key: u8, attributes, authorization: &[u8]| {
        let kind = (attributes, authorization);
        cloud_sim::tpm::wrap_with(&endorsement_key, &storage_root_key, &[key; 32], kind).unwrap()
    };
    for attributes in [0x0005_0040, 0x0004_0000, 0x0002_0040, 0x0004_0044, 0x0004_0052] {
        refused(site.try_import(&wrap(7, attributes, &[])), "the key");
        site.signs_with(&[6; 32]);
    }
    refused(site.try_import(&wrap(7, 0x0004_0440, b"a password")), "does not sign with the key");
    site.signs_with(&[6; 32]);
    site.try_import(&wrap(8, 0x0004_0040, &[])).expect(200);
    site.signs_with(&[8; 32]);
    site.stop_and_check();
}

#[test]
fn tpm_26_keys_for_another_tpm_are_refused() {
    let (site, other) = (Site::start(), Site::start());
    site.import(&[7; 32]);
    refused(site.try_import(&other.wrap(&[8; 32])), "not made for this TPM");
    // A credential for the right TPM that holds another inner key.
    let (one, two) = (site.wrap(&[8; 32]), site.wrap(&[8; 32]));
    refused(site.try_import(&[&one[..CREDENTIAL], &two[CREDENTIAL..]].concat()), "not made for this TPM");
    // The right endorsement key with the storage root key of another TPM.
    let mixed = cloud_sim::tpm::wrap(&site.keys().0, &other.keys().1, &[8; 32]).unwrap();
    refused(site.try_import(&mixed), "not made for this TPM");
    site.signs_with(&[7; 32]);
    site.stop_and_check();
    other.stop_and_check();
}

#[test]
fn tpm_27_34_authorization_values_are_used() {
    let tpm = Swtpm::start();
    let long = "o".repeat(63);
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", &long[..32]]);
    tpm.tpm2("tpm2_changeauth", &["-c", "endorsement", "endorse-me"]);
    let config =
        |owner: &str| format!("[hierarchy_authorization]\nendorsement = 'endorse-me'\nowner = '{owner}'\n");
    let site = Site::with(tpm, &config(&long[..32]));
    site.import(&[9; 32]);
    site.import(&[10; 32]);
    site.signs_with(&[10; 32]);
    // As long as the largest hash of this TPM lets it be.
    let (tpm, setup) = site.stop_and_check();
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", "-p", &long[..32], &long]);
    let site = Site { tpmd: setup.config(&config(&long)).start(), tpm };
    site.import(&[11; 32]);
    site.signs_with(&[11; 32]);
}

#[test]
fn tpm_28_38_wrong_authorization_values_are_named_and_destroy_nothing() {
    let site = Site::start();
    site.import(&[12; 32]);
    let next = site.wrap(&[13; 32]);
    let (tpm, setup) = site.stop();
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", "own-me"]);
    tpm.tpm2("tpm2_changeauth", &["-c", "endorsement", "endorse-me"]);
    let with = |setup: suite_tests::harness::Setup, tpm, endorsement: &str, owner: &str| {
        let config = format!("[hierarchy_authorization]\nendorsement = '{endorsement}'\nowner = '{owner}'\n");
        Site { tpmd: setup.config(&config).start(), tpm }
    };
    let site = with(setup, tpm, "wrong", "own-me");
    refused(site.try_import(&next), "hierarchy_authorization.endorsement");
    site.signs_with(&[12; 32]);
    site.tpmd.wait_until_logged("TPM_RC_BAD_AUTH for session 1");
    let (tpm, setup) = site.stop_and_check();
    let site = with(setup, tpm, "endorse-me", "wrong");
    refused(site.try_import(&next), "hierarchy_authorization.owner");
    site.signs_with(&[12; 32]);
    let (tpm, setup) = site.stop_and_check();
    let site = with(setup, tpm, "endorse-me", "own-me");
    site.try_import(&next).expect(200);
    site.signs_with(&[13; 32]);
}

#[test]
fn tpm_28_a_wrong_value_of_the_owner_is_told_with_no_key_to_replace() {
    let site = Site::start();
    let wrapped = site.wrap(&[1; 32]);
    let (tpm, setup) = site.stop();
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", "own-me"]);
    let site = Site { tpmd: setup.start(), tpm };
    refused(site.try_import(&wrapped), "hierarchy_authorization.owner");
    refused(site.try_sign(b""), "no auth key");
    site.stop_and_check();
}

#[test]
fn decided_a_wrong_value_at_the_first_start_is_told_and_can_be_corrected() {
    let tpm = Swtpm::start();
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", "own-me"]);
    let site = Site::with(tpm, "hierarchy_authorization = { owner = 'wrong' }\n");
    refused(site.client().get("/get_tpm_keys"), "cannot be used at present");
    let reason = site.tpmd.wait_for_log(PATIENCE, |line| line.contains("requests are refused"));
    assert!(reason.contains("authorization value of the owner hierarchy"), "{reason}");
    let (tpm, setup) = site.stop_and_check();
    let site = Site { tpmd: setup.config("hierarchy_authorization = { owner = 'own-me' }\n").start(), tpm };
    site.import(&[1; 32]);
    site.signs_with(&[1; 32]);
}

#[test]
fn decided_an_object_of_somebody_else_is_left_alone() {
    let tpm = Swtpm::start();
    tpm.tpm2("tpm2_createprimary", &["-C", "o", "-G", "ecc256", "-c", "ecc.ctx"]);
    tpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", "ecc.ctx", "0x81000100"]);
    tpm.tpm2("tpm2_flushcontext", &["-t"]);
    tpm.tpm2("tpm2_readpublic", &["-c", "0x81000100", "-o", "before.pub"]);
    let site = Site::on(tpm);
    let wrapped = site.wrap(&[1; 32]);
    refused(site.try_import(&wrapped), "auth_key_index");
    refused(site.try_sign(b"x"), "no auth key");
    let (tpm, setup) = site.stop_and_check();
    tpm.tpm2("tpm2_readpublic", &["-c", "0x81000100", "-o", "after.pub"]);
    assert_eq!(tpm.read("before.pub"), tpm.read("after.pub"));
    // Another index is free.
    let site = Site { tpmd: setup.config("auth_key_index = 0x101\n").start(), tpm };
    site.try_import(&wrapped).expect(200);
    site.signs_with(&[1; 32]);
}

#[test]
fn decided_an_auth_key_that_appeared_meanwhile_is_replaced() {
    let site = Site::start();
    let (first, second) = (site.wrap(&[2; 32]), site.wrap(&[3; 32]));
    // Another instance of tpmd imports a key of which this one does not know.
    let other = super::setup(&site.tpm).start();
    other.client().post("/import_auth_key", &json!({ "key": base64(&first) })).expect(200);
    drop(other);
    site.try_import(&second).expect(200);
    site.signs_with(&[3; 32]);
    let (tpm, _) = site.stop_and_check();
    assert_eq!(tpm.handles("persistent").len(), 3);
}

/// The length of credential and secret.
const CREDENTIAL: usize = 54 + 258;
