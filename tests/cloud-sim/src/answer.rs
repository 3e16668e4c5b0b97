//! What a service decided about one request: the reply, and why, for the log.

use crate::http::Reply;

/// A reply with its reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What the client gets.
    pub(crate) reply: Reply,
    /// Why the request was refused; `None` when it was accepted.
    pub(crate) refused: Option<String>,
    /// Facts a test may want to assert: which key verified, that a token was expired, …
    pub(crate) notes: Vec<String>,
}
