//! Replies onto a byte stream, whole or spoilt as ordered.

use super::Reply;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// How a reply reaches the client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Pause before the first byte.
    pub(crate) delay: Duration,
    /// Pause after each small piece of the body.
    pub(crate) drip: Option<Duration>,
    /// How the exchange ends.
    pub(crate) ending: Ending,
}

/// How an exchange ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ending {
    /// The whole reply.
    #[default]
    Complete,
    /// So many bytes of head and body, then an orderly close.
    CloseAfter(usize),
    /// So many bytes of head and body, then a TCP reset.
    ResetAfter(usize),
    /// Nothing, until the client gives up.
    Stall,
    /// A TCP reset, which ends all that is under way on the connection.
    DropConnection,
    /// By HTTP/2 only: the client is to ask by HTTP/1.1.
    WantHttp1,
}

/// Put `reply` on the wire; `date` is the value of its `Date` header.
///
/// # Errors
/// When the client is gone.
pub(crate) async fn send<S>(
    stream: &mut S,
    reply: &Reply,
    date: &str,
    plan: &Delivery,
    last: bool,
) -> std::io::Result<()>
where
    S: AsyncWrite + Unpin,
{
    let (mut bytes, head) = encode(reply, date, last);
    match plan.ending {
        Ending::CloseAfter(limit) | Ending::ResetAfter(limit) => bytes.truncate(limit),
        Ending::DropConnection => bytes.clear(),
        Ending::Complete | Ending::Stall | Ending::WantHttp1 => {}
    }
    match plan.drip {
        None => stream.write_all(&bytes).await?,
        Some(pause) => {
            let (head, body) = bytes.split_at(head.min(bytes.len()));
            stream.write_all(head).await?;
            for piece in body.chunks(DRIP_SIZE) {
                stream.flush().await?;
                tokio::time::sleep(pause).await;
                stream.write_all(piece).await?;
            }
        }
    }
    stream.flush().await
}

/// How many bytes of this reply are head by HTTP/1.1: what faults that cut a reply count in.
#[must_use]
pub(crate) fn head_length(reply: &Reply, date: &str) -> usize {
    encode(reply, date, false).1
}

/// The reply's bytes and how many of them are head.
fn encode(reply: &Reply, date: &str, last: bool) -> (Vec<u8>, usize) {
    let mut head = format!("HTTP/1.1 {} {}\r\nDate: {date}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if reply.status != 204 && reply.status != 304 {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    head.push_str(if last { "Connection: close\r\n\r\n" } else { "\r\n" });
    let length = head.len();
    let mut bytes = head.into_bytes();
    if reply.status != 204 && reply.status != 304 {
        bytes.extend_from_slice(&reply.body);
    }
    (bytes, length)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// Bytes of a body between two pauses.
pub(crate) const DRIP_SIZE: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn wire(reply: Reply, plan: Delivery) -> String {
        let mut bytes = Vec::new();
        send(&mut bytes, &reply, "then", &plan, false).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[tokio::test]
    async fn a_reply_has_a_date_and_a_length() {
        let text =
            wire(Reply::json(202, &json!({"a": 1})).with("retry-after", "3"), Delivery::default()).await;
        assert!(
            text.starts_with("HTTP/1.1 202 Accepted\r\nDate: then\r\ncontent-type: application/json"),
            "{text}"
        );
        assert!(text.ends_with("retry-after: 3\r\nContent-Length: 7\r\n\r\n{\"a\":1}"), "{text}");
        assert!(!wire(Reply::empty(204), Delivery::default()).await.contains("Length"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_drip_sends_everything_and_a_cut_does_not() {
        let reply = || Reply::json(200, &json!("x".repeat(100)));
        let whole = wire(reply(), Delivery::default()).await;
        let drip = Delivery { drip: Some(Duration::from_secs(9)), ..Delivery::default() };
        let start = tokio::time::Instant::now();
        assert_eq!(wire(reply(), drip).await, whole);
        assert!(start.elapsed() >= Duration::from_secs(9 * 6));
        let cut = Delivery { ending: Ending::CloseAfter(20), ..Delivery::default() };
        assert_eq!(wire(reply(), cut).await, whole[..20]);
    }
}
