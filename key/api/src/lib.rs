//! The contract of the Keys Service: its endpoints, its requests and replies, its configuration file. Types only: no
//! I/O, no cryptography.
//!
//! The table below *is* the list of routes, the client and the OpenAPI document. All endpoints are served in both
//! versions, as upstream serves them (spec keys-service, chapters 3 and 4).

mod config;
mod mechanism;
mod token_uri;
mod types;
mod usage;

pub use config::{AziotKeys, BadUri, Config, PreloadedUri, Principal, Tpm, TpmAuthorization};
pub use mechanism::{Aead, Decrypt, Encrypt, EncryptMechanism, Sign, SignMechanism};
pub use token_uri::{ObjectName, PinSource, TokenName, TokenUri};
pub use tpm_api::{AuthValue, Tcti};
pub use types::{
    Ciphertext, CreateDerivedKey, CreateKey, CreateKeyPair, DeleteKey, DeleteKeyPair, DerivedKey,
    ExportDerivedKey, GetParameter, KeyHandle, KeyHandleReply, LoadKey, LoadKeyPair, MoveKeyPair, PRELOADED,
    Parameter, Plaintext, Signature,
};
pub use usage::{BadUsage, KeyUsage};

http_common::endpoints! {
    /// The Keys Service: creates, keeps and uses keys.
    KeysApi "keyd" ["2020-09-01", "2021-05-01"];
    POST   "/key"                       since "2020-09-01"  CreateKey        -> OK KeyHandleReply;
    GET    "/key/{keyId}"               since "2020-09-01"  LoadKey          -> OK KeyHandleReply;
    DELETE "/key"                       since "2020-09-01"  DeleteKey        -> NO_CONTENT ();
    POST   "/keypair"                   since "2020-09-01"  CreateKeyPair    -> OK KeyHandleReply;
    GET    "/keypair/{keyId}"           since "2020-09-01"  LoadKeyPair      -> OK KeyHandleReply;
    POST   "/keypair/{keyId}"           since "2020-09-01"  MoveKeyPair      -> NO_CONTENT ();
    DELETE "/keypair"                   since "2020-09-01"  DeleteKeyPair    -> NO_CONTENT ();
    POST   "/parameters/{parameterName}" since "2020-09-01" GetParameter     -> OK Parameter;
    POST   "/derivedkey"                since "2020-09-01"  CreateDerivedKey -> OK KeyHandleReply;
    POST   "/derivedkey/export"         since "2020-09-01"  ExportDerivedKey -> OK DerivedKey;
    POST   "/sign"                      since "2020-09-01"  Sign             -> OK Signature;
    POST   "/encrypt"                   since "2020-09-01"  Encrypt          -> OK Ciphertext;
    POST   "/decrypt"                   since "2020-09-01"  Decrypt          -> OK Plaintext;
}

#[cfg(test)]
mod tests {
    use config_common::{Base64, Secret};
    use http_common::{Endpoint, Service, round_trip};

    use super::*;

    fn check<E: Endpoint + PartialEq + std::fmt::Debug>(request: E) {
        assert_eq!(round_trip(&request), Ok(request));
    }

    #[test]
    fn requests_round_trip_with_all_ids() {
        for id in ["a/b%20c d?", "wé/ird %41 id?", "a", "..", "\"\\\n"] {
            let key_id = || id.to_owned();
            let usage = KeyUsage::SIGN.and(KeyUsage::DERIVE);
            check(CreateKey { key_id: key_id(), usage, key_bytes: None });
            check(CreateKey { key_id: key_id(), usage, key_bytes: Some(Secret::new(vec![0, 255])) });
            check(LoadKey { key_id: key_id() });
            check(CreateKeyPair { key_id: key_id(), preferred_algorithms: None });
            check(CreateKeyPair { key_id: key_id(), preferred_algorithms: Some("rsa-2048:*".to_owned()) });
            check(LoadKeyPair { key_id: key_id() });
            check(MoveKeyPair { key_id: key_id(), from: "from".to_owned() });
        }
    }

    #[test]
    fn requests_by_handle_round_trip() {
        let key_handle = || KeyHandle::from("sr=AA+/=&sig=".to_owned());
        let aead = || EncryptMechanism::Aead(Aead { iv: Base64(vec![1]), aad: Base64(vec![]) });
        check(DeleteKey { key_handle: key_handle() });
        check(DeleteKeyPair { key_handle: key_handle() });
        check(GetParameter { parameter_name: "ec-point".to_owned(), key_handle: key_handle() });
        check(CreateDerivedKey { base_key_handle: key_handle(), derivation_data: Base64(vec![]) });
        check(ExportDerivedKey { key_handle: key_handle() });
        check(Sign { key_handle: key_handle(), mechanism: SignMechanism::Ecdsa(Base64(vec![7])) });
        check(Sign { key_handle: key_handle(), mechanism: SignMechanism::HmacSha256(Base64(vec![])) });
        for mechanism in [aead(), EncryptMechanism::RsaPkcs1, EncryptMechanism::RsaNoPadding] {
            let (plaintext, ciphertext) = (Secret::new(vec![1]), Base64(vec![2]));
            check(Encrypt { key_handle: key_handle(), mechanism: mechanism.clone(), plaintext });
            check(Decrypt { key_handle: key_handle(), mechanism, ciphertext });
        }
    }

    #[test]
    fn the_document_has_all_rows() {
        assert_eq!(KeysApi::operations().len(), 13);
        let document = http_common::openapi::document::<KeysApi>();
        let text = serde_json::to_string(&document).expect("a document is JSON");
        for word in
            ["/parameters/{parameterName}", "RSA-NO-PADDING", "HMAC-SHA256", "keyHandle", "derivationData"]
        {
            assert!(text.contains(word), "{word}");
        }
    }
}
