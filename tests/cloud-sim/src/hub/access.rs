//! Whether a token proves the identity that a hub request needs. Client certificates will stand beside it here.

use super::{Device, Hub, HubError};
use crate::{http::Request, keys::KeyPair, sas::Token, settings::Settings};

/// Whose proof a request needs, and what the token must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Identity<'a> {
    /// The device, for itself.
    Device(&'a str),
    /// The device, for one of its modules.
    ModuleOf(&'a str, &'a str),
    /// The module itself.
    Module(&'a str, &'a str),
}

/// The device concerned, if the request proves the right identity.
pub(super) fn admit<'a>(
    hub: &'a mut Hub,
    rules: &Settings,
    request: &Request,
    who: &Identity<'_>,
    now_ms: i64,
    notes: &mut Vec<String>,
) -> Result<&'a mut Device, HubError> {
    let refuse = |message: String| HubError::unauthorized(&message);
    let (Identity::Device(id) | Identity::ModuleOf(id, _) | Identity::Module(id, _)) = *who;
    let header = request
        .header("authorization")
        .ok_or_else(|| refuse("the request has no Authorization header".into()))?;
    let token = Token::parse(header).map_err(refuse)?;
    let resource = match who {
        Identity::Device(id) => format!("{}/devices/{id}", hub.name),
        Identity::ModuleOf(id, module) | Identity::Module(id, module) => {
            format!("{}/devices/{id}/modules/{module}", hub.name)
        }
    };
    if !token.covers(&resource) {
        return Err(refuse(format!("the token is for {}, which does not cover {resource}", token.sr)));
    }
    check_expiry(&token, rules, now_ms, notes).map_err(refuse)?;
    let device =
        hub.devices.get_mut(id).ok_or_else(|| HubError::device_not_found(id, rules.unknown_device_status))?;
    check_signature(&token, device, who, notes).map_err(refuse)?;
    match device.enabled {
        true => Ok(device),
        false => Err(refuse(format!("the device {id} is disabled"))),
    }
}

fn check_expiry(token: &Token, rules: &Settings, now_ms: i64, notes: &mut Vec<String>) -> Result<(), String> {
    match token.expired_for(now_ms / 1000) {
        Some(secs) if rules.check_expiry && secs > rules.expiry_grace_secs => {
            Err(format!("the token expired {secs} s ago"))
        }
        Some(secs) => {
            notes.push(format!("expired token accepted, {secs} s late"));
            Ok(())
        }
        None => Ok(()),
    }
}

fn check_signature(
    token: &Token,
    device: &Device,
    who: &Identity<'_>,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let device_keys = device.authentication.keys();
    let (whose, keys, others) = match who {
        Identity::Device(_) | Identity::ModuleOf(..) => ("device", device_keys, KeyPair::default()),
        Identity::Module(_, module) => {
            let module = device.modules.get(*module).ok_or_else(|| format!("there is no module {module}"))?;
            ("module", module.authentication.keys(), device_keys)
        }
    };
    match token.signer(&keys) {
        Some(signer) => {
            notes.push(format!("{whose}'s {signer} key"));
            Ok(())
        }
        None if token.signer(&others).is_some() => {
            Err("the token is signed with the device's key, not the module's".into())
        }
        None => Err(format!("the token is signed by no key that the {whose} has")),
    }
}
