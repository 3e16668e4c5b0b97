//! What to do next, decided from what is there alone: so a start after a crash at any moment needs no memory, it looks.
//!
//! ```text
//!   journal           keyd                      certd        the good pair
//!   (none)            id: old                   old          old
//!   preparing         id: old                   old          old        may be given up: the temporary key is deleted
//!   preparing         id: old, id-temp: new     old          old
//!   issued (new)      id: old, id-temp: new     old          old        the new certificate is shown to who must accept it
//!   accepted (new)    id: old, id-temp: new     old          new        back only if keyd refuses to move the key
//!   accepted (new)    id: new                   old          new
//!   accepted (new)    id: new                   new          new
//!   (none)            id: new                   new          new
//! ```
//!
//! Without rotation the column of keyd stays as it is. Does not know how anything is done.

use crate::certificate::{Certificate, Digest, KeyPrint};

/// Where a key pair is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// Under the id that the configuration names.
    Current,
    /// Beside it, under that id and `-temp`.
    Temporary,
}

/// A renewal that has begun, as the journal tells it.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Whether it has a key of its own.
    pub rotate_key: bool,
    /// The certificate that is to be replaced.
    pub replaces: Digest,
    /// Whether it is renewed though it is not due: somebody does not accept it any more.
    pub is_forced: bool,
    /// How far it has got.
    pub stage: Stage,
}

/// How far a renewal has got.
#[derive(Debug, Clone)]
pub enum Stage {
    /// A key is made, a certificate asked for.
    Preparing,
    /// There is a certificate; nobody has accepted it yet.
    Issued(Certificate),
    /// It is accepted, and takes the place of the old one.
    Accepted(Certificate),
}

/// What is there.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// In the journal.
    pub pending: Option<Pending>,
    /// In certd, under the id that the configuration names.
    pub certificate: Option<Certificate>,
    /// The key pair in [`Slot::Current`].
    pub current: Option<KeyPrint>,
    /// The key pair in [`Slot::Temporary`].
    pub temporary: Option<KeyPrint>,
    /// Whether we may not look at the key pair in [`Slot::Temporary`]; there may be one.
    pub is_hidden: bool,
}

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Whether the certificate in place is to be renewed now.
    pub is_due: bool,
    /// Whether with a new key, which can take the current one's place.
    pub rotate_key: bool,
    /// Whether the key in place is one that may be replaced, as far as is known.
    pub can_move: bool,
    /// The time, in seconds since 1970.
    pub now: i64,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the certificate and the key in place belong together.
    Rest,
    /// Nothing that renewal could do.
    Stuck(Stuck),
    /// Write into the journal that a renewal has begun.
    Begin,
    /// Make the temporary key.
    MakeKey,
    /// Ask for a certificate for the key there, and write it into the journal as issued.
    Request(Slot),
    /// Show the issued certificate with the key there to who must accept it; write into the journal that it is accepted.
    Ask(Slot),
    /// Give the temporary key the current one's place.
    MoveKey,
    /// Give the accepted certificate the old one's place.
    Import,
    /// Clear the journal: it is done.
    Finish,
    /// Delete the temporary key.
    DeleteKey,
    /// Clear the journal: the old pair stays.
    GiveUp(Why),
}

impl Step {
    /// Whether it is one of those that have the new certificate accepted and put it in place.
    pub(crate) fn settles(self) -> bool {
        matches!(self, Self::Ask(_) | Self::MoveKey | Self::Import)
    }
}

/// Why there is no pair to renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stuck {
    /// certd has no certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// keyd has no key.
    #[error("there is no key for the certificate")]
    NoKey,
    /// keyd has another key.
    #[error("the key is not the certificate's")]
    OtherKey,
}

/// Why a renewal is given up before it was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The certificate in place is not the one that was to be renewed.
    #[error("the certificate has been replaced by somebody else")]
    Replaced,
    /// It is not due any more, or is to be renewed in another way.
    #[error("it is not to be renewed any more, or in another way")]
    NotWanted,
    /// The new key does not exist any more.
    #[error("the key of the new certificate is gone")]
    KeyLost,
    /// It has waited for too long.
    #[error("the new certificate has expired before it was in place")]
    Expired,
    /// The key in place cannot be replaced by the new one.
    #[error("the new key cannot take the old one's place")]
    KeyStays,
}

/// What to do next.
pub fn next(facts: &Facts, order: &Order) -> Step {
    match &facts.pending {
        None => at_rest(facts, order),
        Some(pending) => match &pending.stage {
            Stage::Preparing => preparing(facts, pending, order),
            Stage::Issued(new) => issued(facts, pending, new, order),
            Stage::Accepted(new) => accepted(facts, pending, new, order),
        },
    }
}

/// The certificate that is good at `now`, and where its key is; none if no key fits.
pub fn good_pair(facts: &Facts, now: i64) -> Option<(&Certificate, Slot)> {
    let accepted = match &facts.pending {
        // One that has waited for too long is no better than what is in place.
        Some(Pending { stage: Stage::Accepted(new), .. })
            if !(new.validity().is_over(now) && facts.stands(now)) =>
        {
            facts.pair_of(new)
        }
        _ => None,
    };
    accepted.or_else(|| facts.pair_of(facts.certificate.as_ref()?))
}

impl Facts {
    fn slot_of(&self, certificate: &Certificate) -> Option<Slot> {
        match Some(certificate.key()) {
            key if key == self.current => Some(Slot::Current),
            key if key == self.temporary => Some(Slot::Temporary),
            _ => None,
        }
    }

    fn pair_of<'a>(&self, certificate: &'a Certificate) -> Option<(&'a Certificate, Slot)> {
        Some((certificate, self.slot_of(certificate)?))
    }

    /// Whether the certificate in place is still the one that `pending` is about.
    fn is_about(&self, pending: &Pending) -> bool {
        self.certificate.as_ref().is_some_and(|certificate| certificate.digest() == pending.replaces)
    }

    fn place(&self) -> Option<Slot> {
        self.slot_of(self.certificate.as_ref()?)
    }

    /// Whether key and certificate in place belong together.
    pub(crate) fn fits(&self) -> bool {
        self.place() == Some(Slot::Current)
    }

    /// Whether they do, and its time is not over.
    pub(crate) fn stands(&self, now: i64) -> bool {
        self.fits() && self.certificate.as_ref().is_some_and(|it| !it.validity().is_over(now))
    }
}

fn at_rest(facts: &Facts, order: &Order) -> Step {
    match facts.place() {
        Some(Slot::Current) if !order.is_due => Step::Rest,
        // Nobody remembers it.
        Some(Slot::Current) if facts.temporary.is_some() => Step::DeleteKey,
        Some(Slot::Current) => Step::Begin,
        // Upstream writes the certificate first, and can be interrupted there.
        Some(Slot::Temporary) => Step::MoveKey,
        None if facts.certificate.is_none() => Step::Stuck(Stuck::NoCertificate),
        None if facts.current.is_none() => Step::Stuck(Stuck::NoKey),
        None => Step::Stuck(Stuck::OtherKey),
    }
}

fn preparing(facts: &Facts, pending: &Pending, order: &Order) -> Step {
    if !facts.is_about(pending) {
        return give_up(facts, Why::Replaced);
    }
    let is_wanted = order.is_due || pending.is_forced;
    if !is_wanted || order.rotate_key != pending.rotate_key || !facts.fits() {
        return give_up(facts, Why::NotWanted);
    }
    match (pending.rotate_key, facts.temporary) {
        (false, _) => Step::Request(Slot::Current),
        (true, Some(_)) => Step::Request(Slot::Temporary),
        (true, None) => Step::MakeKey,
    }
}

fn issued(facts: &Facts, pending: &Pending, new: &Certificate, order: &Order) -> Step {
    if !facts.is_about(pending) {
        return give_up(facts, Why::Replaced);
    }
    if new.validity().is_over(order.now) {
        return give_up(facts, Why::Expired);
    }
    match facts.slot_of(new) {
        Some(slot) => Step::Ask(slot),
        None => give_up(facts, Why::KeyLost),
    }
}

/// Forward, unless that is no way any more and the pair in place is a good one.
fn accepted(facts: &Facts, pending: &Pending, new: &Certificate, order: &Order) -> Step {
    let is_in_place = facts.certificate.as_ref().is_some_and(|old| old.digest() == new.digest());
    let stands = facts.stands(order.now);
    if stands && !is_in_place && !facts.is_about(pending) {
        return give_up(facts, Why::Replaced);
    }
    match facts.slot_of(new) {
        Some(Slot::Temporary) if stands && new.validity().is_over(order.now) => give_up(facts, Why::Expired),
        Some(Slot::Temporary) if stands && !order.can_move => give_up(facts, Why::KeyStays),
        Some(Slot::Temporary) => Step::MoveKey,
        Some(Slot::Current) if is_in_place => Step::Finish,
        // Where the old one does not fit, even one that is over is better: it can be renewed.
        Some(Slot::Current) if facts.fits() && new.validity().is_over(order.now) => {
            give_up(facts, Why::Expired)
        }
        Some(Slot::Current) => Step::Import,
        None => give_up(facts, Why::KeyLost),
    }
}

/// First the key, then the journal, which is what remembers the key. A key that the certificate in place needs stays.
fn give_up(facts: &Facts, why: Why) -> Step {
    match facts.temporary {
        Some(_) if facts.place() != Some(Slot::Temporary) => Step::DeleteKey,
        _ => Step::GiveUp(why),
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
