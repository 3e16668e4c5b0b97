//! The provider under the openssl command and the C API: checklist 28-42, 46-50.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use suite_tests::harness::{KEYD, Setup};
use suite_tests::keys::Keys;

use super::world::{KINDS, Running, World, free_port, provider_module, run, succeed};

/// The ways to name a key of this kind.
pub(crate) fn names(world: &World, kind: &str) -> [String; 3] {
    let handle = world.keyd.client().load_pair(kind);
    [format!("aziot:id={kind}"), format!("aziot:handle={handle}"), world.reference(kind)]
}

#[test]
fn engine_28_it_is_listed_while_keyd_is_down() {
    let mut world = World::new();
    world.keyd.kill();
    let list = world.openssl("list -providers", "");
    let (_, own) = list.split_once("  aziot\n").expect("the provider is listed by its name");
    assert!(own.contains("name: Azure IoT Keys Service provider"), "{list}");
    assert!(own.contains("status: active") && own.contains("version: "), "{list}");
}

#[test]
fn engine_29_one_symbol_is_exported() {
    let symbols =
        succeed(std::process::Command::new("nm").args(["-D", "--defined-only"]).arg(provider_module()));
    let names: Vec<_> = symbols.lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(names, ["OSSL_provider_init"]);
}

#[test]
fn engine_30_31_one_private_key_whose_public_part_is_keyds() {
    let world = World::new();
    for kind in KINDS {
        let handle = world.keyd.client().load_pair(kind);
        let expected = String::from_utf8(world.keyd.client().public_key(&handle)).unwrap();
        for name in names(&world, kind) {
            assert_eq!(world.openssl("pkey -in {} -pubout", &name), expected, "{name}");
        }
        let listed = world.openssl("storeutl -keys {}", &format!("aziot:id={kind}"));
        assert!(listed.contains("0: Pkey") && listed.contains("Total found: 1"), "{listed}");
        let public = world.openssl("storeutl {}", &format!("aziot:id={kind}?type=public"));
        assert!(public.contains("0: Public key"), "{public}");
        let nothing = run(&mut world.openssl_command("storeutl -certs {}", &format!("aziot:id={kind}")));
        assert!(!String::from_utf8_lossy(&nothing.stdout).contains("Pkey"), "only certificates are wanted");
    }
}

#[test]
fn engine_31_only_the_base_provider_is_needed_beside() {
    let world = World::new();
    let expected = world.openssl("pkey -in {} -pubout", "aziot:id=rsa-2048");
    let words = "pkey -provider aziot -provider base -in {} -pubout";
    let seen = succeed(
        world
            .openssl_command(words, "aziot:id=rsa-2048")
            .env("OPENSSL_CONF", "/dev/null")
            .env("AZIOT_KEYD_SOCKET", world.socket_uri()),
    );
    assert_eq!(seen, expected);
}

#[test]
fn engine_33_34_handles_are_raw_and_ids_are_encoded() {
    let world = World::new();
    let client = world.keyd.client();
    let id = "wé/ird %41 id?&=";
    client.create_pair(id, "ec-p256");
    world.openssl("pkey -in {} -pubout -noout", "aziot:id=w%C3%A9%2Fird%20%2541%20id%3F%26%3D");
    world.openssl("pkey -in {} -pubout -noout", &world.reference("ec-p256"));
    let mut handle = client.load_pair("ec-p256");
    for _ in 0..1000 {
        if handle.contains('+') && handle.contains('/') && handle.contains('=') {
            break;
        }
        handle = client.load_pair("ec-p256");
    }
    world.openssl("pkey -in {} -pubout -noout", &format!("aziot:handle={handle}"));
    world.openssl("pkey -in {} -pubout -noout", &format!("aziot:{handle}"));
}

#[test]
fn engine_36_requests_certificates_and_messages() {
    let world = World::new();
    fs::write(world.file("data"), "text").unwrap();
    fs::write(world.file("index"), "").unwrap();
    fs::write(world.file("extensions"), "basicConstraints = CA:FALSE\n").unwrap();
    fs::write(world.file("serial"), "01\n").unwrap();
    let authority = "[ca]\ndefault_ca=c\n[c]\ndatabase=index\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\n\
                     default_days=1\npolicy=p\n[p]\ncommonName=supplied\n";
    let configuration = fs::read_to_string(world.file("openssl.cnf")).unwrap();
    world.write("openssl.cnf", configuration + authority);
    for kind in KINDS {
        for name in names(&world, kind) {
            let certificate = world.certificate("own.crt", &name);
            world.openssl(&format!("verify -CAfile {certificate} {certificate}"), "");
            world.openssl("req -new -key {} -subj /CN=other -out other.csr", &name);
            world.openssl("req -in other.csr -verify -noout", "");
            world.openssl(
                "x509 -req -in other.csr -CA own.crt -CAkey {} -CAcreateserial -extfile extensions -out other.crt",
                &name,
            );
            world.openssl("verify -CAfile own.crt other.crt", "");
            world.openssl("ca -batch -notext -keyfile {} -cert own.crt -in other.csr -out ca.crt", &name);
            fs::write(world.file("index"), "").unwrap();
            world.openssl("cms -sign -nodetach -signer own.crt -inkey {} -in data -out data.cms", &name);
            world.openssl("cms -verify -CAfile own.crt -in data.cms -out data.out -purpose any", "");
            assert_eq!(fs::read(world.file("data.out")).unwrap(), b"text");
        }
    }
    let rsa = world.certificate("own.crt", "aziot:id=rsa-2048");
    world.openssl(&format!("cms -encrypt -in data -out data.cms {rsa}"), "");
    world.openssl("cms -decrypt -recip own.crt -inkey {} -in data.cms -out data.out", "aziot:id=rsa-2048");
    assert_eq!(fs::read(world.file("data.out")).unwrap(), b"text");
}

#[test]
fn engine_37_38_signatures_of_data_and_digests() {
    let world = World::new();
    fs::write(world.file("data"), "text").unwrap();
    for kind in KINDS {
        let name = format!("aziot:id={kind}");
        world.openssl("pkey -in {} -pubout -out public", &name);
        world.openssl("dgst -sha256 -binary -out digest data", "");
        for md in ["sha1", "sha256", "sha384", "sha512", "sha3-256"] {
            world.openssl(&format!("dgst -{md} -sign {{}} -out signature data"), &name);
            world.openssl(&format!("dgst -{md} -verify public -signature signature data"), "");
        }
        for (given, options) in [("digest", "-pkeyopt digest:sha256"), ("data", "-rawin -digest sha256")] {
            world.openssl(&format!("pkeyutl -sign -inkey {{}} -in {given} {options} -out signature"), &name);
            let verify =
                format!("pkeyutl -verify -pubin -inkey public -in {given} {options} -sigfile signature");
            world.openssl(&verify, "");
            // Our own key verifies too.
            world.openssl(
                &format!("pkeyutl -verify -inkey {{}} -in {given} {options} -sigfile signature"),
                &name,
            );
        }
        fs::write(world.file("data"), "text").unwrap();
    }
    for salt in ["digest", "max", "auto", "20", "0"] {
        let options = format!("-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:{salt}");
        world.openssl(&format!("dgst -sha256 {options} -sign {{}} -out signature data"), "aziot:id=rsa-2048");
        world.openssl(&format!("dgst -sha256 {options} -verify public -signature signature data"), "");
    }
    for word in ["auto-digestmax", "sometimes"] {
        let sign = |salt| format!("dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:{salt}");
        let words = format!("{} -sign {{}} -out signature data", sign(word));
        // The first is known from OpenSSL 3.1 on. A salt of no length is not what anybody has asked for.
        let output = run(&mut world.openssl_command(&words, "aziot:id=rsa-2048"));
        if output.status.success() {
            world.openssl(&format!("{} -verify public -signature signature data", sign("32")), "");
        } else {
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("does not know this PSS salt length"), "{error}");
        }
    }
    let mixed = "-sigopt rsa_padding_mode:pss -sigopt rsa_mgf1_md:sha1";
    world.openssl(&format!("dgst -sha512 {mixed} -sign {{}} -out signature data"), "aziot:id=rsa-2048");
    world.openssl(&format!("dgst -sha512 {mixed} -verify public -signature signature data"), "");
    let raw = "-pkeyopt rsa_padding_mode:pkcs1";
    world.openssl(&format!("pkeyutl -sign -inkey {{}} -in data {raw} -out signature"), "aziot:id=rsa-2048");
    let recovered = world.openssl("pkeyutl -verifyrecover -inkey {} -in signature", "aziot:id=rsa-2048");
    assert_eq!(recovered, "text");
}

#[test]
fn engine_39_decryption() {
    let world = World::new();
    fs::write(world.file("data"), "text").unwrap();
    let key = "aziot:id=rsa-2048";
    world.openssl("pkey -in {} -pubout -out public", key);
    for options in [
        "-pkeyopt rsa_padding_mode:pkcs1",
        "-pkeyopt rsa_padding_mode:oaep",
        "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256",
        "-pkeyopt rsa_padding_mode:oaep -pkeyopt rsa_oaep_md:sha256 -pkeyopt rsa_mgf1_md:sha1 -pkeyopt rsa_oaep_label:aabb",
    ] {
        world.openssl(&format!("pkeyutl -encrypt -pubin -inkey public -in data {options} -out secret"), "");
        assert_eq!(world.openssl(&format!("pkeyutl -decrypt -inkey {{}} -in secret {options}"), key), "text");
        let mut secret = fs::read(world.file("secret")).unwrap();
        secret[100] ^= 1;
        fs::write(world.file("secret"), secret).unwrap();
        let output =
            run(&mut world
                .openssl_command(&format!("pkeyutl -decrypt -inkey {{}} -in secret {options}"), key));
        assert_ne!(output.stdout, b"text");
        assert_eq!(
            output.status.success(),
            options.contains("pkcs1"),
            "PKCS #1 errors do not show, {options}"
        );
    }
}

#[test]
fn engine_40_certificate_and_key_must_match() {
    let world = World::new();
    for kind in KINDS {
        world.keyd.client().create_pair(&format!("other-{kind}"), kind);
        let certificate = world.certificate("own.crt", &format!("aziot:id={kind}"));
        for name in names(&world, kind) {
            world.probe(&["match", &certificate, &name, &format!("aziot:id=other-{kind}")]);
        }
    }
}

/// Mutual TLS between `openssl s_server` and `s_client`, both with this key; what the client says.
#[track_caller]
pub(crate) fn shake(world: &World, key: &str, certificate: &str, options: &str) -> String {
    let port = free_port();
    let common = format!("-cert {certificate} -key {{}} -CAfile {certificate} {options}");
    let serve =
        format!("s_server -accept 127.0.0.1:{port} -Verify 1 -verify_return_error -www -quiet {common}");
    let _server = Running::server(&mut world.openssl_command(&serve, key), port);
    let connect = format!("s_client -connect 127.0.0.1:{port} -verify_return_error -ign_eof {common}");
    let mut client = world.openssl_command(&connect, key);
    let client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    client.stdin.as_mut().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("HTTP/1.0 200 ok") && text.contains("Verify return code: 0 (ok)"),
        "{text}\n{errors}"
    );
    text
}

#[test]
fn engine_41_42_50_mutual_tls() {
    let world = World::new();
    for kind in KINDS {
        for name in names(&world, kind) {
            let certificate = world.certificate("own.crt", &name);
            for version in ["-tls1_2", "-tls1_3"] {
                shake(&world, &name, &certificate, version);
            }
        }
        let name = format!("aziot:id={kind}");
        let certificate = world.certificate("own.crt", &name);
        for version in ["-tls1_2", "-tls1_3"] {
            shake(&world, &name, &certificate, &format!("{version} -propquery ?provider=aziot"));
            let order = "-provider aziot -provider default";
            let first = shake(&world, &name, &certificate, &format!("{version} {order} -groups P-256"));
            assert!(
                first.contains("prime256v1") || first.contains("P-256") || first.contains("secp256r1"),
                "{first}"
            );
        }
    }
    let rsa = world.certificate("own.crt", "aziot:id=rsa-2048");
    let exchange = "-tls1_2 -cipher AES128-SHA:AES128-GCM-SHA256";
    let seen = shake(&world, "aziot:id=rsa-2048", &rsa, exchange);
    assert!(seen.contains("Cipher is AES128"), "RSA key exchange decrypts: {seen}");
}

#[test]
fn engine_42_ordinary_keys_are_not_disturbed() {
    let world = World::new();
    world.probe(&["ordinary"]);
    let first = world
        .configuration("socket", &world.socket_uri())
        .replace("default = others\naziot = own\n", "aziot = own\ndefault = others\n");
    world.write("openssl.cnf", first);
    world.probe(&["ordinary"]);
    for algorithm in ["RSA -pkeyopt rsa_keygen_bits:2048", "EC -pkeyopt ec_paramgen_curve:P-384", "ED25519"] {
        let order = "-provider aziot -provider default";
        world.openssl(&format!("genpkey {order} -algorithm {algorithm} -out ordinary.key"), "");
        world.openssl(&format!("pkey {order} -in ordinary.key -check -noout"), "");
        world.openssl("pkey -in ordinary.key -aes256 -passout pass:x -out encrypted.key", "");
        world.openssl("pkey -in encrypted.key -passin pass:x -noout", "");
        world.openssl(&format!("req {order} -new -x509 -key ordinary.key -subj /CN=x -out ordinary.crt"), "");
        world.openssl("verify -CAfile ordinary.crt ordinary.crt", "");
    }
}

#[test]
fn engine_46_47_48_49_copies_exports_contexts_threads_and_forks() {
    let world = World::new();
    for kind in KINDS {
        for name in names(&world, kind) {
            succeed(world.bare_probe().args(["loop", &name, "5"]));
            succeed(world.bare_probe().args(["contexts", &name]));
            world.probe(&["threads", &name]);
            world.probe(&["export", &name]);
        }
    }
}

#[test]
fn other_curves_work_where_keyd_has_them() {
    let keyd = Setup::new(&KEYD).start();
    let reply = keyd
        .client()
        .post("/keypair", &serde_json::json!({ "keyId": "p384", "preferredAlgorithms": "ec-p384" }));
    if reply.status != 200 {
        return; // upstream's does not
    }
    let world = World::with(keyd);
    let certificate = world.certificate("own.crt", "aziot:id=p384");
    shake(&world, "aziot:id=p384", &certificate, "-tls1_2");
    shake(&world, "aziot:id=p384", &certificate, "-tls1_3");
}
