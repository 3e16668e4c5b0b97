//! Bad weather in the cloud for those who change modules: what a local caller is told, within which time, and what that costs in
//! requests. Knows no code; the weather itself is weather.rs's.
//!
//! The site has been provisioned when the weather turns. Then three programs at once make, update and delete a module. Where the
//! hub cannot be reached, the same is asked for again, which must be answered at once. In the end the sky is clear, and a caller
//! finds that out within a minute.

use std::{
    collections::VecDeque,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use suite_tests::http::{Client, wait_for};

use crate::{
    cloud::{Site, principal},
    weather::{
        Sky::{self, Clear, Clock, Fault, Proxy, Refused, UnknownCa},
        strike, turn,
    },
};

/// What callers are told.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// That it is done.
    Done,
    /// That it is refused, within so many seconds.
    Refused(u64),
    /// The same, but for a deletion, whose answer says nothing that could be garbled.
    Garbled,
    /// The same, and at once from then on, since the hub is known to be away.
    Away(u64),
}

use Told::{Away, Done};

/// Name, weather, what is told, and how many requests of the three may reach the cloud.
type Row = (&'static str, Sky, Told, usize);

/// Weather in which nobody waits for long.
const QUICK: &[Row] = &[
    ("clear", Clear, Done, 5),
    ("a clock that is wrong by an hour", Clock(3600), Done, 8),
    ("refused", Refused, Away(SOON), 0),
    ("reset", Fault("hub", r#"{"reset": true}"#), Away(SOON), 6),
    ("cut", Fault("hub", r#"{"close_after_bytes": 20}"#), Away(SOON), 6),
    ("an unknown authority", UnknownCa, Away(SOON), 0),
    ("garbage", Fault("hub", r#"{"html": true}"#), Told::Garbled, 4),
    ("401", Fault("hub", r#"{"status": 401}"#), Told::Refused(SOON), 6),
    ("403", Fault("hub", r#"{"status": 403}"#), Told::Refused(SOON), 3),
    ("404", Fault("hub", r#"{"status": 404}"#), Told::Refused(SOON), 4),
    ("409", Fault("hub", r#"{"status": 409}"#), Told::Refused(SOON), 3),
    ("412", Fault("hub", r#"{"status": 412}"#), Told::Refused(SOON), 3),
];

/// Weather in which patience may help. The longest a caller waits is 140 s, less than the time-outs of known clients.
const SLOW: &[Row] = &[
    ("stall", Fault("hub", r#"{"stall": true}"#), Away(145), 6),
    ("429", Fault("hub", r#"{"status": 429, "retry_after": null}"#), Told::Refused(85), 6),
    ("429, come back in 30 s", Fault("hub", r#"{"status": 429, "retry_after": 30}"#), Told::Refused(145), 12),
    (
        "429, come back in an hour",
        Fault("hub", r#"{"status": 429, "retry_after": 3600}"#),
        Told::Refused(SOON),
        3,
    ),
    ("500", Fault("hub", r#"{"status": 500}"#), Told::Refused(45), 12),
    ("503", Fault("hub", r#"{"status": 503}"#), Told::Refused(45), 12),
    ("503, come back in 10 s", Fault("hub", r#"{"status": 503, "retry_after": 10}"#), Told::Refused(60), 12),
    ("a proxy that refuses", Proxy, Away(SOON), 0),
];

#[test]
fn in_any_weather_a_change_is_made_or_refused_in_time() {
    watch(QUICK, 4);
}

#[test]
#[ignore = "takes three minutes: make test-weather"]
fn in_any_weather_a_change_is_made_or_refused_in_time_however_slow() {
    watch(SLOW, 8);
}

/// Look at these, at so many sites at once; a report, and what is wrong.
fn watch(rows: &[Row], at_once: usize) {
    let (rows, wrong) = (Mutex::new(rows.iter().collect::<VecDeque<_>>()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(row) = rows.lock().unwrap().pop_front() else { return };
                    let complaints = look(row);
                    wrong.lock().unwrap().extend(complaints);
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One site in one weather.
fn look(&(name, sky, told, budget): &Row) -> Vec<String> {
    let site = Site::provisioned(&principal(1001, "kept", "['module']"));
    site.create("old").expect(200);
    let site = match sky {
        // The environment is read at the start.
        Proxy => turn(site, sky),
        _ => {
            strike(&site.cloud, sky);
            site
        }
    };
    site.cloud.forget_requests();
    let mut wrong = Vec::new();
    let (statuses, limit) = match told {
        Done => ([200, 200, 204], SOON),
        Told::Garbled => ([404, 404, 204], SOON),
        Told::Refused(limit) | Away(limit) => ([404; 3], limit),
    };
    for (what, expected, (status, took)) in named(statuses, change_all(&site)) {
        println!("{name}: {what}: {status} after {took:.1?}, {limit} s are allowed");
        if status != expected || took > Duration::from_secs(limit) {
            wrong.push(format!("{name}: {what}: {status} after {took:?}"));
        }
    }
    let requests = site.cloud.seen().len();
    println!("{name}: {requests} requests, {budget} are allowed");
    if requests > budget {
        wrong.push(format!("{name}: {requests} requests: {}", site.cloud.operations()));
    }
    if matches!(told, Away(_)) {
        for (what, expected, (status, took)) in named(statuses, change_all(&site)) {
            if status != expected || took > AT_ONCE {
                wrong.push(format!("{name}: {what} once more: {status} after {took:?}"));
            }
        }
    }
    if !matches!(sky, Proxy) {
        let found = clear_up(&site);
        println!("{name}: a caller finds a clear sky after {found:.1?}");
    }
    wrong
}

/// Make a module, update another, delete a third, all at once: the statuses, and what they took.
fn change_all(site: &Site) -> [(u16, Duration); 3] {
    let timed = |change: fn(&Client) -> u16| {
        let client = site.client();
        move || {
            let begun = Instant::now();
            (change(&client), begun.elapsed())
        }
    };
    thread::scope(|scope| {
        let changes = [
            scope.spawn(timed(|client| client.post("/identities/modules", &new("new")).status)),
            scope.spawn(timed(|client| client.put("/identities/modules/kept?type=aziot", &json!({})).status)),
            scope.spawn(timed(|client| client.delete("/identities/modules/old?type=aziot", None).status)),
        ];
        changes.map(|change| change.join().unwrap())
    })
}

fn named(
    expected: [u16; 3],
    seen: [(u16, Duration); 3],
) -> impl Iterator<Item = (&'static str, u16, (u16, Duration))> {
    let names = ["create", "update", "delete"];
    names.into_iter().zip(expected).zip(seen).map(|((name, expected), seen)| (name, expected, seen))
}

/// All is well again; how long it takes until a caller's change is made.
fn clear_up(site: &Site) -> Duration {
    site.cloud.heal();
    site.cloud.admin("POST", "/tls", &json!({}));
    site.cloud.admin("POST", "/clock", &Value::Null);
    let begun = Instant::now();
    wait_for("a clear sky", Duration::from_secs(70), || {
        thread::sleep(Duration::from_millis(100));
        (site.client().post("/identities/modules", &new("after")).status == 200).then_some(())
    });
    begun.elapsed()
}

fn new(id: &str) -> Value {
    json!({ "type": "aziot", "moduleId": id })
}

/// Seconds: a repetition after 3 s and a busy machine.
const SOON: u64 = 12;
/// An answer that waits for nobody, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(2);
