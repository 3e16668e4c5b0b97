//! A request struct ⇄ path, query and JSON body. Both directions are here, so that they cannot drift apart.
//! Knows nothing of connections.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, IntoDeserializer, MapAccess, Visitor};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{ApiVersion, Endpoint, Service};

/// A request as it leaves a client.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Path and query, percent-encoded, with `api-version`.
    pub(crate) target: String,
    /// JSON, or `None` when the request has nothing for a body.
    pub(crate) body: Option<Zeroizing<Vec<u8>>>,
}

/// Why a request cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// There is no body (or none of type JSON), and without one the request is not complete.
    #[error("this request needs a JSON body")]
    BodyMissing(#[source] serde_json::Error),
    /// The body is not the JSON that this request needs.
    #[error("the request does not fit its schema")]
    Schema(#[source] serde_json::Error),
}

/// What travels in the URI of a request, already decoded.
#[derive(Debug, Default)]
pub(crate) struct UriFields<'a> {
    /// Names in the path with their values.
    pub(crate) path: Vec<(&'a str, String)>,
    /// All query parameters but `api-version`, in their order.
    pub(crate) query: Vec<(String, String)>,
}

/// Writes `request` for the newest version that has its endpoint.
pub(crate) fn encode<E: Endpoint>(request: &E) -> Result<Encoded, serde_json::Error> {
    let version = E::VERSIONS.alone().or(E::Service::VERSIONS.last().copied()).map_or("", ApiVersion::as_str);
    let names = UriNames::of(E::PATH);
    if names.is_empty() {
        let body = Zeroizing::new(serde_json::to_vec(request)?);
        let body = (!matches!(body.as_slice(), b"{}" | b"null")).then_some(body);
        return Ok(Encoded { target: format!("{}?api-version={version}", E::PATH), body });
    }
    let Value::Object(mut fields) = serde_json::to_value(request)? else {
        return Err(de::Error::custom("a request with a path parameter is a struct with named fields"));
    };
    let mut target = String::new();
    for piece in names.path.split('/').skip(1) {
        target.push('/');
        match placeholder(piece) {
            Some(name) => target.push_str(&escaped(&text(fields.remove(name)).unwrap_or_default())),
            None => target.push_str(piece),
        }
    }
    target.push_str(&format!("?api-version={version}"));
    for name in names.query() {
        if let Some(value) = text(fields.remove(name)) {
            target.push_str(&format!("&{name}={}", escaped(&value)));
        }
    }
    let body = match fields.is_empty() {
        true => None,
        false => Some(Zeroizing::new(serde_json::to_vec(&fields)?)),
    };
    Ok(Encoded { target, body })
}

/// Reads a request; `body` is `None` where there is none or its type is not JSON.
///
/// A name of the URI wins over a body member of the same name. Of a repeated query parameter the first counts. Any JSON
/// value but an object has no members: such bodies are accepted where none is needed.
pub(crate) fn decode<E: Endpoint>(uri: UriFields<'_>, body: Option<&[u8]>) -> Result<E, Unreadable> {
    let names = UriNames::of(E::PATH);
    match body {
        Some(body) if body.trim_ascii_start().starts_with(b"{") => {
            let mut json = serde_json::Deserializer::from_slice(body);
            let both = Both { uri: names.fields(uri), request: PhantomData };
            let request = Deserializer::deserialize_map(&mut json, both).map_err(Unreadable::Schema)?;
            json.end().map_err(Unreadable::Schema)?;
            Ok(request)
        }
        Some(body) => {
            check_syntax(body)?;
            E::deserialize(MapDeserializer::new(names.fields(uri).into_iter())).map_err(Unreadable::Schema)
        }
        None => {
            let fields = names.fields(uri).into_iter();
            E::deserialize(MapDeserializer::new(fields)).map_err(Unreadable::BodyMissing)
        }
    }
}

/// Whether `body` is JSON at all.
pub(crate) fn check_syntax(body: &[u8]) -> Result<(), Unreadable> {
    serde_json::from_slice(body).map(|IgnoredAny| ()).map_err(Unreadable::Schema)
}

/// The percent-decoded text of a path segment; `None` if it is not UTF-8.
pub(crate) fn unescaped(segment: &str) -> Option<String> {
    percent_decode_str(segment).decode_utf8().ok().map(Cow::into_owned)
}

/// What a handler reads of what a client writes for `request`; the test of every `-api` crate that both are equal.
///
/// # Errors
///
/// A text that says at which step the request was lost.
pub fn round_trip<E: Endpoint>(request: &E) -> Result<E, String> {
    let encoded = encode(request).map_err(|error| format!("cannot be written: {error}"))?;
    let (path, query) = encoded.target.split_once('?').unwrap_or((&encoded.target, ""));
    let names = UriNames::of(E::PATH);
    let mut fields = UriFields::default();
    if names.path.split('/').count() != path.split('/').count() {
        return Err(format!("{path} has other segments than {}", names.path));
    }
    for (name, segment) in names.path.split('/').zip(path.split('/')) {
        match placeholder(name) {
            Some(name) => fields.path.push((name, unescaped(segment).ok_or("not UTF-8")?)),
            None if name == segment => {}
            None => return Err(format!("{segment} is not {name}")),
        }
    }
    let query = url::form_urlencoded::parse(query.as_bytes()).into_owned();
    fields.query = query.filter(|(name, _)| name != "api-version").collect();
    decode(fields, encoded.body.as_ref().map(|body| body.as_slice())).map_err(|error| crate::chain(&error))
}

/// The name in `{name}`.
fn placeholder(piece: &str) -> Option<&str> {
    piece.strip_prefix('{')?.strip_suffix('}')
}

fn escaped(value: &str) -> String {
    utf8_percent_encode(value, RESERVED).to_string()
}

fn text(value: Option<Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// The names that an endpoint's path puts into the URI.
struct UriNames {
    path: &'static str,
    query: &'static str,
}

impl UriNames {
    fn of(path: &'static str) -> Self {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        Self { path, query }
    }

    fn is_empty(&self) -> bool {
        self.query.is_empty() && !self.path.contains('{')
    }

    fn query(&self) -> impl Iterator<Item = &'static str> {
        self.query.split('&').filter(|name| !name.is_empty())
    }

    /// What the URI says of a request.
    fn fields(&self, uri: UriFields<'_>) -> BTreeMap<String, Value> {
        let in_query = |name: &String| self.query().any(|known| known == name);
        let query = uri.query.into_iter().filter(|(name, _)| in_query(name)).rev();
        let path = uri.path.into_iter().map(|(name, value)| (name.to_owned(), value));
        query.chain(path).map(|(name, value)| (name, Value::String(value))).collect()
    }
}

/// A request with some fields in the URI and the others in a body, which is read once: what the request does not know is
/// passed over, whatever it is.
struct Both<E> {
    uri: BTreeMap<String, Value>,
    request: PhantomData<E>,
}

impl<'de, E: Endpoint> Visitor<'de> for Both<E> {
    type Value = E;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, body: A) -> Result<E, A::Error> {
        E::deserialize(MapAccessDeserializer::new(Members { body, uri: self.uri, current: None }))
    }
}

/// The members of a body that the URI does not name, then those of the URI.
struct Members<A> {
    body: A,
    uri: BTreeMap<String, Value>,
    /// The value to the last name, if it is from the URI.
    current: Option<Value>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.body.next_key::<String>()? {
            if !self.uri.contains_key(&name) {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            self.body.next_value::<IgnoredAny>()?;
        }
        let Some((name, value)) = self.uri.pop_first() else { return Ok(None) };
        self.current = Some(value);
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        match self.current.take() {
            Some(value) => seed.deserialize(value).map_err(de::Error::custom),
            None => self.body.next_value_seed(seed),
        }
    }
}

/// Everything but RFC 3986's unreserved characters is escaped in a path segment or query value, also `/` and `%`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;
    use api::{Move, Ping, Sign};

    #[allow(
        unreachable_pub,
        missing_docs,
        dead_code,
        reason = "the table is written as a service's crate writes it"
    )]
    mod api {
        use schemars::JsonSchema;
        use serde::{Deserialize, Serialize};

        /// A request with fields in path, query and body.
        #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct Move {
            pub key_id: String,
            pub r#type: Option<String>,
            pub from: String,
        }

        /// A request whose fields are all in the body.
        #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        pub struct Sign {
            pub handle: String,
            pub comment: Option<String>,
        }

        /// A request without fields.
        #[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        pub struct Ping {}

        crate::endpoints! {
            /// For tests.
            TestApi "test" ["2020-09-01", "2021-05-01"];
            POST "/keypair/{keyId}?type" since "2020-09-01" Move -> NO_CONTENT ();
            POST "/sign" since "2020-09-01" Sign -> OK String;
            GET "/ping" since "2021-05-01" Ping -> OK String;
        }
    }

    fn moved(id: &str, kind: Option<&str>) -> Move {
        Move { key_id: id.into(), r#type: kind.map(Into::into), from: "old".into() }
    }

    #[test]
    fn what_a_client_writes_is_what_a_handler_reads() {
        for id in ["a", "a/b%20c d?", "wé/ird %41 id?", "..", "$edgeAgent", "x&type=y#z"] {
            for kind in [None, Some("aziot"), Some("a&b=c")] {
                let request = moved(id, kind);
                assert_eq!(round_trip(&request), Ok(request));
            }
        }
        let request = Sign { handle: "sr=a&sig=b".into(), comment: None };
        assert_eq!(round_trip(&request), Ok(request));
        assert_eq!(round_trip(&Ping {}), Ok(Ping {}));
    }

    #[test]
    fn the_newest_version_is_sent_and_a_body_only_if_there_is_something_in_it() {
        let encoded = encode(&moved("a/b", Some("x"))).unwrap();
        assert_eq!(encoded.target, "/keypair/a%2Fb?api-version=2021-05-01&type=x");
        assert_eq!(encoded.body.unwrap().as_slice(), br#"{"from":"old"}"#);
        assert!(encode(&Ping {}).unwrap().body.is_none());
    }

    fn uri(path: &str, query: &[&str]) -> UriFields<'static> {
        let query = query.iter().map(|value| ("type".to_owned(), (*value).to_owned())).collect();
        UriFields { path: vec![("keyId", path.to_owned())], query }
    }

    #[test]
    fn the_uri_wins_over_the_body_and_the_first_parameter_over_the_next() {
        let body = br#"{"keyId":"other","type":"other","from":"old","unknown":[1]}"#;
        let request: Move = decode(uri("a", &["first", "second"]), Some(body)).unwrap();
        assert_eq!(request, moved("a", Some("first")));
    }

    #[test]
    fn a_body_member_serves_where_the_query_has_none() {
        let request: Move = decode(uri("a", &[]), Some(br#"{"type":"aziot","from":"old"}"#)).unwrap();
        assert_eq!(request, moved("a", Some("aziot")));
    }

    #[test]
    fn what_a_request_does_not_know_is_passed_over() {
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        for unknown in
            [r#""x":1,"x":2"#, r#""x":1e999"#, r#""keyId":1e999,"keyId":2"#, &format!(r#""x":{deep}"#)]
        {
            let body = format!(r#"{{"from":"old",{unknown}}}"#);
            assert_eq!(
                decode::<Move>(uri("a", &[]), Some(body.as_bytes())).ok(),
                Some(moved("a", None)),
                "{body}"
            );
            let body = format!(r#" {{{unknown},"handle":"a"}}"#);
            assert!(decode::<Sign>(UriFields::default(), Some(body.as_bytes())).is_ok(), "{body}");
        }
    }

    #[test]
    fn missing_bodies_and_wrong_bodies_are_told_apart() {
        let without = decode::<Move>(uri("a", &[]), None).unwrap_err();
        assert!(matches!(without, Unreadable::BodyMissing(_)), "{without:?}");
        for body in ["", "{", "{} x", r#"{"from":1}"#, r#"{"from":"a","from":"b"}"#, "{}"] {
            let wrong = decode::<Move>(uri("a", &[]), Some(body.as_bytes())).unwrap_err();
            assert!(matches!(wrong, Unreadable::Schema(_)), "{body}: {wrong:?}");
        }
        let no_object = ["", "null", r#""a""#, r#"["a","b"]"#, r#"[{"handle":"a"}]"#];
        for body in [r#"{"handle":"a","handle":"b"}"#, "{}", r#"{"handle":"a"} 1"#].iter().chain(&no_object) {
            let wrong = decode::<Sign>(UriFields::default(), Some(body.as_bytes())).unwrap_err();
            assert!(matches!(wrong, Unreadable::Schema(_)), "{body}: {wrong:?}");
        }
        for body in ["null", "1", r#""a""#, "[]", r#"["a"]"#, "{}", r#"{"a":1}"#] {
            assert!(decode::<Ping>(UriFields::default(), Some(body.as_bytes())).is_ok(), "{body}");
        }
    }
}
