//! Whether a request proves the identity that it needs: by a token, or by the certificate shown in the handshake.
//!
//! Which of the two an identity needs is the registry's to say.

use super::{Authentication, AuthenticationKind, Device, Hub, HubError};
use crate::{
    call::Call,
    certificate::{Certificate, ClientCertificate},
    keys::KeyPair,
    sas::Token,
    settings::Settings,
};

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

/// By which rules a hub believes.
#[derive(Debug, Clone)]
pub(super) struct Rules<'a> {
    /// How strict it is.
    pub(super) settings: &'a Settings,
    /// The CAs that it trusts.
    pub(super) anchors: Vec<&'a Certificate>,
}

/// The device concerned, if the request proves the right identity.
pub(super) fn admit<'a>(
    hub: &'a mut Hub,
    rules: &Rules<'_>,
    call: &Call<'_>,
    who: &Identity<'_>,
    notes: &mut Vec<String>,
) -> Result<&'a mut Device, HubError> {
    let refuse = |message: String| HubError::unauthorized(&message);
    let id = who.device();
    let header = call.request.header("authorization");
    let needs_certificate = match who.authentication(hub) {
        Some(authentication) => authentication.kind.needs_certificate(),
        None => header.is_none() && call.certificate.is_some(),
    };
    let token = match needs_certificate {
        true => None,
        false => Some(check_token(hub, rules, call, who, notes).map_err(refuse)?),
    };
    let unknown = || HubError::device_not_found(id, rules.settings.unknown_device_status);
    let device = hub.devices.get_mut(id).ok_or_else(unknown)?;
    match token {
        Some(token) => check_signature(&token, device, who, notes),
        None => check_certificate(device, rules, call, who, notes),
    }
    .map_err(refuse)?;
    match device.enabled {
        true => Ok(device),
        false => Err(refuse(format!("the device {id} is disabled"))),
    }
}

impl<'a> Identity<'a> {
    fn device(&self) -> &'a str {
        let (Identity::Device(id) | Identity::ModuleOf(id, _) | Identity::Module(id, _)) = *self;
        id
    }

    /// What the identity that must prove itself is to prove itself with, if there is such an identity.
    fn authentication<'b>(&self, hub: &'b Hub) -> Option<&'b Authentication> {
        let device = hub.devices.get(self.device())?;
        match self {
            Identity::Device(_) | Identity::ModuleOf(..) => Some(&device.authentication),
            Identity::Module(_, module) => Some(&device.modules.get(*module)?.authentication),
        }
    }

    /// The common name of its certificate, if that is issued by a CA.
    fn common_name(&self) -> String {
        match self {
            Identity::Device(id) | Identity::ModuleOf(id, _) => (*id).to_owned(),
            Identity::Module(id, module) => format!("{id}/{module}"),
        }
    }
}

impl AuthenticationKind {
    fn needs_certificate(self) -> bool {
        match self {
            AuthenticationKind::X509
            | AuthenticationKind::SelfSigned
            | AuthenticationKind::CertificateAuthority => true,
            AuthenticationKind::None | AuthenticationKind::Sas => false,
        }
    }
}

/// A token that says the right things; who signed it is another matter.
fn check_token(
    hub: &Hub,
    rules: &Rules<'_>,
    call: &Call<'_>,
    who: &Identity<'_>,
    notes: &mut Vec<String>,
) -> Result<Token, String> {
    let header = call.request.header("authorization").ok_or("the request has no Authorization header")?;
    let token = Token::parse(header)?;
    let resource = match who {
        Identity::Device(id) => format!("{}/devices/{id}", hub.name),
        Identity::ModuleOf(id, module) | Identity::Module(id, module) => {
            format!("{}/devices/{id}/modules/{module}", hub.name)
        }
    };
    if !token.covers(&resource) {
        return Err(format!("the token is for {}, which does not cover {resource}", token.sr));
    }
    match token.expired_for(call.now_ms / 1000) {
        Some(secs) if rules.settings.check_expiry && secs > rules.settings.expiry_grace_secs => {
            return Err(format!("the token expired {secs} s ago"));
        }
        Some(secs) => notes.push(format!("expired token accepted, {secs} s late")),
        None => {}
    }
    Ok(token)
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

fn check_certificate(
    device: &Device,
    rules: &Rules<'_>,
    call: &Call<'_>,
    who: &Identity<'_>,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let (whose, authentication) = match who {
        Identity::Device(_) | Identity::ModuleOf(..) => ("device", &device.authentication),
        Identity::Module(_, module) => match device.modules.get(*module) {
            Some(module) => ("module", &module.authentication),
            None => return Err(format!("there is no module {module}")),
        },
    };
    let shown = call.certificate.ok_or("the client has shown no certificate")?;
    if call.request.header("authorization").is_some() {
        notes.push("the Authorization header is not needed".to_owned());
    }
    if rules.settings.check_validity {
        shown.check_time(call.now_ms)?;
    }
    let by = match authentication.kind {
        AuthenticationKind::CertificateAuthority => by_issuer(shown, rules, call, &who.common_name())?,
        _ => by_thumbprint(shown, authentication, whose)?,
    };
    notes.push(format!("{whose}'s certificate, {by}"));
    Ok(())
}

fn by_thumbprint(
    shown: &ClientCertificate,
    authentication: &Authentication,
    whose: &str,
) -> Result<String, String> {
    let mut named = authentication.thumbprints().into_iter();
    let found = named.find(|(_, thumbprint)| shown.has_thumbprint(thumbprint));
    let none = || format!("the client certificate has no thumbprint that the {whose} has");
    found.map(|(name, _)| format!("{name} thumbprint")).ok_or_else(none)
}

fn by_issuer(
    shown: &ClientCertificate,
    rules: &Rules<'_>,
    call: &Call<'_>,
    wanted: &str,
) -> Result<String, String> {
    let name = shown.common_name();
    if name != wanted {
        return Err(format!("the client certificate is for {name}, not for {wanted}"));
    }
    let anchor = shown.anchor(&rules.anchors, call.now_ms)?;
    Ok(format!("issued by {}", crate::certificate::common_name(&anchor.0)))
}
