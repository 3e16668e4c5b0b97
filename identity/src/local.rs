//! Local identities: a key and a certificate for a process, without a hub (spec identity-service, chapter 14). Decides who
//! gets one under which name and what is in it; certd issues it. The key is the caller's, and kept nowhere.

use identity_api::config::{Config, KeyAlgorithm, Subject};
use identity_api::{Identity, LocalAuth, LocalIdOpts, LocalIdentity, LocalUse};
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Extension};

use crate::Error;
use crate::authz::Principals;
use crate::csr;
use crate::workshop::{CertificateError, Workshop, fits};

/// The identity of the local principal `id`.
pub(crate) async fn of_principal(
    config: &Config,
    principals: &Principals,
    id: &str,
    workshop: &Workshop,
) -> Result<Identity, Error> {
    match principals.local(id) {
        Some(options) => issue(config, id, options, workshop).await,
        None => Err(refused(id, "is not the name of a principal with idtype \"local\"")),
    }
}

/// The identity of somebody who is no principal, on behalf of the one who manages all.
pub(crate) async fn of_other(
    config: &Config,
    principals: &Principals,
    id: &str,
    options: LocalIdOpts,
    workshop: &Workshop,
) -> Result<Identity, Error> {
    match principals.local(id) {
        Some(_) => Err(refused(id, "is the name of a principal; only its own processes get this identity")),
        None => issue(config, id, options, workshop).await,
    }
}

async fn issue(
    config: &Config,
    id: &str,
    options: LocalIdOpts,
    workshop: &Workshop,
) -> Result<Identity, Error> {
    let Some(settings) = &config.localid else { return Err(Error::NoDomain) };
    if !is_dns_labels(id) {
        return Err(refused(id, "cannot be part of a host name"));
    }
    if config.owner_of_certificate(id).is_some() {
        return Err(refused(id, "is certd's id of another certificate of this service; choose another name"));
    }
    let LocalIdOpts::X509 { attributes, key_algorithm } = options;
    let name = format!("{id}.{}.{}", config.hostname, settings.domain);
    let algorithm = key_algorithm.or(settings.key_algorithm).unwrap_or_default();
    let made = tokio::task::spawn_blocking(move || request(&name, algorithm, attributes));
    let (key, csr) = made.await.map_err(|_| CertificateError::Worker)??;
    let (certificate, chain) = workshop.issue(id, csr).await?;
    let auth = match chain.first().filter(|_| fits(&chain, &key)) {
        Some(leaf) => auth(&key, certificate, leaf).map_err(csr::BadRequest::Failed)?,
        None => {
            return Err(CertificateError::OtherKey { id: id.to_owned(), key: "of its own".to_owned() }.into());
        }
    };
    Ok(Identity::Local(LocalIdentity { module_id: id.to_owned(), auth }))
}

/// A new key, and the request in PEM for its certificate.
fn request(
    name: &str,
    algorithm: KeyAlgorithm,
    side: LocalUse,
) -> Result<(PKey<Private>, String), CertificateError> {
    let key = new_key(algorithm).map_err(csr::BadRequest::Failed)?;
    let extensions = extensions(name, side).map_err(csr::BadRequest::Failed)?;
    let csr = csr::request(&csr::name(&Subject::CommonName(name.to_owned()))?, &key, extensions)?;
    Ok((key, csr))
}

fn new_key(algorithm: KeyAlgorithm) -> Result<PKey<Private>, ErrorStack> {
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits)?);
    let ec = |curve| PKey::from_ec_key(EcKey::generate(&*EcGroup::from_curve_name(curve)?)?);
    match algorithm {
        KeyAlgorithm::Rsa2048 => rsa(2048),
        KeyAlgorithm::Rsa3072 => rsa(3072),
        KeyAlgorithm::Rsa4096 => rsa(4096),
        KeyAlgorithm::EcP256 => ec(Nid::X9_62_PRIME256V1),
        KeyAlgorithm::EcP384 => ec(Nid::SECP384R1),
    }
}

/// Those of upstream, and the name as TLS clients look for it, uncut.
fn extensions(name: &str, side: LocalUse) -> Result<Vec<X509Extension>, ErrorStack> {
    let mut usage = ExtendedKeyUsage::new();
    usage.critical().client_auth();
    if side == LocalUse::Server {
        usage.server_auth();
    }
    let mut extensions = vec![
        BasicConstraints::new().critical().build()?,
        KeyUsage::new().critical().digital_signature().non_repudiation().key_encipherment().build()?,
        usage.build()?,
    ];
    if is_dns_name(name) {
        let builder = X509::builder()?;
        let context = builder.x509v3_context(None, None);
        extensions.push(SubjectAlternativeName::new().dns(name).build(&context)?);
    }
    Ok(extensions)
}

fn auth(key: &PKey<Private>, certificate: String, leaf: &X509) -> Result<LocalAuth, ErrorStack> {
    let private_key = String::from_utf8_lossy(&key.private_key_to_pem_pkcs8()?).into_owned();
    Ok(LocalAuth { private_key, certificate, expiration: rfc3339(leaf.not_after())? })
}

/// In whole seconds, with upstream's `+00:00`.
fn rfc3339(time: &Asn1TimeRef) -> Result<String, ErrorStack> {
    let epoch = Asn1Time::from_unix(0)?;
    let since = epoch.diff(time)?;
    let (year, month, day) = civil(i64::from(since.days));
    let (hour, minute, second) = (since.secs / 3600, since.secs / 60 % 60, since.secs % 60);
    Ok(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00"))
}

/// The date so many days after 1970-01-01, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years begin in March here, so that the odd day of leap years is the last one.
    let days = days + DAYS_TO_1970;
    let era = days.div_euclid(DAYS_OF_ERA);
    let day = days.rem_euclid(DAYS_OF_ERA);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

fn refused(id: &str, reason: &'static str) -> Error {
    Error::NotThisLocal { id: id.to_owned(), reason }
}

/// Whether a certificate may say that it is for the host `name`.
fn is_dns_name(name: &str) -> bool {
    name.len() <= DNS_NAME_LIMIT && is_dns_labels(name)
}

/// One or more labels of letters, digits, `-` and `_` (which upstream's users have), joined by dots.
fn is_dns_labels(id: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    id.split('.').all(label)
}

/// RFC 1035, 2.3.4, without the bytes that only the wire has.
const DNS_NAME_LIMIT: usize = 253;
const DAYS_OF_ERA: i64 = 146_097;
/// From 0000-03-01.
const DAYS_TO_1970: i64 = 719_468;

#[cfg(test)]
mod tests {
    use openssl::x509::X509Req;

    use super::*;

    #[test]
    fn names() {
        for good in ["web", "web-1", "a.b", "my_module"] {
            assert!(is_dns_labels(good), "{good}");
        }
        for bad in ["", ".", "a.", "..", "a/b", "a b", "é", &"x".repeat(64)] {
            assert!(!is_dns_labels(bad), "{bad}");
        }
    }

    #[test]
    fn times() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00+00:00"),
            (951_782_400, "2000-02-29T00:00:00+00:00"),
            (1_773_480_413, "2026-03-14T09:26:53+00:00"),
            (4_107_542_399, "2100-02-28T23:59:59+00:00"),
            (4_107_542_400, "2100-03-01T00:00:00+00:00"),
            (253_402_300_799, "9999-12-31T23:59:59+00:00"),
        ] {
            assert_eq!(rfc3339(&Asn1Time::from_unix(unix).unwrap()).unwrap(), text);
        }
    }

    fn text(name: &str, algorithm: KeyAlgorithm, side: LocalUse) -> String {
        let (key, csr) = request(name, algorithm, side).unwrap();
        let csr = X509Req::from_pem(csr.as_bytes()).unwrap();
        assert!(csr.verify(&key).unwrap());
        String::from_utf8(csr.to_text().unwrap()).unwrap().replace(" = ", "=")
    }

    #[test]
    fn what_is_requested() {
        let client = text("web.device.example", KeyAlgorithm::EcP256, LocalUse::Client);
        for part in [
            "Subject: CN=web.device.example",
            "X509v3 Basic Constraints: critical\n                    CA:FALSE",
            "X509v3 Key Usage: critical\n                    Digital Signature, Non Repudiation, Key Encipherment\n",
            "X509v3 Extended Key Usage: critical\n                    TLS Web Client Authentication\n",
            "X509v3 Subject Alternative Name: \n                    DNS:web.device.example\n",
            "prime256v1",
        ] {
            assert!(client.contains(part), "{part}\n{client}");
        }
        let server = text("web.device.example", KeyAlgorithm::Rsa2048, LocalUse::Server);
        assert!(server.contains("TLS Web Client Authentication, TLS Web Server Authentication"), "{server}");
        assert!(server.contains("Public-Key: (2048 bit)"), "{server}");
    }

    #[test]
    fn a_long_name_is_cut_in_the_subject_only() {
        let name = format!("web.{}.example.net", "x".repeat(60));
        let long = text(&name, KeyAlgorithm::EcP256, LocalUse::Server);
        assert!(long.contains(&format!("Subject: CN={}\n", &name[..64])), "{long}");
        assert!(long.contains(&format!("DNS:{name}\n")), "{long}");
        let odd = text("web.a host,DNS:evil.example", KeyAlgorithm::EcP256, LocalUse::Server);
        assert!(!odd.contains("Alternative"), "{odd}");
    }
}
