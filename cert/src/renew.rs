//! certd's side of the renewal of EST identities (spec certificates-service, 10.5): which there are, and how one is
//! issued anew. Does not know when that is to be done, and puts nothing in the place of anything.

use std::collections::BTreeMap;

use cert_api::{EstIdentity, Issuance, Method};
use http_common::https::ClientIdentity;
use openssl::x509::X509;

use crate::est::{EstError, Operation};
use crate::issue::{Csr, NotIssued, Target, is_expired};
use crate::{Certd, KeyPair, blocking};

/// An EST identity that is to be kept valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewable {
    /// The id of its certificate.
    pub cert: String,
    /// The id of its key pair in keyd.
    pub pk: String,
    /// The certificate whose URL and authentication hold for it.
    pub by: String,
}

/// The EST identities that `issuance` names, each once. What the alphabetically last certificate says that uses one
/// counts, and more than what is said for all.
pub fn identities(issuance: &Issuance) -> Vec<Renewable> {
    let mut by_ids: BTreeMap<EstIdentity<'_>, &str> = BTreeMap::new();
    if let Some((identity, _)) = issuance.est.as_ref().and_then(|est| est.authentication.identity()) {
        by_ids.insert(identity, identity.cert);
    }
    for (id, options) in issuance.certs.iter().filter(|(_, options)| options.method == Method::Est) {
        if let Some((identity, _)) = options.authentication.identity() {
            by_ids.insert(identity, id);
        }
    }
    let renewable = |(identity, by): (EstIdentity<'_>, &str)| Renewable {
        cert: identity.cert.to_owned(),
        pk: identity.pk.to_owned(),
        by: by.to_owned(),
    };
    by_ids.into_iter().map(renewable).collect()
}

impl Certd {
    /// Has the identity `of` issued anew for `key`, with the subject of the `old` chain: the new chain, the leaf first,
    /// which is not kept anywhere. The old one authenticates while it is valid and accepted, later the bootstrap
    /// identity.
    ///
    /// # Errors
    ///
    /// Whatever is in the way; all of it may pass.
    pub async fn reissue(&self, of: &Renewable, old: &[X509], key: KeyPair) -> Result<Vec<X509>, NotIssued> {
        let (current, est) = (self.current(), self.issuing.est());
        let target = Target::of(&current.issuance, &of.by)?;
        let way = est.way(&current, &target).await?;
        let leaf = old.first().ok_or_else(|| NotIssued::Missing(of.cert.clone()))?;
        let subject = leaf.subject_name().to_owned()?;
        let csr = blocking(move || Csr::for_client(&subject, &key));
        let csr = csr.await.ok_or(NotIssued::Worker)??;
        let bootstrap = || async {
            let (_, bootstrap) = target.authentication.identity().ok_or(NotIssued::NoAuthentication)?;
            let Some(bootstrap) = bootstrap else { return Ok(None) };
            let client = est.usable_identity(&current, bootstrap).await?;
            Ok::<_, NotIssued>(Some(est.enroll(&way, Some(client), Operation::SimpleEnroll, &csr).await?))
        };
        if is_expired(leaf) {
            let why = format!("it has expired ({})", leaf.not_after());
            let absent = NotIssued::NoIdentity { cert: of.cert.clone(), why };
            return bootstrap().await?.ok_or(absent);
        }
        let client = ClientIdentity { chain: old.to_vec(), key: est.key(&of.pk).await?.private };
        match est.enroll(&way, Some(client.clone()), Operation::SimpleReenroll, &csr).await {
            // With a password in play, it may be that which is wrong.
            Err(error) if error.is_unauthorized() && target.authentication.basic().is_none() => {
                bootstrap().await?.ok_or(error.into())
            }
            // Upstream always asks like this, so there are servers that know nothing else.
            Err(EstError::Refused { status, .. }) if status.is_client_error() => {
                Ok(est.enroll(&way, Some(client), Operation::SimpleEnroll, &csr).await?)
            }
            chain => Ok(chain?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_identity_once_and_the_last_certificate_counts() {
        let options = |cert: &str, method: &str| {
            format!("{{ method = '{method}', identity_cert = '{cert}', identity_pk = 'key-{cert}' }}")
        };
        let text = format!(
            "[est]\nidentity_cert = 'all'\nidentity_pk = 'key-all'\n[certs]\na = {}\nb = {}\nc = {}\nd = {}",
            options("own", "est"),
            options("own", "est"),
            options("all", "est"),
            options("local", "local_ca"),
        );
        let text = text.replace("[certs]\n", "[x]\n");
        let table: toml::Table = text.parse().unwrap();
        let mut issuance = table.clone();
        let certs = issuance.remove("x").unwrap();
        issuance.extend(certs.as_table().unwrap().clone());
        let found = identities(&issuance.try_into().unwrap());
        let found: Vec<_> =
            found.iter().map(|of| (of.cert.as_str(), of.pk.as_str(), of.by.as_str())).collect();
        assert_eq!(found, [("all", "key-all", "c"), ("own", "key-own", "b")]);
    }
}
