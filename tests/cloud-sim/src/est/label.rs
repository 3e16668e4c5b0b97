//! How one EST label behaves: whom it lets in, what it issues, and in what form.

use super::encoding::Style;
use crate::settings::RetryAfter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A label's manners; `PUT` of one replaces it, and what is absent is as here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Label {
    /// What a client must prove.
    pub(crate) authentication: Access,
    /// Passwords by user name.
    pub(crate) users: BTreeMap<String, String>,
    /// The uploaded CA certificates whose client certificates are let in besides this server's own; all when absent.
    pub(crate) trusted: Option<Vec<String>>,
    /// Whether `cacerts` and `csrattrs` need the proof, too.
    pub(crate) protect_cacerts: bool,
    /// For how many seconds from now certificates are valid.
    pub(crate) validity_secs: u32,
    /// By how many seconds their validity begins in the past.
    pub(crate) backdate_secs: u32,
    /// How often a request is answered 202 before it is granted.
    pub(crate) pending: u32,
    /// `Retry-After` of these.
    pub(crate) retry_after: RetryAfter,
    /// Whether RSA below 2048 bits and curves below 256 bits are refused.
    pub(crate) refuse_weak_keys: bool,
    /// Whether CA certificates are issued when asked for.
    pub(crate) allow_ca: bool,
    /// Longest line of a request's base64; as long as it likes when absent.
    pub(crate) max_line: Option<usize>,
    /// Issue for a key that is not the request's.
    pub(crate) foreign_key: bool,
    /// What `csrattrs` answers, base64 of DER; 204 when absent.
    pub(crate) csrattrs: Option<String>,
    /// How certificates are written down.
    pub(crate) pkcs7: Style,
}

impl Default for Label {
    fn default() -> Label {
        Label {
            authentication: Access::Either,
            users: BTreeMap::from([("device".to_owned(), "secret".to_owned())]),
            trusted: None,
            protect_cacerts: false,
            validity_secs: 90 * 86_400,
            backdate_secs: 60,
            pending: 0,
            retry_after: RetryAfter::Seconds(3),
            refuse_weak_keys: true,
            allow_ca: true,
            max_line: None,
            foreign_key: false,
            csrattrs: None,
            pkcs7: Style::default(),
        }
    }
}

/// What a client must prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Access {
    /// Nothing.
    None,
    /// A password.
    Basic,
    /// A certificate.
    Certificate,
    /// One of the two.
    Either,
    /// Both.
    Both,
}
