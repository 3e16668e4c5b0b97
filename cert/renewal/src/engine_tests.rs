//! The engine against a world in memory that loses power between and amid any two effects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, Ordering};

use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};

use super::*;
use crate::certificate::tests::{certificate, ec_key};
use crate::policy::Span;

static KEYS: LazyLock<Vec<PKey<Private>>> =
    LazyLock::new(|| (0..30).map(|_| ec_key(Nid::X9_62_PRIME256V1)).collect());

const START: i64 = 1_700_000_000;
const LIFE: i64 = 100_000;
const AT_80: i64 = START + 80_000;

/// What survives, and the cloud.
#[derive(Default)]
struct World {
    certificate: Option<String>,
    keys: BTreeMap<u8, usize>,
    journal: Option<Pending>,
    made: usize,
    issued: u32,
    /// The certificates that the cloud lets in.
    accepted: BTreeSet<String>,
    /// Answers of the cloud to come, before it accepts.
    answers: Vec<Answer>,
    /// Whether only the latest certificate is let in.
    is_exclusive: bool,
    /// Effects left until the power is lost; none if it stays.
    power: Option<(u32, Loss)>,
    is_dead: bool,
    effects: Vec<&'static str>,
    requests_of_expired: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    Before,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Refuses,
    Hangs,
    FailsToIssue,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Trouble(&'static str);

#[derive(Clone)]
struct Plant {
    world: Arc<Mutex<World>>,
    clock: Fake,
    died: Arc<Notify>,
}

#[derive(Clone)]
struct Fake {
    start: Instant,
    offset: Arc<AtomicI64>,
    set: Arc<Notify>,
}

impl Clock for Fake {
    fn now(&self) -> i64 {
        let since = i64::try_from(self.start.elapsed().as_secs()).unwrap();
        since + self.offset.load(Ordering::SeqCst)
    }

    async fn until(&self, at: i64) {
        let left = Duration::from_secs(u64::try_from(at - self.now()).unwrap_or(0));
        tokio::select! {
            () = tokio::time::sleep(left) => {}
            () = self.set.notified() => {}
        }
    }
}

impl Fake {
    fn set(&self, to: i64) {
        self.offset.fetch_add(to - self.now(), Ordering::SeqCst);
        self.set.notify_one();
    }
}

impl Plant {
    /// A device with a certificate that is due at [`AT_80`]; it is `now`.
    fn new(now: i64) -> Self {
        let clock =
            Fake { start: Instant::now(), offset: Arc::new(AtomicI64::new(now)), set: Arc::default() };
        let world = World { keys: BTreeMap::from([(0, 0)]), made: 1, ..World::default() };
        let plant = Self { world: Arc::new(Mutex::new(world)), clock, died: Arc::default() };
        let pem = plant.issue(0, START);
        let mut world = plant.world();
        world.accepted.insert(pem.clone());
        world.certificate = Some(pem);
        drop(world);
        plant
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn issue(&self, key: usize, from: i64) -> String {
        let mut world = self.world();
        world.issued += 1;
        let validity = Validity { not_before: from, not_after: from + LIFE };
        certificate(&KEYS[key], world.issued, validity)
    }

    fn renewal(&self, rotate_key: bool) -> Renewal<Plant, Plant, Fake> {
        let policy = Policy { threshold: Span::Percent(80), retry: Span::Percent(4), rotate_key };
        Renewal::with_clock("test", policy, self.clone(), self.clone(), self.clock.clone())
    }

    /// An effect on what survives. When the power is lost, it happens or not, and nobody learns of it.
    fn effect<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut World) -> Result<T, Trouble>,
    ) -> Result<T, Option<Trouble>> {
        let mut world = self.world();
        if world.is_dead {
            return Err(None);
        }
        let lost = match &mut world.power {
            Some((0, loss)) => Some(*loss),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        };
        let result = if lost == Some(Loss::Before) {
            Err(None)
        } else {
            world.effects.push(name);
            effect(&mut world).map_err(Some)
        };
        if lost.is_some() {
            world.is_dead = true;
            self.died.notify_one();
            return Err(None);
        }
        result
    }

    /// The same for those who wait for ever when the power is lost.
    async fn done<T>(
        &self,
        name: &'static str,
        effect: impl FnOnce(&mut World) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        tokio::task::yield_now().await;
        match self.effect(name, effect) {
            Ok(done) => Ok(done),
            Err(Some(trouble)) => Err(trouble),
            Err(None) => std::future::pending().await,
        }
    }

    fn print(&self, slot: Slot) -> Option<KeyPrint> {
        let key = self.world().keys.get(&(slot as u8)).copied()?;
        Some(KeyPrint::of(&KEYS[key]).unwrap())
    }

    fn facts(&self) -> Facts {
        let (pending, text) = {
            let world = self.world();
            (world.journal.clone(), world.certificate.clone())
        };
        Facts {
            pending,
            certificate: text.map(|text| Certificate::parse(text).unwrap()),
            current: self.print(Slot::Current),
            temporary: self.print(Slot::Temporary),
        }
    }

    /// Whether key and certificate fit, and the cloud lets the device in.
    fn can_authenticate(&self) -> bool {
        let facts = self.facts();
        good_pair(&facts).is_some_and(|(it, _)| self.world().accepted.contains(it.pem()))
    }

    fn is_at_rest(&self) -> bool {
        let facts = self.facts();
        facts.pending.is_none()
            && facts.temporary.is_none()
            && facts.certificate.as_ref().map(Certificate::key) == facts.current
    }

    /// The number of the certificate in place.
    fn number(&self) -> u32 {
        let facts = self.facts();
        let serial = facts.certificate.unwrap().chain()[0].serial_number().to_bn().unwrap();
        serial.to_dec_str().unwrap().parse().unwrap()
    }

    /// Runs until the power is lost or `time` has passed.
    async fn run(&self, rotate_key: bool, time: Duration) {
        let renewal = self.renewal(rotate_key);
        tokio::select! {
            () = renewal.run() => {}
            () = self.died.notified() => {}
            () = tokio::time::sleep(time) => {}
        }
    }

    fn start_again(&self, power: Option<(u32, Loss)>) {
        let mut world = self.world();
        (world.is_dead, world.power) = (false, power);
    }
}

impl Actor for Plant {
    type Error = Trouble;

    async fn certificate(&self) -> Result<Option<String>, Trouble> {
        Ok(self.world().certificate.clone())
    }

    async fn key(&self, slot: Slot) -> Result<Option<KeyPrint>, Trouble> {
        Ok(self.print(slot))
    }

    async fn make_key(&self, like: Option<KeyKind>) -> Result<(), Trouble> {
        assert_eq!(like, Some(KeyKind::EcP256));
        self.done("make", |world| {
            let made = world.made;
            world.made += usize::from(!world.keys.contains_key(&1));
            world.keys.entry(1).or_insert(made);
            Ok(())
        })
        .await
    }

    async fn request(&self, slot: Slot, old: &Certificate) -> Result<String, Trouble> {
        let now = self.clock.now();
        let key = self.world().keys[&(slot as u8)];
        let pem = self.issue(key, now - 60);
        let expired = u32::from(old.validity().is_over(now));
        self.done("request", |world| {
            world.requests_of_expired += expired;
            match world.answers.last() {
                Some(Answer::FailsToIssue) => {
                    world.answers.pop();
                    Err(Trouble("the authority is away"))
                }
                _ => Ok(pem),
            }
        })
        .await
    }

    async fn accept(&self, new: &Certificate, slot: Slot) -> Result<Verdict, Trouble> {
        assert_eq!(self.print(slot), Some(new.key()), "who is asked must see the certificate's own key");
        self.done("ask", |world| match world.answers.pop() {
            None => {
                if world.is_exclusive {
                    world.accepted.clear();
                }
                world.accepted.insert(new.pem().to_owned());
                Ok(Verdict::Accepted)
            }
            Some(Answer::Refuses) => Ok(Verdict::Refused("no".to_owned())),
            Some(_) => Err(Trouble("the cloud is away")),
        })
        .await
    }

    async fn move_key(&self) -> Result<(), Trouble> {
        self.done("move", |world| {
            let key = world.keys.remove(&1).ok_or(Trouble("no such key"))?;
            world.keys.insert(0, key);
            Ok(())
        })
        .await
    }

    async fn import(&self, new: &Certificate) -> Result<(), Trouble> {
        self.done("import", |world| {
            world.certificate = Some(new.pem().to_owned());
            Ok(())
        })
        .await
    }

    async fn delete_key(&self) -> Result<(), Trouble> {
        self.done("delete", |world| {
            world.keys.remove(&1);
            Ok(())
        })
        .await
    }
}

impl Memory for Plant {
    fn read(&self) -> Result<Option<Pending>, JournalError> {
        Ok(self.world().journal.clone())
    }

    fn write(&self, pending: &Pending) -> Result<(), JournalError> {
        let effect = |world: &mut World| {
            world.journal = Some(pending.clone());
            Ok(())
        };
        self.effect(pending.stage.name(), effect).map_err(|_| no_power())
    }

    fn clear(&self) -> Result<(), JournalError> {
        let effect = |world: &mut World| {
            world.journal = None;
            Ok(())
        };
        self.effect("clear", effect).map_err(|_| no_power())
    }
}

fn no_power() -> JournalError {
    JournalError::Unreadable { path: "journal".into(), source: std::io::ErrorKind::BrokenPipe.into() }
}

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
    let policy = Policy { threshold: Span::Seconds(1_000_000), retry: Span::Percent(4), rotate_key: false };
    let renewal = Renewal::with_clock("test", policy, plant.clone(), plant.clone(), plant.clock.clone());
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
