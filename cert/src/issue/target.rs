//! Which EST server, and how to authenticate to it: what the configuration says for one certificate (spec
//! certificates-service, 9.1). Pure.

use cert_api::{EstAuthentication, Issuance, Method, TEMPORARY};
use url::Url;

use super::NotIssued;

/// Where and as whom a certificate is got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) authentication: EstAuthentication,
    /// Ids of certificates that may vouch for the server.
    pub(crate) trusted: Vec<String>,
}

impl Target {
    /// For the certificate `id`.
    pub(crate) fn of(issuance: &Issuance, id: &str) -> Result<Self, NotIssued> {
        let own = issuance.of(id);
        let all = issuance.est.as_ref();
        let urls = all.map(|all| &all.urls);
        let url = own.and_then(|own| own.url.as_ref());
        let url = url.or_else(|| urls?.get(id));
        let url = url.or_else(|| urls?.get(id.strip_suffix(TEMPORARY)?)).or_else(|| urls?.get(DEFAULT));
        let authentication = [own.map(|own| &own.authentication), all.map(|all| &all.authentication)];
        let mut given = authentication.into_iter().flatten();
        let key_algorithm = given.clone().find_map(|authentication| authentication.identity_key_algorithm);
        let authentication = given.find(|authentication| authentication.is_usable()).cloned();
        Ok(Self {
            url: without_credentials(url.ok_or_else(|| NotIssued::NoUrl(id.to_owned()))?),
            authentication: EstAuthentication {
                identity_key_algorithm: key_algorithm,
                ..authentication.ok_or(NotIssued::NoAuthentication)?
            },
            trusted: all.map(|all| all.trusted_certs.clone()).unwrap_or_default(),
        })
    }
}

/// Credentials belong into the configuration's own keys: URLs are logged.
fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // Fails for URLs without host.
    let _ = url.set_username("").and_then(|()| url.set_password(None));
    url
}

/// What is wrong with the configuration of EST, though it reads well.
pub(super) fn warnings(issuance: &Issuance) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut check_url = |name: String, url: &Url| {
        match url.scheme() {
            "https" => {}
            "http" => warnings.push(format!(
                "{name} is an http URL: what is sent and issued can be read and changed on the way"
            )),
            _ => warnings.push(format!("{name} is neither an https nor an http URL and cannot be used")),
        }
        if without_credentials(url) != *url {
            warnings.push(format!(
                "{name} has a user name or password in it, which is ignored: they belong into `username` and `password`"
            ));
        }
        if url.path().trim_end_matches('/').ends_with("/simpleenroll") {
            warnings.push(format!(
                "{name} ends in /simpleenroll, but the name of the operation is appended to it"
            ));
        }
    };
    if let Some(est) = &issuance.est {
        est.urls.iter().for_each(|(id, url)| check_url(format!("cert_issuance.est.urls.{id:?}"), url));
    }
    for (id, options) in &issuance.certs {
        options.url.iter().for_each(|url| check_url(format!("cert_issuance.{id:?}.url"), url));
    }
    if let Some(est) = &issuance.est {
        incomplete("cert_issuance.est", &est.authentication, &mut warnings);
        for key in est.unknown.keys() {
            let hint = if key == "auth" { "; its keys belong directly into [cert_issuance.est]" } else { "" };
            warnings.push(format!("cert_issuance.est.{key} is not a known setting and is ignored{hint}"));
        }
    }
    for (id, options) in &issuance.certs {
        incomplete(&format!("cert_issuance.{id:?}"), &options.authentication, &mut warnings);
        if options.method != Method::Est {
            continue;
        }
        if let Err(error) = Target::of(issuance, id) {
            warnings.push(format!("the certificate {id:?} cannot be issued over EST: {error}"));
        }
    }
    warnings
}

fn incomplete(table: &str, authentication: &EstAuthentication, warnings: &mut Vec<String>) {
    if authentication.is_incomplete() {
        warnings.push(format!(
            "{table} has an incomplete authentication, which has no effect: username and password belong together, so \
             do identity_cert and identity_pk, and bootstrap_identity_cert and bootstrap_identity_pk besides those"
        ));
    }
}

/// The key among the URLs that is for all certificates without one.
const DEFAULT: &str = "default";

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cert_api::{EstOptions, IssuanceOptions};

    use super::*;

    fn basic(name: &str) -> EstAuthentication {
        EstAuthentication {
            username: Some(name.into()),
            password: Some("p".into()),
            ..EstAuthentication::default()
        }
    }

    fn issuance(
        own: EstAuthentication,
        all: EstAuthentication,
        url: Option<&str>,
        urls: &[(&str, &str)],
    ) -> Issuance {
        let options = IssuanceOptions {
            method: Method::Est,
            expiry_days: None,
            common_name: None,
            subject: None,
            url: url.map(|url| url.parse().unwrap()),
            authentication: own,
            unknown: BTreeMap::new(),
        };
        let urls = urls.iter().map(|(id, url)| ((*id).to_owned(), url.parse().unwrap())).collect();
        let est = EstOptions { urls, authentication: all, ..EstOptions::default() };
        Issuance { est: Some(est), local_ca: None, certs: BTreeMap::from([("a".to_owned(), options)]) }
    }

    #[test]
    fn certs_57_which_url() {
        let none = EstAuthentication::default;
        let check = |url: Option<&str>, urls: &[(&str, &str)], expected: Option<&str>| {
            let target = Target::of(&issuance(none(), basic("all"), url, urls), "a").ok();
            assert_eq!(target.as_ref().map(|target| target.url.as_str()), expected);
        };
        check(
            Some("https://own/"),
            &[("a", "https://by-id/"), ("default", "https://default/")],
            Some("https://own/"),
        );
        check(None, &[("a", "https://by-id/"), ("default", "https://default/")], Some("https://by-id/"));
        check(None, &[("b", "https://other/"), ("default", "https://default/")], Some("https://default/"));
        check(None, &[("b", "https://other/")], None);
        // They would be logged.
        check(Some("https://user:pass@own:8443/est"), &[], Some("https://own:8443/est"));
    }

    #[test]
    fn what_follows_another_is_issued_like_it() {
        let own =
            issuance(basic("own"), basic("all"), None, &[("a", "https://by-id/"), ("default", "https://d/")]);
        let target = Target::of(&own, "a-temp").unwrap();
        assert_eq!((target.url.as_str(), target.authentication), ("https://by-id/", basic("own")));
        assert!(own.of("a-temp").is_some() && own.of("b-temp").is_none() && own.of("-temp").is_none());
        let mut both = own.clone();
        let theirs =
            issuance(basic("temp"), basic("all"), Some("https://temp/"), &[]).certs.remove("a").unwrap();
        both.certs.insert("a-temp".to_owned(), theirs);
        let target = Target::of(&both, "a-temp").unwrap();
        assert_eq!((target.url.as_str(), target.authentication), ("https://temp/", basic("temp")));
    }

    #[test]
    fn one_authentication_as_a_whole() {
        let url = [("default", "https://default/")];
        let of =
            |own, all| Target::of(&issuance(own, all, None, &url), "a").map(|target| target.authentication);
        let identity = EstAuthentication {
            identity_cert: Some("c".into()),
            identity_pk: Some("p".into()),
            ..EstAuthentication::default()
        };
        assert_eq!(of(basic("own"), identity.clone()).unwrap(), basic("own"), "fields are not mixed");
        let half = EstAuthentication { username: Some("u".into()), ..EstAuthentication::default() };
        assert_eq!(of(half.clone(), identity.clone()).unwrap(), identity);
        assert!(matches!(of(half, EstAuthentication::default()), Err(NotIssued::NoAuthentication)));
    }

    #[test]
    fn warnings_name_the_key() {
        let half = EstAuthentication { username: Some("u".into()), ..EstAuthentication::default() };
        let warnings = warnings(&issuance(
            half,
            EstAuthentication::default(),
            Some("http://a/"),
            &[("default", "ftp://b/"), ("secret", "https://u:pass@c/")],
        ));
        for wanted in [
            "cert_issuance.\"a\".url is an http",
            "urls.\"default\" is neither",
            "\"a\" has an incomplete",
            "\"a\" cannot be issued",
            "urls.\"secret\" has a user name or password",
        ] {
            assert!(warnings.iter().any(|warning| warning.contains(wanted)), "{wanted}: {warnings:?}");
        }
        assert!(!warnings.iter().any(|warning| warning.contains("pass@")), "{warnings:?}");
    }
}
