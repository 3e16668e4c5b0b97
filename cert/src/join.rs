//! The same work asked for twice is done once. Knows no work.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

/// Work under way, by what was asked for.
#[derive(Debug)]
pub(crate) struct Joined<K, T>(Mutex<HashMap<K, Arc<OnceCell<T>>>>);

impl<K, T> Default for Joined<K, T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T: Clone> Joined<K, T> {
    /// The outcome of `work`, or of the work for the same `key` that is under way already.
    pub(crate) async fn run(&self, key: K, work: impl Future<Output = T>) -> T {
        let cell = Arc::clone(self.0.lock().expect("no panic while held").entry(key.clone()).or_default());
        let outcome = cell.get_or_init(|| work).await.clone();
        let mut under_way = self.0.lock().expect("no panic while held");
        if under_way.get(&key).is_some_and(|known| Arc::ptr_eq(known, &cell)) {
            under_way.remove(&key);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_same_is_done_once_at_a_time() {
        let (joined, count) = (Joined::default(), AtomicU32::new(0));
        let work = async |key| {
            joined
                .run(key, async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    count.fetch_add(1, Ordering::Relaxed)
                })
                .await
        };
        let (one, two, other) = tokio::join!(work("a"), work("a"), work("b"));
        assert!(one == two && one != other, "{one} {two} {other}");
        assert_eq!(count.load(Ordering::Relaxed), 2);
        assert_eq!(work("a").await, 2, "later it is done anew");
        assert!(joined.0.lock().unwrap().is_empty());
    }
}
