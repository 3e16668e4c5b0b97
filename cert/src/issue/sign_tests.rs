//! Certificates as they are issued, looked at with OpenSSL.

use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};

use super::super::csr::tests::{ec_key, extension, request};
use super::*;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = SECONDS_OF_DAY;

fn csr(extensions: Vec<X509Extension>) -> Csr {
    Csr::parse(&request("leaf", &ec_key(Nid::X9_62_PRIME256V1), extensions)).unwrap()
}

/// A self-signed authority of `days`, made by the code under test.
fn authority(key: &PKey<Private>, days: u32) -> X509 {
    let extensions = vec![
        BasicConstraints::new().critical().ca().build().unwrap(),
        KeyUsage::new().critical().key_cert_sign().crl_sign().build().unwrap(),
    ];
    let csr = Csr::parse(&request("ca", key, extensions)).unwrap();
    certificate(&csr, None, key, &Options { expiry_days: Some(days), subject: None }, NOW).unwrap()
}

/// Dotted ids of a certificate's extensions, in their order.
fn extensions(certificate: &X509) -> Vec<(String, bool)> {
    let der = certificate.to_der().unwrap();
    let mut outer = der::Reader::new(der::Reader::new(&der).expect(der::SEQUENCE).unwrap());
    let mut fields = der::Reader::new(outer.expect(der::SEQUENCE).unwrap());
    let mut found = Vec::new();
    while let Some(field) = fields.next().unwrap() {
        if field.tag == EXTENSIONS {
            let mut list = der::Reader::new(der::Reader::new(field.content).expect(der::SEQUENCE).unwrap());
            while let Some(entry) = list.next().unwrap() {
                let extension = super::super::csr::read_extension(entry.content).unwrap();
                found.push((extension.oid, extension.critical));
            }
        }
    }
    found
}

fn unix(time: &openssl::asn1::Asn1TimeRef) -> i64 {
    let diff = Asn1Time::from_unix(0).unwrap().diff(time).unwrap();
    i64::from(diff.days) * DAY + i64::from(diff.secs)
}

#[test]
fn certs_31_32_33_what_every_certificate_has() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let ca = authority(&key, 365);
    let issued = certificate(&csr(vec![]), Some(&ca), &key, &Options::default(), NOW).unwrap();
    assert_eq!(issued.version(), 2);
    assert_eq!((unix(issued.not_before()), unix(issued.not_after())), (NOW, NOW + 30 * DAY));
    assert_eq!(issued.issuer_name().to_der().unwrap(), ca.subject_name().to_der().unwrap());
    assert_eq!(issued.signature_algorithm().object().nid(), Nid::ECDSA_WITH_SHA256);
    let bits = issued.serial_number().to_bn().unwrap().num_bits();
    assert_eq!(bits, 159, "random, positive, 20 bytes at most");
    let again = certificate(&csr(vec![]), Some(&ca), &key, &Options::default(), NOW).unwrap();
    assert_ne!(issued.serial_number().to_bn().unwrap(), again.serial_number().to_bn().unwrap());
    let days = Options { expiry_days: Some(90), subject: None };
    let issued = certificate(&csr(vec![]), Some(&ca), &key, &days, NOW).unwrap();
    assert_eq!(unix(issued.not_after()), NOW + 90 * DAY);
}

#[test]
fn certs_32_never_longer_than_the_issuer_nor_than_a_date_can_say() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let ca = authority(&key, 10);
    let issued = certificate(&csr(vec![]), Some(&ca), &key, &Options::default(), NOW).unwrap();
    assert_eq!(issued.not_after(), ca.not_after());
    let ever = authority(&key, u32::MAX);
    assert_eq!(unix(ever.not_after()), LAST_SECOND);
    let days = Options { expiry_days: Some(u32::MAX), subject: None };
    let issued = certificate(&csr(vec![]), Some(&ca), &key, &days, NOW).unwrap();
    assert_eq!(issued.not_after(), ca.not_after());
}

#[test]
fn certs_34_35_36_extensions() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let ca = authority(&key, 365);
    let asked = || {
        vec![
            ExtendedKeyUsage::new().server_auth().build().unwrap(),
            extension("1.2.3.4", false, b"\x05\x00"),
            BasicConstraints::new().critical().ca().build().unwrap(),
        ]
    };
    let issued = certificate(&csr(asked()), Some(&ca), &key, &Options::default(), NOW).unwrap();
    let wanted =
        [("2.5.29.37", false), ("1.2.3.4", false), ("2.5.29.19", true), (SKID, false), (AKID, false)];
    assert_eq!(extensions(&issued), wanted.map(|(oid, critical)| (oid.to_owned(), critical)));
    let bits = openssl::sha::sha1(
        &issued
            .public_key()
            .unwrap()
            .ec_key()
            .map(|key| {
                let mut context = openssl::bn::BigNumContext::new().unwrap();
                let form = openssl::ec::PointConversionForm::UNCOMPRESSED;
                key.public_key().to_bytes(key.group(), form, &mut context).unwrap()
            })
            .unwrap(),
    );
    assert_eq!(issued.subject_key_id().unwrap().as_slice(), bits);
    assert_eq!(issued.authority_key_id().unwrap().as_slice(), ca.subject_key_id().unwrap().as_slice());
    let own =
        certificate(&Csr::parse(&request("a", &key, asked())).unwrap(), None, &key, &Options::default(), NOW);
    assert!(own.unwrap().authority_key_id().is_none());
    let mut asked = asked();
    asked.push(extension(SKID, false, b"\x04\x03abc"));
    asked.push(extension(AKID, false, b"\x30\x05\x80\x03xyz"));
    let issued = certificate(&csr(asked), Some(&ca), &key, &Options::default(), NOW).unwrap();
    assert_eq!(issued.subject_key_id().unwrap().as_slice(), b"abc");
    assert_eq!(
        issued.authority_key_id().unwrap().as_slice(),
        ca.subject_key_id().unwrap().as_slice(),
        "a wrong one is not copied"
    );
    assert_eq!(extensions(&issued).iter().filter(|(oid, _)| oid == SKID || oid == AKID).count(), 2);
}

#[test]
fn what_the_issuer_says_about_itself_cannot_be_asked_for() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let ca = authority(&key, 365);
    let access = |critical| {
        let names = SubjectAlternativeName::new()
            .dns("a")
            .build(&X509::builder().unwrap().x509v3_context(None, None))
            .unwrap();
        csr(vec![extension("1.3.6.1.5.5.7.1.1", critical, b"\x30\x00"), names])
    };
    let issued = certificate(&access(false), Some(&ca), &key, &Options::default(), NOW).unwrap();
    assert!(issued.authority_info().is_none());
    assert!(issued.subject_alt_names().is_some());
    let refused = certificate(&access(true), Some(&ca), &key, &Options::default(), NOW).err().unwrap();
    assert!(matches!(refused, NotSigned::Extension(BadCsr::ForIssuer(_))));
}

#[test]
fn what_nobody_could_verify_is_not_made() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let ca = authority(&key, 365);
    for (oid, critical, value) in [
        ("1.2.3.4.5", true, &b"\x05\x00"[..]),
        ("2.5.29.17", false, b"\x05\x00"),
        ("2.5.29.15", false, b"\x05\x00"),
        ("2.5.29.37", false, b"\x05\x00"),
        ("2.5.29.19", true, b"\x01\x01\xff"),
    ] {
        let csr = csr(vec![extension(oid, critical, value)]);
        let refused = certificate(&csr, Some(&ca), &key, &Options::default(), NOW).expect_err(oid);
        assert!(matches!(refused, NotSigned::Extension(BadCsr::Unusable(_))), "{oid}: {refused:?}");
        assert!(ErrorStack::get().errors().is_empty(), "nothing is left for the next one to trip over");
    }
    let unknown = csr(vec![extension("1.2.3.4.5", false, b"\x05\x00")]);
    assert!(certificate(&unknown, Some(&ca), &key, &Options::default(), NOW).is_ok(), "no harm to anybody");
}

#[test]
fn certs_42_a_configured_subject_is_also_the_issuer_of_a_self_signed_certificate() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let csr = Csr::parse(&request("other", &key, vec![])).unwrap();
    let options = Options { expiry_days: None, subject: Some(SubjectOverride::CommonName("mine".into())) };
    let issued = certificate(&csr, None, &key, &options, NOW).unwrap();
    assert_eq!(format!("{:?}", issued.subject_name()), format!("{:?}", issued.issuer_name()));
    assert!(format!("{:?}", issued.subject_name()).contains("mine"));
}

#[test]
fn certs_45_the_digest_is_as_strong_as_the_key() {
    let check = |key: PKey<Private>, expected: Nid| {
        let ca = authority(&key, 365);
        assert_eq!(ca.signature_algorithm().object().nid(), expected);
        let issued = certificate(&csr(vec![]), Some(&ca), &key, &Options::default(), NOW).unwrap();
        assert!(issued.verify(&ca.public_key().unwrap()).unwrap());
        assert_eq!(issued.signature_algorithm().object().nid(), expected);
    };
    check(ec_key(Nid::X9_62_PRIME256V1), Nid::ECDSA_WITH_SHA256);
    check(ec_key(Nid::SECP384R1), Nid::ECDSA_WITH_SHA384);
    check(ec_key(Nid::SECP521R1), Nid::ECDSA_WITH_SHA512);
    check(PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(), Nid::SHA256WITHRSAENCRYPTION);
    check(PKey::from_rsa(Rsa::generate(3072).unwrap()).unwrap(), Nid::SHA256WITHRSAENCRYPTION);
}

#[test]
fn issuers_that_cannot_issue() {
    let (key, other) = (ec_key(Nid::X9_62_PRIME256V1), ec_key(Nid::X9_62_PRIME256V1));
    let ca = authority(&key, 10);
    let fail = |issuer: Option<&X509>, key: &PKey<Private>, now| {
        certificate(&csr(vec![]), issuer.map(|issuer| &**issuer), key, &Options::default(), now)
            .err()
            .unwrap()
    };
    assert!(matches!(fail(Some(&ca), &other, NOW), NotSigned::WrongKey));
    assert!(matches!(fail(Some(&ca), &key, NOW + 10 * DAY), NotSigned::IssuerExpired(_)));
    assert!(matches!(fail(Some(&ca), &key, NOW - 1), NotSigned::IssuerNotYetValid(_)));
    assert!(matches!(fail(None, &other, NOW), NotSigned::NotItsOwnKey));
}

#[test]
fn who_is_an_authority() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let ca = authority(&key, 10);
    assert_eq!(is_authority(&ca), Some(true));
    let issue =
        |extensions| certificate(&csr(extensions), Some(&ca), &key, &Options::default(), NOW).unwrap();
    assert_eq!(is_authority(&issue(vec![])), None);
    assert_eq!(is_authority(&issue(vec![BasicConstraints::new().build().unwrap()])), Some(false));
}
