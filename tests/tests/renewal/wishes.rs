//! Somebody wishes for a registration when the certificate is over, or while it is renewed.

use serde_json::{Value, json};
use suite_tests::{harness::BOUND, http::wait_for};

use crate::device::Device;
use crate::site::{PATIENCE, admin};

/// Its time is over before the next attempt is due: nobody has to wait for that.
#[test]
fn a_device_whose_certificate_is_over_is_let_in_when_somebody_wishes_so() {
    let device = Device::with(true, 100, "99%");
    let client = device.identityd.client();
    let reprovision = || client.request("POST", "/identities/device/reprovision", None).status;
    let refuse = json!({ "match": { "operation": "est.enroll" }, "action": { "status": 403 } });
    admin(&device.sim, "POST", "/faults", &refuse);
    wait_for("the end of its time", PATIENCE, || (reprovision() == 500).then_some(()));
    admin(&device.sim, "DELETE", "/log", &Value::Null);
    for _ in 0..20 {
        assert_eq!(reprovision(), 500);
        client.post("/identities/device", &json!({ "type": "aziot" })).expect(200);
    }
    let log = admin(&device.sim, "GET", "/log", &Value::Null);
    let asked = log["entries"].as_array().unwrap().iter().filter(|entry| entry["operation"] == "est.enroll");
    assert!(asked.count() <= 2, "wishes are paced: {log}");
    admin(&device.sim, "DELETE", "/faults", &Value::Null);
    wait_for("the device to be let in", BOUND, || (reprovision() == 204).then_some(()));
}

/// DPS and the hub know one certificate of a device at a time: the old one must not be made it again.
#[test]
fn identity_71_72_a_reprovision_amid_a_renewal_leaves_the_new_certificate_known() {
    let mut device = Device::new(true);
    device.identityd.kill();
    let slow =
        json!({ "match": { "operation": "dps.register" }, "times": 1, "action": { "delay_ms": 3000 } });
    admin(&device.sim, "POST", "/faults", &slow);
    device.identityd.restart();
    let client = device.identityd.client();
    device.identityd.wait_for_log(PATIENCE, |line| line.contains("\"device-id\" is renewed"));
    // The new key is there, the certificate is being shown.
    wait_for("the new certificate", PATIENCE, || {
        let log = admin(&device.sim, "GET", "/est", &Value::Null);
        (log["issued"].as_array().unwrap().len() > 2).then_some(())
    });
    let reprovision = client.request("POST", "/identities/device/reprovision", None);
    assert_eq!(reprovision.status, 204, "{reprovision:?}: {}", device.identityd.log());
    device.wait_for_the_end();
    device.identityd.wait_until_logged("was renewed");
    let module = json!({ "type": "aziot", "moduleId": "telemetry" });
    client.post("/identities/modules", &module).expect(200);
    let new = device.identity().digest(openssl::hash::MessageDigest::sha256()).unwrap();
    let new: String = new.iter().map(|byte| format!("{byte:02X}")).collect();
    let known = admin(&device.sim, "GET", "/devices/0/press-17", &Value::Null);
    assert_eq!(known["authentication"]["x509Thumbprint"]["primaryThumbprint"], json!(new), "{known}");
}
