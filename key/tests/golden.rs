//! A state directory of upstream 1.6 is used as it is: every fact recorded from upstream holds here
//! (`fixtures/golden`, made by a running upstream with throw-away keys).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::{Engine, engine::general_purpose::STANDARD};
use common::{home, keyd, sha256_digest_info};
use config_common::{Base64, Secret};
use http_common::{Local, Peer};
use key_api::{
    Aead, CreateDerivedKey, CreateKey, CreateKeyPair, Decrypt, Encrypt, EncryptMechanism, ExportDerivedKey,
    GetParameter, KeyHandle, KeyUsage, LoadKey, LoadKeyPair, Sign, SignMechanism,
};
use keyd::Keyd;
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use serde::Deserialize;

#[derive(Deserialize)]
struct Facts {
    aad: Base64,
    iv: Base64,
    message: Base64,
    keys: BTreeMap<String, Key>,
    derived: Vec<Derived>,
    pairs: BTreeMap<String, Pair>,
}

#[derive(Deserialize)]
struct Key {
    handle: KeyHandle,
    hmac: Base64,
    sealed: Option<Base64>,
    usage: KeyUsage,
}

#[derive(Deserialize)]
struct Derived {
    base: String,
    export: Secret,
    handle: KeyHandle,
    hmac: Base64,
    sealed: Base64,
}

#[derive(Deserialize)]
struct Pair {
    algorithm: String,
    handle: KeyHandle,
    pkcs1: Option<Base64>,
    spki: Base64,
}

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/golden");

fn facts() -> Facts {
    serde_json::from_slice(&fs::read(Path::new(GOLDEN).join("facts.json")).unwrap()).unwrap()
}

/// keyd as root on a copy of the golden state.
fn golden() -> (tempfile::TempDir, Local<Keyd>) {
    let home = home();
    fs::create_dir(home.path().join("keys")).unwrap();
    for file in fs::read_dir(Path::new(GOLDEN).join("state/keys")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), home.path().join("keys").join(file.file_name())).unwrap();
    }
    let keyd = keyd(home.path(), "");
    (home, Local(keyd, Peer::of_uid(0)))
}

async fn hmac(root: &Local<Keyd>, key_handle: &KeyHandle, message: &Base64) -> Base64 {
    let mechanism = SignMechanism::HmacSha256(message.clone());
    root.call(Sign { key_handle: key_handle.clone(), mechanism }).await.unwrap().signature
}

/// Decrypts what upstream sealed, and finds that encrypting again gives the same.
async fn check_sealed(root: &Local<Keyd>, key_handle: &KeyHandle, facts: &Facts, sealed: &Base64) {
    let aead = || EncryptMechanism::Aead(Aead { iv: facts.iv.clone(), aad: facts.aad.clone() });
    let key_handle = key_handle.clone();
    let decrypt = Decrypt { key_handle: key_handle.clone(), mechanism: aead(), ciphertext: sealed.clone() };
    let plaintext = root.call(decrypt).await.unwrap().plaintext;
    let again = root.call(Encrypt { key_handle, mechanism: aead(), plaintext }).await.unwrap();
    assert_eq!(again.ciphertext, *sealed);
}

#[tokio::test]
async fn symmetric_keys() {
    let (facts, (_home, root)) = (facts(), golden());
    for (id, key) in &facts.keys {
        assert_eq!(hmac(&root, &key.handle, &facts.message).await, key.hmac, "{id}");
        if let Some(sealed) = &key.sealed {
            check_sealed(&root, &key.handle, &facts, sealed).await;
        }
        let fresh = root.call(LoadKey { key_id: id.clone() }).await.unwrap().key_handle;
        assert_eq!(hmac(&root, &fresh, &facts.message).await, key.hmac, "{id}");
    }
}

#[tokio::test]
async fn derived_keys() {
    let (facts, (_home, root)) = (facts(), golden());
    for derived in &facts.derived {
        let export = |key_handle| root.call(ExportDerivedKey { key_handle });
        assert_eq!(export(derived.handle.clone()).await.unwrap().key, derived.export, "{}", derived.base);
        assert_eq!(hmac(&root, &derived.handle, &facts.message).await, derived.hmac, "{}", derived.base);
        check_sealed(&root, &derived.handle, &facts, &derived.sealed).await;
        let base_key_handle = facts.keys[&derived.base].handle.clone();
        let derivation_data = derivation_data(&derived.handle);
        let fresh = root.call(CreateDerivedKey { base_key_handle, derivation_data }).await.unwrap();
        assert_eq!(export(fresh.key_handle).await.unwrap().key, derived.export, "{}", derived.base);
    }
}

#[tokio::test]
async fn key_pairs() {
    let (facts, (_home, root)) = (facts(), golden());
    for (id, pair) in &facts.pairs {
        let fresh = root.call(LoadKeyPair { key_id: id.clone() }).await.unwrap().key_handle;
        for key_handle in [&pair.handle, &fresh] {
            assert_eq!(parameter(&root, key_handle, "algorithm").await, pair.algorithm, "{id}");
            let public = PKey::public_key_from_der(&pair.spki.0).unwrap();
            if let Some(signature) = &pair.pkcs1 {
                let plaintext = Secret::new(sha256_digest_info(&facts.message.0));
                let mechanism = EncryptMechanism::RsaPkcs1;
                let request = Encrypt { key_handle: key_handle.clone(), mechanism, plaintext };
                assert_eq!(root.call(request).await.unwrap().ciphertext, *signature, "{id}");
                let modulus = STANDARD.decode(parameter(&root, key_handle, "rsa-modulus").await).unwrap();
                assert_eq!(modulus, public.rsa().unwrap().n().to_vec(), "{id}");
            } else {
                let point = STANDARD.decode(parameter(&root, key_handle, "ec-point").await).unwrap();
                assert!(public.public_eq(&p256(&point)), "{id}");
            }
        }
    }
}

#[tokio::test]
async fn nothing_is_changed() {
    let (facts, (home, root)) = (facts(), golden());
    for (key_id, key) in facts.keys {
        root.call(CreateKey { key_id, usage: key.usage, key_bytes: None }).await.unwrap();
    }
    for key_id in facts.pairs.into_keys() {
        let preferred_algorithms = Some("rsa-4096".to_owned());
        root.call(CreateKeyPair { key_id, preferred_algorithms }).await.unwrap();
    }
    let files = |directory: &Path| {
        let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
        files.map(|file| (file.file_name(), fs::read(file.path()).unwrap())).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(files(&home.path().join("keys")), files(&Path::new(GOLDEN).join("state/keys")));
}

async fn parameter(root: &Local<Keyd>, key_handle: &KeyHandle, name: &str) -> String {
    let request = GetParameter { parameter_name: name.to_owned(), key_handle: key_handle.clone() };
    root.call(request).await.unwrap().value
}

fn p256(point: &[u8]) -> PKey<openssl::pkey::Public> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let mut context = openssl::bn::BigNumContext::new().unwrap();
    let point = EcPoint::from_bytes(&group, point, &mut context).unwrap();
    PKey::from_ec_key(EcKey::from_public_key(&group, &point).unwrap()).unwrap()
}

/// The data within a derived handle, read off its text.
fn derivation_data(handle: &KeyHandle) -> Base64 {
    let sr = handle.as_str().strip_prefix("sr=").unwrap().split('&').next().unwrap();
    let text: serde_json::Value = serde_json::from_slice(&STANDARD.decode(sr).unwrap()).unwrap();
    let data = text["key_id"]["Derived"][1].as_array().unwrap().iter();
    Base64(data.map(|byte| byte.as_u64().unwrap() as u8).collect())
}
