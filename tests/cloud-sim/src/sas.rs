//! Shared access signatures as Azure checks them: parse leniently in form, verify strictly in substance.
//!
//! It does not know which keys and resources belong to a request; services bring them.

use crate::keys::KeyPair;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

/// A token as it came, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// `sr` exactly as sent: what the signature covers.
    pub(crate) sr: String,
    /// The signature, decoded.
    pub(crate) sig: Vec<u8>,
    /// Expiry as sent: the signature covers the text.
    pub(crate) se: String,
    /// Expiry in Unix seconds.
    pub(crate) expires: i64,
    /// The policy, `registration` towards DPS.
    pub(crate) skn: Option<String>,
    /// Field names in the order sent.
    pub(crate) order: Vec<String>,
}

impl Token {
    /// Take an `Authorization` header apart.
    ///
    /// # Errors
    /// What is wrong with it, for a person to read.
    pub(crate) fn parse(header: &str) -> Result<Token, String> {
        let (scheme, fields) =
            header.trim().split_once(' ').ok_or("the Authorization header has no token")?;
        if !scheme.eq_ignore_ascii_case("SharedAccessSignature") {
            return Err(format!("the Authorization scheme is {scheme}, not SharedAccessSignature"));
        }
        let fields = fields.trim().split('&').map(|field| field.split_once('=').unwrap_or((field, "")));
        let fields: Vec<(&str, &str)> = fields.collect();
        let find = |name: &str| {
            let mut found = fields.iter().filter(|(key, _)| *key == name).map(|(_, value)| *value);
            match (found.next(), found.next()) {
                (first, None) => Ok(first),
                _ => Err(format!("the token has more than one {name}")),
            }
        };
        let need = |name: &str| find(name)?.ok_or_else(|| format!("the token has no {name}"));
        let se = need("se")?;
        Ok(Token {
            sr: need("sr")?.to_owned(),
            sig: signature(need("sig")?)?,
            se: se.to_owned(),
            expires: se.parse().map_err(|_| format!("se is not a number of seconds: {se}"))?,
            skn: find("skn")?.map(decode),
            order: fields.iter().map(|(name, _)| (*name).to_owned()).collect(),
        })
    }

    /// Which key of `keys` signed this token, if any.
    #[must_use]
    pub(crate) fn signer(&self, keys: &KeyPair) -> Option<&'static str> {
        keys.signer(format!("{}\n{}", self.sr, self.se).as_bytes(), &self.sig)
    }

    /// Whether the token is for `resource` itself or for something above it, in any case and encoding.
    #[must_use]
    pub(crate) fn covers(&self, resource: &str) -> bool {
        let (named, resource) = (decode(&self.sr).to_lowercase(), resource.to_lowercase());
        let below = resource.strip_prefix(named.as_str());
        !named.is_empty() && below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether the token is for exactly `resource`.
    #[must_use]
    pub(crate) fn names(&self, resource: &str) -> bool {
        decode(&self.sr).to_lowercase() == resource.to_lowercase()
    }

    /// For how many seconds the token has been invalid at `now` (Unix seconds); `None` while it is valid.
    #[must_use]
    pub(crate) fn expired_for(&self, now: i64) -> Option<i64> {
        (self.expires < now).then(|| now.saturating_sub(self.expires))
    }

    /// The token's public facts for the log; `now` in Unix seconds.
    #[must_use]
    pub(crate) fn describe(&self, now: i64) -> Value {
        json!({
            "sr": self.sr, "se": self.expires, "skn": self.skn, "order": self.order,
            "expires_in": self.expires.saturating_sub(now),
        })
    }
}

/// Percent-decoding; what is not UTF-8 becomes U+FFFD. `+` stays: it is a legal character of ids.
#[must_use]
pub(crate) fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// A form-encoded base64 signature: a raw `+` reads as a blank there, as it does at the service.
fn signature(text: &str) -> Result<Vec<u8>, String> {
    if text.contains('+') {
        return Err("sig has a raw +, which means a blank there; send %2B".to_owned());
    }
    STANDARD
        .decode(percent_decode_str(text).collect::<Vec<u8>>())
        .map_err(|err| format!("sig is not base64: {err}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Key;

    const DPS: &str = "SharedAccessSignature sr=0ne00abc123/registrations/pump%3D7%20a&sig=DjkJ2Zu%2BcDG9NWr4fMbIRjaDFL4yFewlRHjrZeR5Jdc%3D&se=1893456030&skn=registration";
    const HUB: &str = "SharedAccessSignature sr=contoso-hub.azure-devices.net/devices/pump-7&sig=oOniCXJhfa3Q06QTxXhPbZlUk8bJJarVrWwL%2F3Ffys0%3D&se=1893456030";

    fn keys() -> KeyPair {
        KeyPair { primary_key: None, secondary_key: Some(Key::new((0..0x20).collect())) }
    }

    #[test]
    fn published_vectors_verify() {
        let dps = Token::parse(DPS).unwrap();
        assert_eq!(dps.signer(&keys()), Some("secondary"));
        assert_eq!(dps.skn.as_deref(), Some("registration"));
        assert!(dps.names("0ne00ABC123/registrations/Pump=7 a"));
        let hub = Token::parse(HUB).unwrap();
        assert_eq!(hub.signer(&keys()), Some("secondary"));
        assert!(hub.covers("Contoso-Hub.azure-devices.net/devices/Pump-7/modules/m"));
        assert_eq!((hub.expired_for(1_893_456_030), hub.expired_for(1_893_456_034)), (None, Some(4)));
    }

    #[test]
    fn one_changed_character_does_not_verify() {
        for changed in
            [HUB.replace("oOni", "oOnj"), HUB.replace("456030", "456031"), HUB.replace("pump-7", "pump-8")]
        {
            assert_eq!(Token::parse(&changed).unwrap().signer(&keys()), None, "{changed}");
        }
    }

    #[test]
    fn form_is_free() {
        let key = Key::new((0..0x20).collect());
        let sr = "Contoso-Hub.azure-devices.net%2Fdevices%2FPUMP-7";
        let sig = STANDARD.encode(key.hmac(format!("{sr}\n99").as_bytes()));
        let sig = sig.replace('+', "%2b").replace('/', "%2f").replace('=', "%3d");
        let token = Token::parse(&format!("sharedaccesssignature se=99&sig={sig}&sr={sr}")).unwrap();
        assert_eq!(token.signer(&keys()), Some("secondary"));
        assert_eq!(token.order, ["se", "sig", "sr"]);
        assert!(token.names("contoso-hub.azure-devices.net/devices/pump-7"));
    }

    #[test]
    fn a_prefix_ends_at_a_slash() {
        let token = Token { sr: "hub/devices/pump".into(), ..Token::parse(HUB).unwrap() };
        assert!(token.covers("hub/devices/pump") && token.covers("hub/devices/pump/modules/m"));
        assert!(!token.covers("hub/devices/pump-7") && !token.covers("hub/devices"));
        assert!(!Token { sr: String::new(), ..token }.covers("/x"));
    }

    #[test]
    fn what_is_no_token_says_why() {
        for (header, why) in [
            ("", "no token"),
            ("Bearer abc", "scheme is Bearer"),
            ("SharedAccessSignature sr=a&se=1", "no sig"),
            ("SharedAccessSignature sr=a&se=1&sig=AA==&sr=b", "more than one sr"),
            ("SharedAccessSignature sr=a&se=soon&sig=AA==", "se is not a number"),
            ("SharedAccessSignature sr=a&se=1&sig=A+==", "raw +"),
            ("SharedAccessSignature sr=a&se=1&sig=%%%", "not base64"),
        ] {
            let err = Token::parse(header).unwrap_err();
            assert!(err.contains(why), "{header}: {err}");
        }
    }
}
