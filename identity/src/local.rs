//! Local identities: a key and a certificate for a process, without a hub (spec identity-service, chapter 14). Decides who
//! gets one under which name; issuing it is certd's, which this build does not have yet.

use identity_api::config::Config;
use identity_api::{Identity, LocalIdOpts};

use crate::Error;
use crate::authz::Principals;

/// The identity of the local principal `id`.
pub(crate) fn of_principal(config: &Config, principals: &Principals, id: &str) -> Result<Identity, Error> {
    match principals.local(id) {
        Some(options) => issue(config, id, options),
        None => Err(refused(id, "is not the name of a principal with idtype \"local\"")),
    }
}

/// The identity of somebody who is no principal, on behalf of the one who manages all.
pub(crate) fn of_other(
    config: &Config,
    principals: &Principals,
    id: &str,
    options: LocalIdOpts,
) -> Result<Identity, Error> {
    match principals.local(id) {
        Some(_) => Err(refused(id, "is the name of a principal; only its own processes get this identity")),
        None => issue(config, id, options),
    }
}

fn issue(config: &Config, id: &str, _options: LocalIdOpts) -> Result<Identity, Error> {
    if config.localid.is_none() {
        return Err(Error::NoDomain);
    }
    if !is_dns_labels(id) {
        return Err(refused(id, "cannot be part of a host name"));
    }
    Err(Error::Unsupported { what: "a local identity", needs: "certd" })
}

fn refused(id: &str, reason: &'static str) -> Error {
    Error::NotThisLocal { id: id.to_owned(), reason }
}

/// One or more labels of letters, digits, `-` and `_` (which upstream's users have), joined by dots.
fn is_dns_labels(id: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    id.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["web", "web-1", "a.b", "my_module"] {
            assert!(is_dns_labels(good), "{good}");
        }
        for bad in ["", ".", "a.", "..", "a/b", "a b", "é", &"x".repeat(64)] {
            assert!(!is_dns_labels(bad), "{bad}");
        }
    }
}
