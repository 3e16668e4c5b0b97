//! Which of our packages may need which: the picture of docs/ARCHITECTURE.md as a table.

use std::collections::BTreeSet;

use super::{holds, metadata::ours};

#[test]
fn packages_need_only_those_below() {
    let names: BTreeSet<&str> = ours().into_keys().collect();
    let mut violations = Vec::new();
    for (name, package) in ours() {
        let Some((_, allowed)) = ALLOWED.iter().find(|(from, _)| *from == name) else {
            violations.push(format!("{name}: not in the table"));
            continue;
        };
        let edges = package.dependencies.iter().filter(|edge| names.contains(&*edge.name));
        let new = edges.filter(|edge| !edge.for_tests && !allowed.contains(&&*edge.name));
        violations.extend(new.map(|edge| format!("{name} -> {}", edge.name)));
    }
    holds(
        "Dependencies point down: daemons know each other's api only, api crates know the two common crates only, \
         the clients of the cloud do not know who signs. A new edge is a decision: make it in the table of \
         tests/tests/tidy/layering.rs and in docs/ARCHITECTURE.md.",
        &violations,
    );
}

#[test]
fn nobody_depends_on_a_daemon() {
    let mut violations = Vec::new();
    for (name, package) in ours() {
        let edges = package.dependencies.iter().filter(|edge| DAEMONS.contains(&&*edge.name));
        violations.extend(edges.map(|edge| format!("{name} -> {}", edge.name)));
    }
    holds(
        "Nobody depends on a daemon, not even for tests: journeys see the programs from outside, so that they can \
         be run against any other build of the API.",
        &violations,
    );
}

#[test]
fn api_crates_are_types_only() {
    let mut violations = Vec::new();
    for (name, package) in ours().into_iter().filter(|(name, _)| name.ends_with("-api")) {
        let edges = package.dependencies.iter().filter(|edge| !edge.for_tests);
        let new = edges.filter(|edge| !API_DEPENDENCIES.contains(&&*edge.name));
        violations.extend(new.map(|edge| format!("{name} -> {}", edge.name)));
    }
    holds(
        "An api crate is a contract: types, no input or output, no OpenSSL, no runtime. Whoever writes a client \
         can read it alone.",
        &violations,
    );
}

#[test]
fn dangerous_crates_have_one_user() {
    let mut violations = Vec::new();
    for (name, package) in ours() {
        for edge in package.dependencies.iter().filter(|edge| !edge.for_tests) {
            let keeper = KEPT.iter().find(|(kept, _)| *kept == edge.name);
            if keeper.is_some_and(|(_, keepers)| !keepers.contains(&name)) {
                violations.push(format!("{name} -> {}", edge.name));
            }
        }
    }
    holds(
        "HTTP is http-common's, raw OpenSSL is key-engine's. The simulated cloud and the benchmark may name hyper: \
         a judge that shares code with the judged proves nothing.",
        &violations,
    );
}

/// Each of our packages, with those of ours that it may need.
const ALLOWED: &[(&str, &[&str])] = &[
    ("config-common", &[]),
    ("http-common", &["config-common"]),
    ("key-api", &["tpm-api", "config-common", "http-common"]), // both authorize themselves to a TPM
    ("identity-api", &["key-api", "config-common", "http-common"]), // identities name key handles
    ("cert-api", &["key-api", "config-common", "http-common"]), // an issuer is named by a key handle
    ("tpm-api", &["config-common", "http-common"]),
    ("tpm-device", &["http-common"]),
    ("dps-client", &["config-common", "http-common"]),
    ("hub-client", &["config-common", "http-common"]),
    ("key-engine", &["key-api", "http-common", "config-common"]),
    ("aziot-openssl-engine", &["key-engine"]),
    ("aziot-openssl-provider", &["key-engine"]),
    ("aziot-keyd", &["key-api", "tpm-device", "config-common", "http-common"]),
    ("aziot-tpmd", &["tpm-api", "tpm-device", "config-common", "http-common"]),
    ("cert-renewal", &["config-common", "http-common"]),
    ("aziot-certd", &["cert-api", "cert-renewal", "key-api", "key-engine", "config-common", "http-common"]),
    (
        "aziot-identityd",
        &[
            "identity-api",
            "key-api",
            "cert-api",
            "cert-renewal",
            "tpm-api",
            "dps-client",
            "hub-client",
            "key-engine",
            "config-common",
            "http-common",
        ],
    ),
    ("aziot-cloud-sim", &[]),
    ("suite-tests", &["key-api", "cert-api", "identity-api", "tpm-api", "config-common", "http-common"]),
    ("suite-bench", &["key-api", "http-common", "suite-tests", "aziot-cloud-sim"]),
];

/// Programs that run on a device.
const DAEMONS: &[&str] = &["aziot-keyd", "aziot-certd", "aziot-identityd", "aziot-tpmd"];

/// What api crates may need.
const API_DEPENDENCIES: &[&str] = &[
    "config-common",
    "http-common",
    "key-api",
    "schemars",
    "serde",
    "serde_json",
    "thiserror",
    "tpm-api",
    "url",
    "zeroize",
];

/// Crates that only some of our packages may need.
const KEPT: &[(&str, &[&str])] = &[
    ("h2", HTTP),
    ("hyper", HTTP),
    ("hyper-util", HTTP),
    ("hyper-openssl", HTTP),
    ("http-body-util", HTTP),
    ("httparse", HTTP),
    ("openssl-sys", OPENSSL),
    ("foreign-types", OPENSSL),
    ("libc", LIBC),
    ("libloading", &["tpm-device"]),
];

const HTTP: &[&str] = &["http-common", "aziot-cloud-sim", "suite-bench"];

const OPENSSL: &[&str] = &["key-engine", "aziot-openssl-engine", "aziot-openssl-provider"];

/// What OpenSSL calls speaks C; http-common asks the allocator for malloc_trim.
const LIBC: &[&str] = &["key-engine", "aziot-openssl-engine", "aziot-openssl-provider", "http-common"];
