//! A module with a libcrypto of its own inside is never unloaded: that libcrypto could not be cleaned up.

fn main() {
    println!("cargo:rerun-if-env-changed=OPENSSL_STATIC");
    if std::env::var("OPENSSL_STATIC").is_ok_and(|value| value != "0") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
