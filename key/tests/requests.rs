//! Requests to keyd as if through its socket, with the key files in view. What the wire shows is proved by the journeys
//! over real sockets; here is what they cannot see or time.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{age, home, key_file, keyd, names, sha256_digest_info};
use config_common::{Base64, Secret};
use http_common::daemon::Daemon;
use http_common::{ApiError, Local, Peer};
use key_api::{
    CreateDerivedKey, CreateKey, CreateKeyPair, DeleteKey, DeleteKeyPair, Encrypt, EncryptMechanism,
    ExportDerivedKey, GetParameter, KeyHandle, KeyUsage, LoadKey, LoadKeyPair, MoveKeyPair, Sign,
    SignMechanism,
};
use keyd::Keyd;
use keyd::id::VALIDATION_KEY;

/// The calls of a test, as one user.
struct Caller(Local<Keyd>);

impl Caller {
    fn root(keyd: &Arc<Keyd>) -> Self {
        Self::user(keyd, 0)
    }

    fn user(keyd: &Arc<Keyd>, uid: u32) -> Self {
        Self(Local(Arc::clone(keyd), Peer::of_uid(uid)))
    }

    async fn create(&self, id: &str) -> Result<KeyHandle, ApiError> {
        let request = CreateKey { key_id: id.into(), usage: KeyUsage::SIGN, key_bytes: None };
        self.0.call(request).await.map(|reply| reply.key_handle)
    }

    async fn import(&self, id: &str, bytes: &[u8]) -> Result<KeyHandle, ApiError> {
        let key_bytes = Some(Secret::new(bytes.to_vec()));
        let request = CreateKey { key_id: id.into(), usage: KeyUsage::SIGN, key_bytes };
        self.0.call(request).await.map(|reply| reply.key_handle)
    }

    async fn load(&self, id: &str) -> Result<KeyHandle, ApiError> {
        self.0.call(LoadKey { key_id: id.into() }).await.map(|reply| reply.key_handle)
    }

    async fn create_pair(&self, id: &str, algorithms: &str) -> Result<KeyHandle, ApiError> {
        let request = CreateKeyPair { key_id: id.into(), preferred_algorithms: Some(algorithms.into()) };
        self.0.call(request).await.map(|reply| reply.key_handle)
    }

    async fn load_pair(&self, id: &str) -> Result<KeyHandle, ApiError> {
        self.0.call(LoadKeyPair { key_id: id.into() }).await.map(|reply| reply.key_handle)
    }

    async fn move_pair(&self, from: &str, to: &str) -> Result<(), ApiError> {
        self.0.call(MoveKeyPair { key_id: to.into(), from: from.into() }).await
    }

    async fn delete(&self, handle: &KeyHandle) -> Result<(), ApiError> {
        self.0.call(DeleteKey { key_handle: handle.clone() }).await
    }

    async fn delete_pair(&self, handle: &KeyHandle) -> Result<(), ApiError> {
        self.0.call(DeleteKeyPair { key_handle: handle.clone() }).await
    }

    async fn hmac(&self, handle: &KeyHandle) -> Result<Vec<u8>, ApiError> {
        let mechanism = SignMechanism::HmacSha256(Base64(b"message".to_vec()));
        let signed = self.0.call(Sign { key_handle: handle.clone(), mechanism }).await;
        signed.map(|reply| reply.signature.0)
    }

    async fn ecdsa(&self, handle: &KeyHandle) -> Result<Vec<u8>, ApiError> {
        let mechanism = SignMechanism::Ecdsa(Base64(vec![7; 32]));
        let signed = self.0.call(Sign { key_handle: handle.clone(), mechanism }).await;
        signed.map(|reply| reply.signature.0)
    }

    async fn parameter(&self, name: &str, handle: &KeyHandle) -> Result<String, ApiError> {
        let request = GetParameter { parameter_name: name.into(), key_handle: handle.clone() };
        self.0.call(request).await.map(|reply| reply.value)
    }

    async fn point(&self, handle: &KeyHandle) -> Result<String, ApiError> {
        self.parameter("ec-point", handle).await
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ApiError>, status: u16) {
    let error = result.unwrap_err();
    assert_eq!(error.status.as_u16(), status, "{}", error.message);
}

#[tokio::test]
async fn the_validation_key_is_out_of_reach_even_for_root() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let pair = root.create_pair("pair", "ec-p256").await.unwrap();
    let before = fs::read(key_file(home.path(), VALIDATION_KEY)).unwrap();
    refused(root.create(VALIDATION_KEY).await, 401);
    refused(root.import(VALIDATION_KEY, b"x").await, 401);
    refused(root.load(VALIDATION_KEY).await, 401);
    refused(root.create_pair(VALIDATION_KEY, "ec-p256").await, 401);
    refused(root.load_pair(VALIDATION_KEY).await, 401);
    refused(root.move_pair("pair", VALIDATION_KEY).await, 401);
    refused(root.move_pair(VALIDATION_KEY, "pair").await, 401);
    root.ecdsa(&pair).await.unwrap();
    assert_eq!(fs::read(key_file(home.path(), VALIDATION_KEY)).unwrap(), before);
}

#[tokio::test]
async fn a_pair_is_never_used_as_a_key_nor_a_key_as_a_pair() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let key_that_was = root.create("pair").await.unwrap();
    root.delete(&key_that_was).await.unwrap();
    let pair = root.create_pair("pair", "ec-p256").await.unwrap();
    let key = root.create("key").await.unwrap();
    refused(root.load("pair").await, 400);
    refused(root.create("pair").await, 400);
    refused(root.hmac(&key_that_was).await, 400);
    refused(root.delete(&key_that_was).await, 400);
    let request = CreateDerivedKey { base_key_handle: pair.clone(), derivation_data: Base64(vec![1]) };
    let derived = root.0.call(request).await.unwrap().key_handle;
    refused(root.hmac(&derived).await, 400);
    refused(root.0.call(ExportDerivedKey { key_handle: derived }).await, 400);
    refused(root.create_pair("key", "ec-p256").await, 400);
    refused(root.create_pair("key", "rsa-2048").await, 400);
    refused(root.load_pair("key").await, 500);
    refused(root.point(&key).await, 500);
    root.hmac(&key).await.unwrap();
    root.ecdsa(&pair).await.unwrap();
}

#[tokio::test]
async fn imported_bytes_are_what_they_look_like() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    root.create_pair("a", "ec-p256").await.unwrap();
    let pem = fs::read(key_file(home.path(), "a")).unwrap();
    let as_key = root.import("b", &pem).await.unwrap();
    refused(root.hmac(&as_key).await, 400);
    let as_pair = root.load_pair("b").await.unwrap();
    assert_eq!(root.point(&as_pair).await, root.point(&root.load_pair("a").await.unwrap()).await);
    refused(root.import("c", b"").await, 400);
    assert!(!key_file(home.path(), "c").exists());
}

#[tokio::test]
async fn a_file_that_changes_is_noticed_by_the_next_request() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let handle = root.import("a", &[0; 32]).await.unwrap();
    let file = key_file(home.path(), "a");
    let mut last = root.hmac(&handle).await.unwrap();
    // Without pauses, in place and by rename, always of one length: only time and inode tell, and time is coarse.
    for round in 1..=100_u8 {
        if round % 2 == 0 {
            fs::write(&file, [round; 32]).unwrap();
        } else {
            fs::write(home.path().join("new"), [round; 32]).unwrap();
            fs::rename(home.path().join("new"), &file).unwrap();
        }
        let signature = root.hmac(&handle).await.unwrap();
        assert_ne!(signature, last, "round {round}");
        last = signature;
    }
    age(&file);
    assert_eq!(root.hmac(&handle).await.unwrap(), last);
    assert_eq!(root.hmac(&handle).await.unwrap(), last);
    fs::remove_file(&file).unwrap();
    refused(root.hmac(&handle).await, 400);
}

#[tokio::test]
async fn the_validation_key_is_read_again_and_made_again() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let old = root.create("a").await.unwrap();
    let file = key_file(home.path(), VALIDATION_KEY);
    age(&file);
    root.hmac(&old).await.unwrap();
    let kept = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    refused(root.hmac(&old).await, 400);
    let new = root.load("a").await.unwrap();
    root.hmac(&new).await.unwrap();
    fs::write(&file, &kept).unwrap();
    root.hmac(&old).await.unwrap();
    refused(root.hmac(&new).await, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_creates_of_one_id_make_one_key() {
    let home = home();
    let keyd = keyd(home.path(), "");
    for round in 0..5 {
        let (key, pair) = (format!("key {round}"), format!("pair {round}"));
        let calls: Vec<_> = (0..16)
            .map(|number| {
                let (root, key, pair) = (Caller::root(&keyd), key.clone(), pair.clone());
                tokio::spawn(async move {
                    let algorithm = if number == 0 { "rsa-2048" } else { "ec-p256" };
                    let (key, pair) =
                        (root.create(&key).await.unwrap(), root.create_pair(&pair, algorithm).await.unwrap());
                    (root.hmac(&key).await.unwrap(), root.point(&pair).await.ok())
                })
            })
            .collect();
        let mut seen = Vec::new();
        for call in calls {
            seen.push(call.await.unwrap());
        }
        seen.dedup();
        assert_eq!(seen.len(), 1, "{seen:?}");
    }
}

#[tokio::test]
async fn a_parameter_that_no_key_has_is_the_callers_mistake() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let (key, pair) = (root.create("key").await.unwrap(), root.create_pair("pair", "ec-p256").await.unwrap());
    for handle in [&key, &pair] {
        refused(root.parameter("zz", handle).await, 400);
    }
    // As with upstream.
    refused(root.parameter("algorithm", &key).await, 500);
}

#[tokio::test]
async fn a_file_that_was_kept_outlives_the_next_damage() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    root.create_pair("pair", "ec-p256").await.unwrap();
    let file = key_file(home.path(), "pair");
    let repairable = fs::read(&file).unwrap()[..100].to_vec();
    for damage in [repairable.as_slice(), b""] {
        fs::write(&file, damage).unwrap();
        root.create_pair("pair", "ec-p256").await.unwrap();
    }
    assert_eq!(fs::read(file.with_extension("key.corrupt")).unwrap(), b"");
    assert_eq!(fs::read(file.with_extension("key.corrupt.1")).unwrap(), repairable);
}

#[tokio::test]
async fn damaged_files_are_replaced_by_creates_only_and_kept() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let pair = root.create_pair("pair", "ec-p256").await.unwrap();
    let pem = fs::read(key_file(home.path(), "pair")).unwrap();
    let long = "p".repeat(186);
    for (id, damage) in
        [("pair", &pem[..100]), ("pair", &[0; 241]), ("pair", b"-----BEG"), (&long, &pem[..30])]
    {
        let file = key_file(home.path(), id);
        fs::write(&file, damage).unwrap();
        refused(root.load_pair(id).await, 500);
        root.create_pair(id, "ec-p256").await.unwrap();
        let kept = names(&home.path().join("keys")).into_iter().find(|name| name.ends_with(".corrupt"));
        let kept = home.path().join("keys").join(kept.unwrap());
        assert_eq!(fs::read(&kept).unwrap(), damage);
        fs::remove_file(kept).unwrap();
    }
    root.ecdsa(&pair).await.unwrap();
    root.create("key").await.unwrap();
    fs::write(key_file(home.path(), "key"), b"").unwrap();
    refused(root.load("key").await, 500);
    let key = root.create("key").await.unwrap();
    root.hmac(&key).await.unwrap();
    fs::write(key_file(home.path(), "pair"), &pem[..100]).unwrap();
    refused(root.create("pair").await, 400);
    root.delete_pair(&pair).await.unwrap();
    assert!(!key_file(home.path(), "pair").exists(), "a damaged pair can be deleted");
}

#[tokio::test]
async fn moves_that_are_refused_change_nothing() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let pair = root.create_pair("pair", "ec-p256").await.unwrap();
    root.create("key").await.unwrap();
    fs::write(key_file(home.path(), "broken"), b"-----BEGIN PRIVATE KEY-----\n").unwrap();
    let before = names(&home.path().join("keys"));
    refused(root.move_pair("pair", "pair").await, 400);
    refused(root.move_pair("key", "new").await, 400);
    refused(root.move_pair("pair", "key").await, 400);
    refused(root.move_pair("missing", "pair").await, 500);
    refused(root.move_pair("broken", "pair").await, 500);
    refused(root.move_pair("pair", &"a".repeat(187)).await, 400);
    assert_eq!(names(&home.path().join("keys")), before);
    root.move_pair("pair", "broken").await.unwrap();
    refused(root.ecdsa(&pair).await, 400);
    root.ecdsa(&root.load_pair("broken").await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn preloaded_files_are_created_but_neither_deleted_nor_moved() {
    let home = home();
    let place = |name: &str| home.path().join(name);
    let uris =
        ["key", "pair", "pem"].map(|name| format!("{name} = 'file://{}'\n", place(name).display())).concat();
    let keyd = keyd(home.path(), &format!("[preloaded_keys]\n{uris}"));
    let root = Caller::root(&keyd);
    let (key, pair) = (root.create("key").await.unwrap(), root.create_pair("pair", "ec-p256").await.unwrap());
    assert!(place("key").is_file() && place("pair").is_file());
    root.create_pair("other", "ec-p256").await.unwrap();
    refused(root.delete(&key).await, 400);
    refused(root.delete_pair(&pair).await, 400);
    refused(root.move_pair("pair", "new").await, 400);
    refused(root.move_pair("other", "pair").await, 400);
    root.hmac(&key).await.unwrap();
    root.ecdsa(&pair).await.unwrap();
    fs::copy(place("pair"), place("pem")).unwrap();
    root.hmac(&root.load("pem").await.unwrap()).await.unwrap();
    root.ecdsa(&root.load_pair("pem").await.unwrap()).await.unwrap();
}

#[tokio::test]
async fn ids_without_a_place() {
    let no_home = Arc::new(Keyd::new(toml::from_str("").unwrap()).unwrap());
    refused(Caller::root(&no_home).create("a").await, 400);
    refused(Caller::root(&no_home).load_pair("a").await, 400);
    let home = home();
    let keyd = keyd(home.path(), "[preloaded_keys]\ntoken = 'pkcs11:token=t'");
    let root = Caller::root(&keyd);
    refused(root.create("token").await, 400);
    refused(root.load_pair("token").await, 400);
    refused(root.create(&"a".repeat(187)).await, 400);
    refused(root.create("a\0").await, 400);
    for id in ["", "a/b c", "größe key/2", &"a".repeat(186), &"/".repeat(5000)] {
        root.create(id).await.unwrap();
        assert!(key_file(home.path(), id).is_file(), "{id}");
    }
}

#[tokio::test]
async fn a_reload_takes_up_principals() {
    let home = home();
    let keyd = keyd(home.path(), "[[principal]]\nuid = 7\nkeys = ['a*']");
    let user = Caller::user(&keyd, 7);
    let handle = user.create("ab").await.unwrap();
    refused(user.create("b").await, 401);
    let config = "require_principal_for_handles = true\n[[principal]]\nuid = 7\nkeys = ['b']";
    keyd.reload(toml::from_str(config).unwrap()).await;
    user.create("b").await.unwrap();
    refused(user.load("ab").await, 401);
    refused(user.hmac(&handle).await, 401);
    Caller::root(&keyd).hmac(&handle).await.unwrap();
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_removed_at_the_start() {
    let home = home();
    let directory = home.path().join("keys");
    Caller::root(&keyd(home.path(), "")).create("a").await.unwrap();
    fs::write(directory.join(".a-1.key.0123456789abcdef.tmp"), b"half").unwrap();
    let before = names(&directory).len();
    Caller::root(&keyd(home.path(), "")).load("a").await.unwrap();
    assert_eq!(names(&directory).len(), before - 1);
}

#[tokio::test]
async fn rsa_signs_and_what_does_not_fit_is_500() {
    let home = home();
    let root = Caller::root(&keyd(home.path(), ""));
    let key_handle = root.create_pair("rsa", "rsa-3072:*").await.unwrap();
    let encrypt = async |mechanism, plaintext: Vec<u8>| {
        let plaintext = Secret::new(plaintext);
        let reply = root.0.call(Encrypt { key_handle: key_handle.clone(), mechanism, plaintext }).await;
        reply.map(|reply| reply.ciphertext.0.len())
    };
    assert_eq!(encrypt(EncryptMechanism::RsaPkcs1, sha256_digest_info(b"m")).await, Ok(384));
    refused(encrypt(EncryptMechanism::RsaPkcs1, vec![1; 374]).await, 500);
    refused(encrypt(EncryptMechanism::RsaNoPadding, vec![1; 383]).await, 500);
    refused(root.ecdsa(&key_handle).await, 400);
    refused(root.hmac(&key_handle).await, 400);
}

#[tokio::test]
async fn errors_of_the_disk_are_internal_and_tell_no_path() {
    let home = home();
    fs::write(home.path().join("keys"), b"a file where the directory should be").unwrap();
    let root = Caller::root(&keyd(home.path(), "[preloaded_keys]\np = 'file:///nonexistent/directory/p'"));
    for error in [root.create("a").await.unwrap_err(), root.create("p").await.unwrap_err()] {
        assert_eq!(error.status.as_u16(), 500);
        assert!(!error.message.contains(home.path().to_str().unwrap()), "{}", error.message);
        assert!(!error.message.contains('/'), "{}", error.message);
    }
    assert!(Path::new("/nonexistent").metadata().is_err());
}
