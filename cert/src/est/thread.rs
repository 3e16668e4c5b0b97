//! A thread for each conversation with an EST server: a TLS handshake with a key that keyd has waits for keyd, and must
//! neither hold up the daemon's own threads nor those that read files. Knows no EST.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};

use super::EstError;

/// At most so many conversations at a time; more wait.
#[derive(Debug, Clone)]
pub(crate) struct Threads(Arc<Semaphore>);

impl Default for Threads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONVERSATIONS)))
    }
}

impl Threads {
    /// Runs `job` on a thread of its own. The outcome is not waited for after `deadline`; the thread then ends when it
    /// can.
    pub(crate) async fn run<T, F, W>(&self, deadline: Instant, job: F) -> Result<T, EstError>
    where
        T: Send + 'static,
        F: FnOnce() -> W + Send + 'static,
        W: Future<Output = Result<T, EstError>>,
    {
        let limit = deadline.saturating_duration_since(Instant::now());
        let outcome = async {
            let permit = Arc::clone(&self.0).acquire_owned().await;
            let (tell, told) = oneshot::channel();
            let conversation = move || {
                let _permit = permit;
                // Nobody may be listening any more.
                let _ = tell.send(converse(job));
            };
            let thread = std::thread::Builder::new().name("est".to_owned()).stack_size(STACK);
            thread.spawn(conversation).map_err(EstError::NoThread)?;
            // Only a thread that panicked tells nothing.
            told.await.unwrap_or(Err(EstError::TooLate(limit)))
        };
        tokio::time::timeout(limit, outcome).await.unwrap_or(Err(EstError::TooLate(limit)))
    }
}

fn converse<T, F, W>(job: F) -> Result<T, EstError>
where
    F: FnOnce() -> W,
    W: Future<Output = Result<T, EstError>>,
{
    let runtime = Builder::new_current_thread().enable_all().build().map_err(EstError::NoThread)?;
    let outcome = runtime.block_on(job());
    // A name that is still being looked up must not be waited for.
    runtime.shutdown_background();
    outcome
}

const CONVERSATIONS: usize = 16;
/// Stack of a thread, in bytes.
const STACK: usize = 1 << 20;
