//! What the build says about the OpenSSL that it finds: the build scripts, run as cargo runs them.

use std::process::{Command, Output};

use tempfile::TempDir;

use super::world::{run, succeed};

/// What the build script of this folder does with an OpenSSL of this version and these switched-off parts.
fn build_script(folder: &str, version: &str, without: &str) -> Output {
    let directory = TempDir::new().unwrap();
    let program = directory.path().join("script");
    let source = format!("{}/../{folder}/build.rs", env!("CARGO_MANIFEST_DIR"));
    succeed(Command::new("rustc").args(["--edition", "2024", &source, "-o"]).arg(&program));
    let mut script = Command::new(&program);
    run(script.env("DEP_OPENSSL_VERSION_NUMBER", version).env("DEP_OPENSSL_CONF", without))
}

#[track_caller]
fn check(folder: &str, version: &str, without: &str, said: &str, not_said: &str) {
    let output = build_script(folder, version, without);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(said) && !text.contains(not_said), "{version} {without}: {text}");
}

#[test]
fn an_openssl_without_providers_is_an_error_that_says_so() {
    for old in ["1010117f", "1000200f", ""] {
        check("key-engine", old, "", "cargo::error=the OpenSSL here is older than 3.0", "warning");
    }
    for new in ["300000d0", "30500000", "40000020"] {
        check("key-engine", new, "", "cargo::rerun", "cargo::error");
    }
}

#[test]
fn whether_the_engine_is_built_is_told() {
    let folder = "key-engine/engine";
    check(folder, "300000d0", "OPENSSL_NO_MD2", "rustc-cfg=has_engine", "cargo:warning");
    check(folder, "300000d0", "", "aziot_keys.so is built\n", "built empty");
    check(
        folder,
        "30500000",
        "OPENSSL_NO_MD2,OPENSSL_NO_ENGINE",
        "built empty; use the provider",
        "rustc-cfg=has_engine",
    );
    check(folder, "40000020", "", "built empty; use the provider", "rustc-cfg=has_engine");
}
