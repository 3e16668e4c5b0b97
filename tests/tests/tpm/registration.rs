//! The whole way of a device with a TPM: tpmd, the client of the provisioning service, and a simulated cloud that wraps keys
//! for the TPM and believes nothing that it has not signed. Checklist 39 to 44, 47.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use cloud_sim::{Options, Sim};
use dps_client::{Assignment, DpsClient, Error, Registration, Tpm, TpmError, TpmKeys};
use http_common::{
    Client,
    https::{Cloud, CloudOptions, Credentials, Https, HttpsOptions, Trust},
    retry::{FailureKind, RetryPolicy},
    sas::{SignError, Signer},
};
use hub_client::{Device, HubClient};
use openssl::x509::X509;
use serde_json::{Value, json};
use suite_tests::http::base64;
use tpm_api::{GetTpmKeys, ImportAuthKey, SignWithAuthKey, SignWithWrappedKey};

use super::Site;

/// The TPM as the identity service sees it: behind tpmd's socket.
#[derive(Clone)]
struct Tpmd(Client);

impl Signer for Tpmd {
    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let request = SignWithAuthKey { data: message.to_vec().into() };
        let digest = self.0.call(&request).await.map_err(|err| SignError(Box::new(err)))?;
        Ok(digest.digest.0)
    }
}

impl Tpm for Tpmd {
    async fn public_keys(&self) -> Result<TpmKeys, TpmError> {
        let keys = self.0.call(&GetTpmKeys {}).await?;
        Ok(TpmKeys { endorsement_key: keys.endorsement_key, storage_root_key: keys.storage_root_key })
    }

    async fn sign_with(&self, key: &[u8], message: &[u8]) -> Result<Vec<u8>, TpmError> {
        let request = SignWithWrappedKey { key: key.to_vec().into(), data: message.to_vec().into() };
        Ok(self.0.call(&request).await?.digest.0)
    }

    async fn import(&self, key: &[u8]) -> Result<(), TpmError> {
        self.0.call(&ImportAuthKey { key: key.to_vec().into() }).await?;
        Ok(())
    }
}

/// A simulated cloud in which a device is enrolled by an endorsement key.
struct World {
    sim: Sim,
    cloud: Cloud,
}

impl World {
    fn new(device: &str, endorsement_key: &[u8]) -> World {
        let sim = Sim::start(Options { seed: Some(7), ..Options::default() }).unwrap();
        let world = World { cloud: cloud(&sim), sim };
        assert_eq!(world.enrol(device, endorsement_key), 200);
        world.sim.admin("PUT", "/settings", &json!({ "retry_after": 2, "assigning_polls": 1 }));
        world
    }

    fn enrol(&self, device: &str, endorsement_key: &[u8]) -> u16 {
        let tpm = json!({ "endorsementKey": base64(endorsement_key) });
        let enrolment = json!({ "attestation": { "type": "tpm", "tpm": tpm } });
        self.sim.admin("PUT", &format!("/enrollments/{device}"), &enrolment).0
    }

    async fn register(&self, device: &str, tpm: &Tpmd) -> Result<Assignment, Error> {
        let ready = self.sim.ready();
        let registration = Registration {
            id_scope: ready.scope.clone(),
            registration_id: device.to_owned(),
            payload: Some(json!({ "line": 4 })),
        };
        let dps = DpsClient::new(self.cloud.clone(), &ready.dps)?;
        dps.register_with_tpm(&registration, tpm, Instant::now() + Duration::from_secs(60)).await
    }

    /// The device's modules at its hub, asked for with a token that the TPM signs.
    async fn modules(&self, assignment: &Assignment, tpm: &Tpmd) -> Result<usize, hub_client::Error> {
        let device =
            Device { hub: assignment.hub.clone(), gateway: None, device_id: assignment.device_id.clone() };
        let hub = HubClient::new(self.cloud.clone(), device, Credentials::Sas(tpm.clone()));
        hub.list(Instant::now() + Duration::from_secs(20)).await.map(|modules| modules.len())
    }

    fn log(&self) -> Vec<Value> {
        self.sim.admin("GET", "/log", &Value::Null).1["entries"].as_array().unwrap().clone()
    }
}

fn cloud(sim: &Sim) -> Cloud {
    let ca = X509::from_pem(&std::fs::read(&sim.ready().ca).unwrap()).unwrap();
    let https = Https::new(HttpsOptions { trust: Trust::Only(vec![ca]), ..HttpsOptions::default() });
    let options = CloudOptions { retry: RetryPolicy::NEVER, ..CloudOptions::default() };
    Cloud::new(https, Arc::default(), options)
}

fn tpmd(site: &Site) -> Tpmd {
    Tpmd(Client::new(site.tpmd.setup().socket_path()))
}

/// What the log says of a request, as text.
fn said(entry: &Value) -> String {
    entry.to_string()
}

#[tokio::test]
async fn tpm_39_40_41_43_44_47_a_device_with_a_tpm_gets_its_hub() {
    let site = Site::start();
    let world = World::new("packer-7", &site.keys().0);
    let tpm = tpmd(&site);
    let start = Instant::now();
    let assignment = world.register("packer-7", &tpm).await.unwrap();
    assert_eq!(
        (assignment.hub.as_str(), assignment.device_id.as_str()),
        (&*world.sim.ready().hubs[0], "packer-7")
    );
    assert!(
        start.elapsed() >= Duration::from_secs(4),
        "two polls, each after the time that the service asks for"
    );
    let log = world.log();
    assert_eq!(log.len(), 4, "introduction, registration, two polls: {log:?}");
    assert!(said(&log[0]).contains("TPM challenge"), "{}", log[0]);
    let shows_tpm = |number: usize| log[number]["body"].get("tpm").is_some();
    assert!(shows_tpm(0) && !shows_tpm(1), "only the introduction shows the TPM: {log:?}");
    for entry in &log[1..] {
        assert!(said(entry).contains("nonce key from the TPM"), "{entry}");
    }
    // The hub verifies with the key that came wrapped in the assignment, and knows no other.
    assert_eq!(world.modules(&assignment, &tpm).await.unwrap(), 0);
    let token = &world.log()[4]["sas"];
    assert_eq!(token["sr"], format!("{}/devices/packer-7", assignment.hub).to_lowercase());
    assert_eq!(token["skn"], Value::Null);
}

#[tokio::test]
async fn decided_a_device_registers_again_and_keeps_its_key() {
    let site = Site::start();
    let world = World::new("packer-7", &site.keys().0);
    let tpm = tpmd(&site);
    let first = world.register("packer-7", &tpm).await.unwrap();
    let again = world.register("packer-7", &tpm).await.unwrap();
    assert_eq!((&first.hub, &first.device_id), (&again.hub, &again.device_id));
    assert!(world.modules(&again, &tpm).await.is_ok());
    site.stop_and_check();
}

/// Upstream has given up the key for the hub by then.
#[tokio::test]
async fn decided_a_registration_that_fails_costs_no_key() {
    let site = Site::start();
    let world = World::new("packer-7", &site.keys().0);
    let tpm = tpmd(&site);
    let assignment = world.register("packer-7", &tpm).await.unwrap();
    let attestation = json!({ "type": "tpm", "tpm": { "endorsementKey": base64(site.keys().0) } });
    let fails = json!({ "attestation": attestation, "simulator": { "status": "failed" } });
    assert_eq!(world.sim.admin("PUT", "/enrollments/packer-7", &fails).0, 200);
    let error = world.register("packer-7", &tpm).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Rejected, "{error}");
    assert!(world.modules(&assignment, &tpm).await.is_ok(), "the old key is still good");
}

#[tokio::test]
async fn tpm_42_another_tpm_is_not_admitted() {
    let (site, other) = (Site::start(), Site::start());
    let world = World::new("packer-7", &other.keys().0);
    site.import(&[1; 32]);
    let error = world.register("packer-7", &tpmd(&site)).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Unauthorized, "{error}");
    assert!(error.to_string().contains("not the one that is enrolled"), "{error}");
    site.signs_with(&[1; 32]);
    assert_eq!(world.register("unknown", &tpmd(&site)).await.unwrap_err().kind(), FailureKind::NotFound);
}

#[tokio::test]
async fn decided_a_copied_endorsement_key_helps_nobody() {
    // The impostor shows the endorsement key of a device that is enrolled, but has not its TPM.
    struct Impostor(Tpmd, TpmKeys);
    impl Tpm for Impostor {
        async fn public_keys(&self) -> Result<TpmKeys, TpmError> {
            Ok(self.1.clone())
        }
        async fn sign_with(&self, key: &[u8], message: &[u8]) -> Result<Vec<u8>, TpmError> {
            self.0.sign_with(key, message).await
        }
        async fn import(&self, key: &[u8]) -> Result<(), TpmError> {
            self.0.import(key).await
        }
    }
    let (victim, site) = (Site::start(), Site::start());
    let world = World::new("packer-7", &victim.keys().0);
    let shown = TpmKeys { endorsement_key: victim.keys().0.into(), storage_root_key: site.keys().1.into() };
    let impostor = Impostor(tpmd(&site), shown);
    let registration = Registration {
        id_scope: world.sim.ready().scope.clone(),
        registration_id: "packer-7".to_owned(),
        payload: None,
    };
    let dps = DpsClient::new(world.cloud.clone(), &world.sim.ready().dps).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let error = dps.register_with_tpm(&registration, &impostor, deadline).await.unwrap_err();
    assert_eq!(error.kind(), FailureKind::Credential, "{error}");
    assert!(http_common::chain(&error).contains("not made for this TPM"), "{}", http_common::chain(&error));
}

#[test]
fn enrolments_are_checked() {
    let site = Site::start();
    let world = World::new("packer-7", &site.keys().0);
    assert_eq!(world.enrol("packer-8", b"no key"), 400);
    let tpm = json!({ "endorsementKey": base64(site.keys().0) });
    let group = json!({ "attestation": { "type": "tpm", "tpm": tpm } });
    assert_eq!(world.sim.admin("PUT", "/enrollmentGroups/line-4", &group).0, 400);
    let without = json!({ "attestation": { "type": "tpm" } });
    assert_eq!(world.sim.admin("PUT", "/enrollments/packer-8", &without).0, 400);
}
