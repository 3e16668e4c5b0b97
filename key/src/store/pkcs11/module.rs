//! The PKCS #11 library, as tokens see it. Usually it is loaded once. If calls do not come out of it, so that it cannot be made
//! ready anew, a copy of it is loaded and it is left behind with them; what they bring in the end still counts. Knows no
//! tokens.

use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

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
}

impl Module {
    /// The library at `path`, which is not looked at yet. PINs that it refuses are remembered below `homedir`.
    pub(super) fn new(path: &Path, homedir: Option<&Path>) -> Self {
        let logins = Logins::new(homedir.map(|homedir| homedir.join(REFUSED_PINS)));
        let epochs = Arc::default();
        let current = Instance::new(path.to_owned(), false, Arc::clone(&epochs));
        let instances = Mutex::new(Instances { current, others: Vec::new() });
        Self { path: path.to_owned(), logins, epochs, instances }
    }

    /// Who is logged in to the tokens.
    pub(super) fn logins(&self) -> &Logins {
        &self.logins
    }

    /// Loads the library and makes it ready unless it is, for a call that should be over after `limit`.
    pub(super) fn ready(&self, limit: Duration) -> Result<Ready, Fault> {
        loop {
            let instance = self.current();
            if instance.stuck().is_some() && self.leave_behind(&instance) {
                continue;
            }
            match instance.enter(limit) {
                Ok(Some(ready)) => return Ok(ready),
                Ok(None) => {}
                Err(fault) => {
                    self.give_up(&instance);
                    return Err(fault);
                }
            }
        }
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

    /// Leaves `stuck` with the calls in it; whether there is another one now.
    fn leave_behind(&self, stuck: &Arc<Instance>) -> bool {
        let mut instances = self.instances();
        if !Arc::ptr_eq(&instances.current, stuck) {
            return true;
        }
        let Some(other) = self.other(&mut instances) else {
            tracing::error!(
                "{MOST} copies of the PKCS #11 library have calls in them that do not return; restart keyd if its token works"
            );
            return false;
        };
        match stuck.leave_behind() {
            Some(time) => {
                tracing::warn!(
                    "a call of the PKCS #11 library has not returned for {} s: a copy of the library takes its place",
                    time.as_secs()
                );
                instances.put(other);
            }
            // The calls have come out meanwhile.
            None => instances.others.push(other),
        }
        true
    }

    /// One that has nobody in it.
    fn other(&self, instances: &mut Instances) -> Option<Arc<Instance>> {
        instances.free(|_| true).or_else(|| {
            let is_room = instances.others.len() < MOST;
            is_room.then(|| Instance::new(self.path.clone(), true, Arc::clone(&self.epochs)))
        })
    }

    /// After a copy could not be made ready: the library itself is used again as soon as it can be.
    fn give_up(&self, copy: &Arc<Instance>) {
        let mut instances = self.instances();
        if !Arc::ptr_eq(&instances.current, copy) {
            return;
        }
        if let Some(original) = instances.free(|other| !other.is_copy()) {
            instances.put(original);
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
    /// Another one of this kind that has nobody in it.
    fn free(&mut self, is_right: impl Fn(&Instance) -> bool) -> Option<Arc<Instance>> {
        let free = self.others.iter().position(|other| is_right(other) && other.take_up())?;
        Some(self.others.swap_remove(free))
    }

    /// Has `other` in the place of the current one.
    fn put(&mut self, other: Arc<Instance>) {
        self.others.push(mem::replace(&mut self.current, other));
    }
}

impl Drop for Module {
    /// Leaves the tokens in a sane state, unless calls are still in the library.
    fn drop(&mut self) {
        self.instances().current.end();
    }
}

/// The name of the file beside the directory of keys.
const REFUSED_PINS: &str = "refused-pins";
/// Libraries that are left behind at a time.
const MOST: usize = 8;

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
