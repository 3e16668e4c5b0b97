//! The key of a certificate that is its own issuer: the one in the request, if keyd has it as that of the certificate. Knows
//! nothing of what is signed.

use cert_api::TEMPORARY;
use key_api::KeyHandle;

use super::{Issuing, NotIssued};
use crate::blocking;
use crate::issue::Csr;
use crate::keys::KeyError;

impl Issuing {
    /// The key pair of the certificate `id` that is in `csr`: that of its name, or the one that waits beside it for its
    /// certificate; and if the certificate itself is to follow another one, that of the other one, which is then renewed for
    /// the same key.
    ///
    /// If none of them is in it: the first one, so that who signs finds out; or why there is none.
    pub(super) async fn own_key(&self, id: &str, csr: &Csr) -> Result<KeyHandle, NotIssued> {
        let (mut other, mut refusal) = (None, None);
        for name in names(id) {
            let handle = match self.keys.load(&name).await {
                Err(KeyError::Missing(_)) => continue,
                Err(error @ KeyError::Forbidden(_)) => {
                    refusal.get_or_insert(error);
                    continue;
                }
                handle => handle?,
            };
            if self.is_in(&handle, csr).await? {
                return Ok(handle);
            }
            other.get_or_insert(handle);
        }
        match (refusal, other) {
            (Some(refusal), _) => Err(refusal.into()),
            (None, Some(other)) => Ok(other),
            (None, None) => Err(KeyError::Missing(id.to_owned()).into()),
        }
    }

    async fn is_in(&self, handle: &KeyHandle, csr: &Csr) -> Result<bool, NotIssued> {
        // Threads that wait for keyd must not be all there are.
        let _slot = self.signing.acquire().await;
        let (keys, handle) = (self.keys.clone(), handle.clone());
        let public = blocking(move || keys.open_public(&handle)).await.ok_or(NotIssued::Worker)??;
        Ok(public.public_eq(csr.key()))
    }
}

/// What keyd may have the key of the certificate `id` as.
fn names(id: &str) -> Vec<String> {
    match id.strip_suffix(TEMPORARY) {
        Some(renewed) => vec![id.to_owned(), renewed.to_owned()],
        None => vec![id.to_owned(), format!("{id}{TEMPORARY}")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_key_may_be() {
        assert_eq!(names("device-id"), ["device-id", "device-id-temp"]);
        assert_eq!(names("device-id-temp"), ["device-id-temp", "device-id"]);
    }
}
