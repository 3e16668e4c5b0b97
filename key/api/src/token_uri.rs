//! `pkcs11:` URIs (RFC 7512) as far as they matter here: which token, which object, where its PIN is (spec keys-service,
//! 10.2). Looks at no token and reads no PIN.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use config_common::Secret;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::BadUri;

/// A `pkcs11:` URI that names a token, and possibly an object on it and a PIN.
///
/// Values are percent-decoded; unknown attributes are ignored; of a repeated attribute the last counts.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenUri {
    text: String,
    token: TokenName,
    object: ObjectName,
    pin: Option<PinSource>,
}

/// What a URI says about its token.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TokenName {
    /// `slot-id`, which wins over all others: the token in this slot, whatever it is called.
    Slot(u64),
    /// The initialised token with all of these properties.
    Properties {
        /// `token`.
        label: Option<String>,
        /// `serial`.
        serial: Option<String>,
        /// `manufacturer`.
        manufacturer: Option<String>,
        /// `model`.
        model: Option<String>,
    },
}

/// What a URI says about the object; nothing if any object of its class will do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ObjectName {
    /// `object`, that is `CKA_LABEL`.
    pub label: Option<Vec<u8>>,
    /// `id`, that is `CKA_ID`.
    pub id: Option<Vec<u8>>,
}

/// Where the PIN of the user of a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PinSource {
    /// In the URI: `pin-value`, which wins.
    Value(Secret),
    /// In this file: `pin-source` with an absolute path or a `file:` URL.
    File(PathBuf),
    /// In the file of this name in `$CREDENTIALS_DIRECTORY` (systemd): `pin-source` with a plain name.
    Credential(String),
}

impl TokenUri {
    /// Which token is meant.
    pub fn token(&self) -> &TokenName {
        &self.token
    }

    /// Which object on it is meant.
    pub fn object(&self) -> &ObjectName {
        &self.object
    }

    /// Where its PIN is, if the URI says so.
    pub fn pin(&self) -> Option<&PinSource> {
        self.pin.as_ref()
    }
}

impl TryFrom<String> for TokenUri {
    type Error = BadUri;

    fn try_from(text: String) -> Result<Self, BadUri> {
        if text.contains('\0') {
            return Err(BadUri("it contains U+0000"));
        }
        let attributes = text.strip_prefix("pkcs11:").ok_or(BadUri("it does not begin with pkcs11:"))?;
        let (path, query) = attributes.split_once('?').unwrap_or((attributes, ""));
        let mut said = Said::default();
        attributes_of(path, ';').try_for_each(|(name, value)| said.path_attribute(&name, value))?;
        attributes_of(query, '&').try_for_each(|(name, value)| said.query_attribute(&name, value))?;
        let Said { slot, label, serial, manufacturer, model, object, pin_value, pin_source } = said;
        let token = match slot {
            Some(slot) => TokenName::Slot(slot),
            None if label.is_none() && serial.is_none() => {
                return Err(BadUri("it has neither token nor slot-id"));
            }
            None => TokenName::Properties { label, serial, manufacturer, model },
        };
        Ok(Self { token, object, pin: pin_value.or(pin_source), text })
    }
}

impl From<TokenUri> for String {
    fn from(uri: TokenUri) -> Self {
        uri.text
    }
}

impl fmt::Debug for TokenUri {
    /// Keeps PINs out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenUri({})", self.token)
    }
}

impl fmt::Display for TokenName {
    /// As the beginning of a URI, for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, serial, manufacturer, model) = match self {
            Self::Slot(number) => return write!(f, "slot-id={number}"),
            Self::Properties { label, serial, manufacturer, model } => (label, serial, manufacturer, model),
        };
        let all = [("token", label), ("serial", serial), ("manufacturer", manufacturer), ("model", model)];
        let mut separator = "";
        for (name, value) in all.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
            write!(f, "{separator}{name}={}", value.escape_debug())?;
            separator = ";";
        }
        Ok(())
    }
}

impl JsonSchema for TokenUri {
    fn schema_name() -> Cow<'static, str> {
        "TokenUri".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^pkcs11:" })
    }
}

/// What has been read of a URI.
#[derive(Default)]
struct Said {
    slot: Option<u64>,
    label: Option<String>,
    serial: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
    object: ObjectName,
    pin_value: Option<PinSource>,
    pin_source: Option<PinSource>,
}

impl Said {
    fn path_attribute(&mut self, name: &[u8], value: Vec<u8>) -> Result<(), BadUri> {
        match name {
            b"slot-id" => self.slot = Some(number(&value).ok_or(BadUri("its slot-id is not a number"))?),
            b"token" => self.label = Some(text(value)?),
            b"serial" => self.serial = Some(text(value)?),
            b"manufacturer" => self.manufacturer = Some(text(value)?),
            b"model" => self.model = Some(text(value)?),
            b"object" => self.object.label = Some(value),
            b"id" => self.object.id = Some(value),
            _ => {}
        }
        Ok(())
    }

    fn query_attribute(&mut self, name: &[u8], value: Vec<u8>) -> Result<(), BadUri> {
        match name {
            b"pin-value" => self.pin_value = Some(PinSource::Value(Secret::new(value))),
            b"pin-source" => self.pin_source = Some(pin_source(text(value)?)?),
            _ => {}
        }
        Ok(())
    }
}

fn pin_source(place: String) -> Result<PinSource, BadUri> {
    if place.starts_with("file:") {
        let path = Url::parse(&place).ok().and_then(|url| url.to_file_path().ok());
        path.map(PinSource::File).ok_or(BadUri("its pin-source names no file on this machine"))
    } else if place.starts_with('/') {
        Ok(PinSource::File(place.into()))
    } else if place.is_empty() || place.contains(['/', '|']) || place == "." || place == ".." {
        Err(BadUri("its pin-source is neither a file nor the name of a credential"))
    } else {
        Ok(PinSource::Credential(place))
    }
}

fn attributes_of(list: &str, separator: char) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let pairs = list.split(separator).filter_map(|attribute| attribute.split_once('='));
    pairs.map(|(name, value)| (percent_decoded(name), percent_decoded(value)))
}

fn number(value: &[u8]) -> Option<u64> {
    let digits = value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

fn text(value: Vec<u8>) -> Result<String, BadUri> {
    String::from_utf8(value).map_err(|_| BadUri("an attribute is not UTF-8"))
}

/// `text` with each `%xx` as the byte that it stands for; what is no such triple stands for itself.
fn percent_decoded(text: &str) -> Vec<u8> {
    let mut rest = text.as_bytes();
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, tail @ ..] = rest {
        match tail {
            [high, low, after @ ..] if *first == b'%' => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    bytes.push(high << 4 | low);
                    rest = after;
                    continue;
                }
                _ => bytes.push(*first),
            },
            _ => bytes.push(*first),
        }
        rest = tail;
    }
    bytes
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TokenUri, BadUri> {
        TokenUri::try_from(text.to_owned())
    }

    fn properties(label: &str) -> TokenName {
        TokenName::Properties { label: Some(label.into()), serial: None, manufacturer: None, model: None }
    }

    #[test]
    fn tokens_and_objects() {
        let check = |text: &str, token: TokenName, object: Option<&[u8]>| {
            let uri = parse(text).unwrap();
            assert_eq!(*uri.token(), token, "{text}");
            assert_eq!(uri.object().label.as_deref(), object, "{text}");
            assert_eq!(String::from(uri), text);
        };
        check("pkcs11:token=gateway", properties("gateway"), None);
        check("pkcs11:token=gate%20way;object=factory%2Did", properties("gate way"), Some(b"factory-id"));
        check("pkcs11:object=a b;token=gate way", properties("gate way"), Some(b"a b"));
        check("pkcs11:token=a;token=b", properties("b"), None);
        check("pkcs11:token=x;slot-id=7;other=1;bare", TokenName::Slot(7), None);
        check("pkcs11:slot%2Did=7;x-y=%zz%4", TokenName::Slot(7), None);
        check("pkcs11:token=100%", properties("100%"), None);
        check("pkcs11:token=x;object=%ff%00", properties("x"), Some(b"\xff\x00"));
        let serial = parse("pkcs11:serial=00ff;model=SoftHSM%20v2;id=%01%02").unwrap();
        assert_eq!(serial.token().to_string(), "serial=00ff;model=SoftHSM v2");
        assert_eq!(serial.object().id.as_deref(), Some(&[1, 2][..]));
    }

    #[test]
    fn pins() {
        let check = |query: &str, expected: Option<PinSource>| {
            assert_eq!(
                parse(&format!("pkcs11:token=x?{query}")).unwrap().pin().cloned(),
                expected,
                "{query}"
            );
        };
        let value = |pin: &str| Some(PinSource::Value(Secret::new(pin.into())));
        check("", None);
        check("pin-value=0815", value("0815"));
        check("pin-value=a%26b&x=y", value("a&b"));
        check("pin-source=/run/pin&pin-value=1", value("1"));
        check("pin-source=/run/my%20pin", Some(PinSource::File("/run/my pin".into())));
        check("pin-source=file:///run/my%2520pin", Some(PinSource::File("/run/my pin".into())));
        check("pin-source=hsm-pin", Some(PinSource::Credential("hsm-pin".into())));
        assert!(!format!("{:?}", parse("pkcs11:token=x?pin-value=0815").unwrap()).contains("0815"));
    }

    #[test]
    fn what_is_refused() {
        for bad in [
            "",
            "pkcs11",
            "pkcs11:",
            "PKCS11:token=x",
            "pkcs11:object=y",
            "pkcs11:model=y",
            "pkcs11:slot-id=x",
            "pkcs11:slot-id=-1",
            "pkcs11:slot-id=+1",
            "pkcs11:object=y?token=x",
            "pkcs11:token=%ff",
            "pkcs11:token=x\0",
            "pkcs11:token=x?pin-source=|cat",
            "pkcs11:token=x?pin-source=a/b",
            "pkcs11:token=x?pin-source=..",
            "pkcs11:token=x?pin-source=",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
