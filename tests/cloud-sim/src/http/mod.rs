//! HTTP/1.1 as a server that must see and do odd things: the request as received, the reply as ordered.
//!
//! Not a general server: no upgrades, no compression, no pipelined concurrency. It does not know TLS or routes.

mod read;
mod write;

pub(crate) use read::{MAX_BODY, ReadError, Reader};
pub(crate) use write::{DRIP_SIZE, Delivery, Ending, head_length, send};

use crate::sas;
use serde_json::Value;

/// A request as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    /// As sent, e.g. `PUT`.
    pub(crate) method: String,
    /// The request target, byte for byte.
    pub(crate) target: String,
    /// Names in lower case, values as sent, in the order sent.
    pub(crate) headers: Vec<(String, String)>,
    /// The body without its framing.
    pub(crate) body: Vec<u8>,
    /// Whether the connection may serve another request.
    pub(crate) keep_alive: bool,
    /// Of HTTP: `1.1` or `2`.
    pub(crate) version: &'static str,
}

impl Request {
    /// `origin`, `absolute`, `authority` or `asterisk` (RFC 9112, section 3.2).
    #[must_use]
    pub(crate) fn form(&self) -> &'static str {
        match self.target.as_str() {
            "*" => "asterisk",
            target if target.starts_with('/') => "origin",
            target if target.contains("://") => "absolute",
            _ => "authority",
        }
    }

    /// The path, still percent-encoded, without scheme, host and query.
    #[must_use]
    pub(crate) fn path(&self) -> &str {
        let rest = match (self.form(), self.target.split_once("://")) {
            ("absolute", Some((_, rest))) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
            _ => &self.target,
        };
        rest.split(['?', '#']).next().unwrap_or_default()
    }

    /// The decoded segments of the path: `/a/b%20c` is `a`, `b c`.
    #[must_use]
    pub(crate) fn segments(&self) -> Vec<String> {
        self.path().trim_start_matches('/').split('/').map(sas::decode).collect()
    }

    /// The decoded value of a query parameter.
    #[must_use]
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut values = pairs.filter(|(key, _)| sas::decode(key) == name).map(|(_, value)| value);
        values.next().map(sas::decode)
    }

    /// The first value of a header; `name` in lower case.
    #[must_use]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The host the client wants: of an absolute target, else of the `Host` header.
    #[must_use]
    pub(crate) fn host(&self) -> Option<&str> {
        match (self.form(), self.target.split_once("://")) {
            ("absolute", Some((_, rest))) => rest.split(['/', '?']).next(),
            _ => self.header("host"),
        }
    }

    /// The body as JSON if it is that, else as text; null when empty.
    #[must_use]
    pub(crate) fn body_value(&self) -> Value {
        readable(&self.body)
    }
}

/// A reply before it is put on the wire; `Date` and `Content-Length` come on their own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    /// In this order; `content-type` among them.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// A reply without a body.
    #[must_use]
    pub(crate) fn empty(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    /// A reply with a JSON body.
    #[must_use]
    pub(crate) fn json(status: u16, body: &Value) -> Reply {
        Reply { status, headers: Vec::new(), body: body.to_string().into_bytes() }
            .with("content-type", "application/json; charset=utf-8")
    }

    /// A reply with a page such as front doors and captive portals send.
    #[must_use]
    pub(crate) fn html(status: u16) -> Reply {
        let body = format!("<!DOCTYPE html><html><body><h1>{status}</h1></body></html>");
        Reply { status, headers: Vec::new(), body: body.into_bytes() }.with("content-type", "text/html")
    }

    /// This reply with the header `name` set to `value`.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The body as JSON if it is that, else as text; null when empty.
    #[must_use]
    pub(crate) fn body_value(&self) -> Value {
        readable(&self.body)
    }
}

fn readable(body: &[u8]) -> Value {
    match serde_json::from_slice(body) {
        Ok(value) => value,
        Err(_) if body.is_empty() => Value::Null,
        Err(_) => Value::String(String::from_utf8_lossy(body).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Request {
        Request {
            target: target.into(),
            headers: vec![("host".into(), "localhost:1".into())],
            ..Request::default()
        }
    }

    #[test]
    fn every_target_form_has_a_path_and_a_host() {
        for (target, form, path, host) in [
            ("/a/b?x=1", "origin", "/a/b", "localhost:1"),
            ("https://hub:9/a%20b?x=1", "absolute", "/a%20b", "hub:9"),
            ("https://hub?x=1", "absolute", "", "hub"),
            ("https://hub", "absolute", "/", "hub"),
            ("/a?u=http://x/y", "origin", "/a", "localhost:1"),
            ("*", "asterisk", "*", "localhost:1"),
            ("hub:443", "authority", "hub:443", "localhost:1"),
        ] {
            let request = request(target);
            assert_eq!(
                (request.form(), request.path(), request.host()),
                (form, path, Some(host)),
                "{target}"
            );
        }
    }

    #[test]
    fn segments_and_queries_are_decoded_after_splitting() {
        let request = request("/devices/a%2Fb%20c/modules?api-version=2017%2D11&x&x=2");
        assert_eq!(request.segments(), ["devices", "a/b c", "modules"]);
        assert_eq!(request.query("api-version").as_deref(), Some("2017-11"));
        assert_eq!((request.query("x").as_deref(), request.query("y")), (Some(""), None));
    }
}
