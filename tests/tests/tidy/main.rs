//! The rules of the house, executable: a rule that matters is a test. Knows the text of the sources, never runs them.
//!
//! Each test gathers everything that breaks its rule and then fails once, with the reason for the rule.

#![allow(clippy::unwrap_used, reason = "a file of the work tree that cannot be read ends the check")]

mod checklists;
mod dependencies;
mod documents;
mod form;
mod layering;
mod metadata;
mod source;
mod state;

use std::path::{Path, PathBuf};

/// The root of the work tree.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the work tree").to_owned()
}

/// The text of a file of the work tree, by its path from the root.
#[track_caller]
fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

/// Fails when there are `violations` of a rule; `rationale` says the rule and why it is one.
#[track_caller]
fn holds(rationale: &str, violations: &[String]) {
    assert!(violations.is_empty(), "\n{rationale}\n\nbroken by:\n  {}\n", violations.join("\n  "));
}
