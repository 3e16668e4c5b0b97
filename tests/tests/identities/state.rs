//! The state directory, shared with upstream 1.6: checklist 52, 53, 74.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, thread, time::Duration};

use serde_json::json;
use suite_tests::{
    http::wait_for,
    keys::{Keys, key_file},
};

use crate::cloud::{Cloud, DEVICE, Site, WAIT, identityd, keyd, manual, pipe, principal, record_path};

/// The state directory of an upstream 1.6 that has the modules `ours`; with `extra` files as upstream leaves them.
fn write_as_upstream(home: &Path, cloud: &Cloud, ours: &[(&str, &str)]) {
    let hub = cloud.hub(0);
    let put = |path: std::path::PathBuf, text: String| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    };
    let info =
        format!("hub_name = \"{hub}\"\nlocal_gateway_hostname = \"{hub}\"\ndevice_id = \"{DEVICE}\"\n");
    put(home.join("device_info"), info);
    let principals: String = ours
        .iter()
        .map(|(name, _)| format!("\n[[principal]]\nuid = 1001\nname = \"{name}\"\nidtype = [\"module\"]\n"))
        .collect();
    let home_text = home.display();
    put(
        home.join("prev_state"),
        format!(
            "hostname = \"device\"\nhomedir = \"{home_text}\"\nprefer_module_identity_cache = false\n\n[provisioning]\n\
             source = \"manual\"\niothub_hostname = \"{hub}\"\ndevice_id = \"{DEVICE}\"\n\n[provisioning.authentication]\n\
             method = \"sas\"\ndevice_id_pk = \"device-id\"\n{principals}"
        ),
    );
    for (id, generation) in ours {
        let json = format!(r#"{{"moduleId":"{id}","deviceId":"{DEVICE}","generationId":"{generation}"}}"#);
        put(record_path(home, &hub, id), json);
    }
}

#[test]
fn identity_52_a_directory_of_upstream_is_taken_over() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let made = ["keep", "drop"].map(|id| cloud.add_module(id)["generationId"].as_str().unwrap().to_owned());
    let keyd = keyd(&key);
    // As upstream's keyd has it, too; without it all modules would need new keys.
    keyd.client().import_key("aziot_identityd_master_id", "derive,sign", &[7; 32]);
    let setup = identityd(&cloud, &keyd, &manual(&cloud, &principal(1001, "keep", "['module']")));
    write_as_upstream(&setup.home(), &cloud, &[("keep", &made[0]), ("drop", &made[1])]);
    cloud.forget_requests();
    let site = Site { identityd: setup.start(), keyd, cloud, key };
    wait_for("the module to go", WAIT, || site.cloud.module("drop").is_null().then_some(()));
    assert_eq!(site.cloud.operations(), "hub.list hub.delete", "what is kept is not touched");
    assert_eq!(site.module("keep").expect(200).json()["spec"]["genId"], made[0]);
}

#[test]
fn identity_52_modules_made_in_the_cloud_keep_their_keys_where_keyd_has_no_master_key() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let made =
        ["foreign", "keep"].map(|id| cloud.add_module(id)["generationId"].as_str().unwrap().to_owned());
    let keys = || ["foreign", "keep"].map(|id| cloud.module(id)["authentication"].clone());
    let before = keys();
    let keyd = keyd(&key);
    let setup = identityd(&cloud, &keyd, &manual(&cloud, &principal(1001, "keep", "['module']")));
    write_as_upstream(&setup.home(), &cloud, &[("keep", &made[1])]);
    fs::write(
        record_path(&setup.home(), &cloud.hub(0), "foreign"),
        format!(r#"{{"moduleId":"foreign","deviceId":"{DEVICE}","generationId":"{}"}}"#, made[0]),
    )
    .unwrap();
    cloud.forget_requests();
    let identityd = setup.start();
    wait_for("a round", WAIT, || (cloud.count("hub.list") > 0).then_some(()));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(cloud.operations(), "hub.list");
    assert!(!key_file(&keyd.home(), "aziot_identityd_master_id").exists(), "nobody has asked for a key");
    // Whoever asks for one makes it, and that is no loss.
    identityd.client().get("/identities/modules/foreign?type=aziot").expect(200);
    thread::sleep(Duration::from_millis(500));
    assert_eq!((cloud.count("hub.put"), keys()), (0, before), "{}", cloud.operations());
}

#[test]
fn identity_52_decided_modules_that_nobody_remembers_are_adopted() {
    let cloud = Cloud::start(&[]);
    let key = cloud.add_device();
    let generation = cloud.add_module("m")["generationId"].clone();
    let keys = cloud.module("m")["authentication"].clone();
    cloud.forget_requests();
    let config = manual(&cloud, &principal(1001, "m", "['module']"));
    let site = Site::start(cloud, key, &config);
    site.wait_until_settled();
    assert_eq!(site.cloud.operations(), "hub.list hub.put");
    assert_eq!(site.cloud.module("m")["generationId"], generation, "it keeps its twin");
    assert_ne!(site.cloud.module("m")["authentication"], keys, "it has our keys");
}

#[test]
fn identity_53_files_are_written_as_upstream_writes_them() {
    let site = Site::manual(&principal(1001, "agent-1", "['module']"));
    site.wait_until_settled();
    let home = site.identityd.home();
    let (info, previous) = (site.state("device_info"), site.state("prev_state"));
    let record = record_path(&home, &site.cloud.hub(0), "agent-1");
    let generation = site.cloud.module("agent-1")["generationId"].as_str().unwrap().to_owned();
    let expected = format!(r#"{{"moduleId":"agent-1","deviceId":"{DEVICE}","generationId":"{generation}"}}"#);
    assert_eq!(fs::read_to_string(&record).unwrap(), expected);
    for path in [home.join("device_info"), home.join("prev_state"), record] {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{}", path.display());
    }
    let scratch = tempfile::tempdir().unwrap();
    write_as_upstream(scratch.path(), &site.cloud, &[("agent-1", "")]);
    let read = |name: &str| fs::read_to_string(scratch.path().join(name)).unwrap();
    let homeless =
        |text: &str| text.lines().filter(|line| !line.starts_with("homedir")).collect::<Vec<_>>().join("\n");
    assert_eq!(info, read("device_info"));
    assert_eq!(homeless(&previous), homeless(&read("prev_state")));
}

#[test]
fn identity_74_killed_at_any_time_it_starts_again() {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    let principals: String = (0..8).map(|at| principal(1001, &format!("m{at}"), "['module']")).collect();
    let config = crate::cloud::dps(&cloud, &principals);
    let mut site = Site::start(cloud, key, &config);
    for round in 0..12 {
        thread::sleep(Duration::from_millis(2000 + 15 * round));
        site.identityd.kill();
        for name in ["device_info", "prev_state"] {
            let whole =
                fs::read_to_string(site.identityd.home().join(name)).is_ok_and(|text| text.ends_with('\n'));
            assert!(whole || !site.identityd.home().join(name).exists(), "{name} is whole or not there");
        }
        if round % 4 == 3 {
            // It may have been killed before it wrote the file.
            let _ = fs::remove_file(site.identityd.home().join("device_info"));
        }
        site.identityd.restart();
    }
    site.own().expect(200);
    wait_for("all modules", WAIT, || (site.names().len() == 8).then_some(()));
    let leftovers = fs::read_dir(site.identityd.home()).unwrap().flatten();
    let leftovers: Vec<_> =
        leftovers.filter(|entry| entry.file_name().to_string_lossy().starts_with('.')).collect();
    assert!(leftovers.is_empty(), "{leftovers:?}");
}

#[test]
fn identity_74_garbage_hides_no_good_records() {
    let mut site = Site::manual(&principal(1001, "good", "['module']"));
    site.create("cut").expect(200);
    site.wait_until_settled();
    site.identityd.terminate();
    let home = site.identityd.home();
    let path = |id: &str| record_path(&home, &site.cloud.hub(0), id);
    fs::write(path("cut"), "{\"moduleId\":\"cu").unwrap();
    fs::write(path("foreign"), "no json").unwrap();
    let copied = r#"{"moduleId":"copied","deviceId":"other-device","generationId":"666"}"#;
    fs::write(path("copied"), copied).unwrap();
    fs::write(home.join("prev_state"), "").unwrap();
    fs::write(home.join("provisioning_memo"), "\u{0}").unwrap();
    // Nobody ever writes into these.
    fs::remove_file(home.join("device_info")).unwrap();
    pipe(&home.join("device_info"));
    pipe(&path("pipe"));
    site.cloud.unplug();
    site.identityd.restart();
    site.module("good").expect(200);
    site.module("cut").expect(404);
    assert_eq!(site.names(), ["good"], "nor is another device's module taken for ours");
    site.cloud.heal();
    wait_for("the hub", WAIT, || (site.names() == ["cut", "good"]).then_some(()));
    let mixed = json!([
        { "moduleId": "good", "deviceId": DEVICE.to_uppercase(), "generationId": "5" },
        { "moduleId": "cut", "deviceId": "other-device", "generationId": "666" },
    ]);
    site.cloud.fault("hub.list", &json!({ "status": 200, "body": mixed }), None);
    wait_for("the list", WAIT, || (site.names() == ["good"]).then_some(()));
    assert!(!path("cut").exists());
}
