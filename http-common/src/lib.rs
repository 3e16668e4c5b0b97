//! REST over a Unix socket, typed at both ends; and what the suite's daemons share besides.
//!
//! ```text
//!             endpoints! { POST "/sign" … Sign -> OK Signature; }          one table per service, in its api crate
//!                 │                    │                    │
//!          Client::call(&Sign)   router::<Keyd>()    openapi::document()
//!                 │                    │
//!   caller ── wire::encode ── socket ── server: peer, version, path, body, slot ── wire::decode ── impl Serve<Sign>
//! ```
//!
//! A service is a table of endpoints; a request is one struct, a handler one `impl`:
//!
//! ```
//! use http_common::{ApiError, Handlers, Local, Peer, Serve};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! /// Greets somebody.
//! #[derive(Debug, Serialize, Deserialize, JsonSchema)]
//! pub struct Greet { name: String }
//!
//! http_common::endpoints! {
//!     /// A service that greets.
//!     Greeter "greeter" ["2020-09-01"];
//!     GET "/greetings/{name}" since "2020-09-01" Greet -> OK String;
//! }
//!
//! struct Greeterd;
//! #[derive(Debug, thiserror::Error)]
//! #[error("not today")]
//! struct Closed;
//! impl From<Closed> for ApiError {
//!     fn from(error: Closed) -> Self { ApiError::from_error(http_common::StatusCode::NOT_FOUND, &error) }
//! }
//! impl Handlers for Greeterd { type Error = Closed; }
//! impl Serve<Greet> for Greeterd {
//!     async fn serve(&self, peer: Peer, request: Greet) -> Result<String, Closed> {
//!         if peer.uid == 7 { Err(Closed) } else { Ok(format!("hello {}", request.name)) }
//!     }
//! }
//! let _router = router::<Greeterd>(); // without the `impl Serve<Greet>` this would not compile
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let local = Local(std::sync::Arc::new(Greeterd), Peer::of_uid(1000));
//! assert_eq!(local.call(Greet { name: "you".into() }).await.unwrap(), "hello you");
//! # });
//! ```

mod apart;
pub mod blocking;
mod body;
mod client;
mod connections;
pub mod daemon;
mod endpoint;
mod error;
mod ffi;
pub mod https;
mod limit;
mod listener;
mod local;
mod log;
pub mod openapi;
mod peer;
mod reply;
pub mod retry;
mod router;
pub mod sas;
mod server;
mod stop;
mod version;
mod wire;

pub use apart::wait_apart;
pub use body::BODY_LIMIT;
pub use client::{Client, ClientError};
pub use endpoint::{Endpoint, Handlers, Operation, Serve, Service};
pub use error::{ApiError, Facts, chain};
pub use http::{Method, StatusCode};
pub use limit::Limits;
pub use listener::{ListenError, listen};
pub use local::Local;
pub use peer::Peer;
pub use router::Router;
pub use server::Server;
pub use stop::Stop;
pub use version::{ApiVersion, Versions};
pub use wire::round_trip;
