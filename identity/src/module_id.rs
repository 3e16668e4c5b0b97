//! The name of a module, checked before it gets anywhere near a URL or a file. Does not know whether there is one.

use crate::Error;

/// A name that a hub takes: 1 to 128 of its characters, and no path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModuleId(String);

impl ModuleId {
    /// `id`, if it can be the name of a module.
    pub(crate) fn parse(id: &str) -> Result<Self, Error> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || ALLOWED.contains(c);
        let reason = match id {
            _ if id.trim().is_empty() => "it is blank",
            _ if id.bytes().all(|byte| byte == b'.') => "it is a path",
            _ if id.len() > LONGEST => "it is longer than 128 characters",
            _ if !id.chars().all(allowed) => {
                "a hub takes only letters, digits and - . + % _ # * ? ! ( ) , : = @ $ '"
            }
            _ => return Ok(Self(id.to_owned())),
        };
        Err(Error::BadModuleId { id: id.to_owned(), reason })
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

const ALLOWED: &str = "-.+%_#*?!(),:=@$'";
const LONGEST: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "$edgeAgent", "a.b", "100%", "x(1)'", &"x".repeat(128)] {
            assert!(ModuleId::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            " ",
            "a b",
            ".",
            "..",
            "...",
            "a/b",
            "../../x",
            "a\\b",
            "é",
            "a\n",
            "a\0",
            "a&b",
            &"x".repeat(129),
        ] {
            assert!(ModuleId::parse(bad).is_err(), "{bad}");
        }
    }
}
