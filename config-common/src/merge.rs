//! TOML documents laid one over another, each value remembering the file and line it came from.
//!
//! Tables merge key by key, arrays append, anything else is replaced (specification of the common layer, 2.3); so are arrays
//! of numbers, which are texts. Does not know which files there are, nor what a key means.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Table, Value};

use crate::Error;

/// One TOML document, or several merged.
#[derive(Debug, Default)]
pub(crate) struct Document {
    root: Branch,
}

type Branch = BTreeMap<String, Node>;

#[derive(Debug)]
struct Node {
    origin: Origin,
    tree: Tree,
}

#[derive(Debug)]
enum Tree {
    Table(Branch),
    Array(Vec<Node>),
    Leaf(Value),
}

impl Document {
    /// Parse the `text` of `file`.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let source = Source { file: file.into(), text };
        let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
        Ok(Self { root: source.branch(table.into_inner())? })
    }

    /// Lay `patch` over this document.
    pub(crate) fn overlay(&mut self, patch: Self) {
        overlay(&mut self.root, patch.root);
    }

    /// The plain values.
    pub(crate) fn to_table(&self) -> Table {
        table(&self.root)
    }

    /// Where the elements of the array `array` were written whose `name` is `name`.
    pub(crate) fn named(&self, array: &str, name: &str) -> Vec<Origin> {
        let Some(Node { tree: Tree::Array(elements), .. }) = self.root.get(array) else { return Vec::new() };
        let is_named = |node: &&Node| match &node.tree {
            Tree::Table(branch) => branch.get("name").is_some_and(|node| value(node).as_str() == Some(name)),
            Tree::Array(_) | Tree::Leaf(_) => false,
        };
        elements.iter().filter(is_named).map(|node| node.origin.clone()).collect()
    }

    /// Where the value at `path` came from, or the innermost table or array around it that has an origin.
    pub(crate) fn origin(&self, path: &KeyPath) -> Option<&Origin> {
        let mut segments = path.0.iter();
        let mut node = self.root.get(segments.next()?)?;
        for segment in segments {
            let next = match &node.tree {
                Tree::Table(branch) => branch.get(segment),
                Tree::Array(elements) => segment.parse::<usize>().ok().and_then(|index| elements.get(index)),
                Tree::Leaf(_) => None,
            };
            let Some(next) = next else { break };
            node = next;
        }
        Some(&node.origin)
    }
}

fn overlay(base: &mut Branch, patch: Branch) {
    for (key, node) in patch {
        match (base.get_mut(&key).map(|old| &mut old.tree), node.tree) {
            (Some(Tree::Table(old)), Tree::Table(new)) => overlay(old, new),
            (Some(Tree::Array(old)), Tree::Array(new)) if !(is_text(old) && is_text(&new)) => old.extend(new),
            (_, tree) => {
                base.insert(key, Node { origin: node.origin, tree });
            }
        }
    }
}

/// Whether it is a text written as the numbers of its bytes (spec service-common, 2.5). No setting is a list of numbers.
fn is_text(array: &[Node]) -> bool {
    !array.is_empty() && array.iter().all(|node| matches!(node.tree, Tree::Leaf(Value::Integer(_))))
}

fn table(branch: &Branch) -> Table {
    branch.iter().map(|(key, node)| (key.clone(), value(node))).collect()
}

fn value(node: &Node) -> Value {
    match &node.tree {
        Tree::Table(branch) => Value::Table(table(branch)),
        Tree::Array(elements) => Value::Array(elements.iter().map(value).collect()),
        Tree::Leaf(leaf) => leaf.clone(),
    }
}

/// A text and the file it stood in.
struct Source<'t> {
    file: Arc<Path>,
    text: &'t str,
}

impl Source<'_> {
    fn branch(&self, table: DeTable<'_>) -> Result<Branch, Error> {
        let entries = table.into_iter();
        entries
            .map(|(key, value)| Ok((key.as_ref().to_string(), self.node(key.span().start, value)?)))
            .collect()
    }

    fn node(&self, start: usize, value: Spanned<DeValue<'_>>) -> Result<Node, Error> {
        let span = value.span();
        let tree = match value.into_inner() {
            DeValue::Table(table) => Tree::Table(self.branch(table)?),
            DeValue::Array(array) => {
                let elements = array.into_iter().map(|element| self.node(element.span().start, element));
                Tree::Array(elements.collect::<Result<_, _>>()?)
            }
            scalar => {
                let scalar = ValueDeserializer::from(Spanned::new(span, scalar));
                Tree::Leaf(Value::deserialize(scalar).map_err(|error| self.syntax(&error))?)
            }
        };
        Ok(Node { origin: Origin { file: self.file.clone(), line: self.line(start) }, tree })
    }

    /// The parser's message without the excerpt it can print: configuration may hold a PIN.
    fn syntax(&self, error: &toml::de::Error) -> Error {
        let line = self.line(error.span().map_or(0, |span| span.start));
        Error::Syntax { file: self.file.to_path_buf(), line, reason: error.message().to_owned() }
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// Where a setting was written: file and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    file: Arc<Path>,
    line: usize,
}

impl Origin {
    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, counted from 1.
    pub fn line(&self) -> usize {
        self.line
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// A key in the merged document: `principal.1.uid`. Positions in arrays count from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyPath(Vec<String>);

impl KeyPath {
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        for (position, segment) in self.0.iter().enumerate() {
            f.write_str(if position == 0 { "" } else { "." })?;
            if !segment.is_empty() && segment.chars().all(is_bare) {
                f.write_str(segment)?;
            } else {
                write!(f, "{segment:?}")?;
            }
        }
        Ok(())
    }
}

impl From<&serde_path_to_error::Path> for KeyPath {
    fn from(path: &serde_path_to_error::Path) -> Self {
        use serde_path_to_error::Segment;
        let known = path.iter().map_while(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        });
        Self(known.collect())
    }
}

impl From<&serde_ignored::Path<'_>> for KeyPath {
    fn from(path: &serde_ignored::Path<'_>) -> Self {
        use serde_ignored::Path;
        let (parent, segment) = match path {
            Path::Root => return Self::default(),
            Path::Seq { parent, index } => (parent, Some(index.to_string())),
            Path::Map { parent, key } => (parent, Some(key.clone())),
            Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
                (parent, None)
            }
        };
        let mut segments = Self::from(*parent).0;
        segments.extend(segment);
        Self(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(texts: &[&str]) -> Document {
        let mut merged = Document::default();
        for (index, text) in texts.iter().enumerate() {
            merged.overlay(Document::parse(Path::new(&index.to_string()), text).unwrap());
        }
        merged
    }

    #[test]
    fn documents_merge_by_the_rules() {
        fn check(texts: &[&str], expected: &str) {
            let expected: Table = toml::from_str(expected).unwrap();
            assert_eq!(merged(texts).to_table(), expected, "{texts:?}");
        }
        for (texts, expected) in [
            (&[][..], ""),
            (&["a = 1", ""], "a = 1"),
            (&["", "a = 1"], "a = 1"),
            (&["a = 1", "a = 2", "b = 3"], "a = 2\nb = 3"),
            (&["a = 1", "a = 'x'"], "a = 'x'"),
            (&["t.x = 1\nt.y = 2", "t.y = 3\nt.z = 4"], "t = { x = 1, y = 3, z = 4 }"),
            (&["t.u.v = 1", "[t.u]\nw = 2"], "t.u = { v = 1, w = 2 }"),
            (&["a = ['1', '2']", "a = ['2', '3']"], "a = ['1', '2', '2', '3']"),
            (&["a = [1, '2']", "a = [2, 3]"], "a = [1, '2', 2, 3]"),
            (&["a = [97, 98]", "a = [99]"], "a = [99]"),
            (&["[[p]]\nx = 1", "[[p]]\nx = 2", "[[p]]\nx = 1"], "p = [{ x = 1 }, { x = 2 }, { x = 1 }]"),
            (&["p = [{ x = 1 }]", "[[p]]\ny = 2"], "p = [{ x = 1 }, { y = 2 }]"),
            (&["a = [[1]]", "a = [[2]]"], "a = [[1], [2]]"),
            (&["a = [1]", "a = []"], "a = [1]"),
            (&["a = 1", "a = [2]"], "a = [2]"),
            (&["a = [1]", "a = 2"], "a = 2"),
            (&["a = 1", "[a]\nb = 2"], "a.b = 2"),
            (&["[a]\nb = 2", "a = 1"], "a = 1"),
            (&["[a]\nb = 2", "[[a]]\nc = 1"], "a = [{ c = 1 }]"),
            (&["d = 2020-01-01", "f = 1.5\nt = true"], "d = 2020-01-01\nf = 1.5\nt = true"),
            (&["max = 12\n[[p]]\nu = 1", "max = 20", "[[p]]\nu = 2"], "max = 20\np = [{ u = 1 }, { u = 2 }]"),
        ] {
            check(texts, expected);
        }
    }

    #[test]
    fn merging_is_associative_where_types_agree() {
        let texts = ["a = [1]\nt.x = 1\ns = 1", "a = [2]\nt.y = [3]\ns = 2", "a = [3]\nt.y = [4]\nt.x = 5"];
        let mut right = merged(&texts[..1]);
        right.overlay(merged(&texts[1..]));
        assert_eq!(merged(&texts).to_table(), right.to_table());
    }

    #[test]
    fn every_value_remembers_where_it_came_from() {
        let document = merged(&[
            "a = 1\n\n[t]\nx = 1\n[[p]]\nu = 1\n",
            "[t]\ny = { z = 1 }\n\n[[p]]\nu = 2\n[[p]]\nu = 3\nv = 'x'\n",
            "# comment\na = 2\n[t]\n'k.k' = 1\n",
        ]);
        let check = |path: &[&str], expected: Option<&str>| {
            let path = KeyPath(path.iter().map(|segment| (*segment).to_owned()).collect());
            assert_eq!(document.origin(&path).map(ToString::to_string).as_deref(), expected, "{path}");
        };
        for (path, expected) in [
            (&["a"][..], Some("2:2")),
            (&["t", "x"], Some("0:4")),
            (&["t", "y"], Some("1:2")),
            (&["t", "y", "z"], Some("1:2")),
            (&["t", "k.k"], Some("2:4")),
            (&["t"], Some("0:3")),
            (&["p", "0", "u"], Some("0:6")),
            (&["p", "1", "u"], Some("1:5")),
            (&["p", "2", "v"], Some("1:8")),
            (&["p", "2"], Some("1:6")),
            (&["p", "2", "missing"], Some("1:6")),
            (&["p", "9"], Some("0:5")),
            (&["missing"], None),
            (&[], None),
        ] {
            check(path, expected);
        }
    }

    #[test]
    fn entries_are_found_by_name() {
        let principals = "\n[[p]]\nname = 'a'\n[[p]]\nname = 'b'";
        let document = merged(&[principals, "", "q = 1\np = [{ name = 'a' }, { x = 1 }, 'a']"]);
        let found =
            |array, name| document.named(array, name).iter().map(Origin::to_string).collect::<Vec<_>>();
        assert_eq!(found("p", "a"), ["0:2", "2:2"]);
        assert_eq!(found("p", "b"), ["0:4"]);
        assert!(found("p", "c").is_empty() && found("q", "a").is_empty() && found("r", "a").is_empty());
    }

    #[test]
    fn syntax_errors_name_the_line_and_repeat_no_value() {
        fn check(text: &str, line: usize) {
            match Document::parse(Path::new("x"), text) {
                Err(Error::Syntax { line: found, reason, .. }) => {
                    assert_eq!(found, line, "{text}");
                    assert!(!reason.contains("0815") && !reason.contains('\n'), "{reason}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        check("a = 1\nb = ", 2);
        check("pin = '0815", 1);
        check("a = 1\n\na = 2", 3);
        check("a = 1\n[a]\n", 2);
        check("a = 99999999999999999999", 1);
    }

    #[test]
    fn keys_are_printed_as_they_would_be_written() {
        let path = KeyPath(["preloaded_keys", "a.b", "", "1"].map(str::to_owned).to_vec());
        assert_eq!(path.to_string(), r#"preloaded_keys."a.b"."".1"#);
    }
}
