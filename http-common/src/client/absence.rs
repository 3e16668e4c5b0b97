//! A service of this device at whose socket nobody is: who finds that out waits a little for it to be started again, and for
//! who comes later that is over sooner. One that stays away keeps nobody waiting, but for one such pause a minute.
//!
//! Pure: time is an argument. Knows neither the service nor its socket.

use std::time::Duration;

use tokio::time::Instant;

/// What is known of one service. The default is that it is there.
#[derive(Debug, Default)]
pub(crate) struct Absence(Option<Instant>);

impl Absence {
    /// How long who finds nobody at `now` waits before it looks once more.
    pub(crate) fn pause(&mut self, now: Instant) -> Duration {
        let noticed = match self.0 {
            Some(noticed) if now.saturating_duration_since(noticed) < NEWS => noticed,
            _ => *self.0.insert(now),
        };
        (noticed + PAUSE).saturating_duration_since(now)
    }

    /// The service is there.
    pub(crate) fn is_over(&mut self) {
        self.0 = None;
    }
}

/// From the first look to the second.
const PAUSE: Duration = Duration::from_secs(3);
/// After this time it may be another absence.
const NEWS: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wait_for_the_same_moment_and_later_ones_for_none() {
        let start = Instant::now();
        let secs = Duration::from_secs;
        let mut absence = Absence::default();
        let waits = |absence: &mut Absence, at: u64| absence.pause(start + secs(at)).as_secs();
        for (at, expected) in [(0, 3), (1, 2), (3, 0), (59, 0), (60, 3), (61, 2), (100, 0)] {
            assert_eq!(waits(&mut absence, at), expected, "after {at} s");
        }
        absence.is_over();
        assert_eq!(waits(&mut absence, 101), 3);
    }
}
