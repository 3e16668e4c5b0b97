//! What modules prove themselves with: keys, as ever, or certificates where the configuration wants them (`[module_x509]`).
//! Knows no hub.

mod next;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use http_common::chain;
use hub_client::{Module, ModuleCertificate, ModuleKeys};
use identity_api::Auth;
use identity_api::config::{ModuleX509, Registration, Subject, module_certificate};
use openssl::sha::sha256;
use openssl::x509::X509;
use tokio::sync::Mutex as AsyncMutex;

use crate::Error;
use crate::csr;
use crate::module_keys::{Loss, MasterKey};
use crate::module_renewal::Renewals;
use crate::workshop::{CertificateError, Certified, Workshop};

/// Makes what modules prove themselves with.
pub(crate) struct ModuleCredentials {
    master: Arc<MasterKey>,
    workshop: Workshop,
    settings: RwLock<Option<Arc<ModuleX509>>>,
    turns: Turns,
    renewals: Renewals,
}

/// One at a time looks at, and perhaps makes, the certificate of a module. These locks guard no data.
type Turns = Mutex<HashMap<String, Arc<AsyncMutex<()>>>>;

/// For the hub and for the module.
pub(crate) struct Granted {
    /// What the hub has to know.
    pub(crate) for_hub: ForHub,
    /// What the module gets.
    pub(crate) auth: Auth,
}

/// What the hub has to know to believe a module.
pub(crate) enum ForHub {
    /// Its keys.
    Keys(ModuleKeys),
    /// Its certificate.
    Certificate(ModuleCertificate),
}

impl ModuleCredentials {
    /// By `master` and the services behind `workshop`. Asks nobody yet.
    pub(crate) fn new(master: MasterKey, workshop: Workshop, settings: Option<&ModuleX509>) -> Self {
        let master = Arc::new(master);
        let (none, turns, renewals) = <_>::default();
        let credentials = Self { master, workshop, settings: none, turns, renewals };
        credentials.take_up(settings);
        credentials
    }

    /// From now on, these modules have certificates.
    pub(crate) fn take_up(&self, settings: Option<&ModuleX509>) {
        *self.settings.write().expect("no panic while held") = settings.cloned().map(Arc::new);
    }

    /// Whether the module `id` has a certificate.
    pub(crate) fn is_certified(&self, id: &str) -> bool {
        self.settings_for(id).is_some()
    }

    /// See to it that the module `id` can be given something, before it is made.
    pub(crate) async fn ensure(&self, device_id: &str, id: &str) -> Result<(), Error> {
        match self.settings_for(id) {
            Some(settings) => common_name(device_id, id, settings.registration).map(drop),
            None => self.master.ensure().await.map_err(Error::ModuleKey),
        }
    }

    /// What `module`, which the hub has, proves itself with.
    pub(crate) async fn grant(&self, module: &Module) -> Result<Granted, Error> {
        let Module { module_id, device_id, generation_id, .. } = module;
        if self.is_certified(module_id) {
            let (certificate, auth) = self.certificate(device_id, module_id).await?;
            return Ok(Granted { for_hub: ForHub::Certificate(certificate), auth });
        }
        let no_generation = || Error::NoGenerationId { id: module_id.clone() };
        let generation = generation_id.as_deref().ok_or_else(no_generation)?;
        let keys = self.master.keys(module_id, generation).await.map_err(Error::ModuleKey)?;
        let auth = Auth::Sas { key_handle: keys.primary_handle };
        Ok(Granted { for_hub: ForHub::Keys(keys.for_hub), auth })
    }

    /// The key of generation `generation` of a module, which the hub knows since the module was made.
    pub(crate) async fn key(&self, module_id: &str, generation: &str) -> Result<Auth, Error> {
        let handle = self.master.primary_handle(module_id, generation).await;
        Ok(Auth::Sas { key_handle: handle.map_err(Error::ModuleKey)? })
    }

    /// Look whether the master key of the keys of modules is still the one that it was.
    pub(crate) async fn look_at_master(&self) {
        if let Err(error) = self.master.look().await {
            // Whoever needs a key meets it again.
            tracing::debug!("the master key cannot be looked at: {}", chain(&error));
        }
    }

    /// That the modules with keys need new ones at the hub, since the master key is another one.
    pub(crate) fn loss(&self) -> Option<Loss> {
        self.master.loss()
    }

    /// Somebody sees to it that modules get new keys for `loss`, if there is any; `all` have them.
    pub(crate) async fn mended(&self, loss: Option<Loss>, all: bool) {
        self.master.mended(loss, all).await;
    }

    /// The modules that have been given keys.
    pub(crate) fn given(&self) -> BTreeSet<String> {
        self.master.given()
    }

    /// Modules of another device are meant from now on.
    pub(crate) async fn forget_keys(&self) {
        self.master.forget_all().await;
    }

    /// The module `id`, which was to be given something, is not there any more.
    pub(crate) async fn not_given(&self, id: &str) {
        self.master.forget(id).await;
    }

    /// The certificate of a module, made if there is none or its time is over, and by what the hub shall know it.
    pub(crate) async fn certificate(
        &self,
        device_id: &str,
        module_id: &str,
    ) -> Result<(ModuleCertificate, Auth), Error> {
        let (registration, what) = self.certified(device_id, module_id)?;
        let turn = self.turn(module_id);
        let _turn = turn.lock().await;
        let identity = self.workshop.obtain(&what).await?;
        let handle = self.workshop.handle(&what.key_id).await;
        let failed = |source| CertificateError::Keyd { id: what.key_id.clone(), source };
        let auth = Auth::X509 { key_handle: handle.map_err(failed)?, cert_id: what.cert_id.clone() };
        let Some(leaf) = identity.chain.first() else { return Ok((ModuleCertificate::Authority, auth)) };
        self.renewals.see(module_id, leaf);
        let certificate = match registration {
            Registration::Thumbprint => ModuleCertificate::Thumbprint(thumbprint(&what.cert_id, leaf)?),
            Registration::Ca => ModuleCertificate::Authority,
        };
        Ok((certificate, auth))
    }

    /// The module `id` is gone: its certificate and key go too. What cannot be removed is replaced with the next one.
    pub(crate) async fn forget(&self, id: &str) {
        self.not_given(id).await;
        if !self.is_certified(id) {
            return;
        }
        let turn = self.turns().remove(id).unwrap_or_default();
        let _turn = turn.lock().await;
        let id = module_certificate(id);
        let removed = match self.workshop.forget(&id).await {
            Ok(()) => self.workshop.delete_key(&id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!("the certificate and key pair {id:?} stay: {}", chain(&error));
        }
    }

    /// The ids and the subject of a module's certificate, and by what the hub knows it.
    fn certified(&self, device_id: &str, module_id: &str) -> Result<(Registration, Certified), Error> {
        let (registration, algorithm) = match self.settings_for(module_id) {
            Some(settings) => (settings.registration, settings.key_algorithm.unwrap_or_default()),
            None => Default::default(),
        };
        let what = Certified {
            cert_id: module_certificate(module_id),
            key_id: module_certificate(module_id),
            subject: Some(Subject::CommonName(common_name(device_id, module_id, registration)?)),
            algorithm,
            is_made_anew: true,
        };
        Ok((registration, what))
    }

    fn turn(&self, module_id: &str) -> Arc<AsyncMutex<()>> {
        Arc::clone(self.turns().entry(module_id.to_owned()).or_default())
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<String, Arc<AsyncMutex<()>>>> {
        self.turns.lock().expect("no panic while held")
    }

    fn settings_for(&self, id: &str) -> Option<Arc<ModuleX509>> {
        let settings = self.settings.read().expect("no panic while held").clone();
        settings.filter(|settings| settings.includes(id))
    }
}

/// Whom the certificate of a module is for. A hub that knows it by its issuer takes it for that module only, so that the name
/// must be all there.
fn common_name(device_id: &str, module_id: &str, registration: Registration) -> Result<String, Error> {
    let name = format!("{device_id}/{module_id}");
    match registration {
        Registration::Ca if csr::cut(&name) != name => Err(Error::LongName { name }),
        Registration::Ca | Registration::Thumbprint => Ok(name),
    }
}

/// As hubs write it.
fn thumbprint(id: &str, leaf: &X509) -> Result<String, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { id: id.to_owned(), source };
    Ok(hex(&sha256(&leaf.to_der().map_err(unreadable)?)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02X}");
        text
    })
}
