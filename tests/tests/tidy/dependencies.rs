//! Foreign packages: licences, bans and sources as `deny.toml` wants them. Knows no list of vulnerabilities: that is
//! `cargo deny`'s, where it is installed.

use super::{holds, metadata::packages, read};

#[test]
fn licences_are_allowed() {
    let allowed = strings(&deny()["licenses"]["allow"]);
    let mut violations = Vec::new();
    for package in packages().iter().filter(|package| package.source.is_some()) {
        let license = package.license.as_deref().unwrap_or("(none)");
        if !permits(license, &allowed) {
            violations.push(format!("{} {}: {license}", package.name, package.version));
        }
    }
    holds(
        "Every dependency can be used under one of the licences in deny.toml: who ships the suite can ship it \
         without asking a lawyer.",
        &violations,
    );
}

#[test]
fn banned_crates_stay_away() {
    let deny = deny();
    let banned = deny["bans"]["deny"].as_array().unwrap();
    let mut violations = Vec::new();
    for ban in banned {
        let name = ban["crate"].as_str().unwrap();
        if packages().iter().any(|package| package.name == name) {
            violations.push(format!("{name}: {}", ban["reason"].as_str().unwrap()));
        }
    }
    holds("The crates that deny.toml bans are not used, not even by our dependencies.", &violations);
}

#[test]
fn everything_comes_from_the_registry() {
    let registries = strings(&deny()["sources"]["allow-registry"]);
    let mut violations = Vec::new();
    for package in packages() {
        let source = package.source.as_deref().and_then(|source| source.strip_prefix("registry+"));
        if package.source.is_some()
            && !source.is_some_and(|source| registries.iter().any(|known| known == source))
        {
            violations.push(format!("{} from {:?}", package.name, package.source));
        }
    }
    holds("Dependencies are published versions, never somebody's branch.", &violations);
}

fn deny() -> toml::Table {
    toml::from_str(&read("deny.toml")).unwrap()
}

fn strings(list: &toml::Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// Whether the SPDX `expression` can be satisfied with `allowed` licences alone.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut permitted = all_of(words, allowed);
    while words.next_if_eq(&"OR").is_some() {
        permitted |= all_of(words, allowed);
    }
    permitted
}

fn all_of(words: &mut Words<'_>, allowed: &[String]) -> bool {
    let mut permitted = one(words, allowed);
    while words.next_if_eq(&"AND").is_some() {
        permitted &= one(words, allowed);
    }
    permitted
}

fn one(words: &mut Words<'_>, allowed: &[String]) -> bool {
    if words.next_if_eq(&"(").is_some() {
        let permitted = any_of(words, allowed);
        return words.next() == Some(")") && permitted;
    }
    let Some(name) = words.next() else { return false };
    let license = match words.next_if_eq(&"WITH").and_then(|_| words.next()) {
        Some(exception) => format!("{name} WITH {exception}"),
        None => name.to_owned(),
    };
    allowed.contains(&license)
}

#[test]
fn licence_expressions() {
    let allowed = ["MIT", "Unicode-3.0", "BSD-3-Clause WITH care"].map(str::to_owned);
    let check =
        |expression: &str, expected| assert_eq!(permits(expression, &allowed), expected, "{expression}");
    check("MIT", true);
    check("MIT/Apache-2.0", true);
    check("GPL-3.0 OR MIT", true);
    check("GPL-3.0 AND MIT", false);
    check("(MIT OR Apache-2.0) AND Unicode-3.0", true);
    check("(GPL-3.0 OR Apache-2.0) AND Unicode-3.0", false);
    check("Apache-2.0 WITH LLVM-exception OR MIT", true);
    check("MIT WITH surprise", false);
    check("BSD-3-Clause WITH care", true);
    check("BSD-3-Clause", false);
    check("", false);
    check("MIT MIT", false);
}
