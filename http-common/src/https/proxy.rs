//! Which proxy to use for which server: `HTTPS_PROXY` and `NO_PROXY`, in either case.
//!
//! Does not connect to anything.

use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::HttpsError;

/// Which proxy to use for which server. The default is none.
#[derive(Clone, Debug, Default)]
pub struct ProxyRules(Option<Arc<Rules>>);

#[derive(Debug)]
struct Rules {
    /// The proxy, with the exceptions that hold for every port.
    matcher: Matcher,
    /// The proxy's own URL, without credentials.
    url: Uri,
    /// Exceptions that hold for one port: `host:port`.
    for_port: Vec<(u16, Matcher)>,
}

impl ProxyRules {
    /// From `HTTPS_PROXY`, else `https_proxy`, with the exceptions in `NO_PROXY`, else `no_proxy`. An empty variable is
    /// as good as none; one that cannot be used is an error, so that nobody is sent around the proxy by a typing error.
    pub fn from_env() -> Result<Self, HttpsError> {
        let rules =
            Self::from_vars(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))?;
        if let Some(Rules { url, .. }) = rules.0.as_deref() {
            tracing::info!("connections to the cloud go through the proxy {url}");
        }
        Ok(rules)
    }

    /// All connections through `proxy`, except those to servers in the comma-separated list `except`.
    pub fn new(proxy: &str, except: &str) -> Result<Self, HttpsError> {
        Self::parse("proxy", proxy, except)
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, HttpsError> {
        let first = |names: [&'static str; 2]| {
            let set = names.into_iter().map(|name| (name, var(name).unwrap_or_default()));
            set.into_iter().find(|(_, value)| !value.trim().is_empty())
        };
        let Some((variable, proxy)) = first(["HTTPS_PROXY", "https_proxy"]) else {
            return Ok(Self::default());
        };
        let except = first(["NO_PROXY", "no_proxy"]).map(|(_, value)| value).unwrap_or_default();
        Self::parse(variable, &proxy, &except)
    }

    fn parse(variable: &str, proxy: &str, except: &str) -> Result<Self, HttpsError> {
        let proxy = proxy.trim();
        let entries = || except.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        let everywhere: Vec<&str> = entries().filter(|entry| split_port(entry).is_none()).collect();
        let matcher = Matcher::builder().all(proxy).no(everywhere.join(",")).build();
        let anywhere = Uri::from_static("https://example/");
        let usable = Matcher::builder().all(proxy).build().intercept(&anywhere);
        let url = usable.as_ref().map(|proxy| proxy.uri().clone());
        let url = url.filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
        let url = url.ok_or_else(|| HttpsError::BadProxy { variable: variable.to_owned() })?;
        let for_port = entries()
            .filter_map(split_port)
            .map(|(host, port)| (port, Matcher::builder().all(proxy).no(host).build()))
            .collect();
        Ok(Self(Some(Arc::new(Rules { matcher, url, for_port }))))
    }

    /// The proxy for `server`, if it is to be reached through one.
    pub(super) fn intercept(&self, server: &Uri) -> Option<Intercept> {
        let rules = self.0.as_ref()?;
        let port = server.port_u16().unwrap_or(if server.scheme_str() == Some("http") { 80 } else { 443 });
        let excepted = |(of, matcher): &(u16, Matcher)| *of == port && matcher.intercept(server).is_none();
        match rules.for_port.iter().any(excepted) {
            true => None,
            false => rules.matcher.intercept(server),
        }
    }

    /// Whether the proxy itself is reached by TLS.
    pub(super) fn is_secure(&self) -> bool {
        self.0.as_ref().is_some_and(|rules| rules.url.scheme_str() == Some("https"))
    }

    /// What to send as `Proxy-Authorization` when reaching `server`.
    pub(super) fn credentials(&self, server: &Uri) -> Option<HeaderValue> {
        self.intercept(server)?.basic_auth().cloned()
    }

    /// The URL of the proxy for `server` (an `https://` URL), without password; for logs and checks.
    pub fn describe(&self, server: &str) -> Option<String> {
        let proxy = self.intercept(&server.parse().ok()?)?;
        Some(proxy.uri().to_string())
    }
}

/// `host:port`, but neither an IPv6 address nor a network.
fn split_port(entry: &str) -> Option<(&str, u16)> {
    let (host, port) = entry.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    Some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Vars = &'static [(&'static str, &'static str)];

    /// The proxy chosen for `server` with these variables, or the name of the bad variable.
    fn choose(vars: &[(&str, &str)], server: &str) -> Result<Option<String>, String> {
        let var =
            |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        match ProxyRules::from_vars(var) {
            Ok(rules) => Ok(rules.describe(server)),
            Err(HttpsError::BadProxy { variable }) => Err(variable),
            Err(err) => panic!("{err}"),
        }
    }

    #[test]
    fn variables_in_order_and_empty_is_unset() {
        let server = "https://hub.example/";
        let table: &[(Vars, Option<&str>)] = &[
            (&[], None),
            (&[("https_proxy", "http://b:2")], Some("http://b:2/")),
            (&[("HTTPS_PROXY", "http://a:1"), ("https_proxy", "http://b:2")], Some("http://a:1/")),
            (&[("HTTPS_PROXY", ""), ("https_proxy", "http://b:2")], Some("http://b:2/")),
            (&[("HTTPS_PROXY", " ")], None),
            (&[("HTTPS_PROXY", "a:3128")], Some("http://a:3128/")),
            (&[("HTTPS_PROXY", "https://a")], Some("https://a/")),
            (&[("HTTP_PROXY", "http://a:1"), ("ALL_PROXY", "http://a:1")], None),
            (&[("HTTPS_PROXY", "http://u:p%40w@a:1/path")], Some("http://a:1/")),
        ];
        for (vars, expected) in table {
            assert_eq!(choose(vars, server), Ok(expected.map(str::to_owned)), "{vars:?}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        for bad in ["http://", "::", "http://a b/", "socks5://a:1", "ftp://a", "http://[::1", "/path"] {
            assert_eq!(choose(&[("https_proxy", bad)], "https://hub/"), Err("https_proxy".into()), "{bad:?}");
        }
    }

    #[test]
    fn no_proxy_entries() {
        let table = [
            ("hub.example", "https://hub.example/", false),
            ("hub.example", "https://HUB.example:8443/", false),
            ("example", "https://hub.example/", false),
            (".example", "https://hub.example/", false),
            (".example", "https://example/", false),
            ("hub.example", "https://otherhub.example/", true),
            ("*", "https://hub.example/", false),
            ("a.b, hub.example", "https://hub.example/", false),
            ("a.b hub.example", "https://hub.example/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", false),
            ("10.0.0.0/8", "https://11.1.2.3/", true),
            ("127.0.0.1", "https://127.0.0.1:9443/", false),
            ("::1", "https://[::1]:9443/", false),
            ("fd00::/8", "https://[fd12::1]/", false),
            ("hub.example:8443", "https://hub.example:8443/", false),
            ("hub.example:8443", "https://hub.example/", true),
            ("hub.example:443", "https://hub.example/", false),
            ("[::1]:9443", "https://[::1]:9443/", false),
            ("", "https://hub.example/", true),
        ];
        for (except, server, proxied) in table {
            for name in ["NO_PROXY", "no_proxy"] {
                let chosen = choose(&[("HTTPS_PROXY", "http://p:1"), (name, except)], server).unwrap();
                assert_eq!(chosen.is_some(), proxied, "{name}={except:?} {server}");
            }
        }
    }

    #[test]
    fn credentials_are_decoded_and_not_shown() {
        let rules = ProxyRules::new("http://us%40er:p%3Aw%2F@proxy:3128", "").unwrap();
        let sent = rules.credentials(&Uri::from_static("https://hub/")).unwrap();
        assert_eq!(sent, "Basic dXNAZXI6cDp3Lw==");
        assert!(sent.is_sensitive());
        let shown = format!("{rules:?}{:?}", rules.describe("https://hub/"));
        assert!(!shown.contains("p%3Aw") && !shown.contains("p:w"), "{shown}");
        let nameless = ProxyRules::new("http://user@proxy", "").unwrap();
        assert_eq!(nameless.credentials(&Uri::from_static("https://hub/")).unwrap(), "Basic dXNlcjo=");
    }
}
