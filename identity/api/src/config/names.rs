//! What those who will read the names of a configuration make of them: DPS, a hub, X.509 and DNS (spec identity-service, 7.6;
//! cloud-protocols, 7.5; users-ask 44). Upstream looks at none of them, so that all this is doubt and no error: the service
//! that knows better has the last word.

use super::{Attestation, Config, IdType, Manual, ManualCredentials, Source};

impl Config {
    /// The names that will not do. One clause each.
    pub(super) fn doubtful_names(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        match &self.provisioning.source {
            Source::None => {}
            Source::Manual(manual) => doubts.extend(of_device(manual)),
            Source::Dps(dps) => {
                if let Some(odd) = dps.scope_id.chars().find(|c| !c.is_ascii_alphanumeric()) {
                    doubts
                        .push(format!("provisioning.scope_id has {odd:?}, and has to be letters and digits"));
                }
                doubts.extend(of_registration(&dps.attestation));
            }
        }
        doubts.extend(self.of_locals());
        doubts
    }

    fn of_locals(&self) -> Vec<String> {
        let Some(settings) = &self.localid else { return Vec::new() };
        let parts = [("hostname", &self.hostname), ("localid.domain", &settings.domain)];
        let odd = parts.into_iter().filter(|(_, value)| !is_dns_name(value)).map(|(key, value)| {
            format!("{key} {value:?} is no DNS name, so that certificates of local identities have no alternative name")
        });
        let locals = self.principal.iter().filter(|principal| principal.has(IdType::Local));
        let long = locals.filter_map(|principal| {
            let name = format!("{}.{}.{}", principal.name, self.hostname, settings.domain);
            (name.len() > LONGEST_COMMON_NAME).then(|| {
                format!(
                    "{name:?} is longer than a common name can be: in the subject of the certificate of the local identity it is cut after {LONGEST_COMMON_NAME} bytes"
                )
            })
        });
        odd.chain(long).collect()
    }
}

fn of_device(manual: &Manual) -> Vec<String> {
    let Manual { iothub_hostname: _, device_id, authentication } = manual;
    let mut doubts = Vec::new();
    if let Some(why) = why_no_hub_name(device_id) {
        doubts.push(format!(
            "provisioning.device_id {why}: it cannot be the name of a device at a hub, which has 1 to {LONGEST_NAME} letters, digits and {HUB_CHARACTERS}"
        ));
    }
    if let ManualCredentials::X509 { .. } = authentication {
        doubts.extend(too_long_for_certificate("provisioning.device_id", device_id, "the hub"));
    }
    doubts
}

fn of_registration(attestation: &Attestation) -> Vec<String> {
    let (id, is_certified) = match attestation {
        Attestation::SymmetricKey { registration_id, .. } | Attestation::Tpm { registration_id } => {
            (registration_id.as_str(), false)
        }
        Attestation::X509 { registration_id: Some(subject), .. } => (subject.common_name(), true),
        Attestation::X509 { registration_id: None, .. } => return Vec::new(),
    };
    let key = "provisioning.attestation.registration_id";
    let mut doubts = Vec::new();
    if let Some(why) = why_no_registration_id(id) {
        doubts.push(format!(
            "{key} {why}: it is none for DPS, which takes 1 to {LONGEST_NAME} letters, digits and - . _ : and no sign first or last"
        ));
    }
    if is_certified {
        doubts.extend(too_long_for_certificate(key, id, "DPS"));
    }
    doubts
}

fn too_long_for_certificate(key: &str, id: &str, judge: &str) -> Option<String> {
    (id.len() > LONGEST_COMMON_NAME).then(|| {
        format!(
            "{key} is longer than a common name can be: a certificate that is made for it has {LONGEST_COMMON_NAME} bytes of it, by which {judge} does not know the device"
        )
    })
}

fn why_no_hub_name(id: &str) -> Option<String> {
    let is_dots = || id.bytes().all(|byte| byte == b'.').then(|| "has nothing but dots".to_owned());
    why_no_name(id, HUB_CHARACTERS).or_else(is_dots)
}

fn why_no_registration_id(id: &str) -> Option<String> {
    let is_sign = |c: char| !c.is_ascii_alphanumeric();
    let ends = || {
        (id.starts_with(is_sign) || id.ends_with(is_sign)).then(|| "begins or ends with a sign".to_owned())
    };
    why_no_name(id, "-._:").or_else(ends)
}

/// What is wrong with a name, if anything is. Does not repeat it: it may be a connection string or a key in a wrong place.
fn why_no_name(id: &str, signs: &str) -> Option<String> {
    match id.chars().find(|c| !c.is_ascii_alphanumeric() && !signs.contains(*c)) {
        Some(odd) => Some(format!("has {odd:?}")),
        None if !(1..=LONGEST_NAME).contains(&id.len()) => Some(format!("has {} characters", id.len())),
        None => None,
    }
}

/// Labels of letters, digits, `-` and `_` (which hosts in the field have), joined by dots.
fn is_dns_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    name.split('.').all(label)
}

/// What a device's name has besides letters and digits.
const HUB_CHARACTERS: &str = "-.+%_#*?!(),:=@$'";
/// Characters of the name of a device, and of a registration id.
const LONGEST_NAME: usize = 128;
/// Bytes that X.509 (RFC 5280, appendix A.1) has room for.
const LONGEST_COMMON_NAME: usize = 64;
