//! Conditions over the admin interface: settings, clock, faults, listeners, log, whole states.

use super::{Admin, Answered, Refusal, not_found};
use crate::{
    clock::{Clock, iso},
    cloud::State,
    fault::Rule,
    http::Request,
    listener::{Door, Gate},
    log::Counters,
    tls::{TlsMode, acceptor},
    world::World,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// `POST /accept`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AcceptOrder {
    listener: Option<String>,
    #[serde(default)]
    refuse: bool,
    #[serde(default)]
    delay_ms: u64,
}

/// `POST /tls`
#[derive(Debug, Deserialize)]
pub(super) struct TlsOrder {
    listener: Option<String>,
    #[serde(flatten)]
    mode: serde_json::Map<String, Value>,
}

/// One rule, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Rules {
    Many(Vec<Value>),
    One(Value),
}

impl Admin {
    /// Refuse connections, or delay them, or neither.
    pub(super) fn accept(&self, order: AcceptOrder) -> Answered {
        let AcceptOrder { listener, refuse, delay_ms } = order;
        let doors = self.doors_named(listener.as_deref())?;
        for door in &doors {
            door.gate.send_replace(Gate { refuse, delay_ms });
        }
        Ok((200, doors.iter().map(|door| describe(door)).collect()))
    }

    /// Show another certificate, speak another version, or abort handshakes, from the next connection on.
    pub(super) fn tls(&self, order: TlsOrder) -> Answered {
        let mode: TlsMode = serde_json::from_value(Value::Object(order.mode))
            .map_err(|err| (400, format!("the body: {err}")))?;
        let doors = self.doors_named(order.listener.as_deref())?;
        for door in &doors {
            let acceptor =
                acceptor(&self.authority, &self.hosts, &mode).map_err(|err| (500, err.to_string()))?;
            door.set_tls(mode.clone(), acceptor);
        }
        Ok((200, doors.iter().map(|door| describe(door)).collect()))
    }

    fn doors_named(&self, name: Option<&str>) -> Result<Vec<&Arc<Door>>, Refusal> {
        let doors: Vec<&Arc<Door>> =
            self.doors.iter().filter(|door| name.is_none_or(|name| name == door.name)).collect();
        match doors.is_empty() {
            true => Err(not_found("listener", name.unwrap_or_default())),
            false => Ok(doors),
        }
    }
}

/// A listener with its conditions.
pub(super) fn describe(door: &Door) -> Value {
    json!({"name": door.name, "port": door.port, "accept": *door.gate.borrow(), "tls": door.tls_mode()})
}

/// Drop registrations, devices and modules; enrolments stay.
pub(super) fn forget(state: &mut State) -> (u16, Value) {
    let world = &mut state.world;
    world.registrations.clear();
    world.reassignments.clear();
    world.operations.clear();
    world.hubs.iter_mut().for_each(|hub| hub.devices.clear());
    (204, Value::Null)
}

/// Take up a state as `GET /state` gave it, perhaps in another run with other ports.
pub(super) fn replace_world(state: &mut State, mut text: Value) -> Answered {
    if let Some(members) = text.as_object_mut() {
        ["clock", "faults", "counters", "listeners"].into_iter().for_each(|name| drop(members.remove(name)));
        members.entry("scope").or_insert_with(|| state.world.scope.clone().into());
    }
    let world: World = serde_json::from_value(text).map_err(|err| (400, format!("the state: {err}")))?;
    state.world = world.renamed(&state.world.hub_names());
    Ok((204, Value::Null))
}

/// Entries after `since`, of one operation if asked for.
pub(super) fn log(state: &State, request: &Request) -> Answered {
    let since = request.query("since").unwrap_or_default();
    let since = match since.as_str() {
        "" => 0,
        text => text.parse().map_err(|_| (400, format!("since is a number, not {text}")))?,
    };
    let operation = request.query("operation");
    let entries: Vec<_> = state.log.after(since, operation.as_deref()).collect();
    Ok((200, json!({"entries": entries, "last": state.log.last()})))
}

/// Forget the log and start counting again.
pub(super) fn clear_log(state: &mut State) -> (u16, Value) {
    state.log.clear();
    // Connections keep their numbers, open ones stay open, and what is under way stays so.
    let Counters { connections, open_connections, requests_under_way, .. } = state.counters;
    let most_under_way = requests_under_way;
    state.counters =
        Counters { connections, open_connections, requests_under_way, most_under_way, ..Counters::default() };
    (204, Value::Null)
}

/// Change the members given.
pub(super) fn settings(state: &mut State, changes: &Value) -> Answered {
    let merged = state.world.settings.merged(changes).map_err(|err| (400, err))?;
    state.world.settings = merged.clone();
    Ok((200, json!(merged)))
}

/// The clock and what it shows.
pub(super) fn clock(state: &State) -> Value {
    let now_ms = state.clock.now_ms();
    json!({
        "offset_secs": state.clock.offset_secs, "frozen_at": state.clock.frozen_at,
        "now": iso(now_ms), "now_secs": now_ms / 1000,
    })
}

/// Set the clock; what is not given is reset.
pub(super) fn set_clock(state: &mut State, clock: Clock) -> Answered {
    state.clock = clock;
    Ok((200, self::clock(state)))
}

/// Add one rule or several; all or none.
pub(super) fn add_faults(state: &mut State, rules: Rules) -> Answered {
    let parse =
        |rule: Value| serde_json::from_value::<Rule>(rule).map_err(|err| (400, format!("the rule: {err}")));
    let (texts, one) = match rules {
        Rules::One(rule) => (vec![rule], true),
        Rules::Many(rules) => (rules, false),
    };
    let rules = texts.into_iter().map(parse).collect::<Result<Vec<Rule>, Refusal>>()?;
    let mut faults = state.faults.clone();
    let added = rules.into_iter().map(|rule| faults.add(rule)).collect::<Result<Vec<Rule>, String>>();
    let added = added.map_err(|err| (400, err))?;
    state.faults = faults;
    Ok((201, if one { json!(added.first()) } else { json!(added) }))
}

/// Remove one rule.
pub(super) fn remove_fault(state: &mut State, id: &str) -> Answered {
    let number = id.parse().map_err(|_| (400, format!("{id} is no rule's number")))?;
    match state.faults.remove(Some(number)) {
        0 => Err(not_found("rule", id)),
        _ => Ok((204, Value::Null)),
    }
}
