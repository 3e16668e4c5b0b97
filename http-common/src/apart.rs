//! Requests of which only turns out on the way that they wait for others: they give their slot to whoever does not. Does not
//! know what they wait for.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};

use tokio::sync::OwnedSemaphorePermit;

use crate::limit::Limits;

tokio::task_local! {
    /// The slot of the request that is in work.
    static SLOT: Slot;
}

/// A slot, and where to get one for a request that waits for others.
struct Slot {
    permit: Mutex<OwnedSemaphorePermit>,
    apart: Arc<Limits>,
    uid: u32,
}

impl Slot {
    /// Takes a slot of the other kind for this one, if there is one.
    fn exchange(&self) -> bool {
        let other = self.apart.try_admit(self.uid);
        let has_other = other.is_some();
        if let Some(other) = other {
            *self.permit.lock().expect("no panic while held") = other;
        }
        has_other
    }
}

/// Runs `handler`, which has the slot `permit` of `uid`, and may have one of `apart` instead.
pub(crate) fn with_slot<F: Future>(
    permit: OwnedSemaphorePermit,
    apart: Arc<Limits>,
    uid: u32,
    handler: F,
) -> impl Future<Output = F::Output> {
    SLOT.scope(Slot { permit: Mutex::new(permit), apart, uid }, handler)
}

/// Waits for somebody else, such as a token, on behalf of the request that is in work. Unless that is over at once, the
/// request is counted as [one that waits for others](crate::Endpoint::WAITS) from now on, as long as there is a slot for
/// such a one, so that many of them do not keep those out that wait for nobody.
pub async fn wait_apart<F: Future>(others: F) -> F::Output {
    let mut others = pin!(others);
    let mut is_apart = false;
    poll_fn(|context| {
        let answer = others.as_mut().poll(context);
        if answer.is_pending() && !is_apart {
            // Outside of a request, and at its very first step, there is no slot.
            is_apart = SLOT.try_with(Slot::exchange).unwrap_or(false);
        }
        answer
    })
    .await
}
