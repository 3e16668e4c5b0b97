//! The wall clock, and how to wait for it although it jumps. Knows no certificates.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;

/// A clock that may be set.
pub trait Clock: Send + Sync + 'static {
    /// Seconds since 1970.
    fn now(&self) -> i64;

    /// Waits until it shows `at`, or somebody sets it. May end earlier for no reason.
    fn until(&self, at: i64) -> impl Future<Output = ()> + Send;
}

/// The system's.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => seconds(since),
            Err(before) => -seconds(before.duration()),
        }
    }

    /// One timer in the kernel, no wake-ups before it: it also counts the time that the system sleeps, and ends when the
    /// clock is set.
    async fn until(&self, at: i64) {
        let left = at.saturating_sub(self.now());
        let Ok(left) = u64::try_from(left) else { return };
        if let Some(timer) = timer(at)
            && timer.readable().await.is_ok()
        {
            return;
        }
        // Without such timers, look again soon.
        tokio::time::sleep(Duration::from_secs(left).min(SLICE)).await;
    }
}

/// What becomes readable then. That it is no pipe does not matter to who never reads: tokio's other type for that
/// takes any descriptor, and is unsafe.
fn timer(at: i64) -> Option<Receiver> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags).ok()?;
    // A time of 0 would mean never.
    let it_value = Timespec { tv_sec: at.max(1), tv_nsec: 0 };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once).ok()?;
    Receiver::from_owned_fd_unchecked(timer).ok()
}

/// The longest time between two looks at the clock, where the kernel does not tell.
const SLICE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn waits_until_the_second() {
        let clock = WallClock;
        let start = Instant::now();
        let at = clock.now() + 2;
        clock.until(at).await;
        assert!(clock.now() >= at);
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn the_past_is_over() {
        for at in [i64::MIN, -1, 0, WallClock.now() - 1, WallClock.now()] {
            tokio::time::timeout(Duration::from_secs(5), WallClock.until(at)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_far_future_is_not() {
        for at in [WallClock.now() + 3600, i64::MAX] {
            let waited = tokio::time::timeout(Duration::from_millis(200), WallClock.until(at)).await;
            assert!(waited.is_err(), "{at}");
        }
    }
}
