//! Who may touch which ids: `[[principal]]` entries as an access list.
//!
//! Does not know what the ids name (keys, certificates), nor how a peer's uid was found.
//! Rules: specification of the common layer, 2.6, and of keyd, 5.

use std::ops::Deref;

use wildmatch::WildMatch;

use crate::{Asker, Who};

/// Patterns by user and group. Root is always allowed; anyone else needs a pattern that matches the whole id.
///
/// In a pattern `*` is any run of characters, also none, `?` is exactly one Unicode scalar value, and everything
/// else stands for itself. `/`, spaces and dots are characters like any other.
#[derive(Debug, Clone, Default)]
pub struct Acl {
    entries: Vec<(Who, Vec<WildMatch>)>,
}

impl Acl {
    /// The proof that `asker` may touch `id`, or `None` if it may not.
    pub fn allow<'a, I: AsRef<str>>(&self, asker: impl Into<Asker<'a>>, id: I) -> Option<Allowed<I>> {
        let asker = asker.into();
        let matches = |(who, patterns): &(Who, Vec<WildMatch>)| {
            who.includes(asker) && patterns.iter().any(|pattern| pattern.matches(id.as_ref()))
        };
        let allowed = asker.uid == ROOT || self.entries.iter().any(matches);
        allowed.then_some(Allowed(id))
    }
}

impl<W: Into<Who>> Extend<(W, Vec<String>)> for Acl {
    /// Entries for the same user accumulate.
    fn extend<T: IntoIterator<Item = (W, Vec<String>)>>(&mut self, entries: T) {
        self.entries.extend(entries.into_iter().map(|(who, patterns)| {
            (who.into(), patterns.iter().map(|pattern| WildMatch::new(pattern)).collect())
        }));
    }
}

impl<W: Into<Who>> FromIterator<(W, Vec<String>)> for Acl {
    fn from_iter<T: IntoIterator<Item = (W, Vec<String>)>>(entries: T) -> Self {
        let mut acl = Self::default();
        acl.extend(entries);
        acl
    }
}

/// An id that some peer was allowed to touch. Only [`Acl::allow`] makes one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Allowed<I>(I);

impl<I> Allowed<I> {
    /// The id alone; the proof is spent.
    pub fn into_inner(self) -> I {
        self.0
    }
}

impl<I: AsRef<str>> Allowed<I> {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }
}

impl<I> Deref for Allowed<I> {
    type Target = I;

    fn deref(&self) -> &I {
        &self.0
    }
}

const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u32, &[&str])]) -> Acl {
        entries
            .iter()
            .map(|(uid, patterns)| (*uid, patterns.iter().map(|p| (*p).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn patterns_match_whole_ids() {
        fn check(pattern: &str, id: &str, expected: bool) {
            let allowed = acl(&[(1000, &[pattern])]).allow(1000, id).is_some();
            assert_eq!(allowed, expected, "pattern {pattern:?}, id {id:?}");
        }
        for (pattern, id, expected) in [
            ("camera-1", "camera-1", true),
            ("camera-1", "Camera-1", false),
            ("camera-1", "camera-12", false),
            ("camera", "my-camera", false),
            ("camera-?", "camera-1", true),
            ("camera-?", "camera-", false),
            ("camera-?", "camera-12", false),
            ("camera-?", "camera-é", true),
            ("camera-?", "camera-\u{1f980}", true),
            ("camera-?", "camera-e\u{301}", false), // two scalar values
            ("video/*", "video/", true),
            ("video/*", "video/a/b c.d", true),
            ("a?b", "a/b", true),
            ("a?b", "a.b", true),
            ("*", "", true),
            ("*", ".hidden/with space", true),
            ("***", "x", true),
            ("a**b", "ab", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*?", "", false),
            ("*?", "x", true),
            ("", "", true),
            ("", "x", false),
            ("[ab]", "a", false),
            ("[ab]", "[ab]", true),
            ("[*", "[x", true),
            ("{a,b}", "a", false),
            (r"a\*", r"a\x", true), // no escape character
            (r"a\*", "a*", false),
            ("!a", "b", false),
            ("*", "line\nbreak", true),
        ] {
            check(pattern, id, expected);
        }
    }

    #[test]
    fn root_needs_no_entry_and_others_do() {
        assert!(Acl::default().allow(0, "anything").is_some());
        assert!(acl(&[(0, &["only-this"])]).allow(0, "anything").is_some());
        assert!(Acl::default().allow(1000, "anything").is_none());
        assert!(acl(&[(1000, &[])]).allow(1000, "").is_none());
        assert!(acl(&[(1000, &["*"])]).allow(1001, "anything").is_none());
    }

    #[test]
    fn a_group_is_its_processes_and_its_members() {
        let group = Who::of(None, Some("root".to_owned())).unwrap();
        let acl = Acl::from_iter([(group, vec!["a".to_owned()])]);
        assert!(acl.allow((1000, 0), "a").is_some());
        assert!(acl.allow((1000, 0), "b").is_none());
        assert!(acl.allow((1000, 1000), "a").is_none());
        assert!(acl.allow(1000, "a").is_none());
    }

    #[test]
    fn entries_of_one_uid_accumulate() {
        let mut acl = acl(&[(1000, &["a"]), (1000, &["b"])]);
        acl.extend([(1000, vec!["c".to_owned()])]);
        for id in ["a", "b", "c"] {
            assert_eq!(acl.allow(1000, id).map(Allowed::into_inner), Some(id));
        }
        assert!(acl.allow(1000, "d").is_none());
    }

    #[test]
    fn a_hostile_pattern_takes_no_exponential_time() {
        let pattern = "*a".repeat(200) + "b";
        let id = "a".repeat(2000);
        assert!(acl(&[(1, &[&pattern])]).allow(1, &id).is_none());
    }
}
