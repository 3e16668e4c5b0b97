//! A request and an issuer make a certificate (spec certificates-service, chapter 8). Pure but for the randomness of
//! serial numbers: knows neither ids nor files, time is an argument. The key may live elsewhere, so this may wait.

use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkey::{HasPublic, Id, PKeyRef, Private};
use openssl::x509::extension::SubjectKeyIdentifier;
use openssl::x509::{X509, X509Builder, X509Extension, X509NameRef, X509Ref};

use super::csr::{BadCsr, Csr, Extension};
use super::name::{BadSubject, SubjectOverride};
use super::usable;
use crate::der;

/// What the configuration says about a certificate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// For how many days; 30 if not set.
    pub(crate) expiry_days: Option<u32>,
    /// Instead of the request's subject.
    pub(crate) subject: Option<SubjectOverride>,
}

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum NotSigned {
    /// The issuer's time is over.
    #[error(
        "the certificate of the issuer has expired ({0}); renew it, or is the clock of this device wrong?"
    )]
    IssuerExpired(String),
    /// The issuer's time has not begun.
    #[error("the certificate of the issuer is not valid before {0}; is the clock of this device wrong?")]
    IssuerNotYetValid(String),
    /// The signature does not verify with the issuer's public key.
    #[error("the key that signed is not the one in the certificate of the issuer")]
    WrongKey,
    /// The same for a certificate that is its own issuer.
    #[error("the key in the request is not the key that signed, so the certificate would not be self-signed")]
    NotItsOwnKey,
    /// The configured subject cannot be used.
    #[error("the configured subject cannot be used")]
    Subject(#[source] BadSubject),
    /// The request asks for something that cannot be granted.
    #[error("the request asks for too much")]
    Extension(#[source] BadCsr),
    /// OpenSSL, or the key behind it.
    #[error("cannot sign; does the key exist, and may this service use it?")]
    Failed(#[from] ErrorStack),
}

/// The certificate for `csr`, issued at `now` (Unix seconds) by `issuer`, or by itself if there is none, with `key`.
pub(crate) fn certificate(
    csr: &Csr,
    issuer: Option<&X509Ref>,
    key: &PKeyRef<Private>,
    options: &Options,
    now: i64,
) -> Result<X509, NotSigned> {
    if let Some(issuer) = issuer {
        check_validity(issuer, now)?;
    }
    let name = options.subject.as_ref().map(SubjectOverride::name).transpose().map_err(NotSigned::Subject)?;
    let subject: &X509NameRef = name.as_deref().unwrap_or(csr.subject());
    let mut builder = X509::builder()?;
    builder.set_version(VERSION_3)?;
    set_random_serial(&mut builder)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer.map_or(subject, X509Ref::subject_name))?;
    builder.set_pubkey(csr.key())?;
    set_validity(&mut builder, issuer, options, now)?;
    add_extensions(&mut builder, csr, issuer)?;
    let public = issuer.map(X509Ref::public_key).transpose()?;
    let public = public.as_deref().unwrap_or(csr.key());
    builder.sign(key, digest_for(public))?;
    let certificate = builder.build();
    match (certificate.verify(public).unwrap_or(false), issuer) {
        (true, _) => match usable::fault(&certificate)? {
            None => Ok(certificate),
            Some(fault) => Err(NotSigned::Extension(BadCsr::Unusable(fault))),
        },
        (false, Some(_)) => Err(NotSigned::WrongKey),
        (false, None) => Err(NotSigned::NotItsOwnKey),
    }
}

/// The digest for signatures with `key`: as strong as the key, at least SHA-256.
pub(crate) fn digest_for<T: HasPublic>(key: &PKeyRef<T>) -> MessageDigest {
    match (key.id(), key.security_bits()) {
        (Id::ED25519 | Id::ED448, _) => MessageDigest::null(),
        (_, 256..) => MessageDigest::sha512(),
        (_, 192..) => MessageDigest::sha384(),
        _ => MessageDigest::sha256(),
    }
}

fn check_validity(issuer: &X509Ref, now: i64) -> Result<(), NotSigned> {
    let now = Asn1Time::from_unix(now)?;
    if issuer.not_after() <= now {
        return Err(NotSigned::IssuerExpired(issuer.not_after().to_string()));
    }
    if issuer.not_before() > now {
        return Err(NotSigned::IssuerNotYetValid(issuer.not_before().to_string()));
    }
    Ok(())
}

/// 159 random bits, positive, never short (RFC 5280, 4.1.2.2).
fn set_random_serial(builder: &mut X509Builder) -> Result<(), ErrorStack> {
    let mut bytes = [0; 20];
    openssl::rand::rand_bytes(&mut bytes)?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    let serial = BigNum::from_slice(&bytes)?.to_asn1_integer()?;
    builder.set_serial_number(&serial)
}

fn set_validity(
    builder: &mut X509Builder,
    issuer: Option<&X509Ref>,
    options: &Options,
    now: i64,
) -> Result<(), ErrorStack> {
    let seconds = i64::from(options.expiry_days.unwrap_or(EXPIRY_DAYS)) * SECONDS_OF_DAY;
    let not_after = Asn1Time::from_unix(now.saturating_add(seconds).min(LAST_SECOND))?;
    builder.set_not_before(&*Asn1Time::from_unix(now)?)?;
    match issuer.map(X509Ref::not_after) {
        Some(end) if *end < not_after => builder.set_not_after(end),
        _ => builder.set_not_after(&not_after),
    }
}

/// Those of the request, in its order, but for what is the issuer's to say; then SKID and AKID.
fn add_extensions(builder: &mut X509Builder, csr: &Csr, issuer: Option<&X509Ref>) -> Result<(), NotSigned> {
    let akid = issuer.and_then(X509Ref::subject_key_id).map(|id| authority_key_id(id.as_slice()));
    for extension in csr.extensions() {
        match extension.oid.as_str() {
            // A wrong one would make the certificate useless, so it is ours in any case.
            AKID => {}
            oid if FOR_ISSUER.contains(&oid) && extension.critical => {
                return Err(NotSigned::Extension(BadCsr::ForIssuer(oid.to_owned())));
            }
            oid if FOR_ISSUER.contains(&oid) => {
                tracing::info!("the extension {oid} of a request is left out, it is for the issuer to state");
            }
            _ => builder.append_extension(openssl_extension(extension)?)?,
        }
    }
    if !csr.extensions().iter().any(|extension| extension.oid == SKID) {
        let skid = SubjectKeyIdentifier::new().build(&builder.x509v3_context(issuer, None))?;
        builder.append_extension(skid)?;
    }
    if let Some(value) = akid {
        let akid = Extension { oid: AKID.to_owned(), critical: false, value };
        builder.append_extension(openssl_extension(&akid)?)?;
    }
    Ok(())
}

/// `AuthorityKeyIdentifier` with nothing but the key identifier.
fn authority_key_id(id: &[u8]) -> Vec<u8> {
    der::element(der::SEQUENCE, &der::element(KEY_IDENTIFIER, id))
}

fn openssl_extension(extension: &Extension) -> Result<X509Extension, ErrorStack> {
    let oid = Asn1Object::from_str(&extension.oid)?;
    let value = Asn1OctetString::new_from_bytes(&extension.value)?;
    X509Extension::new_from_der(&oid, extension.critical, &value)
}

/// Whether a certificate says that it is one of a certificate authority. None if it says nothing.
pub(crate) fn is_authority(certificate: &X509Ref) -> Option<bool> {
    let der = certificate.to_der().ok()?;
    let value = extension_value(&der, BASIC_CONSTRAINTS).ok()??;
    let mut fields = der::Reader::new(der::Reader::new(&value).expect(der::SEQUENCE).ok()?);
    Some(fields.optional(der::BOOLEAN).ok()?.is_some_and(|ca| ca != [0]))
}

/// The value of an extension of a certificate in DER.
fn extension_value(certificate: &[u8], oid: &str) -> Result<Option<Vec<u8>>, der::Malformed> {
    let mut certificate = der::Reader::new(der::Reader::new(certificate).expect(der::SEQUENCE)?);
    let mut fields = der::Reader::new(certificate.expect(der::SEQUENCE)?);
    while let Some(field) = fields.next()? {
        if field.tag != EXTENSIONS {
            continue;
        }
        let mut list = der::Reader::new(der::Reader::new(field.content).expect(der::SEQUENCE)?);
        while let Some(extension) = list.next()? {
            let extension = super::csr::read_extension(extension.content)?;
            if extension.oid == oid {
                return Ok(Some(extension.value));
            }
        }
    }
    Ok(None)
}

/// The field's value for X.509 version 3.
const VERSION_3: i32 = 2;
/// For how long, when the configuration does not say.
const EXPIRY_DAYS: u32 = 30;
const SECONDS_OF_DAY: i64 = 86_400;
/// 9999-12-31T23:59:59Z, the last second that a certificate can name (RFC 5280, 4.1.2.5).
const LAST_SECOND: i64 = 253_402_300_799;
const SKID: &str = "2.5.29.14";
const BASIC_CONSTRAINTS: &str = "2.5.29.19";
const AKID: &str = "2.5.29.35";
/// What a certificate says about its issuer, or what its issuer promises: issuerAltName, cRLDistributionPoints,
/// freshestCRL, authorityInfoAccess; the marks of certificate transparency.
const FOR_ISSUER: [&str; 6] = [
    "2.5.29.18",
    "2.5.29.31",
    "2.5.29.46",
    "1.3.6.1.5.5.7.1.1",
    "1.3.6.1.4.1.11129.2.4.2",
    "1.3.6.1.4.1.11129.2.4.3",
];
/// `[0] keyIdentifier`.
const KEY_IDENTIFIER: u8 = 0x80;
/// `[3] extensions`.
const EXTENSIONS: u8 = 0xa3;

#[cfg(test)]
#[path = "sign_tests.rs"]
mod tests;
