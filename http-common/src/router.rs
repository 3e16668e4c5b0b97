//! Method + path + api-version → handler. Knows nothing of connections; a request's body comes as bytes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode, Uri};

use crate::wire::{self, Unreadable, UriFields};
use crate::{ApiError, ApiVersion, Endpoint, Handlers, Peer, Serve, Service, Versions, chain};

/// All endpoints of a service with the handlers of `S`.
pub struct Router<S> {
    name: &'static str,
    versions: &'static [ApiVersion],
    paths: matchit::Router<usize>,
    routes: Vec<Vec<Route<S>>>,
    patterns: Vec<&'static str>,
    assumed: Option<ApiVersion>,
}

/// A handler's outcome: what to send, and what to log if it failed.
pub(crate) type Outcome = Result<Success, Failure>;

/// A handler on its way.
pub(crate) type Running = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A request that was decoded and has not begun.
pub(crate) struct Prepared {
    /// Runs when it is polled.
    pub(crate) running: Running,
    /// See [`Endpoint::WAITS`].
    pub(crate) waits: bool,
}

/// A reply in its final form.
#[derive(Debug)]
pub(crate) struct Success {
    /// The endpoint's status.
    pub(crate) status: StatusCode,
    /// JSON; empty for a status without content.
    pub(crate) body: Bytes,
}

/// A refusal.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the caller sees.
    pub(crate) reply: ApiError,
    /// The whole chain of causes, for the log only.
    pub(crate) log: String,
}

/// A request's head, as far as routing goes.
pub(crate) struct Matched<'r, 'u, S> {
    routes: &'r [Route<S>],
    /// The path as it stands in the table, for the log.
    pub(crate) pattern: &'static str,
    version: ApiVersion,
    uri: UriFields<'u>,
}

/// What the rules of bodies made of a request's body.
pub(crate) enum Body<'b> {
    /// None.
    Absent,
    /// One whose type is not JSON, which counts as none.
    OtherType,
    /// To be read as JSON, even if it is empty.
    Json(&'b [u8]),
}

struct Route<S> {
    method: Method,
    versions: Versions,
    waits: bool,
    call: Call<S>,
}

type Call<S> = fn(&Arc<S>, Peer, UriFields<'_>, Option<&[u8]>) -> Result<Running, Unreadable>;

impl<S: Handlers> Router<S> {
    /// A router without endpoints. Called by [`endpoints!`](crate::endpoints).
    pub fn new<T: Service>() -> Self {
        let paths = matchit::Router::new();
        Self {
            name: T::NAME,
            versions: T::VERSIONS,
            paths,
            routes: Vec::new(),
            patterns: Vec::new(),
            assumed: None,
        }
    }

    /// Adds the endpoint `E`.
    pub fn add<E: Endpoint>(&mut self)
    where
        S: Serve<E>,
    {
        let path = E::PATH.split_once('?').map_or(E::PATH, |(path, _)| path);
        let route = Route { method: E::METHOD, versions: E::VERSIONS, waits: E::WAITS, call: call::<S, E> };
        match self.patterns.iter().position(|known| *known == path) {
            Some(index) => self.routes[index].push(route),
            None => {
                self.paths.insert(path, self.routes.len()).expect("the paths of a table do not conflict");
                self.routes.push(vec![route]);
                self.patterns.push(path);
            }
        }
    }

    /// Takes a request without `api-version` as one of this version; without one, such a request is refused.
    pub fn assuming(mut self, version: Option<ApiVersion>) -> Self {
        self.assumed = version;
        self
    }

    /// Name of the service.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Looks at everything but method and body: first the version, then the path (spec service-common 6.2).
    pub(crate) fn find<'u>(&self, uri: &'u Uri) -> Result<Matched<'_, 'u, S>, ApiError> {
        let mut version = None;
        let mut query = Vec::new();
        for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
            match name.as_ref() {
                "api-version" => version = Some(value),
                _ => query.push((name.into_owned(), value.into_owned())),
            }
        }
        let version = self.version(version.as_deref())?;
        let unknown =
            || ApiError::new(StatusCode::NOT_FOUND, format!("no such path in api-version {version}"));
        let found = self.paths.at(uri.path()).map_err(|_| unknown())?;
        let routes = self.routes[*found.value].as_slice();
        if !routes.iter().any(|route| route.versions.contains(version)) {
            return Err(unknown());
        }
        let mut path = Vec::new();
        for (name, value) in found.params.iter() {
            let name = self.patterns[*found.value]
                .split(['{', '}'])
                .find(|piece| *piece == name)
                .ok_or_else(unknown)?;
            path.push((name, wire::unescaped(value).ok_or_else(unknown)?));
        }
        let pattern = self.patterns[*found.value];
        Ok(Matched { routes, pattern, version, uri: UriFields { path, query } })
    }

    fn version(&self, asked: Option<&str>) -> Result<ApiVersion, ApiError> {
        let accepted = || {
            let texts: Vec<_> = self.versions.iter().map(|version| version.as_str()).collect();
            texts.join(", ")
        };
        let refuse = |message| Err(ApiError::new(StatusCode::BAD_REQUEST, message));
        let Some(asked) = asked.or(self.assumed.map(ApiVersion::as_str)) else {
            return refuse(format!("the query parameter api-version is missing; accepted: {}", accepted()));
        };
        match self.versions.iter().find(|version| version.as_str() == asked) {
            Some(version) => Ok(*version),
            None => refuse(format!("unknown api-version {asked:?}; accepted: {}", accepted())),
        }
    }
}

impl<S: Handlers> Matched<'_, '_, S> {
    /// Decodes the request and starts nothing: the handler runs when the result is polled.
    pub(crate) fn prepare(
        self,
        state: &Arc<S>,
        peer: Peer,
        method: &Method,
        body: &Body<'_>,
    ) -> Result<Prepared, ApiError> {
        let unprocessable = |error| ApiError::from_error(StatusCode::UNPROCESSABLE_ENTITY, &error);
        let route =
            self.routes.iter().find(|route| route.method == *method && route.versions.contains(self.version));
        let Some(route) = route else {
            if let Body::Json(body) = body {
                wire::check_syntax(body).map_err(unprocessable)?;
            }
            return Err(method_not_allowed(method));
        };
        let bytes = match body {
            Body::Absent | Body::OtherType => None,
            Body::Json(body) => Some(*body),
        };
        let running = (route.call)(state, peer, self.uri, bytes).map_err(|error| match error {
            Unreadable::BodyMissing(_) if matches!(body, Body::OtherType) => {
                ApiError::new(StatusCode::BAD_REQUEST, "the body's content-type has to be application/json")
            }
            Unreadable::BodyMissing(_) => ApiError::from_error(StatusCode::BAD_REQUEST, &error),
            Unreadable::Schema(_) => unprocessable(error),
        })?;
        Ok(Prepared { running, waits: route.waits })
    }
}

/// The refusal of a method: 400, as upstream has it.
pub(crate) fn method_not_allowed(method: &Method) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, format!("method {method} is not allowed on this path"))
}

/// Decodes an `E` and wraps its handler into a future of the common form.
fn call<S: Serve<E>, E: Endpoint>(
    state: &Arc<S>,
    peer: Peer,
    uri: UriFields<'_>,
    body: Option<&[u8]>,
) -> Result<Running, Unreadable> {
    let request = wire::decode::<E>(uri, body)?;
    let state = Arc::clone(state);
    Ok(Box::pin(async move {
        match state.serve(peer, request).await {
            Ok(reply) => success::<E>(&reply),
            Err(error) => {
                let log = chain(&error);
                Err(Failure { reply: error.into(), log })
            }
        }
    }))
}

fn success<E: Endpoint>(reply: &E::Reply) -> Outcome {
    if E::STATUS == StatusCode::NO_CONTENT {
        return Ok(Success { status: E::STATUS, body: Bytes::new() });
    }
    match serde_json::to_vec(reply) {
        Ok(body) => Ok(Success { status: E::STATUS, body: body.into() }),
        Err(error) => {
            let reply = ApiError::from_error(StatusCode::INTERNAL_SERVER_ERROR, &error);
            Err(Failure { reply, log: format!("cannot write the reply: {}", chain(&error)) })
        }
    }
}
