//! Durations, sizes, numbers and command lines as Compose writes them.

use crate::tree::Value;

/// Nanoseconds of each unit, the longer names first.
const UNITS: [(&str, i128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// `90s` as `1m30s`; `None` when the text is no duration of 64 bits of nanoseconds.
pub(crate) fn duration(text: &str) -> Option<String> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some("0s".to_owned());
    }
    let mut total = 0_i128;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(digits)?;
        let (unit, size) = UNITS.iter().find(|(unit, _)| {
            after.strip_prefix(unit).is_some_and(|left| {
                left.is_empty() || left.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            })
        })?;
        total = total.checked_add(times(number, *size)?)?;
        rest = after.strip_prefix(unit)?;
        if rest.is_empty() {
            break;
        }
    }
    let total = if negative { -total } else { total };
    i64::try_from(total).is_ok().then(|| print_duration(total))
}

/// `1.5` times `size`.
fn times(number: &str, size: i128) -> Option<i128> {
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && part.is_empty()) || part.contains('.') || whole.len() > 20 {
        return None;
    }
    let mut total = if whole.is_empty() { 0 } else { whole.parse::<i128>().ok()?.checked_mul(size)? };
    let mut share = size;
    for digit in part.bytes() {
        share = size.min(share);
        share /= 10;
        total += i128::from(digit - b'0') * share;
    }
    Some(total)
}

fn print_duration(nanoseconds: i128) -> String {
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let n = nanoseconds.abs();
    let text = match n {
        0 => return "0s".to_owned(),
        1..1_000 => format!("{n}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(n, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(n, 1_000_000)),
        _ => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    };
    format!("{sign}{text}")
}

/// `n / unit` with as many digits after the point as there are.
fn fraction(n: i128, unit: i128) -> String {
    let width = unit.ilog10() as usize;
    let part = format!("{:0width$}", n % unit);
    let part = part.trim_end_matches('0');
    if part.is_empty() { (n / unit).to_string() } else { format!("{}.{part}", n / unit) }
}

/// `1.5g` in bytes; `None` when the text is no size.
pub(crate) fn bytes(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    if !number.starts_with(|c: char| c.is_ascii_digit()) || number.len() > 30 {
        return None;
    }
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let letter = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')) {
        Some(letter) => letter,
        None => unit.as_str(),
    };
    let power = match letter {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let size: f64 = number.parse().ok()?;
    let bytes = size * 1024_f64.powi(power);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a part of a byte is left out; the bound was checked"
    )]
    (bytes < 9.2e18).then_some(bytes as i128)
}

/// A number of which as many digits are kept as single precision has.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 9e15")]
        return Value::Int(value as i128);
    }
    #[expect(clippy::cast_possible_truncation, reason = "what single precision cannot hold is left out")]
    let single = value as f32;
    Value::Float(single.to_string().parse().unwrap_or(value))
}

/// A command line as words, the way a shell splits one: quotes, `\`, and an end at `|`, `&`, `;`, `<` or `>`; `None`
/// when a quote is open at the end.
pub(crate) fn shell_words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (Some(_), '\\') => {
                let next = chars.next()?;
                let word = word.get_or_insert_default();
                if !matches!(next, '"' | '\\' | '$' | '`') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, '"' | '\'') => {
                word.get_or_insert_default();
                quote = Some(c);
            }
            (None, ' ' | '\t' | '\r' | '\n') => words.extend(word.take()),
            (None, '|' | '&' | ';' | '<' | '>') => {
                words.extend(word.take());
                return Some(words);
            }
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_in_one_way() {
        let cases = [
            ("90s", Some("1m30s")),
            ("1.5h", Some("1h30m0s")),
            ("500ms", Some("500ms")),
            ("1us", Some("1µs")),
            ("0", Some("0s")),
            ("-5s", Some("-5s")),
            ("1h1h", Some("2h0m0s")),
            (".5s", Some("500ms")),
            ("1h1.5s", Some("1h0m1.5s")),
            ("1 s", None),
            ("1d", None),
            ("", None),
            ("s", None),
            ("1..5s", None),
            ("2562048h", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(duration(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes() {
        let cases = [
            ("1g", Some(1 << 30)),
            ("1.5gb", Some(3 << 29)),
            ("1 gb", Some(1 << 30)),
            ("1GiB", Some(1 << 30)),
            ("10B", Some(10)),
            ("1.1m", Some(1_153_433)),
            ("1ib", Some(1)),
            (".5g", None),
            ("1x", None),
            ("-1", None),
            ("99999999999p", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(bytes(text), wanted, "{text}");
        }
    }

    #[test]
    fn commands_are_split_as_a_shell_does() {
        let cases: [(&str, Option<&[&str]>); 8] = [
            ("echo \"a b\" c", Some(&["echo", "a b", "c"])),
            ("a  '' x", Some(&["a", "", "x"])),
            ("a\\nb", Some(&["anb"])),
            ("a #b", Some(&["a", "#b"])),
            ("a | b && c", Some(&["a"])),
            ("", Some(&[])),
            ("unbalanced 'x", None),
            ("a \"b\\n\"", Some(&["a", "b\\n"])),
        ];
        for (text, wanted) in cases {
            assert_eq!(
                shell_words(text).as_deref(),
                wanted.map(|w| w.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{text}"
            );
        }
    }
}
