//! Who may touch what: files, sockets, serialized forms, statuses. Reads the sources, not the dependencies.

use super::{
    holds,
    source::{Source, product},
};

#[test]
fn state_is_written_durably() {
    let words = ["fs::write", "fs::copy", "fs::rename", "File::create", "File::create_new", "OpenOptions"];
    holds(
        "Only config-common/src/durable.rs writes files. A state file that is written in any other way is empty \
         after a power loss at the wrong moment, and a device with an empty key file is lost.",
        &found(&words, |path| WRITERS.iter().any(|writer| path.starts_with(writer))),
    );
}

#[test]
fn no_daemon_listens_on_tcp() {
    holds(
        "There is no TCP listener in any daemon, in any build: who may do what is decided by the uid of the \
         connecting process, which only a Unix socket tells.",
        &found(&["TcpListener"], |_| false),
    );
}

#[test]
fn only_http_common_speaks_http() {
    let words = ["hyper", "hyper_util", "hyper_openssl", "http_body_util", "httparse"];
    holds(
        "Of the product only http-common names hyper. Limits, time-outs and retries then exist once for all.",
        &found(&words, |path| path.starts_with("http-common/")),
    );
}

#[test]
fn only_key_engine_speaks_to_openssl_sys() {
    holds(
        "Only key-engine names openssl-sys. Everyone else sees `private_key(handle) -> PKey<Private>`.",
        &found(&["openssl_sys"], |path| path.starts_with("key-engine/")),
    );
}

#[test]
fn serialized_forms_are_contracts() {
    let mut violations = Vec::new();
    for source in product().filter(|source| !has_contract(&source.path)) {
        let derived = source.product_lines().filter(|(_, line)| {
            line.contains("derive(") && (line.contains("Serialize") || line.contains("Deserialize"))
        });
        violations.extend(derived.map(|(number, line)| format!("{}:{number}: {}", source.path, line.trim())));
    }
    holds(
        "`Serialize` and `Deserialize` make a type part of a contract with clients, files or the cloud. Such types \
         stand in `*/api`, in the libraries that own a format, and in the files that \
         tests/tests/tidy/state.rs lists; everything else stays free to change.",
        &violations,
    );
}

#[test]
fn statuses_are_decided_in_one_match() {
    holds(
        "A daemon makes an `ApiError`, and with it a status, only in the one match of its error.rs, so that \
         docs/errors.md can show all of them side by side.",
        &found(&["ApiError"], |path| !is_daemon(path) || path.ends_with("/src/error.rs")),
    );
}

#[test]
fn statuses_have_no_wildcard() {
    let mut violations = Vec::new();
    for source in product().filter(|source| source.path.ends_with("/src/error.rs")) {
        if status_match(source).is_some_and(|decisions| decisions.contains(" _ =>")) {
            violations.push(source.path.clone());
        }
    }
    holds(
        "The match from errors to statuses has no `_`: whoever adds an error decides its status.",
        &violations,
    );
}

/// The match in which a daemon's errors get their statuses.
pub(crate) fn status_match(source: &Source) -> Option<&str> {
    let first = source.code.find("StatusCode::")?;
    let decisions = &source.code[source.code[..first].rfind("match ")?..];
    let mut depth = 0;
    let end = decisions.find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == '}' && depth == 0
    });
    Some(&decisions[..end?])
}

/// Where `words` stand in the product, but for files that `are_exempt`.
fn found(words: &[&str], are_exempt: impl Fn(&str) -> bool) -> Vec<String> {
    let judged = product().filter(|source| !are_exempt(&source.path));
    judged.flat_map(|source| words.iter().flat_map(|word| source.mentions(word))).collect()
}

fn has_contract(path: &str) -> bool {
    let owners = ["config-common/", "http-common/", "dps-client/src/schema.rs", "hub-client/src/schema.rs"];
    path.contains("/api/src/") || owners.iter().chain(STATE_FORMATS).any(|owner| path.starts_with(owner))
}

fn is_daemon(path: &str) -> bool {
    ["key/src/", "cert/src/", "identity/src/", "tpm/src/"].iter().any(|daemon| path.starts_with(daemon))
}

/// The files that write files.
const WRITERS: &[&str] = &[
    "config-common/src/durable.rs",
    "cert/src/store.rs", // an administrator's file in a directory that lets nothing be renamed
    "key-engine/src/bin/aziot-key-ref.rs", // its output, which may be a pipe
    "key-engine/src/ffi/note.rs", // a log for those who look for a fault
];

/// The files that own the form of something that outlives the process.
const STATE_FORMATS: &[&str] = &[
    "key/src/handle.rs",           // the content of a key handle, which clients hand back
    "identity/src/backup.rs",      // device_info and prev_state
    "identity/src/records.rs",     // what is known of each module
    "cert/renewal/src/journal.rs", // a renewal that is under way
];
