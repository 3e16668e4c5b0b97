//! Changes of modules at the hub: what callers ask for, and what bringing the modules in line needs. Knows not why.

use std::time::{Duration, Instant};

use http_common::chain;
use http_common::retry::FailureKind;
use hub_client::{Deleted, IfMatch, Module};
use identity_api::Auth;

use super::Modules;
use super::gate::Asked;
use crate::Error;
use crate::cloud::Repeat;
use crate::module_credentials::{ForHub, Granted, ModuleCredentials};
use crate::module_id::ModuleId;
use crate::records::ModuleRecord;

/// How long a change is tried, and what is repeated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    deadline: Instant,
    repeat: Repeat,
    /// Whether it is in vain while the hub refuses all.
    heeds_refusals: bool,
}

impl Effort {
    /// For a caller who waits.
    pub(crate) fn for_caller() -> Self {
        let deadline = Instant::now() + CHANGE_LIMIT;
        Self { deadline, repeat: Repeat::AsConfigured, heeds_refusals: true }
    }

    /// For one of many changes, of which fewer are to be made at a time when the hub throttles, and which have a deadline if
    /// somebody waits for them.
    pub(crate) fn for_one_of_many(deadline: Option<tokio::time::Instant>) -> Self {
        let own = Instant::now() + CHANGE_LIMIT;
        let deadline = deadline.map_or(own, |deadline| own.min(deadline.into()));
        Self { deadline, repeat: Repeat::UnlessThrottled, heeds_refusals: false }
    }

    /// For what is left to do when a change has begun.
    fn going_on(self) -> Self {
        Self { repeat: Repeat::GoingOn, ..self }
    }
}

impl Modules {
    /// A new module with keys of ours, and a manager if one is named. If it cannot be given them it is removed again, unless it
    /// may be somebody else's.
    pub(crate) async fn create(
        &self,
        id: &ModuleId,
        managed_by: Option<String>,
        credentials: &ModuleCredentials,
    ) -> Result<(ModuleRecord, Auth), Error> {
        credentials.ensure(&self.device.device_id, id.as_str()).await?;
        let effort = Effort::for_caller();
        self.may_change(effort)?;
        let created = self.create_with(id, managed_by, credentials, effort).await;
        self.after_change(id, created).await
    }

    async fn create_with(
        &self,
        id: &ModuleId,
        managed_by: Option<String>,
        credentials: &ModuleCredentials,
        effort: Effort,
    ) -> Result<(ModuleRecord, Auth), Error> {
        let Made { module, is_ours } = self.make(id, effort).await?;
        let managed_by = managed_by.or_else(|| module.managed_by.clone());
        let module = Module { managed_by, ..module };
        let given = self.give_credentials(&module, credentials, effort.going_on()).await;
        match &given {
            Err(_) if is_ours => self.undo(id.as_str(), credentials).await,
            Err(error) => warn_of_doubt(id, error),
            Ok(_) => {}
        }
        given
    }

    /// Our keys for a module that exists, under whichever keys it has now.
    pub(crate) async fn update(
        &self,
        id: &ModuleId,
        credentials: &ModuleCredentials,
    ) -> Result<(ModuleRecord, Auth), Error> {
        let effort = Effort::for_caller();
        self.may_change(effort)?;
        let updated = match self.find(id, effort).await {
            Ok(module) => self.give_credentials(&module, credentials, effort).await,
            Err(error) => Err(error),
        };
        self.after_change(id, updated).await
    }

    /// A module with keys of ours, made if there is none. One that gets no keys stays, with its generation, and gets them
    /// from whoever tries again.
    pub(crate) async fn establish(
        &self,
        id: &ModuleId,
        credentials: &ModuleCredentials,
        effort: Effort,
    ) -> Result<(), Error> {
        credentials.ensure(&self.device.device_id, id.as_str()).await?;
        let module = match self.make(id, effort).await {
            Err(Error::ModuleExists { .. }) => self.find(id, effort).await?,
            made => made?.module,
        };
        self.give_credentials(&module, credentials, effort).await.map(|_| ())
    }

    /// No such module any more.
    pub(crate) async fn delete(
        &self,
        id: &ModuleId,
        credentials: &ModuleCredentials,
        effort: Effort,
    ) -> Result<(), Error> {
        self.may_change(effort)?;
        let hub = self.hub_with(effort.repeat).await?;
        let deleted = hub.delete(id.as_str(), &IfMatch::Any, effort.deadline).await;
        let deleted = self.after_change(id, self.noted(Asked::Change, deleted)).await?;
        self.forget(id.as_str()).await;
        credentials.forget(id.as_str()).await;
        match deleted {
            Deleted::Removed => Ok(()),
            Deleted::WasAbsent => Err(Error::NoSuchModule { id: id.as_str().to_owned() }),
        }
    }

    /// Give `module`, as read from the hub, what it proves itself with.
    pub(crate) async fn give_credentials(
        &self,
        module: &Module,
        credentials: &ModuleCredentials,
        Effort { deadline, repeat, .. }: Effort,
    ) -> Result<(ModuleRecord, Auth), Error> {
        let Granted { for_hub, auth } = credentials.grant(module).await?;
        let hub = self.hub_with(repeat).await?;
        let (given, certificate) = match for_hub {
            ForHub::Keys(keys) => (hub.set_keys(module, &keys, &IfMatch::Any, deadline).await, None),
            ForHub::Certificate(certificate) => {
                let given = hub.set_certificate(module, &certificate, &IfMatch::Any, deadline).await;
                (given, Some(certificate))
            }
        };
        let module = self.noted(Asked::Change, given)?;
        self.see(&module).await;
        if let Some(certificate) = certificate {
            self.certified.set(&module.module_id, &[certificate]);
        }
        Ok((ModuleRecord::from(&module), auth))
    }

    /// Whether a change may be tried now.
    fn may_change(&self, effort: Effort) -> Result<(), Error> {
        match effort.heeds_refusals {
            true => self.gate().ask_to_change(Instant::now()).map_err(Error::Shared),
            false => Ok(()),
        }
    }

    /// Take up how a change of the module `id` has ended.
    async fn after_change<T>(&self, id: &ModuleId, result: Result<T, Error>) -> Result<T, Error> {
        match result {
            Err(Error::Hub(error)) if error.is_unknown_module() => {
                self.forget(id.as_str()).await;
                Err(Error::NoSuchModule { id: id.as_str().to_owned() })
            }
            Err(error) => {
                self.doubt_after(&error);
                Err(error)
            }
            Ok(done) => Ok(done),
        }
    }

    /// A module that exists.
    async fn find(&self, id: &ModuleId, Effort { deadline, repeat, .. }: Effort) -> Result<Module, Error> {
        let hub = self.hub_with(repeat).await?;
        self.noted(Asked::Read, hub.get(id.as_str(), deadline).await)
    }

    /// A module with keys of the hub. When an answer was lost, the hub may say next that there is one: ours, most likely.
    async fn make(&self, id: &ModuleId, effort: Effort) -> Result<Made, Error> {
        let hub = self.hub_with(effort.repeat).await?;
        match self.noted(Asked::Change, hub.create(id.as_str(), effort.deadline).await) {
            Ok(module) => Ok(Made { module, is_ours: true }),
            Err(Error::Hub(error)) if error.kind() == FailureKind::Conflict && error.is_after_unheard() => {
                let found = self.find(id, effort.going_on()).await;
                let module = found.inspect_err(|error| warn_of_doubt(id, error))?;
                Ok(Made { module, is_ours: false })
            }
            Err(Error::Hub(error)) if error.kind() == FailureKind::Conflict => {
                Err(Error::ModuleExists { id: id.as_str().to_owned() })
            }
            Err(error) => {
                // An answer that cannot be read may be the hub's, or that of anybody on the way.
                if error.failure_kind() == Some(FailureKind::Invalid) {
                    warn_of_doubt(id, &error);
                }
                Err(error)
            }
        }
    }

    /// Remove a module that did not get its keys.
    async fn undo(&self, id: &str, credentials: &ModuleCredentials) {
        let deleted = match self.hub_with(Repeat::GoingOn).await {
            Ok(hub) => hub.delete(id, &IfMatch::Any, Instant::now() + UNDO_LIMIT).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        self.outdate_list();
        match deleted {
            Ok(_) => {
                credentials.not_given(id).await;
                tracing::info!("the module {id:?} did not get its keys and was removed again");
            }
            Err(error) => tracing::warn!(
                "the module {id:?} has not got its keys and could not be removed; update or delete it: {}",
                chain(&error)
            ),
        }
    }
}

/// A module at the hub.
struct Made {
    module: Module,
    /// Whether the hub has said that it has made it for us.
    is_ours: bool,
}

/// Say that there may be a module that was to be made. It stays, for somebody else may have made it.
fn warn_of_doubt(id: &ModuleId, error: &Error) {
    tracing::warn!(
        "the module {:?} may have been made, and has not got its keys; if it is there, update or delete it: {}",
        id.as_str(),
        chain(error)
    );
}

/// How long a caller waits for a change: less than the time-outs of known clients, long enough for one pause after 429.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(140);
const UNDO_LIMIT: Duration = Duration::from_secs(20);
