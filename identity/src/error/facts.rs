//! What a refusal says to programs, besides its text for people (spec identity-service, Do better 2). Upstream's clients read the
//! text and the status alone. Knows no statuses of ours; internal errors say nothing here either.

use std::time::{Duration, SystemTime};

use http_common::Facts;
use http_common::https::CloudFailure;
use http_common::retry::FailureKind;

use super::Error;

impl Error {
    /// The facts for programs.
    pub(super) fn facts(&self) -> Facts {
        let kind = self.failure_kind();
        let retry_after = kind.and_then(FailureKind::retry_after).or_else(|| self.earlier_pause());
        Facts {
            code: self.code(),
            cloud_status: self
                .cloud_failure()
                .and_then(|failure| failure.status)
                .map(|status| status.as_u16()),
            retry_after_seconds: retry_after.map(|pause| pause.as_secs()),
        }
    }

    /// One word for the reason.
    fn code(&self) -> Option<&'static str> {
        let code = match self {
            Self::Forbidden { .. } => "forbidden",
            Self::BadType { .. } => "badType",
            Self::BadModuleId { .. } | Self::LongName { .. } => "badModuleId",
            Self::OtherDevice { .. } => "otherDevice",
            Self::NotThisLocal { .. } => "badLocalId",
            Self::Payload { .. } => "badPayload",
            Self::NotProvisioned { .. } | Self::Earlier { .. } => "notProvisioned",
            Self::NoGenerationId { .. } => "noGenerationId",
            Self::Dps(error) => of_cloud(error.kind()),
            Self::Hub(error) => of_cloud(error.kind()),
            Self::ModuleExists { .. } => "moduleExists",
            Self::NoSuchModule { .. } => "noSuchModule",
            Self::DeviceKey { source, .. } if source.is_transport() => "keydUnreachable",
            Self::DeviceKey { .. } => "noDeviceKey",
            Self::NoDomain => "noDomain",
            Self::Unfinished => "unfinished",
            Self::Shared(error) => return error.code(),
            Self::Config { .. }
            | Self::Proxy(_)
            | Self::Certificate(_)
            | Self::ModuleKey(_)
            | Self::State(_)
            | Self::StateText(_) => return None,
        };
        Some(code)
    }

    /// How much is left of the pause after a failure before the last start.
    fn earlier_pause(&self) -> Option<Duration> {
        match self {
            Self::Earlier { until, .. } => Some(until.duration_since(SystemTime::now()).unwrap_or_default()),
            Self::Shared(error) => error.earlier_pause(),
            _ => None,
        }
    }

    fn cloud_failure(&self) -> Option<&CloudFailure> {
        match self {
            Self::Dps(dps_client::Error::Cloud(failure)) | Self::Hub(hub_client::Error::Cloud(failure)) => {
                Some(failure)
            }
            Self::Shared(error) => error.cloud_failure(),
            _ => None,
        }
    }
}

fn of_cloud(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Network => "cloudUnreachable",
        FailureKind::Untrusted => "cloudUntrusted",
        FailureKind::Throttled { .. } => "cloudThrottled",
        FailureKind::Server { .. } => "cloudTrouble",
        FailureKind::Unauthorized | FailureKind::CertificateRefused => "credentialRefused",
        FailureKind::Credential => "credentialUnusable",
        FailureKind::NotFound => "unknownToCloud",
        FailureKind::Forbidden
        | FailureKind::Conflict
        | FailureKind::Precondition
        | FailureKind::Rejected
        | FailureKind::Invalid => "cloudRefused",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_common::{ApiError, ClientError, StatusCode};

    use super::*;

    #[test]
    fn what_programs_are_told() {
        let throttled = CloudFailure {
            kind: FailureKind::Throttled { retry_after: Some(Duration::from_secs(9)) },
            status: Some(StatusCode::TOO_MANY_REQUESTS),
            ..CloudFailure::invalid(StatusCode::OK, "x")
        };
        let silent = ClientError::TimedOut { service: "keyd", limit: Duration::from_secs(30) };
        let error = ApiError::new(StatusCode::BAD_REQUEST, "no");
        let refused = ClientError::Refused { service: "keyd", error };
        let shared = Error::Shared(Arc::new(Error::Hub(throttled.into())));
        let facts =
            |code, cloud_status, retry_after_seconds| Facts { code, cloud_status, retry_after_seconds };
        for (error, expected) in [
            (shared, facts(Some("cloudThrottled"), Some(429), Some(9))),
            (Error::Dps(dps_client::Error::Disabled), facts(Some("cloudRefused"), None, None)),
            (Error::ModuleExists { id: "m".to_owned() }, facts(Some("moduleExists"), None, None)),
            (Error::NoDomain, facts(Some("noDomain"), None, None)),
            (
                Error::DeviceKey { id: "k".to_owned(), source: silent },
                facts(Some("keydUnreachable"), None, None),
            ),
            (
                Error::DeviceKey { id: "k".to_owned(), source: refused },
                facts(Some("noDeviceKey"), None, None),
            ),
        ] {
            assert_eq!(ApiError::from(error).facts.as_deref(), Some(&expected));
        }
    }
}
