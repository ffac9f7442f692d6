//! Durations in option values: `500ms`, `10s`, `2m`, `1h`; a plain number is seconds.

use std::time::Duration;

use crate::at::{ValueError, ValueErrorKind};
use crate::text::quote;

const EXPECTED: &str = "a duration such as 500ms, 10s, 2m or 1h";
const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;

/// Reads a duration from `min` to `max`.
///
/// # Errors
/// What is wrong and at which place: nothing there, no number, an unknown unit, or out of bounds.
pub fn parse_duration(text: &str, min: Duration, max: Duration) -> Result<Duration, ValueError> {
    let fail = |position, kind| Err(ValueError::new(text, position, kind));
    if text.is_empty() {
        return fail(0, ValueErrorKind::Empty { expected: EXPECTED });
    }
    let unit_start = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_start);
    let unit_ms = match unit {
        "ms" => 1,
        "" | "s" => SECOND_MS,
        "m" => MINUTE_MS,
        "h" => HOUR_MS,
        other => {
            return fail(unit_start, ValueErrorKind::Character { found: quote(other), expected: EXPECTED });
        }
    };
    if digits.is_empty() {
        return fail(0, ValueErrorKind::Character { found: quote(unit), expected: EXPECTED });
    }
    let value =
        digits.parse().ok().and_then(|number: u64| number.checked_mul(unit_ms)).map(Duration::from_millis);
    match value {
        Some(value) if value >= min && value <= max => Ok(value),
        Some(_) | None => {
            let (min, max) = (format_duration(min), format_duration(max));
            fail(0, ValueErrorKind::Bounds { found: quote(text), min, max })
        }
    }
}

/// The canonical text: a whole number of the largest unit that fits; less than a millisecond is dropped.
#[must_use]
pub fn format_duration(value: Duration) -> String {
    let ms = value.as_millis();
    let units = [("h", HOUR_MS), ("m", MINUTE_MS), ("s", SECOND_MS)];
    match units.into_iter().find(|(_, unit_ms)| ms > 0 && ms.is_multiple_of(u128::from(*unit_ms))) {
        Some((unit, unit_ms)) => format!("{}{unit}", ms / u128::from(unit_ms)),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests;
