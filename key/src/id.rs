//! Key ids, and the proof that a caller may use one. Knows neither where keys lie nor how permission was found.

use std::fmt;

use config_common::Allowed;

use crate::Error;

/// The name of a key: any text without U+0000, also the empty one (spec keys-service, "Terms").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyId(String);

impl KeyId {
    /// Takes `id` as it came over the wire or from a handle.
    pub fn new(id: impl Into<String>) -> Result<Self, Error> {
        let id = id.into();
        if id.contains('\0') { Err(Error::NulInId) } else { Ok(Self(id)) }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the id of the key that makes handles genuine.
    pub(crate) fn is_validation_key(&self) -> bool {
        self.0 == VALIDATION_KEY
    }
}

impl fmt::Display for KeyId {
    /// In quotes, and with control characters escaped: ids go into log lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Leave to use one key. Stores ask for it, so that a path without authorization does not compile.
///
/// There are three ways to one: the principals' patterns ([`Keyd`](crate::Keyd) asks them), a genuine handle
/// ([`handle::open`](crate::handle::open)), and being keyd itself, for the validation key only. Through the first
/// two the validation key cannot be had (spec keys-service, 6.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit(KeyId);

impl Permit {
    /// What the principals allowed; the reserved id is refused to everybody, also to root.
    pub fn from_acl(allowed: Allowed<&str>) -> Result<Self, Error> {
        let id = KeyId::new(allowed.into_inner())?;
        if id.is_validation_key() { Err(Error::ReservedId) } else { Ok(Self(id)) }
    }

    /// What a genuine handle allows; only [`handle`](crate::handle) may call this.
    pub(crate) fn from_handle(id: KeyId) -> Result<Self, Error> {
        if id.is_validation_key() { Err(Error::ReservedHandle) } else { Ok(Self(id)) }
    }

    /// keyd's own use of the key that makes handles genuine.
    pub(crate) fn validation_key() -> Self {
        Self(KeyId(VALIDATION_KEY.to_owned()))
    }

    /// The key that may be used.
    pub fn id(&self) -> &KeyId {
        &self.0
    }
}

/// The id of the key that makes handles genuine (spec keys-service, 6.3).
pub const VALIDATION_KEY: &str = "handle-validation-key";

#[cfg(test)]
mod tests {
    use config_common::Acl;

    use super::*;

    #[test]
    fn any_text_without_nul_is_an_id() {
        for id in ["", "a/b%20c d?", "größe key/2", "\n"] {
            assert_eq!(KeyId::new(id).unwrap().as_str(), id);
        }
        assert!(matches!(KeyId::new("a\0b"), Err(Error::NulInId)));
    }

    #[test]
    fn the_validation_key_is_granted_to_nobody() {
        let by_root = |id: &str| Permit::from_acl(Acl::default().allow(0, id).unwrap());
        assert!(matches!(by_root("handle-validation-key"), Err(Error::ReservedId)));
        assert!(by_root("handle-validation-key2").is_ok());
        let by_handle = |id: &str| Permit::from_handle(KeyId::new(id).unwrap());
        assert!(matches!(by_handle("handle-validation-key"), Err(Error::ReservedHandle)));
        assert!(by_handle("").is_ok());
    }
}
