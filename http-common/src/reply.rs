//! What goes out for an outcome: status, headers, body. Knows neither endpoints nor why something was refused.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::ApiError;
use crate::router::Success;

/// The answer to a request that was done.
pub(crate) fn success_reply(success: Success) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(success.body));
    *reply.status_mut() = success.status;
    if success.status != StatusCode::NO_CONTENT {
        reply.headers_mut().insert(CONTENT_TYPE, JSON);
    }
    reply
}

/// The answer to a request that was refused or failed.
pub(crate) fn error_reply(error: &ApiError) -> Response<Full<Bytes>> {
    let mut reply = Response::new(Full::new(error.body().into()));
    *reply.status_mut() = error.status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    if matches!(error.status, StatusCode::REQUEST_TIMEOUT | StatusCode::PAYLOAD_TOO_LARGE) {
        headers.insert(CONNECTION, CLOSE);
    }
    if let Some(seconds) = error.retry_after {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    reply
}

/// `reply` as the last one of its connection.
pub(crate) fn last(mut reply: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    reply.headers_mut().insert(CONNECTION, CLOSE);
    reply
}

/// Says `error` to a client of whose request nothing was read, once that begins to come or is too long in coming. Nor does
/// the connection break while the rest is on its way: who writes then would get an error for that, and not the answer.
pub(crate) async fn say_to_request(mut stream: UnixStream, error: &ApiError) {
    let _ = timeout(PATIENCE, stream.readable()).await;
    say(&mut stream, error).await;
    let _ = stream.shutdown().await;
    let _ = timeout(PATIENCE, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
}

/// Says `error` on a connection without a request that could be answered. A client that does not read learns it from the
/// end of the connection.
pub(crate) async fn say(stream: &mut UnixStream, error: &ApiError) {
    let body = error.body();
    let retry_after =
        error.retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n{retry_after}connection: close\r\n\r\n",
        error.status,
        body.len()
    );
    if timeout(PATIENCE, stream.write_all(&[head.into_bytes(), body].concat())).await.is_err() {
        tracing::debug!("a client neither sent its request nor took the reply");
    }
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// How long a client that sent no request may take to send one, and to read what is said to it.
const PATIENCE: Duration = Duration::from_secs(1);
