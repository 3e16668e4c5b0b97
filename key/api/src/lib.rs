//! The contract of the Keys Service: its endpoints, its requests and replies, its configuration file. Types only: no
//! I/O, no cryptography.
//!
//! The table below *is* the list of routes, the client and the OpenAPI document. All endpoints are served in both
//! versions, as upstream serves them (spec keys-service, chapters 3 and 4).

mod config;
mod mechanism;
mod types;
mod usage;

pub use config::{AziotKeys, BadUri, Config, PreloadedUri, Principal};
pub use mechanism::{Aead, Decrypt, Encrypt, EncryptMechanism, Sign, SignMechanism};
pub use types::{
    Ciphertext, CreateDerivedKey, CreateKey, CreateKeyPair, DeleteKey, DeleteKeyPair, DerivedKey,
    ExportDerivedKey, GetParameter, KeyHandle, KeyHandleReply, LoadKey, LoadKeyPair, MoveKeyPair, Parameter,
    Plaintext, Signature,
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
