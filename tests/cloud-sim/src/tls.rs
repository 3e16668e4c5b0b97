//! How listeners do TLS: what they show, speak and ask for, also when it is wrong on order.

use crate::authority::Authority;
use openssl::{
    error::ErrorStack,
    ssl::{AlpnError, SslAcceptor, SslMethod, SslOptions, SslVerifyMode, SslVersion, select_next_proto},
};
use serde::{Deserialize, Serialize};

/// How a listener does TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsMode {
    /// What it shows.
    pub(crate) certificate: Shown,
    /// The only version it speaks: `1.2` or `1.3`; both when absent.
    pub(crate) version: Option<Version>,
    /// Whether it speaks HTTP/2 to who offers it.
    pub(crate) http2: Http2,
    /// Close the connection instead of shaking hands.
    pub(crate) abort: bool,
    /// Do not ask for a client certificate.
    pub(crate) no_client_certificate: bool,
    /// End the handshake with an alert when the client shows none.
    pub(crate) require_client_certificate: bool,
    /// End the handshake with an alert when the client shows one.
    pub(crate) refuse_client_certificate: bool,
}

/// The certificate that a listener shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Shown {
    /// The right one.
    #[default]
    Good,
    /// For `wrong.invalid`.
    WrongName,
    /// Over since yesterday.
    Expired,
    /// By a CA that nobody knows.
    Untrusted,
}

/// Whether a listener speaks HTTP/2.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Http2 {
    /// If the client offers it.
    #[default]
    On,
    /// It knows HTTP/1.1 only.
    Off,
    /// It chooses HTTP/2 and says something else then.
    Broken,
}

/// A TLS version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Version {
    /// TLS 1.2
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3
    #[serde(rename = "1.3")]
    Tls13,
}

/// What a listener for `hosts` needs to do TLS as `mode` says.
///
/// # Errors
/// When OpenSSL fails.
pub(crate) fn acceptor(
    authority: &Authority,
    hosts: &[String],
    mode: &TlsMode,
) -> Result<SslAcceptor, ErrorStack> {
    let (certificate, key) = match mode.certificate {
        Shown::Good => authority.issue_server(hosts, (-1, 825))?,
        Shown::WrongName => authority.issue_server(&["wrong.invalid".to_owned()], (-1, 825))?,
        Shown::Expired => authority.issue_server(hosts, (-30, -1))?,
        Shown::Untrusted => Authority::new("Nobody's CA")?.issue_server(hosts, (-1, 825))?,
    };
    let mut builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server())?;
    builder.set_certificate(&certificate)?;
    builder.set_private_key(&key)?;
    let versions = match mode.version {
        None => (SslVersion::TLS1_2, SslVersion::TLS1_3),
        Some(Version::Tls12) => (SslVersion::TLS1_2, SslVersion::TLS1_2),
        Some(Version::Tls13) => (SslVersion::TLS1_3, SslVersion::TLS1_3),
    };
    builder.set_min_proto_version(Some(versions.0))?;
    builder.set_max_proto_version(Some(versions.1))?;
    builder.set_session_id_context(b"aziot-cloud-sim")?;
    // Sessions stay here: a ticket would forget the client's intermediate certificates.
    builder.set_options(SslOptions::NO_TICKET);
    if mode.http2 != Http2::Off {
        builder.set_alpn_select_callback(|_, offered| {
            select_next_proto(PROTOCOLS, offered).ok_or(AlpnError::NOACK)
        });
    }
    if !mode.no_client_certificate {
        let mut verify = SslVerifyMode::PEER;
        verify.set(SslVerifyMode::FAIL_IF_NO_PEER_CERT, mode.require_client_certificate);
        // Any is let in: services judge it with the request.
        let let_in = !mode.refuse_client_certificate;
        builder.set_verify_callback(verify, move |_, _| let_in);
    }
    Ok(builder.build())
}

/// The better one first, each with its length (RFC 7301, section 3.1).
const PROTOCOLS: &[u8] = b"\x02h2\x08http/1.1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_certificate_can_be_shown() {
        let authority = Authority::new("CA").unwrap();
        for certificate in [Shown::Good, Shown::WrongName, Shown::Expired, Shown::Untrusted] {
            acceptor(&authority, &["h".into()], &TlsMode { certificate, ..TlsMode::default() }).unwrap();
        }
    }
}
