//! Whether a request proves to come from a device that an enrolment admits. X.509 and TPM will stand beside SAS here.

use super::{DpsError, error};
use crate::{http::Request, keys::KeyPair, route::Registrant, sas::Token, world::World};
use serde::{Deserialize, Serialize};

/// A proven device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Proof {
    /// By which enrolment.
    pub(crate) admitted_by: AdmittedBy,
    /// The keys that the device gets at its hub.
    pub(crate) device_keys: KeyPair,
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
    request: &Request,
    who: &Registrant,
    now_ms: i64,
    strict: bool,
    notes: &mut Vec<String>,
) -> Result<Proof, DpsError> {
    let individual = world.enrollments.get(&who.id.to_lowercase());
    if individual.is_none() && world.enrollment_groups.is_empty() {
        return Err(DpsError::new(error::NO_ENROLLMENT, format!("there is no enrolment for {}", who.id)));
    }
    let token = check_token(world, request, who, now_ms, strict, notes).map_err(unauthorized)?;
    let proof = match individual {
        Some(enrollment) => by_own_key(&token, &enrollment.attestation.symmetric_key, notes),
        None => by_group_key(world, &token, who, notes),
    };
    proof.ok_or_else(|| unauthorized(format!("the token is signed by no key that {} has", who.id)))
}

fn unauthorized(message: String) -> DpsError {
    DpsError::new(error::UNAUTHORIZED, message)
}

/// A token that says the right things; who signed it is another matter.
fn check_token(
    world: &World,
    request: &Request,
    who: &Registrant,
    now_ms: i64,
    strict: bool,
    notes: &mut Vec<String>,
) -> Result<Token, String> {
    let rules = &world.settings;
    let token =
        Token::parse(request.header("authorization").ok_or("the request has no Authorization header")?)?;
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
    match token.expired_for(now_ms / 1000) {
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
    Some(Proof { admitted_by: AdmittedBy::Individual, device_keys: keys.clone() })
}

/// The first group whose derived key signed the token. Ids are derived in lower case and as sent: which of them
/// the operator's tool used is not known.
fn by_group_key(world: &World, token: &Token, who: &Registrant, notes: &mut Vec<String>) -> Option<Proof> {
    for (name, group) in &world.enrollment_groups {
        for id in [who.id.to_lowercase(), who.id.clone()] {
            let device_keys = group.attestation.symmetric_key.derive(&id);
            if let Some(signer) = token.signer(&device_keys) {
                notes.push(format!("key derived from the {signer} key of group {name}"));
                return Some(Proof { admitted_by: AdmittedBy::Group(name.clone()), device_keys });
            }
        }
    }
    None
}
