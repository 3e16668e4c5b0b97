//! What the tests of keyd share: a keyd on a temporary directory.
#![allow(dead_code, unreachable_pub, reason = "each test binary includes it and uses a part")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use keyd::Keyd;
use openssl::sha::sha256;
use tempfile::TempDir;

/// A new `homedir_path`.
pub fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A keyd below `home` with some more configuration, as TOML.
pub fn keyd(home: &Path, more: &str) -> Arc<Keyd> {
    let text = format!("{more}\n[aziot_keys]\nhomedir_path = {home:?}\n");
    Arc::new(Keyd::new(toml::from_str(&text).unwrap()).unwrap())
}

/// The file of a key, by the rule of spec keys-service, 9.1.
pub fn key_file(home: &Path, id: &str) -> PathBuf {
    let letters: String = id.chars().filter(char::is_ascii_alphanumeric).collect();
    let hash: String = sha256(id.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    home.join("keys").join(format!("{letters}-{hash}.key"))
}

/// Makes a file look as if it had been written long ago, so that it may be remembered.
pub fn age(path: &Path) {
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    File::open(path).unwrap().set_modified(hour_ago).unwrap();
    std::thread::sleep(Duration::from_millis(30));
}

/// The names in a directory.
pub fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// `DigestInfo` of SHA-256 (RFC 8017, 9.2 note 1).
pub fn sha256_digest_info(message: &[u8]) -> Vec<u8> {
    let prefix = [
        0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
        0x04, 0x20,
    ];
    [&prefix[..], &sha256(message)].concat()
}
