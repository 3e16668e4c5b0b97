//! When to renew, and how long to wait after a failure: `80%`, `30min`, `2day` (spec certificates-service 10.1,
//! identity-service 7.3.2). Knows
//! no certificate and no clock.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A part of a certificate's life, or a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// 1 to 99 of 100.
    Percent(u8),
    /// Seconds, more than 0, a multiple of 60, and no more than an `i64` holds.
    Seconds(u64),
}

impl FromStr for Policy {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        parse(text).ok_or_else(|| BadPolicy(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Policy> {
    let (number, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)))?;
    // Takes a leading plus sign and leading zeros too, as upstream does.
    match (factor, number.parse::<u64>().ok()?) {
        (_, 0) => None,
        (PERCENT, number) => u8::try_from(number).ok().filter(|number| *number < 100).map(Policy::Percent),
        (factor, number) => {
            let seconds = number.checked_mul(factor)?;
            i64::try_from(seconds).is_ok().then_some(Policy::Seconds(seconds))
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = BadPolicy;

    fn try_from(text: String) -> Result<Self, BadPolicy> {
        text.parse()
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Percent(part) => write!(f, "{part}%"),
            Self::Seconds(seconds) if seconds % 86_400 == 0 => write!(f, "{}day", seconds / 86_400),
            Self::Seconds(seconds) => write!(f, "{}min", seconds / 60),
        }
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

impl JsonSchema for Policy {
    fn schema_name() -> Cow<'static, str> {
        "Policy".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^\\+?[0-9]+(%|min|day)$" })
    }
}

/// The text is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a renewal policy; expected such as 80%, 30min or 2day")]
pub struct BadPolicy(String);

const PERCENT: u64 = 1;
/// Units with their seconds; 1 stands for the one that is no time.
const UNITS: [(&str, u64); 3] = [("%", PERCENT), ("min", 60), ("day", 86_400)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certs_67_policy_texts() {
        let check = |text: &str, expected: Option<&str>| {
            let written = text.parse::<Policy>().ok().map(|policy| policy.to_string());
            assert_eq!(written.as_deref(), expected, "{text:?}");
        };
        check("1%", Some("1%"));
        check("99%", Some("99%"));
        check("+080%", Some("80%"));
        check("90min", Some("90min"));
        check("1440min", Some("1day"));
        check("3day", Some("3day"));
        let bad = [
            "", "%", "0%", "100%", "356%", "-1%", " 1%", "1 %", "1.5%", "0min", "0day", "5", "1h", "5 day",
            "5days",
        ];
        for bad in bad.into_iter().chain(["99999999999999999999min", "999999999999999999day"]) {
            check(bad, None);
        }
    }
}
