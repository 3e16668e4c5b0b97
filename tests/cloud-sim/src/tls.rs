//! The cloud's certificates: its CA, what listeners show, and the wrong ones that tests ask for.

use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private},
    ssl::{SslAcceptor, SslMethod, SslOptions, SslVerifyMode, SslVersion},
    x509::{
        X509, X509Builder, X509Name,
        extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName},
    },
};
use serde::{Deserialize, Serialize};
use std::{fs, io, net::IpAddr, os::unix::fs::OpenOptionsExt, path::Path};

/// How a listener does TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TlsMode {
    /// What it shows.
    pub(crate) certificate: Shown,
    /// The only version it speaks: `1.2` or `1.3`; both when absent.
    pub(crate) version: Option<Version>,
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

/// A certification authority with its key.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

impl Authority {
    /// The CA in `dir` (`ca.pem`, `ca-key.pem`), made and written there if it is missing or unusable.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn open(dir: &Path) -> io::Result<Authority> {
        let (ca, key) = (dir.join("ca.pem"), dir.join("ca-key.pem"));
        let read = || Some((fs::read(&ca).ok()?, fs::read(&key).ok()?));
        if let Some(authority) = read().and_then(|(ca, key)| Authority::parse(&ca, &key)) {
            return Ok(authority);
        }
        let authority = Authority::new("aziot-cloud-sim CA")?;
        let mut private = fs::OpenOptions::new();
        let mut private = private.write(true).create(true).truncate(true).mode(0o600).open(&key)?;
        io::Write::write_all(&mut private, &authority.key.private_key_to_pem_pkcs8()?)?;
        fs::write(&ca, authority.certificate.to_pem()?)?;
        Ok(authority)
    }

    /// A new CA of this name.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub(crate) fn new(name: &str) -> Result<Authority, ErrorStack> {
        let key = new_key()?;
        let subject = common_name(name)?;
        let mut builder = template(&subject, &subject, &key, (-1, 3650))?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Authority { certificate: builder.build(), key })
    }

    /// What a listener for `hosts` needs to do TLS as `mode` says.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub(crate) fn acceptor(&self, hosts: &[String], mode: &TlsMode) -> Result<SslAcceptor, ErrorStack> {
        let (certificate, key) = match mode.certificate {
            Shown::Good => self.issue(hosts, (-1, 825))?,
            Shown::WrongName => self.issue(&["wrong.invalid".to_owned()], (-1, 825))?,
            Shown::Expired => self.issue(hosts, (-30, -1))?,
            Shown::Untrusted => Authority::new("Nobody's CA")?.issue(hosts, (-1, 825))?,
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
        if !mode.no_client_certificate {
            let mut verify = SslVerifyMode::PEER;
            verify.set(SslVerifyMode::FAIL_IF_NO_PEER_CERT, mode.require_client_certificate);
            // Any is let in: services judge it with the request.
            let let_in = !mode.refuse_client_certificate;
            builder.set_verify_callback(verify, move |_, _| let_in);
        }
        Ok(builder.build())
    }

    fn parse(ca: &[u8], key: &[u8]) -> Option<Authority> {
        let (certificate, key) = (X509::from_pem(ca).ok()?, PKey::private_key_from_pem(key).ok()?);
        let ours = certificate.public_key().ok()?.public_eq(&key);
        ours.then_some(Authority { certificate, key })
    }

    fn issue(&self, hosts: &[String], days: (i64, i64)) -> Result<(X509, PKey<Private>), ErrorStack> {
        let key = new_key()?;
        let subject = common_name(hosts.first().map_or("localhost", String::as_str))?;
        let mut builder = template(&subject, self.certificate.subject_name(), &key, days)?;
        let mut names = SubjectAlternativeName::new();
        for host in hosts {
            match host.parse::<IpAddr>() {
                Ok(_) => names.ip(host),
                Err(_) => names.dns(host),
            };
        }
        let names = names.build(&builder.x509v3_context(Some(&self.certificate), None))?;
        builder.append_extension(names)?;
        builder.append_extension(BasicConstraints::new().build()?)?;
        builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok((builder.build(), key))
    }
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    PKey::from_ec_key(EcKey::generate(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?.as_ref())?)
}

fn common_name(name: &str) -> Result<X509Name, ErrorStack> {
    let mut builder = X509Name::builder()?;
    builder.append_entry_by_nid(Nid::COMMONNAME, name)?;
    Ok(builder.build())
}

fn template(
    subject: &X509Name,
    issuer: &openssl::x509::X509NameRef,
    key: &PKey<Private>,
    (from, to): (i64, i64),
) -> Result<X509Builder, ErrorStack> {
    let now = crate::clock::machine_ms() / 1000;
    let at = |days: i64| Asn1Time::from_unix(now + days * 86_400);
    let mut serial = BigNum::new()?;
    serial.rand(126, MsbOption::MAYBE_ZERO, false)?;
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial: Asn1Integer = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    let (not_before, not_after) = (at(from)?, at(to)?);
    builder.set_not_before(&not_before)?;
    builder.set_not_after(&not_after)?;
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_kept_and_a_broken_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let pem = |authority: Authority| authority.certificate.to_pem().unwrap();
        let first = pem(Authority::open(dir.path()).unwrap());
        assert_eq!(pem(Authority::open(dir.path()).unwrap()), first);
        fs::write(dir.path().join("ca-key.pem"), "junk").unwrap();
        let second = pem(Authority::open(dir.path()).unwrap());
        assert_ne!(second, first);
        assert_eq!(fs::read(dir.path().join("ca.pem")).unwrap(), second);
    }

    #[test]
    fn server_certificates_verify_for_their_names() {
        let authority = Authority::new("CA").unwrap();
        let (leaf, _) = authority.issue(&["hub.test".into(), "127.0.0.1".into()], (-1, 1)).unwrap();
        assert!(leaf.verify(&authority.key).unwrap());
        let names = leaf.subject_alt_names().unwrap();
        assert_eq!(names[0].dnsname(), Some("hub.test"));
        assert_eq!(names[1].ipaddress(), Some(&[127, 0, 0, 1][..]));
        for certificate in [Shown::Good, Shown::WrongName, Shown::Expired, Shown::Untrusted] {
            authority.acceptor(&["h".into()], &TlsMode { certificate, ..TlsMode::default() }).unwrap();
        }
    }
}
