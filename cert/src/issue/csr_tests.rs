//! Requests that are taken and that are not.

use openssl::asn1::{Asn1Object, Asn1OctetString};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Private;
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509Extension, X509Name};

use super::*;

pub(in crate::issue) fn ec_key(curve: Nid) -> PKey<Private> {
    PKey::from_ec_key(EcKey::generate(&EcGroup::from_curve_name(curve).unwrap()).unwrap()).unwrap()
}

pub(in crate::issue) fn extension(oid: &str, critical: bool, value: &[u8]) -> X509Extension {
    let value = Asn1OctetString::new_from_bytes(value).unwrap();
    X509Extension::new_from_der(&Asn1Object::from_str(oid).unwrap(), critical, &value).unwrap()
}

pub(in crate::issue) fn request(
    common_name: &str,
    key: &PKeyRef<Private>,
    extensions: Vec<X509Extension>,
) -> String {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, common_name).unwrap();
    let mut builder = X509Req::builder().unwrap();
    builder.set_subject_name(&name.build()).unwrap();
    builder.set_pubkey(key).unwrap();
    if !extensions.is_empty() {
        let mut stack = Stack::new().unwrap();
        extensions.into_iter().for_each(|extension| stack.push(extension).unwrap());
        builder.add_extensions(&stack).unwrap();
    }
    builder.sign(key, MessageDigest::sha256()).unwrap();
    String::from_utf8(builder.build().to_pem().unwrap()).unwrap()
}

fn refusal(pem: &str) -> BadCsr {
    Csr::parse(pem).err().expect("it is refused")
}

#[test]
fn certs_27_both_labels() {
    let pem = request("a", &ec_key(Nid::X9_62_PRIME256V1), vec![]);
    assert!(pem.contains("BEGIN CERTIFICATE REQUEST"));
    assert!(Csr::parse(&pem).unwrap().extensions().is_empty());
    assert!(Csr::parse(&pem.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST")).is_ok());
    assert!(Csr::parse(&format!("some text\r\n{}", pem.replace('\n', "\r\n"))).is_ok());
}

#[test]
fn extensions_are_read_in_their_order() {
    let extensions = vec![
        BasicConstraints::new().critical().ca().build().unwrap(),
        KeyUsage::new().key_cert_sign().build().unwrap(),
        extension("1.2.3.4.5", true, b"\x05\x00"),
    ];
    let csr = Csr::parse(&request("a", &ec_key(Nid::SECP384R1), extensions)).unwrap();
    let seen: Vec<_> = csr.extensions().iter().map(|found| (found.oid.as_str(), found.critical)).collect();
    assert_eq!(seen, [("2.5.29.19", true), ("2.5.29.15", false), ("1.2.3.4.5", true)]);
    assert_eq!(csr.extensions()[2].value, b"\x05\x00");
}

#[test]
fn certs_26_a_wrong_signature() {
    let der = X509Req::from_pem(request("a", &ec_key(Nid::X9_62_PRIME256V1), vec![]).as_bytes())
        .unwrap()
        .to_der()
        .unwrap();
    let at = der.windows(3).position(|window| window == [0x0c, 0x01, b'a']);
    let mut changed = der.clone();
    changed[at.unwrap() + 2] = b'b';
    let pem = X509Req::from_der(&changed).unwrap().to_pem().unwrap();
    assert!(matches!(refusal(&String::from_utf8(pem).unwrap()), BadCsr::BadSignature));
}

#[test]
fn weak_keys() {
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    assert!(matches!(refusal(&request("a", &rsa(1024), vec![])), BadCsr::WeakKey { bits: 80 }));
    assert!(matches!(refusal(&request("a", &ec_key(Nid::X9_62_PRIME192V1), vec![])), BadCsr::WeakKey { .. }));
    assert!(Csr::parse(&request("a", &rsa(2048), vec![])).is_ok());
    assert!(Csr::parse(&request("a", &ec_key(Nid::SECP521R1), vec![])).is_ok());
}

#[test]
fn a_curve_that_is_not_named() {
    let mut group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    group.set_asn1_flag(openssl::ec::Asn1Flag::EXPLICIT_CURVE);
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    assert!(matches!(refusal(&request("a", &key, vec![])), BadCsr::UnnamedCurve));
}

#[test]
fn what_is_no_request() {
    for text in [
        "",
        "garbage",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "日本\0",
    ] {
        assert!(matches!(refusal(text), BadCsr::NotPem(_)), "{text}");
    }
    assert!(matches!(refusal(&"x".repeat(SIZE_LIMIT + 1)), BadCsr::TooLarge));
    let twice = vec![extension("1.2.3", false, b"\x05\x00"), extension("1.2.3", false, b"\x05\x00")];
    let twice = request("a", &ec_key(Nid::X9_62_PRIME256V1), twice);
    assert!(matches!(refusal(&twice), BadCsr::BadExtensions("one occurs twice")));
}

#[test]
fn certs_58_our_own_requests() {
    let key = ec_key(Nid::X9_62_PRIME256V1);
    let theirs = Csr::parse(&request("device-7", &key, vec![])).unwrap();
    let public = PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap();
    let pair = KeyPair { private: key, public };
    let ours = Csr::for_client(theirs.subject(), &pair).unwrap();
    assert_eq!(ours.version(), 0);
    let ours = Csr::parse(&String::from_utf8(ours.to_pem().unwrap()).unwrap()).unwrap();
    assert_eq!(ours.subject().to_der().unwrap(), theirs.subject().to_der().unwrap());
    // extKeyUsage, not critical: SEQUENCE { clientAuth }
    let wanted = Extension {
        oid: "2.5.29.37".into(),
        critical: false,
        value: b"\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02".to_vec(),
    };
    assert_eq!(ours.extensions(), [wanted]);
}

/// Nothing that comes from outside brings the service down, and nothing but the original has a good signature.
#[test]
fn torn_requests_are_refused_without_a_panic() {
    let extensions = vec![BasicConstraints::new().critical().ca().build().unwrap()];
    let pem = request("a", &ec_key(Nid::X9_62_PRIME256V1), extensions);
    let der = X509Req::from_pem(pem.as_bytes()).unwrap().to_der().unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..3000 {
        let mut torn = der.clone();
        let at = random.usize(..torn.len());
        let byte = random.u8(..);
        if torn[at] == byte {
            continue;
        }
        torn[at] = byte;
        let _ = extensions_of(&torn);
        let Ok(parsed) = X509Req::from_der(&torn) else { continue };
        let torn = String::from_utf8(parsed.to_pem().unwrap()).unwrap();
        assert!(torn == pem || Csr::parse(&torn).is_err(), "{torn}");
    }
}

fn extensions_of(der: &[u8]) -> Result<Vec<Extension>, BadCsr> {
    extensions(der)
}
