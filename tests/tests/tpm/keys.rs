//! Endorsement key and storage root key: checklist 9 to 16.

use suite_tests::swtpm::Swtpm;

use super::{ENDORSEMENT_KEY, STORAGE_ROOT_KEY, Site};

#[test]
fn tpm_09_10_11_the_first_start_makes_both_keys() {
    let site = Site::start();
    let (endorsement_key, storage_root_key) = site.keys();
    assert_eq!(endorsement_key.len(), 316);
    assert!(endorsement_key.starts_with(&[1, 0x3A, 0, 1, 0, 0xB, 0, 3, 0, 0xB2, 0, 0x20, 0x83, 0x71]));
    assert_eq!(storage_root_key.len(), 284);
    assert!(storage_root_key.starts_with(&[1, 0x1A, 0, 1, 0, 0xB, 0, 3, 4, 0x72, 0, 0]));
    let (tpm, _) = site.stop_and_check();
    assert_eq!(tpm.handles("persistent"), [STORAGE_ROOT_KEY, ENDORSEMENT_KEY]);
}

/// tpm2-tools make these keys independently of us.
#[test]
fn tpm_12_13_the_keys_are_the_standard_ones_of_this_tpm() {
    let tpm = Swtpm::start();
    tpm.tpm2("tpm2_createek", &["-G", "rsa", "-c", "ek.ctx", "-u", "ek.pub"]);
    let unique = [&[0, 1][..], &[0; 256]].concat(); // 256, in the byte order of this machine
    tpm.write("unique", &unique);
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    let srk = ["-C", "o", "-g", "sha256", "-G", "rsa2048:null:aes128cfb", "-a", attributes, "-u", "unique"];
    tpm.tpm2("tpm2_createprimary", &[&srk[..], &["-c", "srk.ctx"]].concat());
    tpm.tpm2("tpm2_readpublic", &["-c", "srk.ctx", "-o", "srk.pub"]);
    tpm.tpm2("tpm2_flushcontext", &["-t"]);
    let (expected_ek, expected_srk) = (tpm.read("ek.pub"), tpm.read("srk.pub"));
    let (endorsement_key, storage_root_key) = Site::on(tpm).keys();
    assert_eq!(endorsement_key, expected_ek);
    assert_eq!(storage_root_key, expected_srk);
}

#[test]
fn tpm_14_a_lost_endorsement_key_is_made_again() {
    let site = Site::start();
    let keys = site.keys();
    let (tpm, setup) = site.stop();
    tpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", "0x81010001"]);
    assert_eq!(tpm.handles("persistent"), [STORAGE_ROOT_KEY]);
    let site = Site { tpmd: setup.start(), tpm };
    assert_eq!(site.keys(), keys);
}

#[test]
fn tpm_15_a_second_start_needs_nothing() {
    let site = Site::start();
    let keys = site.keys();
    let (tpm, setup) = site.stop();
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", "nobody-knows"]);
    tpm.tpm2("tpm2_changeauth", &["-c", "endorsement", "nobody-knows"]);
    let site = Site { tpmd: setup.start(), tpm };
    assert_eq!(site.keys(), keys);
    assert!(!site.tpmd.log().contains("making the"), "nothing is created");
}

#[test]
fn tpm_16_keys_that_are_there_are_used_as_they_are() {
    let tpm = Swtpm::start();
    for (hierarchy, handle) in [("e", "0x81010001"), ("o", "0x81000001")] {
        tpm.tpm2("tpm2_createprimary", &["-C", hierarchy, "-G", "ecc256", "-c", "ecc.ctx"]);
        tpm.tpm2("tpm2_evictcontrol", &["-C", "o", "-c", "ecc.ctx", handle]);
        tpm.tpm2("tpm2_flushcontext", &["-t"]);
    }
    tpm.tpm2("tpm2_readpublic", &["-c", "0x81010001", "-o", "ek.pub"]);
    tpm.tpm2("tpm2_readpublic", &["-c", "0x81000001", "-o", "srk.pub"]);
    let expected = (tpm.read("ek.pub"), tpm.read("srk.pub"));
    let site = Site::on(tpm);
    assert_eq!(site.keys(), expected);
    site.tpmd.wait_until_logged("of another kind");
    let (tpm, _) = site.stop_and_check();
    assert_eq!(tpm.handles("persistent"), [STORAGE_ROOT_KEY, ENDORSEMENT_KEY]);
}

#[test]
fn decided_keys_that_somebody_removes_meanwhile_are_made_again() {
    let mut site = Site::start();
    let (endorsement_key, _) = site.keys();
    site.import(&[1; 32]);
    // TPM2_Clear: the storage root key becomes another one, the auth key is gone.
    site.tpmd.kill();
    site.tpm.tpm2("tpm2_clear", &["-c", "p"]);
    site.tpmd.restart();
    let (after, storage_root_key) = site.keys();
    assert_eq!((after, storage_root_key.len()), (endorsement_key, 284));
    super::refused(site.try_sign(b"x"), "no auth key");
    site.import(&[2; 32]);
    site.signs_with(&[2; 32]);
}
