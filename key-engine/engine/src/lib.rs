//! `aziot_keys.so`, an OpenSSL ENGINE for keys in keyd, for programs that know nothing newer (spec openssl-engine, part
//! I, with its improvements). Empty where OpenSSL has no ENGINE.
//!
//! ```text
//!   bind ──► ENGINE ──► load_private_key(handle) ──► RSA / EC_KEY with methods of our own ──► key_engine::remote
//! ```

#[cfg(has_engine)]
mod ffi;
#[cfg(has_engine)]
mod keys;
