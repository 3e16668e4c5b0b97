//! The openssl command, an independent judge of our keys and signatures. Does not know the daemons.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use openssl::{hash::MessageDigest, pkey::PKey, sign::Signer};

/// What `openssl ARGS` wrote to standard output when given `input`; it must succeed.
#[track_caller]
pub fn openssl(args: &[&str], input: &[u8]) -> Vec<u8> {
    try_openssl(args, input).unwrap_or_else(|err| panic!("openssl {}: {err}", args.join(" ")))
}

/// The same, or what it wrote to standard error.
pub fn try_openssl(args: &[&str], input: &[u8]) -> Result<Vec<u8>, String> {
    let mut command = Command::new("openssl");
    let command = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the openssl command is installed");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    let _ = stdin.write_all(input); // the command may end without reading all, its status says more
    drop(stdin);
    let output = child.wait_with_output().expect("a child can be waited for");
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Whether openssl finds that `signature` is one over the digest `digest` by the owner of the PEM `public_key`. `options`
/// go to `openssl pkeyutl`.
pub fn verifies(public_key: &[u8], digest: &[u8], signature: &[u8], options: &[&str]) -> bool {
    let directory = tempfile::tempdir().expect("there is room in the temp directory");
    let file = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::write(&path, content).expect("the directory is ours");
        path.to_str().expect("our paths are UTF-8").to_owned()
    };
    let (key, signature) = (file("key", public_key), file("signature", signature));
    let args = ["pkeyutl", "-verify", "-pubin", "-inkey", &key, "-sigfile", &signature];
    try_openssl(&[args.as_slice(), options].concat(), digest).is_ok()
}

/// The text that begins every DER DigestInfo of a SHA-256 digest (RFC 8017 section 9.2, note 1).
pub const SHA256_DIGEST_INFO: [u8; 19] =
    *b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";

/// HMAC-SHA256 of `data` under `key`.
pub fn hmac(key: &[u8], data: &[u8]) -> Vec<u8> {
    let key = PKey::hmac(key).expect("any bytes are an HMAC key");
    let mut signer = Signer::new(MessageDigest::sha256(), &key).expect("SHA-256 is there");
    signer.sign_oneshot_to_vec(data).expect("HMAC works on any data")
}

/// SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> Vec<u8> {
    openssl::sha::sha256(data).to_vec()
}

/// `bytes` in lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
