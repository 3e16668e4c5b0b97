//! What an EST reply looks like: certs-only PKCS#7 (RFC 5652, RFC 8951) and the ways to write it down, also odd ones.

use crate::{
    certificate::Certificate,
    der::{INTEGER, OCTETS, OID, SEQUENCE, SET, TAGGED_0, element},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

/// How certificates are written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Style {
    /// Which.
    pub(crate) contents: Contents,
    /// Characters of a line of base64; 0 for a single line (RFC 4648, section 3.1), which strongSwan insists on.
    pub(crate) line_length: usize,
    /// What ends a line.
    pub(crate) line_ending: LineEnding,
    /// Whether there are PEM's first and last line.
    pub(crate) pem: bool,
    /// Whether it is DER, not base64.
    pub(crate) binary: bool,
}

/// Which certificates a reply has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Contents {
    /// Of an enrolment, the new certificate; of `cacerts`, the issuer and the root.
    #[default]
    Usual,
    /// Of an enrolment, the new certificate, its issuer and the root.
    Chain,
    /// The same from the root down.
    Reversed,
    /// The same with every certificate twice.
    Doubled,
    /// The issuer and the root only.
    Issuers,
    /// None.
    None,
    /// PKCS#7 that is data, not signed data.
    Data,
}

/// What ends a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LineEnding {
    /// A line feed.
    #[default]
    Lf,
    /// Carriage return and line feed.
    CrLf,
    /// A carriage return.
    Cr,
}

impl Default for Style {
    fn default() -> Style {
        let (contents, line_ending) = (Contents::default(), LineEnding::default());
        Style { contents, line_length: 0, line_ending, pem: false, binary: false }
    }
}

impl Style {
    /// The body of a reply about `leaf`, if it is an enrolment's, and its `issuers` from the nearest to the root.
    #[must_use]
    pub(crate) fn body(&self, leaf: Option<&Certificate>, issuers: &[&Certificate]) -> Vec<u8> {
        let chain = leaf.into_iter().chain(issuers.iter().copied());
        let chosen: Vec<&Certificate> = match (self.contents, leaf) {
            (Contents::Usual, Some(leaf)) => vec![leaf],
            (Contents::Usual | Contents::Chain, _) => chain.collect(),
            (Contents::Reversed, _) => chain.collect::<Vec<_>>().into_iter().rev().collect(),
            (Contents::Doubled, _) => chain.flat_map(|it| [it, it]).collect(),
            (Contents::Issuers, _) => issuers.to_vec(),
            (Contents::None | Contents::Data, _) => Vec::new(),
        };
        let der = match self.contents {
            Contents::Data => content_info(DATA, &element(OCTETS, b"not signed")),
            _ => certs_only(&chosen),
        };
        self.write(&der)
    }

    /// `der` as it goes over the wire.
    fn write(&self, der: &[u8]) -> Vec<u8> {
        if self.binary {
            return der.to_vec();
        }
        let end = match self.line_ending {
            LineEnding::Lf => "\n",
            LineEnding::CrLf => "\r\n",
            LineEnding::Cr => "\r",
        };
        let text = STANDARD.encode(der);
        let length = if self.line_length == 0 { text.len() } else { self.line_length };
        let mut lines: Vec<&str> = Vec::new();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(length.min(rest.len()));
            lines.push(line);
            rest = more;
        }
        if self.pem {
            lines.insert(0, "-----BEGIN PKCS7-----");
            lines.push("-----END PKCS7-----");
        }
        lines.iter().flat_map(|line| [*line, end]).collect::<String>().into_bytes()
    }
}

/// Signed data without data and signers, for its certificates alone (RFC 5652, section 5.1).
fn certs_only(certificates: &[&Certificate]) -> Vec<u8> {
    let ders = certificates.iter().filter_map(|it| it.0.to_der().ok());
    let mut content = element(INTEGER, &[1]);
    content.extend(element(SET, &[]));
    content.extend(element(SEQUENCE, &element(OID, DATA)));
    if !certificates.is_empty() {
        content.extend(element(TAGGED_0, &ders.collect::<Vec<_>>().concat()));
    }
    content.extend(element(SET, &[]));
    content_info(SIGNED_DATA, &element(SEQUENCE, &content))
}

fn content_info(kind: &[u8], content: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[element(OID, kind), element(TAGGED_0, content)].concat())
}

/// 1.2.840.113549.1.7.1
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.7.2
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use openssl::pkcs7::Pkcs7;

    fn certificate(name: &str) -> Certificate {
        Certificate(Authority::new(name).unwrap().certificate().clone())
    }

    fn style(contents: Contents) -> Style {
        Style { contents, binary: true, ..Style::default() }
    }

    #[test]
    fn openssl_reads_what_is_written() {
        let (leaf, issuer, root) = (certificate("leaf"), certificate("issuer"), certificate("root"));
        let names = |contents, leaf: Option<&Certificate>| {
            let body = style(contents).body(leaf, &[&issuer, &root]);
            let pkcs7 = Pkcs7::from_der(&body).unwrap();
            let certificates = pkcs7.signed()?.certificates()?;
            let names = certificates.iter().map(crate::certificate::common_name).collect::<Vec<_>>();
            Some(names.join(" "))
        };
        for (contents, expected) in [
            (Contents::Usual, Some("leaf")),
            (Contents::Chain, Some("leaf issuer root")),
            (Contents::Reversed, Some("root issuer leaf")),
            (Contents::Doubled, Some("leaf leaf issuer issuer root root")),
            (Contents::Issuers, Some("issuer root")),
            (Contents::None, None),
            (Contents::Data, None),
        ] {
            assert_eq!(names(contents, Some(&leaf)).as_deref(), expected, "{contents:?}");
        }
        assert_eq!(names(Contents::Usual, None).as_deref(), Some("issuer root"));
    }

    #[test]
    fn lines_are_as_told() {
        let write = |style: Style| String::from_utf8(style.write(&[0; 99])).unwrap();
        assert_eq!(write(Style::default()), "A".repeat(132) + "\n");
        let crlf = Style { line_length: 64, line_ending: LineEnding::CrLf, ..Style::default() };
        let line = |length| format!("{}\r\n", "A".repeat(length));
        assert_eq!(write(crlf), [line(64), line(64), line(4)].concat());
        let pem = Style { pem: true, ..Style::default() };
        assert!(write(pem).starts_with("-----BEGIN PKCS7-----\nAAAA"));
    }
}
