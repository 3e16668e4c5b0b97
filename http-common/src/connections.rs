//! The open connections of a daemon: how many, whose, and which of them may be closed. Knows nothing of HTTP but
//! its phases.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::ffi::give_back_memory;

/// All open connections.
#[derive(Debug)]
pub(crate) struct Connections {
    max: usize,
    max_of_user: usize,
    open: Mutex<Open>,
    opened: Notify,
}

/// One open connection, as far as others need to know it.
#[derive(Debug)]
pub(crate) struct Connection {
    id: u64,
    uid: u32,
    born: Instant,
    /// [`Phase`] in the two low bits, milliseconds since `born` above them.
    state: AtomicU64,
    /// Told when the connection has to go.
    close: Notify,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing: no byte of a request has come.
    Idle,
    /// A request's head has begun to arrive.
    Head,
    /// A request is being read, worked on or answered.
    Busy,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    by_id: HashMap<u64, Arc<Connection>>,
    by_uid: HashMap<u32, usize>,
}

/// A place among the open connections, given back when dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    all: Arc<Connections>,
    /// The connection.
    pub(crate) connection: Arc<Connection>,
}

/// A stream that notes in its [`Connection`] when a request begins to arrive.
#[derive(Debug)]
pub(crate) struct Watched {
    /// The socket.
    pub(crate) stream: UnixStream,
    /// Whose phase it notes.
    pub(crate) connection: Arc<Connection>,
}

impl Connections {
    /// At most `max` connections are kept open, and `max_of_user` of each uid.
    pub(crate) fn new(max: usize, max_of_user: usize) -> Arc<Self> {
        Arc::new(Self { max, max_of_user, open: Mutex::default(), opened: Notify::new() })
    }

    /// Registers a connection of `uid`. With `max_of_user` of its own, one that waits for its client's next request has to
    /// go; if requests are under way on all of them, there is no place, and nobody else has to make any. With `max` open
    /// ones, the longest waiting one of the uid that has the most has to go.
    pub(crate) fn register(self: &Arc<Self>, uid: u32) -> Option<Registered> {
        let mut open = self.lock();
        let is_full = open.by_uid.get(&uid).is_some_and(|count| *count >= self.max_of_user);
        if is_full && !open.evict_one(|of| of == uid) {
            return None;
        }
        if open.by_id.len() >= self.max {
            open.evict();
        }
        let id = open.next_id;
        open.next_id += 1;
        let connection = Arc::new(Connection {
            id,
            uid,
            born: Instant::now(),
            state: AtomicU64::new(Phase::Idle as u64),
            close: Notify::new(),
        });
        open.by_id.insert(id, Arc::clone(&connection));
        *open.by_uid.entry(uid).or_default() += 1;
        self.opened.notify_one();
        Some(Registered { all: Arc::clone(self), connection })
    }

    /// Makes room when the process is out of descriptors.
    pub(crate) fn evict(&self) {
        self.lock().evict();
    }

    /// How many are open.
    pub(crate) fn count(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Closes connections that do nothing for too long. Sleeps while there is none, without the memory they needed.
    pub(crate) async fn reap(self: Arc<Self>) {
        loop {
            if self.count() == 0 {
                give_back_memory();
                self.opened.notified().await;
            }
            tokio::time::sleep(REAP_EVERY).await;
            for connection in self.lock().by_id.values() {
                let (phase, age) = connection.phase();
                let limit = match phase {
                    Phase::Idle => IDLE_LIMIT,
                    Phase::Head => HEAD_LIMIT,
                    Phase::Busy => continue,
                };
                if age >= limit {
                    connection.close.notify_one();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("no panic while held")
    }
}

impl Open {
    fn evict(&mut self) {
        let most = self.by_uid.iter().max_by_key(|(_, count)| **count).map(|(uid, _)| *uid);
        if !self.evict_one(|uid| Some(uid) == most) {
            self.evict_one(|_| true);
        }
    }

    /// Evicts the longest waiting connection of those users, if one is waiting.
    fn evict_one(&mut self, of: impl Fn(u32) -> bool) -> bool {
        let waiting = self
            .by_id
            .values()
            .filter(|connection| of(connection.uid) && connection.phase().0 != Phase::Busy);
        // A time, not an age: ages of several are not told at the same moment.
        let victim = waiting.min_by_key(|connection| (connection.since(), connection.id)).cloned();
        if let Some(victim) = &victim {
            victim.close.notify_one();
            // Counted out now, so that the next eviction finds another one.
            self.forget(victim);
        }
        victim.is_some()
    }

    fn forget(&mut self, connection: &Connection) {
        if self.by_id.remove(&connection.id).is_none() {
            return;
        }
        if let Some(count) = self.by_uid.get_mut(&connection.uid) {
            *count -= 1;
            if *count == 0 {
                self.by_uid.remove(&connection.uid);
            }
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.all.lock().forget(&self.connection);
    }
}

impl Connection {
    /// Notes that `phase` begins now.
    pub(crate) fn enter(&self, phase: Phase) {
        let millis = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX >> 2);
        self.state.store(millis << 2 | phase as u64, Ordering::Relaxed);
    }

    /// What it does, and since when.
    pub(crate) fn phase(&self) -> (Phase, Duration) {
        let state = self.state.load(Ordering::Relaxed);
        let phase = match state & 3 {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        };
        (phase, self.began(state).elapsed())
    }

    /// When the phase began that it is in.
    fn since(&self) -> Instant {
        self.began(self.state.load(Ordering::Relaxed))
    }

    fn began(&self, state: u64) -> Instant {
        self.born + Duration::from_millis(state >> 2)
    }

    /// Returns when the connection has to go.
    pub(crate) async fn closing(&self) {
        self.close.notified().await;
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.connection.phase().0 == Phase::Idle {
            self.connection.enter(Phase::Head);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// How long a connection may stay open without a request.
pub(crate) const IDLE_LIMIT: Duration = Duration::from_secs(60);
/// How long a request's head may take to arrive.
pub(crate) const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How often connections are looked at while there are any.
const REAP_EVERY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_closing(registered: &Registered) -> bool {
        tokio::time::timeout(Duration::from_millis(1), registered.connection.closing()).await.is_ok()
    }

    #[tokio::test]
    async fn the_longest_idle_connection_of_the_greediest_user_goes_first() {
        let all = Connections::new(3, 3);
        let modest = all.register(1).unwrap();
        let old = all.register(2).unwrap();
        let young = all.register(2).unwrap();
        let _next = all.register(3).unwrap();
        assert!(is_closing(&old).await);
        assert!(!is_closing(&modest).await && !is_closing(&young).await);
    }

    #[tokio::test]
    async fn a_busy_connection_is_never_evicted() {
        let all = Connections::new(1, 1);
        let busy = all.register(2).unwrap();
        busy.connection.enter(Phase::Busy);
        let _next = all.register(3).unwrap();
        assert!(!is_closing(&busy).await);
    }

    #[tokio::test]
    async fn a_user_with_all_its_places_makes_room_itself_or_finds_none() {
        let all = Connections::new(8, 2);
        let modest = all.register(1).unwrap();
        let busy = all.register(2).unwrap();
        busy.connection.enter(Phase::Busy);
        let idle = all.register(2).unwrap();
        let next = all.register(2).unwrap();
        assert!(is_closing(&idle).await && !is_closing(&modest).await);
        next.connection.enter(Phase::Busy);
        assert!(all.register(2).is_none() && all.register(1).is_some());
        drop(busy);
        assert!(all.register(2).is_some());
    }

    #[tokio::test]
    async fn nobody_makes_room_for_a_user_who_is_refused_or_makes_it_itself() {
        let all = Connections::new(2, 1);
        let modest = all.register(1).unwrap();
        let greedy = all.register(2).unwrap();
        greedy.connection.enter(Phase::Busy);
        assert!(all.register(2).is_none());
        assert!(!is_closing(&modest).await);
        greedy.connection.enter(Phase::Idle);
        assert!(all.register(2).is_some());
        assert!(is_closing(&greedy).await && !is_closing(&modest).await);
    }

    #[tokio::test]
    async fn a_dropped_connection_leaves_nothing_behind() {
        let all = Connections::new(8, 8);
        drop(all.register(2));
        assert_eq!(all.count(), 0);
        assert!(all.lock().by_uid.is_empty());
    }
}
