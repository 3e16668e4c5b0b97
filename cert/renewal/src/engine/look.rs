//! What is there, as far as it matters and may be seen, and whether a new key could take the current one's place. Changes
//! nothing.

use http_common::chain;

use super::{Renewal, failed};
use crate::actor::Actor;
use crate::certificate::{Certificate, Digest};
use crate::clock::Clock;
use crate::error::Error;
use crate::journal::Memory;
use crate::step::{Facts, Slot, Stage, Step, good_pair};

/// What one looks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    /// To use the pair.
    Use,
    /// To renew it if it is due, or if it is the one that is refused.
    Renewal {
        /// That one.
        refused: Option<Digest>,
    },
}

/// What is known in one turn of whether a new key can take the current one's place.
#[derive(Debug)]
pub(super) struct Rotation {
    /// None if it was not asked.
    is_possible: Option<bool>,
    /// Whether the key in place was not found to be one that stays.
    pub(super) can_move: bool,
    /// Whether the temporary key cannot be deleted; then it is not ours.
    is_foreign: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { is_possible: None, can_move: true, is_foreign: false }
    }
}

impl Rotation {
    /// Takes note of a `step` that keyd refuses: whether it is news that there is no way to a new key.
    pub(super) fn is_given_up(&mut self, step: Step) -> bool {
        let is_news = match step {
            Step::MakeKey => self.is_possible != Some(false),
            Step::MoveKey => self.can_move,
            Step::DeleteKey => !self.is_foreign,
            _ => false,
        };
        if is_news {
            self.is_possible = Some(false);
            self.can_move &= step != Step::MoveKey;
            self.is_foreign |= step == Step::DeleteKey;
        }
        is_news
    }

    /// `facts` without a temporary key that is not ours.
    pub(super) fn ours(&self, facts: Facts) -> Facts {
        if self.is_foreign { Facts { temporary: None, ..facts } } else { facts }
    }
}

impl<A: Actor, M: Memory, C: Clock> Renewal<A, M, C> {
    /// What is there. The temporary key is looked for if it may matter.
    pub(super) async fn look(&self, purpose: Purpose) -> Result<Facts, Error<A::Error>> {
        let text = self.actor.certificate().await.map_err(failed("read the certificate"))?;
        let certificate = text.map(Certificate::parse).transpose()?;
        let pending = self.remembered(|memory| memory.read()).await?;
        let current = self.actor.key(Slot::Current).await.map_err(failed("look at the key"))?;
        let mut facts = Facts { pending, certificate, current, temporary: None, is_hidden: false };
        let now = self.clock.now();
        let is_to_renew = |it: &Certificate| match purpose {
            Purpose::Use => false,
            Purpose::Renewal { refused } => refused == Some(it.digest()) || self.is_due(it, now),
        };
        let matters = facts.pending.is_some()
            || good_pair(&facts, now).is_none()
            || facts.certificate.as_ref().is_some_and(is_to_renew);
        if !matters {
            return Ok(facts);
        }
        match self.actor.key(Slot::Temporary).await {
            Ok(key) => facts.temporary = key,
            Err(error) if can_do_without(&facts, purpose, A::is_refusal(&error), now) => {
                tracing::debug!("no look at the temporary key of {:?}: {}", self.name, chain(&error));
                facts.is_hidden = A::is_refusal(&error);
            }
            Err(error) => return Err(failed("look at the temporary key")(error)),
        }
        Ok(facts)
    }

    /// Whether a renewal, begun or not, is to make a new key: if that is wished, and it could take the current one's place.
    pub(super) async fn rotates(
        &self,
        facts: &Facts,
        rotation: &mut Rotation,
    ) -> Result<bool, Error<A::Error>> {
        let is_made = matches!(&facts.pending, Some(pending) if !matches!(pending.stage, Stage::Preparing));
        if !self.actor.policy().rotate_key || is_made || facts.temporary.is_some() {
            return Ok(self.actor.policy().rotate_key && rotation.is_possible != Some(false));
        }
        if let Some(is_possible) = rotation.is_possible {
            return Ok(is_possible);
        }
        let obstacle = match self.actor.key(Slot::Temporary).await {
            Ok(None) => {
                self.actor.obstacle().await.map_err(failed("learn whether the key can be replaced"))?
            }
            Ok(Some(_)) => return Ok(true),
            Err(error) if A::is_refusal(&error) => Some(chain(&error)),
            Err(error) => return Err(failed("look at the temporary key")(error)),
        };
        if let Some(why) = &obstacle {
            tracing::warn!("the certificate {:?} is renewed for the same key: {why}", self.name);
        }
        rotation.is_possible = Some(obstacle.is_none());
        Ok(obstacle.is_none())
    }
}

/// Whether one can go on without a look at the temporary key. Without a journal it is not ours. Of what is accepted it is a
/// part, unless it was moved already; but if we may not use it, what is in place has to do, as long as it can.
fn can_do_without(facts: &Facts, purpose: Purpose, is_refusal: bool, now: i64) -> bool {
    match facts.pending.as_ref().map(|pending| &pending.stage) {
        None => true,
        Some(Stage::Accepted(new)) => is_refusal && (facts.stands(now) || facts.current == Some(new.key())),
        Some(Stage::Preparing | Stage::Issued(_)) => {
            facts.fits() && (is_refusal || matches!(purpose, Purpose::Use))
        }
    }
}
