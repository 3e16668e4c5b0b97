//! How a renewal goes, for status pages and metrics. Knows nothing of how it is done.

/// How a renewal goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// When the certificate in place expires, in seconds since 1970; none before the first look, or if there is none.
    pub not_after: Option<i64>,
    /// When the next renewal or attempt begins, in seconds since 1970; none if nothing is planned.
    pub next: Option<i64>,
    /// Why the last attempt failed, with its causes; none if it did not.
    pub last_error: Option<String>,
    /// Failed attempts in a row.
    pub failures: u32,
    /// Certificates asked for since the start.
    pub attempts: u64,
    /// Certificates renewed since the start.
    pub renewals: u64,
    /// How far the renewal has got that is under way: `preparing`, `issued` or `accepted`.
    pub stage: Option<&'static str>,
}
