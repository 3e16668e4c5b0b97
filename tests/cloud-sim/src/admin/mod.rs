//! The admin interface: one table from method and path to what it does. Plain HTTP on loopback, no credentials.
//!
//! Azure's own shapes are in camelCase as there; what only a simulator has is in snake_case.

mod certificates;
mod control;
mod devices;
mod enrollments;
mod est;

use crate::{
    authority::Authority,
    cloud::{Cloud, State},
    http::{Reply, Request},
    listener::Door,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// What the admin interface works on.
#[derive(Debug)]
pub(crate) struct Admin {
    /// The cloud.
    pub(crate) cloud: Arc<Cloud>,
    /// Its listeners.
    pub(crate) doors: Vec<Arc<Door>>,
    /// Who issues their certificates.
    pub(crate) authority: Authority,
    /// For which names.
    pub(crate) hosts: Vec<String>,
}

/// Why the admin interface refuses: a status and a reason.
type Refusal = (u16, String);
type Answered = Result<(u16, Value), Refusal>;

impl Admin {
    /// Answer a request.
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        match self.dispatch(request) {
            Ok((204, _)) => Reply::empty(204),
            Ok((status, body)) => Reply::json(status, &body),
            Err((status, reason)) => Reply::json(status, &json!({"error": reason})),
        }
    }

    fn dispatch(&self, request: &Request) -> Answered {
        let segments = request.segments();
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let mut state = self.cloud.state();
        state.dirty |= request.method != "GET";
        match (request.method.as_str(), &path[..]) {
            ("GET", [""]) => Ok((200, json!({"endpoints": ENDPOINTS}))),

            (method, ["enrollments", rest @ ..]) => {
                enrollments::individual(&mut state, method, rest, request)
            }
            (method, ["enrollmentGroups", rest @ ..]) => {
                enrollments::group(&mut state, method, rest, request)
            }
            (method, ["registrations", rest @ ..]) => {
                enrollments::registration(&mut state, method, rest, request)
            }
            (method, ["certificates", rest @ ..]) => certificates::serve(&mut state, method, rest, request),
            (method, ["devices", hub, rest @ ..]) => devices::serve(&mut state, method, hub, rest, request),
            (method, ["est", rest @ ..]) => est::serve(&mut state, method, rest, request),
            ("POST", ["issue"]) => est::issue(&mut state, request),
            ("POST", ["forget"]) => Ok(control::forget(&mut state)),

            ("GET", ["state"]) => Ok((200, self.describe(&state))),
            ("PUT", ["state"]) => control::replace_world(&mut state, body(request)?),
            ("GET", ["log"]) => control::log(&state, request),
            ("DELETE", ["log"]) => Ok(control::clear_log(&mut state)),

            ("GET", ["settings"]) => Ok((200, json!(state.world.settings))),
            ("POST", ["settings"]) => control::settings(&mut state, &body::<Value>(request)?),
            ("GET", ["clock"]) => Ok((200, control::clock(&state))),
            ("POST", ["clock"]) => control::set_clock(&mut state, body(request)?),
            ("GET", ["faults"]) => Ok((200, json!(state.faults.list()))),
            ("POST", ["faults"]) => control::add_faults(&mut state, body(request)?),
            ("DELETE", ["faults"]) => Ok((200, json!({"removed": state.faults.remove(None)}))),
            ("DELETE", ["faults", id]) => control::remove_fault(&mut state, id),

            ("POST", ["accept"]) => self.accept(body(request)?),
            ("POST", ["tls"]) => self.tls(body(request)?),
            (method, _) => {
                Err((404, format!("there is no {method} {}; GET / lists what there is", request.path())))
            }
        }
    }

    fn describe(&self, state: &State) -> Value {
        let mut all = json!(state.world);
        all["clock"] = control::clock(state);
        all["faults"] = json!(state.faults.list());
        all["counters"] = json!(state.counters);
        all["listeners"] = self.doors.iter().map(|door| control::describe(door)).collect();
        all
    }
}

/// The body as `T`; an empty body is an empty object.
fn body<T: DeserializeOwned>(request: &Request) -> Result<T, Refusal> {
    let bytes: &[u8] = if request.body.is_empty() { b"{}" } else { &request.body };
    serde_json::from_slice(bytes).map_err(|err| (400, format!("the body: {err}")))
}

fn method(method: &str, path: &str) -> Refusal {
    (405, format!("{method} is not allowed at {path}; GET / lists what there is"))
}

fn not_found(what: &str, id: &str) -> Refusal {
    (404, format!("there is no {what} {id}"))
}

const ENDPOINTS: &[&str] = &[
    "GET, PUT, DELETE /enrollments[/{registrationId}]",
    "GET, PUT, DELETE /enrollmentGroups[/{enrollmentGroupId}]",
    "GET /enrollmentGroups/{enrollmentGroupId}/keys/{registrationId}",
    "GET, PUT, DELETE /certificates[/{name}]",
    "GET, DELETE /registrations[/{registrationId}]",
    "POST /registrations/{registrationId}/reassign",
    "GET, PUT, DELETE /devices/{hub name or number}[/{deviceId}]",
    "GET, POST, DELETE /devices/{hub}/{deviceId}/modules/{moduleId}",
    "GET /est",
    "GET, DELETE /est/issued",
    "GET, PUT, DELETE /est/labels[/{label}]",
    "POST /issue",
    "POST /forget",
    "GET, PUT /state",
    "GET /log?since={seq}&operation={service.operation}",
    "DELETE /log",
    "GET, POST /settings",
    "GET, POST /clock",
    "GET, POST, DELETE /faults[/{id}]",
    "POST /accept",
    "POST /tls",
];
