//! The openssl command, an independent judge of our keys and signatures. Does not know the daemons.

use std::{
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
