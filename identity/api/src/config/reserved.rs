//! Which ids of certd are taken, so that no local identity, which is called there by its own name, gets in their way. Knows
//! neither certd nor what becomes of a refusal.

use super::{Attestation, Config, IdType, ManualCredentials, Source};

impl Config {
    /// Whose certificate has `id` at certd, if it is one that this service keeps or looks for there: no local identity can have that name.
    pub fn owner_of_certificate(&self, id: &str) -> Option<&'static str> {
        let is =
            |other: &str| id.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest == TEMPORARY);
        if self.provisioning.source.identity_cert().is_some_and(is) {
            return Some("the device");
        }
        if self.trust_bundle.as_deref() == Some(id) {
            return Some("those who are trusted");
        }
        let module = id.strip_prefix(MODULE)?;
        let settings = self.module_x509.as_ref()?;
        let names = [Some(module), module.strip_suffix(TEMPORARY)];
        names.into_iter().flatten().any(|name| settings.includes(name)).then_some("a module")
    }

    /// The local principals that get no identity for that reason. One clause each.
    pub(super) fn reserved_names(&self) -> impl Iterator<Item = String> {
        let locals = self.principal.iter().filter(|principal| principal.has(IdType::Local));
        locals.filter_map(|principal| {
            let (name, owner) = (&principal.name, self.owner_of_certificate(&principal.name)?);
            Some(format!(
                "the principal {name:?} gets no local identity: at certd that is the id of the certificate of {owner}"
            ))
        })
    }
}

/// The id of the certificate, and of the key pair, of the module `name`.
pub fn module_certificate(name: &str) -> String {
    format!("{MODULE}{name}")
}

impl Source {
    /// certd's id of the certificate of the device, if it has one.
    pub fn identity_cert(&self) -> Option<&str> {
        match self {
            Self::None => None,
            Self::Manual(manual) => match &manual.authentication {
                ManualCredentials::X509 { identity_cert, .. } => Some(identity_cert),
                ManualCredentials::Sas { .. } => None,
            },
            Self::Dps(dps) => match &dps.attestation {
                Attestation::X509 { identity_cert, .. } => Some(identity_cert),
                Attestation::SymmetricKey { .. } | Attestation::Tpm { .. } => None,
            },
        }
    }
}

/// What the id of a certificate (or key) has at its end while it is about to take the other's place.
const TEMPORARY: &str = "-temp";
/// What the ids of the certificates of modules begin with.
const MODULE: &str = "module-";
