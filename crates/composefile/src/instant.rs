//! Dates and times, which YAML reads where no text was marked: they become texts that name the instant in full.

/// `2020-01-01` as `2020-01-01 00:00:00 +0000 UTC`; `None` when the text is no date.
pub(crate) fn canonical(text: &str) -> Option<String> {
    let mut rest = text;
    let year = number(&mut rest, 4, 4)?;
    let month = number(skip(&mut rest, "-")?, 1, 2)?;
    let day = number(skip(&mut rest, "-")?, 1, 2)?;
    if !(1..=12).contains(&month) || day < 1 || day > days(year, month) {
        return None;
    }
    let date = format!("{year:04}-{month:02}-{day:02}");
    if rest.is_empty() {
        return Some(format!("{date} 00:00:00 +0000 UTC"));
    }
    let blank = rest.starts_with(' ');
    rest = rest.strip_prefix(['t', 'T', ' '])?;
    let hour = number(&mut rest, 1, 2)?;
    let minute = number(skip(&mut rest, ":")?, 1, 2)?;
    let second = number(skip(&mut rest, ":")?, 1, 2)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let fraction = fraction(&mut rest)?;
    let time = format!("{date} {hour:02}:{minute:02}:{second:02}{fraction}");
    match rest {
        "" if blank => Some(format!("{time} +0000 UTC")),
        "Z" if !blank => Some(format!("{time} +0000 UTC")),
        zone if !blank => {
            let zone = offset(zone)?;
            Some(format!("{time} {zone} {zone}"))
        }
        _ => None,
    }
}

/// Takes a number of `least` to `most` digits.
fn number(rest: &mut &str, least: usize, most: usize) -> Option<u32> {
    let digits = rest.bytes().take(most).take_while(u8::is_ascii_digit).count();
    if digits < least {
        return None;
    }
    let (taken, left) = rest.split_at_checked(digits)?;
    *rest = left;
    taken.parse().ok()
}

fn skip<'r, 't>(rest: &'r mut &'t str, sign: &str) -> Option<&'r mut &'t str> {
    *rest = rest.strip_prefix(sign)?;
    Some(rest)
}

/// Takes `.10` and gives `.1`.
fn fraction(rest: &mut &str) -> Option<String> {
    let Some(after) = rest.strip_prefix('.') else { return Some(String::new()) };
    let digits = after.bytes().take_while(u8::is_ascii_digit).count();
    let (taken, left) = after.split_at_checked(digits)?;
    *rest = left;
    let kept = taken.get(..taken.len().min(9))?.trim_end_matches('0');
    match (taken.is_empty(), kept.is_empty()) {
        (true, _) => None,
        (false, true) => Some(String::new()),
        (false, false) => Some(format!(".{kept}")),
    }
}

/// `-05:00` as `-0500`.
fn offset(zone: &str) -> Option<String> {
    let bytes = zone.as_bytes();
    let shaped = bytes.len() == 6
        && matches!(bytes.first(), Some(b'+' | b'-'))
        && bytes.get(3) == Some(&b':')
        && [1, 2, 4, 5].iter().all(|at| bytes.get(*at).is_some_and(u8::is_ascii_digit));
    shaped.then(|| zone.replace(':', ""))
}

fn days(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn dates_and_times() {
        let cases = [
            ("2020-01-01", Some("2020-01-01 00:00:00 +0000 UTC")),
            ("2020-1-1", Some("2020-01-01 00:00:00 +0000 UTC")),
            ("2001-12-14t21:59:43.10-05:00", Some("2001-12-14 21:59:43.1 -0500 -0500")),
            ("2020-01-01T00:00:00Z", Some("2020-01-01 00:00:00 +0000 UTC")),
            ("2020-01-01 10:00:00", Some("2020-01-01 10:00:00 +0000 UTC")),
            ("2020-01-01 10:00:00.5 +2", None),
            ("2021-02-29", None),
            ("2020-13-01", None),
            ("20-1-1", None),
            ("2020-01-01x", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(canonical(text).as_deref(), wanted, "{text}");
        }
    }
}
