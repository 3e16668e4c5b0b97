//! Tables of texts that are configurations, and of those that are not.

use super::*;

fn parse(text: &str) -> Result<Config, String> {
    toml::from_str(text).map_err(|err| err.message().to_owned())
}

/// A configuration that starts with what every one needs.
fn with(text: &str) -> Result<Config, String> {
    parse(&format!("hostname = 'press-17'\nhomedir = '/var/lib/aziot/identityd'\n{text}"))
}

const NONE: &str = "[provisioning]\nsource = 'none'\n";
const MANUAL: &str = "[provisioning]\nsource = 'manual'\niothub_hostname = 'h'\ndevice_id = 'd'\n\
    authentication = { method = 'sas', device_id_pk = 'device-id' }\n";
const DPS: &str = "[provisioning]\nsource = 'dps'\nscope_id = 's'\n\
    attestation = { method = 'symmetric_key', registration_id = 'r', symmetric_key = 'k' }\n";

const EXAMPLE: &str = r#"
cloud_timeout_sec = 90
cloud_retries = 2

[provisioning]
source = "dps"
global_endpoint = "https://dps.example.net"
scope_id = "0ne00ABC123"
payload = { uri = "file:///etc/aziot/payload.json" }

[provisioning.attestation]
method = "x509"
registration_id = { cn = "press-17", O = "Acme" }
identity_cert = "device-id"
identity_pk = "device-id"
identity_auto_renew = { rotate_key = true, threshold = "75%", retry = "6%" }

[localid]
domain = "line4.example"

[[principal]]
uid = 991
name = "telemetry"
idtype = ["module", "local"]
localid = { type = "x509", attributes = "server" }

[[principal]]
uid = 992
name = "manager"
"#;

#[test]
fn the_example_of_the_specification() {
    let config = with(EXAMPLE).unwrap();
    assert_eq!(config.check(), Ok(()));
    assert_eq!((config.cloud_timeout.as_secs(), config.cloud_retries, config.max_requests), (90, 2, 10));
    let Source::Dps(dps) = &config.provisioning.source else { panic!() };
    assert_eq!(dps.global_endpoint.as_str(), "https://dps.example.net/");
    let Attestation::X509 { registration_id: Some(subject), identity_auto_renew: Some(renew), .. } =
        &dps.attestation
    else {
        panic!()
    };
    assert_eq!(subject.common_name(), "press-17");
    assert_eq!((renew.threshold, renew.retry), (Policy::Percent(75), Policy::Percent(6)));
    assert_eq!(config.principal[0].id_types, Some(vec![IdType::Module, IdType::Local]));
    assert!(config.principal[1].id_types.is_none());
}

#[test]
fn every_field_survives_being_written() {
    let config = with(EXAMPLE).unwrap();
    let written = toml::to_string(&config).unwrap();
    assert_eq!(parse(&written).unwrap(), config, "{written}");
    for text in [NONE, MANUAL, DPS] {
        let config = with(text).unwrap();
        let written = toml::to_string(&config).unwrap();
        assert_eq!(parse(&written).unwrap(), config, "{written}");
    }
    let gateway = with(&format!("{MANUAL}local_gateway_hostname = 'parent'")).unwrap();
    let written = toml::to_string(&gateway).unwrap();
    assert_eq!(
        parse(&written).unwrap().provisioning.local_gateway_hostname.as_deref(),
        Some("parent"),
        "{written}"
    );
}

#[test]
fn prev_state_is_written_as_upstream_writes_it() {
    let text = format!(
        "log_level = 'debug'\ntrust_bundle = 'b'\n{MANUAL}[[principal]]\nuid = 7\nname = 'a'\nidtype = 'module'\n\
         [[principal]]\nuid = 8\nname = 'b'\nidtype = 'local'\nlocalid = {{ type = 'x509', key_algorithm = 'ec-p256' }}\n[endpoints]\naziot_keyd = 'unix:///x'"
    );
    let written = toml::to_string(&with(&text).unwrap().for_record()).unwrap();
    let expected = r#"hostname = "press-17"
homedir = "/var/lib/aziot/identityd"
prefer_module_identity_cache = false

[provisioning]
source = "manual"
iothub_hostname = "h"
device_id = "d"

[provisioning.authentication]
method = "sas"
device_id_pk = "device-id"

[[principal]]
uid = 7
name = "a"
idtype = ["module"]

[[principal]]
uid = 8
name = "b"
idtype = ["local"]

[principal.localid]
type = "x509"
attributes = "client"
"#;
    assert_eq!(written, expected);
}

#[test]
fn defaults() {
    let config = with(DPS).unwrap();
    assert_eq!((config.cloud_timeout.as_secs(), config.cloud_retries, config.max_requests), (70, 1, 10));
    let Source::Dps(dps) = config.provisioning.source else { panic!() };
    assert_eq!(dps.global_endpoint.as_str(), "https://global.azure-devices-provisioning.net/");
}

#[test]
fn idtype_is_a_word_or_a_list() {
    let idtype = |text: &str| {
        with(&format!("{NONE}[[principal]]\nuid = 1\nname = 'x'\n{text}"))
            .map(|config| config.principal[0].id_types.clone())
    };
    assert_eq!(idtype(""), Ok(None));
    assert_eq!(idtype("idtype = []"), Ok(Some(vec![])));
    assert_eq!(idtype("idtype = 'module'"), Ok(Some(vec![IdType::Module])));
    assert_eq!(idtype("idtype = ['local', 'device']"), Ok(Some(vec![IdType::Local, IdType::Device])));
    assert!(idtype("idtype = 'Module'").unwrap_err().contains("expected device, module or local"));
    assert!(idtype("idtype = ['module', 'x']").is_err());
}

#[test]
fn what_cannot_be_read() {
    let check = |text: &str, message: &str| {
        let error = with(text).unwrap_err();
        assert!(error.contains(message), "{text}: {error:?}, expected {message:?}");
    };
    check(&format!("cloud_timeout_sec = 69\n{NONE}"), "at least 70 seconds, got 69");
    check("", "missing field `provisioning`");
    check("[provisioning]", "missing field `source`");
    check("[provisioning]\nsource = 'Manual'", "unknown variant");
    check(
        &MANUAL.replace("device_id = 'd'", ""),
        "missing field `device_id`, which source = \"manual\" needs",
    );
    check(&MANUAL.replace("sas", "tpm"), "unknown variant");
    check(&DPS.replace("scope_id = 's'", ""), "missing field `scope_id`");
    check(&DPS.replace("symmetric_key = 'k'", "x = 1"), "missing field `symmetric_key`");
    check(&format!("{DPS}payload = {{ uri = 'x' }}"), "relative URL");
    check(&format!("{NONE}[[principal]]\nuid = -1\nname = 'x'"), "invalid value");
    check(&format!("{NONE}[[principal]]\nuid = 1"), "missing field `name`");
    check(&format!("{NONE}[[principal]]\nname = 'x'"), "missing field `uid`");
    check(&format!("{NONE}[[principal]]\nuid = 1\nuser = 'x'\nname = 'x'"), "duplicate field");
    check(
        &format!(
            "{NONE}[[principal]]\nuid = 1\nname = 'x'\nlocalid = {{ type = 'x509', attributes = 'sever' }}"
        ),
        "sever",
    );
    check(&EXAMPLE.replace(", retry = \"6%\"", ""), "missing field `retry`");
    check(&EXAMPLE.replace("75%", "100%"), "not a renewal policy");
    check(&EXAMPLE.replace("cn = \"press-17\", ", ""), "a subject needs CN");
}

#[test]
fn what_reads_well_and_cannot_be_used() {
    let check = |text: &str, expected: Option<&str>| {
        let found = with(text).unwrap().check().err().map(|bad| bad.to_string());
        assert_eq!(found.is_some(), expected.is_some(), "{text}: {found:?}");
        assert!(found.as_ref().is_none_or(|text| !text.contains("0815")), "{found:?}");
        assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{text}");
    };
    let principal = |rest: &str| format!("[[principal]]\nuid = 1\nname = 'x'\n{rest}\n");
    check(NONE, None);
    check(&format!("{NONE}{}", principal("idtype = []")), None);
    check(&format!("{NONE}{}", principal("idtype = 'module'")), Some("source is \"none\""));
    check(&format!("{NONE}{}", principal("idtype = 'device'")), Some("source is \"none\""));
    check(&format!("{MANUAL}{}{}", principal(""), principal("idtype = []")), Some("must be unique"));
    check(&format!("{MANUAL}{}", principal("idtype = 'local'")), Some("localid.domain"));
    check(&format!("{MANUAL}[localid]\ndomain = 'd'\n{}", principal("idtype = 'local'")), None);
    let opts = "localid = { type = 'x509' }";
    check(&format!("{MANUAL}{}", principal(&format!("idtype = 'module'\n{opts}"))), Some("localid options"));
    check(&format!("{MANUAL}{}", principal(opts)), None);
    check(&format!("{DPS}local_gateway_hostname = 'g'"), Some("cannot be used with source = \"dps\""));
    check(&format!("{NONE}local_gateway_hostname = 'g'"), None);
    check(&MANUAL.replace("'h'", "'h:8443'"), None);
    check(&MANUAL.replace("'h'", "'https://h/'"), Some("iothub_hostname"));
    let connection_string = "'HostName=h;DeviceId=d;SharedAccessKey=0815'";
    check(&MANUAL.replace("'h'", connection_string), Some("provisioning.iothub_hostname is no host name"));
    check(&MANUAL.replace("'d'", "' '"), Some("device_id"));
    check(&DPS.replace("'r'", "''"), Some("registration_id"));
    check(&format!("{DPS}global_endpoint = 'file:///x'"), Some("global_endpoint"));
}

#[test]
fn doubts_name_the_principals() {
    let principals = "[[principal]]\nuid = 1\nname = 'a'\n[[principal]]\nuid = 2\nname = 'b'\n\
        [[principal]]\nuid = 1\nname = 'c'\nidtype = []";
    let doubts = with(&format!("{NONE}{principals}")).unwrap().doubts();
    assert_eq!(doubts.len(), 2, "{doubts:?}");
    assert!(doubts[0].contains("\"b\"") && doubts[1].contains("uid 1"), "{doubts:?}");
}

#[test]
fn no_change_brings_another_manager() {
    let config = |managers: &[&str]| {
        let principal = |name: &&str| format!("[[principal]]\nuid = 1\nname = '{name}'\n");
        with(&format!("{NONE}{}", managers.iter().map(principal).collect::<String>())).unwrap()
    };
    for (old, new, is_good) in [
        (&[][..], &["a"][..], true),
        (&["a"], &["b"], true),
        (&["a", "b"], &["b", "a"], true),
        (&["a"], &[], true),
        (&["a"], &["b", "a"], false),
        (&[], &["a", "b"], false),
    ] {
        let found = config(old).check_change(&config(new));
        assert_eq!(found.is_ok(), is_good, "{old:?} to {new:?}: {found:?}");
    }
}

#[test]
fn doubts_tell_names_that_will_not_do() {
    let check = |text: &str, expected: Option<&str>| {
        let config = with(text).unwrap();
        let doubts = config.doubts();
        assert_eq!(config.check(), Ok(()), "upstream takes it: {text}");
        assert_eq!(doubts.len(), usize::from(expected.is_some()), "{text}: {doubts:?}");
        assert!(doubts.concat().contains(expected.unwrap_or_default()), "{text}: {doubts:?}");
        assert!(!doubts.concat().contains("0815"), "{doubts:?}");
    };
    let (long, longest) = ("x".repeat(65), "x".repeat(128));
    let x509 = |id: &str| {
        let x509 = format!("method = 'x509', registration_id = '{id}', identity_cert = 'c'");
        DPS.replace(
            "method = 'symmetric_key', registration_id = 'r', symmetric_key",
            &format!("{x509}, identity_pk"),
        )
    };
    check(DPS, None);
    check(&DPS.replace("'r'", "'Pump-7.a_b:c'"), None);
    check(&DPS.replace("'r'", &format!("'{longest}'")), None);
    check(&DPS.replace("'r'", &format!("'{longest}x'")), Some("1 to 128"));
    for bad in ["'-r'", "'r.'", "'a b'", "'é'", "'a=b'"] {
        check(&DPS.replace("'r'", bad), Some("registration_id"));
    }
    check(&DPS.replace("'s'", "'0ne/1'"), Some("scope_id"));
    // What people put in a wrong place.
    check(&DPS.replace("'s'", "'0815/+w=='"), Some("scope_id has '/'"));
    check(&DPS.replace("'r'", "'0815/+w=='"), Some("registration_id has '/'"));
    check(&MANUAL.replace("'d'", "'HostName=h;SharedAccessKey=0815'"), Some("device_id has ';'"));
    check(&x509(&long[1..]), None);
    check(&x509(&long), Some("64 bytes"));
    check(MANUAL, None);
    check(&MANUAL.replace("'d'", "\"Pump=7'(a)\""), None);
    check(&MANUAL.replace("'d'", "'a b'"), Some("device_id has ' '"));
    check(&MANUAL.replace("'d'", "'..'"), Some("nothing but dots"));
    check(&MANUAL.replace("'d'", &format!("'{long}'")), None);
    let certified =
        MANUAL.replace("'sas', device_id_pk = 'device-id'", "'x509', identity_cert = 'c', identity_pk = 'k'");
    check(&certified.replace("'d'", &format!("'{long}'")), Some("device_id"));
    let local = |domain: &str, name: &str| {
        format!(
            "{NONE}[localid]\ndomain = '{domain}'\n[[principal]]\nuid = 1\nname = '{name}'\nidtype = 'local'\n"
        )
    };
    check(&local("line-4.example", "hmi"), None);
    check(&local("a domain", "hmi"), Some("localid.domain"));
    check(&local("example", &long[10..]), Some("is cut after 64 bytes"));
}

#[test]
fn local_identities_do_not_get_in_the_way_of_the_device_and_its_modules() {
    let x509 = "attestation = { method = 'x509', identity_cert = 'device-id', identity_pk = 'key' }";
    let symmetric =
        "attestation = { method = 'symmetric_key', registration_id = 'r', symmetric_key = 'device-id' }";
    let dps = |attestation: &str| {
        let principal = |name: &str| format!("[[principal]]\nuid = 1\nname = '{name}'\nidtype = ['local']\n");
        let principals: String = ["device-id", "module-cam-1", "web"].map(principal).concat();
        let source = format!("[provisioning]\nsource = 'dps'\nscope_id = 's'\n{attestation}\n");
        let more = "[localid]\ndomain = 'd'\n[module_x509]\nmodules = ['cam-*', 'door']\n";
        with(&format!("trust_bundle = 'cas'\n{source}{more}{principals}")).unwrap()
    };
    let config = dps(x509);
    for (id, owner) in [
        ("device-id", Some("the device")),
        ("device-id-temp", Some("the device")),
        ("device-id-2", None),
        ("key", None),
        ("web", None),
        ("module-cam-1", Some("a module")),
        ("module-door-temp", Some("a module")),
        ("module-doors", None),
        ("cas", Some("those who are trusted")),
        ("cam-1", None),
    ] {
        assert_eq!(config.owner_of_certificate(id), owner, "{id}");
    }
    assert_eq!(config.check(), Ok(()), "a configuration that upstream takes is no reason to end");
    let named = |config: &Config, name: &str| config.doubts().iter().any(|doubt| doubt.contains(name));
    assert!(named(&config, "\"device-id\"") && named(&config, "\"module-cam-1\""), "{:?}", config.doubts());
    assert_eq!(dps(symmetric).owner_of_certificate("device-id"), None);
    assert!(!named(&dps(symmetric), "\"device-id\" gets"));
}

#[test]
fn principals_by_name_and_group_are_recorded_as_upstream_reads_them() {
    let text = "[[principal]]\nuser = 'root'\nname = 'a'\n[[principal]]\ngroup = 'root'\nname = 'b'\nidtype = []\n\
        [[principal]]\nuid = 'nobody at all'\nname = 'c'\nidtype = []\n[[principal]]\nuid = 7\nname = 'd'\nidtype = []";
    let config = with(&format!("{NONE}{text}")).unwrap();
    let doubts = config.doubts();
    assert!(doubts.len() == 1 && doubts[0].contains("nobody at all"), "{doubts:?}");
    assert!(config.principal[0].who.includes(0) && config.principal[1].who.includes((7, 0)));
    assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
    let recorded = toml::to_string(&config.for_record()).unwrap();
    assert_eq!(recorded.matches("uid = 4294967295").count(), 3, "{recorded}");
    assert!(recorded.contains("uid = 7") && !recorded.contains("group"), "{recorded}");
}
