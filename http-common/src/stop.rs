//! When a service ends, and what its connections still wait for then. Knows neither signals nor requests.

use std::time::Duration;

use tokio::sync::watch;

use crate::connections::{Connection, Phase};

/// Whether a service is to end. Only ever goes on to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// It serves.
    No,
    /// It accepts nothing more, and finishes what it has accepted.
    Drain,
    /// It waits for nobody.
    Now,
}

/// Returns when `state` has come as far as `wanted`.
pub(crate) async fn told<T: PartialOrd>(state: &mut watch::Receiver<T>, wanted: T) {
    // The sender being gone means the same.
    let _ = state.wait_for(|state| *state >= wanted).await;
}

/// Returns when the connection has to go: it was told so, or it is time to stop and the head of a request that was on its
/// way has come to its end or had its time.
pub(crate) async fn leaving(stop: &mut watch::Receiver<Stop>, connection: &Connection) {
    tokio::select! {
        () = connection.closing() => return,
        () = told(stop, Stop::Drain) => {}
    }
    let head = async {
        while connection.phase().0 == Phase::Head {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = tokio::time::timeout(LAST_HEADS, head).await;
}

/// Returns some time after the answer of a connection was given, which the client may not take.
pub(crate) async fn answered(connection: &Connection) {
    while connection.phase().0 == Phase::Busy {
        tokio::time::sleep(LAST_ANSWERS).await;
    }
    tokio::time::sleep(LAST_ANSWERS).await;
}

/// How long the heads of those requests may still take that had begun to arrive.
const LAST_HEADS: Duration = Duration::from_secs(1);
/// How long the answers may take to get out to those that were not done in time.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(1);
