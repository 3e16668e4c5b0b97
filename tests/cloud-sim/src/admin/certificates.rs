//! CA certificates over the admin interface: what an operator uploads for DPS, hubs and EST.

use super::{Answered, body, method, not_found};
use crate::{cloud::State, http::Request, trust::CaCertificate};
use serde_json::{Value, json};

/// `/certificates[/{name}]`
pub(super) fn serve(state: &mut State, verb: &str, path: &[&str], request: &Request) -> Answered {
    let certificates = &mut state.world.certificates;
    match (verb, path) {
        ("GET", []) => Ok((200, certificates.iter().map(|(name, it)| show(name, it)).collect())),
        ("GET", [name]) => match certificates.get(*name) {
            Some(it) => Ok((200, show(name, it))),
            None => Err(not_found("CA certificate", name)),
        },
        ("PUT", [name]) => {
            let certificate: CaCertificate = body(request)?;
            let shown = show(name, &certificate);
            certificates.insert((*name).to_owned(), certificate);
            Ok((200, shown))
        }
        ("DELETE", [name]) => match certificates.remove(*name) {
            Some(_) => Ok((204, Value::Null)),
            None => Err(not_found("CA certificate", name)),
        },
        _ => Err(method(verb, request.path())),
    }
}

fn show(name: &str, it: &CaCertificate) -> Value {
    json!({"name": name, "certificate": it.certificate, "isVerified": it.is_verified, "info": it.certificate.info()})
}
