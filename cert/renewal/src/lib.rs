//! Keeps a certificate in certd and its key in keyd valid: when to renew, and how to exchange both so that after a crash at
//! any moment they fit together. Used by certd for EST identities and by identityd for the device identity.
//!
//! ```text
//!   Renewal (engine.rs) ── looks at ──► Facts: journal (journal.rs), certificate (certificate.rs), keys
//!      │                                  │
//!      │ does, by an Actor                ▼ decides (step.rs, pure)
//!      └────────────────────────────── Step: Begin · MakeKey · Request · Ask · MoveKey · Import · Finish
//!
//!   When: Policy (policy.rs, pure); waits for the wall clock, which may be set (clock.rs)
//! ```
//!
//! It is a commit in two phases. The new key and certificate are made beside the old ones and written down as issued. Who must
//! accept the certificate is then asked; only when it is accepted, which is written down too, do they take the old ones'
//! place. Key and certificate are in different daemons, so that takes two steps, and [`Renewal::pair`] knows which pair is
//! good between them. Knows no services: what is made, asked and exchanged is the [`Actor`]'s business.

mod actor;
mod certificate;
mod clock;
mod engine;
mod error;
mod journal;
mod pace;
mod policy;
mod status;
mod step;

pub use actor::{Actor, Verdict};
pub use certificate::{BadCertificate, Certificate, Digest, KeyKind, KeyPrint};
pub use clock::{Clock, WallClock};
pub use engine::{Hold, Pair, Renewal, Undisturbed};
pub use error::Error;
pub use journal::{Journal, JournalError, Memory};
pub use policy::{Policy, Span, Trouble, Validity};
pub use status::Status;
pub use step::{Facts, Order, Pending, Slot, Stage, Step, Stuck, Why, good_pair, next};
