//! A thousand devices and a DPS that takes fifty registrations a minute, after a power cut. Time is simulated; what is real
//! is the policy by which a device repeats a call and comes back after a failed round. Knows no sockets.
//!
//! How well that can go is the service's choice. One that tells each device its own turn is asked no more than it must be; one
//! that tells all of them the same moment leaves each to guess how many others wait.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    time::{Duration, UNIX_EPOCH},
};

use http_common::retry::{Attempts, Backoff, FailureKind, RetryPolicy, parse_retry_after};

/// One device: how long it waits, and what it has been through.
#[derive(Default)]
struct Device {
    backoff: Backoff,
    requests: u32,
    done_ms: Option<u64>,
}

/// DPS, asked by the device of this number at this time: admitted, or told when to come back.
trait Door {
    fn knock(&mut self, device: usize, now: u64) -> Result<(), Duration>;
}

#[test]
fn a_thousand_devices_that_are_told_their_turns_ask_twice_at_most() {
    let mut door = Turns::default();
    let devices = power_cut(1000, &mut door);
    let report = Report::of("turns", &devices);
    for (index, device) in devices.iter().enumerate() {
        let least = if door.promised.contains_key(&index) { 2.0 } else { 1.0 };
        assert!(f64::from(device.requests) <= 1.2 * least, "device {index}: {} requests", device.requests);
        if let (Some(turn), Some(done)) = (door.promised.get(&index), device.done_ms) {
            assert!((*turn..turn + 8_000).contains(&done), "device {index}: turn {turn}, came {done}");
        }
    }
    assert!(report.last_minute <= 20, "the last one in minute {}", report.last_minute);
    assert!(report.busiest <= A_MINUTE + 8, "{} in a minute: hardly anybody is late", report.busiest);
}

#[test]
fn a_thousand_devices_that_are_told_the_same_moment_spread() {
    let devices = power_cut(1000, &mut Window::default());
    let report = Report::of("window", &devices);
    // The door is 20 minutes wide for 1000 devices: hardly any of it is wasted, and nobody knocks all the time.
    assert!(report.last_minute <= 26, "the last one in minute {}", report.last_minute);
    assert!(report.requests <= 5_200, "{} requests", report.requests);
    assert!(report.most <= 12, "{} requests of one device", report.most);
}

#[test]
fn a_single_device_that_is_refused_once_comes_when_it_was_asked_to() {
    for seconds in [1, 30, 1500] {
        let mut random = Random(7);
        let waits = [(); 100].map(|()| {
            let asked = parse_retry_after(&seconds.to_string(), UNIX_EPOCH).expect("a number");
            Device::default().next(0, asked, &mut random)
        });
        let expected = seconds * 1000..=seconds * 1000 + 5000;
        assert!(waits.iter().all(|wait| expected.contains(wait)), "{seconds} s: {waits:?}");
    }
}

/// What becomes of so many devices that start within half a minute. Every seventh loses power again while it waits.
fn power_cut(count: usize, door: &mut impl Door) -> Vec<Device> {
    let mut random = Random(42);
    let mut devices: Vec<Device> = Vec::new();
    devices.resize_with(count, Device::default);
    let mut queue = BinaryHeap::new();
    for index in 0..count {
        queue.push(Reverse((in_ms(Duration::from_secs(30).mul_f64(random.next())), index)));
    }
    while let Some(Reverse((now, index))) = queue.pop() {
        let device = &mut devices[index];
        device.requests += 1;
        let asked = match door.knock(index, now) {
            Ok(()) => {
                device.done_ms = Some(now);
                continue;
            }
            Err(asked) => parse_retry_after(&asked.as_secs().to_string(), UNIX_EPOCH).expect("a number"),
        };
        let mut next = device.next(now, asked, &mut random);
        if index % 7 == 0 {
            let middle = u64::midpoint(now, next);
            next = middle + in_ms(device.backoff.left(UNIX_EPOCH + Duration::from_millis(middle)));
        }
        queue.push(Reverse((next, index)));
    }
    devices
}

impl Device {
    /// When it asks again after a 429: not within the same call, but in another round.
    fn next(&mut self, now: u64, asked: Duration, random: &mut Random) -> u64 {
        let kind = FailureKind::Throttled { retry_after: Some(asked) };
        let policy = RetryPolicy { throttled: 0, ..RetryPolicy::cloud(1) };
        let hour = Duration::from_secs(3600);
        assert_eq!(Attempts::default().after(kind, &policy, hour, random.next()), None);
        let time = UNIX_EPOCH + Duration::from_millis(now);
        now + in_ms(self.backoff.failed(time, kind.retry_after(), random.next()))
    }
}

/// Fifty in each sixty seconds; the others are told when the next place is free, all of them the same.
#[derive(Default)]
struct Window(VecDeque<u64>);

impl Door for Window {
    fn knock(&mut self, _: usize, now: u64) -> Result<(), Duration> {
        let Self(admitted) = self;
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
}

/// Fifty a minute, one after the other; who must wait is told when the next place is that nobody was promised, and has it then.
#[derive(Default)]
struct Turns {
    next: u64,
    promised: HashMap<usize, u64>,
}

impl Door for Turns {
    fn knock(&mut self, device: usize, now: u64) -> Result<(), Duration> {
        let turn = match self.promised.get(&device) {
            Some(turn) => *turn,
            None => {
                let turn = self.next.max(now);
                self.next = turn + MINUTE_MS / A_MINUTE as u64;
                turn
            }
        };
        if turn <= now {
            return Ok(());
        }
        self.promised.insert(device, turn);
        Err(Duration::from_secs((turn - now).div_ceil(1000)))
    }
}

/// How it went.
struct Report {
    last_minute: usize,
    /// The most in one minute.
    busiest: usize,
    requests: u32,
    /// The most of one device.
    most: u32,
}

impl Report {
    /// Made, and printed with the curve.
    fn of(name: &str, devices: &[Device]) -> Self {
        let mut by_minute = vec![0_usize; 60];
        for device in devices {
            let minute = device.done_ms.map(|ms| usize::try_from(ms / MINUTE_MS).unwrap_or(usize::MAX));
            *by_minute.get_mut(minute.expect("all are provisioned")).expect("within an hour") += 1;
        }
        let report = Self {
            last_minute: by_minute.iter().rposition(|count| *count > 0).unwrap_or_default(),
            busiest: by_minute.iter().copied().max().unwrap_or_default(),
            requests: devices.iter().map(|device| device.requests).sum(),
            most: devices.iter().map(|device| device.requests).max().unwrap_or_default(),
        };
        for (minute, count) in by_minute.iter().enumerate().take(report.last_minute + 1) {
            println!("{name}: minute {minute:2}: {count:3} {}", "#".repeat(*count));
        }
        println!(
            "{name}: {} registrations were asked for, {} at most by one device",
            report.requests, report.most
        );
        report
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
