//! The contract of the Certificates Service: its endpoints, its requests and replies, its configuration file. Types
//! only: no I/O, no X.509.
//!
//! The table below *is* the list of routes, the client and the OpenAPI document (spec certificates-service, chapters 2
//! and 5).

mod config;
mod types;

pub use config::{
    Anything, Config, EstAuthentication, EstIdentity, EstOptions, Issuance, IssuanceOptions, LocalCa, Method,
    Preloaded, Principal, Subject, TEMPORARY,
};
pub use config_common::{AutoRenew, BadPolicy, KeyAlgorithm, Policy};
pub use types::{
    CertificateReply, CreateCertificate, DeleteCertificate, GetCertificate, ImportCertificate, Issuer,
};

http_common::endpoints! {
    /// The Certificates Service: issues, imports and serves certificates.
    CertificatesApi "certd" ["2020-09-01"];
    POST   "/certificates"          since "2020-09-01"  CreateCertificate -> CREATED    CertificateReply, waits;
    GET    "/certificates/{certId}" since "2020-09-01"  GetCertificate    -> OK         CertificateReply;
    PUT    "/certificates/{certId}" since "2020-09-01"  ImportCertificate -> CREATED    CertificateReply;
    DELETE "/certificates/{certId}" since "2020-09-01"  DeleteCertificate -> NO_CONTENT ();
}

#[cfg(test)]
mod tests {
    use http_common::round_trip;
    use key_api::KeyHandle;

    use super::*;

    #[test]
    fn every_request_is_read_as_it_is_written() {
        for cert_id in ["device-id", "a/b%20c d?", "wé/ird %41 id?", "日本"] {
            let cert_id = cert_id.to_owned();
            let pem = "-----BEGIN CERTIFICATE-----\n\"\\é".to_owned();
            let get = GetCertificate { cert_id: cert_id.clone() };
            assert_eq!(round_trip(&get).as_ref(), Ok(&get));
            let delete = DeleteCertificate { cert_id: cert_id.clone() };
            assert_eq!(round_trip(&delete).as_ref(), Ok(&delete));
            let import = ImportCertificate { cert_id: cert_id.clone(), pem: pem.clone() };
            assert_eq!(round_trip(&import).as_ref(), Ok(&import));
            let issuer =
                Issuer { cert_id: cert_id.clone(), private_key_handle: KeyHandle::from(cert_id.clone()) };
            for issuer in [None, Some(issuer)] {
                let create = CreateCertificate { cert_id: cert_id.clone(), csr: pem.clone(), issuer };
                assert_eq!(round_trip(&create).as_ref(), Ok(&create));
            }
        }
    }

    #[test]
    fn an_issuer_is_absent_null_or_complete() {
        let read = |issuer: &str| {
            serde_json::from_str::<CreateCertificate>(&format!(r#"{{"certId":"a","csr":"b"{issuer}}}"#))
        };
        assert_eq!(read("").unwrap().issuer, None);
        assert_eq!(read(r#","issuer":null"#).unwrap().issuer, None);
        assert!(read(r#","issuer":{"certId":"ca"}"#).is_err());
        assert!(read(r#","issuer":{"privateKeyHandle":"h"}"#).is_err());
        assert!(
            read(r#","issuer":{"certId":"ca","privateKeyHandle":"h","more":1}"#).unwrap().issuer.is_some()
        );
    }
}
