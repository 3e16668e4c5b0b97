//! Requests and replies of the Certificates Service (spec certificates-service, chapter 5). Field names are wire names.
//! Certificates and requests are PEM text itself, not base64 of it. Knows nothing of X.509.

use key_api::KeyHandle;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Issue a certificate for a certificate signing request and keep it under an id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CreateCertificate {
    /// The id that the certificate gets; it also chooses the method in the service's configuration.
    pub cert_id: String,
    /// PKCS #10 in PEM.
    pub csr: String,
    /// Who issues; absent to issue as configured.
    #[serde(default)]
    pub issuer: Option<Issuer>,
}

/// An issuer that the caller may use, since it holds a handle of its key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issuer {
    /// The id of the issuer's certificate.
    pub cert_id: String,
    /// keyd's handle of the issuer's key pair.
    pub private_key_handle: KeyHandle,
}

/// Get a certificate. Anybody may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GetCertificate {
    /// Its id.
    pub cert_id: String,
}

/// Keep a certificate under an id, instead of what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImportCertificate {
    /// The id.
    pub cert_id: String,
    /// PEM, the leaf first if there are several certificates. Kept as it is.
    pub pem: String,
}

/// Delete a certificate. It is no error if there is none any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeleteCertificate {
    /// Its id.
    pub cert_id: String,
}

/// A certificate with what leads to its root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CertificateReply {
    /// PEM, the leaf first.
    pub pem: String,
}
