//! Certificate signing requests: theirs, which are checked, and our own for EST identities. Knows no issuer.

use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, PKeyRef, Public};
use openssl::stack::Stack;
use openssl::x509::extension::ExtendedKeyUsage;
use openssl::x509::{X509NameRef, X509Req};

use crate::der::{self, Malformed, Reader};
use crate::keys::KeyPair;

/// A request that is in order: its signature is its key's, and its key is good enough.
pub(crate) struct Csr {
    request: X509Req,
    key: PKey<Public>,
    extensions: Vec<Extension>,
}

/// An extension that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extension {
    /// Dotted.
    pub(crate) oid: String,
    /// Whether who does not know it must refuse the certificate.
    pub(crate) critical: bool,
    /// DER.
    pub(crate) value: Vec<u8>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum BadCsr {
    /// It is longer than any request needs to be.
    #[error("it is larger than {SIZE_LIMIT} bytes")]
    TooLarge,
    /// OpenSSL cannot read it.
    #[error("it is not a certificate signing request in PEM (CERTIFICATE REQUEST)")]
    NotPem(#[source] ErrorStack),
    /// Its key is of a kind that is not known, or is no key.
    #[error("its public key cannot be used")]
    BadKey(#[source] ErrorStack),
    /// Its key can be broken.
    #[error(
        "its public key is too weak: {bits} bits of strength, {WEAKEST} are needed (RSA of 2048 bits, EC of 224)"
    )]
    WeakKey {
        /// Strength in bits as NIST SP 800-57 counts.
        bits: u32,
    },
    /// Its curve is written out; nobody who checks certificates takes that (RFC 5480, 2.1.1).
    #[error("its public key does not name its curve, but spells out its parameters")]
    UnnamedCurve,
    /// Somebody else's key, or changed on its way.
    #[error("its signature is not by the key that is in it")]
    BadSignature,
    /// The list of extensions cannot be read.
    #[error("its extensions cannot be read: {0}")]
    BadExtensions(&'static str),
    /// An extension that only an issuer can state is asked for, and must not be left out.
    #[error("it asks, as critical, for the extension {0}, which is for the issuer to state")]
    ForIssuer(String),
    /// A certificate with its extensions is one that nobody takes.
    #[error("nobody could verify a certificate with the extensions that it asks for: {0}")]
    Unusable(String),
}

impl Csr {
    /// Reads and checks `pem` (labels `CERTIFICATE REQUEST` and `NEW CERTIFICATE REQUEST`).
    pub(crate) fn parse(pem: &str) -> Result<Self, BadCsr> {
        if pem.len() > SIZE_LIMIT {
            return Err(BadCsr::TooLarge);
        }
        let request = X509Req::from_pem(pem.as_bytes()).map_err(BadCsr::NotPem)?;
        let key = request.public_key().map_err(BadCsr::BadKey)?;
        let bits = key.security_bits();
        if bits < WEAKEST {
            return Err(BadCsr::WeakKey { bits });
        }
        if has_odd_exponent(&key) == Some(false) {
            return Err(BadCsr::WeakKey { bits: 0 });
        }
        if !request.verify(&key).unwrap_or(false) {
            return Err(BadCsr::BadSignature);
        }
        let der = request.to_der().map_err(BadCsr::NotPem)?;
        if key.id() == Id::EC && names_curve(&der) != Ok(true) {
            return Err(BadCsr::UnnamedCurve);
        }
        let extensions = extensions(&der)?;
        Ok(Self { request, key, extensions })
    }

    /// A request for an EST identity (spec certificates-service, 9.5).
    pub(crate) fn for_client(subject: &X509NameRef, key: &KeyPair) -> Result<X509Req, ErrorStack> {
        let KeyPair { private, public } = key;
        let mut builder = X509Req::builder()?;
        builder.set_version(0)?;
        builder.set_subject_name(subject)?;
        builder.set_pubkey(public)?;
        let mut extensions = Stack::new()?;
        extensions.push(ExtendedKeyUsage::new().client_auth().build()?)?;
        builder.add_extensions(&extensions)?;
        builder.sign(private, super::sign::digest_for(public))?;
        Ok(builder.build())
    }

    pub(crate) fn subject(&self) -> &X509NameRef {
        self.request.subject_name()
    }

    pub(crate) fn key(&self) -> &PKeyRef<Public> {
        &self.key
    }

    /// In the order of the request.
    pub(crate) fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    pub(crate) fn request(&self) -> &X509Req {
        &self.request
    }
}

/// Whether the exponent of an RSA key is odd and not 1; None for other keys.
fn has_odd_exponent(key: &PKeyRef<Public>) -> Option<bool> {
    if key.id() != Id::RSA {
        return None;
    }
    let rsa = key.rsa().ok()?;
    Some(rsa.e().num_bits() > 1 && rsa.e().is_bit_set(0))
}

/// Whether the EC key of a request in DER says which curve it is of by an OBJECT IDENTIFIER.
fn names_curve(request: &[u8]) -> Result<bool, Malformed> {
    let mut request = Reader::new(Reader::new(request).expect(der::SEQUENCE)?);
    let mut info = Reader::new(request.expect(der::SEQUENCE)?);
    info.expect(der::INTEGER)?;
    info.expect(der::SEQUENCE)?;
    let mut key = Reader::new(info.expect(der::SEQUENCE)?);
    let mut algorithm = Reader::new(key.expect(der::SEQUENCE)?);
    algorithm.expect(der::OID)?;
    Ok(algorithm.optional(der::OID)?.is_some())
}

/// The extensions in the attribute extensionRequest (RFC 2986 and RFC 2985, 5.4.2) of a request in DER.
fn extensions(request: &[u8]) -> Result<Vec<Extension>, BadCsr> {
    read_extensions(request).map_err(|Malformed| BadCsr::BadExtensions("they are malformed")).and_then(
        |list| {
            let mut seen: Vec<&str> = list.iter().map(|extension| extension.oid.as_str()).collect();
            seen.sort_unstable();
            match seen.windows(2).any(|pair| pair[0] == pair[1]) {
                true => Err(BadCsr::BadExtensions("one occurs twice")),
                false => Ok(list),
            }
        },
    )
}

fn read_extensions(request: &[u8]) -> Result<Vec<Extension>, Malformed> {
    let mut request = Reader::new(Reader::new(request).expect(der::SEQUENCE)?);
    let mut info = Reader::new(request.expect(der::SEQUENCE)?);
    info.expect(der::INTEGER)?;
    info.expect(der::SEQUENCE)?;
    info.expect(der::SEQUENCE)?;
    let mut attributes = Reader::new(info.optional(ATTRIBUTES)?.unwrap_or_default());
    let mut list = Vec::new();
    while let Some(attribute) = attributes.next()? {
        let mut attribute = Reader::new(attribute.content);
        if !EXTENSION_REQUESTS.contains(&der::dotted(attribute.expect(der::OID)?)?.as_str()) {
            continue;
        }
        let mut values = Reader::new(attribute.expect(der::SET)?);
        let mut extensions = Reader::new(values.expect(der::SEQUENCE)?);
        values.end()?;
        while let Some(extension) = extensions.next()? {
            list.push(read_extension(extension.content)?);
        }
    }
    Ok(list)
}

/// The content of an `Extension` (RFC 5280, 4.1).
pub(crate) fn read_extension(content: &[u8]) -> Result<Extension, Malformed> {
    let mut fields = Reader::new(content);
    let oid = der::dotted(fields.expect(der::OID)?)?;
    let critical = fields.optional(der::BOOLEAN)?.is_some_and(|value| value != [0]);
    let value = fields.expect(der::OCTET_STRING)?.to_vec();
    fields.end()?;
    Ok(Extension { oid, critical, value })
}

/// Bytes of PEM; requests with RSA keys of 16384 bits and a hundred names are smaller.
const SIZE_LIMIT: usize = 64 * 1024;
/// The least strength of a key, in bits.
const WEAKEST: u32 = 112;
/// `[0] attributes`.
const ATTRIBUTES: u8 = 0xa0;
/// The attribute with the extensions: PKCS #9's, and Microsoft's name for the same.
const EXTENSION_REQUESTS: [&str; 2] = ["1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14"];

#[cfg(test)]
#[path = "csr_tests.rs"]
pub(in crate::issue) mod tests;
