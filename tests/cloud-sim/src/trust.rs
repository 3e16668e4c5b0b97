//! The CA certificates that an operator has uploaded: for CA references of DPS, for hubs, and for EST.

use crate::certificate::Certificate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A CA certificate, in the shape of the service API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CaCertificate {
    /// The certificate.
    pub(crate) certificate: Certificate,
    /// Whether its owner has proven to have its key; else it is not trusted.
    #[serde(default = "verified")]
    pub(crate) is_verified: bool,
}

/// CA certificates by name.
pub(crate) type CaCertificates = BTreeMap<String, CaCertificate>;

/// Those that are verified.
#[must_use]
pub(crate) fn anchors(certificates: &CaCertificates) -> Vec<&Certificate> {
    certificates.values().filter(|it| it.is_verified).map(|it| &it.certificate).collect()
}

fn verified() -> bool {
    true
}
