//! What is retryable, and when: the one policy for every call that leaves this device.
//!
//! Pure: time and randomness are arguments, so this file knows no clock and no socket. `random` is a number in 0..1.
//! Rules: spec/cloud-protocols.md chapter 6 with its improvements.

mod outage;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use outage::{Outage, Passage};

/// What went wrong with a call, as far as it decides what to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No complete answer: not connected, timed out, broken, or a gateway that has lost its own connection.
    Network,
    /// The server's certificate is not trusted: a matter of configuration (or of the clock), not of being offline.
    Untrusted,
    /// The server refused our TLS client certificate.
    CertificateRefused,
    /// 429. Never a reason to register again.
    Throttled {
        /// What the service asked for, if it did.
        retry_after: Option<Duration>,
    },
    /// 408, 500, 502, 503 or 504: the service's own trouble.
    Server {
        /// What the service asked for, if it did.
        retry_after: Option<Duration>,
    },
    /// 401: the credential is not, or no longer, accepted.
    Unauthorized,
    /// 403: accepted, but not allowed; with a hub usually its quota.
    Forbidden,
    /// 404: no such device, module, enrolment or scope.
    NotFound,
    /// 409: it exists already, or another change is under way.
    Conflict,
    /// 412: the etag is out of date.
    Precondition,
    /// Refused with any other status or reason.
    Rejected,
    /// Answered with something that cannot be understood.
    Invalid,
    /// The device key could not sign: a matter of this device, not of the network.
    Credential,
}

impl FailureKind {
    /// May pass without anybody doing anything: stay with what is known, try again later, do not register again.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Network
            | Self::Untrusted
            | Self::Throttled { .. }
            | Self::Server { .. }
            | Self::Credential => true,
            Self::CertificateRefused
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::Conflict
            | Self::Precondition
            | Self::Rejected
            | Self::Invalid => false,
        }
    }

    /// From a hub: it no longer knows this device or its credential, so that a new registration may help.
    pub fn suggests_registration(self) -> bool {
        matches!(self, Self::Unauthorized | Self::NotFound | Self::CertificateRefused)
    }

    /// How long the service asked us to wait.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } | Self::Server { retry_after } => retry_after,
            _ => None,
        }
    }
}

/// How often one call is repeated. Each cause has a counter of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Further attempts when the network failed (`cloud_retries`).
    pub network: u32,
    /// Further attempts when the service had trouble of its own.
    pub server: u32,
    /// Further attempts when the service throttled us.
    pub throttled: u32,
}

impl RetryPolicy {
    /// The policy for the cloud with `cloud_retries` from the configuration.
    pub const fn cloud(cloud_retries: u32) -> Self {
        Self { network: cloud_retries, server: 3, throttled: 4 }
    }

    /// One attempt, no more.
    pub const NEVER: Self = Self { network: 0, server: 0, throttled: 0 };
}

/// What a call has already been through.
#[derive(Debug, Default)]
pub struct Attempts {
    network: u32,
    server: u32,
    throttled: u32,
}

impl Attempts {
    /// Count a failure of `kind`. Some(pause) if the call should be made again after it, with `left` until the call's
    /// deadline; None if it has failed for good.
    pub fn after(
        &mut self,
        kind: FailureKind,
        policy: &RetryPolicy,
        left: Duration,
        random: f64,
    ) -> Option<Duration> {
        let (counter, limit) = match kind {
            FailureKind::Network => (&mut self.network, policy.network),
            FailureKind::Server { .. } => (&mut self.server, policy.server),
            FailureKind::Throttled { .. } => (&mut self.throttled, policy.throttled),
            _ => return None,
        };
        if *counter >= limit {
            return None;
        }
        let pause = pause(kind, *counter, random);
        *counter += 1;
        (pause < left).then_some(pause)
    }
}

/// The pause after the failure number `nth` (from 0) of this kind.
fn pause(kind: FailureKind, nth: u32, random: f64) -> Duration {
    match kind {
        FailureKind::Throttled { retry_after: Some(asked) } => {
            // Many may have been asked the same at the same time: the more often, the wider they spread.
            let asked = asked.max(SHORTEST);
            let spread = asked.saturating_mul(2_u32.saturating_pow(nth)).min(SPREAD_LIMIT.max(asked));
            asked + spread.mul_f64(random)
        }
        FailureKind::Throttled { retry_after: None } => {
            let (base, jitter) = THROTTLE_PAUSES[THROTTLE_PAUSES.len().min(nth as usize + 1) - 1];
            Duration::from_secs(base) + Duration::from_secs(jitter).mul_f64(random)
        }
        FailureKind::Server { retry_after: Some(asked) } => {
            asked.max(NETWORK_PAUSE) + SHORTEST.mul_f64(random)
        }
        FailureKind::Server { retry_after: None } => {
            let base = NETWORK_PAUSE.saturating_mul(2_u32.saturating_pow(nth)).min(SERVER_PAUSE_LIMIT);
            base + base.mul_f64(random / 2.0)
        }
        _ => NETWORK_PAUSE + SHORTEST.mul_f64(random / 2.0),
    }
}

/// What a `Retry-After` header asks for: seconds, or a date that is compared with `now` (best the reply's own `Date`).
/// At most [`RETRY_AFTER_LIMIT`]; None if it is neither.
pub fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let asked = match value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        true => value.parse().map_or(RETRY_AFTER_LIMIT, Duration::from_secs),
        false => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(asked.min(RETRY_AFTER_LIMIT))
}

/// When a background loop may try again after failures. It can be stored, so that a restart is no way around it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backoff {
    /// Failures since the last success.
    failures: u32,
    /// Those among them with which a service has asked for a pause.
    refusals: u32,
    /// Unix seconds before which no attempt is made.
    not_before: u64,
}

impl Backoff {
    /// Count a failure at `now`; the answer is how long to wait: 5 s, growing to 15 min, or what the service asked for
    /// if that is longer, never less. It may have asked many, and not know how many wait: who was refused once comes when
    /// it was asked to, who is refused again spreads wider each time ([`SPREADS`]).
    pub fn failed(&mut self, now: SystemTime, retry_after: Option<Duration>, random: f64) -> Duration {
        let full = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(self.failures)).min(BACKOFF_LIMIT);
        let mut wait = full.mul_f64(0.5 + random / 2.0).max(BACKOFF_FIRST);
        if let Some(asked) = retry_after {
            let spread = SPREADS[SPREADS.len().min(self.refusals as usize + 1) - 1];
            wait = asked + Duration::from_secs(spread).mul_f64(random);
            self.refusals = self.refusals.saturating_add(1);
        }
        self.failures = self.failures.saturating_add(1);
        // To whole seconds, and not before the time.
        self.not_before = unix_seconds(now + wait + Duration::from_millis(999));
        wait
    }

    /// Forget all failures.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// How much of the wait is left at `now`. A clock that was set back cannot make it longer than the longest wait.
    pub fn left(&self, now: SystemTime) -> Duration {
        Duration::from_secs(self.not_before.saturating_sub(unix_seconds(now))).min(RETRY_AFTER_LIMIT)
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The longest `Retry-After` that is believed.
pub const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(3600);

const SHORTEST: Duration = Duration::from_secs(1);
const NETWORK_PAUSE: Duration = Duration::from_secs(3);
/// The widest spread of those who were asked to wait less.
const SPREAD_LIMIT: Duration = Duration::from_secs(10 * 60);
const SERVER_PAUSE_LIMIT: Duration = Duration::from_secs(60);
/// Pause and jitter in seconds after a 429 without `Retry-After`.
const THROTTLE_PAUSES: [(u64, u64); 4] = [(60, 10), (120, 20), (180, 30), (300, 30)];
const BACKOFF_FIRST: Duration = Duration::from_secs(5);
const BACKOFF_LIMIT: Duration = Duration::from_secs(15 * 60);
/// By how many seconds those spread who were refused once, twice, and so on.
const SPREADS: [u64; 4] = [5, 120, 240, 480];

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const THROTTLED: FailureKind = FailureKind::Throttled { retry_after: None };
    const SERVER: FailureKind = FailureKind::Server { retry_after: None };

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The pauses that a call which always fails with `kind` goes through.
    fn pauses(kind: FailureKind, retries: u32, random: f64) -> Vec<f64> {
        let mut attempts = Attempts::default();
        std::iter::from_fn(|| attempts.after(kind, &RetryPolicy::cloud(retries), HOUR, random))
            .map(|pause| pause.as_secs_f64())
            .take(20)
            .collect()
    }

    #[test]
    fn each_cause_has_its_own_schedule() {
        let table: &[(FailureKind, u32, f64, &[f64])] = &[
            (FailureKind::Network, 0, 0.0, &[]),
            (FailureKind::Network, 2, 0.0, &[3.0, 3.0]),
            (FailureKind::Network, 1, 1.0, &[3.5]),
            (THROTTLED, 0, 0.0, &[60.0, 120.0, 180.0, 300.0]),
            (THROTTLED, 1, 1.0, &[70.0, 140.0, 210.0, 330.0]),
            (FailureKind::Throttled { retry_after: Some(secs(7)) }, 1, 0.0, &[7.0; 4]),
            (FailureKind::Throttled { retry_after: Some(secs(0)) }, 1, 0.0, &[1.0; 4]),
            (FailureKind::Throttled { retry_after: Some(secs(10)) }, 1, 1.0, &[20.0, 30.0, 50.0, 90.0]),
            (SERVER, 0, 0.0, &[3.0, 6.0, 12.0]),
            (SERVER, 0, 1.0, &[4.5, 9.0, 18.0]),
            (FailureKind::Server { retry_after: Some(secs(1)) }, 0, 0.0, &[3.0; 3]),
            (FailureKind::Server { retry_after: Some(secs(20)) }, 0, 0.0, &[20.0; 3]),
            (FailureKind::Untrusted, 5, 0.0, &[]),
            (FailureKind::Unauthorized, 5, 0.0, &[]),
            (FailureKind::Invalid, 5, 0.0, &[]),
        ];
        for (kind, retries, random, expected) in table {
            assert_eq!(pauses(*kind, *retries, *random), *expected, "{kind:?} with {retries} retries");
        }
    }

    #[test]
    fn counters_are_separate() {
        let policy = RetryPolicy::cloud(1);
        let mut attempts = Attempts::default();
        assert_eq!(attempts.after(FailureKind::Network, &policy, HOUR, 0.0), Some(secs(3)));
        assert_eq!(attempts.after(THROTTLED, &policy, HOUR, 0.0), Some(secs(60)));
        assert_eq!(attempts.after(SERVER, &policy, HOUR, 0.0), Some(secs(3)));
        assert_eq!(attempts.after(FailureKind::Network, &policy, HOUR, 0.0), None);
    }

    #[test]
    fn a_pause_beyond_the_deadline_is_not_begun() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.after(THROTTLED, &RetryPolicy::cloud(1), secs(60), 0.0), None);
    }

    #[test]
    fn throttling_is_never_a_reason_to_register_again() {
        assert!(THROTTLED.is_transient() && !THROTTLED.suggests_registration());
        assert!(SERVER.is_transient() && !SERVER.suggests_registration());
        assert!(!FailureKind::Forbidden.suggests_registration());
        assert!(FailureKind::NotFound.suggests_registration());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let table = [
            ("120", Some(secs(120))),
            (" 0 ", Some(secs(0))),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(secs(30))),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(secs(0))),
            ("99999999999999999999999999", Some(RETRY_AFTER_LIMIT)),
            ("Sat, 06 Nov 2094 08:50:07 GMT", Some(RETRY_AFTER_LIMIT)),
            ("", None),
            ("-1", None),
            ("soon", None),
        ];
        for (text, expected) in table {
            assert_eq!(parse_retry_after(text, now), expected, "{text:?}");
        }
    }

    #[test]
    fn backoff_grows_to_its_limit_and_survives_a_restart() {
        let now = UNIX_EPOCH + secs(1_000_000);
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..10).map(|_| backoff.failed(now, None, 1.0).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]);
        let stored = serde_json::to_string(&backoff).unwrap();
        let restored: Backoff = serde_json::from_str(&stored).unwrap();
        assert_eq!(restored.left(now + secs(300)), secs(600));
        assert_eq!(restored.left(now + secs(2000)), secs(0));
        assert_eq!(restored.left(UNIX_EPOCH), RETRY_AFTER_LIMIT, "a clock set back does not lock us out");
        backoff.succeeded();
        assert_eq!(backoff.failed(now, None, 0.0), secs(5));
    }

    #[test]
    fn what_a_service_asks_for_is_given_and_those_refused_again_spread() {
        let now = UNIX_EPOCH + Duration::from_millis(1_000_000_900);
        let waits = |random| {
            let mut backoff = Backoff::default();
            backoff.failed(now, None, random);
            let wait = || backoff.failed(now, Some(secs(1500)), random).as_secs();
            std::iter::repeat_with(wait).take(5).collect::<Vec<_>>()
        };
        assert_eq!(waits(0.0), [1500; 5], "never early");
        assert_eq!(waits(1.0), [1505, 1620, 1740, 1980, 1980]);
        let mut backoff = Backoff::default();
        for _ in 0..12 {
            backoff.failed(now, Some(secs(10)), 0.0);
        }
        assert_eq!(
            backoff.left(now),
            Duration::from_secs(11),
            "rounded up to a whole second, after a restart too"
        );
    }
}
