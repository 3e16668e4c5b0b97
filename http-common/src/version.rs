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

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}
