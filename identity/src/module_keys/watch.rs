//! Whether the master key in keyd is still the one that the keys of modules come from which the hub has. What is remembered of it,
//! a fingerprint, stands in a file of our own; without that file the first master key that is seen is believed, even one that was
//! just made: modules that are there already may have keys from elsewhere. Knows no keyd and no hub.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use http_common::chain;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::backup::{Home, MasterMemo};
use crate::provision::Event;

/// Looks after the master key.
#[derive(Debug)]
pub(super) struct Watch {
    home: Home,
    known: Mutex<Known>,
    /// Held while the file is written. It guards no data.
    disk: AsyncMutex<()>,
    events: mpsc::Sender<Event>,
}

#[derive(Debug)]
struct Known {
    memo: MasterMemo,
    /// How often the master key was another one, with one for what is due since before the start.
    losses: u64,
    /// How many of them modules have got new keys for.
    mended: u64,
}

/// That modules need new keys, since a certain loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loss(u64);

impl Watch {
    /// By what `home` remembers. Losses go to `events`. Blocks.
    pub(super) fn new(home: Home, events: mpsc::Sender<Event>) -> Self {
        let memo = home.master_memo();
        let losses = u64::from(memo.due);
        let known = Mutex::new(Known { memo, losses, mended: 0 });
        Self { home, known, disk: AsyncMutex::default(), events }
    }

    /// Whether there should be a master key.
    pub(super) fn expects_one(&self) -> bool {
        !self.known().memo.fingerprint.is_empty()
    }

    /// Take up the `fingerprint` of the master key.
    pub(super) async fn see(&self, fingerprint: String) {
        let Some(is_lost) = self.known().see(fingerprint) else { return };
        // Before anything gets a key of this one: then a restart knows what is to be done.
        self.remember().await;
        if is_lost {
            // A full queue holds a reason to look already.
            let _ = self.events.try_send(Event::Keys);
        }
    }

    /// The last loss, if modules still need new keys for it.
    pub(super) fn loss(&self) -> Option<Loss> {
        let known = self.known();
        (known.mended < known.losses).then_some(Loss(known.losses))
    }

    /// Somebody sees to it that all modules get new keys for `loss`, if there is any; `all` have them.
    pub(super) async fn mended(&self, loss: Option<Loss>, all: bool) {
        if self.known().mended(loss, all) {
            self.remember().await;
        }
    }

    /// The modules that have been given keys.
    pub(super) fn given(&self) -> BTreeSet<String> {
        self.known().memo.given.clone()
    }

    /// The module `id` is about to be given keys.
    pub(super) async fn gives(&self, id: &str) {
        let is_news = self.known().memo.given.insert(id.to_owned());
        if is_news {
            self.remember().await;
        }
    }

    /// The module `id` is gone.
    pub(super) async fn forget(&self, id: &str) {
        let is_news = self.known().memo.given.remove(id);
        if is_news {
            self.remember().await;
        }
    }

    /// Modules of another device are meant from now on.
    pub(super) async fn forget_all(&self) {
        if self.known().forget_all() {
            self.remember().await;
        }
    }

    /// Write down what is known; the last write has the last of it.
    async fn remember(&self) {
        let _turn = self.disk.lock().await;
        let (home, memo) = (self.home.clone(), self.known().memo.clone());
        let written = tokio::task::spawn_blocking(move || write(&home, &memo));
        if written.await.is_err() {
            tracing::error!("the task that remembers the master key ended early; this is a bug");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("no panic while held")
    }
}

impl Known {
    /// If that is news, whether modules need new keys.
    fn see(&mut self, fingerprint: String) -> Option<bool> {
        let before = self.memo.fingerprint.as_str();
        if before == fingerprint {
            return None;
        }
        let is_lost = !before.is_empty();
        if is_lost {
            tracing::error!(
                "the master key of the keys of modules has been lost or replaced in keyd: it was {}, now it is {}; \
                 all modules with keys of it get new ones at the hub as soon as it can be asked",
                short(before),
                short(&fingerprint)
            );
            self.losses += 1;
        }
        self.memo.fingerprint = fingerprint;
        self.memo.due |= is_lost;
        Some(is_lost)
    }

    /// Whether there is something to be remembered.
    fn mended(&mut self, loss: Option<Loss>, all: bool) -> bool {
        if let Some(Loss(nth)) = loss {
            self.mended = self.mended.max(nth);
        }
        let is_over = self.memo.due && all && self.mended == self.losses;
        self.memo.due &= !is_over;
        is_over
    }

    /// Whether there is something to be remembered.
    fn forget_all(&mut self) -> bool {
        self.mended = self.losses;
        let before = std::mem::take(&mut self.memo);
        self.memo.fingerprint.clone_from(&before.fingerprint);
        self.memo != before
    }
}

/// Enough to tell one from another.
fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(16).collect()
}

fn write(home: &Home, memo: &MasterMemo) {
    if let Err(error) = home.write_master_memo(memo) {
        tracing::warn!("that the master key is lost may not be noticed after a restart: {}", chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn watch(directory: &TempDir) -> (Watch, mpsc::Receiver<Event>) {
        let (events, received) = mpsc::channel(8);
        (Watch::new(Home::open(directory.path()).unwrap(), events), received)
    }

    #[tokio::test]
    async fn another_master_key_is_a_loss_until_all_modules_have_new_keys() {
        let directory = TempDir::new().unwrap();
        let (first, mut events) = watch(&directory);
        assert!(!first.expects_one());
        first.see("a".to_owned()).await;
        first.see("a".to_owned()).await;
        assert!(first.loss().is_none() && events.try_recv().is_err(), "the first one is no loss");
        let (second, mut events) = watch(&directory);
        assert!(second.expects_one() && second.loss().is_none());
        second.see("b".to_owned()).await;
        assert_eq!(events.try_recv(), Ok(Event::Keys));
        second.mended(second.loss(), false).await;
        assert!(second.loss().is_none(), "what is left is somebody's");
        let (third, _events) = watch(&directory);
        let seen = third.loss();
        assert!(seen.is_some(), "a restart in between forgets nothing");
        third.see("a".to_owned()).await;
        third.mended(seen, true).await;
        assert!(third.loss().is_some(), "the old one came back meanwhile");
        third.mended(third.loss(), true).await;
        let (fourth, _events) = watch(&directory);
        fourth.see("a".to_owned()).await;
        assert!(fourth.loss().is_none());
    }

    #[tokio::test]
    async fn who_was_given_keys_is_known_after_a_restart_until_the_device_is_another_one() {
        let directory = TempDir::new().unwrap();
        let (first, _events) = watch(&directory);
        first.see("a".to_owned()).await;
        tokio::join!(first.gives("m1"), first.gives("gone"), first.gives("m2"));
        first.forget("gone").await;
        let (second, _events) = watch(&directory);
        assert_eq!(second.given().into_iter().collect::<Vec<_>>(), ["m1", "m2"]);
        second.see("b".to_owned()).await;
        second.forget_all().await;
        assert!(second.loss().is_none());
        let (third, _events) = watch(&directory);
        assert!(third.loss().is_none() && third.given().is_empty() && third.expects_one());
    }

    #[tokio::test]
    async fn a_memo_of_before_names_no_module() {
        let directory = TempDir::new().unwrap();
        std::fs::write(directory.path().join("module_master_memo"), "fingerprint = \"a\"\ndue = true\n")
            .unwrap();
        let (watch, _events) = watch(&directory);
        assert!(watch.given().is_empty() && watch.loss().is_some());
    }

    #[tokio::test]
    async fn where_others_have_left_modules_the_first_master_key_is_no_loss() {
        let directory = TempDir::new().unwrap();
        let records = directory.path().join("modules/h-d");
        std::fs::create_dir_all(&records).unwrap();
        std::fs::write(records.join("m"), "{}").unwrap();
        let (first, mut events) = watch(&directory);
        assert!(!first.expects_one());
        first.see("a".to_owned()).await;
        assert!(first.loss().is_none() && events.try_recv().is_err());
        let (second, _events) = watch(&directory);
        second.see("b".to_owned()).await;
        assert!(second.loss().is_some(), "from now on, another one is");
    }
}
