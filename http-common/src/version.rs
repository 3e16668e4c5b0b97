//! An API version: a date that orders. Knows nothing of routes.

use std::fmt;

/// A version of a service's API, such as `2021-05-01` (spec service-common, chapter 7).
///
/// Versions are ISO dates, so that their text order is their order in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ApiVersion(&'static str);

impl ApiVersion {
    /// The version with this date, `YYYY-MM-DD`.
    pub const fn new(date: &'static str) -> Self {
        Self(date)
    }

    /// The text as it travels in the `api-version` query parameter.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// The versions that have an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    first: ApiVersion,
    alone: bool,
}

impl Versions {
    /// `first` and all later ones.
    pub const fn since(first: ApiVersion) -> Self {
        Self { first, alone: false }
    }

    /// `version` and no other: a form of the API that was given up.
    pub const fn only(version: ApiVersion) -> Self {
        Self { first: version, alone: true }
    }

    /// Whether `version` is one of them.
    pub fn contains(self, version: ApiVersion) -> bool {
        if self.alone { version == self.first } else { version >= self.first }
    }

    /// The only version, where there is just one.
    pub const fn alone(self) -> Option<ApiVersion> {
        if self.alone { Some(self.first) } else { None }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.first, if self.alone { "only" } else { "or later" })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
