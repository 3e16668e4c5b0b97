//! Documents say what is there: tables of statuses, links, commands, members of the workspace.

use std::{collections::BTreeSet, fs};

use super::{holds, read, root, source::all, state::status_match};

#[test]
fn the_status_tables_are_those_of_the_code() {
    let text = read("docs/errors.md");
    let mut violations = Vec::new();
    for (daemon, folder) in [("keyd", "key"), ("certd", "cert"), ("identityd", "identity"), ("tpmd", "tpm")] {
        let path = &format!("{folder}/src/error.rs");
        let decided = decided(path);
        let rows = documented(&text, daemon);
        let documented: BTreeSet<_> = rows.iter().cloned().collect();
        assert!(decided.len() > 2, "no statuses were found in {path}");
        let missing = decided.difference(&documented);
        violations.extend(missing.map(|(name, status)| format!("{daemon}: no row `{name}` with {status}")));
        let stale = documented.difference(&decided);
        violations
            .extend(stale.map(|(name, status)| format!("{daemon}: `{name}` is not {status} in {path}")));
        let mut seen = BTreeSet::new();
        let twice = rows.iter().filter(|(name, _)| !seen.insert(name));
        violations.extend(twice.map(|(name, _)| format!("{daemon}: `{name}` has several rows")));
    }
    holds(
        "docs/errors.md has one row for each error of a daemon, with the status that the daemon gives it. \
         Whoever runs a device reads there, not in the code.",
        &violations,
    );
}

#[test]
fn links_lead_somewhere() {
    let mut violations = Vec::new();
    for (path, text) in documents() {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_file = !link.is_empty() && !link.contains("://");
            if is_file && !root().join(folder).join(link).exists() {
                violations.push(format!("{path}: {link}"));
            }
        }
    }
    holds("Links in documents lead to files that exist.", &violations);
}

#[test]
fn commands_exist() {
    let makefile = read("Makefile");
    let mut violations = Vec::new();
    for (path, text) in documents() {
        let quoted = text.split('`').skip(1).step_by(2).flat_map(str::lines);
        for command in quoted.filter_map(|code| code.trim().strip_prefix("make ")) {
            let target = command.split_whitespace().next().unwrap_or_default();
            if !makefile.contains(&format!("\n{target}:")) {
                violations.push(format!("{path}: make {target}"));
            }
        }
    }
    holds("Each `make …` in a document is a target of the Makefile.", &violations);
}

#[test]
fn the_code_map_is_complete() {
    let map = read("docs/ARCHITECTURE.md");
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().iter().filter_map(toml::Value::as_str);
    let missing = members.filter(|member| !map.contains(&format!("`{member}`")));
    holds(
        "docs/ARCHITECTURE.md names every member of the workspace.",
        &missing.map(str::to_owned).collect::<Vec<_>>(),
    );
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(
        lines <= 120,
        "README.md has {lines} lines: what it is, a picture, two commands, where to read on"
    );
}

/// The Markdown documents that people write, with their paths.
fn documents() -> Vec<(String, String)> {
    let mut documents = Vec::new();
    for folder in ["", "docs/", "docs/config/", "bench/", "tests/", "tests/cloud-sim/"] {
        let Ok(entries) = fs::read_dir(root().join(folder)) else { continue };
        for entry in entries.map(Result::unwrap) {
            let name = entry.file_name().into_string().expect("our file names are UTF-8");
            if name.ends_with(".md") {
                let path = format!("{folder}{name}");
                documents.push((path.clone(), read(&path)));
            }
        }
    }
    assert!(documents.len() > 5);
    documents
}

/// The variants of a daemon's error with their statuses, from its one match.
fn decided(path: &str) -> BTreeSet<(String, u16)> {
    let source = all().iter().find(|source| source.path == path).unwrap_or_else(|| panic!("{path}"));
    let decisions = status_match(source).unwrap_or_else(|| panic!("{path} decides no statuses"));
    let mut decided = BTreeSet::new();
    let mut waiting = Vec::new();
    for word in decisions.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        if let Some(variant) = word.strip_prefix("Error::").or_else(|| word.strip_prefix("Self::")) {
            waiting.push(variant.to_owned());
        } else if let Some(name) = word.strip_prefix("StatusCode::") {
            decided.extend(waiting.drain(..).map(|variant| (variant, number(name))));
        }
    }
    decided
}

/// The rows `| … | `Variant` | status | …` under the heading of `daemon`.
fn documented(text: &str, daemon: &str) -> Vec<(String, u16)> {
    let chapter = text.split("\n## ").find(|chapter| chapter.lines().next() == Some(daemon));
    let rows = chapter.unwrap_or_else(|| panic!("no chapter {daemon}")).lines().filter_map(|row| {
        let mut cells = row.strip_prefix("| ")?.split(" | ");
        let name = cells.next()?.trim().strip_prefix('`')?.strip_suffix('`')?;
        Some((name.to_owned(), cells.next()?.trim().parse().ok()?))
    });
    rows.collect()
}

fn number(status: &str) -> u16 {
    match status {
        "BAD_REQUEST" => 400,
        "UNAUTHORIZED" => 401,
        "NOT_FOUND" => 404,
        "UNPROCESSABLE_ENTITY" => 422,
        "TOO_MANY_REQUESTS" => 429,
        "INTERNAL_SERVER_ERROR" => 500,
        "SERVICE_UNAVAILABLE" => 503,
        other => panic!("a status that no daemon had before: {other}"),
    }
}
