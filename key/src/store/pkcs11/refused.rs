//! The PINs that tokens have refused, in a file, so that a keyd that is started again and again locks no token. The file holds
//! no PINs, but what tells whether one is among them. Does not know who tries PINs, and when.
//!
//! A line is `token salt digest` in base64: SHA-256 of the token's identity, and PBKDF2-HMAC-SHA256 of the PIN by the salt.
//! Lines that cannot be read are passed over.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use config_common::{Error, durable, read_regular};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::pkcs5::pbkdf2_hmac;

/// The file. It need not exist.
pub(super) struct Refused {
    path: PathBuf,
    changing: Mutex<()>,
}

impl Refused {
    /// The file at `path`, which is not looked at yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, changing: Mutex::default() }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether `token` has refused `pin`.
    pub(super) fn has(&self, token: &str, pin: &[u8]) -> bool {
        let token = tag(token);
        self.lines().iter().any(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [of, salt, digest] = fields[..] else { return false };
            let salt = STANDARD.decode(salt).unwrap_or_default();
            of == token && digest_of(pin, &salt).is_ok_and(|expected| expected == digest)
        })
    }

    /// Remembers that `token` has refused `pin`.
    pub(super) fn note(&self, token: &str, pin: &[u8]) {
        let mut salt = [0; SALT];
        let digest = openssl::rand::rand_bytes(&mut salt).and_then(|()| digest_of(pin, &salt));
        let Ok(digest) = digest else { return };
        let _changing = self.changing.lock().expect("no panic while held");
        let mut lines = self.lines();
        lines.push(format!("{} {} {digest}", tag(token), STANDARD.encode(salt)));
        self.write(&lines[lines.len().saturating_sub(MAX_LINES)..]);
    }

    /// Forgets what `token` has refused.
    pub(super) fn forget(&self, token: &str) {
        let token = tag(token);
        let _changing = self.changing.lock().expect("no panic while held");
        let (of_token, others): (Vec<_>, Vec<_>) =
            self.lines().into_iter().partition(|line| line.starts_with(&token));
        if !of_token.is_empty() {
            self.write(&others);
        }
    }

    fn lines(&self) -> Vec<String> {
        let bytes = read_regular(&self.path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
    }

    fn write(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| line.clone() + "\n").collect();
        if let Err(error) = write(&self.path, &text) {
            let why = http_common::chain(&error);
            tracing::warn!("a PIN that was refused may be tried again after a restart: {why}");
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    if text.is_empty() {
        return durable::remove(path).map(drop);
    }
    if let Some(directory) = path.parent() {
        durable::create_dir(directory, DIRECTORY_MODE)?;
    }
    durable::write(path, text.as_bytes(), FILE_MODE)
}

fn tag(token: &str) -> String {
    STANDARD.encode(openssl::sha::sha256(token.as_bytes()))
}

fn digest_of(pin: &[u8], salt: &[u8]) -> Result<String, ErrorStack> {
    let mut digest = [0; 32];
    pbkdf2_hmac(pin, salt, ROUNDS, MessageDigest::sha256(), &mut digest)?;
    Ok(STANDARD.encode(digest))
}

/// Bytes of a salt.
const SALT: usize = 16;
/// Some 10 ms: PINs are short, and whoever can read the file can read keys as well.
const ROUNDS: usize = 20_000;
/// The oldest lines go.
const MAX_LINES: usize = 16;
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_was_refused_is_known_by_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("home/refused-pins");
        let refused = || Refused::new(path.clone());
        assert!(!refused().has("one", b"1234"));
        refused().note("one", b"1234");
        refused().note("two", b"0000");
        assert!(refused().has("one", b"1234") && refused().has("two", b"0000"));
        assert!(!refused().has("one", b"0000") && !refused().has("two", b"1234"));
        assert!(!fs::read_to_string(&path).unwrap().contains("1234"));
        refused().forget("one");
        assert!(!refused().has("one", b"1234") && refused().has("two", b"0000"));
        refused().forget("two");
        assert!(!path.exists());
    }

    #[test]
    fn the_file_is_short_and_may_be_anything() {
        let directory = tempfile::tempdir().unwrap();
        let refused = Refused::new(directory.path().join("refused-pins"));
        fs::write(refused.path(), "x\n\u{0} y z\n a\n").unwrap();
        (0..2 * MAX_LINES).for_each(|pin| refused.note("one", pin.to_string().as_bytes()));
        assert!(refused.has("one", b"31") && !refused.has("one", b"1"));
        assert_eq!(refused.lines().len(), MAX_LINES);
        fs::remove_file(refused.path()).unwrap();
        assert!(Command::new("mkfifo").arg(refused.path()).status().unwrap().success());
        assert!(!refused.has("one", b"31"), "a pipe is not waited for");
        refused.note("one", b"32");
        assert!(refused.has("one", b"32"));
    }
}
