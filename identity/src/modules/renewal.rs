//! The certificate of a module is made anew before its time is over, while the one before it is in use: nobody who reads waits
//! for it. Knows not when it is due.
//!
//! The hub is told of the new one first, and knows both until the new one is in use, so that the module is believed at any time.

use std::sync::Arc;
use std::time::Instant;

use http_common::chain;
use hub_client::IfMatch;

use super::changes::CHANGE_LIMIT;
use super::{Asked, Modules};
use crate::Error;
use crate::module_credentials::ModuleCredentials;
use crate::records::ModuleRecord;

impl Modules {
    /// Have the certificate of `module` made anew in the background, if that is due and may begin.
    pub(crate) fn keep_valid(
        self: &Arc<Self>,
        ModuleRecord { module_id, device_id, .. }: &ModuleRecord,
        credentials: &Arc<ModuleCredentials>,
    ) {
        let Some(under_way) = credentials.begin_renewal(module_id, Instant::now()) else { return };
        let (modules, credentials) = (Arc::clone(self), Arc::clone(credentials));
        let (id, device_id) = (module_id.clone(), device_id.clone());
        tokio::spawn(async move {
            match modules.renew(&device_id, &id, &credentials).await {
                Ok(()) => {
                    tracing::info!("the certificate of the module {id:?} was renewed");
                    under_way.succeeded();
                }
                Err(error) => {
                    tracing::warn!("the certificate of the module {id:?} is not renewed: {}", chain(&error));
                }
            }
        });
    }

    async fn renew(&self, device_id: &str, id: &str, credentials: &ModuleCredentials) -> Result<(), Error> {
        let new = credentials.prepare(device_id, id).await?;
        let Some((now, next)) = &new.thumbprints else {
            return credentials.exchange(id, &new).await;
        };
        let (hub, deadline) = (self.hub().await?, Instant::now() + CHANGE_LIMIT);
        let found = self.noted(Asked::Read, hub.get(id, deadline).await)?;
        let told = hub.set_thumbprints(&found, next, now, &IfMatch::Any, deadline).await;
        let module = self.noted(Asked::Change, told)?;
        credentials.exchange(id, &new).await?;
        self.see(&module).await;
        Ok(())
    }
}
