//! X.509 attestation: which certificates an enrolment admits, and whether a client showed one of them.
//!
//! That the client has the key is proven by the handshake. Tokens are none of its business.

use super::attestation::{AdmittedBy, Proof};
use crate::{
    call::Call,
    certificate::{Certificate, ClientCertificate},
    hub::Authentication,
    route::Registrant,
    settings::HubIdentity,
    trust::{CaCertificate, CaCertificates},
    world::World,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What an enrolment admits: one of the three, in the shape of the service API.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct X509Attestation {
    /// The device's own certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) client_certificates: Option<Pair<Shown>>,
    /// Certificates of CAs, mostly intermediate ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) signing_certificates: Option<Pair<Shown>>,
    /// Names of uploaded and verified CA certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_references: Option<Pair<String>>,
}

/// The primary, and what holds while that is being replaced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Pair<T> {
    primary: T,
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    secondary: Option<T>,
}

/// A certificate with its facts, which are read-only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "ShownText", into = "ShownText")]
pub(crate) struct Shown(Certificate);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShownText {
    certificate: Certificate,
    #[serde(default)]
    info: Value,
}

impl From<ShownText> for Shown {
    fn from(text: ShownText) -> Shown {
        Shown(text.certificate)
    }
}

impl From<Shown> for ShownText {
    fn from(Shown(certificate): Shown) -> ShownText {
        ShownText { info: certificate.info(), certificate }
    }
}

impl<T> Pair<T> {
    fn named(&self) -> impl Iterator<Item = (&'static str, &T)> {
        [("primary", Some(&self.primary)), ("secondary", self.secondary.as_ref())]
            .into_iter()
            .filter_map(|(name, it)| Some((name, it?)))
    }
}

impl X509Attestation {
    /// Whether an enrolment, of a device or of a group, may say this.
    ///
    /// # Errors
    /// What is wrong with it, for a person to read.
    pub(crate) fn check(&self, of_group: bool, known: &CaCertificates) -> Result<(), String> {
        let X509Attestation { client_certificates, signing_certificates, ca_references } = self;
        match (client_certificates, signing_certificates, ca_references) {
            (Some(_), None, None) if of_group => {
                Err("a group has signingCertificates or caReferences, not clientCertificates".to_owned())
            }
            (None, Some(_), None) if !of_group => {
                Err("a device has clientCertificates or caReferences, not signingCertificates".to_owned())
            }
            (Some(_), None, None) | (None, Some(_), None) => Ok(()),
            (None, None, Some(names)) => {
                let unknown = names.named().find(|(_, name)| !known.contains_key(*name));
                unknown.map_or(Ok(()), |(_, name)| Err(format!("there is no CA certificate {name}")))
            }
            _ => Err("x509 has one of clientCertificates, signingCertificates and caReferences".to_owned()),
        }
    }

    /// The CAs that issue certificates for devices, each with its name for the log.
    fn anchors<'a>(&'a self, known: &'a CaCertificates) -> Vec<(String, &'a Certificate)> {
        let signing = self.signing_certificates.iter().flat_map(Pair::named);
        let signing = signing.map(|(name, Shown(it))| (format!("{name} signing certificate"), it));
        let verified = |name: &String| known.get(name).filter(|it: &&CaCertificate| it.is_verified);
        let referred = self.ca_references.iter().flat_map(Pair::named).map(|(_, name)| name);
        let referred = referred.filter_map(|name| Some((format!("CA {name}"), &verified(name)?.certificate)));
        signing.chain(referred).collect()
    }
}

/// The proof of a device that has an enrolment of its own.
pub(super) fn by_own(
    world: &World,
    call: &Call<'_>,
    who: &Registrant,
    admits: &X509Attestation,
    notes: &mut Vec<String>,
) -> Result<Proof, String> {
    let shown = check_certificate(call, who)?;
    let Some(pair) = &admits.client_certificates else {
        return by_anchor(world, call, shown, admits, AdmittedBy::Individual, notes);
    };
    let mut named = pair.named();
    let (name, Shown(own)) = named
        .find(|(_, Shown(own))| shown.has_thumbprint(&own.sha256()))
        .ok_or_else(|| format!("the client certificate is none that {} is enrolled with", who.id))?;
    notes.push(format!("individual enrolment, {name} certificate"));
    let Shown(primary) = &pair.primary;
    let secondary = pair.secondary.as_ref().map(|Shown(it)| it.sha256());
    Ok(Proof {
        admitted_by: AdmittedBy::Individual,
        authentication: Authentication::self_signed(primary.sha256(), secondary),
        x509: Some(json!({"certificateInfo": own.info()})),
    })
}

/// The proof of a device that a group admits.
pub(super) fn by_group(
    world: &World,
    call: &Call<'_>,
    who: &Registrant,
    notes: &mut Vec<String>,
) -> Result<Proof, String> {
    let shown = check_certificate(call, who)?;
    let mut why = "no enrolment group admits certificates".to_owned();
    for (name, group) in &world.enrollment_groups {
        let Some(admits) = &group.attestation.x509 else { continue };
        match by_anchor(world, call, shown, admits, AdmittedBy::Group(name.clone()), notes) {
            Ok(proof) => return Ok(proof),
            Err(refused) => why = format!("group {name}: {refused}"),
        }
    }
    Err(why)
}

/// A certificate that is about the right device, now; who issued it is another matter.
fn check_certificate<'a>(call: &Call<'a>, who: &Registrant) -> Result<&'a ClientCertificate, String> {
    let shown = call.certificate.ok_or("the client has shown no certificate")?;
    let name = shown.common_name();
    if !name.eq_ignore_ascii_case(&who.id) {
        return Err(format!("the client certificate is for {name}, not for {}", who.id));
    }
    shown.check_time(call.now_ms)?;
    Ok(shown)
}

fn by_anchor(
    world: &World,
    call: &Call<'_>,
    shown: &ClientCertificate,
    admits: &X509Attestation,
    admitted_by: AdmittedBy,
    notes: &mut Vec<String>,
) -> Result<Proof, String> {
    let anchors = admits.anchors(&world.certificates);
    let certificates: Vec<&Certificate> = anchors.iter().map(|(_, it)| *it).collect();
    let anchor = shown.anchor(&certificates, call.now_ms)?;
    let name = anchors.iter().find(|(_, it)| *it == anchor).map_or("an anchor", |(name, _)| name.as_str());
    let leaf = Certificate(shown.leaf.clone());
    let mut x509 = json!({"certificateInfo": leaf.info(), "signingCertificateInfo": anchor.info()});
    match &admitted_by {
        AdmittedBy::Individual => notes.push(format!("individual enrolment, {name}")),
        AdmittedBy::Group(group) => {
            x509["enrollmentGroupId"] = group.as_str().into();
            notes.push(format!("group {group}, {name}"));
        }
    }
    let authentication = match world.settings.x509_hub_identity {
        HubIdentity::Thumbprint => Authentication::self_signed(leaf.sha256(), None),
        HubIdentity::Ca => Authentication::certificate_authority(),
    };
    Ok(Proof { admitted_by, authentication, x509: Some(x509) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrolment_says_one_thing() {
        let read = |text: Value| serde_json::from_value::<X509Attestation>(text);
        let known = CaCertificates::new();
        assert!(read(json!({})).unwrap().check(false, &known).is_err());
        let refers = read(json!({"caReferences": {"primary": "plant"}})).unwrap();
        assert_eq!(refers.check(true, &known), Err("there is no CA certificate plant".to_owned()));
        assert!(read(json!({"caReferences": {"secondary": "plant"}})).is_err());
        assert!(read(json!({"clientCertificates": {"primary": {"certificate": "AAAA"}}})).is_err());
    }
}
