//! The device API of the Device Provisioning Service: its routes, and the order of its checks.
//!
//! Who is believed is decided in `attestation`, what a registration leads to in `registration`.

mod attestation;
mod enrollment;
mod error;
mod registration;
mod tpm;
mod x509;

pub(crate) use enrollment::{AttestationKind, Enrollment, ProvisioningStatus};
pub(crate) use error::DpsError;
pub(crate) use registration::{Operation, Reassignment, Registration};
pub(crate) use tpm::Challenged;

use crate::{
    answer::Answer,
    call::Call,
    http::{Reply, Request},
    route::{Registrant, Route},
    world::World,
};
use serde_json::Value;

/// Answer a request to DPS.
pub(crate) fn serve(world: &mut World, call: &Call<'_>, route: &Route) -> Answer {
    let mut notes = Vec::new();
    match dispatch(world, call, route, &mut notes) {
        Ok(reply) => Answer { reply: reply.with("x-ms-request-id", world.dice.uuid()), refused: None, notes },
        Err(err) => {
            Answer { reply: err.reply(call.now_ms, &mut world.dice), refused: Some(err.message), notes }
        }
    }
}

fn dispatch(
    world: &mut World,
    call: &Call<'_>,
    route: &Route,
    notes: &mut Vec<String>,
) -> Result<Reply, DpsError> {
    let Call { request, now_ms, .. } = *call;
    check_version(request)?;
    match (route, request.method.as_str()) {
        (Route::Register(who), "PUT") => {
            let body = check(world, request, who)?;
            if let Some(challenge) = tpm::challenge(world, call, who, &body, notes)? {
                return Ok(challenge);
            }
            let payload = body.get("payload").cloned();
            let proof = attestation::prove(world, call, who, true, notes)?;
            Ok(registration::start(world, who, proof, payload, now_ms))
        }
        (Route::Operation(who, operation), "GET") => {
            check_registrant(world, who)?;
            let strict = world.settings.reject_expired_at_polls;
            attestation::prove(world, call, who, strict, notes)?;
            registration::poll(world, who, operation, now_ms)
        }
        (Route::Registration(who), "POST") => {
            check(world, request, who)?;
            attestation::prove(world, call, who, true, notes)?;
            registration::look_up(world, who)
        }
        (Route::Register(_) | Route::Operation(..) | Route::Registration(_), method) => {
            Err(DpsError::new(error::BAD_METHOD, format!("{method} is not allowed here")))
        }
        _ => Err(DpsError::new(error::NO_PATH, format!("there is nothing at {}", request.path()))),
    }
}

fn check_version(request: &Request) -> Result<(), DpsError> {
    match request.query("api-version").as_deref() {
        Some("2021-06-01" | "2021-10-01") => Ok(()),
        Some(version) => {
            Err(DpsError::new(error::BAD_VERSION, format!("api-version {version} is not supported")))
        }
        None => Err(DpsError::new(error::BAD_VERSION, "the request has no api-version")),
    }
}

/// The body of a request that has one, which must name the registrant of the URL.
fn check(world: &World, request: &Request, who: &Registrant) -> Result<Value, DpsError> {
    check_registrant(world, who)?;
    let media_type = request.header("content-type").unwrap_or("none").to_ascii_lowercase();
    if !media_type.starts_with("application/json") {
        return Err(DpsError::new(error::BAD_MEDIA_TYPE, format!("the content type is {media_type}")));
    }
    let bad = |message: String| DpsError::new(error::BAD_REQUEST, message);
    let body: Value =
        serde_json::from_slice(&request.body).map_err(|err| bad(format!("the body is not JSON: {err}")))?;
    match body["registrationId"].as_str() {
        Some(id) if id.eq_ignore_ascii_case(&who.id) => Ok(body),
        Some(id) => Err(bad(format!("the body registers {id}, the URL {}", who.id))),
        None => Err(bad("the body has no registrationId".to_owned())),
    }
}

fn check_registrant(world: &World, who: &Registrant) -> Result<(), DpsError> {
    if !legal(&who.id) {
        return Err(DpsError::new(error::BAD_REQUEST, format!("{} is no registration id", who.id)));
    }
    if !who.scope.eq_ignore_ascii_case(&world.scope) {
        return Err(DpsError::new(error::NO_SCOPE, format!("there is no id scope {}", who.scope)));
    }
    Ok(())
}

/// Whether `id` is a registration id: up to 128 of `A-Z a-z 0-9 - . _ :`, a letter or digit at both ends.
#[must_use]
pub(crate) fn legal(id: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    id.len() <= 128 && id.chars().all(inner) && outer(id.chars().next()) && outer(id.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registration_ids_begin_and_end_with_a_letter_or_digit() {
        for good in ["a", "Press-17", "a.b:c_d-9", &"x".repeat(128)] {
            assert!(legal(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a b", "a=b", "é", &"x".repeat(129)] {
            assert!(!legal(bad), "{bad}");
        }
    }
}
