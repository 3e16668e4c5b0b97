//! TLS towards servers: versions, trust, host names, our own certificate, and what went wrong.
//!
//! Knows no HTTP and no sockets.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{
    self, Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslMode, SslOptions, SslVerifyMode,
    SslVersion,
};
use openssl::version;
use openssl::x509::store::X509Lookup;
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509VerifyResult};

use super::sessions::Sessions;

/// Which certificate authorities may vouch for servers.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those of the system (OpenSSL's default locations, `SSL_CERT_FILE`, `SSL_CERT_DIR`) and these.
    SystemAnd(Vec<X509>),
    /// Only these.
    Only(Vec<X509>),
}

impl Default for Trust {
    fn default() -> Self {
        Self::SystemAnd(Vec::new())
    }
}

/// A TLS client certificate with its key, which may live elsewhere behind OpenSSL.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The leaf first, then what leads to its root.
    pub chain: Vec<X509>,
    /// The leaf's key.
    pub key: PKey<Private>,
}

/// Makes TLS connections that share one context.
///
/// Where the system's authorities are a directory of hashed names, only those that a server's chain needs are read: the
/// whole bundle costs a megabyte and 30 ms. Since the bundle may hold one that the directory lacks, it is read after
/// all ([`Tls::widen`]) when a chain ends in nowhere.
pub(super) struct Tls {
    trust: Trust,
    identity: Option<ClientIdentity>,
    current: Mutex<Current>,
}

/// Sessions resume what one context has found trustworthy, so they go with it.
struct Current {
    context: SslContext,
    sessions: Sessions,
    reach: Reach,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    HashedDirectory,
    Everything,
}

impl Tls {
    pub(super) fn new(trust: Trust, identity: Option<ClientIdentity>) -> Result<Self, ErrorStack> {
        let hashed = hashed_directory();
        let reach = if hashed.is_some() { Reach::HashedDirectory } else { Reach::Everything };
        let (context, sessions) = context(&trust, identity.as_ref(), hashed.as_deref())?;
        Ok(Self { trust, identity, current: Mutex::new(Current { context, sessions, reach }) })
    }

    /// A connection to be to `host`, whose certificate must carry that name or address. It resumes a session if there is one.
    pub(super) fn connection(&self, host: &str, port: u16) -> Result<Ssl, ErrorStack> {
        let mut ssl = {
            let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.sessions.connection(&current.context, host, port)?
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = host.parse().ok();
        let param = ssl.param_mut();
        param.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        match address {
            Some(address) => param.set_ip(address)?,
            None => {
                param.set_host(host)?;
                ssl.set_hostname(host)?;
            }
        }
        Ok(ssl)
    }

    /// Read all authorities of the system. True if there is now more to trust than before.
    pub(super) fn widen(&self) -> Result<bool, ErrorStack> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.reach == Reach::Everything || matches!(self.trust, Trust::Only(_)) {
            return Ok(false);
        }
        let (context, sessions) = context(&self.trust, self.identity.as_ref(), None)?;
        *current = Current { context, sessions, reach: Reach::Everything };
        Ok(true)
    }
}

fn context(
    trust: &Trust,
    identity: Option<&ClientIdentity>,
    hashed: Option<&Path>,
) -> Result<(SslContext, Sessions), ErrorStack> {
    let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    context.set_options(SslOptions::ALL | SslOptions::NO_COMPRESSION);
    context.set_mode(
        SslMode::AUTO_RETRY
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::RELEASE_BUFFERS,
    );
    context.set_cipher_list(CIPHERS)?;
    context.set_verify(SslVerifyMode::PEER);
    let (system, given) = match trust {
        Trust::SystemAnd(given) => (true, given),
        Trust::Only(given) => (false, given),
    };
    match hashed {
        Some(directory) if system => {
            let lookup = context.cert_store_mut().add_lookup(X509Lookup::hash_dir())?;
            lookup.add_dir(&directory.to_string_lossy(), SslFiletype::PEM)?;
        }
        None if system => context.set_default_verify_paths()?,
        _ => (),
    }
    for authority in given {
        context.cert_store_mut().add_cert(authority.clone())?;
    }
    if let Some(ClientIdentity { chain, key }) = identity {
        let mut chain = chain.iter();
        if let Some(leaf) = chain.next() {
            context.set_certificate(leaf)?;
        }
        for issuer in chain {
            context.add_extra_chain_cert(issuer.clone())?;
        }
        context.set_private_key(key)?;
    }
    let sessions = Sessions::default();
    sessions.gather(&mut context)?;
    Ok((context.build(), sessions))
}

/// OpenSSL's default directory of authorities, if nobody chose another place and its names are hashes.
fn hashed_directory() -> Option<PathBuf> {
    if ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter().any(|name| std::env::var_os(name).is_some()) {
        return None;
    }
    let base = version::dir().strip_prefix("OPENSSLDIR: \"")?.strip_suffix('"')?;
    let directory = Path::new(base).join("certs");
    let mut entries = std::fs::read_dir(&directory).ok()?.flatten();
    entries.any(|entry| entry.file_name().to_str().is_some_and(is_hashed_name)).then_some(directory)
}

/// `0123abcd.0`
fn is_hashed_name(name: &str) -> bool {
    let hex = |text: &str| text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.split_once('.').is_some_and(|(hash, number)| hex(hash) && number.parse::<u32>().is_ok())
}

/// True if more authorities might mend this result.
pub(super) fn lacks_issuer(result: X509VerifyResult) -> bool {
    matches!(
        result.as_raw(),
        UNABLE_TO_GET_ISSUER | UNABLE_TO_GET_ISSUER_LOCALLY | SELF_SIGNED_IN_CHAIN | UNVERIFIABLE
    )
}

/// Why a server's certificate was not accepted, and where to look.
pub(super) fn explain(result: X509VerifyResult) -> String {
    let hint = match result.as_raw() {
        NOT_YET_VALID | HAS_EXPIRED => "; is the clock of this device right?",
        HOST_MISMATCH | ADDRESS_MISMATCH => "; it was issued for another name",
        _ if lacks_issuer(result) || result.as_raw() == SELF_SIGNED_LEAF => {
            "; is its authority among those of the system (or is the connection inspected by a proxy)?"
        }
        _ => "",
    };
    format!("{result}{hint}")
}

/// True if somewhere in the causes of `err` is a TLS alert about our certificate.
pub(super) fn is_certificate_alert(err: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(err);
    while let Some(err) = next {
        if let Some(err) = err.downcast_ref::<ssl::Error>() {
            let errors = err.ssl_error().map(ErrorStack::errors).unwrap_or_default();
            return errors.iter().any(|err| CERTIFICATE_ALERTS.contains(&err.reason_code()));
        }
        // An io::Error hides what it wraps from `source`.
        let wrapped = err.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => err.source(),
        };
    }
    false
}

/// OpenSSL's defaults without what is anonymous, unencrypted or broken.
const CIPHERS: &str = "DEFAULT:!aNULL:!eNULL:!MD5:!3DES:!DES:!RC4:!IDEA:!SEED:!aDSS:!SRP:!PSK";

/// OpenSSL's reason codes for alerts: 1000 and the alert number of RFC 8446 section 6.
const CERTIFICATE_ALERTS: [i32; 8] = [1042, 1043, 1044, 1045, 1046, 1048, 1049, 1116];

// X509_V_ERR_*, in openssl/x509_vfy.h.
const UNABLE_TO_GET_ISSUER: i32 = 2;
const NOT_YET_VALID: i32 = 9;
const HAS_EXPIRED: i32 = 10;
const SELF_SIGNED_LEAF: i32 = 18;
const SELF_SIGNED_IN_CHAIN: i32 = 19;
const UNABLE_TO_GET_ISSUER_LOCALLY: i32 = 20;
const UNVERIFIABLE: i32 = 21;
const HOST_MISMATCH: i32 = 62;
const ADDRESS_MISMATCH: i32 = 64;

#[cfg(test)]
mod tests {
    use super::super::test_server::{Issued, TestServer};
    use super::*;

    #[test]
    fn a_hashed_directory_is_looked_up() {
        let authority = Issued::authority("Test Authority");
        let server = TestServer::start(Some(authority.leaf("localhost").acceptor()), |_| String::new());
        let directory = tempfile::tempdir().unwrap();
        let verifies = || {
            let (context, _) = context(&Trust::default(), None, Some(directory.path())).unwrap();
            let stream = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            Ssl::new(&context).unwrap().connect(stream).is_ok()
        };
        assert!(!verifies());
        let name = format!("{:08x}.0", authority.cert.subject_name_hash());
        std::fs::write(directory.path().join(name), authority.cert.to_pem().unwrap()).unwrap();
        assert!(verifies());
    }

    #[test]
    fn hashed_names() {
        for (name, hashed) in [("002c0b4f.0", true), ("DEADBEEF.12", true), ("ca-certificates.crt", false)] {
            assert_eq!(is_hashed_name(name), hashed, "{name}");
        }
        for name in ["002c0b4.0", "002c0b4f", "002c0b4f.", "002c0b4g.0", "002c0b4f.r0"] {
            assert!(!is_hashed_name(name), "{name}");
        }
    }
}
