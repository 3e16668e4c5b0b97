//! Where a token is that the configuration names: its slot, and how many sessions it takes. Opens none.

use cryptoki::context::Pkcs11;
use cryptoki::slot::{Limit, Slot, TokenInfo};
use key_api::TokenName;

use super::fault::Fault;

/// The slot with the one token that is called `name`.
pub(super) fn find_slot(library: &Pkcs11, name: &TokenName) -> Result<Slot, Fault> {
    if let TokenName::Slot(number) = name {
        return Slot::try_from(*number).map_err(Fault::said("take the slot-id"));
    }
    let slots = library.get_slots_with_token().map_err(Fault::said("list its slots"))?;
    let mut present = Vec::new();
    for slot in slots {
        match library.get_token_info(slot) {
            Ok(info) if info.token_initialized() => present.push((slot, info)),
            Ok(_) => {}
            Err(error) => tracing::debug!("slot {} is passed over: {error}", slot.id()),
        }
    }
    let matching: Vec<_> = present.iter().filter(|(_, info)| is_called(info, name)).collect();
    match matching.as_slice() {
        [(slot, _)] => Ok(*slot),
        [] => Err(Fault::NoToken { token: name.to_string(), present: listed(&present, TokenInfo::label) }),
        several => {
            let serials = several.iter().map(|(_, info)| info.serial_number().trim_end()).collect::<Vec<_>>();
            Err(Fault::Ambiguous { token: name.to_string(), serials: serials.join(", ") })
        }
    }
}

fn is_called(info: &TokenInfo, name: &TokenName) -> bool {
    let TokenName::Properties { label, serial, manufacturer, model } = name else { return false };
    [
        (label, info.label()),
        (serial, info.serial_number()),
        (manufacturer, info.manufacturer_id()),
        (model, info.model()),
    ]
    .into_iter()
    .all(|(wanted, is)| wanted.as_deref().is_none_or(|wanted| wanted == is.trim()))
}

fn listed(present: &[(Slot, TokenInfo)], property: impl Fn(&TokenInfo) -> &str) -> String {
    match present {
        [] => "none".to_owned(),
        some => some.iter().map(|(_, info)| property(info).trim()).collect::<Vec<_>>().join(", "),
    }
}

/// Sessions that may be open at a time.
pub(super) fn sessions(info: &TokenInfo) -> usize {
    match info.max_rw_session_count() {
        Limit::Max(max) => usize::try_from(max).unwrap_or(MAX_SESSIONS).clamp(1, MAX_SESSIONS),
        Limit::Unavailable | Limit::Infinite => MAX_SESSIONS,
    }
}

/// Threads, each with a session, that a token gets at most.
const MAX_SESSIONS: usize = 4;
