//! The contract of the Identity Service: its endpoints, its requests and replies, its configuration file. Types only: no
//! I/O, no cryptography.
//!
//! The table below *is* the list of routes, the client and the OpenAPI document. The bodies do not depend on the version
//! (spec identity-service, chapters 3 to 5); `/identities/provisioning` came with the second one. The rows of `draft` are the
//! form that was published before the first version (chapter 17).

pub mod config;
pub mod draft;
mod types;

pub use config::Config;
pub use types::{
    Auth, AziotIdentity, CreateModule, DeleteModule, DpsAuth, GetDevice, GetIdentity, GetModule,
    GetProvisioning, GetTrustBundle, Identity, ListModules, LocalAuth, LocalIdOpts, LocalIdentity, LocalUse,
    ManualAuth, ModuleList, Provisioning, Reprovision, TrustBundle, UpdateModule,
};

http_common::endpoints! {
    /// The Identity Service: who this device and its modules are.
    IdentitiesApi "identityd" ["2020-07-01-preview", "2020-09-01", "2021-12-01", "2022-08-01"];
    GET    "/identities/identity"           since "2020-09-01"  GetIdentity     -> OK Identity;
    POST   "/identities/device"             since "2020-09-01"  GetDevice       -> OK Identity;
    POST   "/identities/device/reprovision" since "2020-09-01"  Reprovision     -> NO_CONTENT ();
    GET    "/identities/modules?type"       since "2020-09-01"  ListModules     -> OK ModuleList;
    POST   "/identities/modules"            since "2020-09-01"  CreateModule    -> OK Identity;
    GET    "/identities/modules/{id}?type"  since "2020-09-01"  GetModule       -> OK Identity;
    PUT    "/identities/modules/{id}?type"  since "2020-09-01"  UpdateModule    -> OK Identity;
    DELETE "/identities/modules/{id}?type"  since "2020-09-01"  DeleteModule    -> NO_CONTENT ();
    GET    "/identities/provisioning"       since "2021-12-01"  GetProvisioning -> OK Provisioning;
    GET    "/trust-bundle"                  since "2020-09-01"  GetTrustBundle  -> OK TrustBundle;
    GET    "/identities/identity"           only "2020-07-01-preview" draft::GetIdentity  -> OK draft::Identity;
    GET    "/identities/device"             only "2020-07-01-preview" draft::GetDevice    -> OK draft::Identity;
    POST   "/identities/device/reprovision" only "2020-07-01-preview" draft::Reprovision  -> OK draft::Reprovisioned;
    GET    "/identities/modules"            only "2020-07-01-preview" draft::ListModules  -> OK draft::ModuleList;
    POST   "/identities/modules"            only "2020-07-01-preview" draft::CreateModule -> OK draft::Identity;
    GET    "/identities/modules/{id}"       only "2020-07-01-preview" draft::GetModule    -> OK draft::Identity;
    DELETE "/identities/modules/{id}"       only "2020-07-01-preview" draft::DeleteModule -> NO_CONTENT ();
}

#[cfg(test)]
mod tests;
