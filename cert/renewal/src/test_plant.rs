//! A world in memory that loses power between and amid any two effects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::actor::{Actor, Verdict};
use crate::certificate::tests::{certificate, ec_key};
use crate::certificate::{Certificate, KeyKind, KeyPrint};
use crate::clock::Clock;
use crate::engine::Renewal;
use crate::journal::{JournalError, Memory};
use crate::policy::{Policy, Validity};
use crate::step::{Facts, Pending, Slot, good_pair};

pub(super) static KEYS: LazyLock<Vec<PKey<Private>>> =
    LazyLock::new(|| (0..30).map(|_| ec_key(Nid::X9_62_PRIME256V1)).collect());

pub(super) const START: i64 = 1_700_000_000;
pub(super) const LIFE: i64 = 100_000;
pub(super) const AT_80: i64 = START + 80_000;

/// What survives, and the cloud.
#[derive(Default)]
pub(super) struct World {
    pub(super) certificate: Option<String>,
    pub(super) keys: BTreeMap<u8, usize>,
    pub(super) journal: Option<Pending>,
    pub(super) made: usize,
    pub(super) issued: u32,
    /// The certificates that the cloud lets in.
    pub(super) accepted: BTreeSet<String>,
    /// Answers of the cloud to come, before it accepts.
    pub(super) answers: Vec<Answer>,
    /// Whether only the latest certificate is let in.
    pub(super) is_exclusive: bool,
    /// Effects left until the power is lost; none if it stays.
    pub(super) power: Option<(u32, Loss)>,
    pub(super) is_dead: bool,
    pub(super) effects: Vec<&'static str>,
    pub(super) requests_of_expired: u32,
    /// keyd lets us not use the temporary key.
    pub(super) is_forbidden: bool,
    /// keyd neither moves nor replaces the key in place.
    pub(super) is_preloaded: bool,
    /// keyd and certd cannot be asked.
    pub(super) is_away: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Loss {
    Before,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    Refuses,
    Hangs,
    FailsToIssue,
    /// Wants to be asked again after [`WAIT`] seconds.
    HasNotDecided,
}

/// The key that an administrator has put where the temporary key belongs.
pub(super) const FOREIGN: usize = 29;

pub(super) const WAIT: u64 = 20_000;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Trouble(&'static str);

const FORBIDDEN: Trouble = Trouble("keyd does not let us");
const PRELOADED: Trouble = Trouble("the key is preloaded");
pub(super) const PENDING: Trouble = Trouble("not decided yet");

#[derive(Clone)]
pub(super) struct Plant {
    pub(super) world: Arc<Mutex<World>>,
    pub(super) clock: Fake,
    pub(super) died: Arc<Notify>,
    pub(super) policy: Arc<Mutex<Policy>>,
}

#[derive(Clone)]
pub(super) struct Fake {
    pub(super) start: Instant,
    pub(super) offset: Arc<AtomicI64>,
    pub(super) set: Arc<Notify>,
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
    pub(super) fn set(&self, to: i64) {
        self.offset.fetch_add(to - self.now(), Ordering::SeqCst);
        self.set.notify_one();
    }
}

impl Plant {
    /// A device with a certificate that is due at [`AT_80`]; it is `now`.
    pub(super) fn new(now: i64) -> Self {
        let clock =
            Fake { start: Instant::now(), offset: Arc::new(AtomicI64::new(now)), set: Arc::default() };
        let world = World { keys: BTreeMap::from([(0, 0)]), made: 1, ..World::default() };
        let policy = Policy::from(config_common::AutoRenew::default());
        let (world, policy) = (Arc::new(Mutex::new(world)), Arc::new(Mutex::new(policy)));
        let plant = Self { world, clock, died: Arc::default(), policy };
        let pem = plant.issue(0, START);
        let mut world = plant.world();
        world.accepted.insert(pem.clone());
        world.certificate = Some(pem);
        drop(world);
        plant
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(super) fn issue(&self, key: usize, from: i64) -> String {
        let mut world = self.world();
        world.issued += 1;
        let validity = Validity { not_before: from, not_after: from + LIFE };
        certificate(&KEYS[key], world.issued, validity)
    }

    pub(super) fn renewal(&self, rotate_key: bool) -> Renewal<Plant, Plant, Fake> {
        self.policy.lock().unwrap().rotate_key = rotate_key;
        Renewal::with_clock("test", self.clone(), self.clone(), self.clock.clone())
    }

    /// An effect on what survives. When the power is lost, it happens or not, and nobody learns of it.
    pub(super) fn effect<T>(
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
    pub(super) async fn done<T>(
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

    pub(super) fn print(&self, slot: Slot) -> Option<KeyPrint> {
        let key = self.world().keys.get(&(slot as u8)).copied()?;
        Some(KeyPrint::of(&KEYS[key]).unwrap())
    }

    pub(super) fn facts(&self) -> Facts {
        let (pending, text) = {
            let world = self.world();
            (world.journal.clone(), world.certificate.clone())
        };
        Facts {
            pending,
            certificate: text.map(|text| Certificate::parse(text).unwrap()),
            current: self.print(Slot::Current),
            temporary: self.print(Slot::Temporary),
            is_hidden: false,
        }
    }

    /// Whether key and certificate fit, and the cloud lets the device in.
    pub(super) fn can_authenticate(&self) -> bool {
        let facts = self.facts();
        good_pair(&facts, self.clock.now()).is_some_and(|(it, _)| self.world().accepted.contains(it.pem()))
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let facts = self.facts();
        facts.pending.is_none()
            && facts.temporary.is_none()
            && facts.certificate.as_ref().map(Certificate::key) == facts.current
    }

    /// The number of the certificate in place.
    pub(super) fn number(&self) -> u32 {
        let facts = self.facts();
        let serial = facts.certificate.unwrap().chain()[0].serial_number().to_bn().unwrap();
        serial.to_dec_str().unwrap().parse().unwrap()
    }

    /// Runs until the power is lost or `time` has passed.
    pub(super) async fn run(&self, rotate_key: bool, time: Duration) {
        let renewal = self.renewal(rotate_key);
        tokio::select! {
            () = renewal.run() => {}
            () = self.died.notified() => {}
            () = tokio::time::sleep(time) => {}
        }
    }

    pub(super) fn start_again(&self, power: Option<(u32, Loss)>) {
        let mut world = self.world();
        (world.is_dead, world.power) = (false, power);
    }
}

impl Actor for Plant {
    type Error = Trouble;

    fn policy(&self) -> Policy {
        *self.policy.lock().unwrap()
    }

    async fn certificate(&self) -> Result<Option<String>, Trouble> {
        let world = self.world();
        if world.is_away { Err(Trouble("certd is away")) } else { Ok(world.certificate.clone()) }
    }

    async fn key(&self, slot: Slot) -> Result<Option<KeyPrint>, Trouble> {
        match slot == Slot::Temporary && self.world().is_forbidden {
            true => Err(FORBIDDEN),
            false => Ok(self.print(slot)),
        }
    }

    async fn obstacle(&self) -> Result<Option<String>, Trouble> {
        assert!(self.print(Slot::Temporary).is_none(), "nobody may be asked now");
        let world = self.world();
        let obstacle =
            if world.is_forbidden { Some(FORBIDDEN) } else { world.is_preloaded.then_some(PRELOADED) };
        Ok(obstacle.map(|trouble| trouble.0.to_owned()))
    }

    fn is_refusal(error: &Trouble) -> bool {
        [FORBIDDEN.0, PRELOADED.0].contains(&error.0)
    }

    fn least_pause(error: &Trouble) -> Option<Duration> {
        (error.0 == PENDING.0).then_some(Duration::from_secs(WAIT))
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
                Some(Answer::HasNotDecided) => {
                    world.answers.pop();
                    Err(PENDING)
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
            if world.is_forbidden || world.is_preloaded {
                return Err(if world.is_preloaded { PRELOADED } else { FORBIDDEN });
            }
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
            if world.is_preloaded && world.keys.get(&1) == Some(&FOREIGN) {
                return Err(PRELOADED);
            }
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

pub(super) fn no_power() -> JournalError {
    JournalError::Unreadable { path: "journal".into(), source: std::io::ErrorKind::BrokenPipe.into() }
}
