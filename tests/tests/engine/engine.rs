//! The ENGINE under the openssl command and the C API: checklist 2-16, 18-21, 24, 25. Where OpenSSL has no ENGINE these
//! journeys end at once.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use suite_tests::keys::Keys;

use super::world::{KINDS, Running, World, engine_module, free_port, has_engine, probe, run, succeed};

/// A world with the engine and without the provider.
pub(crate) fn world() -> Option<World> {
    if !has_engine() {
        eprintln!("this OpenSSL has no ENGINE");
        return None;
    }
    Some(equipped(World::new()))
}

/// This world with the engine instead of the provider.
pub(crate) fn equipped(world: World) -> World {
    fs::create_dir(world.file("engines")).unwrap();
    fs::copy(engine_module(), world.file("engines/aziot_keys.so")).unwrap();
    world.write("openssl.cnf", "[req]\ndistinguished_name = name\n[name]\n");
    world
}

/// A command that finds the engine.
pub(crate) fn with_engine(world: &World, mut command: Command) -> Command {
    command.env("OPENSSL_ENGINES", world.file("engines")).env("AZIOT_KEYD_SOCKET", world.socket_uri());
    command
}

#[track_caller]
fn openssl(world: &World, words: &str, key: &str) -> String {
    succeed(&mut with_engine(world, world.openssl_command(words, key)))
}

#[track_caller]
fn probed(world: &World, words: &[&str]) {
    succeed(with_engine(world, world.command(probe())).args(words));
}

#[test]
fn engine_02_the_openssl_command_shows_it() {
    let Some(mut world) = world() else { return };
    world.keyd.kill();
    let shown = openssl(&world, "engine -t -c aziot_keys", "");
    assert!(
        shown.contains("(aziot_keys) An openssl engine that talks to the Azure IoT Keys Service"),
        "{shown}"
    );
    assert!(shown.contains("[id-ecPublicKey, rsaEncryption]") && shown.contains("[ available ]"), "{shown}");
}

#[test]
fn engine_03_the_version_check() {
    let Some(world) = world() else { return };
    probed(&world, &["v-check", &world.path("engines/aziot_keys.so")]);
}

#[test]
fn engine_04_it_is_initialised_while_keyd_is_down() {
    let Some(mut world) = world() else { return };
    let handle = world.keyd.client().load_pair("ec-p256");
    world.keyd.kill();
    probed(&world, &["engine-refused", &handle, "2"]);
}

#[test]
fn engine_05_08_15_20_21_24_25_through_the_c_api() {
    let Some(world) = world() else { return };
    let [ec, rsa] = KINDS.map(|kind| world.keyd.client().load_pair(kind));
    probed(&world, &["engine-checks", &ec, &rsa]);
    let mut command = world.command(probe());
    command.env("OPENSSL_ENGINES", world.file("engines"));
    succeed(command.args(["engine-socket", &world.socket_uri(), &ec]));
}

#[test]
fn engine_06_14_16_18_load_use_copy_and_free_again_and_again() {
    let Some(world) = world() else { return };
    for kind in KINDS {
        let handle = world.keyd.client().load_pair(kind);
        probed(&world, &["engine-loop", &handle, "100"]);
        // As curl and the C SDK do, for all of the process.
        probed(&world, &["engine-loop", &handle, "100", "default"]);
    }
}

#[test]
fn engine_07_09_10_11_19_the_openssl_command_uses_keys() {
    let Some(world) = world() else { return };
    fs::write(world.file("data"), "text").unwrap();
    for kind in KINDS {
        let handle = world.keyd.client().load_pair(kind);
        let public = openssl(&world, "pkey -engine aziot_keys -inform engine -in {} -pubout", &handle);
        assert_eq!(public.as_bytes(), world.keyd.client().public_key(&handle));
        world.write("public", public);
        for md in ["sha256", "sha512"] {
            let sign =
                format!("dgst -engine aziot_keys -keyform engine -{md} -sign {{}} -out signature data");
            openssl(&world, &sign, &handle);
            openssl(&world, &format!("dgst -{md} -verify public -signature signature data"), "");
        }
        let request = "req -x509 -new -engine aziot_keys -keyform engine -key {} -subj /CN=x -out own.crt";
        openssl(&world, request, &handle);
        openssl(&world, "verify -CAfile own.crt own.crt", "");
    }
    let handle = world.keyd.client().load_pair("rsa-2048");
    let pss = "-sigopt rsa_padding_mode:pss";
    let sign =
        format!("dgst -engine aziot_keys -keyform engine -sha256 {pss} -sign {{}} -out signature data");
    openssl(&world, &sign, &handle);
    openssl(&world, &format!("dgst -sha256 {pss} -verify public -signature signature data"), "");
    for padding in ["pkcs1", "oaep"] {
        let options = format!("-pkeyopt rsa_padding_mode:{padding}");
        openssl(&world, &format!("pkeyutl -encrypt -pubin -inkey public -in data {options} -out secret"), "");
        let decrypt =
            format!("pkeyutl -decrypt -engine aziot_keys -keyform engine -inkey {{}} -in secret {options}");
        assert_eq!(openssl(&world, &decrypt, &handle), "text");
    }
}

#[test]
fn messages_and_signatures_of_data_and_digests() {
    let Some(world) = world() else { return };
    world.write("data", "text");
    openssl(&world, "dgst -sha256 -binary -out digest data", "");
    let ours = "-engine aziot_keys -keyform engine";
    for kind in KINDS {
        let handle = world.keyd.client().load_pair(kind);
        openssl(&world, "pkey -engine aziot_keys -inform engine -in {} -pubout -out public", &handle);
        openssl(&world, &format!("req -x509 -new {ours} -key {{}} -subj /CN=x -out own.crt"), &handle);
        openssl(
            &world,
            &format!("cms -sign -nodetach -signer own.crt {ours} -inkey {{}} -in data -out data.cms"),
            &handle,
        );
        openssl(&world, "cms -verify -CAfile own.crt -in data.cms -out data.out -purpose any", "");
        assert_eq!(fs::read(world.file("data.out")).unwrap(), b"text");
        for (given, options) in [("digest", "-pkeyopt digest:sha256"), ("data", "-rawin -digest sha256")] {
            let sign = format!("pkeyutl -sign {ours} -inkey {{}} -in {given} {options} -out signature");
            openssl(&world, &sign, &handle);
            let verify =
                format!("pkeyutl -verify -pubin -inkey public -in {given} {options} -sigfile signature");
            openssl(&world, &verify, "");
        }
    }
    let rsa = world.keyd.client().load_pair("rsa-2048");
    openssl(&world, "cms -encrypt -in data -out data.cms own.crt", "");
    let decrypt = format!("cms -decrypt -recip own.crt {ours} -inkey {{}} -in data.cms -out data.out");
    openssl(&world, &decrypt, &rsa);
    assert_eq!(fs::read(world.file("data.out")).unwrap(), b"text");
}

#[test]
fn engine_12_mutual_tls() {
    let Some(world) = world() else { return };
    KINDS.iter().for_each(|kind| shake(&world, kind));
}

/// Mutual TLS 1.2 and 1.3 between `openssl s_server` and `s_client`, both with this key through the engine.
#[track_caller]
pub(crate) fn shake(world: &World, kind: &str) {
    let handle = world.keyd.client().load_pair(kind);
    let request =
        "req -x509 -new -engine aziot_keys -keyform engine -key {} -subj /CN=localhost -out own.crt";
    openssl(world, request, &handle);
    for version in ["-tls1_2", "-tls1_3"] {
        let port = free_port();
        let common =
            format!("-engine aziot_keys -keyform engine -key {{}} -cert own.crt -CAfile own.crt {version}");
        let serve =
            format!("s_server -accept 127.0.0.1:{port} -Verify 1 -verify_return_error -www -quiet {common}");
        let mut server = with_engine(world, world.openssl_command(&serve, &handle));
        let _server = Running::server(&mut server, port);
        let connect = format!("s_client -connect 127.0.0.1:{port} -verify_return_error -ign_eof {common}");
        let mut client = with_engine(world, world.openssl_command(&connect, &handle));
        let mut client = client.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        client.stdin.as_mut().unwrap().write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let text = client.wait_with_output().unwrap().stdout;
        let text = String::from_utf8_lossy(&text);
        assert!(text.contains("HTTP/1.0 200 ok"), "{kind} {version}: {text}");
    }
}

#[test]
fn engine_08_a_bad_handle_is_explained() {
    let Some(world) = world() else { return };
    let words = "pkey -engine aziot_keys -inform engine -in {} -pubout";
    let output = run(&mut with_engine(&world, world.openssl_command(words, "sr=x&sig=y")));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("keyd refuses"), "{text}");
}

/// Upstream's own test of its engine, with keys in files.
#[test]
fn engine_27_an_authority_a_server_and_a_client() {
    for algorithm in ["ec-p256", "rsa-2048", "rsa-4096"] {
        let Some(world) = world() else { return };
        authority_server_and_client(&world, algorithm);
        let keys = fs::read_dir(world.keyd.home().join("keys")).unwrap().count();
        assert_eq!(keys, 3 + KINDS.len() + 1, "the pairs, and the key that makes handles");
    }
}

/// An authority, a server and a client, each with a key in keyd.
#[track_caller]
pub(crate) fn authority_server_and_client(world: &World, algorithm: &str) {
    let [authority, server, client] = ["ca", "server", "client"]
        .map(|id| world.keyd.client().create_pair(&format!("27-{id}-{algorithm}"), algorithm));
    let root = "req -x509 -new -engine aziot_keys -keyform engine -key {} -subj /CN=root -days 365 \
                -addext basicConstraints=critical,CA:TRUE -out root.crt";
    openssl(world, root, &authority);
    for (name, key, usage) in [("server", &server, "serverAuth"), ("client", &client, "clientAuth")] {
        let extensions = format!("subjectAltName = IP:127.0.0.1\nextendedKeyUsage = {usage}\n");
        world.write("extensions", extensions);
        let request =
            format!("req -new -engine aziot_keys -keyform engine -key {{}} -subj /CN={name} -out csr");
        openssl(world, &request, key);
        let issue = format!(
            "x509 -req -in csr -CA root.crt -engine aziot_keys -CAkeyform engine -CAkey {{}} -CAcreateserial \
             -extfile extensions -days 30 -sha256 -out {name}.crt"
        );
        openssl(world, &issue, &authority);
        openssl(world, &format!("verify -CAfile root.crt {name}.crt"), "");
    }
    let port = free_port();
    let serve = format!(
        "s_server -accept 127.0.0.1:{port} -www -quiet -Verify 1 -verify_return_error -CAfile root.crt \
         -engine aziot_keys -keyform engine -key {{}} -cert server.crt"
    );
    let _server = Running::server(&mut with_engine(world, world.openssl_command(&serve, &server)), port);
    let mut curl = with_engine(world, world.command("curl"));
    curl.args(["--silent", "--show-error", "--cacert", "root.crt", "--cert", "client.crt"]);
    curl.args(["--engine", "aziot_keys", "--key-type", "ENG", "--key", &client]);
    let page = succeed(curl.arg(format!("https://127.0.0.1:{port}/")));
    assert!(page.contains("s_server"), "{page}");
}
