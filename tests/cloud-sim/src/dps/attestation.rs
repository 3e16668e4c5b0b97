//! Whether a request proves to come from a device that an enrolment admits: by a SAS token here, by others beside.

use super::{
    DpsError, Enrollment,
    enrollment::AttestationKind,
    error, tpm,
    x509::{self, X509Attestation},
};
use crate::{call::Call, hub::Authentication, keys::KeyPair, route::Registrant, sas::Token, world::World};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A proven device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Proof {
    /// By which enrolment.
    pub(crate) admitted_by: AdmittedBy,
    /// What the device's identity at its hub gets.
    pub(crate) authentication: Authentication,
    /// `x509` of the registration state: by which certificates.
    pub(crate) x509: Option<Value>,
}

/// The enrolment that admits a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum AdmittedBy {
    /// The device's own.
    Individual,
    /// This group's.
    Group(String),
}

/// The proof of `who`; with `strict`, an expired token is none.
pub(super) fn prove(
    world: &World,
    call: &Call<'_>,
    who: &Registrant,
    strict: bool,
    notes: &mut Vec<String>,
) -> Result<Proof, DpsError> {
    let individual = world.enrollments.get(&who.id.to_lowercase());
    if individual.is_none() && world.enrollment_groups.is_empty() {
        return Err(DpsError::new(error::NO_ENROLLMENT, format!("there is no enrolment for {}", who.id)));
    }
    let by_token = |notes: &mut Vec<String>| {
        let token = check_token(world, call, who, strict, notes)?;
        let proof = match individual {
            Some(enrollment) if enrollment.attestation.kind == AttestationKind::Tpm => {
                tpm::prove(world, &token, who, notes)
            }
            Some(enrollment) => by_own_key(&token, &enrollment.attestation.symmetric_key, notes),
            None => by_group_key(world, &token, who, notes),
        };
        proof.ok_or_else(|| format!("the token is signed by no key that {} has", who.id))
    };
    let proof = match individual.map(|enrollment| (enrollment.attestation.kind, enrollment)) {
        Some((AttestationKind::SymmetricKey | AttestationKind::Tpm, _)) => by_token(notes),
        Some((AttestationKind::X509, enrollment)) => {
            x509::by_own(world, call, who, certificates_of(enrollment), notes)
        }
        None if call.request.header("authorization").is_none() && call.certificate.is_some() => {
            x509::by_group(world, call, who, notes)
        }
        None => by_token(notes),
    };
    proof.map_err(|message| DpsError::new(error::UNAUTHORIZED, message))
}

/// None at all for an enrolment without: it admits nobody.
fn certificates_of(enrollment: &Enrollment) -> &X509Attestation {
    const NONE: &X509Attestation =
        &X509Attestation { client_certificates: None, signing_certificates: None, ca_references: None };
    enrollment.attestation.x509.as_ref().unwrap_or(NONE)
}

/// A token that says the right things; who signed it is another matter.
fn check_token(
    world: &World,
    call: &Call<'_>,
    who: &Registrant,
    strict: bool,
    notes: &mut Vec<String>,
) -> Result<Token, String> {
    let rules = &world.settings;
    let token =
        Token::parse(call.request.header("authorization").ok_or("the request has no Authorization header")?)?;
    let resource = format!("{}/registrations/{}", world.scope, who.id);
    if !token.names(&resource) {
        return Err(format!("the token is for {}, not for {resource}", token.sr));
    }
    match token.skn.as_deref() {
        Some("registration") => {}
        Some(other) => return Err(format!("skn is {other}, not registration")),
        None if rules.require_skn => return Err("the token has no skn=registration".to_owned()),
        None => notes.push("no skn".to_owned()),
    }
    match token.expired_for(call.now_ms / 1000) {
        Some(secs) if strict && rules.check_expiry && secs > rules.expiry_grace_secs => {
            Err(format!("the token expired {secs} s ago"))
        }
        Some(secs) => {
            notes.push(format!("expired token accepted, {secs} s late"));
            Ok(token)
        }
        None => Ok(token),
    }
}

fn by_own_key(token: &Token, keys: &KeyPair, notes: &mut Vec<String>) -> Option<Proof> {
    let signer = token.signer(keys)?;
    notes.push(format!("individual enrolment, {signer} key"));
    Some(by_keys(AdmittedBy::Individual, keys.clone()))
}

/// The first group whose derived key signed the token. Ids are derived in lower case and as sent: which of them
/// the operator's tool used is not known.
fn by_group_key(world: &World, token: &Token, who: &Registrant, notes: &mut Vec<String>) -> Option<Proof> {
    for (name, group) in &world.enrollment_groups {
        for id in [who.id.to_lowercase(), who.id.clone()] {
            let device_keys = group.attestation.symmetric_key.derive(&id);
            if let Some(signer) = token.signer(&device_keys) {
                notes.push(format!("key derived from the {signer} key of group {name}"));
                return Some(by_keys(AdmittedBy::Group(name.clone()), device_keys));
            }
        }
    }
    None
}

fn by_keys(admitted_by: AdmittedBy, keys: KeyPair) -> Proof {
    Proof { admitted_by, authentication: Authentication::sas(keys), x509: None }
}
