//! How a certificate is kept valid: the table `identity_auto_renew` of certd and of identityd (spec certificates-service
//! 10.1, identity-service 7.3.2). Knows no certificate and no clock.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Policy;

/// `identity_auto_renew`. All but `enabled` are needed, unless that is false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Wire")]
pub struct AutoRenew {
    /// Whether it is renewed at all. Upstream does not have this: there, EST identities are always renewed.
    #[serde(skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// Whether each renewal makes a new key.
    pub rotate_key: bool,
    /// When to renew.
    pub threshold: Policy,
    /// How long to wait after a failure.
    pub retry: Policy,
}

impl Default for AutoRenew {
    /// What holds for EST identities when there is no table (spec certificates-service, 10.1).
    fn default() -> Self {
        Self { enabled: true, rotate_key: true, threshold: Policy::Percent(80), retry: Policy::Percent(4) }
    }
}

/// When a certificate is renewed. All but `enabled` are needed, unless that is false.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "AutoRenew")]
struct Wire {
    /// Whether it is renewed at all; true if absent.
    #[serde(default = "yes")]
    enabled: bool,
    /// Whether each renewal makes a new key.
    rotate_key: Option<bool>,
    /// When to renew.
    threshold: Option<Policy>,
    /// How long to wait after a failure.
    retry: Option<Policy>,
}

impl TryFrom<Wire> for AutoRenew {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let Wire { enabled, rotate_key, threshold, retry } = wire;
        let missing = |name| move || format!("missing field `{name}`");
        let unused = Self::default();
        let or_unused = |value: Option<Policy>, unused| value.or((!enabled).then_some(unused));
        Ok(Self {
            enabled,
            rotate_key: rotate_key
                .or((!enabled).then_some(unused.rotate_key))
                .ok_or_else(missing("rotate_key"))?,
            threshold: or_unused(threshold, unused.threshold).ok_or_else(missing("threshold"))?,
            retry: or_unused(retry, unused.retry).ok_or_else(missing("retry"))?,
        })
    }
}

fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_true(value: &bool) -> bool {
    *value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AutoRenew, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn all_is_needed_unless_it_is_off() {
        let whole = "rotate_key = false\nthreshold = '30min'\nretry = '5%'\n";
        let on = AutoRenew {
            enabled: true,
            rotate_key: false,
            threshold: Policy::Seconds(1800),
            retry: Policy::Percent(5),
        };
        assert_eq!(read(whole), Ok(on.clone()));
        assert_eq!(read(&format!("enabled = true\n{whole}")), Ok(on.clone()));
        assert_eq!(
            read(&format!("enabled = false\n{whole}")),
            Ok(AutoRenew { enabled: false, ..on.clone() })
        );
        assert_eq!(read("enabled = false"), Ok(AutoRenew { enabled: false, ..AutoRenew::default() }));
        for key in ["rotate_key", "threshold", "retry"] {
            let without: String =
                whole.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
            assert!(read(&without).unwrap_err().contains(&format!("missing field `{key}`")), "{key}");
        }
        assert_eq!(toml::to_string(&on).unwrap().parse::<toml::Table>(), whole.parse());
    }
}
