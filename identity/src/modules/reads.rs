//! Reads of modules that are not known here: one call for each module at a time, whoever asks for it; a short memory of what
//! the hub has refused; and nobody waits for long. Knows not what is known.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::gate::{Asked, TRIAL_LIMIT, Way, concerns_all, growing};
use super::{GET_LIMIT, Modules, is_unknown_device};
use crate::Error;
use crate::cloud::Repeat;
use crate::module_id::ModuleId;
use crate::records::ModuleRecord;

/// What is under way, and what was refused lately, by module.
#[derive(Default)]
pub(super) struct Reads(Mutex<BTreeMap<String, Read>>);

#[derive(Default)]
struct Read {
    running: Option<Running>,
    refused: Option<Refused>,
}

/// A call that is waited for.
#[derive(Clone)]
struct Running {
    /// Until when it is, and what those are told who come later.
    until: Instant,
    meanwhile: Arc<Error>,
    done: watch::Receiver<Option<Answer>>,
}

type Answer = Result<ModuleRecord, Arc<Error>>;

/// What the hub said of one module.
#[derive(Clone)]
struct Refused {
    error: Arc<Error>,
    until: Instant,
    /// How often in a row.
    times: u32,
}

/// How a reader gets an answer.
enum Plan {
    Told(Arc<Error>),
    Wait(Running),
}

impl Modules {
    /// What the hub says of the module `id`, or has said lately.
    pub(super) async fn read(self: &Arc<Self>, id: &ModuleId) -> Result<ModuleRecord, Error> {
        let Running { until, meanwhile, mut done } = match self.plan_read(id, Instant::now()) {
            Plan::Told(error) => return Err(Error::Shared(error)),
            Plan::Wait(running) => running,
        };
        let answer = match tokio::time::timeout_at(until.into(), done.wait_for(Option::is_some)).await {
            Ok(Ok(answer)) => answer.clone(),
            // The task has died, which the next reader finds out.
            Ok(Err(_)) => None,
            Err(_) => {
                self.gate().failed(Asked::Read, &Arc::new(Error::Unfinished), Instant::now());
                None
            }
        };
        answer.unwrap_or(Err(meanwhile)).map_err(Error::Shared)
    }

    fn plan_read(self: &Arc<Self>, id: &ModuleId, now: Instant) -> Plan {
        let mut reads = self.reads.lock();
        let known = reads.get(id.as_str());
        if let Some(running) = known.and_then(Read::running) {
            return if now < running.until { Plan::Wait(running) } else { Plan::Told(running.meanwhile) };
        }
        let refused = known.and_then(|read| read.refused.clone());
        if let Some(refused) = refused.filter(|refused| now < refused.until) {
            return Plan::Told(refused.error);
        }
        let (limit, meanwhile) = match self.gate().ask_to_read(now) {
            Way::Closed(error) => return Plan::Told(error),
            Way::Trial(error) => (TRIAL_LIMIT, error),
            Way::Open => (READ_LIMIT, Arc::new(Error::Unfinished)),
        };
        let (send, done) = watch::channel(None);
        let running = Running { until: now + limit, meanwhile, done };
        make_room(&mut reads, now);
        reads.entry(id.as_str().to_owned()).or_default().running = Some(running.clone());
        let (modules, id) = (Arc::clone(self), id.clone());
        tokio::spawn(async move {
            let answer = modules.ask_hub_for(&id).await;
            modules.reads.end(id.as_str(), &answer, Instant::now());
            send.send_replace(Some(answer));
        });
        Plan::Wait(running)
    }

    async fn ask_hub_for(&self, id: &ModuleId) -> Answer {
        // Who throttles is asked again by a later reader, not by this one who waits.
        let hub = self.hub_with(Repeat::UnlessThrottled).await.map_err(Arc::new)?;
        let result = hub.get(id.as_str(), Instant::now() + GET_LIMIT).await;
        match self.noted(Asked::Read, result) {
            Ok(module) => {
                self.see(&module).await;
                Ok(ModuleRecord::from(&module))
            }
            Err(error) => {
                self.doubt_after(&error);
                Err(Arc::new(error))
            }
        }
    }
}

impl Reads {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Read>> {
        self.0.lock().expect("no panic while held")
    }

    /// Take up how a call has ended at `now`.
    fn end(&self, id: &str, answer: &Answer, now: Instant) {
        let mut reads = self.lock();
        let Err(error) = answer else {
            reads.remove(id);
            return;
        };
        let read = reads.entry(id.to_owned()).or_default();
        read.running = None;
        if is_about_one(error) {
            let before = read.refused.take().filter(|refused| now < refused.until + FORGOTTEN);
            let times = before.map_or(1, |refused| refused.times.saturating_add(1));
            let until = now + growing(times, REFUSED_FIRST, REFUSED_LONGEST);
            read.refused = Some(Refused { error: Arc::clone(error), until, times });
        }
    }
}

impl Read {
    /// The call under way; one whose task has died is none.
    fn running(&self) -> Option<Running> {
        self.running.clone().filter(|running| running.done.has_changed().is_ok())
    }
}

/// Whether the hub has answered, about this module.
fn is_about_one(error: &Error) -> bool {
    let kind = error.failure_kind();
    kind.is_some_and(|kind| !concerns_all(kind) && !kind.is_transient()) && !is_unknown_device(error)
}

/// Forget what is of no use, if there is much.
fn make_room(reads: &mut BTreeMap<String, Read>, now: Instant) {
    if reads.len() < MANY {
        return;
    }
    let is_of_use = |read: &Read| read.refused.as_ref().is_some_and(|refused| now < refused.until);
    reads.retain(|_, read| read.running().is_some() || is_of_use(read));
    if reads.len() >= MANY {
        reads.retain(|_, read| read.running().is_some());
    }
}

/// How long a reader waits while nothing is known to be wrong.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// How long a module that the hub does not know is not asked for again, at first and in the end.
const REFUSED_FIRST: Duration = Duration::from_secs(2);
const REFUSED_LONGEST: Duration = Duration::from_secs(30);
/// After so much more time nobody remembers that it was refused before.
const FORGOTTEN: Duration = Duration::from_secs(60);
const MANY: usize = 1000;

#[cfg(test)]
mod tests {
    use http_common::StatusCode;
    use http_common::https::CloudFailure;
    use http_common::retry::FailureKind;

    use super::*;

    fn refusal(kind: FailureKind, text: &str) -> Arc<Error> {
        let failure = CloudFailure { kind, ..CloudFailure::invalid(StatusCode::NOT_FOUND, text) };
        Arc::new(hub_client::Error::from(failure).into())
    }

    #[test]
    fn a_module_that_the_hub_does_not_know_is_asked_for_less_and_less() {
        let (reads, start) = (Reads::default(), Instant::now());
        let absent = refusal(FailureKind::NotFound, "ModuleNotFound");
        let mut asked = Vec::new();
        for second in (0..100).chain([300, 301, 302]) {
            let now = start + Duration::from_secs(second);
            let known = reads.lock().get("m").and_then(|read| read.refused.clone());
            if known.is_none_or(|refused| refused.until <= now) {
                asked.push(second);
                reads.end("m", &Err(Arc::clone(&absent)), now);
            }
        }
        assert_eq!(asked, [0, 2, 6, 14, 30, 60, 90, 300, 302], "and long ago is forgotten");
        reads.end("m", &Err(refusal(FailureKind::Unauthorized, "")), start);
        assert!(reads.lock()["m"].refused.as_ref().is_some(), "what concerns all is no news of this one");
    }

    #[test]
    fn what_is_about_one_module() {
        for (kind, text, expected) in [
            (FailureKind::NotFound, "ModuleNotFound", true),
            (FailureKind::NotFound, "", true),
            (FailureKind::NotFound, "404001: DeviceNotFound", false),
            (FailureKind::Rejected, "", true),
            (FailureKind::Invalid, "", true),
            (FailureKind::Unauthorized, "", false),
            (FailureKind::Server { retry_after: None }, "", false),
            (FailureKind::Network, "", false),
        ] {
            assert_eq!(is_about_one(&refusal(kind, text)), expected, "{kind:?} {text:?}");
        }
        assert!(!is_about_one(&Error::Unfinished));
    }

    #[test]
    fn a_thousand_names_are_enough() {
        let (reads, start) = (Reads::default(), Instant::now());
        let absent = refusal(FailureKind::NotFound, "");
        for number in 0..3 * MANY {
            make_room(&mut reads.lock(), start);
            reads.end(&format!("m{number}"), &Err(Arc::clone(&absent)), start);
        }
        assert!(reads.lock().len() <= MANY);
    }
}
