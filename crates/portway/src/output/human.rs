//! Numbers as people read them.

/// Bytes with a binary unit: `0 B`, `999 B`, `1.5 KiB`, `12.0 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    // Tenths of the unit, rounded; u128 holds ten times any u64.
    let mut unit_bytes: u128 = 1024;
    for unit in UNITS {
        let tenths = (u128::from(count) * 10 + unit_bytes / 2) / unit_bytes;
        if tenths < 10_240 || unit == "EiB" {
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        unit_bytes *= 1024;
    }
    format!("{count} B")
}

/// A duration in its two largest units: `45s`, `3m 5s`, `2h 0m`, `8d 4h`.
pub(crate) fn seconds(total: u64) -> String {
    let (days, hours, minutes, seconds) = (total / 86_400, total / 3600 % 24, total / 60 % 60, total % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// `1 device`, `2 devices`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_change_unit_without_a_gap() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_524, "1023.9 KiB"),
            (1_048_525, "1.0 MiB"),
            (10 << 30, "10.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (number, want) in cases {
            assert_eq!(bytes(number), want);
        }
    }

    #[test]
    fn durations_show_two_units() {
        let cases = [(0, "0s"), (59, "59s"), (185, "3m 5s"), (7200, "2h 0m"), (705_600, "8d 4h")];
        for (number, want) in cases {
            assert_eq!(seconds(number), want);
        }
    }
}
