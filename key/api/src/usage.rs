//! What a symmetric key is for: `"derive,sign"` as a set (spec keys-service, 4.1). Enforces nothing.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A set of usages, never empty; on the wire words joined by commas, without spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct KeyUsage {
    derive: bool,
    encrypt: bool,
    sign: bool,
}

impl KeyUsage {
    /// To derive other keys from it.
    pub const DERIVE: Self = Self { derive: true, ..Self::NONE };
    /// To encrypt and decrypt with it.
    pub const ENCRYPT: Self = Self { encrypt: true, ..Self::NONE };
    /// To compute MACs with it.
    pub const SIGN: Self = Self { sign: true, ..Self::NONE };

    const NONE: Self = Self { derive: false, encrypt: false, sign: false };

    /// Whether keys may be derived from it.
    pub const fn derives(self) -> bool {
        self.derive
    }

    /// Whether it may encrypt and decrypt.
    pub const fn encrypts(self) -> bool {
        self.encrypt
    }

    /// Whether it may compute MACs.
    pub const fn signs(self) -> bool {
        self.sign
    }

    /// What either of the two allows.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            derive: self.derive || other.derive,
            encrypt: self.encrypt || other.encrypt,
            sign: self.sign || other.sign,
        }
    }
}

impl FromStr for KeyUsage {
    type Err = BadUsage;

    fn from_str(text: &str) -> Result<Self, BadUsage> {
        text.split(',').try_fold(Self::NONE, |usage, word| match word {
            "derive" => Ok(usage.and(Self::DERIVE)),
            "encrypt" => Ok(usage.and(Self::ENCRYPT)),
            "sign" => Ok(usage.and(Self::SIGN)),
            _ => Err(BadUsage),
        })
    }
}

impl TryFrom<String> for KeyUsage {
    type Error = BadUsage;

    fn try_from(text: String) -> Result<Self, BadUsage> {
        text.parse()
    }
}

impl fmt::Display for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [(self.derive, "derive"), (self.encrypt, "encrypt"), (self.sign, "sign")];
        let mut separator = "";
        for (_, word) in words.iter().filter(|(is_set, _)| *is_set) {
            write!(f, "{separator}{word}")?;
            separator = ",";
        }
        Ok(())
    }
}

impl From<KeyUsage> for String {
    fn from(usage: KeyUsage) -> Self {
        usage.to_string()
    }
}

impl JsonSchema for KeyUsage {
    fn schema_name() -> Cow<'static, str> {
        "KeyUsage".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(derive|encrypt|sign)(,(derive|encrypt|sign))*$" })
    }
}

/// The text is not a list of usages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadUsage;

impl fmt::Display for BadUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("usage must be one or more of derive, encrypt, sign, joined by commas without spaces")
    }
}

impl std::error::Error for BadUsage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |text: &str, expected: Option<&str>| {
            let usage: Option<KeyUsage> = serde_json::from_value(text.into()).ok();
            assert_eq!(usage.map(String::from).as_deref(), expected, "{text:?}");
        };
        check("sign", Some("sign"));
        check("derive,sign", Some("derive,sign"));
        check("sign,encrypt,derive", Some("derive,encrypt,sign"));
        check("sign,sign", Some("sign"));
        for bad in ["", ",", "sign,", ",sign", "sign, derive", " sign", "Sign", "verify", "sign;derive"] {
            check(bad, None);
        }
    }
}
