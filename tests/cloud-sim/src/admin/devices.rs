//! Device and module identities over the admin interface: what an operator does in the portal.

use super::{Answered, Refusal, body, method, not_found};
use crate::{
    cloud::State,
    dice::Dice,
    http::Request,
    hub::{Authentication, AuthenticationKind, Device, Hub, Module, ModuleSpec, legal},
    keys::{Key, KeyPair},
};
use serde::Deserialize;
use serde_json::{Value, json};

/// What a device is to be; keys are generated when absent.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct DeviceSpec {
    primary_key: Option<Key>,
    secondary_key: Option<Key>,
    enabled: bool,
    iot_edge: bool,
    /// Instead of keys.
    authentication: Option<Authentication>,
}

impl Default for DeviceSpec {
    fn default() -> DeviceSpec {
        DeviceSpec {
            primary_key: None,
            secondary_key: None,
            enabled: true,
            iot_edge: false,
            authentication: None,
        }
    }
}

/// What a module is to be; keys are generated when absent.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Seed {
    managed_by: Option<String>,
    authentication: Option<Authentication>,
}

/// `/devices/{hub}[/{deviceId}[/modules/{moduleId}]]`
pub(super) fn serve(state: &mut State, verb: &str, hub: &str, path: &[&str], request: &Request) -> Answered {
    let at = position(state, hub)?;
    let world = &mut state.world;
    let (hub, dice) = (&mut world.hubs[at], &mut world.dice);
    match (verb, path) {
        ("GET", []) => Ok((200, hub.devices.values().map(|device| show(hub, device)).collect())),
        (_, [device, "modules", module]) => {
            let device = hub.devices.get_mut(*device).ok_or_else(|| not_found("device", device))?;
            serve_module(device, verb, module, dice, request)
        }
        ("GET", [id]) => {
            let device = hub.devices.get(*id).ok_or_else(|| not_found("device", id))?;
            Ok((200, show(hub, device)))
        }
        ("PUT", [id]) if !legal(id) => Err((400, format!("{id} is no device id"))),
        ("PUT", [id]) => {
            put(hub, id, body(request)?, dice)?;
            hub.devices.get(*id).map(|device| (200, show(hub, device))).ok_or_else(|| not_found("device", id))
        }
        ("DELETE", [id]) => match hub.devices.remove(*id) {
            Some(_) => Ok((204, Value::Null)),
            None => Err(not_found("device", id)),
        },
        _ => Err(method(verb, request.path())),
    }
}

fn serve_module(device: &mut Device, verb: &str, id: &str, dice: &mut Dice, request: &Request) -> Answered {
    match verb {
        "GET" => device.modules.get(id).map(|it| (200, it.to_json())).ok_or_else(|| not_found("module", id)),
        "POST" if !legal(id) => Err((400, format!("{id} is no module id"))),
        "POST" => {
            let Seed { managed_by, authentication } = body(request)?;
            let spec = ModuleSpec { managed_by, authentication, ..ModuleSpec::default() };
            Ok((201, Module::to_json(&device.insert(id, spec, dice))))
        }
        "DELETE" => match device.modules.remove(id) {
            Some(_) => Ok((204, Value::Null)),
            None => Err(not_found("module", id)),
        },
        _ => Err(method(verb, request.path())),
    }
}

/// Create the device, or give the existing one other keys; its modules and generation id stay.
fn put(hub: &mut Hub, id: &str, spec: DeviceSpec, dice: &mut Dice) -> Result<(), Refusal> {
    let DeviceSpec { primary_key, secondary_key, enabled, iot_edge, authentication } = spec;
    let old = hub.devices.get(id).map(|device| device.authentication.keys()).unwrap_or_default();
    let keys = KeyPair {
        primary_key: primary_key.or(old.primary_key),
        secondary_key: secondary_key.or(old.secondary_key),
    };
    let authentication = match authentication {
        Some(other) => other.or_generate(dice),
        None => Authentication::sas(keys.or_generate(|| dice.key())),
    };
    authentication.check().map_err(|err| (400, err.message))?;
    let new = || Device::new(id, authentication.clone(), iot_edge, dice);
    let device = hub.devices.entry(id.to_owned()).or_insert_with(new);
    device.authentication = authentication;
    device.enabled = enabled;
    Ok(())
}

fn show(hub: &Hub, device: &Device) -> Value {
    let mut shown = json!(device);
    let keys = device.authentication.keys();
    let secret = match (device.authentication.kind, keys.primary_key) {
        (AuthenticationKind::Sas, Some(key)) => format!("SharedAccessKey={}", key.to_base64()),
        (AuthenticationKind::Sas | AuthenticationKind::None, _) => return shown,
        _ => "x509=true".to_owned(),
    };
    shown["connectionString"] =
        format!("HostName={};DeviceId={};{secret}", hub.name, device.device_id).into();
    shown
}

/// A hub by its name or its number.
fn position(state: &State, hub: &str) -> Result<usize, Refusal> {
    let hubs = &state.world.hubs;
    let number = hub.parse().ok().filter(|number| *number < hubs.len());
    let named = || hubs.iter().position(|it| it.name.eq_ignore_ascii_case(hub));
    number
        .or_else(named)
        .ok_or_else(|| (404, format!("there is no hub {hub}; there are {:?}", state.world.hub_names())))
}
