//! What cargo knows about our packages and those that they need.

use std::{collections::BTreeMap, process::Command, sync::OnceLock};

use serde_json::Value;

use super::root;

/// A package, ours or not.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Where it comes from; `None` for ours.
    pub(crate) source: Option<String>,
    /// Its SPDX expression.
    pub(crate) license: Option<String>,
    /// What it needs.
    pub(crate) dependencies: Vec<Dependency>,
}

/// An edge between packages.
pub(crate) struct Dependency {
    /// The needed package.
    pub(crate) name: String,
    /// Whether only tests need it.
    pub(crate) for_tests: bool,
}

/// All packages that a Linux build needs, ours among them.
pub(crate) fn packages() -> &'static [Package] {
    static PACKAGES: OnceLock<Vec<Package>> = OnceLock::new();
    PACKAGES.get_or_init(|| ask_cargo()["packages"].as_array().unwrap().iter().map(package).collect())
}

/// Our packages by name.
pub(crate) fn ours() -> BTreeMap<&'static str, &'static Package> {
    packages()
        .iter()
        .filter(|package| package.source.is_none())
        .map(|package| (&*package.name, package))
        .collect()
}

fn ask_cargo() -> Value {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // A build of this test has fetched all that is asked for here.
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline"]);
    cargo.args(["--filter-platform=x86_64-unknown-linux-gnu"]);
    let output = cargo.current_dir(root()).output().expect("cargo can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn package(package: &Value) -> Package {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    Package {
        name: text(&package["name"]).unwrap(),
        version: text(&package["version"]).unwrap(),
        source: text(&package["source"]),
        license: text(&package["license"]),
        dependencies: dependencies
            .map(|edge| Dependency { name: text(&edge["name"]).unwrap(), for_tests: edge["kind"] == "dev" })
            .collect(),
    }
}
