//! TLS with keys that are in no file: in a token (SoftHSM2) and in a TPM. For the program that uses a key that makes no
//! difference, so the journeys are those of keys in files. Checklist 12, 27, 41, 50.
//!
//! TLS 1.3 with an RSA key is the test of the stores: the provider pads (RSA-PSS), the store has only to raise a number to
//! its private power, which not every token does for a key that it made itself.

use std::os::unix::fs::chown;
use std::path::Path;
use std::{fs, io};

use suite_tests::harness::{KEYD, Setup};
use suite_tests::keys::key_file;
use suite_tests::softhsm::SoftHsm;
use suite_tests::swtpm::Swtpm;

use super::engine::{authority_server_and_client, equipped, shake as shake_with_engine};
use super::programs::serve_and_reload;
use super::provider::{names, shake};
use super::world::{KEYD_USER, KINDS, World, has_engine, is_root};

/// A world whose keys are elsewhere. The daemon ends first.
struct Site {
    world: World,
    _place: Place,
}

/// What has to live as long as keyd.
#[expect(dead_code, reason = "it lives, that is all")]
enum Place {
    SoftHsm(SoftHsm),
    Tpm(Swtpm),
}

impl Site {
    fn softhsm() -> Self {
        let token = SoftHsm::new();
        give(token.config().parent().unwrap());
        let world = World::of(token.base_slot(Setup::new(&KEYD)));
        for kind in KINDS {
            let (private, public) =
                (format!("{kind}: Private Key Object"), format!("{kind}: Public Key Object"));
            let objects = token.objects();
            let has = |object: &str| objects.iter().any(|found| found.starts_with(object));
            assert!(has(&private) && has(&public), "{objects:?}");
            assert!(!key_file(&world.keyd.home(), kind).exists());
        }
        Self { world, _place: Place::SoftHsm(token) }
    }

    fn tpm() -> Self {
        let tpm = Swtpm::start();
        give(tpm.path());
        let config = format!("[tpm]\ntcti = '{}'\nnew_keys = true\n", tpm.tcti());
        let world = World::of(Setup::new(&KEYD).config(&config));
        for kind in KINDS {
            let text = fs::read_to_string(key_file(&world.keyd.home(), kind)).unwrap();
            assert!(text.starts_with("-----BEGIN TSS2 PRIVATE KEY-----"), "{text}");
        }
        Self { world, _place: Place::Tpm(tpm) }
    }
}

macro_rules! in_every_store {
    ($($store:ident),+ => $journeys:tt) => { $(in_every_store!(@ $store $journeys);)+ };
    (@ $store:ident [$($journey:ident),+ $(,)?]) => {
        mod $store {
            $(#[test] fn $journey() { super::$journey(super::Site::$store()); })+
        }
    };
}

in_every_store!(softhsm, tpm => [
    engine_41_50_mutual_tls_by_every_name,
    engine_41_suites_and_groups,
    engine_50_nginx_serves_curl_and_reloads,
    engine_12_mutual_tls_with_the_engine,
]);

fn engine_41_50_mutual_tls_by_every_name(site: Site) {
    let Site { world, _place } = site;
    for kind in KINDS {
        let certificate = world.certificate("own.crt", &format!("aziot:id={kind}"));
        for name in names(&world, kind) {
            for version in ["-tls1_2", "-tls1_3"] {
                shake(&world, &name, &certificate, version);
            }
        }
    }
}

/// What a peer may ask of the key: each scheme that TLS has for it, and to decrypt.
fn engine_41_suites_and_groups(site: Site) {
    let Site { world, _place } = site;
    for (kind, schemes) in [
        ("ec-p256", &["-tls1_3 -sigalgs ecdsa_secp256r1_sha256", "-tls1_2 -sigalgs ECDSA+SHA512"][..]),
        (
            "rsa-2048",
            &[
                "-tls1_3 -sigalgs rsa_pss_rsae_sha256",
                "-tls1_3 -sigalgs rsa_pss_rsae_sha512",
                "-tls1_2 -sigalgs rsa_pss_rsae_sha256",
                "-tls1_2 -sigalgs RSA+SHA256",
                "-tls1_2 -cipher AES128-GCM-SHA256",
            ],
        ),
    ] {
        let name = format!("aziot:id={kind}");
        let certificate = world.certificate("own.crt", &name);
        schemes.iter().for_each(|scheme| drop(shake(&world, &name, &certificate, scheme)));
    }
}

fn engine_50_nginx_serves_curl_and_reloads(site: Site) {
    let Site { world, _place } = site;
    KINDS.iter().for_each(|kind| serve_and_reload(&world, kind, 20));
}

fn engine_12_mutual_tls_with_the_engine(site: Site) {
    if !has_engine() {
        return;
    }
    let Site { world, _place } = site;
    let world = equipped(world);
    KINDS.iter().for_each(|kind| shake_with_engine(&world, kind));
}

/// Upstream's own test of its engine, with keys in a token.
#[test]
fn engine_27_an_authority_a_server_and_a_client_in_softhsm() {
    if !has_engine() {
        return;
    }
    let Site { world, _place } = Site::softhsm();
    let world = equipped(world);
    for algorithm in ["ec-p256", "rsa-2048", "rsa-4096"] {
        authority_server_and_client(&world, algorithm);
        let keys = fs::read_dir(world.keyd.home().join("keys")).map_or(0, Iterator::count);
        assert_eq!(keys, 0, "even the key that makes handles is in the token");
    }
}

/// Gives a directory with all that is in it to keyd's user.
fn give(directory: &Path) {
    fn give_all(path: &Path) -> io::Result<()> {
        chown(path, Some(KEYD_USER), Some(KEYD_USER))?;
        if path.is_dir() {
            for entry in fs::read_dir(path)? {
                give_all(&entry?.path())?;
            }
        }
        Ok(())
    }
    if is_root() {
        give_all(directory).unwrap();
    }
}
