//! The simulator's clock: the machine's time plus an offset, or a frozen instant, and its two text forms.
//!
//! It does not know what the time is used for.

use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What time the cloud believes it is. Token expiry, `Date`, `Retry-After` dates and all timestamps use it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Clock {
    /// Seconds added to the machine's time; negative for a cloud that is behind.
    pub(crate) offset_secs: i64,
    /// When set, time stands still here (Unix seconds) and the offset is not used.
    pub(crate) frozen_at: Option<i64>,
}

impl Clock {
    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub(crate) fn now_ms(&self) -> i64 {
        let millis = |secs: i64| secs.saturating_mul(1000);
        match self.frozen_at {
            Some(secs) => millis(secs),
            None => machine_ms().saturating_add(millis(self.offset_secs)),
        }
    }
}

/// The machine's own time in milliseconds since the Unix epoch.
#[must_use]
pub(crate) fn machine_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// `2025-02-03T04:05:06.789Z`, as DPS writes its timestamps. Years are held to 1970-9999.
#[must_use]
pub(crate) fn iso(ms: i64) -> String {
    let ms = ms.clamp(0, LAST_MS);
    let (secs, day) = (ms / 1000, ms / 86_400_000);
    let (year, month, dom) = civil(day);
    let (h, m, s) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{dom:02}T{h:02}:{m:02}:{s:02}.{:03}Z", ms % 1000)
}

/// `Mon, 03 Feb 2025 04:05:06 GMT`, as HTTP writes dates.
#[must_use]
pub(crate) fn http_date(ms: i64) -> String {
    let since = Duration::from_millis(u64::try_from(ms.clamp(0, LAST_MS)).unwrap_or_default());
    httpdate::fmt_http_date(UNIX_EPOCH + since)
}

/// Year, month and day of month of a day counted from 1970-01-01 (Gregorian, days >= 0).
fn civil(day: i64) -> (i64, i64, i64) {
    // Count from 0000-03-01, so that the leap day is the last of its year.
    let z = day + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

/// 9999-12-31T23:59:59.999Z: neither text form has room for later.
const LAST_MS: i64 = 253_402_300_799_999;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_as_the_calendar_does() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_738_555_506_789, "2025-02-03T04:05:06.789Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
            (i64::MIN, "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso(ms), text);
        }
        assert_eq!(http_date(1_738_555_506_789), "Mon, 03 Feb 2025 04:05:06 GMT");
    }

    #[test]
    fn a_frozen_clock_ignores_its_offset() {
        let clock = Clock { offset_secs: 500, frozen_at: Some(1_893_456_030) };
        assert_eq!(clock.now_ms(), 1_893_456_030_000);
        let ahead = Clock { offset_secs: 3600, frozen_at: None };
        assert!((ahead.now_ms() - machine_ms() - 3_600_000).abs() < 5_000);
        assert_eq!(Clock { offset_secs: i64::MAX, frozen_at: None }.now_ms(), i64::MAX);
    }
}
