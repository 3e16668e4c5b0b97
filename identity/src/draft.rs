//! The handlers of the draft API: each is today's handler, asked in today's words and answered in those of the draft. Only
//! a creation may say more than today's. Does not know what anybody may do.

use http_common::{Peer, Serve, chain};
use identity_api::{
    AziotIdentity, DeleteModule, GetDevice, GetIdentity, GetModule, Identity, ListModules, Reprovision, draft,
};

use crate::module_id::ModuleId;
use crate::{Error, Identityd};

impl Serve<draft::GetIdentity> for Identityd {
    async fn serve(&self, peer: Peer, _: draft::GetIdentity) -> Result<draft::Identity, Error> {
        in_draft(self.serve(peer, GetIdentity {}).await?)
    }
}

impl Serve<draft::GetDevice> for Identityd {
    async fn serve(&self, peer: Peer, _: draft::GetDevice) -> Result<draft::Identity, Error> {
        in_draft(self.serve(peer, GetDevice { r#type: AZIOT.to_owned() }).await?)
    }
}

impl Serve<draft::Reprovision> for Identityd {
    async fn serve(&self, peer: Peer, _: draft::Reprovision) -> Result<draft::Reprovisioned, Error> {
        self.serve(peer, Reprovision {}).await?;
        Ok(draft::Reprovisioned {})
    }
}

impl Serve<draft::ListModules> for Identityd {
    /// Unlike today's list, the draft's says how each module proves who it is. One whose key cannot be had stands there without:
    /// it keeps no other out of the list.
    async fn serve(&self, peer: Peer, _: draft::ListModules) -> Result<draft::ModuleList, Error> {
        let list = self.serve(peer, ListModules { r#type: aziot() }).await?;
        let mut identities = Vec::with_capacity(list.identities.len());
        for identity in list.identities {
            let mut identity = of_hub(identity)?;
            // Certificates are made for those who ask for one module.
            if let (Some(module), Some(generation)) = (&identity.module_id, &identity.gen_id)
                && !self.module_credentials.is_certified(module)
            {
                match self.module_credentials.key(module, generation).await {
                    Ok(auth) => identity.auth = Some(auth),
                    Err(error) => {
                        tracing::warn!("{module:?} is listed without its key: {}", chain(&error));
                    }
                }
            }
            identities.push(identity.into());
        }
        Ok(draft::ModuleList { identities })
    }
}

impl Serve<draft::CreateModule> for Identityd {
    async fn serve(&self, peer: Peer, request: draft::CreateModule) -> Result<draft::Identity, Error> {
        self.settings().principals.caller(&peer).manage("create modules")?;
        let draft::CreateModule { r#type, name, deviceid, managed_by } = request;
        if let Some(given) = r#type.filter(|given| given != AZIOT) {
            return Err(Error::BadType { expected: AZIOT, given });
        }
        let (id, device) = (ModuleId::parse(&name)?, self.device_now()?);
        let ours = &device.record.device_id;
        if let Some(given) = deviceid.filter(|given| given != ours) {
            return Err(Error::OtherDevice { given, ours: ours.clone() });
        }
        let (module, auth) = device.modules.create(&id, managed_by, &self.module_credentials).await?;
        in_draft(device.module_identity(&module, Some(auth)))
    }
}

impl Serve<draft::GetModule> for Identityd {
    async fn serve(&self, peer: Peer, request: draft::GetModule) -> Result<draft::Identity, Error> {
        in_draft(self.serve(peer, GetModule { id: request.id, r#type: aziot() }).await?)
    }
}

impl Serve<draft::DeleteModule> for Identityd {
    async fn serve(&self, peer: Peer, request: draft::DeleteModule) -> Result<(), Error> {
        self.serve(peer, DeleteModule { id: request.id, r#type: aziot() }).await
    }
}

fn in_draft(identity: Identity) -> Result<draft::Identity, Error> {
    of_hub(identity).map(draft::Identity::from)
}

/// The identity, which is one of a hub where one of a hub was asked for.
fn of_hub(identity: Identity) -> Result<AziotIdentity, Error> {
    match identity {
        Identity::Aziot(identity) => Ok(identity),
        Identity::Local(_) => Err(Error::BadType { expected: AZIOT, given: "local".to_owned() }),
    }
}

fn aziot() -> Option<String> {
    Some(AZIOT.to_owned())
}

const AZIOT: &str = "aziot";
