//! Brings the hub's modules in line with the principals (spec identity-service, 8.5, with its improvements): what is there
//! is adopted, never deleted and made again, and one module's failure is nobody else's.
//!
//! [`plan`] decides from values alone; [`carry_out`] acts, on several modules at a time, fewer when the hub throttles. What is
//! ours to delete is what an earlier run recorded. A run that ends early, however that is, costs no module its generation: what
//! was made is found and adopted by the next one.

mod pace;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use http_common::retry::FailureKind;
use hub_client::Module;
use identity_api::config::{Config, IdType, NOBODY, Principal};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Error;
use crate::module_credentials::ModuleCredentials;
use crate::module_id::ModuleId;
use crate::modules::{self, Effort, Modules};

use pace::{Pace, Wave};

/// What to do about one module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Delete it: it is ours, and no principal wants it any more.
    Delete(String),
    /// Give it our keys; it keeps its generation and its twin.
    Adopt(Box<Module>),
    /// Give it our keys, though it is not ours to delete: its keys were derived from a master key that is lost.
    Rekey(Box<Module>),
    /// Make it.
    Create(String),
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The modules that are ours now.
    pub(crate) ours: BTreeSet<String>,
    /// What failed, by module.
    pub(crate) failures: Vec<(String, Error)>,
    /// The modules about which nothing was tried although there was something to do.
    pub(crate) untried: Vec<String>,
}

impl Outcome {
    /// The modules that are not as they should be.
    pub(crate) fn undone(&self) -> impl Iterator<Item = &String> {
        self.failures.iter().map(|(id, _)| id).chain(&self.untried)
    }

    /// The first failure, if all is not done.
    pub(crate) fn result(self) -> Result<(), Error> {
        match self.failures.into_iter().next() {
            Some((_, error)) => Err(error),
            None if self.untried.is_empty() => Ok(()),
            None => Err(Error::Unfinished),
        }
    }
}

/// How to get from the modules `at_hub` to those that are `wanted`, where those named in `ours` may be deleted. Those to
/// `repair`, if they are wanted, and those to `rekey` in any case get our keys once more.
pub(crate) fn plan(
    at_hub: &[Module],
    wanted: &BTreeSet<String>,
    ours: &BTreeSet<String>,
    repair: &BTreeSet<String>,
    rekey: &BTreeSet<String>,
) -> Vec<Step> {
    let (mut deletions, mut adoptions, mut missing) = (Vec::new(), Vec::new(), wanted.clone());
    for module in at_hub {
        let id = &module.module_id;
        match (missing.remove(id), ours.contains(id)) {
            (false, true) => deletions.push(Step::Delete(id.clone())),
            (false, false) if rekey.contains(id) => adoptions.push(Step::Rekey(Box::new(module.clone()))),
            (true, known) if !known || repair.contains(id) || rekey.contains(id) => {
                adoptions.push(Step::Adopt(Box::new(module.clone())));
            }
            _ => {}
        }
    }
    // Deletions come first: a hub takes only so many modules of one device.
    deletions.extend(adoptions);
    deletions.extend(missing.into_iter().map(Step::Create));
    deletions
}

/// Carry out `steps`, starting with the modules in `ours`. After a failure that concerns all, or the deadline, no further step
/// is begun.
pub(crate) async fn carry_out(
    steps: Vec<Step>,
    ours: BTreeSet<String>,
    modules: &Arc<Modules>,
    credentials: &Arc<ModuleCredentials>,
    deadline: Option<Instant>,
) -> Outcome {
    let (modules, credentials) = (Arc::clone(modules), Arc::clone(credentials));
    let outcome = Outcome { ours, ..Outcome::default() };
    let mut run = Run { modules, credentials, pace: Pace::new(), outcome, deadline, is_hopeless: false };
    // A hub takes only so many modules of one device, so that there must be room before there are new ones.
    let (deletions, others) = steps.into_iter().partition(|step| matches!(step, Step::Delete(_)));
    run.all(deletions).await;
    run.all(others).await;
    run.outcome
}

/// `config` as it is to be remembered when the modules `ours` are ours: principals whose module is not, not yet; modules
/// that should be gone and are not, still.
pub(crate) fn remembered(config: &Config, ours: &BTreeSet<String>) -> Config {
    let mut record = config.for_record();
    record.principal.retain(|principal| !principal.has(IdType::Module) || ours.contains(&principal.name));
    for name in ours {
        match record.principal.iter_mut().find(|principal| principal.name == *name) {
            Some(principal) if principal.has(IdType::Module) => {}
            Some(principal) => principal.id_types.get_or_insert_default().push(IdType::Module),
            None => {
                let id_types = Some(vec![IdType::Module]);
                let (who, name) = (NOBODY.into(), name.clone());
                record.principal.push(Principal { who, name, id_types, localid: None });
            }
        }
    }
    record
}

impl Step {
    fn module_id(&self) -> &str {
        match self {
            Self::Delete(id) | Self::Create(id) => id,
            Self::Adopt(module) | Self::Rekey(module) => &module.module_id,
        }
    }
}

/// Many steps on their way.
struct Run {
    modules: Arc<Modules>,
    credentials: Arc<ModuleCredentials>,
    pace: Pace,
    outcome: Outcome,
    deadline: Option<Instant>,
    /// Whether no further step is worth while.
    is_hopeless: bool,
}

/// What came of one step.
type Ended = (Step, Wave, Result<&'static str, Error>);

impl Run {
    /// Take all these steps, in any order.
    async fn all(&mut self, steps: Vec<Step>) {
        let (mut waiting, mut under_way) = (VecDeque::from(steps), JoinSet::new());
        let mut not_before = Instant::now();
        loop {
            self.is_hopeless |= self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            while !self.is_hopeless
                && not_before <= Instant::now()
                && under_way.len() < self.pace.at_once()
                && let Some(step) = waiting.pop_front()
            {
                under_way.spawn(self.begin(step));
            }
            match under_way.join_next().await {
                Some(Ok(ended)) => {
                    if let Some((step, pause)) = self.take_up(ended) {
                        waiting.push_back(step);
                        not_before = not_before.max(Instant::now() + pause);
                    }
                }
                Some(Err(error)) => tracing::error!("a step ended early, which is a bug: {error}"),
                None if self.is_hopeless => {
                    self.outcome.untried.extend(waiting.iter().map(|step| step.module_id().to_owned()));
                    return;
                }
                None if waiting.is_empty() => return,
                None => {
                    let next = self.deadline.map_or(not_before, |deadline| deadline.min(not_before));
                    tokio::time::sleep_until(next).await;
                }
            }
        }
    }

    fn begin(&self, step: Step) -> impl Future<Output = Ended> + Send + 'static {
        let (modules, credentials) = (Arc::clone(&self.modules), Arc::clone(&self.credentials));
        let wave = self.pace.wave();
        let effort = Effort::for_one_of_many(self.deadline);
        async move {
            let result = perform(&step, &modules, &credentials, effort).await;
            (step, wave, result)
        }
    }

    /// Take up what came of a step; it is returned with a pause if it is to be tried again.
    fn take_up(&mut self, (step, wave, result): Ended) -> Option<(Step, Duration)> {
        let id = step.module_id().to_owned();
        let error = match result {
            Ok(done) => {
                tracing::info!("module {id:?} {done}");
                self.pace.done();
                match step {
                    Step::Delete(_) => self.outcome.ours.remove(&id),
                    Step::Adopt(_) | Step::Create(_) => self.outcome.ours.insert(id),
                    Step::Rekey(_) => false,
                };
                return None;
            }
            Err(error) => error,
        };
        if let Some(FailureKind::Throttled { retry_after }) = error.failure_kind()
            && !self.is_hopeless
            && let Some(pause) = self.pace.throttled(wave, retry_after, fastrand::f64())
        {
            return Some((step, pause));
        }
        tracing::warn!("module {id:?}: {}", http_common::chain(&error));
        self.is_hopeless |= concerns_all(&error);
        if matches!(step, Step::Rekey(_)) && is_for_good(&error) {
            // The device is none the worse for it; whoever has made the module may update it.
            return None;
        }
        self.outcome.failures.push((id, error));
        None
    }
}

async fn perform(
    step: &Step,
    modules: &Modules,
    credentials: &ModuleCredentials,
    effort: Effort,
) -> Result<&'static str, Error> {
    match step {
        Step::Delete(id) => match modules.delete(&ModuleId::parse(id)?, credentials, effort).await {
            Ok(()) => Ok("is deleted, no principal has it any more"),
            Err(Error::NoSuchModule { .. }) => Ok("is gone already"),
            Err(error) => Err(error),
        },
        Step::Rekey(module) => match modules.give_credentials(module, credentials, effort).await {
            Ok(_) => Ok("has got new keys"),
            Err(Error::Hub(error)) if error.is_unknown_module() => {
                credentials.not_given(&module.module_id).await;
                Ok("is gone already")
            }
            Err(error) => Err(error),
        },
        Step::Adopt(module) => {
            modules.give_credentials(module, credentials, effort).await?;
            Ok("has got our keys, it existed already")
        }
        Step::Create(id) => {
            modules.establish(&ModuleId::parse(id)?, credentials, effort).await?;
            Ok("is there, with our keys")
        }
    }
}

/// Whether the other modules will fare no better.
fn concerns_all(error: &Error) -> bool {
    let is_away = |kind| matches!(kind, FailureKind::Network | FailureKind::Untrusted);
    let is_theirs = error.failure_kind().is_some_and(|kind| is_away(kind) || modules::concerns_all(kind));
    is_theirs || matches!(error, Error::ModuleKey(_))
}

/// Whether the hub refuses this change, and will the next time.
fn is_for_good(error: &Error) -> bool {
    matches!(error.failure_kind(), Some(FailureKind::Rejected | FailureKind::Precondition))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(id: &str) -> Module {
        let generation_id = Some("6".into());
        Module {
            module_id: id.into(),
            device_id: "d".into(),
            managed_by: None,
            generation_id,
            etag: None,
            auth_type: None,
        }
    }

    fn set(names: &str) -> BTreeSet<String> {
        names.split_whitespace().map(Into::into).collect()
    }

    fn check(at_hub: &str, wanted: &str, ours: &str, repair: &str, expected: &str) {
        check_rekey(at_hub, wanted, ours, (repair, ""), expected);
    }

    fn check_rekey(at_hub: &str, wanted: &str, ours: &str, (repair, rekey): (&str, &str), expected: &str) {
        let at_hub: Vec<_> = at_hub.split_whitespace().map(module).collect();
        let steps = plan(&at_hub, &set(wanted), &set(ours), &set(repair), &set(rekey));
        let texts = steps.iter().map(|step| match step {
            Step::Delete(id) => format!("-{id}"),
            Step::Adopt(module) => format!("={}", module.module_id),
            Step::Rekey(module) => format!("~{}", module.module_id),
            Step::Create(id) => format!("+{id}"),
        });
        let texts: Vec<_> = texts.collect();
        assert_eq!(texts.join(" "), expected, "hub {at_hub:?}, wanted {wanted}, ours {ours}");
    }

    #[test]
    fn plans() {
        // at the hub, wanted, ours before, to repair
        check("", "", "", "", "");
        check("", "b a", "", "", "+a +b");
        check("a", "a", "a", "", "");
        check("a", "a", "a", "a", "=a");
        check("a", "a", "", "", "=a"); // upstream deletes it and makes it again
        check("a", "", "a", "", "-a");
        check("a", "", "", "", ""); // not ours
        check("", "", "a", "", ""); // gone already
        check("", "a", "a", "", "+a");
        check("$edgeAgent z y x", "x n", "z x", "", "-z +n");
        check("$edgeAgent z y x", "y x n", "z x", "y x n", "-z =y =x +n");
        check("A", "a", "", "", "+a"); // names are case-sensitive
        check("a b", "a b", "a b", "b", "=b");
        check("a", "a", "a", "gone", "");
        check("a api x", "a", "a x", "a api x", "-x =a"); // what is left of a repair changes no module of others
        check_rekey("a api x y", "a", "a x", ("", "a api x"), "-x =a ~api"); // they have keys of a lost master
    }

    #[test]
    fn what_the_others_will_meet_too_ends_a_run() {
        let hub =
            |kind| Error::from(hub_client::Error::from(http_common::https::CloudFailure { kind, ..empty() }));
        for kind in [
            FailureKind::Forbidden,
            FailureKind::Server { retry_after: None },
            FailureKind::Credential,
            FailureKind::Unauthorized,
            FailureKind::Throttled { retry_after: None },
            FailureKind::Network,
        ] {
            assert!(concerns_all(&hub(kind)), "{kind:?}");
        }
        for kind in
            [FailureKind::Rejected, FailureKind::NotFound, FailureKind::Conflict, FailureKind::Invalid]
        {
            assert!(!concerns_all(&hub(kind)), "{kind:?}");
        }
    }

    fn empty() -> http_common::https::CloudFailure {
        http_common::https::CloudFailure::invalid(http_common::StatusCode::OK, "x")
    }

    fn config(principals: &str) -> Config {
        let text = "hostname = 'h'\nhomedir = '/x'\n[provisioning]\nsource = 'manual'\niothub_hostname = 'h'\n\
            device_id = 'd'\nauthentication = { method = 'sas', device_id_pk = 'k' }\n[localid]\ndomain = 'x'\n";
        toml::from_str(&format!("{text}{principals}")).unwrap()
    }

    #[test]
    fn what_is_remembered_says_what_is_ours() {
        let config = config(
            "[[principal]]\nuid = 1\nname = 'done'\nidtype = ['module']\n[[principal]]\nuid = 2\nname = 'failed'\nidtype = ['module']\n\
             [[principal]]\nuid = 3\nname = 'manager'\n[[principal]]\nuid = 4\nname = 'was-module'\nidtype = ['local']",
        );
        let remembered = remembered(&config, &set("done undeleted was-module"));
        assert_eq!(remembered.check(), Ok(()));
        let principals = crate::authz::Principals::new(&remembered.principal);
        assert_eq!(principals.modules(), &set("done undeleted was-module"));
        assert_eq!(remembered.principal.len(), 4);
    }
}
