//! The handlers: authorize, call once, reply.

use http_common::{Handlers, Peer, Serve};
use identity_api::{
    CreateModule, DeleteModule, GetDevice, GetIdentity, GetModule, GetProvisioning, GetTrustBundle, Identity,
    ListModules, ModuleList, Provisioning, Reprovision, TrustBundle, UpdateModule,
};

use crate::authz::Own;
use crate::kind::Kind;
use crate::module_id::ModuleId;
use crate::modules::Effort;
use crate::{Error, Identityd, Settings, local, provision};

impl Handlers for Identityd {
    type Error = Error;
}

impl Serve<GetIdentity> for Identityd {
    async fn serve(&self, peer: Peer, _: GetIdentity) -> Result<Identity, Error> {
        let uid = peer.uid;
        let own = self.settings().principals.caller(&peer).own_identity()?;
        match own {
            Own::Device => self.device_identity(uid).await,
            Own::Module(name) => {
                let id = ModuleId::parse(&name)?;
                let device = self.device_or_wait(uid).await?;
                self.module_identity(uid, &device, &id).await
            }
        }
    }
}

impl Serve<GetDevice> for Identityd {
    async fn serve(&self, peer: Peer, _: GetDevice) -> Result<Identity, Error> {
        let uid = peer.uid;
        self.settings().principals.caller(&peer).device()?;
        self.device_identity(uid).await
    }
}

impl Serve<Reprovision> for Identityd {
    async fn serve(&self, peer: Peer, _: Reprovision) -> Result<(), Error> {
        self.settings().principals.caller(&peer).manage("have the device registered again")?;
        self.reprovision().await
    }
}

impl Serve<ListModules> for Identityd {
    async fn serve(&self, peer: Peer, request: ListModules) -> Result<ModuleList, Error> {
        let settings = self.settings();
        settings.principals.caller(&peer).manage("list modules")?;
        Kind::only_aziot(request.r#type.as_deref())?;
        let device = self.device_now()?;
        let modules = device.modules.list(settings.config.prefer_module_identity_cache).await;
        let identities = modules.iter().map(|module| device.module_identity(module, None)).collect();
        Ok(ModuleList { identities })
    }
}

impl Serve<CreateModule> for Identityd {
    async fn serve(&self, peer: Peer, request: CreateModule) -> Result<Identity, Error> {
        let settings = self.settings();
        settings.principals.caller(&peer).manage("create modules")?;
        let CreateModule { r#type, module_id: id, local_id_opts } = request;
        if Kind::of(Some(&r#type))? == Kind::Local {
            let options = local_id_opts.unwrap_or_default();
            let Settings { config, principals, .. } = &*settings;
            return local::of_other(config, principals, &id, options, &self.services.workshop).await;
        }
        let (id, device) = (ModuleId::parse(&id)?, self.device_now()?);
        let (module, auth) = device.modules.create(&id, None, &self.module_credentials).await?;
        Ok(device.module_identity(&module, Some(auth)))
    }
}

impl Serve<GetModule> for Identityd {
    async fn serve(&self, peer: Peer, GetModule { id, r#type }: GetModule) -> Result<Identity, Error> {
        let (uid, settings) = (peer.uid, self.settings());
        let kind = Kind::of(r#type.as_deref());
        settings.principals.caller(&peer).module(&id, kind.as_ref().ok().copied())?;
        match kind? {
            Kind::Local => {
                let Settings { config, principals, .. } = &*settings;
                local::of_principal(config, principals, &id, &self.services.workshop).await
            }
            Kind::Aziot => {
                let (id, device) = (ModuleId::parse(&id)?, self.device_now()?);
                self.module_identity(uid, &device, &id).await
            }
        }
    }
}

impl Serve<UpdateModule> for Identityd {
    async fn serve(&self, peer: Peer, UpdateModule { id, r#type }: UpdateModule) -> Result<Identity, Error> {
        self.settings().principals.caller(&peer).manage("update modules")?;
        Kind::only_aziot(r#type.as_deref())?;
        let (id, device) = (ModuleId::parse(&id)?, self.device_now()?);
        let (module, auth) = device.modules.update(&id, &self.module_credentials).await?;
        Ok(device.module_identity(&module, Some(auth)))
    }
}

impl Serve<DeleteModule> for Identityd {
    async fn serve(&self, peer: Peer, DeleteModule { id, r#type }: DeleteModule) -> Result<(), Error> {
        self.settings().principals.caller(&peer).manage("delete modules")?;
        Kind::only_aziot(r#type.as_deref())?;
        let (id, device) = (ModuleId::parse(&id)?, self.device_now()?);
        device.modules.delete(&id, &self.module_credentials, Effort::for_caller()).await
    }
}

impl Serve<GetProvisioning> for Identityd {
    async fn serve(&self, _: Peer, _: GetProvisioning) -> Result<Provisioning, Error> {
        provision::info(&self.settings().config.provisioning, &self.services.workshop).await
    }
}

impl Serve<GetTrustBundle> for Identityd {
    async fn serve(&self, _: Peer, _: GetTrustBundle) -> Result<TrustBundle, Error> {
        self.trust_bundle().await
    }
}
