//! Enrolments, groups and registrations over the admin interface.

use super::{Answered, Refusal, body, method, not_found};
use crate::{
    cloud::State,
    dps::{AttestationKind, Enrollment, Reassignment, legal},
    http::Request,
};
use serde_json::{Value, json};

/// `/enrollments[/{registrationId}]`
pub(super) fn individual(state: &mut State, verb: &str, path: &[&str], request: &Request) -> Answered {
    let enrollments = &mut state.world.enrollments;
    match (verb, path) {
        ("GET", []) => Ok((200, enrollments.values().map(|it| json!(it)).collect())),
        ("GET", [id]) => found(enrollments.get(&id.to_lowercase()), "enrolment", id),
        ("DELETE", [id]) => match enrollments.remove(&id.to_lowercase()) {
            Some(_) => Ok((204, Value::Null)),
            None => Err(not_found("enrolment", id)),
        },
        ("PUT", [id]) if !legal(id) => Err((400, format!("{id} is no registration id"))),
        ("PUT", [id]) => {
            let enrollment = check(state, body(request)?, "registrationId", id)?;
            let key = id.to_lowercase();
            let old = state.world.enrollments.get(&key);
            let stored = enrollment.stored(old, &mut state.world.dice, state.clock.now_ms());
            let shown = json!(stored);
            state.world.enrollments.insert(key, stored);
            Ok((200, shown))
        }
        _ => Err(method(verb, request.path())),
    }
}

/// `/enrollmentGroups[/{enrollmentGroupId}[/keys/{registrationId}]]`
pub(super) fn group(state: &mut State, verb: &str, path: &[&str], request: &Request) -> Answered {
    let groups = &mut state.world.enrollment_groups;
    match (verb, path) {
        ("GET", []) => Ok((200, groups.values().map(|it| json!(it)).collect())),
        ("GET", [id]) => found(groups.get(*id), "enrolment group", id),
        ("GET", [id, "keys", registration_id]) => match groups.get(*id) {
            Some(group) => {
                Ok((200, json!(group.attestation.symmetric_key.derive(&registration_id.to_lowercase()))))
            }
            None => Err(not_found("enrolment group", id)),
        },
        ("DELETE", [id]) => match groups.remove(*id) {
            Some(_) => Ok((204, Value::Null)),
            None => Err(not_found("enrolment group", id)),
        },
        ("PUT", [id]) => {
            let enrollment = check(state, body(request)?, "enrollmentGroupId", id)?;
            let old = state.world.enrollment_groups.get(*id);
            let stored = enrollment.stored(old, &mut state.world.dice, state.clock.now_ms());
            let shown = json!(stored);
            state.world.enrollment_groups.insert((*id).to_owned(), stored);
            Ok((200, shown))
        }
        _ => Err(method(verb, request.path())),
    }
}

/// `/registrations[/{registrationId}[/reassign]]`
pub(super) fn registration(state: &mut State, verb: &str, path: &[&str], request: &Request) -> Answered {
    let world = &mut state.world;
    match (verb, path) {
        ("GET", []) => Ok((200, world.registrations.values().map(|it| json!(it)).collect())),
        ("GET", [id]) => found(world.registrations.get(&id.to_lowercase()), "registration", id),
        ("DELETE", [id]) => match world.registrations.remove(&id.to_lowercase()) {
            Some(_) => Ok((204, Value::Null)),
            None => Err(not_found("registration", id)),
        },
        ("POST", [id, "reassign"]) => {
            let next: Reassignment = body(request)?;
            known_hubs(state, next.hub.iter())?;
            let shown = json!(next);
            state.world.reassignments.insert(id.to_lowercase(), next);
            Ok((200, shown))
        }
        _ => Err(method(verb, request.path())),
    }
}

/// The enrolment of a PUT, with the id of the path, which the body may leave out but not contradict.
fn check(state: &State, mut text: Value, member: &str, id: &str) -> Result<Enrollment, Refusal> {
    let Some(members) = text.as_object_mut() else {
        return Err((400, "an enrolment is a JSON object".to_owned()));
    };
    let named = members.entry(member).or_insert_with(|| id.into());
    if named.as_str().is_none_or(|named| !named.eq_ignore_ascii_case(id)) {
        return Err((400, format!("{member} in the body is {named}, in the path {id}")));
    }
    let enrollment: Enrollment =
        serde_json::from_value(text).map_err(|err| (400, format!("the enrolment: {err}")))?;
    if enrollment.registration_id.is_some() == enrollment.enrollment_group_id.is_some() {
        return Err((400, "an enrolment is either a device's or a group's".to_owned()));
    }
    let of_group = enrollment.enrollment_group_id.is_some();
    match (enrollment.attestation.kind, &enrollment.attestation.tpm) {
        (AttestationKind::Tpm, _) if of_group => {
            return Err((400, "a group cannot be enrolled with a TPM".to_owned()));
        }
        (AttestationKind::Tpm, Some(tpm)) => tpm.check().map_err(|err| (400, err))?,
        (AttestationKind::Tpm, None) => return Err((400, "the attestation has no tpm".to_owned())),
        (_, Some(_)) => return Err((400, "tpm belongs to the attestation type tpm".to_owned())),
        (_, None) => {}
    }
    match (enrollment.attestation.kind, &enrollment.attestation.x509) {
        (AttestationKind::X509, Some(x509)) => {
            x509.check(of_group, &state.world.certificates).map_err(|err| (400, err))?;
        }
        (AttestationKind::X509, None) => return Err((400, "the attestation has no x509".to_owned())),
        (_, Some(_)) => return Err((400, "x509 belongs to the attestation type x509".to_owned())),
        (_, None) => {}
    }
    let hubs = enrollment.iot_hub_host_name.iter();
    known_hubs(state, hubs.chain(enrollment.iot_hubs.iter().flatten()))?;
    Ok(enrollment)
}

fn known_hubs<'a>(state: &State, mut named: impl Iterator<Item = &'a String>) -> Result<(), Refusal> {
    match named.find(|name| state.world.hub(name).is_none()) {
        Some(name) => Err((400, format!("there is no hub {name}; there are {:?}", state.world.hub_names()))),
        None => Ok(()),
    }
}

fn found<T: serde::Serialize>(it: Option<&T>, what: &str, id: &str) -> Answered {
    it.map(|it| (200, json!(it))).ok_or_else(|| not_found(what, id))
}
