//! When to renew, and how long to wait after a failure: `75%`, `30min`, `2day` (spec identity-service, 7.3.2). Knows no
//! certificate and no clock.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A part of a certificate's life, or a time before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// 1 to 99 of 100.
    Percent(u8),
    /// Seconds, more than 0 and a multiple of 60.
    Seconds(u64),
}

impl FromStr for Policy {
    type Err = BadPolicy;

    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let bad = || BadPolicy(text.to_owned());
        let units = [("%", 1), ("min", 60), ("day", 86_400)];
        let (number, unit, factor) = units
            .iter()
            .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *unit, *factor)))
            .ok_or_else(bad)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let number: u64 = number.parse().map_err(|_| bad())?;
        match (unit, number) {
            ("%", 1..=99) => u8::try_from(number).map(Self::Percent).map_err(|_| bad()),
            ("%", _) | (_, 0) => Err(bad()),
            _ => number
                .checked_mul(factor)
                .filter(|seconds| i64::try_from(*seconds).is_ok())
                .map(Self::Seconds)
                .ok_or_else(bad),
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
        json_schema!({ "type": "string", "pattern": "^([1-9][0-9]?%|[0-9]+(min|day))$" })
    }
}

/// The text is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a renewal policy; expected such as 75%, 30min or 2day")]
pub struct BadPolicy(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |text: &str, expected: Option<&str>| {
            let written = text.parse::<Policy>().ok().map(|policy| policy.to_string());
            assert_eq!(written.as_deref(), expected, "{text:?}");
        };
        check("1%", Some("1%"));
        check("99%", Some("99%"));
        check("090%", Some("90%"));
        check("30min", Some("30min"));
        check("1440min", Some("1day"));
        check("2day", Some("2day"));
        let bad = [
            "", "%", "0%", "100%", "-1%", "+1%", " 1%", "1 %", "1.5%", "0min", "0day", "5", "5h", "5days",
            "5mins",
        ];
        for bad in bad.into_iter().chain(["99999999999999999999min", "999999999999999999day"]) {
            check(bad, None);
        }
    }
}
