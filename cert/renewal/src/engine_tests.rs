//! The engine against a world in memory that loses power between and amid any two effects.

#[path = "test_plant.rs"]
mod plant;
#[path = "wish_tests.rs"]
mod wishes;

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
                            // What is over is tried again within minutes.
                            let time = if now < START + LIFE { DAY / 4 } else { ROUND };
                            plant.run(rotate_key, time).await;
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
async fn a_jump_over_a_pause_ends_it() {
    let plant = Plant::new(AT_80 + 2000);
    plant.world().answers = vec![Answer::FailsToIssue; 2];
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(renewal.status().attempts, 1);
    // As far as the certificate goes, it is due; the pause takes more than an hour.
    plant.clock.set(plant.clock.now() + 3000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(renewal.status().attempts, 1, "the pause is not over yet");
    plant.clock.set(plant.clock.now() + 3000);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(renewal.status().attempts, 2, "the device has slept, or the clock was wrong");
    // Set back by a day: the pause becomes no longer.
    plant.clock.set(AT_80 + 2000);
    tokio::time::sleep(Duration::from_secs(4600)).await;
    assert_eq!((renewal.status().attempts, plant.number() > 1), (3, true));
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

#[tokio::test(start_paused = true)]
async fn a_server_that_has_not_decided_is_asked_again_when_it_wishes() {
    // It is due at once, and the next one is not, however their digests spread them: by 3000 s at the most.
    let plant = Plant::new(START + 45_000);
    plant.policy.lock().unwrap().threshold = Span::Seconds(60_000);
    plant.world().answers = vec![Answer::HasNotDecided];
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(WAIT - 1)).await;
    assert_eq!(renewal.status().attempts, 1, "a pause by the configuration is 4500 s at the most");
    tokio::time::sleep(Duration::from_secs(7000)).await;
    assert_eq!((renewal.status().attempts, plant.number() > 1), (2, true));
    let made = plant.world().effects.iter().filter(|effect| **effect == "make").count();
    assert_eq!(made, 1, "it is asked with the same key");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn without_a_way_to_a_new_key_the_certificate_is_renewed_for_the_old_one() {
    for is_preloaded in [true, false] {
        let plant = Plant::new(AT_80 + 2000);
        {
            let mut world = plant.world();
            (world.is_preloaded, world.is_forbidden) = (is_preloaded, !is_preloaded);
        }
        plant.run(true, ROUND).await;
        let steps = ["preparing", "request", "issued", "ask", "accepted", "import", "clear"];
        assert_eq!(plant.world().effects, steps);
        assert!(plant.is_at_rest() && plant.can_authenticate() && plant.world().keys[&0] == 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_temporary_key_that_cannot_be_deleted_holds_nobody_up() {
    let plant = Plant::new(AT_80 + 2000);
    plant.world().keys.insert(1, FOREIGN);
    plant.world().is_preloaded = true;
    plant.run(true, ROUND).await;
    assert!(plant.can_authenticate() && plant.number() == 2 && plant.facts().pending.is_none());
    let keys = plant.world().keys.clone();
    assert_eq!(keys, [(0, 0), (1, FOREIGN)].into());
}

/// How far a renewal has got when keyd begins to refuse.
#[tokio::test(start_paused = true)]
async fn keyd_begins_to_refuse_at_any_moment() {
    for is_preloaded in [true, false] {
        for at in 0..8 {
            let plant = Plant::new(AT_80 + 2000);
            plant.start_again(Some((at, Loss::After)));
            plant.run(true, ROUND).await;
            {
                let mut world = plant.world();
                (world.is_preloaded, world.is_forbidden) = (is_preloaded, !is_preloaded);
            }
            plant.start_again(None);
            let story = format!("{is_preloaded} {at} {:?}", plant.world().effects);
            let pair = plant.renewal(true).pair().await;
            assert!(plant.world().accepted.contains(pair.unwrap().certificate.pem()), "{story}");
            plant.run(true, ROUND).await;
            assert!(plant.can_authenticate() && plant.number() > 1, "{story}: {:?}", plant.world().effects);
            assert!(plant.facts().pending.is_none() && plant.facts().fits(), "{story}");
        }
    }
}

/// What is accepted is all there is: the pair in place has expired, or its key is gone.
#[tokio::test(start_paused = true)]
async fn what_is_accepted_is_used_where_it_is_if_nothing_else_is_left() {
    let plant = Plant::new(START + LIFE - 10);
    plant.start_again(Some((5, Loss::After)));
    plant.run(true, Duration::from_secs(5)).await;
    assert_eq!(plant.world().effects.last(), Some(&"accepted"));
    plant.world().is_preloaded = true;
    plant.start_again(None);
    plant.clock.set(START + LIFE + 10);
    plant.run(true, ROUND).await;
    let pair = plant.renewal(true).pair().await.unwrap();
    assert_eq!((pair.slot, plant.can_authenticate()), (Slot::Temporary, true));
    plant.world().is_preloaded = false;
    plant.run(true, DAY).await;
    assert!(plant.facts().pending.is_none() && plant.can_authenticate());
}

#[tokio::test(start_paused = true)]
async fn a_pair_is_used_though_the_temporary_key_may_not_be() {
    let plant = Plant::new(AT_80 + 2000);
    plant.world().answers = vec![Answer::FailsToIssue; 40];
    plant.run(true, Duration::from_secs(5)).await;
    assert!(plant.facts().pending.is_some());
    plant.world().is_forbidden = true;
    assert_eq!(plant.renewal(true).pair().await.unwrap().slot, Slot::Current);
}

#[tokio::test(start_paused = true)]
async fn a_pair_that_is_refused_is_replaced_whatever_the_policy_says() {
    let plant = Plant::new(START + 10);
    plant.policy.lock().unwrap().enabled = false;
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    let refused = plant.facts().certificate.unwrap().digest();
    plant.world().answers = vec![Answer::HasNotDecided, Answer::FailsToIssue];
    assert!(renewal.replace(refused).await.is_err());
    assert!(renewal.replace(refused).await.is_err(), "a pause does not hold it back");
    tokio::time::sleep(DAY).await;
    assert!(plant.is_at_rest() && plant.number() > 1, "it goes on by itself");
    let (number, steps) = (plant.number(), plant.world().effects.len());
    renewal.replace(refused).await.unwrap();
    tokio::time::sleep(DAY).await;
    assert_eq!((plant.number(), plant.world().effects.len()), (number, steps), "another one is in place");
    let made = plant.world().effects.iter().filter(|effect| **effect == "make").count();
    assert_eq!(made, 1);
    running.abort();
}
