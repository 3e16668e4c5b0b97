//! A whole plant: cloud with EST, keyd, certd, identityd. The device's certificate comes from EST, those of others from an
//! authority of the site.

use std::{fs, path::PathBuf};

use openssl::{
    pkey::{PKey, Private},
    x509::X509,
};
use serde_json::{Value, json};
use suite_tests::{
    harness::{CERTD, Daemon, IDENTITYD, KEYD, Setup},
    http::{Client, Reply, wait_for},
    keys::Keys as _,
};

use crate::cloud::{Cloud, DEVICE, Seen, WAIT};

/// Cloud and daemons.
pub(crate) struct Plant {
    pub(crate) identityd: Daemon,
    pub(crate) certd: Daemon,
    pub(crate) keyd: Daemon,
    pub(crate) cloud: Cloud,
}

/// Cloud, keyd and certd, with the site's authority `site-ca`.
pub(crate) struct Site {
    pub(crate) certd: Daemon,
    pub(crate) keyd: Daemon,
    pub(crate) cloud: Cloud,
}

impl Site {
    /// `issuance` are further entries of certd's table `[cert_issuance]`.
    pub(crate) fn new(issuance: &str) -> Site {
        Site::on(Cloud::start(&["--est"]), Setup::new(&KEYD).start(), issuance)
    }

    pub(crate) fn on(cloud: Cloud, keyd: Daemon, issuance: &str) -> Site {
        let config = format!(
            "[cert_issuance]\ndevice-id = {{ method = 'est' }}\nsite-ca = {{ method = 'self_signed' }}\n{issuance}\n\
             [cert_issuance.est]\ntrusted_certs = ['cloud-ca']\nusername = 'device'\npassword = 'secret'\n\
             [cert_issuance.est.urls]\ndefault = '{}'\n[cert_issuance.local_ca]\ncert = 'site-ca'\npk = 'site-ca'\n\
             [preloaded_certs]\ncloud-ca = 'file://{}'\n",
            cloud.text("est"),
            cloud.ca().display()
        );
        let setup = Setup::new(&CERTD).config(&config).reach(&KEYD, keyd.setup().socket_path());
        let site = Site { certd: setup.start(), keyd, cloud };
        site.make_authority();
        site
    }

    /// A group of devices with certificates of the EST server.
    pub(crate) fn enroll_group(&self) {
        let root = fs::read_to_string(self.est_root()).unwrap();
        let anchors = json!({ "primary": { "certificate": root } });
        let attestation = json!({ "type": "x509", "x509": { "signingCertificates": anchors } });
        self.cloud.admin("PUT", "/enrollmentGroups/plant", &json!({ "attestation": attestation }));
    }

    /// The device at the first hub, known by `authentication`.
    pub(crate) fn add_device(&self, authentication: &Value) {
        self.cloud.admin(
            "PUT",
            &format!("/devices/0/{DEVICE}"),
            &json!({ "authentication": authentication }),
        );
    }

    pub(crate) fn est_root(&self) -> PathBuf {
        self.cloud.ca().with_file_name("est-root.pem")
    }

    /// An identityd that can reach all.
    pub(crate) fn identityd(&self, config: &str) -> Setup {
        Setup::new(&IDENTITYD)
            .env("SSL_CERT_FILE", self.cloud.ca())
            .reach(&KEYD, self.keyd.setup().socket_path())
            .reach(&CERTD, self.certd.setup().socket_path())
            .config(config)
    }

    pub(crate) fn start(self, config: &str) -> Plant {
        let identityd = self.identityd(config).start();
        let Site { certd, keyd, cloud } = self;
        Plant { identityd, certd, keyd, cloud }
    }

    /// The configuration of a device that asks DPS. `attestation` are further members of that table.
    pub(crate) fn dps(&self, attestation: &str, more: &str) -> String {
        let (endpoint, scope) = (self.cloud.text("dps"), self.cloud.text("scope"));
        format!(
            "hostname = 'device'\n[provisioning]\nsource = 'dps'\nglobal_endpoint = '{endpoint}'\nscope_id = '{scope}'\n\
             attestation = {{ method = 'x509', identity_cert = 'device-id', identity_pk = 'device-id', {attestation} }}\n{more}"
        )
    }

    /// The configuration of a device that knows its hub. `authentication` are further members of that table.
    pub(crate) fn manual(&self, authentication: &str, more: &str) -> String {
        let hub = self.cloud.hub(0);
        format!(
            "hostname = 'device'\n[provisioning]\nsource = 'manual'\niothub_hostname = '{hub}'\ndevice_id = '{DEVICE}'\n\
             authentication = {{ method = 'x509', identity_cert = 'device-id', identity_pk = 'device-id'{authentication} }}\n{more}"
        )
    }

    fn make_authority(&self) {
        self.keyd.client().create_pair("site-ca", "ec-p256");
        let file = suite_tests::keys::key_file(&self.keyd.home(), "site-ca");
        let key = PKey::private_key_from_pem(&fs::read(file).unwrap()).unwrap();
        let csr = authority_request(&key);
        let body = json!({ "certId": "site-ca", "csr": csr });
        self.certd.client().post("/certificates", &body).expect(201);
    }
}

impl Plant {
    /// A device that has asked DPS, with a certificate of EST, and is settled.
    pub(crate) fn provisioned(more: &str) -> Plant {
        let site = Site::new("");
        site.enroll_group();
        let config = site.dps(&format!("registration_id = '{DEVICE}'"), more);
        let plant = site.start(&config);
        plant.own().expect(200);
        plant.wait_until_settled();
        plant
    }

    /// Root's client of identityd.
    pub(crate) fn client(&self) -> Client {
        self.identityd.client().version("2022-08-01")
    }

    pub(crate) fn as_uid(&self, uid: u32) -> Client {
        self.identityd.as_uid(uid).version("2022-08-01")
    }

    /// The reply to `POST /identities/device`, which waits for provisioning.
    pub(crate) fn own(&self) -> Reply {
        self.client().post("/identities/device", &json!({ "type": "aziot" }))
    }

    pub(crate) fn reprovision(&self) -> Reply {
        self.client().request("POST", "/identities/device/reprovision", None)
    }

    pub(crate) fn module(&self, id: &str) -> Reply {
        self.client().get(&format!("/identities/modules/{id}?type=aziot"))
    }

    pub(crate) fn create(&self, id: &str) -> Reply {
        self.client().post("/identities/modules", &json!({ "type": "aziot", "moduleId": id }))
    }

    /// What certd has as `id`.
    pub(crate) fn certificate(&self, id: &str) -> Vec<X509> {
        chain(&self.certd.client().get(&format!("/certificates/{id}")))
    }

    /// The key pair that keyd keeps as `id`, from its file.
    pub(crate) fn key(&self, id: &str) -> Option<PKey<Private>> {
        let file = suite_tests::keys::key_file(&self.keyd.home(), id);
        fs::read(file).ok().map(|pem| PKey::private_key_from_pem(&pem).unwrap())
    }

    /// The requests of the cloud's services for devices; those of EST are certd's.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.cloud.seen().into_iter().filter(|seen| !seen.operation().starts_with("est")).collect()
    }

    #[track_caller]
    pub(crate) fn wait_until_settled(&self) {
        wait_for("prev_state", WAIT, || self.identityd.home().join("prev_state").exists().then_some(()));
    }
}

/// The certificates in a reply.
#[track_caller]
pub(crate) fn chain(reply: &Reply) -> Vec<X509> {
    assert_eq!(reply.status, 200, "{reply:?}");
    X509::stack_from_pem(reply.string("pem").as_bytes()).unwrap()
}

/// The common name of the leaf.
pub(crate) fn common_name(chain: &[X509]) -> String {
    let name = chain[0].subject_name();
    name.entries_by_nid(openssl::nid::Nid::COMMONNAME).next().unwrap().data().to_string().unwrap().to_string()
}

fn authority_request(key: &PKey<Private>) -> String {
    use openssl::x509::extension::{BasicConstraints, KeyUsage};
    let mut name = openssl::x509::X509Name::builder().unwrap();
    name.append_entry_by_text("CN", "Site CA").unwrap();
    let mut request = openssl::x509::X509Req::builder().unwrap();
    request.set_subject_name(&name.build()).unwrap();
    request.set_pubkey(key).unwrap();
    let mut extensions = openssl::stack::Stack::new().unwrap();
    extensions.push(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    extensions.push(KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap()).unwrap();
    request.add_extensions(&extensions).unwrap();
    request.sign(key, openssl::hash::MessageDigest::sha256()).unwrap();
    String::from_utf8(request.build().to_pem().unwrap()).unwrap()
}
