//! What a file has to look like. Functions' lengths and other matters of grammar are clippy's (`clippy.toml`).

use super::{
    holds, read, root,
    source::{Source, all, product},
};

#[test]
fn files_begin_with_their_story() {
    let silent = all().iter().filter(|source| !source.text.starts_with("//! "));
    holds(
        "A file begins with `//!`: what it is, and what it deliberately does not know. \
         What a file does not know cannot be seen in its code, so it must be written; a story that needs \"and\" \
         shows a file that should be two.",
        &silent.map(|source| source.path.clone()).collect::<Vec<_>>(),
    );
}

#[test]
fn files_are_short() {
    let budget = |source: &Source| if source.is_test() { TEST_FILE_BUDGET } else { FILE_BUDGET };
    let long = all().iter().filter(|source| source.lines_before_tests() > budget(source));
    holds(
        &format!(
            "A file has at most {FILE_BUDGET} lines before its tests (250 is better), a file of tests only \
             {TEST_FILE_BUDGET}. A reader keeps one screenful of concepts in mind; a longer file holds more than \
             one noun."
        ),
        &long
            .map(|source| format!("{}: {} lines", source.path, source.lines_before_tests()))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn unsafe_has_few_addresses() {
    let others =
        all().iter().filter(|source| !UNSAFE_FILES.iter().any(|place| source.path.starts_with(place)));
    let violations: Vec<_> = others.flat_map(|source| source.mentions("unsafe")).collect();
    holds(
        "`unsafe` stands only in the files that tests/tests/tidy/form.rs lists. \
         Whoever audits the suite for memory errors must be able to read all of it in an hour.",
        &violations,
    );
}

#[test]
fn permission_for_unsafe_is_used() {
    let idle = UNSAFE_FILES.iter().filter(|place| {
        !all().iter().any(|source| source.path.starts_with(**place) && !source.mentions("unsafe").is_empty())
    });
    holds(
        "Each place that may say `unsafe` does so. A permission that nobody needs is one that nobody watches.",
        &idle.map(ToString::to_string).collect::<Vec<_>>(),
    );
}

#[test]
fn nothing_is_left_to_do() {
    let words = ["todo!", "unimplemented!", "dbg!"];
    let violations: Vec<_> =
        all().iter().flat_map(|source| words.iter().flat_map(|word| source.mentions(word))).collect();
    holds("What is committed works: no `todo!`, no `unimplemented!`, no `dbg!`.", &violations);
}

#[test]
fn tests_are_ignored_for_a_reason_only() {
    let mut violations = Vec::new();
    for source in all() {
        let bare = source.code.lines().enumerate().filter(|(_, line)| line.contains("#[ignore]"));
        violations.extend(bare.map(|(index, _)| format!("{}:{}", source.path, index + 1)));
    }
    holds(
        "`#[ignore = \"…\"]` says which wrong behaviour it excuses. An ignored test without a reason is never \
         looked at again.",
        &violations,
    );
}

#[test]
fn errors_are_typed() {
    let violations: Vec<_> = product()
        .flat_map(|source| ["Error::other", "anyhow"].map(|word| source.mentions(word)))
        .flatten()
        .collect();
    holds(
        "Daemons and libraries refuse with variants named by what was refused, never with `io::Error::other` or \
         `anyhow`: callers branch on errors, and docs/errors.md is made of them.",
        &violations,
    );
}

#[test]
fn versions_and_lints_stand_in_one_place() {
    let mut violations = Vec::new();
    for member in members() {
        let manifest: toml::Table = toml::from_str(&read(&format!("{member}/Cargo.toml"))).unwrap();
        if manifest.get("lints").and_then(|lints| lints.get("workspace")) != Some(&toml::Value::Boolean(true))
        {
            violations.push(format!("{member}/Cargo.toml: no `[lints] workspace = true`"));
        }
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = manifest.get(kind).and_then(toml::Value::as_table).into_iter().flatten();
            let own =
                entries.filter(|(_, value)| value.get("workspace") != Some(&toml::Value::Boolean(true)));
            violations.extend(own.map(|(name, _)| format!("{member}/Cargo.toml: {kind}.{name}")));
        }
    }
    holds(
        "Versions of dependencies and lints stand in the root Cargo.toml only; members say `workspace = true`. \
         Two versions of one crate are two sets of bugs.",
        &violations,
    );
}

/// The members of the workspace, as paths from the root.
fn members() -> Vec<String> {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")).unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap().iter();
    let members: Vec<_> = members.map(|member| member.as_str().unwrap().to_owned()).collect();
    assert!(members.iter().all(|member| root().join(member).is_dir()));
    members
}

/// The files, and folders of them, that may say `unsafe`.
const UNSAFE_FILES: &[&str] = &[
    "http-common/src/ffi.rs",         // the allocator's malloc_trim
    "key-engine/src/ffi/",            // what OpenSSL calls, and what openssl-sys lacks
    "key-engine/engine/src/ffi/",     // the ENGINE's own tables
    "key-engine/provider/src/lib.rs", // the entry point of aziot.so
    "tpm/device/src/ffi.rs",          // the TPM's library
];

/// Lines of a file before its tests, at most.
const FILE_BUDGET: usize = 400;

/// Lines of a file that is tests only, at most: its tests need not be understood together.
const TEST_FILE_BUDGET: usize = 500;
