//! `docs/api` is what the tables of endpoints say. `UPDATE_API=1` (`make api`) writes it anew. Knows no daemon.

#![allow(clippy::unwrap_used, reason = "a document that cannot be read ends the check")]

use std::{env, fs, path::PathBuf};

use cert_api::CertificatesApi;
use http_common::{
    Service,
    openapi::{document, document_of, given_up},
};
use identity_api::IdentitiesApi;
use key_api::KeysApi;
use serde_json::Value;
use tpm_api::TpmApi;

#[test]
fn the_documents_are_those_of_the_tables() {
    are_current::<KeysApi>();
    are_current::<CertificatesApi>();
    are_current::<IdentitiesApi>();
    are_current::<TpmApi>();
}

/// A client that is made from a document sends what the daemon needs.
#[test]
fn the_documents_say_which_bodies_are_needed() {
    let bodies: Vec<String> =
        [bodies::<KeysApi>(), bodies::<CertificatesApi>(), bodies::<IdentitiesApi>(), bodies::<TpmApi>()]
            .concat();
    for expected in [
        "post /key needs one",
        "delete /key needs one",
        "post /parameters/{parameterName} needs one",
        "post /sign needs one",
        "put /certificates/{certId} needs one",
        "delete /certificates/{certId} takes one",
        "post /identities/device needs one",
        "post /identities/device/reprovision takes one",
        "post /identities/modules needs one",
        "get /identities/modules/{id} has none",
        "put /identities/modules/{id} needs one",
        "delete /identities/modules/{id} takes one",
    ] {
        assert!(bodies.iter().any(|body| body == expected), "not: {expected}; but: {bodies:#?}");
    }
}

#[test]
fn the_overview_is_that_of_the_tables() {
    let tables = [rows::<KeysApi>(), rows::<CertificatesApi>(), rows::<IdentitiesApi>(), rows::<TpmApi>()];
    is_current("README.md", &(OVERVIEW.to_owned() + &tables.concat()));
}

/// The text of a file in `docs/api` must be `expected`, or becomes it if so asked.
#[track_caller]
fn is_current(name: &str, expected: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/api").join(name);
    if env::var_os("UPDATE_API").is_some() {
        fs::write(&path, expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/api/{name} is not what the table of endpoints says: run `make api`, look at the difference, commit it"
    );
}

/// The document of a service, and one for each version that was given up.
#[track_caller]
fn are_current<T: Service>() {
    let text = |document: Value| serde_json::to_string_pretty(&document).unwrap() + "\n";
    is_current(&format!("{}.json", T::NAME), &text(document::<T>()));
    for version in given_up::<T>() {
        is_current(&format!("{}-{version}.json", T::NAME), &text(document_of::<T>(version)));
    }
}

/// What the document of a service says of the bodies of its endpoints.
fn bodies<T: Service>() -> Vec<String> {
    let document = document::<T>();
    let paths = document["paths"].as_object().unwrap().iter();
    let methods = paths.flat_map(|(path, methods)| {
        methods.as_object().unwrap().iter().map(move |(method, operation)| {
            let says = match operation["requestBody"]["required"].as_bool() {
                None => "has none",
                Some(false) => "takes one",
                Some(true) => "needs one",
            };
            format!("{method} {path} {says}")
        })
    });
    methods.collect()
}

/// The table of a service in Markdown.
fn rows<T: Service>() -> String {
    let versions: Vec<_> = T::VERSIONS.iter().map(|version| format!("`{version}`")).collect();
    let given_up: String = given_up::<T>()
        .iter()
        .map(|version| format!(" [That of {version}]({}-{version}.json).", T::NAME))
        .collect();
    let mut text = format!(
        "\n## {}\n\n{}\nAccepted versions: {}. [OpenAPI document]({0}.json).{given_up}\n\n\
         | method | path | versions | request | success |\n|---|---|---|---|---|\n",
        T::NAME,
        T::ABOUT.trim(),
        versions.join(", "),
    );
    for row in T::operations() {
        let status = row.status;
        text +=
            &format!("| {} | `{}` | {} | `{}` | {status} |\n", row.method, row.path, row.versions, row.name);
    }
    text
}

const OVERVIEW: &str = "# The endpoints

Written by `make api` from the tables in the daemons' folders, such as `key/api/src/lib.rs`; do not edit.

Every request carries `?api-version=…`.
Names in braces travel in the path, names after `?` in the query, all other fields in a JSON body.
What a refused request answers stands in [errors.md](../errors.md).
";
