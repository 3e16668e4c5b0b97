//! Modules with certificates while the hub refuses: whoever reads one waits for no hub, and does not write there.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::cloud::DEVICE;
use crate::plant::Site;

#[test]
fn a_module_with_a_certificate_is_read_whatever_the_hub_says() {
    let site = Site::new("module-cam-1 = { method = 'local_ca' }");
    site.enroll_group();
    let modules = "[module_x509]\nmodules = ['cam-*']\nkey_algorithm = 'ec-p256'\n";
    let config = site.dps(&format!("registration_id = '{DEVICE}'"), modules);
    let mut plant = site.start(&config);
    plant.own().expect(200);
    plant.wait_until_settled();
    plant.create("cam-1").expect(200);

    // After a restart it is not known whether the hub knows the certificate; its own list says so.
    plant.cloud.forget_requests();
    plant.identityd.restart();
    suite_tests::http::wait_for("the list", Duration::from_secs(20), || {
        (plant.cloud.count("hub.list") > 0).then_some(())
    });
    plant.client().get("/identities/modules?type=aziot").expect(200);
    plant.module("cam-1").expect(200);
    assert_eq!(plant.cloud.count("hub.put"), 0, "{}", plant.cloud.operations());

    for action in [json!({ "status": 401 }), json!({ "status": 403 }), json!({ "stall": true })] {
        plant.identityd.terminate();
        plant.cloud.fault("hub", &action, None);
        plant.identityd.restart();
        plant.module("cam-1").expect(200); // waits a little, once
        plant.cloud.forget_requests();
        let begun = Instant::now();
        for _ in 0..20 {
            let read = plant.module("cam-1").expect(200).json();
            assert_eq!(read["spec"]["auth"]["certId"], "module-cam-1");
        }
        assert!(begun.elapsed() < Duration::from_secs(4), "{action}: {:?}", begun.elapsed());
        let asked = plant.cloud.count("hub.get") + plant.cloud.count("hub.put");
        assert!(asked <= 1, "{action}: {}", plant.cloud.operations());
        plant.cloud.heal();
    }
}
