//! Enrolment over Secure Transport (RFC 7030, RFC 8951): `cacerts`, `simpleenroll`, `simplereenroll`, `csrattrs`.
//!
//! Who is let in is decided in `access`, what a request proves in `csr`, what replies look like in `encoding`.

mod access;
mod csr;
mod encoding;
mod issuing;
mod label;

pub(crate) use csr::Csr;
pub(crate) use encoding::Style;
pub(crate) use issuing::{Issuing, Made};
pub(crate) use label::Label;

use crate::{
    answer::Answer,
    authority::new_key,
    call::Call,
    certificate::{Certificate, iso, name, serial},
    http::Reply,
    world::World,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use openssl::{error::ErrorStack, hash::MessageDigest};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the EST server remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Est {
    /// Labels by name; the one that is not named in a path is `default`.
    pub(crate) labels: BTreeMap<String, Label>,
    /// How often a request was answered 202, by label and digest.
    pub(crate) pending: BTreeMap<String, u32>,
    /// The certificates issued, the latest last.
    pub(crate) issued: Vec<Issued>,
}

impl Default for Est {
    fn default() -> Est {
        let labels = BTreeMap::from([(DEFAULT_LABEL.to_owned(), Label::default())]);
        Est { labels, pending: BTreeMap::new(), issued: Vec::new() }
    }
}

/// A certificate that was issued, with the circumstances.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Issued {
    label: String,
    operation: String,
    to: String,
    subject: String,
    serial: String,
    not_before: String,
    not_after: String,
    sha256: String,
    certificate: Certificate,
}

/// A refusal of EST: status and reason, in plain text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EstError {
    status: u16,
    message: String,
    challenge: bool,
}

impl EstError {
    /// A refusal.
    #[must_use]
    pub(crate) fn new(status: u16, message: impl Into<String>) -> EstError {
        EstError { status, message: message.into(), challenge: false }
    }

    /// A refusal that asks for a password.
    #[must_use]
    pub(crate) fn challenge(message: &str) -> EstError {
        EstError { challenge: true, ..EstError::new(401, message) }
    }

    /// The reply that says so.
    #[must_use]
    pub(crate) fn reply(&self) -> Reply {
        let reply = Reply { body: format!("{}\n", self.message).into_bytes(), ..Reply::empty(self.status) }
            .with("content-type", "text/plain; charset=utf-8");
        match self.challenge {
            true => reply.with("www-authenticate", "Basic realm=\"estrealm\""),
            false => reply,
        }
    }
}

impl From<ErrorStack> for EstError {
    fn from(err: ErrorStack) -> EstError {
        EstError::new(500, err.to_string())
    }
}

/// Answer `operation` at `label`; certificates are written as `style` says, if it says so, not as the label does.
pub(crate) fn serve(
    world: &mut World,
    issuing: &Issuing,
    call: &Call<'_>,
    label: &str,
    operation: &str,
    style: Option<&Style>,
) -> Answer {
    let mut notes = Vec::new();
    let Some(manners) = world.est.labels.get(label).cloned() else {
        let err = EstError::new(404, format!("there is no label {label}"));
        return Answer { reply: err.reply(), refused: Some(err.message), notes };
    };
    let desk =
        Desk { world, issuing, call, label, manners: &manners, style: style.unwrap_or(&manners.pkcs7) };
    match desk.dispatch(operation, &mut notes) {
        Ok(reply) => Answer { reply, refused: None, notes },
        Err(err) => Answer { reply: err.reply(), refused: Some(err.message), notes },
    }
}

/// One request at one label.
struct Desk<'a> {
    world: &'a mut World,
    issuing: &'a Issuing,
    call: &'a Call<'a>,
    label: &'a str,
    manners: &'a Label,
    style: &'a Style,
}

impl Desk<'_> {
    fn dispatch(self, operation: &str, notes: &mut Vec<String>) -> Result<Reply, EstError> {
        match (operation, self.call.request.method.as_str()) {
            ("cacerts", "GET") => {
                self.admit_reader(notes)?;
                let body = self.style.body(None, &self.issuing.certificates());
                Ok(encoded(body, "application/pkcs7-mime"))
            }
            ("csrattrs", "GET") => {
                self.admit_reader(notes)?;
                let attributes = self.manners.csrattrs.as_ref().map(|text| text.as_bytes().to_vec());
                Ok(attributes.map_or_else(|| Reply::empty(204), |body| encoded(body, "application/csrattrs")))
            }
            ("simpleenroll" | "simplereenroll", "POST") => self.enroll(operation, notes),
            ("serverkeygen" | "fullcmc", _) => {
                Err(EstError::new(501, format!("{operation} is not implemented")))
            }
            ("cacerts" | "csrattrs" | "simpleenroll" | "simplereenroll", method) => {
                Err(EstError::new(405, format!("{method} is not allowed here")))
            }
            _ => Err(EstError::new(404, format!("there is no operation {operation}"))),
        }
    }

    fn admit(&self, notes: &mut Vec<String>) -> Result<String, EstError> {
        let who = access::admit(self.manners, self.issuing, &self.world.certificates, self.call)?;
        notes.push(format!("admitted: {who}"));
        Ok(who)
    }

    fn admit_reader(&self, notes: &mut Vec<String>) -> Result<(), EstError> {
        if self.manners.protect_cacerts {
            self.admit(notes)?;
        }
        Ok(())
    }

    fn enroll(self, operation: &str, notes: &mut Vec<String>) -> Result<Reply, EstError> {
        let to = self.admit(notes)?;
        let request = self.call.request;
        let media_type = request.header("content-type").unwrap_or("none").to_ascii_lowercase();
        if media_type.split(';').next().map(str::trim) != Some("application/pkcs10") {
            return Err(EstError::new(415, format!("the content type is {media_type}")));
        }
        let csr = Csr::read(&request.body, self.manners)?;
        if operation == "simplereenroll" {
            let missing = || EstError::new(403, "the client has shown no certificate to renew");
            csr.renews(self.call.certificate.ok_or_else(missing)?)?;
        }
        let Desk { world, issuing, call, label, manners, style } = self;
        if let Some(reply) = postponed(world, manners, label, &csr, call.now_ms)? {
            notes.push("not yet".to_owned());
            return Ok(reply);
        }
        let now = call.now_ms.div_euclid(1000);
        let valid = (now - i64::from(manners.backdate_secs), now + i64::from(manners.validity_secs));
        let other = manners.foreign_key.then(new_key).transpose()?;
        let certificate = issuing.grant(&csr, valid, other.as_ref(), &mut world.dice)?;
        let body = style.body(Some(&certificate), &issuing.certificates());
        let issued = issued(certificate, label, operation, to);
        notes
            .push(format!("issued {}, serial {}, until {}", issued.subject, issued.serial, issued.not_after));
        world.est.issued.push(issued);
        let excess = world.est.issued.len().saturating_sub(world.settings.log_limit);
        world.est.issued.drain(..excess);
        Ok(encoded(body, "application/pkcs7-mime; smime-type=certs-only"))
    }
}

/// The 202 that a request gets so many times before it is granted.
fn postponed(
    world: &mut World,
    manners: &Label,
    label: &str,
    csr: &Csr,
    now_ms: i64,
) -> Result<Option<Reply>, EstError> {
    let digest = openssl::hash::hash(MessageDigest::sha256(), &csr.request.to_der()?)?;
    let key = format!("{label} {}", STANDARD.encode(digest));
    let told = world.est.pending.entry(key.clone()).or_default();
    if *told >= manners.pending {
        world.est.pending.remove(&key);
        return Ok(None);
    }
    *told += 1;
    let reply = Reply::empty(202);
    Ok(Some(match manners.retry_after.value(now_ms) {
        Some(value) => reply.with("retry-after", value),
        None => reply,
    }))
}

fn issued(certificate: Certificate, label: &str, operation: &str, to: String) -> Issued {
    let it = &certificate.0;
    Issued {
        label: label.to_owned(),
        operation: operation.to_owned(),
        to,
        subject: name(it.subject_name()),
        serial: serial(it),
        not_before: iso(it.not_before()),
        not_after: iso(it.not_after()),
        sha256: certificate.sha256(),
        certificate,
    }
}

fn encoded(body: Vec<u8>, content_type: &str) -> Reply {
    Reply { body, ..Reply::empty(200) }
        .with("content-type", content_type)
        .with("content-transfer-encoding", "base64")
}

/// The label of paths that name none.
pub(crate) const DEFAULT_LABEL: &str = "default";
