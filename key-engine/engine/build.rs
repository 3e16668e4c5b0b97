//! Finds out whether this OpenSSL has ENGINE, and says so: a warning if not, because the library is empty then; otherwise
//! a line that `cargo build -vv` shows.

fn main() {
    println!("cargo:rustc-check-cfg=cfg(has_engine)");
    let disabled = std::env::var("DEP_OPENSSL_CONF").unwrap_or_default();
    let version = std::env::var("DEP_OPENSSL_VERSION_NUMBER").unwrap_or_default();
    let version = u64::from_str_radix(&version, 16).unwrap_or_default();
    let reason = if disabled.split(',').any(|name| name == "OPENSSL_NO_ENGINE") {
        "was configured without ENGINE"
    } else if version >= FIRST_WITHOUT {
        "is version 4 or later, which has no ENGINE"
    } else {
        println!("cargo:rustc-cfg=has_engine");
        // OpenSSL may unload an engine while keys and methods of it are still in use.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        println!("OpenSSL here has ENGINE: aziot_keys.so is built");
        return;
    };
    println!("cargo:warning=OpenSSL here {reason}: aziot_keys.so is built empty; use the provider aziot.so");
}

/// The version number of 4.0.0.
const FIRST_WITHOUT: u64 = 0x4000_0000;
