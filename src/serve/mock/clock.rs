//! Time as the mock endpoint knows it: the real one, and what was added to it with `POST /clock/advance`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A clock that can be put forward, never back.
#[derive(Debug)]
pub(super) struct Clock {
    start: Instant,
    /// Unix time at the start, in milliseconds.
    base: u64,
    /// Milliseconds that were added.
    added: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        let base = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis);
        Clock { start: Instant::now(), base, added: AtomicU64::new(0) }
    }

    /// Milliseconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.base.saturating_add(millis(self.start.elapsed())).saturating_add(self.added.load(Ordering::Acquire))
    }

    /// Puts it forward; it stops a thousand years from now.
    pub(super) fn advance(&self, by: Duration) {
        const MOST: u64 = 1000 * 366 * 24 * 3600 * 1000;
        let add = |added: u64| Some(added.saturating_add(millis(by)).min(MOST));
        let _ = self.added.fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
    }
}

/// A duration in whole milliseconds.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Unix seconds as `2023-11-14T22:13:20Z`.
pub(super) fn rfc3339(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // The years of 400 have 146,097 days; counted from 1 March, leap days stand at the end of a year
    // (H. Hinnant, chrono-compatible low-level date algorithms, 2013).
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(rfc3339(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(rfc3339(4_102_444_800), "2100-01-01T00:00:00Z");
    }

    #[test]
    fn a_clock_goes_forward_only() {
        let clock = Clock::new();
        let before = clock.now();
        clock.advance(Duration::from_secs(60));
        assert!(clock.now() >= before + 60_000);
        clock.advance(Duration::MAX);
        assert!(clock.now() >= before + 60_000);
    }
}
