//! Registrations: from the first request over polls to an assignment, and what a repeated one changes.
//!
//! The device is already proven here; hubs are only told which device to have.

use super::{
    DpsError, Enrollment, ProvisioningStatus,
    attestation::{AdmittedBy, Proof},
    enrollment::AllocationPolicy,
    error, tpm,
};
use crate::{
    clock::iso,
    http::Reply,
    hub::{Authentication, Device},
    route::Registrant,
    world::World,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What DPS knows about a registered device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Registration {
    /// In lower case.
    pub(crate) registration_id: String,
    /// When it first registered.
    pub(crate) created_date_time_utc: String,
    /// The hub, once assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) assigned_hub: Option<String>,
    /// The name at the hub, once assigned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) device_id: Option<String>,
    /// `assigned`, `failed`, `disabled`, …
    pub(crate) status: String,
    /// How the assignment came about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) substatus: Option<String>,
    /// Of a failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error_code: Option<u32>,
    /// Of a failed one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error_message: Option<String>,
    /// When this last changed.
    pub(crate) last_updated_date_time_utc: String,
    /// Changes with every change.
    pub(crate) etag: String,
    /// The group whose key was used, if any: `{"enrollmentGroupId": "…"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) symmetric_key: Option<Value>,
    /// The certificates, and the group if any, that admitted the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) x509: Option<Value>,
    /// Of a device with a TPM: its key for the hub, `{"authenticationKey": "…"}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tpm: Option<Value>,
    /// What the allocation returns to the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<Value>,
}

/// A running or finished registration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Operation {
    /// In lower case.
    pub(crate) registration_id: String,
    /// Unix milliseconds.
    pub(crate) started_ms: i64,
    /// How often it still answers `assigning`.
    pub(crate) polls_left: u32,
    /// The enrolment that admitted the device.
    pub(crate) admitted_by: AdmittedBy,
    /// What the device's identity at the hub gets.
    pub(crate) authentication: Authentication,
    /// By which certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) x509: Option<Value>,
    /// Of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) payload: Option<Value>,
    /// The outcome, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) registration: Option<Registration>,
}

/// The assignment that the next registration must make, whatever the enrolment says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Reassignment {
    /// To this hub.
    pub(crate) hub: Option<String>,
    /// Under this name.
    pub(crate) device_id: Option<String>,
}

/// Begin a registration: 202 with an operation id.
pub(super) fn start(
    world: &mut World,
    who: &Registrant,
    proof: Proof,
    payload: Option<Value>,
    now_ms: i64,
) -> Reply {
    let outdated = now_ms.saturating_sub(world.settings.operation_ttl_secs.saturating_mul(1000));
    if world.operations.len().is_multiple_of(SWEEP) {
        world.operations.retain(|_, operation| operation.started_ms >= outdated);
    }
    let operation = Operation {
        registration_id: who.id.to_lowercase(),
        started_ms: now_ms,
        polls_left: world.settings.assigning_polls,
        admitted_by: proof.admitted_by,
        authentication: proof.authentication,
        x509: proof.x509,
        payload,
        registration: None,
    };
    let wanted = enrollment_of(world, &operation)
        .and_then(|enrollment| enrollment.simulator.as_ref()?.assigning_polls);
    let operation = Operation { polls_left: wanted.unwrap_or(operation.polls_left), ..operation };
    let id = world.dice.operation_id();
    world.operations.insert(id.clone(), operation);
    let reply = Reply::json(202, &json!({"operationId": id, "status": "assigning"}));
    let location = format!("/{}/registrations/{}/operations/{id}?api-version=2021-06-01", who.scope, who.id);
    retry_after(world, reply.with("location", location), now_ms)
}

/// The state of a registration: 202 while `assigning`, then 200.
pub(super) fn poll(world: &mut World, who: &Registrant, id: &str, now_ms: i64) -> Result<Reply, DpsError> {
    let oldest = now_ms.saturating_sub(world.settings.operation_ttl_secs.saturating_mul(1000));
    let known = world.operations.get_mut(id);
    let known = known.filter(|it| it.registration_id == who.id.to_lowercase() && it.started_ms >= oldest);
    let operation =
        known.ok_or_else(|| DpsError::new(error::NO_OPERATION, format!("there is no operation {id}")))?;
    if operation.polls_left > 0 {
        operation.polls_left -= 1;
        let state = json!({"registrationId": operation.registration_id, "status": "assigning"});
        let body = json!({"operationId": id, "status": "assigning", "registrationState": state});
        return Ok(retry_after(world, Reply::json(202, &body), now_ms));
    }
    let operation = operation.clone();
    let registration = match &operation.registration {
        Some(done) => done.clone(),
        None => finish(world, id, &operation, now_ms),
    };
    let body = json!({"operationId": id, "status": registration.status, "registrationState": registration});
    Ok(Reply::json(200, &body))
}

/// The registration state as such.
pub(super) fn look_up(world: &World, who: &Registrant) -> Result<Reply, DpsError> {
    let unknown = || DpsError::new(error::NO_REGISTRATION, format!("{} has not registered", who.id));
    let registration = world.registrations.get(&who.id.to_lowercase()).ok_or_else(unknown)?;
    Ok(Reply::json(200, &json!(registration)))
}

fn retry_after(world: &World, reply: Reply, now_ms: i64) -> Reply {
    match world.settings.retry_after.value(now_ms) {
        Some(value) => reply.with("retry-after", value),
        None => reply,
    }
}

fn enrollment_of<'a>(world: &'a World, operation: &Operation) -> Option<&'a Enrollment> {
    match &operation.admitted_by {
        AdmittedBy::Individual => world.enrollments.get(&operation.registration_id),
        AdmittedBy::Group(name) => world.enrollment_groups.get(name),
    }
}

/// Decide the outcome of an operation and remember it, in the operation and as the device's registration.
fn finish(world: &mut World, id: &str, operation: &Operation, now_ms: i64) -> Registration {
    let previous = world.registrations.get(&operation.registration_id).cloned();
    let mut registration = Registration {
        registration_id: operation.registration_id.clone(),
        created_date_time_utc: previous
            .as_ref()
            .map_or_else(|| iso(now_ms), |it| it.created_date_time_utc.clone()),
        assigned_hub: None,
        device_id: None,
        status: "assigned".to_owned(),
        substatus: None,
        error_code: None,
        error_message: None,
        last_updated_date_time_utc: iso(now_ms),
        etag: world.dice.etag(),
        symmetric_key: match &operation.admitted_by {
            AdmittedBy::Group(name) if operation.x509.is_none() => Some(json!({"enrollmentGroupId": name})),
            _ => None,
        },
        x509: operation.x509.clone(),
        tpm: None,
        payload: None,
    };
    match assign(world, operation, previous.as_ref()) {
        Ok(assigned) => {
            registration.assigned_hub = Some(assigned.hub);
            registration.device_id = Some(assigned.device_id);
            registration.substatus = Some(assigned.substatus.to_owned());
            registration.payload = assigned.payload;
            registration.tpm = enrollment_of(world, operation)
                .and_then(|enrollment| tpm::final_key(world, enrollment, &operation.registration_id));
        }
        Err(refused) => {
            registration.status = refused.status;
            registration.error_code = refused.code;
            registration.error_message = refused.message;
        }
    }
    // A refused registration does not undo an earlier assignment.
    if registration.status == "assigned" || previous.is_none() {
        world.registrations.insert(registration.registration_id.clone(), registration.clone());
    }
    if let Some(operation) = world.operations.get_mut(id) {
        operation.registration = Some(registration.clone());
    }
    registration
}

struct Assigned {
    hub: String,
    device_id: String,
    substatus: &'static str,
    payload: Option<Value>,
}

struct Refused {
    status: String,
    code: Option<u32>,
    message: Option<String>,
}

fn assign(
    world: &mut World,
    operation: &Operation,
    previous: Option<&Registration>,
) -> Result<Assigned, Refused> {
    let failed = |code, message: String| Refused {
        status: "failed".to_owned(),
        code: Some(code),
        message: Some(message),
    };
    let enrollment = enrollment_of(world, operation).cloned();
    let enrollment =
        enrollment.ok_or_else(|| failed(error::NO_ENROLLMENT, "the enrolment is gone".to_owned()))?;
    if enrollment.provisioning_status == ProvisioningStatus::Disabled {
        return Err(Refused { status: "disabled".to_owned(), code: None, message: None });
    }
    let wanted = enrollment.simulator.clone().unwrap_or_default();
    match wanted.status {
        Some(status) if status == "failed" => {
            let message = wanted.error_message.unwrap_or_else(|| "the simulator was told to fail".to_owned());
            return Err(failed(wanted.error_code.unwrap_or(HUB_TROUBLE), message));
        }
        Some(status) if status != "assigned" => return Err(Refused { status, code: None, message: None }),
        _ => {}
    }
    let before = previous.and_then(|it| Some((it.assigned_hub.clone()?, it.device_id.clone()?)));
    let next = world.reassignments.get(&operation.registration_id).cloned();
    let (hub, device_id) = target(world, operation, &enrollment, before.as_ref(), next.as_ref());
    if world.hub(&hub).is_none() {
        return Err(failed(HUB_TROUBLE, format!("the hub {hub} is not linked")));
    }
    let substatus = match &before {
        None => "initialAssignment",
        Some(_) if next.is_none() && !enrollment.reprovision_policy.update_hub_assignment => {
            "initialAssignment"
        }
        Some((old, _)) if *old == hub => "reprovisionedToInitialAssignment",
        Some(_) if enrollment.reprovision_policy.migrate_device_data => "deviceDataMigrated",
        Some(_) => "deviceDataReset",
    };
    world.reassignments.remove(&operation.registration_id);
    if let Some((old_hub, old_device)) = before.filter(|old| *old != (hub.clone(), device_id.clone())) {
        world.hub_mut(&old_hub).and_then(|hub| hub.devices.remove(&old_device));
    }
    place(world, &hub, &device_id, operation, enrollment.capabilities.iot_edge);
    let echo = operation.payload.clone().filter(|_| world.settings.echo_payload);
    Ok(Assigned { hub, device_id, substatus, payload: wanted.payload.or(echo) })
}

/// The hub and the name there that a registration leads to.
fn target(
    world: &World,
    operation: &Operation,
    enrollment: &Enrollment,
    before: Option<&(String, String)>,
    next: Option<&Reassignment>,
) -> (String, String) {
    let keep = !enrollment.reprovision_policy.update_hub_assignment;
    let (hub, device_id) = match before {
        Some(before) if keep => before.clone(),
        _ => {
            let device_id = enrollment.device_id.as_ref().unwrap_or(&operation.registration_id);
            (allocate(world, enrollment, &operation.registration_id), device_id.clone())
        }
    };
    let next = next.cloned().unwrap_or_default();
    (next.hub.unwrap_or(hub), next.device_id.unwrap_or(device_id))
}

fn allocate(world: &World, enrollment: &Enrollment, registration_id: &str) -> String {
    let candidates = match (&enrollment.iot_hub_host_name, &enrollment.iot_hubs) {
        (Some(hub), _) => vec![hub.clone()],
        (None, Some(hubs)) if !hubs.is_empty() => hubs.clone(),
        _ => world.hub_names(),
    };
    let at = match enrollment.allocation_policy {
        AllocationPolicy::Hashed => fnv(registration_id) as usize % candidates.len().max(1),
        AllocationPolicy::GeoLatency | AllocationPolicy::Static => 0,
    };
    candidates.get(at).cloned().unwrap_or_default()
}

/// See that the hub has the device, with what the enrolment gives it to prove itself.
fn place(world: &mut World, hub: &str, device_id: &str, operation: &Operation, iot_edge: bool) {
    let mut dice = world.dice.clone();
    if let Some(hub) = world.hub_mut(hub) {
        let authentication = operation.authentication.clone();
        let new = || Device::new(device_id, authentication.clone(), iot_edge, &mut dice);
        let device = hub.devices.entry(device_id.to_owned()).or_insert_with(new);
        device.authentication = authentication;
    }
    world.dice = dice;
}

/// FNV-1a: the same hub for the same id in every run.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Outdated operations are swept out once in so many registrations.
const SWEEP: usize = 256;
/// The code under which DPS reports trouble between itself and a hub.
const HUB_TROUBLE: u32 = 400_207;
