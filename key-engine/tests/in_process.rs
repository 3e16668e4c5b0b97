//! Keys of a real keyd in this process, used as the daemons use them: certificates, TLS, many threads, keyd gone.

#![allow(clippy::unwrap_used, reason = "a journey that cannot go on ends by panicking: that is its report")]

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use key_engine::{Error, KeyEngine};
use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::{Signer, Verifier};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::{X509, X509Builder, X509NameBuilder, X509ReqBuilder};
use suite_tests::harness::{Daemon, KEYD, Setup};
use suite_tests::http::wait_for;
use suite_tests::keys::Keys;

const LIMIT: Duration = Duration::from_secs(30);

fn keyd() -> (Daemon, KeyEngine) {
    let keyd = Setup::new(&KEYD).start();
    let engine = KeyEngine::new(keyd.setup().socket_path(), LIMIT).unwrap();
    (keyd, engine)
}

fn certificate(key: &PKey<Private>) -> X509 {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "localhost").unwrap();
    let name = name.build();
    let mut certificate = X509Builder::new().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.sign(key, MessageDigest::sha256()).unwrap();
    certificate.build()
}

fn context(key: &PKey<Private>, certificate: &X509, version: SslVersion) -> SslContext {
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context.set_certificate(certificate).unwrap();
    context.set_private_key(key).unwrap();
    context.check_private_key().unwrap();
    context.cert_store_mut().add_cert(certificate.clone()).unwrap();
    context.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    context.set_min_proto_version(Some(version)).unwrap();
    context.set_max_proto_version(Some(version)).unwrap();
    context.build()
}

/// Mutual TLS with one key at both ends.
fn shake(context: &SslContext) {
    let (near, far) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = SslStream::new(Ssl::new(context).unwrap(), far).unwrap();
            stream.accept().unwrap();
            std::io::Write::write_all(&mut stream, b"x").unwrap();
        });
        let mut stream = SslStream::new(Ssl::new(context).unwrap(), near).unwrap();
        stream.connect().unwrap();
        std::io::Read::read_exact(&mut stream, &mut [0]).unwrap();
    });
}

#[test]
fn certificates_requests_and_tls_with_every_kind_of_key() {
    let (keyd, engine) = keyd();
    for algorithm in ["ec-p256", "rsa-2048"] {
        let handle = keyd.client().create_pair(algorithm, algorithm);
        let key = engine.private_key(&handle).unwrap();
        let certificate = certificate(&key);
        assert!(certificate.verify(&key).unwrap());
        assert!(certificate.public_key().unwrap().public_eq(&key));
        let mut request = X509ReqBuilder::new().unwrap();
        request.set_version(0).unwrap();
        request.set_pubkey(&key).unwrap();
        request.sign(&key, MessageDigest::sha384()).unwrap();
        assert!(request.build().verify(&key).unwrap());
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            shake(&context(&key, &certificate, version));
        }
        let by_id = engine.private_key_by_id(algorithm).unwrap();
        assert!(by_id.public_eq(&key));
    }
}

#[test]
fn pss_and_duplicates() {
    let (keyd, engine) = keyd();
    let key = engine.private_key(&keyd.client().create_pair("r", "rsa-2048")).unwrap();
    let copy = key.clone();
    drop(key);
    let mut signer = Signer::new(MessageDigest::sha512(), &copy).unwrap();
    signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
    signer.update(b"te").unwrap();
    signer.update(b"xt").unwrap();
    let signature = signer.sign_to_vec().unwrap();
    let mut verifier = Verifier::new(MessageDigest::sha512(), &copy).unwrap();
    verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
    assert!(verifier.verify_oneshot(&signature, b"text").unwrap());
}

#[test]
fn nothing_of_the_private_key_comes_out() {
    let (keyd, engine) = keyd();
    for algorithm in ["ec-p256", "rsa-2048"] {
        let key = engine.private_key(&keyd.client().create_pair(algorithm, algorithm)).unwrap();
        assert!(key.private_key_to_pem_pkcs8().is_err() && key.private_key_to_der().is_err());
        assert!(key.public_key_to_pem().is_ok());
        let by_id = engine.private_key_by_id(algorithm).unwrap();
        let pem = String::from_utf8(by_id.private_key_to_pem_pkcs8().unwrap()).unwrap();
        assert!(pem.starts_with("-----BEGIN AZIOT KEY URI-----"), "a name is no secret: {pem}");
        assert!(by_id.private_key_to_der().is_err());
    }
}

#[test]
fn engine_41_a_thousand_handshakes_from_eight_threads_with_a_restart_of_keyd() {
    let (mut keyd, engine) = keyd();
    let key = engine.private_key(&keyd.client().create_pair("e", "ec-p256")).unwrap();
    let context = context(&key, &certificate(&key), SslVersion::TLS1_3);
    let crowd = |count: usize| {
        let left = AtomicUsize::new(count);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let take = |left: usize| left.checked_sub(1);
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                        shake(&context);
                    }
                });
            }
        });
    };
    crowd(500);
    keyd.restart();
    crowd(500);
}

#[test]
fn failures_have_reasons_and_an_end() {
    let (mut keyd, engine) = keyd();
    let handle = keyd.client().create_pair("e", "ec-p256");
    let key = engine.private_key(&handle).unwrap();
    let sign = || Signer::new(MessageDigest::sha256(), &key).unwrap().sign_oneshot_to_vec(b"text");
    sign().unwrap();

    let forged = handle.replace("sig=", "sig=AAAA");
    for (wrong, reason) in [(forged.as_str(), 3), ("", 3), ("sr=&sig=", 3)] {
        let error = engine.private_key(wrong).unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(!key_engine::chain(&error).contains("AAAA"), "a handle is not repeated");
    }
    let unknown = engine.private_key_by_id("nobody's").unwrap_err();
    assert!(key_engine::chain(&unknown).contains("nobody's"), "{unknown}");

    keyd.kill();
    let stack = sign().unwrap_err().to_string();
    assert!(stack.contains("keyd cannot be reached"), "{stack}");
    assert!(matches!(engine.private_key(&handle).unwrap_err(), Error::Keyd { .. }));
    keyd.restart();
    sign().unwrap();
}

#[test]
fn a_keyd_that_hangs_is_given_up_at_the_limit() {
    let (keyd, _) = keyd();
    let engine = KeyEngine::new(keyd.setup().socket_path(), Duration::from_secs(1)).unwrap();
    let key = engine.private_key(&keyd.client().create_pair("e", "ec-p256")).unwrap();
    let sign = || Signer::new(MessageDigest::sha256(), &key).unwrap().sign_oneshot_to_vec(b"text");
    keyd.signal(rustix::process::Signal::STOP);
    let status = || std::fs::read_to_string(format!("/proc/{}/status", keyd.pid())).unwrap();
    wait_for("keyd to stop", LIMIT, || status().contains("State:\tT").then_some(()));
    let begin = Instant::now();
    let stack = sign().unwrap_err().to_string();
    assert!(stack.contains("did not answer"), "{stack}");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    keyd.signal(rustix::process::Signal::CONT);
    sign().unwrap();
}

#[test]
fn engine_52_a_key_loaded_by_id_outlives_the_key_that_makes_handles() {
    let (mut keyd, engine) = keyd();
    let handle = keyd.client().create_pair("e", "ec-p256");
    let keys = [engine.private_key(&handle).unwrap(), engine.private_key_by_id("e").unwrap()];
    keyd.kill();
    let validation = suite_tests::keys::key_file(&keyd.home(), suite_tests::keys::VALIDATION_KEY);
    std::fs::write(validation, [7; 32]).unwrap();
    keyd.restart();
    let signed = keys
        .map(|key| Signer::new(MessageDigest::sha256(), &key).unwrap().sign_oneshot_to_vec(b"text").is_ok());
    assert_eq!(signed, [false, true]);
}

const RENEWED: &str = "keyd has another key under this id by now";

#[test]
fn a_key_that_was_renewed_does_not_sign_under_the_old_certificate() {
    let (keyd, engine) = keyd();
    let digest = MessageDigest::sha256();
    for algorithm in ["ec-p256", "rsa-2048"] {
        let handle = keyd.client().create_pair(algorithm, algorithm);
        let [by_handle, by_id, used] = [
            engine.private_key(&handle).unwrap(),
            engine.private_key_by_id(algorithm).unwrap(),
            engine.private_key_by_id(algorithm).unwrap(),
        ];
        let sign = |key: &PKey<Private>| Signer::new(digest, key).unwrap().sign_oneshot_to_vec(b"text");
        sign(&used).unwrap();
        keyd.client().renew_pair(algorithm, algorithm);
        for key in [&by_handle, &by_id] {
            let stack = sign(key).unwrap_err().to_string();
            assert!(stack.contains(RENEWED), "{algorithm}: {stack}");
        }
        let stack = wait_for("the renewal to be noticed", LIMIT, || {
            thread::sleep(Duration::from_millis(100));
            sign(&used).err()
        });
        assert!(stack.to_string().contains(RENEWED), "{algorithm}: {stack}");
        assert!(sign(&used).is_err(), "and from then on always");
        sign(&engine.private_key_by_id(algorithm).unwrap()).unwrap();
    }
}

#[test]
fn a_key_that_was_renewed_neither_pads_nor_decrypts() {
    let (keyd, engine) = keyd();
    let key = engine.private_key(&keyd.client().create_pair("r", "rsa-2048")).unwrap();
    let mut secret = vec![0; 256];
    let public = openssl::rsa::Rsa::public_key_from_pem(&key.public_key_to_pem().unwrap()).unwrap();
    public.public_encrypt(b"text", &mut secret, Padding::PKCS1).unwrap();
    keyd.client().renew_pair("r", "rsa-2048");
    let mut decrypter = openssl::encrypt::Decrypter::new(&key).unwrap();
    decrypter.set_rsa_padding(Padding::PKCS1).unwrap();
    let stack = decrypter.decrypt(&secret, &mut [0; 256]).unwrap_err().to_string();
    assert!(stack.contains(RENEWED), "{stack}");
    let mut signer = Signer::new(MessageDigest::sha512(), &key).unwrap();
    signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
    let stack = signer.sign_oneshot_to_vec(b"text").unwrap_err().to_string();
    assert!(stack.contains(RENEWED), "{stack}");
}

/// What a PKCS #1 v1.5 ciphertext decrypts to with so much room, or why it does not.
fn decrypted(key: &PKey<Private>, ciphertext: &[u8], room: usize) -> Result<Vec<u8>, String> {
    let mut decrypter = openssl::encrypt::Decrypter::new(key).unwrap();
    decrypter.set_rsa_padding(Padding::PKCS1).unwrap();
    let mut plaintext = vec![0; room];
    let length = decrypter.decrypt(ciphertext, &mut plaintext).map_err(|stack| stack.to_string())?;
    plaintext.truncate(length);
    Ok(plaintext)
}

#[test]
fn engine_39_no_room_that_is_short_tells_good_padding_from_bad() {
    let (keyd, engine) = keyd();
    let key = engine.private_key(&keyd.client().create_pair("r", "rsa-2048")).unwrap();
    let public = openssl::rsa::Rsa::public_key_from_pem(&key.public_key_to_pem().unwrap()).unwrap();
    let mut good = vec![0; 256];
    public.public_encrypt(b"text", &mut good, Padding::PKCS1).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    assert_eq!(decrypted(&key, &good, 256).unwrap(), b"text");
    assert_ne!(decrypted(&key, &bad, 256).unwrap(), b"text");
    for ciphertext in [good, bad] {
        let why = decrypted(&key, &ciphertext, 255).unwrap_err();
        assert!(why.contains("not enough room"), "{why}");
    }
}

#[test]
fn engine_39_what_is_made_up_is_a_matter_of_key_and_number() {
    let (keyd, engine) = keyd();
    let handle = keyd.client().create_pair("r", "rsa-2048");
    let key = engine.private_key(&handle).unwrap();
    let number: Vec<u8> = (0..=255).collect();
    let made_up = decrypted(&key, &number, 256).unwrap();
    assert_eq!(decrypted(&key, &number[1..], 256).unwrap(), made_up, "without its zeros");
    let elsewhere = KeyEngine::new(keyd.setup().socket_path(), LIMIT * 2).unwrap();
    let again = elsewhere.private_key(&handle).unwrap();
    assert_eq!(decrypted(&again, &number, 256).unwrap(), made_up, "as with another program");
    let other = engine.private_key(&keyd.client().create_pair("other", "rsa-2048")).unwrap();
    assert_ne!(decrypted(&other, &number, 256).unwrap(), made_up);
}
