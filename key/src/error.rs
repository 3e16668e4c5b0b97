//! Why keyd refuses, and which status that is. The only file of keyd that knows statuses.

use std::io;
use std::path::PathBuf;

use http_common::{ApiError, StatusCode};
use openssl::error::ErrorStack;

use crate::id::{KeyId, VALIDATION_KEY};
use crate::store::{Fault, TpmFault};

/// What was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No principal of the caller names the key.
    #[error(
        "user {uid} is not authorized for the key {id:?}; a [[principal]] with this uid would have to match it"
    )]
    Forbidden {
        /// The caller.
        uid: u32,
        /// The id that was asked for.
        id: String,
    },
    /// The validation key was asked for by its id.
    #[error("the key id {VALIDATION_KEY:?} is reserved for the Keys Service")]
    ReservedId,

    /// An id contains U+0000.
    #[error("the key id contains U+0000")]
    NulInId,
    /// An id makes a file name that is longer than file systems take.
    #[error("the key id {id} has more than {max} letters and digits")]
    IdTooLong {
        /// The id.
        id: KeyId,
        /// The largest number of ASCII letters and digits.
        max: usize,
    },
    /// A text is not a handle.
    #[error("the key handle is malformed: {0}")]
    MalformedHandle(&'static str),
    /// The MAC of a handle is wrong.
    #[error("the key handle was not issued by this service, or its validation key has been replaced since")]
    ForgedHandle,
    /// A genuine handle names the validation key.
    #[error("the key handle is for {VALIDATION_KEY:?}, which is reserved for the Keys Service")]
    ReservedHandle,
    /// A genuine handle of a derived key has a derived key as its base, or would get one.
    #[error(
        "a derived key cannot be the base of another one; export it and import it under an id of its own"
    )]
    NestedDerivation,
    /// A handle is of the wrong kind for the endpoint.
    #[error("the key handle is for {given}, the request needs one for {needed}")]
    WrongHandle {
        /// The kind that is needed.
        needed: &'static str,
        /// The kind it is of.
        given: &'static str,
    },
    /// The algorithm does not go with the key.
    #[error("{mechanism} cannot be done with {key}")]
    WrongMechanism {
        /// The algorithm by its name on the wire.
        mechanism: &'static str,
        /// What the key is.
        key: &'static str,
    },
    /// No element of `preferredAlgorithms` is known.
    #[error(
        "preferredAlgorithms {0:?} names no known algorithm (ec-p256, ec-p384, rsa-2048, rsa-3072, rsa-4096, *)"
    )]
    NoAlgorithm(String),
    /// A parameter is unknown or not one of this key pair.
    #[error("there is no parameter {name:?} of {key}")]
    NoParameter {
        /// Its name.
        name: String,
        /// What the key is.
        key: &'static str,
    },
    /// A key pair was to be moved onto itself.
    #[error("the key pair {0:?} was to be moved to its own id")]
    MoveToSelf(String),
    /// A key of no bytes was to be imported.
    #[error("keyBytes is empty")]
    EmptyImport,
    /// There is no such key or key pair.
    #[error("there is no key {0}")]
    NoSuchKey(KeyId),
    /// Neither `homedir_path` nor `preloaded_keys` gives the id a place.
    #[error("there is no place for the key {0}: aziot_keys.homedir_path is not configured")]
    NoPlace(KeyId),
    /// A key is preloaded from a token, and there is no library to reach it.
    #[error(
        "the key {0} is preloaded from a PKCS #11 token, and aziot_keys.pkcs11_lib_path is not configured"
    )]
    NoToken(KeyId),
    /// A key is to be in a TPM, and none is configured.
    #[error("the key {0} is to be in the TPM, and keyd's configuration has no table [tpm]")]
    NoTpm(KeyId),
    /// A symmetric key was asked for where a key pair is.
    #[error("the key {0} is a key pair")]
    IsKeyPair(KeyId),
    /// A key pair would destroy a symmetric key.
    #[error("the key {0} is a symmetric key; delete it first if it is to make room for a key pair")]
    IsKey(KeyId),
    /// A key that belongs to the administrator was to be removed.
    #[error("the key {0} is preloaded: it belongs to the administrator and is neither deleted nor moved")]
    Preloaded(KeyId),
    /// A ciphertext has a form that no version has.
    #[error("the ciphertext is malformed: {0}")]
    MalformedCiphertext(&'static str),

    /// A key on a token was to be for two purposes.
    #[error(
        "the key {0} would be on a PKCS #11 token, where a key is for \"encrypt\" or for \"sign\" and \"derive\", not for both"
    )]
    MixedUsage(KeyId),
    /// A token can make a key pair by none of the algorithms.
    #[error("the PKCS #11 token can make the key pair {0} by none of the algorithms in preferredAlgorithms")]
    NoTokenAlgorithm(KeyId),

    /// A TPM can make a key pair by none of the algorithms.
    #[error("the TPM can make the key pair {0} by none of the algorithms in preferredAlgorithms")]
    NoTpmAlgorithm(KeyId),

    /// A token, or the way to it, is at fault. Callers are told no more than that.
    #[error("the PKCS #11 token {token} is not available")]
    TokenUnavailable {
        /// How the configuration calls it.
        token: String,
        /// Why.
        #[source]
        fault: Box<Fault>,
    },
    /// A TPM, or the way to it, is at fault. Callers are told no more than that.
    #[error("the TPM is not available")]
    TpmUnavailable(#[source] Box<TpmFault>),
    /// Something outside of the request; callers are told nothing of it.
    #[error("internal error")]
    Internal(#[source] Internal),
}

impl Error {
    /// A failure of OpenSSL while `doing` something.
    pub(crate) fn crypto(doing: &'static str) -> impl FnOnce(ErrorStack) -> Self {
        move |source| Self::Internal(Internal::Crypto { doing, source })
    }
}

impl From<Internal> for Error {
    fn from(internal: Internal) -> Self {
        Self::Internal(internal)
    }
}

/// Causes of [`Error::Internal`], for the log only.
#[derive(Debug, thiserror::Error)]
pub enum Internal {
    /// A key file holds something that cannot be used as asked.
    #[error("{} cannot be used: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key pair that was to be moved does not exist.
    #[error("there is no key pair {0} to be moved")]
    NothingToMove(KeyId),
    /// A key file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A key file cannot be written, renamed or removed.
    #[error("the key was not stored")]
    Unwritable(#[source] config_common::Error),
    /// The key that makes handles genuine cannot be used.
    #[error("the key {VALIDATION_KEY:?} cannot be used")]
    ValidationKey(#[source] Box<Error>),
    /// OpenSSL failed.
    #[error("OpenSSL cannot {doing}")]
    Crypto {
        /// What was tried.
        doing: &'static str,
        /// What OpenSSL said.
        source: ErrorStack,
    },
    /// Key or parameter have a length that the algorithm does not take.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// A ciphertext was not made with this key, IV and AAD.
    #[error("the ciphertext is not authentic for this key, IV and AAD")]
    NotAuthentic,
    /// A result of RSA fails its check.
    #[error("a result of RSA is wrong: the machine or the key is faulty")]
    FaultyRsa,
    /// A token refused to do something.
    #[error("the PKCS #11 token {token} {}", fault.in_short())]
    Token {
        /// How the configuration calls it.
        token: String,
        /// Why.
        #[source]
        fault: Box<Fault>,
    },
    /// A token cannot keep a key that has no other place.
    #[error("the PKCS #11 token {token} cannot keep or use the key {id}, and it has no place in a file")]
    NotKept {
        /// The key.
        id: KeyId,
        /// How the configuration calls the token.
        token: String,
    },
    /// A TPM refused to do something.
    #[error("the TPM is of no use")]
    Tpm(#[source] Box<TpmFault>),
    /// A thread did not do its job.
    #[error("a worker thread failed")]
    Worker,
}

impl From<Error> for ApiError {
    /// The status table of spec keys-service, chapter 15.
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::Forbidden { .. } | Error::ReservedId => StatusCode::UNAUTHORIZED,
            Error::NulInId
            | Error::IdTooLong { .. }
            | Error::MalformedHandle(_)
            | Error::ForgedHandle
            | Error::ReservedHandle
            | Error::NestedDerivation
            | Error::WrongHandle { .. }
            | Error::WrongMechanism { .. }
            | Error::NoAlgorithm(_)
            | Error::NoParameter { .. }
            | Error::MoveToSelf(_)
            | Error::EmptyImport
            | Error::NoSuchKey(_)
            | Error::NoPlace(_)
            | Error::NoToken(_)
            | Error::NoTpm(_)
            | Error::IsKeyPair(_)
            | Error::IsKey(_)
            | Error::Preloaded(_)
            | Error::MixedUsage(_)
            | Error::NoTokenAlgorithm(_)
            | Error::NoTpmAlgorithm(_)
            | Error::MalformedCiphertext(_) => StatusCode::BAD_REQUEST,
            Error::TokenUnavailable { .. } | Error::TpmUnavailable(_) | Error::Internal(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        match error {
            Error::TokenUnavailable { .. } => Self::new(status, TOKEN_UNAVAILABLE),
            Error::TpmUnavailable(_) => Self::new(status, TPM_UNAVAILABLE),
            error => Self::from_error(status, &error),
        }
    }
}

/// What callers learn of a broken token.
const TOKEN_UNAVAILABLE: &str =
    "the PKCS #11 token of the key is not available at the moment; the log of the Keys Service says why";

/// What callers learn of a TPM that cannot be used.
const TPM_UNAVAILABLE: &str =
    "the TPM with the key is not available at the moment; the log of the Keys Service says why";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_learn_nothing_of_internal_causes() {
        let why = "secret detail".to_owned();
        let error = Error::from(Internal::Unusable { path: "/var/lib/x.key".into(), why });
        assert!(http_common::chain(&error).contains("/var/lib/x.key cannot be used: secret detail"));
        let reply = ApiError::from(error);
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!reply.message.contains("secret") && !reply.message.contains("/var"), "{}", reply.message);
    }

    #[test]
    fn of_a_broken_token_callers_learn_that_it_is_broken() {
        let fault = Box::new(Fault::Library("/usr/lib/x.so: secret detail".to_owned()));
        let error = Error::TokenUnavailable { token: "token=gateway".to_owned(), fault };
        assert!(http_common::chain(&error).contains("secret detail"));
        let reply = ApiError::from(error);
        assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(reply.message.contains("not available") && !reply.message.contains("secret"));
    }

    #[test]
    fn who_is_refused_learns_which_uid_asked_for_what() {
        let reply = ApiError::from(Error::Forbidden { uid: 1000, id: "a\nb".into() });
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
        assert!(
            reply.message.contains("user 1000") && reply.message.contains(r#""a\nb""#),
            "{}",
            reply.message
        );
    }
}
