//! A thousand devices and a DPS that takes fifty registrations a minute, after a power cut. Time is simulated; what is real
//! is the policy by which a device repeats a call and comes back after a failed round. Knows no sockets.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, UNIX_EPOCH},
};

use http_common::retry::{Attempts, Backoff, FailureKind, RetryPolicy};

/// One device: where it has got to with its call, and with its rounds.
#[derive(Default)]
struct Device {
    attempts: Attempts,
    backoff: Backoff,
    round_began_ms: u64,
    requests: u32,
    done_ms: Option<u64>,
}

#[test]
fn a_thousand_devices_share_a_narrow_door() {
    let devices = power_cut(1000);
    let mut by_minute = vec![0_usize; 60];
    for device in &devices {
        let minute = device.done_ms.map(|ms| usize::try_from(ms / 60_000).unwrap_or(usize::MAX));
        *by_minute.get_mut(minute.expect("all are provisioned")).expect("within an hour") += 1;
    }
    let last = by_minute.iter().rposition(|count| *count > 0).unwrap_or_default();
    let requests: u32 = devices.iter().map(|device| device.requests).sum();
    let most = devices.iter().map(|device| device.requests).max().unwrap_or_default();
    for (minute, count) in by_minute.iter().enumerate().take(last + 1) {
        println!("minute {minute:2}: {count:3} {}", "#".repeat(*count));
    }
    println!("{requests} registrations were asked for, {most} at most by one device");
    // The door is 20 minutes wide for 1000 devices: hardly any of it is wasted, and nobody knocks all the time.
    assert!(last <= 25, "the last one in minute {last}");
    assert!(requests <= 9 * 1000, "{requests} requests");
    assert!(most <= 25, "{most} requests of one device");
}

/// What becomes of so many devices that start within half a minute.
fn power_cut(count: usize) -> Vec<Device> {
    let mut random = Random(42);
    let mut devices: Vec<Device> = Vec::new();
    devices.resize_with(count, Device::default);
    let mut queue = BinaryHeap::new();
    for (index, device) in devices.iter_mut().enumerate() {
        device.round_began_ms = in_ms(Duration::from_secs(30).mul_f64(random.next()));
        queue.push(Reverse((device.round_began_ms, index)));
    }
    let mut admitted = VecDeque::new();
    while let Some(Reverse((now, index))) = queue.pop() {
        let device = &mut devices[index];
        device.requests += 1;
        match knock(&mut admitted, now) {
            Ok(()) => device.done_ms = Some(now),
            Err(retry_after) => queue.push(Reverse((device.next(now, retry_after, &mut random), index))),
        }
    }
    devices
}

impl Device {
    /// When it asks again after a 429: within the same call if its policy and the time for a registration allow that, else
    /// in the next round.
    fn next(&mut self, now: u64, asked: Duration, random: &mut Random) -> u64 {
        let kind = FailureKind::Throttled { retry_after: Some(asked) };
        let left = REGISTER_LIMIT.saturating_sub(Duration::from_millis(now - self.round_began_ms));
        if let Some(pause) = self.attempts.after(kind, &RetryPolicy::cloud(1), left, random.next()) {
            return now + in_ms(pause);
        }
        let time = UNIX_EPOCH + Duration::from_millis(now);
        self.round_began_ms = now + in_ms(self.backoff.failed(time, Some(asked), random.next()));
        self.attempts = Attempts::default();
        self.round_began_ms
    }
}

/// DPS: fifty in each sixty seconds; the others are told when the next place is free.
fn knock(admitted: &mut VecDeque<u64>, now: u64) -> Result<(), Duration> {
    while admitted.front().is_some_and(|then| then + MINUTE_MS <= now) {
        admitted.pop_front();
    }
    match admitted.front() {
        Some(first) if admitted.len() >= A_MINUTE => {
            Err(Duration::from_secs((first + MINUTE_MS - now).div_ceil(1000)))
        }
        _ => {
            admitted.push_back(now);
            Ok(())
        }
    }
}

/// Numbers from 0 to 1, the same in each run: Knuth's MMIX generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from(u32::try_from(self.0 >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }
}

fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const A_MINUTE: usize = 50;
const MINUTE_MS: u64 = 60_000;
/// How long a round of identityd tries to register.
const REGISTER_LIMIT: Duration = Duration::from_secs(9 * 60);
