//! A server that cannot be reached, and when it may be tried again, whoever asks: the longer it is away, the less it is
//! tried, down to once a minute; and once a minute it is tried, so that its return is found.
//!
//! Pure: time and randomness are arguments. Knows neither the server nor why it cannot be reached.

use std::time::{Duration, Instant};

/// What is known of one server. The default is that it can be reached.
#[derive(Clone, Debug, Default)]
pub struct Outage(Option<Away>);

#[derive(Clone, Copy, Debug)]
struct Away {
    /// Calls that have failed since the last answer.
    failures: u32,
    /// When the last of them began.
    tried: Instant,
    /// Before that, nobody tries.
    next: Instant,
}

/// Whether a call may be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// As ever.
    Free,
    /// This one may be made, once, to find out whether the server is back; the others wait for what comes of it.
    Probe,
    /// Not now: it has just been tried.
    Closed {
        /// Until it may be tried again.
        left: Duration,
    },
}

impl Outage {
    /// Whether a call may be made at `now`. Who is told [`Passage::Probe`] makes one and says what came of it.
    pub fn ask(&mut self, now: Instant) -> Passage {
        let Some(away) = &mut self.0 else { return Passage::Free };
        let left = away.next.saturating_duration_since(now);
        if !left.is_zero() {
            return Passage::Closed { left };
        }
        (away.tried, away.next) = (now, now + UNHEARD_OF);
        Passage::Probe
    }

    /// A call that was given this passage has failed without an answer at `now`.
    pub fn failed(&mut self, passage: Passage, now: Instant, random: f64) {
        let (failures, began) = match (self.0, passage) {
            (Some(away), Passage::Probe) => (away.failures.saturating_add(1), away.tried),
            (None, _) => (1, now),
            // It began before the server was known to be away: no news.
            (Some(_), Passage::Free | Passage::Closed { .. }) => return,
        };
        let next = (began + pause(failures, random)).max(now + SHORTEST);
        self.0 = Some(Away { failures, tried: began, next });
    }

    /// The server has answered.
    pub fn answered(&mut self) {
        self.0 = None;
    }

    /// Until the next call may be made.
    pub fn left(&self, now: Instant) -> Duration {
        self.0.map(|away| away.next.saturating_duration_since(now)).unwrap_or_default()
    }
}

/// The time from the beginning of one attempt to that of the next after so many failures. `random` keeps those apart who lost
/// the same server at the same moment.
fn pause(failures: u32, random: f64) -> Duration {
    let full = FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    if full >= LONGEST { LONGEST } else { full.mul_f64(0.75 + random / 4.0) }
}

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(60);
/// When the next one may try if nobody says what came of the last attempt.
const UNHEARD_OF: Duration = Duration::from_secs(120);
/// From the end of one attempt, which may have taken a while, to the beginning of the next.
const SHORTEST: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// When calls are made that somebody wants to make each second for so many seconds and that take `takes` to fail.
    fn attempts(seconds: u64, takes: u64) -> Vec<u64> {
        let start = Instant::now();
        let (mut outage, mut made, mut ends) = (Outage::default(), Vec::new(), None);
        for second in 0..seconds {
            let now = start + secs(second);
            if let Some((passage, _)) = ends.take_if(|(_, end)| *end == second) {
                outage.failed(passage, now, 1.0);
            }
            match outage.ask(now) {
                Passage::Free if ends.is_some() => {}
                Passage::Closed { .. } => {}
                passage => {
                    made.push(second);
                    ends = Some((passage, second + takes));
                }
            }
        }
        made
    }

    #[test]
    fn the_longer_a_server_is_away_the_less_it_is_tried_down_to_once_a_minute() {
        assert_eq!(attempts(400, 1), [0, 6, 16, 36, 76, 136, 196, 256, 316, 376]);
        assert_eq!(attempts(400, 70), [0, 75, 148, 221, 294, 367], "one that never answers");
    }

    #[test]
    fn one_finds_out_for_all_and_an_answer_ends_it() {
        let start = Instant::now();
        let mut outage = Outage::default();
        assert_eq!((outage.ask(start), outage.ask(start)), (Passage::Free, Passage::Free));
        outage.failed(Passage::Free, start, 1.0);
        outage.failed(Passage::Free, start + secs(3), 1.0);
        assert_eq!(outage.ask(start + secs(4)), Passage::Closed { left: secs(1) }, "the second is no news");
        assert_eq!(outage.ask(start + secs(5)), Passage::Probe);
        assert!(matches!(outage.ask(start + secs(5)), Passage::Closed { .. }));
        outage.answered();
        assert_eq!(outage.ask(start + secs(5)), Passage::Free);
        assert_eq!(outage.left(start + secs(5)), Duration::ZERO);
    }

    #[test]
    fn those_who_lost_it_together_do_not_come_back_together() {
        assert_ne!(pause(2, 0.0), pause(2, 1.0));
        assert_eq!((pause(9, 0.0), pause(9, 1.0)), (LONGEST, LONGEST));
    }
}
