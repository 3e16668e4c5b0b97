//! The part of IoT Hub that devices use over HTTP: their modules, and events as a proof of keys.
//!
//! Which token or certificate may do what is decided in `access`, the rules of the registry in `registry`.

mod access;
mod error;
mod registry;

pub(crate) use error::HubError;
pub(crate) use registry::{Authentication, AuthenticationKind, Device, Hub, Module, ModuleSpec, legal};

use crate::{
    answer::Answer,
    call::Call,
    http::{Reply, Request},
    route::Route,
    settings::ErrorStyle,
    trust::anchors,
    world::World,
};
use access::{Identity, Rules, admit};
use serde_json::Value;

/// Answer a request to the hub at position `hub`, with errors in `style`.
pub(crate) fn serve(
    world: &mut World,
    hub: usize,
    style: ErrorStyle,
    call: &Call<'_>,
    route: &Route,
) -> Answer {
    let mut notes = Vec::new();
    match dispatch(world, hub, call, route, &mut notes) {
        Ok(reply) => Answer { reply, refused: None, notes },
        Err(err) => Answer {
            reply: err.reply(style, call.now_ms, &mut world.dice),
            refused: Some(err.message),
            notes,
        },
    }
}

fn dispatch(
    world: &mut World,
    hub: usize,
    call: &Call<'_>,
    route: &Route,
    notes: &mut Vec<String>,
) -> Result<Reply, HubError> {
    let request = call.request;
    check_version(request)?;
    let World { hubs, settings, dice, certificates, .. } = world;
    let settings = &*settings;
    let rules = Rules { settings, anchors: anchors(certificates) };
    let unknown =
        || HubError { status: 404, ..HubError::argument(&format!("there is nothing at {}", request.path())) };
    let hub = hubs.get_mut(hub).ok_or_else(unknown)?;
    let if_match = request.header("if-match");
    match (route, request.method.as_str()) {
        (Route::Modules(device), "GET") => {
            let device = admit(hub, &rules, call, &Identity::Device(device), notes)?;
            let modules: Vec<Value> = device.modules.values().map(Module::to_json).collect();
            Ok(Reply::json(200, &Value::Array(modules)))
        }
        (Route::Module(device, module), "GET") => {
            let device = admit(hub, &rules, call, &Identity::ModuleOf(device, module), notes)?;
            Ok(reply_module(200, device.module(module)?))
        }
        (Route::Module(device, module), "PUT") => {
            let device = admit(hub, &rules, call, &Identity::ModuleOf(device, module), notes)?;
            let (module, new) = device.put(module, spec(request)?, if_match, settings, dice)?;
            Ok(reply_module(if new { settings.put_status } else { 200 }, &module))
        }
        (Route::Module(device, module), "DELETE") => {
            let device = admit(hub, &rules, call, &Identity::ModuleOf(device, module), notes)?;
            device.delete(module, if_match)?;
            Ok(Reply::empty(settings.delete_status))
        }
        (Route::DeviceEvents(device), "POST") => {
            admit(hub, &rules, call, &Identity::Device(device), notes)?;
            Ok(Reply::empty(204))
        }
        (Route::ModuleEvents(device, module), "POST") => {
            admit(hub, &rules, call, &Identity::Module(device, module), notes)?;
            Ok(Reply::empty(204))
        }
        (
            Route::Modules(_) | Route::Module(..) | Route::DeviceEvents(_) | Route::ModuleEvents(..),
            method,
        ) => Err(HubError::method(method)),
        _ => Err(unknown()),
    }
}

fn reply_module(status: u16, module: &Module) -> Reply {
    Reply::json(status, &module.to_json()).with("etag", format!("\"{}\"", module.etag))
}

fn spec(request: &Request) -> Result<ModuleSpec, HubError> {
    serde_json::from_slice(&request.body)
        .map_err(|err| HubError::argument(&format!("the body is no module: {err}")))
}

/// 2017-11-08-preview, or any later date.
fn check_version(request: &Request) -> Result<(), HubError> {
    let version = request.query("api-version");
    let date = version.as_deref().map(|version| version.trim_end_matches("-preview"));
    let shape = |date: &str| date.len() == 10 && date.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    match date {
        Some(date) if shape(date) && date >= "2017-11-08" => Ok(()),
        _ => Err(HubError::version(version.as_deref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_2017_on_are_served() {
        let check = |query: &str| {
            let target = format!("/devices/d/modules{query}");
            check_version(&Request { target, ..Request::default() }).is_ok()
        };
        for good in ["2017-11-08-preview", "2018-06-30", "2021-04-12"] {
            assert!(check(&format!("?api-version={good}")), "{good}");
        }
        for bad in
            ["", "?api-version=", "?api-version=2016-11-14", "?api-version=latest-one", "?api=2021-04-12"]
        {
            assert!(!check(bad), "{bad}");
        }
    }
}
