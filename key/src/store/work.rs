//! The result of using a key: there at once, or later. Knows neither keys nor threads.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::Error;

/// What a key makes of some input. Whoever has the key in memory answers at once, without the cost of a future; whoever
/// has to ask somebody else, later.
#[must_use = "it has to be awaited"]
pub struct Work<'a, T>(State<'a, T>);

enum State<'a, T> {
    Done(Option<Result<T, Error>>),
    Later(Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>),
}

impl<'a, T> Work<'a, T> {
    /// The result is `result`.
    pub fn done(result: Result<T, Error>) -> Self {
        Self(State::Done(Some(result)))
    }

    /// The result is that of `future`, which does not block.
    pub fn later(future: impl Future<Output = Result<T, Error>> + Send + 'a) -> Self {
        Self(State::Later(Box::pin(future)))
    }
}

impl<T: Send + 'static> Work<'_, T> {
    /// The result is that of `job`, which computes for so long that it needs a thread of its own.
    pub fn computed(job: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Self {
        Self::later(async {
            let job = tokio::task::spawn_blocking(job);
            job.await.unwrap_or_else(|_| Err(crate::error::Internal::Worker.into()))
        })
    }
}

impl<T: Unpin> Future for Work<'_, T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            State::Done(result) => Poll::Ready(result.take().expect("a future is not polled after its end")),
            State::Later(future) => future.as_mut().poll(context),
        }
    }
}

impl<T> fmt::Debug for Work<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}
