//! What renewal needs to have done, by whoever can do it. Knows neither how nor when.

use std::future::Future;
use std::time::Duration;

use crate::certificate::{Certificate, KeyKind, KeyPrint};
use crate::policy::Policy;
use crate::step::Slot;

/// What is done to one certificate and its key. Each may fail and be asked again, also after it was done.
pub trait Actor: Send + Sync + 'static {
    /// Why something was not done.
    type Error: std::error::Error + Send + Sync + 'static;

    /// When to renew, and how. Asked each time, for it may be configured anew.
    fn policy(&self) -> Policy;

    /// The certificate in place, in PEM; none if there is none.
    fn certificate(&self) -> impl Future<Output = Result<Option<String>, Self::Error>> + Send;

    /// The public key of the pair in `slot`; none if there is no such pair.
    fn key(&self, slot: Slot) -> impl Future<Output = Result<Option<KeyPrint>, Self::Error>> + Send;

    /// Why no new key pair could take the current one's place, for administrators; none if one could.
    fn obstacle(&self) -> impl Future<Output = Result<Option<String>, Self::Error>> + Send;

    /// Whether `error` says that a key may not be used, made or moved, which asking again does not change.
    fn is_refusal(error: &Self::Error) -> bool;

    /// The least pause before the next attempt, if somebody has asked for one with `error`.
    fn least_pause(error: &Self::Error) -> Option<Duration>;

    /// Makes the temporary key pair, unless there is one; of the kind `like`, unless something else is configured.
    fn make_key(&self, like: Option<KeyKind>) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Has a certificate issued for the key in `slot`, in place of `old`: a chain in PEM. Keeps it nowhere. If `old` has
    /// expired, by means of what the first one was got with.
    fn request(
        &self,
        slot: Slot,
        old: &Certificate,
    ) -> impl Future<Output = Result<String, Self::Error>> + Send;

    /// Whether `new`, with its key in `slot`, is accepted by all who must accept it. An error is no answer: they will be
    /// asked again.
    fn accept(
        &self,
        new: &Certificate,
        slot: Slot,
    ) -> impl Future<Output = Result<Verdict, Self::Error>> + Send;

    /// Gives the temporary key pair the place of the current one.
    fn move_key(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Gives `new` the place of the old certificate.
    fn import(&self, new: &Certificate) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Deletes the temporary key pair. That there is none is success.
    fn delete_key(&self) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What who must accept a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is good.
    Accepted,
    /// It is not, and will not become so: why.
    Refused(String),
}
