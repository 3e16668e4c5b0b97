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

/// The DER in `body`: as it is, or in base64 with any line ends, with or without padding; alone, or between the first and
/// last line of PEM, whatever their label and whatever else is around them.
pub(crate) fn decoded(body: &[u8]) -> Result<Vec<u8>, BadAnswer> {
    if body.first() == Some(&crate::der::SEQUENCE) {
        return Ok(body.to_vec());
    }
    let lines: Vec<&[u8]> = body.split(|byte| b"\r\n".contains(byte)).map(<[u8]>::trim_ascii_start).collect();
    let first = lines.iter().position(|line| line.starts_with(BEGIN)).map_or(0, |begin| begin + 1);
    let inside = lines[first..].iter().take_while(|line| !line.starts_with(END));
    let compact: Vec<u8> =
        inside.flat_map(|line| line.iter()).copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    TOLERANT.decode(compact).map_err(|_| BadAnswer::NotBase64)
}

const BEGIN: &[u8] = b"-----BEGIN";
const END: &[u8] = b"-----END";
const TOLERANT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
