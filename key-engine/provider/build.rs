//! The module is never unloaded. A thread that ends calls back what std left with it, which is code in the module; and a
//! libcrypto of the module's own could not be cleaned up.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
