//! What renewal will call: an identity is issued anew, by whom and with which operation. keyd is real, the identity's
//! private key is here, so that the test knows it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends by panicking: that is its report")]

mod support;

use std::sync::Arc;

use certd::renew::{Renewable, identities};
use certd::{BoxedError, Certd, KeyPair, NotIssued, PrivateKeys};
use key_api::KeyHandle;
use openssl::pkey::{PKey, Private, Public};
use openssl::x509::X509;
use suite_tests::harness::{Daemon, KEYD, Setup};
use suite_tests::keys::Keys as _;
use support::authority::common_name;
use support::{EstServer, Issued, Settings};

/// The same key behind every handle.
struct OneKey(PKey<Private>);

impl PrivateKeys for OneKey {
    fn private_key(&self, _: &KeyHandle) -> Result<PKey<Private>, BoxedError> {
        Ok(self.0.clone())
    }

    fn public_key(&self, _: &KeyHandle) -> Result<PKey<Public>, BoxedError> {
        Ok(PKey::public_key_from_der(&self.0.public_key_to_der()?)?)
    }
}

/// What a renewal of `old`, whose key is the one in keyd, brings.
async fn renewed(server: &EstServer, old: &Issued, boot: Option<&Issued>) -> Result<Vec<X509>, NotIssued> {
    let (directory, keyd) = (tempfile::tempdir().unwrap(), Setup::new(&KEYD).start());
    let pem = |name: &str, of: &Issued| {
        std::fs::write(directory.path().join(name), of.cert_pem()).unwrap();
        format!("{name} = 'file://{}/{name}'\n", directory.path().display())
    };
    let mut config = format!("[preloaded_certs]\n{}", pem("root", &server.settings().root));
    config += &boot.map(|boot| pem("boot", boot)).unwrap_or_default();
    config +=
        "[cert_issuance.est]\ntrusted_certs = ['root']\nidentity_cert = 'est-id'\nidentity_pk = 'est-id'\n";
    if boot.is_some() {
        config += "bootstrap_identity_cert = 'boot'\nbootstrap_identity_pk = 'boot'\n";
    }
    config += &format!("[cert_issuance.est.urls]\ndefault = '{}'\n", server.url(""));
    let certd = certd(&config, &keyd, boot.unwrap_or(old));
    let identity = Renewable { cert: "est-id".into(), pk: "est-id".into(), by: "est-id".into() };
    certd.reissue(&identity, std::slice::from_ref(&old.cert), new_key()).await
}

fn certd(config: &str, keyd: &Daemon, owner: &Issued) -> Certd {
    let home = keyd.setup().directory().join("certd");
    let socket = keyd.setup().socket_path().display();
    let config =
        format!("homedir_path = '{}'\nendpoints.aziot_keyd = 'unix://{socket}'\n{config}", home.display());
    let config: cert_api::Config = toml::from_str(&config).unwrap();
    assert_eq!(identities(&config.cert_issuance).len(), 1);
    for id in ["est-id", "boot"] {
        keyd.client().create_pair(id, "ec-p256:*");
    }
    Certd::new(config, Arc::new(OneKey(owner.key.clone())))
}

fn new_key() -> KeyPair {
    let private = support::authority::ec_key();
    let public = PKey::public_key_from_der(&private.public_key_to_der().unwrap()).unwrap();
    KeyPair { private, public }
}

fn settings() -> Settings {
    Settings { needs_client: true, ..Settings::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_valid_identity_renews_itself() {
    let server = EstServer::start(settings());
    let old = server.settings().root.leaf("gateway 7");
    let new = renewed(&server, &old, None).await.unwrap();
    assert_eq!(server.operations(), ["cacerts", "simplereenroll"]);
    assert!(server.enrolments()[0].client.as_ref() == Some(&old.cert));
    assert_eq!(common_name(new[0].subject_name()), "gateway 7");
    assert!(!new[0].public_key().unwrap().public_eq(&old.key), "it is for the new key");
    assert!(new[1] == server.settings().root.cert);
}

#[tokio::test(flavor = "multi_thread")]
async fn certs_62_a_server_that_knows_simpleenroll_only() {
    let server = EstServer::start(Settings { reenrolls: false, ..settings() });
    let old = server.settings().root.leaf("gateway 7");
    renewed(&server, &old, None).await.unwrap();
    let last = server.enrolments().pop().unwrap();
    assert_eq!(last.operation, "simpleenroll");
    assert!(last.client.as_ref() == Some(&old.cert));
}

#[tokio::test(flavor = "multi_thread")]
async fn certs_62_an_expired_identity_needs_the_bootstrap_identity() {
    let server = EstServer::start(settings());
    let old = Issued::with_validity("gateway 7", Some(&server.settings().root), false, -7200, -3600);
    let boot = server.settings().root.leaf("boot");
    renewed(&server, &old, Some(&boot)).await.unwrap();
    assert_eq!(server.operations(), ["cacerts", "simpleenroll"]);
    assert_eq!(server.enrolments()[0].client_name().as_deref(), Some("boot"));
    assert!(matches!(renewed(&server, &old, None).await, Err(NotIssued::NoIdentity { .. })));
}
