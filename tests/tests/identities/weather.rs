//! Bad weather in the cloud: what each kind costs in requests, and what those see meanwhile who read. Knows no code.
//!
//! Every site has been provisioned and has one module, or, in the second table, has never been. Then the weather turns, the
//! daemon starts again, and local programs ask all the time. Many sites run at once, so times are judged against what the
//! same daemon takes at the same time for a reply that needs nothing.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::TcpListener,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use suite_tests::http::Client;

use crate::cloud::{Cloud, DEVICE, Site, dps, principal};

/// What happens to the cloud.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sky {
    /// Nothing.
    Clear,
    /// All connections are refused.
    Refused,
    /// Requests of this service are struck by this action, in JSON.
    Fault(&'static str, &'static str),
    /// The enrolment says so, in JSON.
    Enrolment(&'static str),
    /// The cloud's clock is ahead by so many seconds.
    Clock(i64),
    /// A proxy opens no tunnel.
    Proxy,
    /// The certificate is of an unknown authority.
    UnknownCa,
}

use Sky::{Clear, Clock, Enrolment, Fault, Proxy, Refused, UnknownCa};

/// Name, weather, and how many requests may reach the cloud in the first minute after the start. In good weather each list
/// is a request that a local program has asked for, and there is no limit.
type Row = (&'static str, Sky, Option<usize>);

/// The device and its module are known: reads are answered from what is known, whatever the cloud does.
const KNOWN: &[Row] = &[
    ("clear", Clear, None),
    ("refused", Refused, Some(0)),
    ("reset", Fault("hub", r#"{"reset": true}"#), Some(12)),
    ("stall", Fault("hub", r#"{"stall": true}"#), Some(6)),
    ("garbage", Fault("hub", r#"{"html": true}"#), Some(16)),
    ("401", Fault("hub", r#"{"status": 401}"#), Some(24)),
    ("403", Fault("hub", r#"{"status": 403}"#), Some(5)),
    ("404", Fault("hub", r#"{"status": 404}"#), Some(26)),
    ("409", Fault("hub", r#"{"status": 409}"#), Some(14)),
    ("412", Fault("hub", r#"{"status": 412}"#), Some(14)),
    ("429, come back in 30 s", Fault("hub", r#"{"status": 429, "retry_after": 30}"#), Some(8)),
    ("429", Fault("hub", r#"{"status": 429, "retry_after": null}"#), Some(4)),
    ("500", Fault("hub", r#"{"status": 500}"#), Some(30)),
    ("503", Fault("hub", r#"{"status": 503}"#), Some(30)),
    ("a clock that is wrong by an hour", Clock(3600), None),
    ("a proxy that refuses", Proxy, Some(0)),
    ("an unknown authority", UnknownCa, Some(0)),
];

/// The device has never been provisioned: all that needs it is refused or waits, the rest is answered.
const UNKNOWN: &[Row] = &[
    ("DPS: 401", Fault("dps", r#"{"status": 401}"#), Some(8)),
    ("DPS: 404", Fault("dps", r#"{"status": 404}"#), Some(6)),
    ("DPS: 429", Fault("dps", r#"{"status": 429, "retry_after": null}"#), Some(2)),
    ("DPS: 500", Fault("dps", r#"{"status": 500}"#), Some(12)),
    ("DPS: stall", Fault("dps", r#"{"stall": true}"#), Some(4)),
    (
        "DPS: failed",
        Enrolment(r#"{"status": "failed", "errorCode": 400207, "errorMessage": "no"}"#),
        Some(12),
    ),
    ("DPS: disabled", Enrolment(r#"{"status": "disabled"}"#), Some(12)),
    // The simulator asks for a poll every two seconds.
    ("DPS: assigning for minutes", Enrolment(r#"{"assigningPolls": 1000}"#), Some(34)),
];

#[test]
fn in_any_weather_reads_are_answered_and_the_cloud_is_spared() {
    watch(Duration::from_secs(8), 6, 90);
}

#[test]
#[ignore = "takes three minutes of a quiet machine: make test-weather"]
fn in_any_weather_for_a_minute() {
    watch(Duration::from_secs(60), 9, 99);
}

/// Look at every weather for `time`, at so many sites at once; a report, and what is wrong. So many of 100 reads must be fast:
/// the fewer, the less this machine's own troubles matter.
fn watch(time: Duration, at_once: usize, percent: usize) {
    let rows: VecDeque<_> =
        KNOWN.iter().map(|row| (row, true)).chain(UNKNOWN.iter().map(|row| (row, false))).collect();
    let (rows, wrong) = (Mutex::new(rows), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some((row, known)) = rows.lock().unwrap().pop_front() else { return };
                    let complaints = look(row, known, time, percent);
                    wrong.lock().unwrap().extend(complaints);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One site in one weather.
fn look(&(name, sky, budget): &Row, known: bool, time: Duration, percent: usize) -> Vec<String> {
    let site =
        if known { Site::provisioned(&principal(1001, "m", "['module']")) } else { unprovisioned(sky) };
    let site = if known { turn(site, sky) } else { site };
    let (reads, floor) = ask_all_the_time(&site, known, time);
    let requests = site.cloud.seen().len();
    let mut wrong = Vec::new();
    if let Some(budget) = budget.filter(|budget| requests > *budget) {
        let operations = site.cloud.operations();
        wrong.push(format!("{name}: {requests} requests, {budget} are allowed: {operations}"));
    }
    println!("{name}: {requests} requests, {budget:?} are allowed");
    for Seen { what, mut times, refusals } in reads {
        let (slow, floor) = (percentile(&mut times, percent), percentile(&mut floor.clone(), percent));
        println!("    {what}: {} replies, {percent} % within {slow:?}, floor {floor:?}", times.len());
        if slow > floor + ALLOWED {
            wrong.push(format!("{name}: {what} takes {slow:?}, the floor is {floor:?}"));
        }
        wrong.extend(refusals.into_iter().map(|status| format!("{name}: {what} answers {status}")));
    }
    wrong
}

/// A site that begins its life in bad weather.
fn unprovisioned(sky: Sky) -> Site {
    let cloud = Cloud::start(&[]);
    let key = cloud.enroll();
    strike(&cloud, sky);
    let config = dps(&cloud, &principal(1001, "m", "['module']"));
    Site::start(cloud, key, &config)
}

/// The weather turns, and the daemon starts again.
pub(crate) fn turn(site: Site, sky: Sky) -> Site {
    let Site { identityd, keyd, cloud, key } = site;
    let setup = identityd.stop();
    strike(&cloud, sky);
    cloud.forget_requests();
    let setup = match sky {
        Proxy => setup.env("HTTPS_PROXY", refusing_proxy()),
        _ => setup,
    };
    Site { identityd: setup.start(), keyd, cloud, key }
}

pub(crate) fn strike(cloud: &Cloud, sky: Sky) {
    let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    match sky {
        Clear | Proxy => {}
        Refused => cloud.unplug(),
        Fault(operation, action) => cloud.fault(operation, &parsed(action), None),
        Enrolment(simulator) => {
            let mut enrolment = cloud.admin("GET", &format!("/enrollments/{DEVICE}"), &Value::Null);
            enrolment["simulator"] = parsed(simulator);
            cloud.admin("PUT", &format!("/enrollments/{DEVICE}"), &enrolment);
        }
        Clock(seconds) => drop(cloud.admin("POST", "/clock", &json!({ "offset_secs": seconds }))),
        UnknownCa => {
            // Connections that are open do not know of it.
            cloud.unplug();
            cloud.admin("POST", "/tls", &json!({ "certificate": "untrusted" }));
            cloud.admin("POST", "/accept", &json!({}));
        }
    }
}

/// What one kind of read took, and the statuses that were not as they should be.
struct Seen {
    what: &'static str,
    times: Vec<Duration>,
    refusals: Vec<u16>,
}

/// Ask for everything that can be read for `time`; and what a reply takes that needs nothing but this machine.
fn ask_all_the_time(site: &Site, known: bool, time: Duration) -> (Vec<Seen>, Vec<Duration>) {
    let (root, agent) = (site.client(), site.as_uid(1001));
    let device = if known { 200 } else { 400 };
    let mut plan: Vec<(&'static str, &Client, &str, u16)> = vec![
        ("provisioning", &root, "/identities/provisioning", 200),
        ("list", &root, "/identities/modules?type=aziot", device),
        ("module", &root, "/identities/modules/m?type=aziot", device),
    ];
    if known {
        // Without a device these are held for a while: a client takes a refusal as "register again".
        plan.push(("device", &root, "/identities/identity", 200));
        plan.push(("own module", &agent, "/identities/identity", 200));
        // Nobody has made it: the hub has to be asked, and is not asked each time.
        plan.push(("unknown module", &root, UNSEEN, 404));
    }
    let mut reads: Vec<_> =
        plan.iter().map(|(what, ..)| Seen { what, times: Vec::new(), refusals: Vec::new() }).collect();
    // Before it is known that the cloud is away, a list waits for it once, up to two seconds, and whoever asks for what is not
    // known, up to five.
    timed(&root, "/identities/modules?type=aziot");
    timed(&root, UNSEEN);
    let (mut floor, begun) = (Vec::new(), Instant::now());
    while begun.elapsed() < time {
        for ((_, client, path, expected), read) in plan.iter().zip(&mut reads) {
            let (status, took) = timed(client, path);
            read.times.push(took);
            if status != *expected && !read.refusals.contains(&status) {
                read.refusals.push(status);
            }
            let keyd = timed(&site.keyd.client(), "/key/device-id").1;
            floor.push(timed(&agent, "/trust-bundle").1 + keyd);
        }
        thread::sleep(Duration::from_millis(50));
    }
    (reads, floor)
}

fn timed(client: &Client, path: &str) -> (u16, Duration) {
    let begun = Instant::now();
    let status = client.get(path).status;
    (status, begun.elapsed())
}

/// So many of 100 are at most this.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent).div_ceil(100) - 1]
}

/// The URL of a proxy that forbids every tunnel.
fn refusing_proxy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut some = [0; 4096];
            let _ = stream.read(&mut some); // it may be closed
            let _ =
                stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    url
}

/// A module that there is not.
const UNSEEN: &str = "/identities/modules/unseen?type=aziot";
/// What the cloud may add to the time of a read, 99 times of 100.
const ALLOWED: Duration = Duration::from_millis(50);
