//! The subject of a certificate request: a common name, or a table of attributes (spec identity-service, 7.3.1). Knows
//! neither X.509 nor which attributes there are.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `"press-17"` or `{ CN = "press-17", O = "Acme" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Wire", into = "Wire")]
pub enum Subject {
    /// The common name alone.
    CommonName(String),
    /// A common name with further attributes.
    Attributes {
        /// `CN`.
        common_name: String,
        /// All others by name, in upper case.
        others: BTreeMap<String, String>,
    },
}

impl Subject {
    /// The common name.
    pub fn common_name(&self) -> &str {
        match self {
            Self::CommonName(name) | Self::Attributes { common_name: name, .. } => name,
        }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "expected a common name, or a table of texts with CN")]
enum Wire {
    Name(String),
    Table(BTreeMap<String, String>),
}

impl TryFrom<Wire> for Subject {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<Self, &'static str> {
        match wire {
            Wire::Name(name) => Ok(Self::CommonName(name)),
            Wire::Table(table) => {
                let upper = table.into_iter().map(|(name, value)| (name.to_uppercase(), value));
                let mut others: BTreeMap<_, _> = upper.collect();
                let common_name = others.remove("CN").ok_or("a subject needs CN")?;
                Ok(Self::Attributes { common_name, others })
            }
        }
    }
}

impl From<Subject> for Wire {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::CommonName(name) => Self::Name(name),
            Subject::Attributes { common_name, mut others } => {
                others.insert("CN".to_owned(), common_name);
                Self::Table(others)
            }
        }
    }
}
