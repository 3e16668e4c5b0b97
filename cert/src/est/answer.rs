//! What EST servers answer: certificates in PKCS #7, in whatever dress (RFC 7030, 4.1.3 and 4.2.3; RFC 8951, 3.1).
//! Knows no HTTP but content types.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use openssl::error::ErrorStack;
use openssl::pkcs7::Pkcs7;
use openssl::x509::X509;

/// Why an answer is not understood.
#[derive(Debug, thiserror::Error)]
pub enum BadAnswer {
    /// The content type is another one, or missing.
    #[error("the answer is of type {found:?}, not {wanted}")]
    WrongType {
        /// What was expected.
        wanted: &'static str,
        /// What the server says; empty if nothing.
        found: String,
    },
    /// The body is neither PEM nor base64 nor DER.
    #[error("the answer is not in base64")]
    NotBase64,
    /// The body is not PKCS #7.
    #[error("the answer is not PKCS #7")]
    NotPkcs7(#[source] ErrorStack),
    /// There is nothing in it.
    #[error("the answer contains no certificates")]
    Empty,
    /// The list of attributes cannot be read.
    #[error("the list of attributes is malformed")]
    BadAttributes,
}

/// `found` must be the media type `wanted`, in any case and with any parameters.
pub(crate) fn check_type(found: Option<&str>, wanted: &'static str) -> Result<(), BadAnswer> {
    let found = found.unwrap_or_default();
    let essence = found.split(';').next().unwrap_or_default().trim();
    match essence.eq_ignore_ascii_case(wanted) {
        true => Ok(()),
        false => Err(BadAnswer::WrongType { wanted, found: found.to_owned() }),
    }
}

/// The certificates in `body`, in their order; at least one.
pub(crate) fn certificates(body: &[u8]) -> Result<Vec<X509>, BadAnswer> {
    let pkcs7 = Pkcs7::from_der(&decoded(body)?).map_err(BadAnswer::NotPkcs7)?;
    let certificates = pkcs7.signed().and_then(|signed| signed.certificates());
    let certificates: Vec<X509> =
        certificates.map(|list| list.iter().map(ToOwned::to_owned).collect()).unwrap_or_default();
    if certificates.is_empty() { Err(BadAnswer::Empty) } else { Ok(certificates) }
}

/// The DER in `body`: as it is, or in base64 with any line ends, with or without padding, with or without the first and
/// last line of PEM, whatever their label.
pub(crate) fn decoded(body: &[u8]) -> Result<Vec<u8>, BadAnswer> {
    if body.first() == Some(&crate::der::SEQUENCE) {
        return Ok(body.to_vec());
    }
    let lines =
        body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii_start().starts_with(PEM_MARK));
    let compact: Vec<u8> = lines.flatten().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    TOLERANT.decode(compact).map_err(|_| BadAnswer::NotBase64)
}

const PEM_MARK: &[u8] = b"-----";
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
