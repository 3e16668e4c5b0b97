//! The table `[module_x509]`: modules with certificates, which upstream does not have. Knows neither keyd nor certd.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::KeyAlgorithm;

/// The modules that prove by certificates who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModuleX509 {
    /// Their names. `*` is any text.
    pub modules: Vec<String>,
    /// By what the hub knows the certificates.
    #[serde(default)]
    pub registration: Registration,
    /// What new key pairs are; `rsa-2048` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_algorithm: Option<KeyAlgorithm>,
}

/// By what a hub knows the certificate of a module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// By its thumbprint: any certificate will do.
    #[default]
    Thumbprint,
    /// By its issuer, which has been made known to the hub.
    Ca,
}

impl ModuleX509 {
    /// Whether the module `id` is one of them.
    pub fn includes(&self, id: &str) -> bool {
        self.modules.iter().any(|pattern| matches(pattern, id))
    }
}

/// `*` is any run of characters, everything else stands for itself: a module's name may have a question mark.
fn matches(pattern: &str, id: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == id };
    let Some(rest) = id.strip_prefix(head) else { return false };
    let mut starts = rest.char_indices().map(|(start, _)| start).chain([rest.len()]);
    starts.any(|start| matches(tail, &rest[start..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, id, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("", "", true),
            ("*", "", true),
            ("*", "x", true),
            ("cam-*", "cam-7", true),
            ("cam-*", "acam-7", false),
            ("*-7", "cam-7", true),
            ("*-7", "cam-77", false),
            ("a*b*c", "a-bb-c", true),
            ("a*b*c", "a-bb-", false),
            ("a?", "ab", false),
            ("\u{fc}*", "\u{fc}\u{fc}", true),
        ] {
            assert_eq!(matches(pattern, id), expected, "{pattern} {id}");
        }
    }
}
