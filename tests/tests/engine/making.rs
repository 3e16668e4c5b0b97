//! Keys made in keyd by the openssl command, and keys in keyd written by it: as a reference, as text, in other forms.
//! Spec openssl-engine, K8, E1, E2; checklist 32.

use std::fs;
use std::process::Output;

use suite_tests::keys::Keys;

use super::provider::names;
use super::world::{KINDS, World, run, succeed};

fn make(world: &World, words: &str, id: &str) -> Output {
    let words = format!("genpkey -propquery ?provider=aziot -algorithm {words} -pkeyopt aziot-key-id:{id}");
    run(&mut world.openssl_command(&words, ""))
}

#[track_caller]
fn refused(output: &Output, reason: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    assert!(errors.contains(reason), "{errors}");
}

#[test]
fn keys_of_the_wanted_kind_are_made_in_keyd() {
    let world = World::new();
    for (index, (words, expected)) in [
        ("RSA", Ok("2048 bit")),
        ("RSA -pkeyopt bits:2048", Ok("2048 bit")),
        ("RSA -pkeyopt bits:3072", Ok("3072 bit")),
        // Keys of 4096 bits are made in the same way, for half a minute on a busy machine.
        ("RSA -pkeyopt rsa_keygen_bits:3072 -pkeyopt rsa_keygen_pubexp:65537", Ok("3072 bit")),
        ("RSA -pkeyopt bits:1024", Err("2048, 3072 or 4096 bits")),
        ("RSA -pkeyopt bits:2047", Err("2048, 3072 or 4096 bits")),
        ("RSA -pkeyopt rsa_keygen_pubexp:3", Err("public exponent 65537")),
        ("EC", Ok("ASN1 OID: prime256v1")),
        ("EC -pkeyopt group:P-256", Ok("ASN1 OID: prime256v1")),
        ("EC -pkeyopt group:P-384", Ok("ASN1 OID: secp384r1")),
        ("EC -pkeyopt ec_paramgen_curve:secp384r1", Ok("ASN1 OID: secp384r1")),
        ("EC -pkeyopt group:P-521", Err("P-256 or P-384")),
        ("EC -pkeyopt group:secp256k1", Err("P-256 or P-384")),
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("made-{index}");
        let (output, uri) = (make(&world, words, &id), format!("aziot:id={id}"));
        match expected {
            Ok(kind) => {
                assert!(output.status.success(), "{words}: {output:?}");
                let text = world.openssl("pkey -in {} -text_pub -noout", &uri);
                assert!(text.contains(kind), "{words}: {text}");
                // What the command writes is a key file that works.
                let file = world.write("made.key", &output.stdout);
                let public = world.openssl("pkey -in {} -pubout", &uri);
                assert_eq!(world.openssl("pkey -in {} -pubout", &file), public);
                assert_eq!(
                    fs::read_to_string(&file).unwrap(),
                    fs::read_to_string(world.reference(&id)).unwrap()
                );
            }
            Err(reason) => {
                refused(&output, reason);
                let absent = world.openssl_fails("pkey -in {} -pubout", &uri);
                assert!(absent.contains("there is no key"), "{absent}");
            }
        }
    }
}

#[test]
fn a_request_and_its_key_are_made_at_once() {
    let world = World::new();
    for (order, id) in [("-propquery ?provider=aziot", "one"), ("-provider aziot -provider default", "two")] {
        let words = "-newkey rsa:3072 -keyout new.key -subj /CN=x -out new.csr -pkeyopt aziot-key-id:";
        world.openssl(&format!("req {order} {words}{id}"), "");
        let public = world.openssl("pkey -in {} -pubout", &format!("aziot:id={id}"));
        assert_eq!(world.openssl("pkey -in new.key -pubout", ""), public);
        assert_eq!(world.openssl("req -in new.csr -noout -pubkey", ""), public);
        assert!(world.openssl("req -in new.csr -verify -noout -text", "").contains("(3072 bit)"));
    }
}

#[test]
fn a_key_that_is_there_is_kept_if_it_is_of_the_wanted_kind() {
    let world = World::new();
    for kind in KINDS {
        let uri = format!("aziot:id={kind}");
        let public = world.openssl("pkey -in {} -pubout", &uri);
        let (fits, others) = match kind {
            "ec-p256" => (["EC", "EC -pkeyopt group:P-256"], ["EC -pkeyopt group:P-384", "RSA"]),
            _ => (["RSA", "RSA -pkeyopt bits:2048"], ["RSA -pkeyopt bits:4096", "EC"]),
        };
        fits.iter().for_each(|words| assert!(make(&world, words, kind).status.success(), "{words}"));
        others.iter().for_each(|words| refused(&make(&world, words, kind), "a key of another kind"));
        assert_eq!(world.openssl("pkey -in {} -pubout", &uri), public);
    }
}

#[test]
fn engine_32_a_private_key_is_written_as_a_reference_and_a_handle_never() {
    let world = World::new();
    for kind in KINDS {
        let [by_id, by_handle, file] = names(&world, kind);
        let reference = fs::read_to_string(&file).unwrap();
        assert_eq!(world.openssl("pkey -in {}", &by_id), reference);
        assert_eq!(world.openssl("pkey -in {}", &file), reference);
        refused(&run(&mut world.openssl_command("pkey -in {}", &by_handle)), "stays in keyd");
        for name in [&by_id, &by_handle, &file] {
            refused(&run(&mut world.openssl_command("pkey -in {} -outform DER", name)), "stays in keyd");
        }
    }
}

/// A key as text without what versions of OpenSSL write differently: the title, where lines end, a leading zero.
fn content(text: &str) -> String {
    let (_title, rest) = text.split_once('\n').unwrap();
    rest.split_whitespace().collect::<String>().replacen("Modulus:00:", "Modulus:", 1)
}

#[test]
fn keys_are_described_as_text() {
    let world = World::new();
    for kind in KINDS {
        let public = world.openssl("pkey -in {} -text_pub -noout", &format!("aziot:id={kind}"));
        for name in names(&world, kind) {
            let text = world.openssl("pkey -in {} -text -noout", &name);
            let (private, rest) = text.split_once('\n').unwrap();
            let named = if name.contains("handle=") { "the given handle" } else { kind };
            assert!(private.starts_with("Private-Key: in keyd, ") && private.contains(named), "{text}");
            assert_eq!(content(rest), content(&public));
        }
    }
    // Without OpenSSL's default provider too.
    let words = "pkey -provider aziot -provider base -in {} -text -noout";
    let text = succeed(
        world
            .openssl_command(words, "aziot:id=rsa-2048")
            .env("OPENSSL_CONF", "/dev/null")
            .env("AZIOT_KEYD_SOCKET", world.socket_uri()),
    );
    assert!(text.contains("in keyd") && text.contains("Modulus:"), "{text}");
}

#[test]
fn the_older_commands_take_keys_in_keyd() {
    let world = World::new();
    for (command, kind) in [("ec", "ec-p256"), ("rsa", "rsa-2048")] {
        let uri = format!("aziot:id={kind}");
        let public = world.openssl("pkey -in {} -pubout", &uri);
        assert_eq!(world.openssl(&format!("{command} -in {{}} -pubout"), &uri), public);
        assert!(world.openssl(&format!("{command} -in {{}} -noout -text"), &uri).contains("in keyd"));
        let reference = fs::read_to_string(world.reference(kind)).unwrap();
        assert_eq!(world.openssl(&format!("{command} -in {{}}"), &uri), reference);
    }
    // How the public part is written may be chosen.
    let [long, short] = ["uncompressed", "compressed"].map(|form| {
        world.openssl(&format!("ec -in {{}} -noout -text -conv_form {form}"), "aziot:id=ec-p256")
    });
    assert!(short.len() < long.len(), "{short}");
}

#[test]
fn ordinary_keys_that_the_provider_has_are_written_as_before() {
    let world = World::new();
    let order = "-provider aziot -provider default";
    for algorithm in ["RSA -pkeyopt rsa_keygen_bits:2048", "EC -pkeyopt ec_paramgen_curve:P-256"] {
        // Made by this provider, which is asked first, but not in keyd.
        world.openssl(&format!("genpkey {order} -propquery ?provider=aziot -algorithm {algorithm} -aes256 -pass pass:x -out encrypted.key"), "");
        let file = fs::read_to_string(world.file("encrypted.key")).unwrap();
        assert!(file.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{file}");
        world.openssl(&format!("pkey {order} -in encrypted.key -passin pass:x -check -noout"), "");
        let text = world.openssl("pkey -in encrypted.key -passin pass:x -text -noout", "");
        assert!(text.starts_with("Private-Key: (") && !text.contains("keyd"), "{text}");
        let keyd = world.keyd.client();
        assert!(keyd.load_pair("ec-p256").starts_with("sr="), "keyd still serves");
    }
}
