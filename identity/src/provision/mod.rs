//! How the device gets its identity: the decision (this file, from values alone), registration (`dps.rs`), one round of all that
//! (`round.rs`, one at a time: `turn.rs`), and the loop that never gives up (`drive.rs`). Spec identity-service, chapter 8 with its improvements.

mod dps;
mod drive;
mod info;
#[cfg(test)]
mod offline;
mod round;
mod turn;

use identity_api::config::{Attestation, Dps, Manual, ManualCredentials, Provisioning, Source};
use tokio::time::Instant;

use crate::backup::Record;

pub(crate) use dps::register;
pub(crate) use info::info;
pub(crate) use round::{REGISTER_LIMIT, at};
pub(crate) use turn::Turn;

/// Why the loop looks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The configuration has changed.
    Config,
    /// The hub may not know this device any more.
    Doubt,
    /// The modules need new keys at the hub.
    Keys,
    /// Somebody else had brought everything in line then.
    Settled(Instant),
    /// Somebody else had tried and failed then.
    Failed(Instant),
}

/// How the device gets its identity.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Not at all.
    Off,
    /// It is this one.
    Use(Record),
    /// From DPS.
    Register {
        /// Who it is until then: what the same source said under other settings.
        meanwhile: Option<Record>,
    },
}

/// What to do with these settings, when `known` was obtained with settings of the digest beside it.
///
/// What upstream obtained has no digest and is believed.
pub(crate) fn decide(provisioning: &Provisioning, known: Option<(&Record, Option<&str>)>) -> Decision {
    match (&provisioning.source, known) {
        (Source::None, _) => Decision::Off,
        (Source::Manual(Manual { iothub_hostname, device_id, authentication: _ }), _) => {
            let gateway = provisioning.local_gateway_hostname.as_ref().unwrap_or(iothub_hostname);
            Decision::Use(Record {
                hub: iothub_hostname.clone(),
                gateway: gateway.clone(),
                device_id: device_id.clone(),
            })
        }
        (Source::Dps(_), Some((record, None))) => Decision::Use(record.clone()),
        (Source::Dps(_), Some((record, Some(with)))) if with == digest(provisioning) => {
            Decision::Use(record.clone())
        }
        (Source::Dps(_), known) => {
            let same_source = known.filter(|(_, with)| with.is_some_and(|with| with.starts_with(DPS)));
            Decision::Register { meanwhile: same_source.map(|(record, _)| record.clone()) }
        }
    }
}

/// Tells settings apart that lead to different identities: source, endpoint, scope, registration id, attestation; hub,
/// device and credentials. Begins with the source.
pub(crate) fn digest(provisioning: &Provisioning) -> String {
    let (source, parts) = match &provisioning.source {
        Source::None => (NONE, vec![]),
        Source::Manual(Manual { iothub_hostname, device_id, authentication }) => {
            let method = match authentication {
                ManualCredentials::Sas { .. } => "sas",
                ManualCredentials::X509 { .. } => "x509",
            };
            (MANUAL, vec![iothub_hostname.as_str(), device_id, method])
        }
        Source::Dps(Dps { global_endpoint, scope_id, payload: _, attestation }) => {
            let (method, id) = match attestation {
                Attestation::SymmetricKey { registration_id, .. } => {
                    ("symmetric_key", registration_id.as_str())
                }
                Attestation::X509 { registration_id, .. } => {
                    ("x509", registration_id.as_ref().map_or("", |subject| subject.common_name()))
                }
                Attestation::Tpm { registration_id } => ("tpm", registration_id.as_str()),
            };
            (DPS, vec![global_endpoint.as_str(), scope_id, method, id])
        }
    };
    let mut hash = openssl::sha::Sha256::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let hex: String = hash.finish().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{source}{hex}")
}

const NONE: &str = "none:";
const MANUAL: &str = "manual:";
const DPS: &str = "dps:";

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Provisioning {
        toml::from_str(text).unwrap()
    }

    fn dps(changes: &[(&str, &str)]) -> Provisioning {
        let text = "source = 'dps'\nglobal_endpoint = 'https://e'\nscope_id = 's'\n\
            attestation = { method = 'symmetric_key', registration_id = 'r', symmetric_key = 'k' }";
        settings(&changes.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to)))
    }

    fn manual(more: &str) -> Provisioning {
        settings(&format!(
            "source = 'manual'\niothub_hostname = 'h'\ndevice_id = 'd'\n\
             authentication = {{ method = 'sas', device_id_pk = 'k' }}\n{more}"
        ))
    }

    fn record(hub: &str, gateway: &str) -> Record {
        Record { hub: hub.into(), gateway: gateway.into(), device_id: "d".into() }
    }

    #[test]
    fn manual_settings_are_the_record() {
        let other = record("other", "other");
        for known in [None, Some((&other, None)), Some((&other, Some("dps:1")))] {
            assert_eq!(decide(&manual(""), known), Decision::Use(record("h", "h")));
            assert_eq!(
                decide(&manual("local_gateway_hostname = 'g'"), known),
                Decision::Use(record("h", "g"))
            );
            assert_eq!(decide(&settings("source = 'none'"), known), Decision::Off);
        }
    }

    #[test]
    fn a_record_is_used_for_the_settings_it_was_obtained_with() {
        let known = record("h", "h");
        let same = digest(&dps(&[]));
        let other = digest(&dps(&[("'s'", "'s2'")]));
        let of_manual = digest(&manual(""));
        let check = |with: Option<&str>, expected| {
            assert_eq!(decide(&dps(&[]), Some((&known, with))), expected, "{with:?}");
        };
        check(None, Decision::Use(known.clone()));
        check(Some(&same), Decision::Use(known.clone()));
        check(Some(&other), Decision::Register { meanwhile: Some(known.clone()) });
        check(Some(&of_manual), Decision::Register { meanwhile: None });
        assert_eq!(decide(&dps(&[]), None), Decision::Register { meanwhile: None });
    }

    #[test]
    fn digests_tell_settings_apart() {
        let base = digest(&dps(&[]));
        let others: [&[(&str, &str)]; 5] = [
            &[("'https://e'", "'https://f'")],
            &[("'s'", "'t'")],
            &[("'r'", "'q'")],
            &[("'s'", "'sr'"), ("'r'", "''")],
            &[(
                "method = 'symmetric_key', registration_id = 'r', symmetric_key = 'k'",
                "method = 'tpm', registration_id = 'r'",
            )],
        ];
        for changes in others {
            assert_ne!(digest(&dps(changes)), base, "{changes:?}");
        }
        let same: [&[(&str, &str)]; 2] = [&[("'https://e'", "'https://e/'")], &[("'k'", "'k2'")]];
        for changes in same {
            assert_eq!(digest(&dps(changes)), base, "{changes:?}");
        }
        assert_eq!(digest(&manual("")), digest(&manual("local_gateway_hostname = 'g'")));
    }
}
