//! Reading a request's body, within limits of size and time. Knows nothing of what is in it.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderMap};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use zeroize::Zeroizing;

use crate::ApiError;
use crate::router::Failure;

/// The whole body, within [`BODY_TIME`] and [`BODY_LIMIT`].
pub(crate) async fn read(body: Incoming, headers: &HeaderMap) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let announced = announced.unwrap_or_default();
    let patient = !headers.contains_key(EXPECT);
    if announced > BODY_LIMIT as u64 && !patient {
        return Err(too_large());
    }
    let capacity = usize::try_from(announced).map_or(0, |announced| announced.min(FIRST_BUFFER));
    let reading = collect(body, Zeroizing::new(Vec::with_capacity(capacity)));
    match tokio::time::timeout(BODY_TIME, reading).await {
        Ok(read) => read,
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
            Err(Failure::plain(ApiError::new(StatusCode::REQUEST_TIMEOUT, message)))
        }
    }
}

/// Reads a body that is not needed, for at most [`BODY_TIME`]: a client that sends its head first gets its answer to the
/// whole request, instead of a connection that is closed while it writes.
pub(crate) async fn discard(mut body: Incoming, headers: &HeaderMap) {
    if headers.contains_key(EXPECT) {
        return;
    }
    let reading = async {
        let mut total = 0;
        while let Some(Ok(frame)) = body.frame().await {
            total += frame.data_ref().map_or(0, bytes::Bytes::len);
            if total > DISCARD_LIMIT {
                break;
            }
        }
    };
    // It ends early only for a client that has stopped sending.
    let _ = tokio::time::timeout(BODY_TIME, reading).await;
}

async fn collect(mut body: Incoming, mut bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Failure::plain(ApiError::from_error(StatusCode::BAD_REQUEST, &error)))?;
        let Some(data) = frame.data_ref() else { continue };
        total += data.len();
        if total > DISCARD_LIMIT {
            break;
        }
        if total <= BODY_LIMIT {
            grow(&mut bytes, data.len());
            bytes.extend_from_slice(data);
        }
    }
    // What is too large was read on for a while: a client that sends first and reads then gets its answer.
    if total > BODY_LIMIT { Err(too_large()) } else { Ok(bytes) }
}

/// Makes room for `more` bytes; what a reallocation leaves behind is wiped.
fn grow(bytes: &mut Zeroizing<Vec<u8>>, more: usize) {
    if bytes.capacity() - bytes.len() < more {
        let mut larger = Vec::with_capacity((bytes.len() + more).next_power_of_two());
        larger.extend_from_slice(bytes);
        *bytes = Zeroizing::new(larger);
    }
}

fn too_large() -> Failure {
    let message = format!("the body is larger than {BODY_LIMIT} bytes");
    Failure::plain(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message))
}

/// A larger body is refused with 413.
pub const BODY_LIMIT: usize = 1 << 20;
/// How much of a body that is too large, or that nobody needs, is read and thrown away before the answer.
const DISCARD_LIMIT: usize = 16 << 20;
/// Bytes set aside on the word of a `content-length`.
const FIRST_BUFFER: usize = 16 << 10;
/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(5);
