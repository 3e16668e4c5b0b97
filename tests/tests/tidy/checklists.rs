//! Every line of the conformance checklists has a test that names it, or a reason why it has none.
//! `fixtures/checklists.toml` knows the numbers only; the tests are the text.
//!
//! A test claims lines by its name: `keys_12_…` claims line 12 of the checklist `keys`, `common_31_33_…` two lines.
//! `proved_by` in the list lends a test to lines that its name does not say.

use std::collections::{BTreeMap, BTreeSet};

use super::{holds, read, source::all};

#[test]
fn every_line_has_a_test_or_a_reason() {
    let tests = tests();
    let mut violations = Vec::new();
    for (name, list) in checklists() {
        let mut tested: BTreeSet<u32> = tests.iter().flat_map(|test| claimed(test, &name)).collect();
        tested.extend(list.proved_by.keys());
        let left_out: BTreeSet<u32> = list.left_out.keys().copied().collect();
        let silent = (1..=list.lines).filter(|line| !tested.contains(line) && !left_out.contains(line));
        violations.extend(silent.map(|line| format!("{name}_{line:02}: no test, no reason")));
        let both = tested.intersection(&left_out);
        violations.extend(both.map(|line| format!("{name}_{line:02}: left out, but tested")));
        let beyond = tested.iter().chain(&left_out).filter(|line| !(1..=list.lines).contains(*line));
        violations.extend(beyond.map(|line| format!("{name}_{line}: the list has {} lines", list.lines)));
    }
    holds(
        "Each line of a conformance checklist is claimed by the name of a test or left out with a reason in \
         tests/fixtures/checklists.toml. A promise without a test is a wish.",
        &violations,
    );
}

#[test]
fn lent_tests_exist() {
    let tests = tests();
    let mut violations = Vec::new();
    for (name, list) in checklists() {
        let exists = |proof: &str| tests.iter().any(|test| test.starts_with(proof) || claims_as(test, proof));
        let missing = list.proved_by.values().flatten().filter(|proof| !exists(proof));
        violations.extend(missing.map(|proof| format!("{name}: no test's name begins with {proof}")));
    }
    holds("A test that proves a line of a checklist exists and is not ignored.", &violations);
}

struct Checklist {
    lines: u32,
    /// By line: why it has no test.
    left_out: BTreeMap<u32, Vec<String>>,
    /// By line: what the names of the tests begin with that prove it.
    proved_by: BTreeMap<u32, Vec<String>>,
}

fn checklists() -> BTreeMap<String, Checklist> {
    let lists: toml::Table = toml::from_str(&read("tests/fixtures/checklists.toml")).unwrap();
    let list = |list: &toml::Value| Checklist {
        lines: u32::try_from(list["lines"].as_integer().unwrap()).unwrap(),
        left_out: by_line(&list["left_out"]),
        proved_by: by_line(&list["proved_by"]),
    };
    lists.iter().map(|(name, value)| (name.clone(), list(value))).collect()
}

/// `text = [lines]` turned round.
fn by_line(table: &toml::Value) -> BTreeMap<u32, Vec<String>> {
    let mut by_line = BTreeMap::<u32, Vec<String>>::new();
    for (text, lines) in table.as_table().unwrap() {
        for line in lines.as_array().unwrap() {
            let line = u32::try_from(line.as_integer().unwrap()).unwrap();
            by_line.entry(line).or_default().push(text.clone());
        }
    }
    by_line
}

/// The names of all tests that are not ignored.
fn tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for source in all() {
        let lines: Vec<&str> = source.code.lines().map(str::trim).collect();
        for (index, line) in lines.iter().enumerate() {
            let line = line.strip_prefix("async ").unwrap_or(line);
            let Some((name, _)) = line.strip_prefix("fn ").and_then(|line| line.split_once('(')) else {
                continue;
            };
            let attributes: Vec<_> =
                lines[..index].iter().rev().take_while(|line| line.starts_with("#[")).collect();
            let is_test = attributes.iter().any(|line| line.contains("test]") || line.contains("test("));
            if is_test && !attributes.iter().any(|line| line.contains("ignore")) {
                tests.insert(name.to_owned());
            }
        }
    }
    tests
}

/// The lines of the checklist `list` that the name of `test` claims.
fn claimed(test: &str, list: &str) -> Vec<u32> {
    let numbers = test.strip_prefix(list).and_then(|rest| rest.strip_prefix('_')).unwrap_or("");
    numbers.split('_').map_while(|word| word.parse().ok()).collect()
}

/// Whether `test` claims a line that `proof` names, such as `common_45`.
fn claims_as(test: &str, proof: &str) -> bool {
    let Some((list, _)) = proof.split_once('_') else { return false };
    let lines = claimed(test, list);
    claimed(proof, list).iter().any(|line| lines.contains(line))
}

#[test]
fn names_claim_lines() {
    assert!(claims_as("common_44_45_paths", "common_45") && !claims_as("common_44_paths", "common_45"));
    assert_eq!(claimed("common_04_24_a_socket", "common"), [4, 24]);
    assert_eq!(claimed("keys_12_x_9", "keys"), [12]);
    assert!(claimed("keys_are_kept", "keys").is_empty() && claimed("keys_12_x", "common").is_empty());
}
