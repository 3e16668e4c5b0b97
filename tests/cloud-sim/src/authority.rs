//! Certification authorities: made once, kept in files, and issuing.
//!
//! Who deserves a certificate, and which, is decided where they are asked for.

use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkey::{HasPublic, PKey, PKeyRef, Private},
    x509::{
        X509, X509Builder, X509Name, X509NameRef,
        extension::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
            SubjectKeyIdentifier,
        },
    },
};
use std::{fs, io, net::IpAddr, os::unix::fs::OpenOptionsExt, path::Path};

/// A certification authority with its key.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// The plain facts of a certificate to be.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    /// Whose it is.
    pub(crate) subject: &'a X509NameRef,
    /// Its number.
    pub(crate) serial: BigNum,
    /// From when to when, Unix seconds.
    pub(crate) valid: (i64, i64),
}

impl Authority {
    /// The CA in `dir` (`STEM.pem`, `STEM-key.pem`), made and written there if it is missing or unusable.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(crate) fn open(
        dir: &Path,
        stem: &str,
        make: impl FnOnce() -> Result<Authority, ErrorStack>,
    ) -> io::Result<Authority> {
        let (ca, key) = (dir.join(format!("{stem}.pem")), dir.join(format!("{stem}-key.pem")));
        let read = || Some((fs::read(&ca).ok()?, fs::read(&key).ok()?));
        if let Some(authority) = read().and_then(|(ca, key)| Authority::parse(&ca, &key)) {
            return Ok(authority);
        }
        let authority = make()?;
        let mut private = fs::OpenOptions::new();
        let mut private = private.write(true).create(true).truncate(true).mode(0o600).open(&key)?;
        io::Write::write_all(&mut private, &authority.key.private_key_to_pem_pkcs8()?)?;
        fs::write(&ca, authority.certificate.to_pem()?)?;
        Ok(authority)
    }

    /// A new root of this name.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub(crate) fn new(name: &str) -> Result<Authority, ErrorStack> {
        let (key, subject) = (new_key()?, common_name(name)?);
        let certificate = ca_certificate(&subject, &key, None)?;
        Ok(Authority { certificate, key })
    }

    /// A new intermediate CA of this name below this one.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub(crate) fn below(&self, name: &str) -> Result<Authority, ErrorStack> {
        let (key, subject) = (new_key()?, common_name(name)?);
        let certificate = ca_certificate(&subject, &key, Some(self))?;
        Ok(Authority { certificate, key })
    }

    /// The CA's own certificate.
    #[must_use]
    pub(crate) fn certificate(&self) -> &X509 {
        &self.certificate
    }

    /// Whether this CA's certificate is signed by `parent`.
    #[must_use]
    pub(crate) fn is_below(&self, parent: &Authority) -> bool {
        self.certificate.verify(&parent.key).unwrap_or(false)
    }

    /// A certificate with these facts for `key`, which `extend` may add extensions to. Key identifiers come on
    /// their own.
    ///
    /// # Errors
    /// When OpenSSL fails, or `extend` does.
    pub(crate) fn issue<K: HasPublic>(
        &self,
        facts: &Facts<'_>,
        key: &PKeyRef<K>,
        extend: impl FnOnce(&mut X509Builder) -> Result<(), ErrorStack>,
    ) -> Result<X509, ErrorStack> {
        let mut builder = template(facts, self.certificate.subject_name(), key)?;
        extend(&mut builder)?;
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let own = SubjectKeyIdentifier::new().build(&context)?;
        let issuer = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        builder.append_extension(own)?;
        builder.append_extension(issuer)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        Ok(builder.build())
    }

    /// A server's certificate for `hosts`, valid between these days from now, with its new key.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub(crate) fn issue_server(
        &self,
        hosts: &[String],
        days: (i64, i64),
    ) -> Result<(X509, PKey<Private>), ErrorStack> {
        let key = new_key()?;
        let subject = common_name(hosts.first().map_or("localhost", String::as_str))?;
        let facts = Facts { subject: &subject, serial: random_serial()?, valid: days_from_now(days) };
        let certificate = self.issue(&facts, &key, |builder| {
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
            builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)
        })?;
        Ok((certificate, key))
    }

    fn parse(ca: &[u8], key: &[u8]) -> Option<Authority> {
        let (certificate, key) = (X509::from_pem(ca).ok()?, PKey::private_key_from_pem(key).ok()?);
        let ours = certificate.public_key().ok()?.public_eq(&key);
        ours.then_some(Authority { certificate, key })
    }
}

/// A certificate that its own key signs.
///
/// # Errors
/// When OpenSSL fails.
pub(crate) fn self_signed(
    facts: &Facts<'_>,
    key: &PKey<Private>,
    extend: impl FnOnce(&mut X509Builder) -> Result<(), ErrorStack>,
) -> Result<X509, ErrorStack> {
    let mut builder = template(facts, facts.subject, key)?;
    extend(&mut builder)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}

/// A new P-256 key.
///
/// # Errors
/// When OpenSSL fails.
pub(crate) fn new_key() -> Result<PKey<Private>, ErrorStack> {
    PKey::from_ec_key(EcKey::generate(EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?.as_ref())?)
}

/// A name that is a common name only.
///
/// # Errors
/// When it is too long for one.
pub(crate) fn common_name(name: &str) -> Result<X509Name, ErrorStack> {
    let mut builder = X509Name::builder()?;
    builder.append_entry_by_nid(Nid::COMMONNAME, name)?;
    Ok(builder.build())
}

fn ca_certificate(
    subject: &X509NameRef,
    key: &PKey<Private>,
    parent: Option<&Authority>,
) -> Result<X509, ErrorStack> {
    let facts = Facts { subject, serial: random_serial()?, valid: days_from_now((-1, 3650)) };
    let issuer = parent.map_or(subject, |parent| parent.certificate.subject_name());
    let mut builder = template(&facts, issuer, key)?;
    builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
    let own = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
    builder.append_extension(own)?;
    if let Some(parent) = parent {
        // Two simulators have CAs of the same names: only this tells them apart.
        let context = builder.x509v3_context(Some(&parent.certificate), None);
        let issuer = AuthorityKeyIdentifier::new().keyid(true).build(&context)?;
        builder.append_extension(issuer)?;
    }
    builder.sign(parent.map_or(key, |parent| &parent.key), MessageDigest::sha256())?;
    Ok(builder.build())
}

fn template<K: HasPublic>(
    facts: &Facts<'_>,
    issuer: &X509NameRef,
    key: &PKeyRef<K>,
) -> Result<X509Builder, ErrorStack> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    let serial = facts.serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_subject_name(facts.subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_pubkey(key)?;
    let (not_before, not_after) = (Asn1Time::from_unix(facts.valid.0)?, Asn1Time::from_unix(facts.valid.1)?);
    builder.set_not_before(&not_before)?;
    builder.set_not_after(&not_after)?;
    Ok(builder)
}

fn random_serial() -> Result<BigNum, ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(126, MsbOption::MAYBE_ZERO, false)?;
    Ok(serial)
}

fn days_from_now((from, to): (i64, i64)) -> (i64, i64) {
    let now = crate::clock::machine_ms() / 1000;
    (now + from * 86_400, now + to * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_is_kept_and_a_broken_one_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Authority::open(dir.path(), "ca", || Authority::new("CA")).unwrap();
        let pem = |authority: Authority| authority.certificate.to_pem().unwrap();
        let first = pem(open());
        assert_eq!(pem(open()), first);
        fs::write(dir.path().join("ca-key.pem"), "junk").unwrap();
        let second = pem(open());
        assert_ne!(second, first);
        assert_eq!(fs::read(dir.path().join("ca.pem")).unwrap(), second);
    }

    #[test]
    fn server_certificates_verify_for_their_names() {
        let authority = Authority::new("CA").unwrap();
        let (leaf, _) = authority.issue_server(&["hub.test".into(), "127.0.0.1".into()], (-1, 1)).unwrap();
        assert!(leaf.verify(&authority.key).unwrap());
        let names = leaf.subject_alt_names().unwrap();
        assert_eq!(names[0].dnsname(), Some("hub.test"));
        assert_eq!(names[1].ipaddress(), Some(&[127, 0, 0, 1][..]));
    }

    #[test]
    fn an_intermediate_is_below_its_root_only() {
        let (root, other) = (Authority::new("A").unwrap(), Authority::new("B").unwrap());
        let issuer = root.below("C").unwrap();
        assert!(issuer.is_below(&root) && !issuer.is_below(&other));
    }
}
