//! Percent-encoding, undone once and after the login was cut.

use std::fmt::Write as _;

use super::error::{LoginErrorKind, quote};

/// `@` encoded twice, as programs write it that encode a login which was encoded already. It is `@` wherever it
/// stands; who means the three characters `%40` writes the `4` encoded too.
pub(super) const AT_TWICE: &str = "%2540";

/// `@` encoded once.
pub(super) const AT_ONCE: &str = "%40";

/// Which encodings a dialect knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// None.
    Nothing,
    /// That of `@`, once or twice.
    At,
    /// Every byte.
    Every,
}

/// The text that `part` stands for.
///
/// # Errors
/// What is wrong, and at which byte of `part`.
pub(super) fn decode(part: &str, coding: Coding) -> Result<String, (usize, LoginErrorKind)> {
    match coding {
        Coding::Nothing => Ok(part.to_owned()),
        Coding::At => Ok(part.replace(AT_TWICE, "@").replace(AT_ONCE, "@")),
        Coding::Every => every(part),
    }
}

fn every(part: &str) -> Result<String, (usize, LoginErrorKind)> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part;
    while let Some(at) = rest.find('%') {
        let (before, code) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        if let Some(after) = code.strip_prefix(AT_TWICE) {
            bytes.push(b'@');
            rest = after;
            continue;
        }
        let pair = code.get(1..3).filter(|pair| pair.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(byte) = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) else {
            return Err((part.len() - code.len(), LoginErrorKind::PercentPair));
        };
        if byte.is_ascii_control() {
            let found = quote(&char::from(byte).to_string());
            return Err((part.len() - code.len(), LoginErrorKind::Control(found)));
        }
        bytes.push(byte);
        rest = code.get(3..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    // Which of several encoded bytes it was is not worth telling.
    let first = part.find('%').unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| (first, LoginErrorKind::PercentText))?;
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err((first, LoginErrorKind::Control(quote(&c.to_string())))),
        None => Ok(text),
    }
}

/// `text` with every byte encoded that is a sign to us, to a shell, to scp, to rsync or in a URL. Dots stay where
/// `dots` says so.
pub(super) fn encode(text: &str, dots: Dots) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    let mut at_next = false;
    while let Some(c) = rest.next() {
        let plain = c.is_alphanumeric() || matches!(c, '-' | '_') || (c == '.' && dots == Dots::Stay);
        if plain && !at_next {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a String cannot fail.
                let _infallible = write!(out, "%{byte:02X}");
            }
        }
        at_next = c == '%' && rest.as_str().starts_with("40");
    }
    out
}

/// What becomes of dots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dots {
    /// They mean nothing there.
    Stay,
    /// They end the name of an instance.
    Encode,
}
