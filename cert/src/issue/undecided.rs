//! Requests that an EST server has not decided on (202): kept in files, so that a server, which knows a request by its bytes,
//! is asked again with the same, and not before the time that it wants (RFC 7030, 4.2.3). Everything here may wait for the
//! disk. Knows no HTTP.
//!
//! Whoever asks anew has made another request, with another signature. If it says the same as one that is kept (its subject,
//! key and attributes), the kept one is sent: whoever has the key of the one has that of the other.
//!
//! ```text
//!   asked 1700000000
//!   wait 3600
//!   -----BEGIN CERTIFICATE REQUEST-----
//! ```

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use config_common::{durable, read_regular};
use openssl::sha::Sha256;
use openssl::x509::{X509Req, X509ReqRef};
use url::Url;

use super::now;
use crate::der::{self, Malformed, Reader};
use crate::est::Operation;

/// Where they are.
#[derive(Debug, Clone)]
pub(crate) struct Undecided {
    directory: PathBuf,
}

/// A request to a server, which may be kept.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    path: PathBuf,
    says: Vec<u8>,
}

/// One that is kept.
pub(crate) struct Kept {
    /// What the server has seen.
    pub(crate) request: X509Req,
    /// How long it does not want to be asked again; none if it may be asked now.
    pub(crate) wait: Option<Duration>,
}

impl Undecided {
    /// In `directory`, which need not exist.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Removes what has been there for too long, and what a crash amid a write has left.
    pub(crate) fn clean(&self) -> Result<(), config_common::Error> {
        durable::clean_leftovers(&self.directory)?;
        let Ok(entries) = fs::read_dir(&self.directory) else { return Ok(()) };
        let is_old = |entry: &fs::DirEntry| {
            let written = entry.metadata().and_then(|it| it.modified()).ok();
            written.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age > LONGEST)
        };
        for entry in entries.flatten().filter(is_old) {
            durable::remove(&entry.path())?;
        }
        Ok(())
    }

    /// The place of a request to a server.
    pub(crate) fn place(&self, url: &Url, operation: Operation, request: &X509ReqRef) -> Option<Place> {
        let says = said(&request.to_der().ok()?).ok()?;
        let mut hash = Sha256::new();
        for part in [url.as_str().as_bytes(), operation.name().as_bytes(), &says] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let hash: String = hash.finish().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(Place { path: self.directory.join(format!("{hash}.csr")), says })
    }
}

impl Place {
    /// What is kept there; none if there is nothing that can be used.
    pub(crate) fn kept(&self) -> Option<Kept> {
        let text = String::from_utf8(read_regular(&self.path).ok()?).ok()?;
        let number = |name: &str| -> Option<i64> {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        let request = X509Req::from_pem(text.as_bytes()).ok()?;
        if said(&request.to_der().ok()?).ok()? != self.says {
            return None;
        }
        let (asked, wait) = (number("asked ")?, number("wait ")?);
        // A clock that was set back must not make it longer.
        let left = Some(now()).filter(|now| *now >= asked).map_or(0, |now| asked.saturating_add(wait) - now);
        let wait = u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_secs);
        Some(Kept { request, wait })
    }

    /// Keeps `request`, which the server has not decided on; it wants to be asked again after `wait`.
    pub(crate) fn keep(&self, request: &X509ReqRef, wait: Option<Duration>) {
        let write = || -> Result<(), config_common::Error> {
            let pem = request.to_pem().unwrap_or_default();
            let wait = wait.unwrap_or_default().as_secs();
            let text = format!("asked {}\nwait {wait}\n{}", now(), String::from_utf8_lossy(&pem));
            if let Some(directory) = self.path.parent() {
                durable::create_dir(directory, DIRECTORY_MODE)?;
            }
            durable::write(&self.path, text.as_bytes(), FILE_MODE)
        };
        if let Err(error) = write() {
            tracing::warn!(
                "the EST server will be asked with another request: {}",
                http_common::chain(&error)
            );
        }
    }

    /// It is decided.
    pub(crate) fn forget(&self) {
        if let Err(error) = durable::remove(&self.path) {
            tracing::warn!("{}", http_common::chain(&error));
        }
    }
}

/// What a request in DER says: all but the signature (RFC 2986, 4.1).
fn said(request: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut request = Reader::new(Reader::new(request).expect(der::SEQUENCE)?);
    Ok(request.expect(der::SEQUENCE)?.to_vec())
}

/// The directory below certd's own.
pub(crate) const DIRECTORY: &str = "undecided";
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// How long a server may take to decide.
const LONGEST: Duration = Duration::from_secs(90 * 86_400);

#[cfg(test)]
mod tests {
    use std::process::Command;

    use openssl::nid::Nid;

    use super::super::csr::tests::{ec_key, request};
    use super::*;
    use crate::issue::Csr;

    fn asked(common_name: &str, key: &openssl::pkey::PKey<openssl::pkey::Private>) -> Csr {
        Csr::parse(&request(common_name, key, vec![])).unwrap()
    }

    #[test]
    fn a_request_that_says_the_same_is_the_same() {
        let home = tempfile::tempdir().unwrap();
        let undecided = Undecided::new(home.path().join("undecided"));
        let url = Url::parse("https://est.example/").unwrap();
        let key = ec_key(Nid::X9_62_PRIME256V1);
        let (first, again) = (asked("a", &key), asked("a", &key));
        assert_ne!(first.request().to_der().unwrap(), again.request().to_der().unwrap());
        let place = |csr: &Csr, operation| undecided.place(&url, operation, csr.request()).unwrap();
        let enroll = Operation::SimpleEnroll;
        assert!(place(&first, enroll).kept().is_none());
        place(&first, enroll).keep(first.request(), Some(Duration::from_secs(100)));
        let kept = place(&again, enroll).kept().unwrap();
        assert_eq!(kept.request.to_der().unwrap(), first.request().to_der().unwrap());
        assert!(kept.wait.is_some_and(|left| (98..=100).contains(&left.as_secs())), "{:?}", kept.wait);
        for other in [asked("b", &key), asked("a", &ec_key(Nid::X9_62_PRIME256V1))] {
            assert!(place(&other, enroll).kept().is_none());
        }
        assert!(place(&again, Operation::SimpleReenroll).kept().is_none());
        undecided.clean().unwrap();
        place(&again, enroll).keep(&kept.request, None);
        assert!(place(&again, enroll).kept().unwrap().wait.is_none());
        place(&again, enroll).forget();
        assert!(place(&first, enroll).kept().is_none());
    }

    #[test]
    fn a_file_that_is_not_ours_or_from_the_future_holds_nobody_up() {
        let home = tempfile::tempdir().unwrap();
        let undecided = Undecided::new(home.path().to_owned());
        let url = Url::parse("https://est.example/").unwrap();
        let csr = asked("a", &ec_key(Nid::X9_62_PRIME256V1));
        let place = undecided.place(&url, Operation::SimpleEnroll, csr.request()).unwrap();
        place.keep(csr.request(), Some(Duration::from_secs(100)));
        let good = fs::read_to_string(&place.path).unwrap();
        let asked = good.lines().next().unwrap().to_owned();
        fs::write(&place.path, good.replace(&asked, &format!("asked {}", now() + 1000))).unwrap();
        assert!(place.kept().unwrap().wait.is_none());
        for bad in ["", "asked 1\nwait 2\n", &good.replace("wait", "xxxx"), &good[..good.len() - 40]] {
            fs::write(&place.path, bad).unwrap();
            assert!(place.kept().is_none(), "{bad}");
        }
        fs::remove_file(&place.path).unwrap();
        assert!(Command::new("mkfifo").arg(&place.path).status().unwrap().success());
        assert!(place.kept().is_none(), "a pipe is not waited for");
    }
}
