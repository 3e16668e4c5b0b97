//! The engine when nothing works any more, when it is wished for, and beside others who have the same done.

use super::*;

/// The device was off the net when its certificate's time was over, and for twenty days more.
fn locked_out() -> Plant {
    let plant = Plant::new(START + LIFE + 20 * 86_400);
    // A pause that is too long for anybody who is locked out.
    plant.policy.lock().unwrap().retry = Span::Seconds(4 * 86_400);
    plant
}

#[tokio::test(start_paused = true)]
async fn what_is_over_is_renewed_within_minutes_of_the_clouds_return() {
    let plant = locked_out();
    plant.world().answers = vec![Answer::FailsToIssue; 40];
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(DAY / 4).await;
    let attempts = renewal.status().attempts;
    assert!((20..30).contains(&attempts), "not too often: {attempts}");
    plant.world().answers.clear();
    tokio::time::sleep(Duration::from_secs(18 * 60)).await;
    assert!(plant.number() > 1 && plant.is_at_rest());
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn a_wish_revives_what_is_over_and_wishes_are_paced() {
    let plant = locked_out();
    plant.world().answers = vec![Answer::FailsToIssue; 10];
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..50 {
        renewal.revive().await.unwrap();
    }
    assert_eq!(renewal.status().attempts, 1, "one has failed just now");
    tokio::time::sleep(Duration::from_secs(6)).await;
    let wishes = (renewal.revive(), renewal.revive(), renewal.revive());
    let wishes = tokio::join!(wishes.0, wishes.1, wishes.2);
    assert!(wishes.0.is_err() && wishes.1.is_ok() && wishes.2.is_ok(), "{wishes:?}");
    assert_eq!(renewal.status().attempts, 2, "one for all");
    plant.world().answers.clear();
    tokio::time::sleep(Duration::from_secs(11)).await;
    renewal.revive().await.unwrap();
    assert!(plant.number() > 1 && plant.is_at_rest());
    let (number, attempts) = (plant.number(), renewal.status().attempts);
    renewal.revive().await.unwrap();
    assert_eq!((plant.number(), renewal.status().attempts), (number, attempts), "it is not over any more");
    running.abort();

    let plant = locked_out();
    plant.policy.lock().unwrap().enabled = false;
    plant.renewal(true).revive().await.unwrap();
    assert!(plant.world().effects.is_empty(), "it is switched off");
}

#[tokio::test(start_paused = true)]
async fn another_policy_ends_the_pause() {
    let plant = Plant::new(AT_80 + 2000);
    plant.world().answers = vec![Answer::FailsToIssue];
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    renewal.look_again();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(renewal.status().attempts, 1, "the same policy does not");
    plant.policy.lock().unwrap().retry = Span::Seconds(60);
    renewal.look_again();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((renewal.status().attempts, plant.number() > 1), (2, true));
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn services_that_are_away_are_counted_once_in_a_pause_and_seen_when_they_are_back() {
    for at in [START + 10, AT_80 + 2000] {
        let plant = Plant::new(at);
        plant.world().is_away = true;
        let renewal = Arc::new(plant.renewal(true));
        let running = tokio::spawn({
            let renewal = renewal.clone();
            async move { renewal.run().await }
        });
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(renewal.pair().await.is_err());
            renewal.look_again();
        }
        let status = renewal.status();
        assert_eq!(status.failures, 1, "whoever asks meanwhile makes nothing worse");
        assert!(status.next.unwrap() <= at + 30, "{status:?}");
        plant.world().is_away = false;
        renewal.pair().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = renewal.status();
        assert_eq!((status.failures, status.last_error), (0, None));
        assert_eq!(plant.number() > 1, at > AT_80);
        running.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_makes_the_certificate_in_place_known_is_not_overtaken() {
    let plant = Plant::new(AT_80 + 2000);
    let renewal = Arc::new(plant.renewal(true));
    let undisturbed = renewal.undisturbed().await;
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(plant.world().effects.last(), Some(&"issued"), "nobody is asked to accept it yet");
    assert_eq!(renewal.pair().await.unwrap().slot, Slot::Current, "and the pair can be used");
    drop(undisturbed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(plant.is_at_rest() && plant.number() > 1);
    let _undisturbed = renewal.undisturbed().await;
    running.abort();

    // The other way round: from the question until it is in place.
    let plant = Plant::new(AT_80 + 2000);
    let renewal = Arc::new(plant.renewal(true));
    let running = tokio::spawn({
        let renewal = renewal.clone();
        async move { renewal.run().await }
    });
    while !plant.world().effects.contains(&"ask") {
        tokio::task::yield_now().await;
    }
    assert_eq!(plant.number(), 1);
    let _undisturbed = renewal.undisturbed().await;
    assert!(plant.is_at_rest() && plant.number() > 1, "{:?}", plant.world().effects);
    running.abort();
}
