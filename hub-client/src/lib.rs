//! Keeps the module identities of one device in the registry of its IoT Hub.
//!
//! Does not know who signs (a `Signer` behind [`Credentials`] does), where module keys come from, or which modules
//! there should be. Connections, tokens and attempts are `http_common::https::Cloud`'s matter.

mod error;
mod schema;

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri};
use http_common::https::{Call, Cloud, CloudFailure, Credentials, Reply, path_segment};
use http_common::sas::{Scope, Signer};

pub use error::Error;
pub use schema::{AuthType, Module, ModuleCertificate, ModuleKeys};

use schema::{API_VERSION, ModuleBody};

/// A device that manages its own modules at its hub.
#[derive(Clone)]
pub struct HubClient<S> {
    cloud: Cloud,
    credentials: Credentials<S>,
    device: Device,
    scope: Scope,
}

/// Who manages modules, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// The hub's host name, with a port if it is not 443. Tokens name it also when a gateway is asked.
    pub hub: String,
    /// The parent gateway to ask instead of the hub, with a port if it is not 443. An IPv6 address may be bare.
    pub gateway: Option<String>,
    /// The device's name at the hub.
    pub device_id: String,
}

/// Which state of a module may be overwritten or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IfMatch {
    /// Any.
    Any,
    /// Only the one with this etag; otherwise the failure's kind is `Precondition`.
    Etag(String),
}

/// What a deletion found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The module is gone now.
    Removed,
    /// There was none.
    WasAbsent,
}

impl<S: Signer> HubClient<S> {
    /// A client for the modules of `device`.
    pub fn new(cloud: Cloud, device: Device, credentials: Credentials<S>) -> Self {
        let scope = Scope::hub(&device.hub, &device.device_id);
        Self { cloud, credentials, device, scope }
    }

    /// Whose modules these are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All modules of the device. Entries that cannot be understood are left out, with a warning.
    pub async fn list(&self, deadline: Instant) -> Result<Vec<Module>, Error> {
        let reply = self.call(Method::GET, None, None, None, &[StatusCode::OK], deadline).await?;
        schema::modules(&reply)
    }

    /// One module.
    pub async fn get(&self, module_id: &str, deadline: Instant) -> Result<Module, Error> {
        let reply = self.call(Method::GET, Some(module_id), None, None, &[StatusCode::OK], deadline).await?;
        self.module(module_id, &reply)
    }

    /// A new module; the hub makes keys and a generation id for it. Kind `Conflict` if it exists.
    pub async fn create(&self, module_id: &str, deadline: Instant) -> Result<Module, Error> {
        let body = ModuleBody::new(module_id, &self.device.device_id);
        self.put(module_id, &body, None, deadline).await
    }

    /// Give `module`, as read from the hub, these keys. What else the hub knows of it stays: `managedBy` is sent back.
    pub async fn set_keys(
        &self,
        module: &Module,
        keys: &ModuleKeys,
        if_match: &IfMatch,
        deadline: Instant,
    ) -> Result<Module, Error> {
        let body = ModuleBody::with_keys(module, &self.device.device_id, keys);
        self.put(&module.module_id, &body, Some(if_match), deadline).await
    }

    /// Let `module`, as read from the hub, prove itself by this certificate from now on. What else the hub knows of it stays.
    pub async fn set_certificate(
        &self,
        module: &Module,
        certificate: &ModuleCertificate,
        if_match: &IfMatch,
        deadline: Instant,
    ) -> Result<Module, Error> {
        let body = ModuleBody::with_certificate(module, &self.device.device_id, certificate);
        self.put(&module.module_id, &body, Some(if_match), deadline).await
    }

    /// Let `module`, as read from the hub, prove itself by either of two certificates, by their thumbprints: the `next` one, and
    /// the one that is in use until `now`. What else the hub knows of it stays.
    pub async fn set_thumbprints(
        &self,
        module: &Module,
        next: &str,
        now: &str,
        if_match: &IfMatch,
        deadline: Instant,
    ) -> Result<Module, Error> {
        let body = ModuleBody::with_thumbprints(module, &self.device.device_id, next, now);
        self.put(&module.module_id, &body, Some(if_match), deadline).await
    }

    /// Remove a module. That there is none is no failure.
    pub async fn delete(
        &self,
        module_id: &str,
        if_match: &IfMatch,
        deadline: Instant,
    ) -> Result<Deleted, Error> {
        let accept = [StatusCode::NO_CONTENT, StatusCode::OK];
        match self.call(Method::DELETE, Some(module_id), Some(if_match), None, &accept, deadline).await {
            Ok(_) => Ok(Deleted::Removed),
            Err(err) if err.is_not_found() && !err.is_unknown_device() => Ok(Deleted::WasAbsent),
            Err(err) => Err(err),
        }
    }

    async fn put(
        &self,
        module_id: &str,
        body: &ModuleBody<'_>,
        if_match: Option<&IfMatch>,
        deadline: Instant,
    ) -> Result<Module, Error> {
        let body = Some(body.to_json());
        let accept = [StatusCode::OK, StatusCode::CREATED];
        let reply = self.call(Method::PUT, Some(module_id), if_match, body, &accept, deadline).await?;
        self.module(module_id, &reply)
    }

    /// The module in an answer, which must be the one that was asked for.
    fn module(&self, module_id: &str, reply: &Reply) -> Result<Module, Error> {
        let module: Module = reply.json()?;
        // The device's name may have been configured otherwise than the hub writes it.
        if module.module_id == module_id && module.device_id.eq_ignore_ascii_case(&self.device.device_id) {
            return Ok(module);
        }
        let Module { module_id: other, device_id, .. } = module;
        let what =
            format!("asked for the module {module_id:?}, and told of {other:?} of the device {device_id:?}");
        Err(CloudFailure::invalid(reply.status, what).into())
    }

    async fn call(
        &self,
        method: Method,
        module_id: Option<&str>,
        if_match: Option<&IfMatch>,
        body: Option<Bytes>,
        accept: &[StatusCode],
        deadline: Instant,
    ) -> Result<Reply, Error> {
        let uri = self.device.uri(module_id)?;
        let if_match = if_match.map(IfMatch::header).transpose()?;
        let call = Call { method, uri, if_match, body, scope: &self.scope, accept };
        Ok(self.cloud.call(&call, &self.credentials, deadline).await?)
    }
}

impl Device {
    /// Who is asked for its modules, as it stands in URLs: host, and port if one was given.
    pub fn server(&self) -> Cow<'_, str> {
        in_url(self.gateway.as_deref().unwrap_or(&self.hub))
    }

    /// The URL of the device's modules or of one of them.
    fn uri(&self, module_id: Option<&str>) -> Result<Uri, Error> {
        let host = self.server();
        let device = path_segment(&self.device_id);
        let module = match module_id {
            None => String::new(),
            Some(id) if is_module_id(id) => format!("/{}", path_segment(id)),
            Some(id) => return Err(Error::BadModuleId { id: id.to_owned() }),
        };
        format!("https://{host}/devices/{device}/modules{module}?api-version={API_VERSION}")
            .parse()
            .map_err(|_| Error::BadHost { host: host.into_owned() })
    }
}

impl IfMatch {
    fn header(&self) -> Result<HeaderValue, Error> {
        match self {
            Self::Any => Ok(HeaderValue::from_static("*")),
            Self::Etag(etag) => HeaderValue::from_str(&format!("\"{}\"", etag.trim_matches('"')))
                .map_err(|_| Error::BadEtag { etag: etag.clone() }),
        }
    }
}

/// What no hub takes must not become part of a path.
fn is_module_id(id: &str) -> bool {
    let dots = id.bytes().all(|byte| byte == b'.');
    !dots && id.chars().count() <= MODULE_ID_LIMIT && !id.chars().any(|c| c == '/' || c.is_control())
}

/// `host` as it stands in a URL: an IPv6 address needs brackets there.
fn in_url(host: &str) -> Cow<'_, str> {
    match host.parse::<Ipv6Addr>() {
        Ok(_) => format!("[{host}]").into(),
        Err(_) => host.into(),
    }
}

const MODULE_ID_LIMIT: usize = 128;

#[cfg(test)]
#[path = "../../http-common/src/https/test_server.rs"]
mod test_server;
#[cfg(test)]
mod tests;
