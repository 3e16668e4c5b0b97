//! From the heap of certificates that an EST server gives to a chain: the leaf first, then its issuers, each once
//! (users-ask, 33). Knows no HTTP and trusts nobody: who wants to trust the chain has to verify it.

use openssl::error::ErrorStack;
use openssl::pkey::{PKeyRef, Public};
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use crate::pem;

/// None of the certificates is for the key of the request.
#[derive(Debug, thiserror::Error)]
#[error("none of the {0} certificates that were issued is for the key in the request")]
pub struct NotForKey(usize);

/// The certificate for `key` among `issued`, and its issuers among all, up to a root if there is one.
pub(crate) fn build(
    key: &PKeyRef<Public>,
    issued: Vec<X509>,
    authorities: Vec<X509>,
) -> Result<Vec<X509>, NotForKey> {
    let is_for_key = |certificate: &X509| certificate.public_key().is_ok_and(|found| found.public_eq(key));
    let leaf = issued.iter().position(is_for_key).ok_or(NotForKey(issued.len()))?;
    let mut pool = issued;
    let mut chain = vec![pool.swap_remove(leaf)];
    pool.extend(authorities);
    while let Some(last) = chain.last().filter(|last| !is_root(last)) {
        let fits =
            |candidate: &&X509| is_issuer(candidate, last) && !chain.iter().any(|known| known.eq(*candidate));
        // Of several of one key, as during the rollover of an authority, the one that lasts.
        let issuer = pool
            .iter()
            .filter(fits)
            .max_by(|a, b| a.not_after().compare(b.not_after()).unwrap_or(std::cmp::Ordering::Equal));
        let Some(issuer) = issuer.cloned() else { break };
        chain.push(issuer);
    }
    Ok(chain)
}

/// The chain in PEM. The root is left out if with it the reply would be too large for small clients: whoever verifies
/// the chain has the root already.
pub(crate) fn to_pem(chain: &[X509]) -> Result<String, ErrorStack> {
    let all = pem::text(chain)?;
    match chain {
        [rest @ .., root] if !rest.is_empty() && is_root(root) && reply_size(&all) > SMALL_REPLY => {
            pem::text(rest)
        }
        _ => Ok(all),
    }
}

fn is_root(certificate: &X509Ref) -> bool {
    is_issuer(certificate, certificate)
}

fn is_issuer(issuer: &X509Ref, of: &X509Ref) -> bool {
    issuer.issued(of) == X509VerifyResult::OK
        && issuer.public_key().is_ok_and(|key| of.verify(&key).unwrap_or(false))
}

/// Bytes of the JSON around `pem`, in which each line end takes two.
fn reply_size(pem: &str) -> usize {
    r#"{"pem":""}"#.len() + pem.len() + pem.matches('\n').count()
}

/// The largest reply that all known clients read, in bytes (users-ask, 3.1).
const SMALL_REPLY: usize = 4096;

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
