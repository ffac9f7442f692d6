//! Plain scalars: what `0o17`, `1_000` or `~` is, and how a number is written as text.
//!
//! The rules are those that Compose files are written against: YAML 1.2's words, numbers with underscores, and
//! octals with a bare leading zero as in YAML 1.1. `yes` and `no` are texts.

use crate::instant;
use crate::tree::Value;

/// The value of a plain scalar without a tag.
pub(crate) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Text(text.to_owned());
    }
    // A number that long is no number, and parsing it would cost.
    if text.len() > 400 {
        return Value::Text(text.to_owned());
    }
    if let Some(instant) = instant::canonical(text) {
        return Value::Text(instant);
    }
    let digits: String = text.chars().filter(|c| *c != '_').collect();
    if let Some(whole) = whole_number(&digits) {
        return Value::Int(whole);
    }
    match float(&digits) {
        Some(number) => Value::Float(number),
        None => Value::Text(text.to_owned()),
    }
}

/// A whole number of 64 bits, signed or not.
fn whole_number(text: &str) -> Option<i128> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefix = rest.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match prefix.as_deref() {
        Some("0x") => (16, rest.get(2..)?),
        Some("0o") => (8, rest.get(2..)?),
        Some("0b") => (2, rest.get(2..)?),
        Some(_) if rest.starts_with('0') => (8, rest.get(1..)?),
        _ => (10, rest),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let number = i128::from(u64::from_str_radix(digits, base).ok()?);
    let number = if negative { -number } else { number };
    (number >= i128::from(i64::MIN)).then_some(number)
}

/// Digits with at most one point and at most one exponent.
fn float(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (unsigned.get(..at)?, Some(unsigned.get(at + 1..)?)),
        None => (unsigned, None),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(part) || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !all_digits(digits) {
            return None;
        }
    }
    // A mantissa may end in its point, which Rust reads too.
    text.parse().ok()
}

/// A number as Compose writes it where a text is wanted: `1` for 1.0, with an exponent below 1e-4 and from 1e6 on.
pub(crate) fn float_text(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "NaN".to_owned()
        } else {
            format!("{}Inf", if number < 0.0 { '-' } else { '+' })
        };
    }
    let text = format!("{number:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return format!("{number}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
