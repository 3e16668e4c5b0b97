//! A daemon's state called as if through its socket, for tests. Knows neither sockets nor HTTP.

use std::sync::Arc;

use crate::{ApiError, Endpoint, Peer, Serve};

/// State and the peer who calls it.
#[derive(Debug)]
pub struct Local<S>(pub Arc<S>, pub Peer);

impl<S> Local<S> {
    /// Calls the handler of `request`.
    pub async fn call<E: Endpoint>(&self, request: E) -> Result<E::Reply, ApiError>
    where
        S: Serve<E>,
    {
        self.0.serve(self.1.clone(), request).await.map_err(Into::into)
    }
}
