//! The PKCS #11 library, as tokens see it. Usually it is loaded once. If calls do not come out of it, so that it cannot be made
//! ready anew, a copy of it is loaded and it is left behind with them; what they bring in the end still counts. Knows no
//! tokens.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::instance::{Instance, Ready};
use super::login::Logins;

/// The library at one path.
pub(super) struct Module {
    path: PathBuf,
    logins: Logins,
    epochs: Arc<AtomicU64>,
    instances: Mutex<Instances>,
}

struct Instances {
    current: Arc<Instance>,
    others: Vec<Arc<Instance>>,
    /// Until then no copy takes the place of the library, because none could be made ready.
    not_before: Option<Instant>,
    /// Whether it was told that there are no more copies.
    is_told: bool,
}

impl Module {
    /// The library at `path`, which is not looked at yet. PINs that it refuses are remembered below `homedir`.
    pub(super) fn new(path: &Path, homedir: Option<&Path>) -> Self {
        let logins = Logins::new(homedir.map(|homedir| homedir.join(REFUSED_PINS)));
        let epochs = Arc::default();
        let current = Instance::new(path.to_owned(), false, Arc::clone(&epochs));
        let instances =
            Mutex::new(Instances { current, others: Vec::new(), not_before: None, is_told: false });
        Self { path: path.to_owned(), logins, epochs, instances }
    }

    /// Who is logged in to the tokens.
    pub(super) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Loads the library and makes it ready unless it is, for a call that should be over after `limit`.
    pub(super) fn ready(&self, limit: Duration) -> Result<Ready, Fault> {
        let end = Instant::now() + limit;
        loop {
            let instance = self.current();
            if instance.stuck().is_some() && self.leave_behind(&instance) {
                continue;
            }
            match instance.enter(limit) {
                Ok(Some(ready)) => return Ok(ready),
                Ok(None) if Instant::now() > end => return Err(Fault::TimedOut(limit)),
                Ok(None) => {}
                Err(fault) => {
                    self.give_up(&instance);
                    return Err(fault);
                }
            }
        }
    }

    /// The same if it is ready and has not been made so anew since `epoch`.
    pub(super) fn ready_in(&self, epoch: u64, limit: Duration) -> Option<Ready> {
        self.current().enter_in(epoch, limit)
    }

    /// Makes the library ready anew, unless somebody did since `epoch`; or has another one if there are calls in it that do
    /// not come out.
    pub(super) fn restart(&self, epoch: u64, reason: &Fault) -> Result<(), Fault> {
        let instance = self.current();
        match instance.restart(epoch, reason) {
            Err(Fault::TimedOut(_)) if self.leave_behind(&instance) => Ok(()),
            done => done,
        }
    }

    /// Leaves the tokens in a sane state, unless calls are still in the library.
    pub(super) fn end(&self) {
        self.current().end();
    }

    /// Leaves `stuck` with the calls in it; whether there is another one now.
    fn leave_behind(&self, stuck: &Arc<Instance>) -> bool {
        let mut instances = self.instances();
        if !Arc::ptr_eq(&instances.current, stuck) {
            return true;
        }
        if instances.not_before.is_some_and(|time| Instant::now() < time) {
            return false;
        }
        let Some(other) = self.other(&mut instances) else {
            if !mem::replace(&mut instances.is_told, true) {
                tracing::error!("{OUT_OF_COPIES}");
            }
            return false;
        };
        match stuck.leave_behind() {
            Some(time) => {
                tracing::warn!(
                    "a call of the PKCS #11 library has not returned for {} s: a copy of the library takes its place",
                    time.as_secs()
                );
                instances.is_told = false;
                instances.put(other);
            }
            // The calls have come out meanwhile.
            None => instances.others.push(other),
        }
        true
    }

    /// One that has nobody in it.
    fn other(&self, instances: &mut Instances) -> Option<Arc<Instance>> {
        instances.free().or_else(|| {
            let is_room = instances.others.len() < MOST;
            is_room.then(|| Instance::new(self.path.clone(), true, Arc::clone(&self.epochs)))
        })
    }

    /// After a copy could not be made ready: what calls do return from the library itself are better than none. One that was
    /// ready before will be again, when its token is back.
    fn give_up(&self, copy: &Arc<Instance>) {
        let mut instances = self.instances();
        if !Arc::ptr_eq(&instances.current, copy) || copy.was_ready() {
            return;
        }
        if let Some(original) = instances.others.iter().position(|other| !other.is_copy()) {
            let original = instances.others.swap_remove(original);
            instances.put(original);
            instances.not_before = Some(Instant::now() + PAUSE);
        }
    }

    fn current(&self) -> Arc<Instance> {
        Arc::clone(&self.instances().current)
    }

    fn instances(&self) -> MutexGuard<'_, Instances> {
        self.instances.lock().expect("no panic while held")
    }
}

impl Instances {
    /// Another one that has nobody in it.
    fn free(&mut self) -> Option<Arc<Instance>> {
        let free = self.others.iter().position(|other| other.is_free())?;
        Some(self.others.swap_remove(free))
    }

    /// Has `other` in the place of the current one.
    fn put(&mut self, other: Arc<Instance>) {
        other.take_up();
        self.others.push(mem::replace(&mut self.current, other));
    }
}

/// The name of the file beside the directory of keys.
const REFUSED_PINS: &str = "refused-pins";
/// Libraries that are left behind at a time.
const MOST: usize = 8;
const OUT_OF_COPIES: &str = "the PKCS #11 library and all copies of it that may be loaded have calls in them that do not \
                             return; if the token works, restart keyd";
/// How long the library itself is used, as far as it can be, before a copy is tried again.
const PAUSE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[test]
    fn what_is_no_library_is_refused_with_its_path() {
        let module = Module::new(Path::new("/dev/null"), None);
        let fault = module.ready(LIMIT).err().unwrap();
        assert!(fault.to_string().contains("/dev/null"), "{fault}");
        assert!(matches!(module.ready(LIMIT).err(), Some(Fault::BackingOff(_))));
    }
}
