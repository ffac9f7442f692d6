//! Names in URLs: RFC 3986, section 2.

use std::fmt::Write as _;

/// Encodes everything but unreserved characters, so that a name can be a path segment or the
/// value in a query whatever it holds.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                // Writing to a string does not fail.
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// Undoes it. `None` for a broken escape or a result that is not UTF-8.
pub(crate) fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        out.push(u8::try_from(digit(0)? * 16 + digit(1)?).ok()?);
        rest = tail;
    }
    String::from_utf8(out).ok()
}

/// Whether a name can be asked for: the empty one and the dots would ask for something else, and
/// one with a slash is an error of the server's instead of its "not found".
pub(crate) fn addressable(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_what_would_change_the_request() {
        assert_eq!(percent_encode("c1-A_b.~"), "c1-A_b.~");
        assert_eq!(percent_encode("a/b?c&d=%e f\r\nü"), "a%2Fb%3Fc%26d%3D%25e%20f%0D%0A%C3%BC");
    }

    #[test]
    fn decoding_undoes_encoding() {
        for text in ["", "c1", "a/b?c&d=%e f\r\nü", "100%"] {
            assert_eq!(percent_decode(&percent_encode(text)).as_deref(), Some(text));
        }
        for broken in ["%", "%4", "%zz", "%ff", "a%+1"] {
            assert_eq!(percent_decode(broken), None, "{broken}");
        }
    }
}
