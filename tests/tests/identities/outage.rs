//! A cloud that cannot be reached, and programs that want something of it all the time: they are told so at once, and it is not
//! tried for each of them. Knows the cloud's count of connections; the long run is simulated in identityd's own tests.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use suite_tests::http::{Reply, wait_for};

use crate::cloud::{Cloud, Site};

#[test]
fn identity_28_decided_while_the_hub_is_away_one_tries_for_all_who_ask() {
    let site = Site::manual("");
    site.create("known").expect(200);
    site.names();
    let connections = away(&site.cloud);
    let answers = ask_for(&site, Duration::from_secs(22));
    let tried = count(&site.cloud) - connections;
    println!("{answers} answers, {tried} attempts to connect");
    // Four begin at once, two attempts each; then one finds out for all, after 5 s, 10 s and so on.
    assert!((4..=12).contains(&tried), "{tried} attempts to connect");
    assert!(answers > 100, "{answers} answers in 22 s");
    let message = site.module("unseen").expect(404).string("message");
    assert!(message.contains("cannot be reached and is tried again in"), "{message}");

    site.cloud.admin("POST", "/tls", &json!({}));
    let back = Instant::now();
    wait_for("a caller to find the hub", Duration::from_secs(62), || {
        thread::sleep(Duration::from_millis(100));
        (site.create("new").status == 200).then_some(())
    });
    println!("found {:?} after its return", back.elapsed());
    site.client().delete("/identities/modules/new?type=aziot", None).expect(204);
}

#[test]
fn identity_57_decided_a_refused_port_is_told_at_once_and_its_return_is_found_without_callers() {
    let site = Site::manual("");
    site.wait_until_settled();
    site.cloud.unplug();
    site.create("m").expect(404);
    let begun = Instant::now();
    for _ in 0..10 {
        site.create("m").expect(404);
        site.module("unseen").expect(404);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let mut site = site;
    site.identityd.restart();
    thread::sleep(Duration::from_secs(1)); // the first round fails
    site.cloud.heal();
    site.cloud.forget_requests();
    wait_for("the next round", Duration::from_secs(30), || (site.cloud.count("hub.list") > 0).then_some(()));
}

/// Four programs that ask again and again for so long, each for something else of the hub; how many answers they got.
fn ask_for(site: &Site, time: Duration) -> usize {
    let module = |_: usize| site.module("unseen");
    let list = |_| site.client().get("/identities/modules?type=aziot");
    let create = |number| site.create(&format!("made-{number}"));
    let delete = |_| site.client().delete("/identities/modules/known?type=aziot", None);
    let asks: [(&(dyn Fn(usize) -> Reply + Sync), u16); 4] =
        [(&module, 404), (&list, 200), (&create, 404), (&delete, 404)];
    let begun = Instant::now();
    thread::scope(|scope| {
        let threads = asks.map(|(ask, status)| {
            scope.spawn(move || {
                let mut answers = 0;
                while begun.elapsed() < time {
                    ask(answers).expect(status);
                    answers += 1;
                    thread::sleep(Duration::from_millis(20));
                }
                answers
            })
        });
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

/// From now on connections end before anything is said; the number of connections so far.
fn away(cloud: &Cloud) -> u64 {
    cloud.unplug();
    cloud.admin("POST", "/tls", &json!({ "abort": true }));
    cloud.admin("POST", "/accept", &json!({}));
    count(cloud)
}

fn count(cloud: &Cloud) -> u64 {
    cloud.admin("GET", "/state", &Value::Null)["counters"]["connections"].as_u64().unwrap()
}
