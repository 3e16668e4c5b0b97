//! The contract of the TPM Service: its endpoints, its requests and replies, its configuration file. Types only: no
//! I/O, no TPM.
//!
//! The table below *is* the list of routes, the client and the OpenAPI document (spec tpm-service, chapters 6 to 8). The last row is not
//! upstream's: with it a device answers the challenge of the provisioning service without giving up the key for its hub.

mod config;
mod types;

pub use config::{AuthKeyIndex, AuthValue, BadIndex, Config, HierarchyAuthorization, Principal, Tcti};
pub use types::{
    AuthKeyImported, Digest, GetTpmKeys, ImportAuthKey, SignWithAuthKey, SignWithWrappedKey, TpmKeys,
};

http_common::endpoints! {
    /// The TPM Service: lends the TPM of this device to its provisioning.
    TpmApi "tpmd" ["2020-09-01"];
    GET  "/get_tpm_keys"          since "2020-09-01"  GetTpmKeys         -> OK TpmKeys;
    POST "/import_auth_key"       since "2020-09-01"  ImportAuthKey      -> OK AuthKeyImported;
    POST "/sign_with_auth_key"    since "2020-09-01"  SignWithAuthKey    -> OK Digest;
    POST "/sign_with_wrapped_key" since "2020-09-01"  SignWithWrappedKey -> OK Digest;
}

#[cfg(test)]
mod tests {
    use config_common::{Base64, Secret};
    use http_common::{Service, round_trip};
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_round_trip() {
        assert_eq!(round_trip(&GetTpmKeys {}), Ok(GetTpmKeys {}));
        let import = || ImportAuthKey { key: Secret::new(vec![0, 255, 62]) };
        assert_eq!(round_trip(&import()), Ok(import()));
        for data in [vec![], vec![10; 3000]] {
            let sign = || SignWithAuthKey { data: Base64(data.clone()) };
            assert_eq!(round_trip(&sign()), Ok(sign()));
            let sign = || SignWithWrappedKey { key: Secret::new(vec![1]), data: Base64(data.clone()) };
            assert_eq!(round_trip(&sign()), Ok(sign()));
        }
    }

    #[test]
    fn names_are_those_of_the_wire() {
        let keys = TpmKeys { endorsement_key: Base64(vec![1]), storage_root_key: Base64(vec![2]) };
        let on_wire = json!({ "endorsement_key": "AQ==", "storage_root_key": "Ag==" });
        assert_eq!(serde_json::to_value(keys).unwrap(), on_wire);
        assert_eq!(serde_json::to_value(AuthKeyImported {}).unwrap(), json!({}));
        let digest = Digest { digest: Base64(vec![3]) };
        assert_eq!(serde_json::to_value(digest).unwrap(), json!({ "digest": "Aw==" }));
    }

    #[test]
    fn the_document_has_all_rows() {
        assert_eq!(TpmApi::operations().len(), 4);
        let document = serde_json::to_string(&http_common::openapi::document::<TpmApi>()).unwrap();
        for word in ["/get_tpm_keys", "storage_root_key", "digest"] {
            assert!(document.contains(word), "{word}");
        }
    }
}
