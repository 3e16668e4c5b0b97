//! Why identityd refuses, and which status that is (spec identity-service, 2.5). The only file that knows statuses.

mod facts;

use std::sync::Arc;
use std::time::SystemTime;

use config_common::{ConfigPaths, Origin, Service};
use http_common::https::HttpsError;
use http_common::retry::FailureKind;
use http_common::{ApiError, ClientError, StatusCode};
use identity_api::config::BadConfig;

use crate::csr::BadRequest;
use crate::tpm::NoSignature;
use crate::workshop::CertificateError;

/// What was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used.
    #[error("{error}{}", places(.at))]
    Config {
        /// What is wrong with it.
        error: BadConfig,
        /// Where that was written.
        at: Vec<Origin>,
    },
    /// The environment names a proxy that cannot be used.
    #[error("the environment names a proxy that cannot be used")]
    Proxy(#[source] HttpsError),

    /// The caller may not do this.
    #[error("user {uid} is not authorized to {action}; {remedy}")]
    Forbidden {
        /// The caller.
        uid: u32,
        /// What was asked for.
        action: String,
        /// What would have to be configured.
        remedy: &'static str,
    },

    /// `type` is not one of those that the endpoint has.
    #[error("the parameter type must be {expected}, got {given:?}")]
    BadType {
        /// The accepted values.
        expected: &'static str,
        /// What was given.
        given: String,
    },
    /// A text that cannot be the name of a module.
    #[error("{id:?} cannot be the name of a module: {reason}")]
    BadModuleId {
        /// The text.
        id: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A module that its hub cannot know by its certificate, in which its name has no room.
    #[error(
        "{name:?} is longer than a certificate can tell, so that the hub would not know the module by it; use a shorter name, or registration = \"thumbprint\" in [module_x509]"
    )]
    LongName {
        /// The device and the module.
        name: String,
    },
    /// A module of another device.
    #[error("{given:?} is not this device, which is {ours:?}")]
    OtherDevice {
        /// The device that was named.
        given: String,
        /// The device that this is.
        ours: String,
    },
    /// A local identity that belongs to a principal was asked for otherwise, or one that does not was asked for as such.
    #[error("{id:?} {reason}")]
    NotThisLocal {
        /// The name.
        id: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The payload for DPS cannot be used.
    #[error("the payload {uri} cannot be used")]
    Payload {
        /// Where it should be.
        uri: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no device identity (yet).
    #[error("this device is not provisioned: {why}")]
    NotProvisioned {
        /// What is known of the reason.
        why: String,
    },
    /// The hub did not say which generation of the module this is.
    #[error("the hub gave no generation id for the module {id:?}, so that its keys cannot be derived")]
    NoGenerationId {
        /// The module.
        id: String,
    },

    /// The registration failed.
    #[error(transparent)]
    Dps(#[from] dps_client::Error),
    /// The hub did not do what it was asked.
    #[error(transparent)]
    Hub(#[from] hub_client::Error),
    /// There is a module of this name.
    #[error("the module {id:?} already exists; update or delete it")]
    ModuleExists {
        /// The module.
        id: String,
    },
    /// There is no module of this name.
    #[error("the hub knows no module {id:?} of this device")]
    NoSuchModule {
        /// The module.
        id: String,
    },
    /// keyd does not give the device's key.
    #[error(
        "the device key {id:?} cannot be had; is it in keyd, and has keyd a [[principal]] for it with our uid?"
    )]
    DeviceKey {
        /// keyd's id of the key.
        id: String,
        /// Why.
        #[source]
        source: ClientError,
    },

    /// There is no key with a certificate.
    #[error(transparent)]
    Certificate(#[from] Arc<CertificateError>),
    /// keyd does not give the key of a module.
    #[error("a module key cannot be had from keyd")]
    ModuleKey(#[source] ClientError),
    /// A local identity without a domain.
    #[error("local identities need the setting localid.domain")]
    NoDomain,
    /// State could not be written.
    #[error("the state could not be written")]
    State(#[from] config_common::Error),
    /// The state could not be written as text.
    #[error("the state cannot be written as TOML")]
    StateText(#[from] toml::ser::Error),

    /// The pause after a failure before the last start.
    #[error("an attempt before this start has failed{}", .cause.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Earlier {
        /// Why, as far as it is remembered.
        cause: Option<String>,
        /// When the cloud may be asked again.
        until: SystemTime,
    },
    /// What was wished for takes longer than anybody waits.
    #[error("this takes long, and goes on in the background")]
    Unfinished,
    /// What another caller was told who asked for the same at the same time.
    #[error(transparent)]
    Shared(Arc<Self>),
}

impl Error {
    /// The status that tells this apart on the wire.
    fn status(&self) -> StatusCode {
        match self {
            Self::Forbidden { .. } => StatusCode::UNAUTHORIZED, // not 403: upstream's wire
            Self::BadType { .. }
            | Self::BadModuleId { .. }
            | Self::LongName { .. }
            | Self::OtherDevice { .. }
            | Self::NotThisLocal { .. }
            | Self::Payload { .. }
            | Self::NotProvisioned { .. }
            | Self::NoGenerationId { .. } => StatusCode::BAD_REQUEST,
            // Whatever the cloud says, and whatever is wrong with the device key: upstream's wire.
            Self::Dps(_)
            | Self::Hub(_)
            | Self::ModuleExists { .. }
            | Self::NoSuchModule { .. }
            | Self::Earlier { .. }
            | Self::Unfinished
            | Self::DeviceKey { .. } => StatusCode::NOT_FOUND,
            Self::Config { .. }
            | Self::Proxy(_)
            | Self::Certificate(_)
            | Self::ModuleKey(_)
            | Self::NoDomain
            | Self::State(_)
            | Self::StateText(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Shared(error) => error.status(),
        }
    }
}

impl Error {
    /// What the cloud's part in it was, as far as it decides what to do next.
    pub(crate) fn failure_kind(&self) -> Option<FailureKind> {
        match self {
            Self::Dps(error) => Some(error.kind()),
            Self::Hub(error) => Some(error.kind()),
            Self::Shared(error) => error.failure_kind(),
            _ => None,
        }
    }

    /// Whether the hub may not know this device any more, or the TPM not the key for the hub.
    pub(crate) fn suggests_registration(&self) -> bool {
        self.failure_kind().is_some_and(FailureKind::suggests_registration) || self.lacks_auth_key()
    }

    /// Whether the hub was not asked because tpmd, which can be reached, did not sign (spec tpm-service, 11.4).
    pub(crate) fn lacks_auth_key(&self) -> bool {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.into_iter().any(|error| error.is::<NoSignature>())
    }
}

impl From<BadConfig> for Error {
    fn from(error: BadConfig) -> Self {
        let (paths, names) = (ConfigPaths::from_env(Service::Identityd), error.principals());
        let at = names.iter().flat_map(|name| paths.named("principal", name)).collect();
        Self::Config { error, at }
    }
}

impl From<BadRequest> for Error {
    fn from(error: BadRequest) -> Self {
        CertificateError::Request(error).into()
    }
}

impl From<CertificateError> for Error {
    fn from(error: CertificateError) -> Self {
        Self::Certificate(Arc::new(error))
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        told(&error)
    }
}

fn places(at: &[Origin]) -> String {
    let places: Vec<_> = at.iter().map(Origin::to_string).collect();
    if places.is_empty() { String::new() } else { format!(" (in {})", places.join(", ")) }
}

fn told(error: &Error) -> ApiError {
    let told = match error {
        // Nothing internal is in this one, and the caller cannot do without knowing.
        Error::NoDomain => ApiError::new(error.status(), error.to_string()),
        Error::Shared(error) => return told(error),
        error => ApiError::from_error(error.status(), error),
    };
    ApiError { facts: Some(Box::new(error.facts())), ..told }
}
