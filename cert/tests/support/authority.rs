//! Keys, requests and certificates for tests; certificates in PKCS #7. Knows no HTTP.

use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, PKey, PKeyRef, Private};
use openssl::stack::Stack;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, SubjectAlternativeName, SubjectKeyIdentifier,
};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameRef, X509Req};

/// A certificate with its key.
#[derive(Clone)]
pub struct Issued {
    pub cert: X509,
    pub key: PKey<Private>,
}

pub fn ec_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

pub fn name(common_name: &str) -> X509Name {
    let mut builder = X509Name::builder().unwrap();
    builder.append_entry_by_nid(Nid::COMMONNAME, common_name).unwrap();
    builder.build()
}

pub fn request(common_name: &str, key: &PKeyRef<Private>, extensions: Vec<X509Extension>) -> X509Req {
    let mut builder = X509Req::builder().unwrap();
    builder.set_subject_name(&name(common_name)).unwrap();
    builder.set_pubkey(key).unwrap();
    let mut stack = Stack::new().unwrap();
    extensions.into_iter().for_each(|extension| stack.push(extension).unwrap());
    if !stack.is_empty() {
        builder.add_extensions(&stack).unwrap();
    }
    builder.sign(key, MessageDigest::sha256()).unwrap();
    builder.build()
}

/// The first common name in `name`.
pub fn common_name(name: &X509NameRef) -> String {
    name.entries_by_nid(Nid::COMMONNAME)
        .next()
        .map(|entry| entry.data().to_string().unwrap())
        .unwrap_or_default()
}

impl Issued {
    /// A root.
    pub fn root(common_name: &str) -> Self {
        Self::with_validity(common_name, None, true, -3600, 86_400)
    }

    /// An authority below this one.
    pub fn authority(&self, common_name: &str) -> Self {
        Self::with_validity(common_name, Some(self), true, -3600, 86_400)
    }

    /// A leaf for the host or device `common_name`.
    pub fn leaf(&self, common_name: &str) -> Self {
        Self::with_validity(common_name, Some(self), false, -60, 3600)
    }

    /// Valid from `from` to `to`, both in seconds from now.
    pub fn with_validity(
        common_name: &str,
        issuer: Option<&Issued>,
        is_authority: bool,
        from: i64,
        to: i64,
    ) -> Self {
        let key = ec_key();
        let mut builder = begin(&name(common_name), &key, from, to);
        let issuer_name =
            issuer.map_or_else(|| name(common_name), |issuer| issuer.cert.subject_name().to_owned().unwrap());
        builder.set_issuer_name(&issuer_name).unwrap();
        if is_authority {
            builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        } else {
            let names = SubjectAlternativeName::new()
                .dns(common_name)
                .build(&builder.x509v3_context(None, None))
                .unwrap();
            builder.append_extension(names).unwrap();
        }
        let skid = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(skid).unwrap();
        builder.sign(issuer.map_or(&key, |issuer| &issuer.key), MessageDigest::sha256()).unwrap();
        Self { cert: builder.build(), key }
    }

    /// What this authority issues for `request`, with all its extensions.
    pub fn issue(&self, request: &X509Req, from: i64, to: i64) -> X509 {
        let mut builder = begin(request.subject_name(), &request.public_key().unwrap(), from, to);
        builder.set_issuer_name(self.cert.subject_name()).unwrap();
        for extension in request.extensions().iter().flatten() {
            builder.append_extension2(extension).unwrap();
        }
        let akid =
            AuthorityKeyIdentifier::new().keyid(true).build(&builder.x509v3_context(Some(&self.cert), None));
        builder.append_extension(akid.unwrap()).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    pub fn cert_pem(&self) -> String {
        pem(std::slice::from_ref(&self.cert))
    }

    pub fn key_pem(&self) -> String {
        String::from_utf8(self.key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }
}

pub fn pem(certificates: &[X509]) -> String {
    certificates.iter().map(|certificate| String::from_utf8(certificate.to_pem().unwrap()).unwrap()).collect()
}

fn begin<T: HasPublic>(subject: &X509NameRef, key: &PKeyRef<T>, from: i64, to: i64) -> X509Builder {
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let mut serial = BigNum::new().unwrap();
    serial.rand(100, MsbOption::ONE, false).unwrap();
    builder.set_serial_number(&serial.to_asn1_integer().unwrap()).unwrap();
    builder.set_subject_name(subject).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::from_unix(now + from).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::from_unix(now + to).unwrap()).unwrap();
    builder
}

/// A PKCS #7 signedData that has `certificates` and nothing else (RFC 5272, 4.1), in DER.
pub fn pkcs7(certificates: &[X509]) -> Vec<u8> {
    let data = tlv(0x30, b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x01");
    let certificates: Vec<u8> =
        certificates.iter().flat_map(|certificate| certificate.to_der().unwrap()).collect();
    let certificates = if certificates.is_empty() { vec![] } else { tlv(0xa0, &certificates) };
    let signed = tlv(0x30, &[b"\x02\x01\x01\x31\x00", data.as_slice(), &certificates, b"\x31\x00"].concat());
    tlv(0x30, &[b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02", tlv(0xa0, &signed).as_slice()].concat())
}

/// One DER element.
pub fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    let head =
        if content.len() < 128 { vec![tag, length[3]] } else { [&[tag, 0x84], length.as_slice()].concat() };
    [head.as_slice(), content].concat()
}
