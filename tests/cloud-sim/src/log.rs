//! The request log and the counters: what tests assert order, headers and numbers on.

use crate::http::{Reply, Request};
use crate::sas::Token;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, VecDeque};

/// One request with its answer.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Entry {
    /// Counts from 1.
    pub(crate) seq: u64,
    /// The machine's time, Unix milliseconds.
    pub(crate) time_ms: i64,
    /// The listener's name.
    pub(crate) listener: String,
    /// Number of the TCP connection, over all listeners.
    pub(crate) connection: u64,
    /// `service.operation`.
    pub(crate) operation: &'static str,
    /// The hub that answered, for hub operations.
    pub(crate) hub: Option<String>,
    /// As sent.
    pub(crate) method: String,
    /// As sent, byte for byte.
    pub(crate) target: String,
    /// Of HTTP: `1.1` or `2`.
    pub(crate) version: &'static str,
    /// `origin` or `absolute`.
    pub(crate) form: &'static str,
    /// Names in lower case, in the order sent.
    pub(crate) headers: Vec<(String, String)>,
    /// As JSON, else as text; null when empty.
    pub(crate) body: Value,
    /// The SAS token's facts, if there is one that parses.
    pub(crate) sas: Option<Value>,
    /// The client certificate's facts, if there was one.
    pub(crate) client_certificate: Option<Value>,
    /// `accepted`, `refused` or `fault`.
    pub(crate) decision: &'static str,
    /// Why refused, or which fault.
    pub(crate) reason: Option<String>,
    /// Which key verified, that a token was reused or expired, …
    pub(crate) notes: Vec<String>,
    /// Of the reply, whether or not it reached the client.
    pub(crate) status: u16,
    /// Of the reply.
    pub(crate) reply_headers: Vec<(String, String)>,
    /// Of the reply.
    pub(crate) reply: Value,
}

impl Entry {
    /// An entry with the facts of the request and of the reply; the caller adds the circumstances.
    #[must_use]
    pub(crate) fn new(request: &Request, reply: &Reply, now_secs: i64) -> Entry {
        let token = request.header("authorization").and_then(|header| Token::parse(header).ok());
        Entry {
            seq: 0,
            time_ms: crate::clock::machine_ms(),
            listener: String::new(),
            connection: 0,
            operation: "unknown",
            hub: None,
            method: request.method.clone(),
            target: request.target.clone(),
            version: request.version,
            form: request.form(),
            headers: request.headers.clone(),
            body: request.body_value(),
            sas: token.map(|token| token.describe(now_secs)),
            client_certificate: None,
            decision: "accepted",
            reason: None,
            notes: Vec::new(),
            status: reply.status,
            reply_headers: reply.headers.clone(),
            reply: reply.body_value(),
        }
    }
}

/// The latest entries.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    last: u64,
    tokens: HashMap<String, u64>,
}

impl Log {
    /// Append `entry`, dropping the oldest beyond `limit`. A token seen before becomes a note.
    pub(crate) fn push(&mut self, mut entry: Entry, limit: usize) {
        self.last += 1;
        entry.seq = self.last;
        if self.tokens.len() > limit {
            self.tokens.clear();
        }
        let authorization = entry.headers.iter().find(|(name, _)| name == "authorization");
        if let Some((_, token)) = authorization.filter(|(_, text)| !text.starts_with("Basic ")) {
            let uses = self.tokens.entry(token.clone()).or_default();
            *uses += 1;
            if *uses > 1 {
                entry.notes.push(format!("token used {uses} times"));
            }
        }
        self.entries.push_back(entry);
        while self.entries.len() > limit {
            self.entries.pop_front();
        }
    }

    /// The entries after `since`, of `operation` if given.
    pub(crate) fn after<'a>(
        &'a self,
        since: u64,
        operation: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Entry> {
        let wanted = move |entry: &&Entry| operation.is_none_or(|wanted| entry.operation == wanted);
        self.entries.iter().filter(move |entry| entry.seq > since).filter(wanted)
    }

    /// The number of the latest entry.
    #[must_use]
    pub(crate) fn last(&self) -> u64 {
        self.last
    }

    /// Forget all entries and tokens; numbers go on.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.tokens.clear();
    }
}

/// Numbers since the start, or since `DELETE /log`.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Counters {
    /// TCP connections accepted.
    pub(crate) connections: u64,
    /// Of these, now open.
    pub(crate) open_connections: u64,
    /// TLS handshakes completed.
    pub(crate) tls_handshakes: u64,
    /// Of these, resumed sessions.
    pub(crate) tls_resumed: u64,
    /// TLS handshakes that failed.
    pub(crate) tls_failures: u64,
    /// The latest reason.
    pub(crate) last_tls_failure: Option<String>,
    /// Messages that were not HTTP.
    pub(crate) malformed: u64,
    /// Requests.
    pub(crate) requests: u64,
    /// Of these, now under way: read, and not yet answered to the end.
    pub(crate) requests_under_way: u64,
    /// The most that were under way at a time.
    pub(crate) most_under_way: u64,
    /// Requests by `service.operation`.
    pub(crate) by_operation: BTreeMap<&'static str, u64>,
    /// Requests by the status of the reply.
    pub(crate) by_status: BTreeMap<u16, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(operation: &'static str, token: &str) -> Entry {
        let headers = vec![("authorization".to_owned(), token.to_owned())];
        Entry { operation, ..Entry::new(&Request { headers, ..Request::default() }, &Reply::empty(204), 0) }
    }

    #[test]
    fn the_log_keeps_the_latest_and_goes_on_counting() {
        let mut log = Log::default();
        for operation in ["a", "b", "a", "b"] {
            log.push(entry(operation, operation), 3);
        }
        let seqs = |log: &Log, since, operation| {
            log.after(since, operation).map(|entry| entry.seq).collect::<Vec<_>>()
        };
        assert_eq!(seqs(&log, 0, None), [2, 3, 4]);
        assert_eq!(seqs(&log, 2, Some("b")), [4]);
        log.clear();
        log.push(entry("a", "c"), 3);
        assert_eq!((seqs(&log, 0, None), log.last()), (vec![5], 5));
    }

    #[test]
    fn a_token_used_again_is_noted() {
        let mut log = Log::default();
        for token in ["x", "y", "x"] {
            log.push(entry("a", token), 10);
        }
        let notes: Vec<_> = log.after(0, None).map(|entry| entry.notes.clone()).collect();
        assert_eq!(notes, [vec![], vec![], vec!["token used 2 times".to_owned()]]);
    }
}
