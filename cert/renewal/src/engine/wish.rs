//! Another certificate because somebody wishes so, whether it is time or not. Does not know how one is got.

use tokio::sync::MutexGuard as TurnGuard;

use super::{Renewal, look::Purpose};
use crate::actor::Actor;
use crate::certificate::{Certificate, Digest};
use crate::clock::Clock;
use crate::error::Error;
use crate::journal::Memory;
use crate::step::good_pair;

impl<A: Actor, M: Memory, C: Clock> Renewal<A, M, C> {
    /// Has a new certificate in the place of the one that somebody does not accept any more, for a new key if there can be
    /// one: whether it is due or not, and also in the pause after a failure. Another one stays as it is.
    ///
    /// # Errors
    ///
    /// The certificate `refused` is still there. It is tried again, as a renewal that is due would be.
    pub async fn replace(&self, refused: Digest) -> Result<(), Error<A::Error>> {
        let turn = self.one_at_a_time.lock().await;
        self.at_once(refused, turn).await
    }

    /// Has a new certificate in the place of the one whose time is over, because somebody wishes so: also in the pause after a
    /// failure, but neither where renewal is switched off nor shortly after the last attempt. Any other one stays as it is.
    ///
    /// # Errors
    ///
    /// It has been tried, and it is still there.
    pub async fn revive(&self) -> Result<(), Error<A::Error>> {
        let turn = self.one_at_a_time.lock().await;
        match self.expired().await {
            Some(digest) if self.pace().is_open_to_wishes(self.now()) => self.at_once(digest, turn).await,
            _ => Ok(()),
        }
    }

    async fn at_once(&self, refused: Digest, turn: TurnGuard<'_, ()>) -> Result<(), Error<A::Error>> {
        let worked = self.work(Some(refused)).await;
        match &worked {
            // It has been told, and what is waited for is something else.
            Err(failure) if failure.is_blind && self.pace().is_waiting(self.now()) => {}
            Err(failure) => drop(self.failed(failure)),
            Ok(()) => {}
        }
        drop(turn);
        self.look_again();
        worked.map_err(|failure| failure.error)
    }

    /// The certificate in place, if its time is over and it is to be kept valid.
    async fn expired(&self) -> Option<Digest> {
        let facts = self.look(Purpose::Use).await.ok()?;
        let now = self.clock.now();
        let is_over = |it: &Certificate| it.validity().is_over(now);
        let is_all_there_is = good_pair(&facts, now).is_none_or(|(good, _)| is_over(good));
        let expired = facts.certificate.filter(|it| is_all_there_is && is_over(it))?;
        self.actor.policy().enabled.then(|| expired.digest())
    }
}
