//! X.509 certificates as services judge them: names, thumbprints, validity, chains; and their text forms.
//!
//! It does not know which certificate is good for what; services bring thumbprints and anchors.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::{
    asn1::{Asn1Time, Asn1TimeRef},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    ssl::SslRef,
    stack::Stack,
    x509::{
        X509, X509NameRef, X509Ref, X509StoreContext,
        store::X509StoreBuilder,
        verify::{X509VerifyFlags, X509VerifyParam},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What a client showed in the handshake.
#[derive(Debug, Clone)]
pub(crate) struct ClientCertificate {
    /// Its own certificate.
    pub(crate) leaf: X509,
    /// What it sent besides.
    pub(crate) chain: Vec<X509>,
}

impl ClientCertificate {
    /// What the client of a finished handshake showed, if anything.
    #[must_use]
    pub(crate) fn of(ssl: &SslRef) -> Option<ClientCertificate> {
        let chain = ssl.peer_cert_chain().into_iter().flatten().map(X509Ref::to_owned).collect();
        Some(ClientCertificate { leaf: ssl.peer_certificate()?, chain })
    }

    /// The common name of the leaf.
    #[must_use]
    pub(crate) fn common_name(&self) -> String {
        common_name(&self.leaf)
    }

    /// The facts of the leaf for the log.
    #[must_use]
    pub(crate) fn facts(&self) -> Value {
        json!({
            "common_name": self.common_name(),
            "subject": name(self.leaf.subject_name()),
            "issuer": name(self.leaf.issuer_name()),
            "serial": serial(&self.leaf),
            "not_after": iso(self.leaf.not_after()),
            "sha1": thumbprint(&self.leaf, MessageDigest::sha1()),
            "sha256": thumbprint(&self.leaf, MessageDigest::sha256()),
            "chain_length": self.chain.len(),
        })
    }

    /// Whether `text` is the leaf's SHA-1 or SHA-256 thumbprint, in any case, with or without colons.
    #[must_use]
    pub(crate) fn has_thumbprint(&self, text: &str) -> bool {
        let wanted = text.replace(':', "");
        let is = |digest| thumbprint(&self.leaf, digest).eq_ignore_ascii_case(&wanted);
        is(MessageDigest::sha1()) || is(MessageDigest::sha256())
    }

    /// Whether the leaf is valid at `now_ms`.
    ///
    /// # Errors
    /// Since or until when it is not.
    pub(crate) fn check_time(&self, now_ms: i64) -> Result<(), String> {
        let now = Asn1Time::from_unix(now_ms.div_euclid(1000)).map_err(|err| err.to_string())?;
        if self.leaf.not_after() < now {
            return Err(format!("the client certificate expired at {}", iso(self.leaf.not_after())));
        }
        if self.leaf.not_before() > now {
            return Err(format!("the client certificate is valid from {}", iso(self.leaf.not_before())));
        }
        Ok(())
    }

    /// The one of `anchors` to which the certificate leads at `now_ms`. An anchor need not be a root.
    ///
    /// # Errors
    /// Why it leads to none, in OpenSSL's words.
    pub(crate) fn anchor<'a>(
        &self,
        anchors: &[&'a Certificate],
        now_ms: i64,
    ) -> Result<&'a Certificate, String> {
        let top = chain_top(self, anchors, now_ms).map_err(|err| err.to_string())??;
        let found = anchors.iter().copied().find(|anchor| anchor.0.to_der().is_ok_and(|der| der == top));
        found.ok_or_else(|| "the chain ends at no anchor".to_owned())
    }
}

/// The last certificate of the verified chain, as DER.
fn chain_top(
    shown: &ClientCertificate,
    anchors: &[&Certificate],
    now_ms: i64,
) -> Result<Result<Vec<u8>, String>, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    for anchor in anchors {
        store.add_cert(anchor.0.clone())?;
    }
    let mut rules = X509VerifyParam::new()?;
    rules.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    rules.set_time(now_ms.div_euclid(1000));
    store.set_param(&rules)?;
    let store = store.build();
    let mut between = Stack::new()?;
    for certificate in &shown.chain {
        between.push(certificate.clone())?;
    }
    let mut context = X509StoreContext::new()?;
    context.init(&store, &shown.leaf, &between, |context| {
        if !context.verify_cert()? {
            return Ok(Err(format!("the client certificate: {}", context.error().error_string())));
        }
        let top = context.chain().and_then(|chain| chain.iter().last());
        top.map_or_else(|| Ok(Err("the chain is empty".to_owned())), |top| top.to_der().map(Ok))
    })
}

/// A certificate that is kept: PEM, or base64 of DER, outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Certificate(pub(crate) X509);

impl Certificate {
    /// The facts of a certificate as DPS writes them.
    #[must_use]
    pub(crate) fn info(&self) -> Value {
        let Certificate(certificate) = self;
        json!({
            "subjectName": name(certificate.subject_name()),
            "sha1Thumbprint": thumbprint(certificate, MessageDigest::sha1()),
            "sha256Thumbprint": thumbprint(certificate, MessageDigest::sha256()),
            "issuerName": name(certificate.issuer_name()),
            "notBeforeUtc": iso(certificate.not_before()),
            "notAfterUtc": iso(certificate.not_after()),
            "serialNumber": serial(certificate),
            "version": certificate.version() + 1,
        })
    }

    /// The SHA-256 thumbprint.
    #[must_use]
    pub(crate) fn sha256(&self) -> String {
        thumbprint(&self.0, MessageDigest::sha256())
    }

    /// PEM.
    #[must_use]
    pub(crate) fn pem(&self) -> String {
        self.0.to_pem().ok().and_then(|pem| String::from_utf8(pem).ok()).unwrap_or_default()
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Certificate) -> bool {
        self.sha256() == other.sha256()
    }
}

impl TryFrom<String> for Certificate {
    type Error = String;

    fn try_from(text: String) -> Result<Certificate, String> {
        let parsed = if text.contains("-----BEGIN") {
            X509::from_pem(text.as_bytes())
        } else {
            let compact: String = text.split_ascii_whitespace().collect();
            X509::from_der(&STANDARD.decode(compact).map_err(|err| format!("no certificate: {err}"))?)
        };
        parsed.map(Certificate).map_err(|err| format!("no certificate: {err}"))
    }
}

impl From<Certificate> for String {
    fn from(certificate: Certificate) -> String {
        certificate.pem()
    }
}

/// The first common name, or nothing.
#[must_use]
pub(crate) fn common_name(certificate: &X509Ref) -> String {
    let entry = certificate.subject_name().entries_by_nid(Nid::COMMONNAME).next();
    entry.and_then(|entry| entry.data().to_string().ok()).unwrap_or_default()
}

/// A name as `CN=a, O=b`, in the order encoded.
#[must_use]
pub(crate) fn name(name: &X509NameRef) -> String {
    let part = |entry: &openssl::x509::X509NameEntryRef| {
        let key = entry.object().nid().short_name().unwrap_or("?").to_owned();
        format!("{key}={}", entry.data().to_string().unwrap_or_default())
    };
    name.entries().map(part).collect::<Vec<_>>().join(", ")
}

/// The serial number in hex.
#[must_use]
pub(crate) fn serial(certificate: &X509Ref) -> String {
    let hex =
        certificate.serial_number().to_bn().and_then(|number| number.to_hex_str().map(|hex| hex.to_string()));
    hex.unwrap_or_default()
}

/// `2025-02-03T04:05:06.000Z`
#[must_use]
pub(crate) fn iso(time: &Asn1TimeRef) -> String {
    crate::clock::iso(unix(time).saturating_mul(1000))
}

/// A digest of the certificate in hex.
#[must_use]
pub(crate) fn thumbprint(certificate: &X509Ref, digest: MessageDigest) -> String {
    let bytes = certificate.digest(digest);
    bytes.map(|bytes| bytes.iter().map(|byte| format!("{byte:02X}")).collect()).unwrap_or_default()
}

/// Unix seconds; 0 for what is no time.
fn unix(time: &Asn1TimeRef) -> i64 {
    let since = Asn1Time::from_unix(0).and_then(|zero| zero.diff(time));
    since.map(|since| i64::from(since.days) * 86_400 + i64::from(since.secs)).unwrap_or_default()
}
