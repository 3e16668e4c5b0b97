//! What an endpoint is: one row of a service's table, from which server, client and document are made.
//! Knows neither sockets nor JSON.

use std::future::Future;

use http::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Serialize, de::DeserializeOwned};

use crate::{ApiError, ApiVersion, Peer, Versions};

/// A service: a name, the versions of its API, and its endpoints.
pub trait Service: 'static {
    /// The short name, as in the host name `keyd.sock`.
    const NAME: &'static str;
    /// What the service is, for its OpenAPI document.
    const ABOUT: &'static str;
    /// The accepted versions, oldest first; our own clients send the last that has the endpoint.
    const VERSIONS: &'static [ApiVersion];

    /// All rows of the table, in its order.
    fn operations() -> Vec<Operation>;
}

/// A request and everything that is fixed about it. Implemented by [`endpoints!`](crate::endpoints) only.
///
/// The fields of the request carry the names of the wire: names in braces in [`PATH`](Self::PATH) travel in the
/// path, names behind its `?` in the query, all others in the JSON body.
pub trait Endpoint: Serialize + DeserializeOwned + Send + 'static {
    /// The service that answers.
    type Service: Service;
    /// What it answers.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
    /// The HTTP method.
    const METHOD: Method;
    /// The path with `{names}`, then optionally `?` and the names of query parameters joined by `&`.
    const PATH: &'static str;
    /// The versions that have this endpoint.
    const VERSIONS: Versions;
    /// The status of success.
    const STATUS: StatusCode;
    /// Whether it waits for others, on the network, for as long as these like. Such requests of a uid are counted apart,
    /// so that they keep none of its other requests waiting.
    const WAITS: bool;
}

/// The state of a daemon that answers requests.
pub trait Handlers: Send + Sync + 'static {
    /// Why it refuses; the `Into<ApiError>` is its only knowledge of HTTP.
    type Error: std::error::Error + Into<ApiError> + Send;
}

/// The handler of one endpoint: authorize, call once, reply.
pub trait Serve<E: Endpoint>: Handlers {
    /// Answers `request` for `peer`. Runs to its end even when the caller hangs up.
    fn serve(&self, peer: Peer, request: E) -> impl Future<Output = Result<E::Reply, Self::Error>> + Send;
}

/// One row of a table as a value, for documents and tests.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Name of the request's type.
    pub name: &'static str,
    /// See [`Endpoint::METHOD`].
    pub method: &'static str,
    /// See [`Endpoint::PATH`].
    pub path: &'static str,
    /// See [`Endpoint::VERSIONS`].
    pub versions: Versions,
    /// See [`Endpoint::STATUS`].
    pub status: u16,
    /// Makes the schema of the request's fields.
    pub request: fn(&mut SchemaGenerator) -> Schema,
    /// Makes the schema of the reply.
    pub reply: fn(&mut SchemaGenerator) -> Schema,
}

impl Operation {
    /// The row of `E`.
    pub fn of<E: Endpoint<Reply: JsonSchema> + JsonSchema>(name: &'static str, method: &'static str) -> Self {
        Self {
            name,
            method,
            path: E::PATH,
            versions: E::VERSIONS,
            status: E::STATUS.as_u16(),
            request: E::json_schema,
            reply: |generator| generator.subschema_for::<E::Reply>(),
        }
    }
}

/// Declares the endpoints of a service; see the example at the [crate's root](crate). `since` a version means that one
/// and the later ones; `only` means no other. A row that ends in `, waits` is of
/// [one that waits for others](Endpoint::WAITS).
#[macro_export]
macro_rules! endpoints {
    (@is) => { false };
    (@is waits) => { true };
    (
        $(#[doc = $about:literal])+
        $service:ident $name:literal [$($version:literal),+ $(,)?];
        $( $method:ident $path:literal $range:ident $version_of:literal $request:ident $(:: $member:ident)* -> $status:ident $reply:ty $(, $waits:ident)?; )+
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy)]
        pub struct $service;

        impl $crate::Service for $service {
            const NAME: &'static str = $name;
            const ABOUT: &'static str = concat!($($about),+);
            const VERSIONS: &'static [$crate::ApiVersion] = &[$($crate::ApiVersion::new($version)),+];

            fn operations() -> Vec<$crate::Operation> {
                vec![$($crate::Operation::of::<$request $(:: $member)*>(
                    concat!(stringify!($request) $(, "::", stringify!($member))*),
                    stringify!($method),
                )),+]
            }
        }

        $(
            impl $crate::Endpoint for $request $(:: $member)* {
                type Service = $service;
                type Reply = $reply;
                const METHOD: $crate::Method = $crate::Method::$method;
                const PATH: &'static str = $path;
                const VERSIONS: $crate::Versions = $crate::Versions::$range($crate::ApiVersion::new($version_of));
                const STATUS: $crate::StatusCode = $crate::StatusCode::$status;
                const WAITS: bool = $crate::endpoints!(@is $($waits)?);
            }
        )+

        /// All endpoints of the service, bound to the handlers of `S`.
        pub fn router<S>() -> $crate::Router<S>
        where
            $( S: $crate::Serve<$request $(:: $member)*>, )+
        {
            let mut router = $crate::Router::new::<$service>();
            $( router.add::<$request $(:: $member)*>(); )+
            router
        }
    };
}
