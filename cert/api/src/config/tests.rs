//! The configuration file as administrators and `aziotctl` write it.

use super::*;

fn read(text: &str) -> Result<Config, String> {
    toml::from_str(&format!("homedir_path = '/var/lib/aziot/certd'\n{text}"))
        .map_err(|error| error.message().to_owned())
}

const EXAMPLE: &str = r#"
max_requests = 25

[cert_issuance]
press-12 = { method = "est", url = "https://pki.plant.example/.well-known/est/press" }
hmi      = { method = "local_ca", expiry_days = 14, common_name = "hmi-panel" }
site-ca  = { method = "self_signed", expiry_days = 365, subject = { CN = "site", O = "Plant" } }

[cert_issuance.est]
trusted_certs = ["pki-root"]
identity_cert = "press-est"
identity_pk = "press-est"
bootstrap_identity_cert = "press-boot"
bootstrap_identity_pk = "press-boot"

[cert_issuance.est.identity_auto_renew]
rotate_key = true
threshold = "70%"
retry = "30min"

[cert_issuance.est.urls]
default = "https://pki.plant.example/.well-known/est"

[cert_issuance.local_ca]
cert = "site-ca"
pk = "site-ca"

[preloaded_certs]
pki-root = "file:///etc/plant/pki-root.pem"
trust-all = ["pki-root", "site-ca"]

[[principal]]
uid = 1500
certs = ["press-*", "hmi"]
"#;

#[test]
fn the_example_of_the_specification() {
    let config = read(EXAMPLE).unwrap();
    assert_eq!(config.max_requests, 25);
    let Issuance { est, local_ca, certs } = &config.cert_issuance;
    let est = est.as_ref().unwrap();
    assert_eq!(est.identity_auto_renew.as_ref().unwrap().retry, crate::Policy::Seconds(1800));
    assert_eq!(est.urls["default"].as_str(), "https://pki.plant.example/.well-known/est");
    let identity = EstIdentity { cert: "press-est", pk: "press-est" };
    let bootstrap = EstIdentity { cert: "press-boot", pk: "press-boot" };
    assert_eq!(est.authentication.identity(), Some((identity, Some(bootstrap))));
    assert!(est.unknown.is_empty());
    assert_eq!(local_ca.as_ref().unwrap().cert, "site-ca");
    assert_eq!(certs["press-12"].method, Method::Est);
    assert_eq!(certs["hmi"].expiry_days.unwrap().get(), 14);
    let Some(Subject::Names(names)) = &certs["site-ca"].subject else { panic!() };
    assert_eq!(names["O"], "Plant");
    assert!(matches!(&config.preloaded_certs["pki-root"], Preloaded::Uri(_)));
    assert!(matches!(&config.preloaded_certs["trust-all"], Preloaded::Ids(ids) if ids.len() == 2));
}

#[test]
fn what_is_written_is_read_again() {
    let config = read(EXAMPLE).unwrap();
    assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
}

#[test]
fn certs_66_68_what_is_refused() {
    for (text, reason) in [
        ("[cert_issuance]\nx = 'est'", "invalid type: string"),
        ("[cert_issuance.x]\nmethod = 'est'\nexpiry_days = 0", "nonzero"),
        ("[cert_issuance.x]\nmethod = 'scep'", "unknown variant"),
        ("[cert_issuance.x]\nexpiry_days = 1", "missing field `method`"),
        ("[cert_issuance.x]\nmethod = 'est'\nurl = 'pki/est'", "relative URL"),
        ("[cert_issuance.local_ca]\ncert = 'a'", "missing field `pk`"),
        (
            "[cert_issuance.est.identity_auto_renew]\nthreshold = '80%'\nretry = '4%'",
            "missing field `rotate_key`",
        ),
        (
            "[cert_issuance.est.identity_auto_renew]\nrotate_key = true\nthreshold = '1h'\nretry = '4%'",
            "renewal policy",
        ),
        (
            "[cert_issuance.est.identity_auto_renew]\nrotate_key = true\nthreshold = 50\nretry = '4%'",
            "invalid type",
        ),
        ("[preloaded_certs]\na = '/etc/a.pem'", "expected a URL"),
        ("[preloaded_certs]\na = 5", "expected a URL"),
        ("[[principal]]\nuid = true\ncerts = []", "number, 0 to 4294967295, or name"),
        ("[[principal]]\ncerts = []", "missing field `uid`"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
    assert!(toml::from_str::<Config>("").unwrap_err().message().contains("homedir_path"));
}

#[test]
fn incomplete_authentication_is_none() {
    let check = |text: &str, basic: bool, identity: bool, incomplete: bool| {
        let config = read(&format!("[cert_issuance.est]\n{text}")).unwrap();
        let authentication = config.cert_issuance.est.unwrap().authentication;
        let found = (
            authentication.basic().is_some(),
            authentication.identity().is_some(),
            authentication.is_incomplete(),
        );
        assert_eq!(found, (basic, identity, incomplete), "{text}");
    };
    check("", false, false, false);
    check("username = 'u'\npassword = 'p'", true, false, false);
    check("username = 'u'", false, false, true);
    check("password = 'u'", false, false, true);
    check("identity_cert = 'c'\nidentity_pk = 'p'", false, true, false);
    check("identity_cert = 'c'", false, false, true);
    check("identity_cert = 'c'\nidentity_pk = 'p'\nbootstrap_identity_pk = 'b'", false, false, true);
    check("bootstrap_identity_cert = 'c'\nbootstrap_identity_pk = 'p'", false, false, true);
    check("username = 'u'\npassword = 'p'\nidentity_pk = 'p'", true, false, true);
}

#[test]
fn what_is_unknown_or_unusable_is_kept_in_mind() {
    let config =
        read("[cert_issuance.est.auth]\nusername = 'u'\n[cert_issuance.x]\nmethod = 'est'\nexpiry = 5")
            .unwrap();
    assert!(config.cert_issuance.est.as_ref().unwrap().unknown.contains_key("auth"));
    assert!(config.cert_issuance.certs["x"].unknown.contains_key("expiry"));
    let config = read("[cert_issuance.x]\nmethod = 'est'\nsubject = { CN = 'a', O = 5 }").unwrap();
    assert_eq!(config.cert_issuance.certs["x"].subject, Some(Subject::Unusable));
}

#[test]
fn passwords_are_not_printed() {
    let config = read("[cert_issuance.est]\nusername = 'user'\npassword = 'hunter2'").unwrap();
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
