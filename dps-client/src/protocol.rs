//! The registration as a state machine: answers in, next action out.
//!
//! No socket, no clock, no signature. Bounded, and it waits as long as the service asks (2 to 60 s).

use std::time::Duration;

use http::StatusCode;
use http_common::https::{Reply, path_segment};

use crate::schema::{API_VERSION, Assignment, Operation, RegisterBody};
use crate::{Error, Registration};

/// One registration under way.
#[derive(Debug)]
pub(crate) struct Register {
    /// `/<scope>/registrations/<id>`, encoded.
    path: String,
    body: Vec<u8>,
    state: State,
    restarted: bool,
}

#[derive(Debug, PartialEq)]
enum State {
    Registering,
    Polling { path: String },
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Send the registration.
    Put { path: String, body: Vec<u8> },
    /// Wait, then ask for the operation's status.
    WaitThenGet { after: Duration, path: String },
    /// Finished.
    Done(Box<Assignment>),
}

impl Register {
    pub(crate) fn new(registration: &Registration) -> Self {
        let Registration { id_scope, registration_id, payload } = registration;
        let path = format!("/{}/registrations/{}", path_segment(id_scope), path_segment(registration_id));
        let body = RegisterBody { registration_id, payload: payload.as_ref() };
        let body = serde_json::to_vec(&body).expect("strings and JSON values can be written as JSON");
        Self { path, body, state: State::Registering, restarted: false }
    }

    /// The first action.
    pub(crate) fn start(&mut self) -> Action {
        self.state = State::Registering;
        let path = format!("{}/register?api-version={API_VERSION}", self.path);
        Action::Put { path, body: self.body.clone() }
    }

    /// Which statuses [`Register::on_reply`] wants to see at this point; all others end the registration.
    pub(crate) fn accepts(&self) -> &'static [StatusCode] {
        match self.state {
            State::Polling { .. } if !self.restarted => {
                &[StatusCode::OK, StatusCode::ACCEPTED, StatusCode::NOT_FOUND]
            }
            _ => &[StatusCode::OK, StatusCode::ACCEPTED],
        }
    }

    /// Take up an answer that came `elapsed` after the start.
    pub(crate) fn on_reply(&mut self, reply: &Reply, elapsed: Duration) -> Result<Action, Error> {
        if reply.status == StatusCode::NOT_FOUND {
            // The service has forgotten the operation: begin again, once.
            self.restarted = true;
            return Ok(self.start());
        }
        let operation: Operation = reply.json()?;
        let state = operation.registration_state.unwrap_or_default();
        match operation.status.as_deref() {
            Some("assigned") => {
                let missing =
                    |what: &str| Error::Unexpected { what: format!("an assignment without {what}") };
                let present = |text: Option<String>| text.filter(|text| !text.is_empty());
                Ok(Action::Done(Box::new(Assignment {
                    hub: present(state.assigned_hub).ok_or_else(|| missing("assignedHub"))?,
                    device_id: present(state.device_id).ok_or_else(|| missing("deviceId"))?,
                    substatus: state.substatus,
                    payload: state.payload,
                })))
            }
            Some("assigning") | None => self.poll(operation.operation_id, reply.retry_after, elapsed),
            Some("failed") => Err(Error::Failed {
                code: state.error_code.unwrap_or_default(),
                message: state.error_message.unwrap_or_else(|| "no reason given".into()),
            }),
            Some("disabled") => Err(Error::Disabled),
            Some("unassigned") => Err(Error::Unassigned),
            Some(other) => Err(Error::Unexpected { what: format!("the unknown status {other:?}") }),
        }
    }

    fn poll(
        &mut self,
        operation_id: Option<String>,
        retry_after: Option<Duration>,
        elapsed: Duration,
    ) -> Result<Action, Error> {
        let path = match (operation_id.filter(|id| !id.is_empty()), &self.state) {
            (_, State::Polling { path }) => path.clone(),
            (Some(id), State::Registering) => {
                format!("{}/operations/{}?api-version={API_VERSION}", self.path, path_segment(&id))
            }
            (None, State::Registering) => {
                return Err(Error::Unexpected { what: "a registration without operationId".into() });
            }
        };
        let after = retry_after.map_or(POLL, |asked| asked.clamp(POLL_SHORTEST, POLL_LONGEST));
        if elapsed + after > LIMIT {
            return Err(Error::TooSlow { waited: elapsed });
        }
        self.state = State::Polling { path: path.clone() };
        Ok(Action::WaitThenGet { after, path })
    }
}

const POLL: Duration = Duration::from_secs(5);
const POLL_SHORTEST: Duration = Duration::from_secs(2);
const POLL_LONGEST: Duration = Duration::from_secs(60);
const LIMIT: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use serde_json::{Value, json};

    const ASSIGNED: &str = r#"{"operationId":"4.a","status":"assigned","registrationState":{"registrationId":"press-17",
        "assignedHub":"plant-hub.azure-devices.net","deviceId":"press-17","status":"assigned","new":[1],
        "substatus":"initialAssignment","payload":{"site":"A"},"tpm":{"authenticationKey":"AA=="}}}"#;
    const ASSIGNING: &str = r#"{"operationId":"4.a/b c","status":"assigning"}"#;

    fn register(scope: &str, id: &str, payload: Option<Value>) -> Register {
        Register::new(&Registration { id_scope: scope.into(), registration_id: id.into(), payload })
    }

    fn reply(status: u16, retry_after: Option<u64>, body: &str) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            retry_after: retry_after.map(Duration::from_secs),
            headers: HeaderMap::new(),
            body: body.to_owned().into(),
        }
    }

    /// The machine after a registration that the service took.
    fn polling() -> Register {
        let mut machine = register("s", "r", None);
        machine.start();
        machine.on_reply(&reply(202, None, ASSIGNING), Duration::ZERO).unwrap();
        machine
    }

    fn on(machine: &mut Register, body: &str) -> Result<Action, Error> {
        machine.on_reply(&reply(200, None, body), Duration::ZERO)
    }

    #[test]
    fn the_usual_course() {
        let mut machine = register("0ne00ABC123", "press-17", None);
        let Action::Put { path, body } = machine.start() else { panic!() };
        assert_eq!(path, "/0ne00ABC123/registrations/press-17/register?api-version=2021-06-01");
        assert_eq!(body, br#"{"registrationId":"press-17"}"#);

        let polls = "/0ne00ABC123/registrations/press-17/operations/4.a%2Fb%20c?api-version=2021-06-01";
        let wait = |secs| Action::WaitThenGet { after: Duration::from_secs(secs), path: polls.into() };
        let mut answer =
            |retry_after, body| machine.on_reply(&reply(202, retry_after, body), Duration::ZERO).unwrap();
        assert_eq!(answer(Some(3), ASSIGNING), wait(3));
        assert_eq!(answer(None, ASSIGNING), wait(5));
        assert_eq!(answer(Some(0), ASSIGNING), wait(2));
        assert_eq!(answer(Some(3000), r#"{"status":"assigning","registrationState":{}}"#), wait(60));
        let Action::Done(assignment) = answer(None, ASSIGNED) else { panic!() };
        let expected = Assignment {
            hub: "plant-hub.azure-devices.net".into(),
            device_id: "press-17".into(),
            substatus: Some("initialAssignment".into()),
            payload: Some(json!({"site": "A"})),
        };
        assert_eq!(*assignment, expected);
    }

    #[test]
    fn ids_are_encoded_and_the_payload_is_sent() {
        let mut machine = register("s/c%", "Pump=7 ä", Some(json!({"b": 1, "a": null})));
        let Action::Put { path, body } = machine.start() else { panic!() };
        assert_eq!(path, "/s%2Fc%25/registrations/Pump%3D7%20%C3%A4/register?api-version=2021-06-01");
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body, json!({"registrationId": "Pump=7 ä", "payload": {"a": null, "b": 1}}));
    }

    #[test]
    fn a_registration_may_be_answered_with_the_assignment() {
        let mut machine = register("s", "r", None);
        machine.start();
        assert!(matches!(on(&mut machine, ASSIGNED), Ok(Action::Done(_))));
    }

    #[test]
    fn what_ends_a_registration() {
        let failed =
            r#"{"status":"failed","registrationState":{"errorCode":400207,"errorMessage":"no hub"}}"#;
        let table = [
            (failed, "the provisioning service failed the registration with code 400207: no hub"),
            (
                r#"{"status":"failed"}"#,
                "the provisioning service failed the registration with code 0: no reason given",
            ),
            (
                r#"{"status":"disabled"}"#,
                "the enrolment of this device is disabled in the provisioning service",
            ),
            (r#"{"status":"unassigned"}"#, "the provisioning service has assigned this device to no hub"),
            (r#"{"status":"odd"}"#, "the provisioning service answered with the unknown status \"odd\""),
            (
                r#"{"status":"assigned"}"#,
                "the provisioning service answered with an assignment without assignedHub",
            ),
            (
                r#"{"status":"assigned","registrationState":{"assignedHub":"h","deviceId":""}}"#,
                "the provisioning service answered with an assignment without deviceId",
            ),
            ("<html>", "the provisioning service did not take the call"),
            (r#"{"status":"assi"#, "the provisioning service did not take the call"),
        ];
        for (body, expected) in table {
            assert_eq!(on(&mut polling(), body).unwrap_err().to_string(), expected);
        }
        let mut machine = register("s", "r", None);
        machine.start();
        let err = on(&mut machine, r#"{"status":"assigning"}"#).unwrap_err();
        assert_eq!(
            err.to_string(),
            "the provisioning service answered with a registration without operationId"
        );
    }

    #[test]
    fn a_forgotten_operation_is_registered_again_once() {
        let mut machine = polling();
        assert!(machine.accepts().contains(&StatusCode::NOT_FOUND));
        let again = machine.on_reply(&reply(404, None, ""), Duration::ZERO).unwrap();
        assert!(matches!(again, Action::Put { .. }));
        assert!(
            !machine.accepts().contains(&StatusCode::NOT_FOUND),
            "an unknown device is not asked for twice"
        );
        let new = machine.on_reply(&reply(202, None, r#"{"operationId":"5"}"#), Duration::ZERO).unwrap();
        assert!(matches!(new, Action::WaitThenGet { path, .. } if path.contains("/operations/5?")));
        assert!(!machine.accepts().contains(&StatusCode::NOT_FOUND));
    }

    #[test]
    fn polling_ends_after_ten_minutes() {
        let mut machine = polling();
        let mut at = |secs| machine.on_reply(&reply(202, None, ASSIGNING), Duration::from_secs(secs));
        assert!(at(595).is_ok());
        assert!(matches!(at(596), Err(Error::TooSlow { .. })));
    }
}
