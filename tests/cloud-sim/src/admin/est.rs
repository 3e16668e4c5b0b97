//! The EST server and its CA over the admin interface; and certificates for devices that do not ask for theirs.

use super::{Answered, Refusal, body, method, not_found};
use crate::{
    certificate::Certificate,
    cloud::State,
    est::{Csr, DEFAULT_LABEL, Label, Made},
    http::Request,
};
use openssl::{error::ErrorStack, x509::X509Req};
use serde::Deserialize;
use serde_json::{Value, json};

/// `POST /issue`
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Order {
    common_name: Option<String>,
    csr: Option<String>,
    validity_secs: u32,
    /// From now; negative for the past.
    from_secs: i64,
    ca: bool,
    self_signed: bool,
}

impl Default for Order {
    fn default() -> Order {
        let (validity_secs, from_secs) = (90 * 86_400, -60);
        Order { common_name: None, csr: None, validity_secs, from_secs, ca: false, self_signed: false }
    }
}

/// `/est[/labels[/{label}]]`, `/est/issued`
pub(super) fn serve(state: &mut State, verb: &str, path: &[&str], request: &Request) -> Answered {
    let [issuer, root] = state.issuing.certificates().map(Certificate::pem);
    let est = &mut state.world.est;
    match (verb, path) {
        ("GET", []) => Ok((
            200,
            json!({"root": root, "issuer": issuer, "labels": est.labels, "issued": est.issued, "pending": est.pending}),
        )),
        ("GET", ["issued"]) => Ok((200, json!(est.issued))),
        ("DELETE", ["issued"]) => {
            est.issued.clear();
            est.pending.clear();
            Ok((204, Value::Null))
        }
        ("GET", ["labels"]) => Ok((200, json!(est.labels))),
        ("GET", ["labels", label]) => match est.labels.get(*label) {
            Some(it) => Ok((200, json!(it))),
            None => Err(not_found("label", label)),
        },
        ("PUT", ["labels", label]) => {
            let manners: Label = body(request)?;
            est.labels.insert((*label).to_owned(), manners.clone());
            Ok((200, json!(manners)))
        }
        ("DELETE", ["labels", label]) if *label == DEFAULT_LABEL => {
            Err((400, "the default label stays; an empty PUT resets it".to_owned()))
        }
        ("DELETE", ["labels", label]) => match est.labels.remove(*label) {
            Some(_) => Ok((204, Value::Null)),
            None => Err(not_found("label", label)),
        },
        _ => Err(method(verb, request.path())),
    }
}

/// A certificate of the EST server's CA, or a self-signed one, for the asking.
pub(super) fn issue(state: &mut State, request: &Request) -> Answered {
    let order: Order = body(request)?;
    let from = state.clock.now_ms().div_euclid(1000).saturating_add(order.from_secs);
    let valid = (from, from.saturating_add(i64::from(order.validity_secs)));
    let failed = |err: ErrorStack| (400, err.to_string());
    let dice = &mut state.world.dice;
    let (certificate, key) = match (&order.common_name, &order.csr) {
        (Some(common_name), None) => {
            let made = Made { common_name, valid, ca: order.ca, self_signed: order.self_signed };
            let (certificate, key) = state.issuing.make(&made, dice).map_err(failed)?;
            (certificate, Some(key.private_key_to_pem_pkcs8().map_err(failed)?))
        }
        (None, Some(csr)) => {
            let csr = X509Req::from_pem(csr.as_bytes()).map_err(failed)?;
            let csr = Csr::proven(csr).map_err(|err| (400, err))?;
            (state.issuing.grant(&csr, valid, None, dice).map_err(failed)?, None)
        }
        _ => return Err::<_, Refusal>((400, "the body has common_name or csr".to_owned())),
    };
    let mut chain = certificate.pem();
    if !order.self_signed {
        chain += &state.issuing.certificates()[0].pem();
    }
    let key = key.map(|pem| String::from_utf8_lossy(&pem).into_owned());
    Ok((
        201,
        json!({"certificate": certificate.pem(), "chain": chain, "private_key": key, "info": certificate.info()}),
    ))
}
