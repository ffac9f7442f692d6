use super::*;

const DAY: Duration = Duration::from_secs(86_400);

fn parse(text: &str) -> Result<Duration, String> {
    parse_duration(text, Duration::from_millis(10), DAY).map_err(|error| error.to_string())
}

#[test]
fn units_and_canonical_text() {
    let cases = [
        ("500ms", 500, "500ms"),
        ("10", 10_000, "10s"),
        ("10s", 10_000, "10s"),
        ("010s", 10_000, "10s"),
        ("1000ms", 1000, "1s"),
        ("1500ms", 1500, "1500ms"),
        ("60", 60_000, "1m"),
        ("2m", 120_000, "2m"),
        ("90s", 90_000, "90s"),
        ("90m", 5_400_000, "90m"),
        ("1h", 3_600_000, "1h"),
        ("24h", 86_400_000, "24h"),
        ("86400", 86_400_000, "24h"),
        ("10ms", 10, "10ms"),
    ];
    for (text, ms, canonical) in cases {
        let value = Duration::from_millis(ms);
        assert_eq!(parse(text), Ok(value));
        assert_eq!(format_duration(value), canonical);
        assert_eq!(parse(canonical), Ok(value));
    }
    assert_eq!(format_duration(Duration::ZERO), "0s");
    assert_eq!(format_duration(Duration::from_nanos(1_999_999)), "1ms");
    assert_eq!(format_duration(Duration::from_nanos(1)), "0s");
    assert_eq!(format_duration(Duration::MAX), "18446744073709551615999ms");
}

#[test]
fn malformed_durations_name_the_place() {
    let unexpected = |column, found| {
        format!("column {column}: unexpected `{found}`, expected a duration such as 500ms, 10s, 2m or 1h")
    };
    let outside = |text| format!("column 1: `{text}` is outside 10ms to 24h");
    let cases = [
        ("", "column 1: value is empty, expected a duration such as 500ms, 10s, 2m or 1h".to_owned()),
        ("s", unexpected(1, "s")),
        ("-1s", unexpected(1, "-1s")),
        ("+1s", unexpected(1, "+1s")),
        ("1.5s", unexpected(2, ".5s")),
        ("1 s", unexpected(2, " s")),
        ("10S", unexpected(3, "S")),
        ("1d", unexpected(2, "d")),
        ("1m30s", unexpected(2, "m30s")),
        ("10us", unexpected(3, "us")),
        ("never", unexpected(1, "never")),
        ("٣s", unexpected(1, "٣s")),
        ("0", outside("0")),
        ("9ms", outside("9ms")),
        ("25h", outside("25h")),
        ("86401", outside("86401")),
        ("18446744073709551615h", outside("18446744073709551615h")),
        ("99999999999999999999s", outside("99999999999999999999s")),
    ];
    for (text, message) in cases {
        assert_eq!(parse(text), Err(message), "{text:?}");
    }
}
