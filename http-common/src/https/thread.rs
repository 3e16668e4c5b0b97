//! A thread of its own for connections whose TLS handshakes may wait for somebody, such as for a key that another process
//! keeps. Knows neither TLS nor HTTP.

use std::io;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};

/// A thread with a runtime. It ends when it is dropped, as soon as it can; nobody waits for that.
pub(super) struct Thread {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Thread {
    pub(super) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let work = move || {
            // An error says that the sender was dropped, which is the end.
            let _ = runtime.block_on(ended);
            // A name that is still being looked up must not be waited for.
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("https".to_owned()).stack_size(STACK).spawn(work)?;
        Ok(Self { runtime: handle, _end: end })
    }

    /// The outcome of `job`, which is done there. Who stops waiting for it stops it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        job: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        let mut jobs = JoinSet::new();
        jobs.spawn_on(job, &self.runtime);
        jobs.join_next().await.expect("there is one job")
    }
}

/// Bytes.
const STACK: usize = 1 << 20;
