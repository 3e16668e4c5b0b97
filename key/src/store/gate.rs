//! How many threads wait for a token or a TPM at a time: never all that there are, so that work on files always finds one.
//! Does not know what is waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::Error;

/// The way to one token or TPM, for calls that keep a thread until it has answered.
pub struct Gate {
    device: Arc<Semaphore>,
    refusal: Box<dyn Fn() -> Error + Send + Sync>,
}

/// The right to keep a thread waiting, given back when dropped.
pub(crate) struct Pass {
    _device: OwnedSemaphorePermit,
    _all: SemaphorePermit<'static>,
}

impl Gate {
    /// The way to one device; who waits in vain before it is refused by `refusal`.
    pub(super) fn new(refusal: impl Fn() -> Error + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { device: Arc::new(Semaphore::new(FOR_ONE)), refusal: Box::new(refusal) })
    }

    /// Waits, without a thread, until there is one to be spared.
    pub(crate) async fn enter(&self) -> Result<Pass, Error> {
        let both = async {
            let device = Arc::clone(&self.device).acquire_owned().await.ok()?;
            Some(Pass { _device: device, _all: ALL.acquire().await.ok()? })
        };
        timeout(PATIENCE, both).await.ok().flatten().ok_or_else(|| (self.refusal)())
    }
}

/// Threads that wait for devices of this process, of the eight that a daemon has for work that blocks.
static ALL: Semaphore = Semaphore::const_new(5);
/// Those that wait for one device, so that a second one that hangs still leaves a way to a third.
const FOR_ONE: usize = 2;
/// Less than the 30 s after which clients give up.
const PATIENCE: Duration = Duration::from_secs(25);

#[cfg(test)]
mod tests {
    use super::*;

    async fn has_to_wait(gate: &Gate) -> bool {
        timeout(Duration::from_millis(20), gate.enter()).await.is_err()
    }

    #[tokio::test]
    async fn two_wait_for_a_device_and_some_threads_are_left_of_eight() {
        let [first, second, third] = [(); 3].map(|()| Gate::new(|| Error::EmptyImport));
        let mut passes = Vec::new();
        for gate in [&first, &first, &second, &second, &third] {
            passes.push(gate.enter().await.unwrap());
        }
        assert!(has_to_wait(&first).await && has_to_wait(&third).await);
        passes.remove(0);
        assert!(!has_to_wait(&first).await && !has_to_wait(&third).await);
    }
}
