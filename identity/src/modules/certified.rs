//! Which certificates of modules the hub knows, and telling it of others: in the background, so that whoever reads a module
//! waits for no hub that is in trouble. Knows not how certificates are made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use http_common::chain;
use hub_client::{AuthType, Module, ModuleCertificate};
use tokio::sync::watch;

use super::Modules;
use super::gate::growing;
use crate::module_credentials::ModuleCredentials;
use crate::module_id::ModuleId;

/// The certificates that the hub knows, as far as it has said so since the start, and who tells it of others.
#[derive(Default)]
pub(super) struct Certified {
    known: Mutex<BTreeMap<String, Vec<ModuleCertificate>>>,
    told: Mutex<BTreeMap<String, Telling>>,
}

/// The hub is being told, or could not be.
#[derive(Default)]
struct Telling {
    running: Option<Running>,
    failures: u32,
    not_before: Option<Instant>,
}

/// A call that is waited for.
#[derive(Clone)]
struct Running {
    since: Instant,
    done: watch::Receiver<bool>,
}

impl Certified {
    /// Whether the hub knows `certificate` as that of the module `id`.
    pub(super) fn knows(&self, id: &str, certificate: &ModuleCertificate) -> bool {
        self.known().get(id).is_some_and(|known| known.contains(&in_capitals(certificate)))
    }

    /// Take up what the hub says of a module.
    pub(super) fn see(&self, Module { module_id, auth_type, .. }: &Module) {
        match auth_type {
            Some(AuthType::X509(certificates)) => self.set(module_id, certificates),
            Some(AuthType::None | AuthType::Sas | AuthType::Other(_)) => self.forget(module_id),
            None => {}
        }
    }

    /// From now on the hub knows these.
    pub(super) fn set(&self, id: &str, certificates: &[ModuleCertificate]) {
        self.known().insert(id.to_owned(), certificates.iter().map(in_capitals).collect());
    }

    /// The hub knows none of this module.
    pub(super) fn forget(&self, id: &str) {
        self.known().remove(id);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Vec<ModuleCertificate>>> {
        self.known.lock().expect("no panic while held")
    }

    fn told(&self) -> MutexGuard<'_, BTreeMap<String, Telling>> {
        self.told.lock().expect("no panic while held")
    }
}

impl Modules {
    /// See to it that the hub is told of the certificate of the module `id`. Unless something is wrong that is waited for a
    /// little: then the module can be believed at once.
    pub(super) async fn tell_of_certificate(
        self: &Arc<Self>,
        id: &ModuleId,
        credentials: &Arc<ModuleCredentials>,
    ) {
        let is_well = self.gate().is_open();
        let started = self.start_telling(id, credentials, Instant::now());
        let Some((Running { since, mut done }, failures)) = started else { return };
        if is_well && failures == 0 {
            let until = tokio::time::Instant::from_std(since + TELL_LIMIT);
            // Whether it has ended or taken too long is nothing to this caller.
            let _ = tokio::time::timeout_at(until, done.wait_for(|done| *done)).await;
        }
    }

    /// Who tells the hub, and how often that has failed; `None` while it would be of no use.
    fn start_telling(
        self: &Arc<Self>,
        id: &ModuleId,
        credentials: &Arc<ModuleCredentials>,
        now: Instant,
    ) -> Option<(Running, u32)> {
        let mut told = self.certified.told();
        let telling = told.entry(id.as_str().to_owned()).or_default();
        // A call whose task has died is none.
        if let Some(running) = telling.running.as_ref().filter(|running| running.done.has_changed().is_ok()) {
            return Some((running.clone(), telling.failures));
        }
        if telling.not_before.is_some_and(|then| now < then) || self.gate().ask_to_change(now).is_err() {
            return None;
        }
        let (send, done) = watch::channel(false);
        let running = Running { since: now, done };
        telling.running = Some(running.clone());
        let failures = telling.failures;
        let (modules, id, credentials) = (Arc::clone(self), id.clone(), Arc::clone(credentials));
        tokio::spawn(async move {
            modules.tell(&id, &credentials).await;
            send.send_replace(true);
        });
        Some((running, failures))
    }

    async fn tell(&self, id: &ModuleId, credentials: &ModuleCredentials) {
        let result = self.update(id, credentials).await;
        let mut told = self.certified.told();
        let Err(error) = result else {
            told.remove(id.as_str());
            return;
        };
        let telling = told.entry(id.as_str().to_owned()).or_default();
        telling.running = None;
        telling.failures = telling.failures.saturating_add(1);
        let pause = growing(telling.failures, FIRST_PAUSE, LONGEST_PAUSE);
        telling.not_before = Some(Instant::now() + pause);
        tracing::warn!("the hub may not know the certificate of {:?}: {}", id.as_str(), chain(&error));
    }
}

/// A hub may write thumbprints as it likes.
fn in_capitals(certificate: &ModuleCertificate) -> ModuleCertificate {
    match certificate {
        ModuleCertificate::Thumbprint(text) => ModuleCertificate::Thumbprint(text.to_ascii_uppercase()),
        ModuleCertificate::Authority => ModuleCertificate::Authority,
    }
}

/// How long a reader waits for a hub that is well.
const TELL_LIMIT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_hub_says_is_known() {
        let certified = Certified::default();
        let thumbprint = |text: &str| ModuleCertificate::Thumbprint(text.into());
        let says = |auth_type| Module {
            module_id: "m".into(),
            device_id: "d".into(),
            managed_by: None,
            generation_id: None,
            etag: None,
            auth_type,
        };
        assert!(!certified.knows("m", &thumbprint("AB")));
        certified.see(&says(Some(AuthType::X509(vec![thumbprint("ab"), thumbprint("ac")]))));
        assert!(certified.knows("m", &thumbprint("AB")) && certified.knows("m", &thumbprint("AC")));
        assert!(!certified.knows("m", &thumbprint("AD")));
        certified.see(&says(None));
        assert!(certified.knows("m", &thumbprint("AB")), "a hub that does not say has not forgotten");
        certified.see(&says(Some(AuthType::Sas)));
        assert!(!certified.knows("m", &thumbprint("AB")));
        certified.set("m", &[ModuleCertificate::Authority]);
        assert!(certified.knows("m", &ModuleCertificate::Authority));
    }
}
