//! Which servers of the cloud cannot be reached, and what the last call to each has failed with: shared by all who call, as are
//! the [pauses](super::pauses) that others have asked for.
//!
//! When they may be tried is `retry.rs`'s matter; calls are made by `cloud.rs`.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::CloudFailure;
use super::pauses::Pauses;
use crate::retry::{FailureKind, Outage, Passage};

/// The servers that were called, by host and port.
#[derive(Debug, Default)]
pub struct Outages {
    servers: Mutex<HashMap<Box<str>, Server>>,
    pub(super) pauses: Pauses,
}

#[derive(Debug)]
struct Server {
    outage: Outage,
    kind: FailureKind,
    text: Box<str>,
}

impl Outages {
    /// Whether `server` may be called at `now`: freely, as a probe whose outcome must be [noted](Outages::note), or not at
    /// all; then the failure says why, and when it may be called again.
    pub fn ask(&self, server: &str, now: Instant) -> Result<Passage, CloudFailure> {
        let mut servers = self.servers();
        let Some(known) = servers.get_mut(server) else { return Ok(Passage::Free) };
        match known.outage.ask(now) {
            Passage::Closed { left } => Err(CloudFailure::not_asked(known.kind, left, &known.text)),
            passage => Ok(passage),
        }
    }

    /// Note what came of a call to `server` that was given `passage` and has ended at `now`.
    pub fn note(&self, server: &str, passage: Passage, failure: Option<&CloudFailure>, now: Instant) {
        let mut servers = self.servers();
        let Some(failure) = failure.filter(|failure| is_outage(failure.kind)) else {
            // What went wrong here, or was told to somebody else, says nothing of the server.
            if failure.is_none_or(|failure| failure.status.is_some() && !failure.hearsay) {
                servers.remove(server);
            }
            return;
        };
        let known = servers.entry(server.into()).or_insert_with(|| Server {
            outage: Outage::default(),
            kind: failure.kind,
            text: Box::default(),
        });
        known.outage.failed(passage, now, fastrand::f64());
        (known.kind, known.text) = (failure.kind, crate::chain(failure).into());
    }

    /// Until all servers may be called that cannot be reached; zero if there is none.
    pub fn left(&self, now: Instant) -> Duration {
        self.servers().values().map(|server| server.outage.left(now)).max().unwrap_or_default()
    }

    /// Whether `server` has asked to be left alone for long while a call waits to ask it once more; others fail meanwhile.
    pub fn is_paused(&self, server: &str, now: Instant) -> bool {
        self.pauses.is_long(server, now)
    }

    fn servers(&self) -> MutexGuard<'_, HashMap<Box<str>, Server>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a failure means that nobody can be asked there: no answer, or one of somebody else (a captive portal, a gateway
/// without its own connection).
fn is_outage(kind: FailureKind) -> bool {
    matches!(kind, FailureKind::Network | FailureKind::Untrusted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_has_its_own_outage_and_says_what_it_was() {
        let (outages, now) = (Outages::default(), Instant::now());
        let lost = CloudFailure::out_of_time();
        outages.note("hub", Passage::Free, Some(&lost), now);
        let told = outages.ask("hub", now).unwrap_err();
        assert_eq!(told.kind, FailureKind::Network);
        assert!(told.to_string().ends_with("s; last: no time is left for this call"), "{told}");
        assert!(matches!(outages.ask("dps", now), Ok(Passage::Free)));
        let later = now + outages.left(now);
        assert!(later > now);
        assert_eq!(outages.ask("hub", later).unwrap(), Passage::Probe);
        let refused = CloudFailure::invalid(http::StatusCode::OK, "odd, but an answer");
        outages.note("hub", Passage::Probe, Some(&refused), later);
        assert_eq!(outages.ask("hub", later).unwrap(), Passage::Free);
        assert_eq!(outages.left(later), Duration::ZERO);
    }

    #[test]
    fn what_goes_wrong_here_ends_no_outage() {
        let (outages, now) = (Outages::default(), Instant::now());
        outages.note("hub", Passage::Free, Some(&CloudFailure::out_of_time()), now);
        let unsigned = CloudFailure::from(crate::sas::SignError("no key".into()));
        outages.note("hub", Passage::Probe, Some(&unsigned), now);
        assert!(outages.ask("hub", now).is_err());
    }
}
