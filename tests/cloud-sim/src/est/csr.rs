//! Certificate requests (PKCS#10): read from a body, proven, and compared with what they renew.

use super::{EstError, label::Label};
use crate::{
    certificate::{ClientCertificate, name},
    der::{OCTETS, OID, SEQUENCE, TAGGED_3, elements, first},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::{
    pkey::{Id, PKey, Public},
    x509::{X509Extension, X509Ref, X509Req},
};
use std::cmp::Ordering;

/// A request whose signature is right.
pub(crate) struct Csr {
    /// The request.
    pub(crate) request: X509Req,
    /// The key that signed it.
    pub(crate) key: PKey<Public>,
}

impl Csr {
    /// The request in the body of an enrolment: base64 of DER (RFC 8951), for a label with these manners.
    pub(super) fn read(body: &[u8], label: &Label) -> Result<Csr, EstError> {
        let bad = |message: String| EstError::new(400, message);
        let text = std::str::from_utf8(body).map_err(|_| bad("the body is not base64".to_owned()))?;
        let longest = text.lines().map(str::len).max().unwrap_or_default();
        if let Some(limit) = label.max_line.filter(|limit| longest > *limit) {
            return Err(bad(format!("a line of the body has {longest} characters, more than {limit}")));
        }
        let compact: String = text.split_ascii_whitespace().collect();
        let der = STANDARD.decode(compact).map_err(|err| bad(format!("the body is not base64: {err}")))?;
        let request = X509Req::from_der(&der).map_err(|err| bad(format!("the body is no PKCS#10: {err}")))?;
        let csr = Csr::proven(request).map_err(bad)?;
        csr.check(label).map_err(bad)?;
        Ok(csr)
    }

    /// `request`, if the key in it has signed it.
    ///
    /// # Errors
    /// Why it does not prove that, for a person to read.
    pub(crate) fn proven(request: X509Req) -> Result<Csr, String> {
        let key = request.public_key().map_err(|err| format!("the key in the CSR: {err}"))?;
        match request.verify(&key) {
            Ok(true) => Ok(Csr { request, key }),
            _ => Err("the CSR is not signed by the key in it".to_owned()),
        }
    }

    fn check(&self, label: &Label) -> Result<(), String> {
        if self.request.subject_name().entries().next().is_none()
            && self.extension(SUBJECT_ALT_NAME).is_none()
        {
            return Err("the CSR names nobody".to_owned());
        }
        let enough = match self.key.id() {
            Id::RSA => self.key.bits() >= 2048,
            Id::EC => self.key.bits() >= 256,
            _ => true,
        };
        if label.refuse_weak_keys && !enough {
            return Err(format!("a key of {} bits is too weak", self.key.bits()));
        }
        match self.is_ca() && !label.allow_ca {
            true => Err("CA certificates are not issued here".to_owned()),
            false => Ok(()),
        }
    }

    /// Whether this renews what the client has shown: subject and alternative names must be the same (RFC 7030,
    /// section 4.2.2).
    pub(super) fn renews(&self, shown: &ClientCertificate) -> Result<(), EstError> {
        let (old, new) = (shown.leaf.subject_name(), self.request.subject_name());
        if old.try_cmp(new).ok() != Some(Ordering::Equal) {
            let message = format!("the CSR is for {}, the client certificate for {}", name(new), name(old));
            return Err(EstError::new(400, message));
        }
        match extension(&certificate_extensions(&shown.leaf), SUBJECT_ALT_NAME)
            == self.extension(SUBJECT_ALT_NAME)
        {
            true => Ok(()),
            false => {
                Err(EstError::new(400, "the CSR has other alternative names than the client certificate"))
            }
        }
    }

    /// The extensions to copy into the certificate: all but key identifiers.
    pub(crate) fn wanted_extensions(&self) -> Vec<X509Extension> {
        let all = self.request.extensions().into_iter().flatten();
        all.filter(|it| !it.to_der().is_ok_and(|der| [SUBJECT_KEY_ID, AUTHORITY_KEY_ID].contains(&oid(&der))))
            .collect()
    }

    /// Whether it asks for this extension.
    pub(crate) fn asks_for(&self, wanted: &[u8]) -> bool {
        self.extension(wanted).is_some()
    }

    fn is_ca(&self) -> bool {
        let constraints = self.extension(BASIC_CONSTRAINTS).unwrap_or_default();
        let constraints = first(&constraints).map(|(_, content, _)| content).unwrap_or_default();
        constraints.starts_with(&[1, 1, 0xff])
    }

    fn extension(&self, wanted: &[u8]) -> Option<Vec<u8>> {
        let all = self.request.extensions().into_iter().flatten();
        let all: Vec<Vec<u8>> = all.filter_map(|it| it.to_der().ok()).collect();
        extension(&all, wanted)
    }
}

/// The value of one of these extensions.
fn extension(all: &[Vec<u8>], wanted: &[u8]) -> Option<Vec<u8>> {
    let found = all.iter().find(|der| oid(der) == wanted)?;
    let (_, content, _) = first(found)?;
    let value = elements(content).find(|(tag, _)| *tag == OCTETS);
    value.map(|(_, value)| value.to_vec())
}

/// The object identifier of an extension, encoded.
fn oid(extension: &[u8]) -> &[u8] {
    let inside = first(extension).and_then(|(_, content, _)| first(content));
    inside.filter(|(tag, ..)| *tag == OID).map(|(_, oid, _)| oid).unwrap_or_default()
}

/// The extensions of a certificate, each as DER.
fn certificate_extensions(certificate: &X509Ref) -> Vec<Vec<u8>> {
    let der = certificate.to_der().unwrap_or_default();
    let find = || {
        let (_, signed, _) = first(&der)?;
        let (_, facts, _) = first(signed)?;
        let (_, tagged) = elements(facts).find(|(tag, _)| *tag == TAGGED_3)?;
        let (_, list, _) = first(tagged)?;
        Some(elements(list).map(|(_, content)| crate::der::element(SEQUENCE, content)).collect())
    };
    find().unwrap_or_default()
}

/// 2.5.29.14
const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// 2.5.29.19
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// 2.5.29.35
const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 0x23];
/// 2.5.29.37
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
