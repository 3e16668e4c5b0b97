//! A device that is off the network, in simulated time: how often the cloud is tried by all who want something of it together,
//! and how soon its return is found. The policy is the real one; there are no sockets and no clock.

use std::time::{Duration, Instant, SystemTime};

use http_common::https::{CloudFailure, HttpsError, Outages};
use http_common::retry::{Attempts, Backoff, FailureKind, Passage, RetryPolicy};

use super::drive::Cause;
use crate::Error;
use crate::modules::pause_after;

/// Who wants something of the cloud.
#[derive(Debug, Clone)]
enum Wants {
    /// The loop that provisions and brings modules in line.
    Rounds(Backoff),
    /// Lists that somebody asks for all the time; so many have failed.
    Lists(u32),
    /// Somebody who asks for a module that is not known, for a change or for a new registration, again and again.
    Answer,
}

/// One of them, with what it is about to do at which second.
#[derive(Debug)]
struct Source {
    wants: Wants,
    next: u64,
    call: Option<Call>,
}

/// A call under way.
#[derive(Debug)]
struct Call {
    passage: Passage,
    attempts: Attempts,
    /// Whether an attempt is being made, which ends next; otherwise one begins.
    is_trying: bool,
}

struct Sky {
    start: Instant,
    outages: Outages,
    /// How many seconds an attempt takes to fail.
    takes: u64,
    /// When the network returns.
    returns: u64,
    /// The seconds at which the cloud was tried.
    tried: Vec<u64>,
}

impl Sky {
    fn at(&self, second: u64) -> Instant {
        self.start + Duration::from_secs(second)
    }

    /// Go on until somebody has reached the cloud, or for so many seconds.
    fn run(&mut self, mut sources: Vec<Source>, seconds: u64) {
        for second in 0..seconds {
            for source in &mut sources {
                while source.next <= second {
                    if self.tried.last().is_some_and(|tried| *tried >= self.returns) {
                        return;
                    }
                    self.step(source, second);
                }
            }
        }
    }

    fn step(&mut self, source: &mut Source, second: u64) {
        let now = self.at(second);
        let Some(call) = &mut source.call else {
            match self.outages.ask("cloud", now) {
                Err(failure) => source.pause(&self.outages, failure, second, now),
                Ok(passage) => {
                    source.call = Some(Call { passage, attempts: Attempts::default(), is_trying: false });
                }
            }
            return;
        };
        if !call.is_trying {
            self.tried.push(second);
            (call.is_trying, source.next) = (true, second + self.takes);
            return;
        }
        let retry = match call.passage {
            Passage::Probe => RetryPolicy { network: 0, ..RetryPolicy::cloud(RETRIES) },
            Passage::Free | Passage::Closed { .. } => RetryPolicy::cloud(RETRIES),
        };
        let hour = Duration::from_secs(3600);
        if let Some(pause) = call.attempts.after(FailureKind::Network, &retry, hour, 0.5) {
            (call.is_trying, source.next) = (false, second + pause.as_secs());
            return;
        }
        let failure = CloudFailure::from(HttpsError::TimedOut { peer: "cloud".into(), after: hour });
        self.outages.note("cloud", call.passage, Some(&failure), now);
        source.call = None;
        source.pause(&self.outages, failure, second, now);
    }
}

impl Source {
    /// What it does after a failure.
    fn pause(&mut self, outages: &Outages, failure: CloudFailure, second: u64, now: Instant) {
        let error = Error::from(hub_client::Error::from(failure));
        let left = outages.left(now);
        let pause = match &mut self.wants {
            Wants::Rounds(backoff) => {
                Cause::of(&error).wait(backoff.failed(SystemTime::UNIX_EPOCH, None, 0.5), left)
            }
            Wants::Lists(failures) => {
                *failures += 1;
                pause_after(error.failure_kind(), *failures, left)
            }
            Wants::Answer => Duration::from_secs(1),
        };
        self.next = second + pause.as_secs_f64().ceil() as u64;
    }
}

/// When the cloud is tried by these.
fn tries(wants: &[Wants], takes: u64, returns: u64) -> Vec<u64> {
    let source = |(next, wants): (u64, &Wants)| Source { wants: wants.clone(), next, call: None };
    let sources = (0..).zip(wants).map(source).collect();
    let (start, outages) = (Instant::now(), Outages::default());
    let mut sky = Sky { start, outages, takes, returns, tried: Vec::new() };
    sky.run(sources, DAY);
    sky.tried
}

fn all() -> Vec<Wants> {
    vec![Wants::Rounds(Backoff::default()), Wants::Lists(0), Wants::Answer, Wants::Answer, Wants::Answer]
}

#[test]
fn after_ten_minutes_the_cloud_is_tried_once_a_minute_whoever_wants_something() {
    let rounds = vec![Wants::Rounds(Backoff::default())];
    for (wants, takes) in [(all(), 0), (all(), 70), (rounds.clone(), 0), (rounds, 70)] {
        let tried = tries(&wants, takes, u64::MAX);
        let late: Vec<_> = tried.iter().filter(|second| **second >= 600).collect();
        assert!(late.windows(2).all(|pair| pair[1] - pair[0] >= 60), "{wants:?}: {late:?}");
        let early = tried.len() - late.len();
        assert!(early <= 30, "{wants:?} in the first ten minutes: {early}");
        assert!(late.len() as u64 >= DAY / 90, "{wants:?} does not give up: {}", late.len());
    }
}

#[test]
fn the_return_of_the_network_is_found_within_a_minute() {
    for wants in [all(), vec![Wants::Rounds(Backoff::default())], vec![Wants::Answer]] {
        for returns in (0..1800).step_by(7).chain([36_000, 36_030, 80_001]) {
            let found = *tries(&wants, 0, returns).last().unwrap();
            assert!(
                (returns..=returns + 60).contains(&found),
                "{wants:?}: back at {returns}, found at {found}"
            );
        }
    }
}

const DAY: u64 = 86_400;
/// `cloud_retries`, as it is unless configured otherwise.
const RETRIES: u32 = 1;
