//! Times of `expiry-time`: `YYYYMMDD`, `YYYYMMDDHHMM` or `YYYYMMDDHHMMSS`, in UTC with a final `Z`, else in the host's
//! zone.

/// Seconds by which the easternmost zone is ahead of UTC: there a local time comes first.
const EAST_MOST_SECONDS: i64 = 14 * 3600;

/// A moment at which a key ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// As if it were UTC, seconds since 1970.
    seconds: i64,
    /// Whether it was said in UTC.
    utc: bool,
}

impl Expiry {
    /// Reads one. `None` when it is none, or no day of the calendar.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (digits, utc) = match text.strip_suffix(['Z', 'z']) {
            Some(digits) => (digits, true),
            None => (text, false),
        };
        if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let field = |start: usize, length: usize| match digits.get(start..start + length) {
            Some(text) => text.parse::<i64>().ok(),
            None => Some(0),
        };
        let (year, month, day) = (field(0, 4)?, field(4, 2)?, field(6, 2)?);
        let (hour, minute, second) = (field(8, 2)?, field(10, 2)?, field(12, 2)?);
        let days = days_since_1970(year, month, day)?;
        // A leap second is the last of its minute.
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        Some(Self { seconds: days * 86400 + hour * 3600 + minute * 60 + second, utc })
    }

    /// Whether it has come at `now`. `local_offset_seconds` is how far the host's zone is ahead of UTC; when that is
    /// not known, a local time comes as early as it does anywhere.
    #[must_use]
    pub fn is_over(self, now_seconds: u64, local_offset_seconds: Option<i32>) -> bool {
        let ahead = if self.utc { 0 } else { local_offset_seconds.map_or(EAST_MOST_SECONDS, i64::from) };
        let now = i64::try_from(now_seconds).unwrap_or(i64::MAX);
        now >= self.seconds - ahead
    }
}

/// Days from 1 January 1970. `None` for what is no day.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap(year) { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month).ok()?.checked_sub(1)?;
    if year < 1970 || day < 1 || day > *lengths.get(index)? {
        return None;
    }
    // Leap days before 1 January of `year`, since year 1.
    let leaps = |year: i64| (year - 1) / 4 - (year - 1) / 100 + (year - 1) / 400;
    let before: i64 = lengths.iter().take(index).sum();
    Some((year - 1970) * 365 + leaps(year) - leaps(1970) + before + day - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a day is counted wrongly, or something else than a time is read as one.
    #[test]
    fn days_of_the_calendar() {
        // Each from `date -u -d … +%s`.
        let cases = [
            ("19700101Z", 0),
            ("20000229Z", 951_782_400),
            ("20261120Z", 1_795_132_800),
            ("202611202359Z", 1_795_219_140),
            ("20261120235959Z", 1_795_219_199),
            ("21000301Z", 4_107_542_400),
        ];
        for (text, seconds) in cases {
            assert_eq!(Expiry::parse(text), Some(Expiry { seconds, utc: true }), "{text}");
        }
        for text in [
            "",
            "Z",
            "2026112",
            "20261131",
            "20270229Z",
            "20261320",
            "20260001",
            "2026112024",
            "202611202400",
            "19691231",
            "2026-1-1",
            "٢٠٢٦١١٢٠",
        ] {
            assert_eq!(Expiry::parse(text), None, "{text}");
        }
    }

    /// Fails when: a key of an unknown zone lives longer than it does anywhere.
    #[test]
    fn a_local_time_without_a_zone_comes_early() {
        let utc = Expiry::parse("20261120Z").unwrap();
        let local = Expiry::parse("20261120").unwrap();
        let midnight = 1_795_132_800;
        assert!(utc.is_over(midnight, None) && !utc.is_over(midnight - 1, Some(3600)));
        assert!(local.is_over(midnight - 14 * 3600, None) && !local.is_over(midnight - 14 * 3600 - 1, None));
        assert!(local.is_over(midnight - 3600, Some(3600)) && !local.is_over(midnight, Some(-3600)));
    }
}
