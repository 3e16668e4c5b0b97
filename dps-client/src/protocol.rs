//! The registration as a state machine: answers in, next action out.
//!
//! No socket, no clock, no signature. Bounded, and it waits as long as the service asks (2 to 60 s).

use std::time::Duration;

use config_common::Secret;
use http::StatusCode;
use http_common::https::{Reply, path_segment};

use crate::schema::{
    API_VERSION, Assignment, Operation, RegisterBody, RegistrationState, TpmKeys, WrappedKey,
};
use crate::{Error, Registration};

/// One registration under way.
#[derive(Debug)]
pub(crate) struct Register {
    /// `/<scope>/registrations/<id>`, encoded.
    path: String,
    body: Vec<u8>,
    /// What a device with a TPM says first.
    introduction: Option<Vec<u8>>,
    /// The key of the challenge, wrapped: it signs the tokens of this registration.
    challenge: Option<Secret>,
    state: State,
    restarted: bool,
}

#[derive(Debug, PartialEq)]
enum State {
    /// The TPM has introduced itself and is to be challenged.
    Introducing,
    Registering,
    Polling {
        path: String,
    },
    /// Assigned, but for the key that the TPM has to keep.
    Assigned(Box<Assignment>),
}

/// What to do next.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// Send the registration, with a token or (to be challenged) without.
    Put { path: String, body: Vec<u8>, signed: bool },
    /// From now on sign with this key, which is wrapped for the TPM, then go on with [`Register::on_key`].
    SignWith { key: Secret },
    /// Let the TPM keep this key for good, then go on with [`Register::on_key`].
    Import { key: Secret },
    /// Wait, then ask for the operation's status.
    WaitThenGet { after: Duration, path: String },
    /// Finished.
    Done(Box<Assignment>),
}

impl Register {
    pub(crate) fn new(registration: &Registration) -> Self {
        let Registration { id_scope, registration_id, payload } = registration;
        let path = format!("/{}/registrations/{}", path_segment(id_scope), path_segment(registration_id));
        let body = body(&RegisterBody { registration_id, tpm: None, payload: payload.as_ref() });
        Self { path, body, introduction: None, challenge: None, state: State::Registering, restarted: false }
    }

    /// The same for a device that has a TPM with these keys.
    pub(crate) fn with_tpm(registration: &Registration, keys: &TpmKeys) -> Self {
        let Registration { id_scope: _, registration_id, payload } = registration;
        let introduction = RegisterBody { registration_id, tpm: Some(keys), payload: payload.as_ref() };
        Self { introduction: Some(body(&introduction)), ..Self::new(registration) }
    }

    /// The first action.
    pub(crate) fn start(&mut self) -> Action {
        match self.introduction.clone() {
            Some(introduction) => {
                self.state = State::Introducing;
                self.put(introduction, false)
            }
            None => self.register(),
        }
    }

    fn register(&mut self) -> Action {
        self.state = State::Registering;
        self.put(self.body.clone(), true)
    }

    fn put(&self, body: Vec<u8>, signed: bool) -> Action {
        Action::Put { path: format!("{}/register?api-version={API_VERSION}", self.path), body, signed }
    }

    /// Take up that a key is where it should be.
    pub(crate) fn on_key(&mut self) -> Action {
        match &self.state {
            State::Assigned(assignment) => Action::Done(assignment.clone()),
            State::Introducing | State::Registering | State::Polling { .. } => self.register(),
        }
    }

    /// Which statuses [`Register::on_reply`] wants to see at this point; all others end the registration.
    pub(crate) fn accepts(&self) -> &'static [StatusCode] {
        match self.state {
            State::Introducing => &[StatusCode::UNAUTHORIZED],
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
        if self.state == State::Introducing {
            return self.challenged(reply);
        }
        let operation: Operation = reply.json()?;
        let state = operation.registration_state.unwrap_or_default();
        match operation.status.as_deref() {
            Some("assigned") => self.assigned(state),
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

    fn assigned(&mut self, state: RegistrationState) -> Result<Action, Error> {
        let missing = |what: &str| Error::Unexpected { what: format!("an assignment without {what}") };
        let present = |text: Option<String>| text.filter(|text| !text.is_empty());
        let assignment = Box::new(Assignment {
            hub: present(state.assigned_hub).ok_or_else(|| missing("assignedHub"))?,
            device_id: present(state.device_id).ok_or_else(|| missing("deviceId"))?,
            substatus: state.substatus,
            payload: state.payload,
        });
        let Some(challenge) = self.challenge.clone() else { return Ok(Action::Done(assignment)) };
        self.state = State::Assigned(assignment);
        // Without another key, the one from the challenge is the key for the hub too.
        let key = state.tpm.and_then(|tpm| tpm.authentication_key);
        Ok(Action::Import { key: key.unwrap_or(challenge) })
    }

    fn challenged(&mut self, reply: &Reply) -> Result<Action, Error> {
        let WrappedKey { authentication_key, message } = reply.json()?;
        match authentication_key {
            Some(key) => {
                self.challenge = Some(key.clone());
                Ok(Action::SignWith { key })
            }
            None => Err(Error::UnknownTpm { message: message.unwrap_or_else(|| "no reason given".into()) }),
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
            (Some(id), _) => {
                format!("{}/operations/{}?api-version={API_VERSION}", self.path, path_segment(&id))
            }
            (None, _) => {
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

fn body(body: &RegisterBody<'_>) -> Vec<u8> {
    serde_json::to_vec(body).expect("strings and JSON values can be written as JSON")
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
        let Action::Put { path, body, signed: true } = machine.start() else { panic!() };
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

    fn with_tpm() -> Register {
        let registration = Registration {
            id_scope: "0ne00112233".into(),
            registration_id: "packer-7".into(),
            payload: Some(json!({"line": 4})),
        };
        let keys = TpmKeys { endorsement_key: vec![1].into(), storage_root_key: vec![2].into() };
        Register::with_tpm(&registration, &keys)
    }

    #[test]
    fn a_tpm_is_challenged_first() {
        let mut machine = with_tpm();
        let Action::Put { path, body, signed: false } = machine.start() else { panic!() };
        assert_eq!(path, "/0ne00112233/registrations/packer-7/register?api-version=2021-06-01");
        let body: Value = serde_json::from_slice(&body).unwrap();
        let tpm = json!({"endorsementKey": "AQ==", "storageRootKey": "Ag=="});
        assert_eq!(body, json!({"registrationId": "packer-7", "tpm": tpm, "payload": {"line": 4}}));
        assert_eq!(machine.accepts(), [StatusCode::UNAUTHORIZED]);

        let challenge = reply(401, None, r#"{"authenticationKey":"AwQ=","keyName":"registration"}"#);
        let key = vec![3, 4].into();
        assert_eq!(machine.on_reply(&challenge, Duration::ZERO).unwrap(), Action::SignWith { key });
        let Action::Put { path: same, body, signed: true } = machine.on_key() else { panic!() };
        assert_eq!(same, path);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body, json!({"registrationId": "packer-7", "payload": {"line": 4}}));
        assert!(!machine.accepts().contains(&StatusCode::UNAUTHORIZED));

        assert!(matches!(on(&mut machine, ASSIGNING), Ok(Action::WaitThenGet { .. })));
        assert_eq!(on(&mut machine, ASSIGNED).unwrap(), Action::Import { key: vec![0].into() });
        let Action::Done(assignment) = machine.on_key() else { panic!() };
        assert_eq!(assignment.device_id, "press-17");
    }

    /// The machine of a device with a TPM after a registration that the service took.
    fn challenged() -> Register {
        let mut machine = with_tpm();
        machine.start();
        let challenge = reply(401, None, r#"{"authenticationKey":"AwQ="}"#);
        machine.on_reply(&challenge, Duration::ZERO).unwrap();
        machine.on_key();
        on(&mut machine, ASSIGNING).unwrap();
        machine
    }

    #[test]
    fn the_key_of_the_challenge_may_be_the_last_one() {
        let without = ASSIGNED.replace(r#","tpm":{"authenticationKey":"AA=="}"#, "");
        let mut machine = challenged();
        assert_eq!(on(&mut machine, &without).unwrap(), Action::Import { key: vec![3, 4].into() });
        assert!(matches!(machine.on_key(), Action::Done(_)));
    }

    #[test]
    fn a_forgotten_operation_begins_with_a_new_challenge() {
        let mut machine = challenged();
        let again = machine.on_reply(&reply(404, None, ""), Duration::ZERO).unwrap();
        assert!(matches!(again, Action::Put { signed: false, .. }));
    }

    #[test]
    fn a_refusal_is_no_challenge() {
        for (body, expected) in [
            (r#"{"errorCode":401002,"message":"who?"}"#, "does not admit the TPM of this device: who?"),
            ("{}", "no reason given"),
            (r#"{"authenticationKey":"AwQ"}"#, "did not take the call"),
            ("<html>", "did not take the call"),
        ] {
            let mut machine = with_tpm();
            machine.start();
            let error = machine.on_reply(&reply(401, None, body), Duration::ZERO).unwrap_err();
            assert!(error.to_string().contains(expected), "{body}: {error}");
        }
    }

    #[test]
    fn ids_are_encoded_and_the_payload_is_sent() {
        let mut machine = register("s/c%", "Pump=7 ä", Some(json!({"b": 1, "a": null})));
        let Action::Put { path, body, signed: true } = machine.start() else { panic!() };
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
