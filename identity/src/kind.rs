//! The two kinds of identities, as the parameter `type` names them (spec identity-service, 5.4-5.8). Does not know who asks.

use crate::Error;

/// What an identity is good for: a hub, or the certificates of this site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One of a hub.
    Aziot,
    /// A certificate for a process.
    Local,
}

impl Kind {
    /// The kind that `given` names. Who names none means a hub, as all who wrote before there were local identities do.
    pub(crate) fn of(given: Option<&str>) -> Result<Self, Error> {
        match given {
            Some("aziot") | None => Ok(Self::Aziot),
            Some("local") => Ok(Self::Local),
            Some(given) => Err(bad_type("aziot or local", given)),
        }
    }

    /// Nothing but a hub's, where only those can be had.
    pub(crate) fn only_aziot(given: Option<&str>) -> Result<(), Error> {
        match given {
            Some("aziot") | None => Ok(()),
            Some(given) => Err(bad_type("aziot", given)),
        }
    }
}

fn bad_type(expected: &'static str, given: &str) -> Error {
    Error::BadType { expected, given: given.to_owned() }
}
