//! The examples in `docs/config` are good configurations and show every setting. Knows no daemon.

#![allow(clippy::unwrap_used, reason = "an example that cannot be read ends the check")]

use std::{fs, path::PathBuf};

use config_common::{Loaded, read};
use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;

#[test]
fn the_example_of_keyd() {
    is_good_and_complete::<key_api::Config>("keyd.toml");
}

#[test]
fn the_example_of_certd() {
    is_good_and_complete::<cert_api::Config>("certd.toml");
}

#[test]
fn the_example_of_tpmd() {
    is_good_and_complete::<tpm_api::Config>("tpmd.toml");
}

#[test]
fn the_example_of_identityd() {
    is_good_and_complete::<identity_api::Config>("identityd.toml");
}

/// The example reads without warning, as it stands and with all that is commented out, and then has every setting.
#[track_caller]
fn is_good_and_complete<T: DeserializeOwned + JsonSchema>(name: &str) {
    let example =
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/config").join(name));
    let example = example.unwrap();
    reads::<T>(&example);
    let all: String = example.lines().map(|line| uncommented(line).to_owned() + "\n").collect();
    reads::<T>(&all);
    let shown: toml::Table = toml::from_str(&all).unwrap();
    let schema = SchemaGenerator::default().into_root_schema_for::<T>();
    for setting in schema.as_value()["properties"].as_object().unwrap().keys() {
        assert!(shown.contains_key(setting), "docs/config/{name} does not show {setting}");
    }
}

#[track_caller]
fn reads<T: DeserializeOwned>(text: &str) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, text).unwrap();
    let loaded: Result<Loaded<T>, _> = read(&file, &directory.path().join("none"));
    match loaded {
        Ok(Loaded { warnings, .. }) => {
            assert!(
                warnings.is_empty(),
                "{:?}",
                warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
            );
        }
        Err(error) => panic!("{error}"),
    }
}

/// The setting in a line `#setting`, or the line itself.
fn uncommented(line: &str) -> &str {
    line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)
}
