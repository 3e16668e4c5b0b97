//! Changes of modules at the hub: what callers ask for, and what bringing the modules in line needs. Knows not why.

use std::time::{Duration, Instant};

use http_common::chain;
use http_common::retry::FailureKind;
use hub_client::{Deleted, IfMatch, Module};
use identity_api::Auth;

use super::Modules;
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
}

impl Effort {
    /// For a caller who waits.
    pub(crate) fn for_caller() -> Self {
        Self { deadline: Instant::now() + CHANGE_LIMIT, repeat: Repeat::AsConfigured }
    }

    /// For one of many changes, of which fewer are to be made at a time when the hub throttles, and which have a deadline if
    /// somebody waits for them.
    pub(crate) fn for_one_of_many(deadline: Option<tokio::time::Instant>) -> Self {
        let own = Instant::now() + CHANGE_LIMIT;
        let deadline = deadline.map_or(own, |deadline| own.min(deadline.into()));
        Self { deadline, repeat: Repeat::UnlessThrottled }
    }
}

impl Modules {
    /// A new module with keys of ours, and a manager if one is named. If it cannot be given them it is removed again.
    pub(crate) async fn create(
        &self,
        id: &ModuleId,
        managed_by: Option<String>,
        credentials: &ModuleCredentials,
    ) -> Result<(ModuleRecord, Auth), Error> {
        credentials.ensure(&self.device.device_id, id.as_str()).await?;
        let effort = Effort::for_caller();
        let created = self.make(id, effort).await?;
        let managed_by = managed_by.or_else(|| created.managed_by.clone());
        let created = Module { managed_by, ..created };
        match self.give_credentials(&created, credentials, effort).await {
            Ok(module) => Ok(module),
            Err(error) => {
                self.undo(&created).await;
                Err(error)
            }
        }
    }

    /// Our keys for a module that exists, under whichever keys it has now.
    pub(crate) async fn update(
        &self,
        id: &ModuleId,
        credentials: &ModuleCredentials,
    ) -> Result<(ModuleRecord, Auth), Error> {
        let effort = Effort::for_caller();
        let module = self.hub().await?.get(id.as_str(), effort.deadline).await?;
        self.give_credentials(&module, credentials, effort).await
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
            Err(Error::ModuleExists { .. }) => {
                self.hub_with(effort.repeat).await?.get(id.as_str(), effort.deadline).await?
            }
            made => made?,
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
        let hub = self.hub_with(effort.repeat).await?;
        let deleted = hub.delete(id.as_str(), &IfMatch::Any, effort.deadline).await?;
        self.records.forget(id.as_str()).await;
        self.certified().remove(id.as_str());
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
        Effort { deadline, repeat }: Effort,
    ) -> Result<(ModuleRecord, Auth), Error> {
        let Granted { for_hub, auth } = credentials.grant(module).await?;
        let hub = self.hub_with(repeat).await?;
        let module = match for_hub {
            ForHub::Keys(keys) => hub.set_keys(module, &keys, &IfMatch::Any, deadline).await?,
            ForHub::Certificate(certificate) => {
                let module = hub.set_certificate(module, &certificate, &IfMatch::Any, deadline).await?;
                self.certified().insert(module.module_id.clone(), certificate);
                module
            }
        };
        self.records.see(&module).await;
        Ok((ModuleRecord::from(&module), auth))
    }

    /// A module with keys of the hub. When an answer was lost, the hub may say next that there is one: ours.
    async fn make(&self, id: &ModuleId, Effort { deadline, repeat }: Effort) -> Result<Module, Error> {
        let hub = self.hub_with(repeat).await?;
        match hub.create(id.as_str(), deadline).await {
            Err(error) if error.kind() == FailureKind::Conflict => match error.is_after_unheard() {
                true => Ok(hub.get(id.as_str(), deadline).await?),
                false => Err(Error::ModuleExists { id: id.as_str().to_owned() }),
            },
            made => Ok(made?),
        }
    }

    /// Remove a module that did not get its keys.
    async fn undo(&self, module: &Module) {
        let id = &module.module_id;
        let deleted = match self.hub().await {
            Ok(hub) => hub.delete(id, &IfMatch::Any, Instant::now() + UNDO_LIMIT).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        match deleted {
            Ok(_) => tracing::info!("the module {id:?} did not get its keys and was removed again"),
            Err(error) => tracing::warn!(
                "the module {id:?} has not got its keys and could not be removed; update or delete it: {}",
                chain(&error)
            ),
        }
    }
}

/// How long a caller waits for a change: less than the time-outs of known clients, long enough for one pause after 429.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(140);
const UNDO_LIMIT: Duration = Duration::from_secs(20);
