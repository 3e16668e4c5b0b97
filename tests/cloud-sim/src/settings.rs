//! How strict and how slow the cloud is: what `POST /settings` changes, merged member by member.

use crate::clock::http_date;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything about the cloud's manners that a test may want otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// How many polls of a registration answer `assigning` before the outcome.
    pub(crate) assigning_polls: u32,
    /// `Retry-After` of registrations and their polls.
    pub(crate) retry_after: RetryAfter,
    /// Seconds after which an operation id is unknown.
    pub(crate) operation_ttl_secs: i64,
    /// Whether an assigned registration returns the payload of the request.
    pub(crate) echo_payload: bool,
    /// Whether a token towards DPS must have `skn=registration`.
    pub(crate) require_skn: bool,
    /// Whether expired tokens are refused at all.
    pub(crate) check_expiry: bool,
    /// For how many seconds after its expiry a token is still good.
    pub(crate) expiry_grace_secs: i64,
    /// Whether a status poll needs an unexpired token, too. What the real service does is not known.
    pub(crate) reject_expired_at_polls: bool,
    /// Which form the hubs give their errors.
    pub(crate) error_style: ErrorStyle,
    /// The status of a successful module PUT: 200, or 201 for new ones as later versions do.
    pub(crate) put_status: u16,
    /// The status of a successful module DELETE: 204 or 200.
    pub(crate) delete_status: u16,
    /// The status for a device that the hub does not have.
    pub(crate) unknown_device_status: u16,
    /// Modules of a device at most.
    pub(crate) module_limit: usize,
    /// What becomes of `managedBy` when a PUT does not name it.
    pub(crate) managed_by: ManagedBy,
    /// What DPS gives the hub about a device that is known by its issuer.
    pub(crate) x509_hub_identity: HubIdentity,
    /// Whether hubs refuse certificates that are not valid now.
    pub(crate) check_validity: bool,
    /// Entries of the request log at most; older ones are dropped.
    pub(crate) log_limit: usize,
}

impl Settings {
    /// These settings with the members of `changes` replaced.
    ///
    /// # Errors
    /// Which member is unknown or has no such value.
    pub(crate) fn merged(&self, changes: &Value) -> Result<Settings, String> {
        let mut merged = serde_json::to_value(self).map_err(|err| err.to_string())?;
        let (Some(members), Some(changes)) = (merged.as_object_mut(), changes.as_object()) else {
            return Err("settings are a JSON object".to_owned());
        };
        members.extend(changes.clone());
        serde_json::from_value(merged).map_err(|err| err.to_string())
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            assigning_polls: 1,
            retry_after: RetryAfter::Seconds(3),
            operation_ttl_secs: 3600,
            echo_payload: true,
            require_skn: true,
            check_expiry: true,
            expiry_grace_secs: 0,
            reject_expired_at_polls: false,
            error_style: ErrorStyle::Classic,
            put_status: 200,
            delete_status: 204,
            unknown_device_status: 401,
            module_limit: 50,
            managed_by: ManagedBy::Replace,
            x509_hub_identity: HubIdentity::Thumbprint,
            check_validity: true,
            log_limit: 20_000,
        }
    }
}

/// A `Retry-After` header: `3`, `{"date": 3}` (an HTTP date so many seconds ahead), `"date"` (3 s) or `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "RetryAfterText", into = "RetryAfterText")]
pub(crate) enum RetryAfter {
    /// No header.
    Absent,
    /// Delay in seconds.
    Seconds(u32),
    /// A date, this many seconds after the simulator's now.
    Date(u32),
}

impl RetryAfter {
    /// The header's value at `now_ms`.
    #[must_use]
    pub(crate) fn value(self, now_ms: i64) -> Option<String> {
        match self {
            RetryAfter::Absent => None,
            RetryAfter::Seconds(secs) => Some(secs.to_string()),
            RetryAfter::Date(secs) => Some(http_date(now_ms.saturating_add(i64::from(secs) * 1000))),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum RetryAfterText {
    Seconds(u32),
    Word(DateWord),
    Date { date: u32 },
    Absent(()),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DateWord {
    Date,
}

impl From<RetryAfterText> for RetryAfter {
    fn from(text: RetryAfterText) -> RetryAfter {
        match text {
            RetryAfterText::Seconds(secs) => RetryAfter::Seconds(secs),
            RetryAfterText::Word(DateWord::Date) => RetryAfter::Date(3),
            RetryAfterText::Date { date } => RetryAfter::Date(date),
            RetryAfterText::Absent(()) => RetryAfter::Absent,
        }
    }
}

impl From<RetryAfter> for RetryAfterText {
    fn from(value: RetryAfter) -> RetryAfterText {
        match value {
            RetryAfter::Absent => RetryAfterText::Absent(()),
            RetryAfter::Seconds(secs) => RetryAfterText::Seconds(secs),
            RetryAfter::Date(date) => RetryAfterText::Date { date },
        }
    }
}

/// The form of a hub's error body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorStyle {
    /// `{"Message":"…","ExceptionMessage":"…"}`
    Classic,
    /// `{"errorCode":404010,"message":"…","trackingId":"…","timestampUtc":"…"}`
    Newer,
    /// `{"errorMessage":"…"}`, as a parent gateway writes.
    Gateway,
    /// The same with `"networkError":true`: the gateway cannot reach the hub.
    GatewayOffline,
    /// No body.
    Empty,
    /// A web page.
    Html,
    /// Half of the classic body.
    Truncated,
}

/// What becomes of a module's `managedBy` when a PUT does not name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ManagedBy {
    /// It is cleared: a PUT replaces the identity.
    Replace,
    /// It stays.
    Keep,
}

/// What a hub learns about a device whose certificate's issuer is enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HubIdentity {
    /// The certificate's thumbprint: after a renewal the device must register again.
    Thumbprint,
    /// That any certificate of a CA the hub trusts will do.
    Ca,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_merge_member_by_member() {
        let changed =
            Settings::default().merged(&json!({"assigning_polls": 7, "retry_after": null})).unwrap();
        assert_eq!((changed.assigning_polls, changed.retry_after), (7, RetryAfter::Absent));
        assert_eq!(changed.merged(&json!({"error_style": "html"})).unwrap().assigning_polls, 7);
        assert!(changed.merged(&json!({"asigning_polls": 7})).unwrap_err().contains("asigning_polls"));
        assert!(changed.merged(&json!([])).is_err());
    }

    #[test]
    fn retry_after_has_four_spellings() {
        for (text, value) in [
            (json!(9), Some("9")),
            (json!("date"), Some("Thu, 01 Jan 1970 00:00:03 GMT")),
            (json!({"date": 60}), Some("Thu, 01 Jan 1970 00:01:00 GMT")),
            (json!(null), None),
        ] {
            let read: RetryAfter = serde_json::from_value(text).unwrap();
            assert_eq!(read.value(0).as_deref(), value);
            let again: RetryAfter = serde_json::from_value(serde_json::to_value(read).unwrap()).unwrap();
            assert_eq!(again, read);
        }
    }
}
