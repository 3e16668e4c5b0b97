//! The engine against a world in memory that loses power between and amid any two effects.

#[path = "test_plant.rs"]
mod plant;

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::policy::Span;
use plant::*;

const DAY: Duration = Duration::from_secs(86_400);
const ROUND: Duration = Duration::from_secs(1000);

#[tokio::test(start_paused = true)]
async fn the_steps_in_their_order() {
    for (rotate_key, steps) in [
        (true, &["preparing", "make", "request", "issued", "ask", "accepted", "move", "import", "clear"][..]),
        (false, &["preparing", "request", "issued", "ask", "accepted", "import", "clear"]),
    ] {
        let plant = Plant::new(AT_80 + 2000);
        plant.run(rotate_key, ROUND).await;
        assert_eq!(plant.world().effects, steps);
        assert!(plant.is_at_rest() && plant.can_authenticate() && plant.number() == 2);
        assert_eq!(plant.world().keys[&0], usize::from(rotate_key));
    }
}

/// What the cloud does, and which certificate is in place in the end.
const STORIES: &[(&[Answer], bool)] = &[
    (&[], true),
    (&[Answer::Hangs], true),
    (&[Answer::FailsToIssue], true),
    (&[Answer::Refuses], true),
    (&[Answer::Refuses; 40], false),
    (&[Answer::Hangs; 40], false),
];

#[tokio::test(start_paused = true)]
async fn power_loss_at_each_step_of_each_story() {
    let mut runs = 0;
    for (answers, is_renewed) in STORIES {
        for rotate_key in [true, false] {
            for is_exclusive in [true, false] {
                for now in [AT_80 + 2000, START + LIFE + 5] {
                    for loss in [Loss::Before, Loss::After] {
                        for at in 0.. {
                            let plant = Plant::new(now);
                            {
                                let mut world = plant.world();
                                world.answers = answers.to_vec();
                                world.is_exclusive = is_exclusive;
                                world.power = Some((at, loss));
                            }
                            plant.run(rotate_key, ROUND).await;
                            let died = plant.world().is_dead;
                            let story = format!(
                                "{answers:?}, rotate {rotate_key}, exclusive {is_exclusive}, at {now}, {loss:?} {at}: {:?}",
                                plant.world().effects
                            );
                            assert!(is_exclusive || plant.can_authenticate(), "at the crash: {story}");
                            plant.start_again(None);
                            plant.run(rotate_key, DAY / 4).await;
                            check_end(&plant, *is_renewed, &story);
                            runs += 1;
                            if !died {
                                break;
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(runs > 300, "{runs}");
}

fn check_end(plant: &Plant, is_renewed: bool, story: &str) {
    assert!(plant.can_authenticate(), "{story}, then {:?}", plant.world().effects);
    assert_eq!(plant.number() > 1, is_renewed, "{story}");
    if is_renewed {
        assert!(plant.is_at_rest(), "{story}");
    }
}

#[tokio::test(start_paused = true)]
async fn power_loss_during_the_recovery_from_power_loss() {
    for rotate_key in [true, false] {
        for (first, second) in (0..10).flat_map(|one| (0..10).map(move |two| (one, two))) {
            for losses in [[Loss::After; 3], [Loss::Before; 3], [Loss::After, Loss::Before, Loss::After]] {
                let plant = Plant::new(AT_80 + 2000);
                for (at, loss) in [first, second, 1].into_iter().zip(losses) {
                    plant.start_again(Some((at, loss)));
                    plant.run(rotate_key, ROUND).await;
                    assert!(plant.can_authenticate());
                }
                plant.start_again(None);
                plant.run(rotate_key, ROUND).await;
                let story = format!("{rotate_key} {first} {second} {losses:?}");
                check_end(&plant, true, &story);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn begins_at_the_threshold_and_not_before() {
    let plant = Plant::new(START + 10);
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(79_980)).await;
    assert!(plant.world().effects.is_empty());
    let status = renewal.status();
    assert_eq!(status.not_after, Some(START + LIFE));
    let begin = status.next.unwrap();
    assert!((AT_80..=AT_80 + 1000).contains(&begin), "{begin}");
    tokio::time::sleep(Duration::from_secs(1020)).await;
    assert_eq!(plant.number(), 2);
    let status = renewal.status();
    assert_eq!((status.renewals, status.attempts, status.failures), (1, 1, 0));
    assert!(status.last_error.is_none() && status.next.unwrap() > begin + 70_000, "{status:?}");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn failures_are_repeated_after_the_pause() {
    let plant = Plant::new(AT_80 + 2000);
    plant.world().answers = vec![Answer::FailsToIssue; 2];
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let status = renewal.status();
    assert_eq!((status.failures, status.attempts, status.stage), (1, 1, Some("preparing")));
    assert_eq!(status.last_error.as_deref(), Some("cannot get a new certificate: the authority is away"));
    let pause = status.next.unwrap() - plant.clock.now();
    assert!((3999..=4501).contains(&pause), "{pause}");
    renewal.look_again();
    tokio::time::sleep(Duration::from_secs(3900)).await;
    assert_eq!(renewal.status().attempts, 1, "nobody can hurry it");
    tokio::time::sleep(Duration::from_secs(700)).await;
    assert_eq!(renewal.status().failures, 2);
    tokio::time::sleep(Duration::from_secs(4600)).await;
    assert_eq!((renewal.status().failures, plant.number() > 1), (0, true));
    let made = plant.world().effects.iter().filter(|effect| **effect == "make").count();
    assert_eq!(made, 1, "the key is used again");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn the_clock_jumps() {
    let plant = Plant::new(START + 10);
    let running = tokio::spawn({
        let renewal = plant.renewal(false);
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    plant.clock.set(START - 1_000_000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(plant.world().effects.is_empty(), "what is not yet valid is not due");
    plant.clock.set(AT_80 + 2000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(plant.number(), 2);
    plant.clock.set(START + 10 * LIFE);
    tokio::time::sleep(Duration::from_secs(90_000)).await;
    assert!(plant.number() > 2);
    assert!(plant.world().requests_of_expired > 0);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_jump_that_nobody_tells_is_noticed_within_the_hour() {
    let plant = Plant::new(START + 10);
    let running = tokio::spawn({
        let renewal = plant.renewal(false);
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    plant.clock.offset.fetch_add(90_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(plant.number(), 2);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_certificate_from_somebody_else_is_adopted() {
    let plant = Plant::new(START + 10);
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let theirs = plant.issue(0, START - 90_000);
    plant.world().certificate = Some(theirs);
    renewal.look_again();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(plant.number(), 3, "theirs was due, and was renewed");
    let foreign = plant.issue(11, START);
    plant.world().certificate = Some(foreign.clone());
    renewal.look_again();
    tokio::time::sleep(DAY * 2).await;
    assert_eq!(plant.world().certificate.as_ref(), Some(&foreign), "its key is elsewhere");
    let error = renewal.status().last_error.unwrap();
    assert!(error.contains("the key is not the certificate's"), "{error}");
    assert!(renewal.pair().await.is_err());
    plant.world().certificate = None;
    renewal.look_again();
    tokio::time::sleep(DAY).await;
    assert_eq!(renewal.status().next, None);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn what_is_always_due_is_renewed_once_in_a_pause() {
    let plant = Plant::new(START + 10);
    plant.policy.lock().unwrap().threshold = Span::Seconds(1_000_000);
    let renewal = plant.renewal(false);
    let running = tokio::spawn(async move { renewal.run().await });
    tokio::time::sleep(Duration::from_secs(3990)).await;
    assert_eq!(plant.number(), 2);
    tokio::time::sleep(Duration::from_secs(512)).await;
    assert_eq!(plant.number(), 3);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn whoever_uses_a_pair_keeps_it_until_done() {
    let plant = Plant::new(AT_80 + 2000);
    let renewal = Arc::new(plant.renewal(true));
    let pair = renewal.pair().await.unwrap();
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(plant.world().effects.last(), Some(&"accepted"));
    assert_eq!(pair.slot, Slot::Current);
    assert_eq!(plant.print(Slot::Current), Some(pair.certificate.key()));
    drop(pair);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(plant.is_at_rest());
    let pair = renewal.pair().await.unwrap();
    assert_eq!(plant.print(pair.slot), Some(pair.certificate.key()));
    running.abort();
}
