//! One request with its circumstances, as services judge it.

use crate::{certificate::ClientCertificate, http::Request};

/// A request, who showed what in the handshake before it, and what time it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    /// The request.
    pub(crate) request: &'a Request,
    /// What the client showed in the TLS handshake; its key is proven there.
    pub(crate) certificate: Option<&'a ClientCertificate>,
    /// The simulator's time, Unix milliseconds.
    pub(crate) now_ms: i64,
}
