//! Refuses an OpenSSL that has no providers, before the compiler does so with a hundred unknown functions.

fn main() {
    println!("cargo::rerun-if-env-changed=DEP_OPENSSL_VERSION_NUMBER");
    let version = std::env::var("DEP_OPENSSL_VERSION_NUMBER").unwrap_or_default();
    // LibreSSL and its like have no such number.
    let version = u64::from_str_radix(&version, 16).unwrap_or_default();
    if version < FIRST_WITH_PROVIDERS {
        println!(
            "cargo::error=the OpenSSL here is older than 3.0, or is another library of that kind; this suite needs \
             OpenSSL 3.0 or later (docs/openssl.md)"
        );
    }
}

/// The version number of 3.0.0.
const FIRST_WITH_PROVIDERS: u64 = 0x3000_0000;
