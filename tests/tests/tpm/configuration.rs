//! tpmd's settings: checklist 29 to 33, 35, 36.

use std::time::Duration;

use suite_tests::{
    harness::{Setup, TPMD},
    http::PATIENCE,
    swtpm::Swtpm,
};

use super::{AUTH_KEY, Site, refused, setup};

/// As upstream's admin tool writes strings.
fn bytes(text: &str) -> String {
    format!("{:?}", text.as_bytes())
}

#[test]
fn tpm_29_byte_arrays_are_strings() {
    let tpm = Swtpm::start();
    tpm.tpm2("tpm2_changeauth", &["-c", "owner", "own-me"]);
    tpm.tpm2("tpm2_changeauth", &["-c", "endorsement", "endorse-me"]);
    let config = format!(
        "tcti = {}\n[hierarchy_authorization]\nendorsement = {}\nowner = {}\n",
        bytes(&tpm.tcti()),
        bytes("endorse-me"),
        bytes("own-me")
    );
    let site = Site { tpmd: Setup::new(&TPMD).drop_in("00-super.toml", &config).start(), tpm };
    site.import(&[1; 32]);
    site.signs_with(&[1; 32]);
}

#[test]
fn tpm_30_the_index_of_the_auth_key() {
    let site = Site::with(Swtpm::start(), "auth_key_index = 0x7FFFFF\n");
    site.import(&[1; 32]);
    site.signs_with(&[1; 32]);
    let (tpm, setup) = site.stop_and_check();
    let handles = tpm.handles("persistent");
    assert!(handles.contains(&0x817F_FFFF) && !handles.contains(&AUTH_KEY), "{handles:x?}");
    drop(setup);
    for bad in ["0x800000", "-1", "'0x000100'"] {
        let ended = super::setup(&tpm).config(&format!("auth_key_index = {bad}\n")).start_and_end();
        assert_eq!(ended.status.code(), Some(1), "{bad}");
        assert!(ended.log.contains("auth_key_index"), "{}", ended.log);
    }
}

#[test]
fn tpm_31_values_that_cannot_be() {
    for bad in [
        "tcti = \"swtpm\\u0000\"",
        "tcti = 7",
        "tcti = [300]",
        "tcti = [115, 0]",
        "tcti = ['s']",
        "hierarchy_authorization = { owner = [-1] }",
    ] {
        let ended = Setup::new(&TPMD).config(bad).start_and_end();
        assert_eq!(ended.status.code(), Some(1), "{bad}");
        assert!(ended.log.contains("tcti") || ended.log.contains("owner"), "{}", ended.log);
    }
    let secret = format!("hierarchy_authorization = {{ owner = '{}' }}", "s3cr3t".repeat(11));
    let ended = Setup::new(&TPMD).config(&secret).start_and_end();
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.log.contains("64 bytes") && !ended.log.contains("s3cr3t"), "{}", ended.log);
}

/// What the loader does with it depends on the machine; that it is left to the loader is what counts.
#[test]
fn tpm_32_33_the_loader_gets_the_string_as_it_is() {
    for (tcti, trace) in
        [("", "tctildr"), ("device", "device"), ("device:/dev/no-such-tpm", "/dev/no-such-tpm")]
    {
        if tcti == "device" && std::path::Path::new("/dev/tpmrm0").exists() {
            continue; // tests leave the TPM of this machine alone
        }
        if tcti.is_empty() && (std::path::Path::new("/dev/tpm0").exists()) {
            continue;
        }
        let tpmd =
            Setup::new(&TPMD).config(&format!("tcti = '{tcti}'\n")).env("TSS2_LOG", "all+debug").start();
        tpmd.wait_for_log(PATIENCE, |line| line.contains("cannot be reached"));
        refused(tpmd.client().get("/get_tpm_keys"), "cannot be used at present");
        let log = tpmd.log();
        assert!(log.contains(trace), "{log}");
        if tcti == "device" {
            let (first, second) = (log.find("/dev/tpmrm0"), log.find("/dev/tpm0"));
            assert!(first.is_some() && first < second, "the resource manager is preferred: {log}");
        }
    }
}

#[test]
fn tpm_35_files_are_merged_and_unknown_keys_ignored() {
    let tpm = Swtpm::start();
    let config = "tcti = 'swtpm:path=/nowhere'\nauth_key_index = 1\nsurprise = 'x'\n";
    let tpmd = setup(&tpm).config(config).drop_in("50-index.toml", "auth_key_index = 2\n").start();
    let site = Site { tpmd, tpm };
    site.import(&[1; 32]);
    site.tpmd.wait_until_logged("surprise");
    let (tpm, _) = site.stop_and_check();
    assert!(tpm.handles("persistent").contains(&0x8100_0002));
}

#[test]
fn tpm_36_changes_wait_for_a_restart() {
    let mut site = Site::start();
    site.import(&[1; 32]);
    site.tpmd.write_drop_in("60-new.toml", "auth_key_index = 7\n");
    site.tpmd.wait_for_log(PATIENCE, |line| line.contains("auth_key_index has changed"));
    std::thread::sleep(Duration::from_millis(100));
    site.signs_with(&[1; 32]);
    site.tpmd.restart();
    refused(site.try_sign(b"x"), "no auth key");
}
