//! `aziot:` URIs that name a key (spec openssl-engine, 13.2). Knows neither keyd nor OpenSSL.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::Error;

/// Which key: by the name that keyd knows, or by a handle that keyd gave out.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyName {
    /// The id of a key pair; keyd must allow it to the user of the process.
    Id(String),
    /// A handle, which is the permission itself.
    Handle(Zeroizing<String>),
}

/// A parsed `aziot:` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUri {
    /// Which key.
    pub name: KeyName,
    /// Whether only the public part is wanted (`?type=public`).
    pub public_only: bool,
}

impl KeyUri {
    /// Reads `aziot:id=ID[?type=private|public]`, `aziot:handle=HANDLE` or `aziot:sr=…&sig=…`.
    pub fn parse(uri: &str) -> Result<Self, Error> {
        let rest = behind_scheme(uri).ok_or(Error::BadUri("it does not begin with aziot:"))?;
        if let Some(handle) = rest.strip_prefix("handle=") {
            return by_handle(handle);
        }
        match rest.strip_prefix("id=") {
            Some(id) => by_id(id),
            None if rest.starts_with("sr=") => by_handle(rest),
            None => Err(Error::BadUri("there is neither id= nor handle= behind aziot:")),
        }
    }

    /// Reads such a URI, or a handle as it is.
    pub fn parse_or_handle(text: &str) -> Result<Self, Error> {
        match behind_scheme(text) {
            Some(_) => Self::parse(text),
            None => by_handle(text),
        }
    }
}

impl KeyName {
    /// The URI of the private key with this name.
    pub fn to_uri(&self) -> Zeroizing<String> {
        Zeroizing::new(match self {
            Self::Id(id) => format!("{SCHEME}id={}", utf8_percent_encode(id, ESCAPED)),
            Self::Handle(handle) => format!("{SCHEME}handle={}", handle.as_str()),
        })
    }
}

impl fmt::Display for KeyName {
    /// Names the key to people; a handle is not shown, and of a very long id the beginning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => match id.char_indices().nth(SHOWN) {
                Some((end, _)) => write!(f, "the key {:?}…", &id[..end]),
                None => write!(f, "the key {id:?}"),
            },
            Self::Handle(_) => f.write_str("the key of the given handle"),
        }
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn behind_scheme(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

fn by_handle(handle: &str) -> Result<KeyUri, Error> {
    match handle {
        "" => Err(Error::BadUri("the handle is empty")),
        _ => {
            let name = KeyName::Handle(Zeroizing::new(handle.to_owned()));
            Ok(KeyUri { name, public_only: false })
        }
    }
}

fn by_id(rest: &str) -> Result<KeyUri, Error> {
    let (id, query) = rest.split_once('?').map_or((rest, None), |(id, query)| (id, Some(query)));
    let public_only = match query {
        None | Some("type=private") => false,
        Some("type=public") => true,
        Some(_) => return Err(Error::BadUri("its query is neither type=private nor type=public")),
    };
    let id = percent_decode_str(id).decode_utf8().map_err(|_| Error::BadUri("the id is not UTF-8"))?;
    match id.is_empty() || id.contains('\0') {
        true => Err(Error::BadUri("the id is empty or contains U+0000")),
        false => Ok(KeyUri { name: KeyName::Id(id.into_owned()), public_only }),
    }
}

const SCHEME: &str = "aziot:";
/// Characters of an id that are shown.
const SHOWN: usize = 100;
/// All but the unreserved characters of RFC 3986, 2.3.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str, public_only: bool) -> Option<KeyUri> {
        Some(KeyUri { name: KeyName::Id(id.into()), public_only })
    }

    fn handle(handle: &str) -> Option<KeyUri> {
        Some(KeyUri { name: KeyName::Handle(Zeroizing::new(handle.into())), public_only: false })
    }

    #[test]
    fn all_forms() {
        for (uri, expected) in [
            ("aziot:id=device-id", id("device-id", false)),
            ("AZIOT:id=a%20b%2Fc%3f", id("a b/c?", false)),
            ("aziot:id=a/b", id("a/b", false)),
            ("aziot:id=x?type=public", id("x", true)),
            ("aziot:id=x?type=private", id("x", false)),
            ("aziot:handle=sr=a+/b==&sig=c=?type=public", handle("sr=a+/b==&sig=c=?type=public")),
            ("aziot:sr=a%20b&sig=c", handle("sr=a%20b&sig=c")),
            ("aziot:id=", None),
            ("aziot:id=x?type=secret", None),
            ("aziot:id=%ff", None),
            ("aziot:id=%00", None),
            ("aziot:handle=", None),
            ("aziot:x", None),
            ("aziot:", None),
            ("aziö", None),
            ("pkcs11:id=x", None),
            ("", None),
        ] {
            assert_eq!(KeyUri::parse(uri).ok(), expected, "{uri}");
        }
    }

    #[test]
    fn what_is_no_uri_may_be_a_handle() {
        for (text, expected) in [
            ("sr=a&sig=b", handle("sr=a&sig=b")),
            ("sr=aziot:", handle("sr=aziot:")),
            ("aziot:id=x", id("x", false)),
            ("AZIOT:id=x", id("x", false)),
            ("Aziot:x", None),
            ("", None),
        ] {
            assert_eq!(KeyUri::parse_or_handle(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_name_is_written_as_it_is_read() {
        for name in
            [KeyName::Id("wé/ird %41 id?&=".into()), KeyName::Handle(Zeroizing::new("sr=+/=&sig=".into()))]
        {
            assert_eq!(KeyUri::parse(&name.to_uri()).unwrap().name, name);
        }
    }

    #[test]
    fn of_a_long_id_the_beginning_is_shown() {
        let shown = |length| KeyName::Id("é".repeat(length)).to_string();
        assert_eq!(shown(100), format!("the key {:?}", "é".repeat(100)));
        assert_eq!(shown(101), format!("{}…", shown(100)));
    }

    #[test]
    fn a_handle_is_never_printed() {
        let name = KeyName::Handle(Zeroizing::new("sr=secret".into()));
        assert!(!format!("{name} {name:?}").contains("secret"));
    }
}
