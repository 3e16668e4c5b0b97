//! Certificates ⇄ PEM text. Knows no files.

use key_engine::reference;
use openssl::error::ErrorStack;
use openssl::x509::X509;

/// Why a text is not taken as certificates.
#[derive(Debug, thiserror::Error)]
pub enum BadPem {
    /// A block labelled CERTIFICATE holds something else.
    #[error("it has a certificate that cannot be read")]
    Malformed(#[source] ErrorStack),
    /// There is no certificate in it.
    #[error("it has no certificate in PEM (CERTIFICATE)")]
    Empty,
    /// There is a private key in it, or what stands for one.
    #[error(
        "it has a private key or a reference to one, which would be shown to everybody who asks for the certificate"
    )]
    PrivateKey,
}

/// The certificates in `text`, in their order; at least one. What stands between them does not matter.
pub(crate) fn certificates(text: &str) -> Result<Vec<X509>, BadPem> {
    let certificates = X509::stack_from_pem(text.as_bytes()).map_err(BadPem::Malformed)?;
    if certificates.is_empty() { Err(BadPem::Empty) } else { Ok(certificates) }
}

/// [`certificates`] for a text that everybody may read: it must not have a private key, nor a
/// reference to one, which may hold the handle with which anybody can use it.
pub(crate) fn check_public(text: &str) -> Result<Vec<X509>, BadPem> {
    let is_private = |line: &str| {
        let label = line.strip_prefix("-----BEGIN");
        label.is_some_and(|label| label.contains("PRIVATE KEY-----") || label.contains(reference::LABEL))
    };
    match text.lines().any(|line| is_private(line.trim_start())) {
        true => Err(BadPem::PrivateKey),
        false => certificates(text),
    }
}

/// `certificates` in PEM, one after the other.
pub(crate) fn text(certificates: &[X509]) -> Result<String, ErrorStack> {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str(&String::from_utf8_lossy(&certificate.to_pem()?));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_a_key_usable_is_not_public() {
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "TSS2 PRIVATE KEY", "AZIOT KEY URI"] {
            let text = format!("# a comment\n-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
            assert!(matches!(check_public(&text), Err(BadPem::PrivateKey)), "{label}");
        }
        assert!(matches!(check_public("AZIOT KEY URI"), Err(BadPem::Empty)), "only as a block");
    }
}
