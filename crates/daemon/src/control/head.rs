//! The head of a request, checked by one strict reading: RFC 9112 without what it allows for the sake
//! of old peers. Pure.

/// Longest head, bytes.
pub(crate) const HEAD_BYTES: usize = 16 << 10;

/// Longest request line, bytes.
const LINE_BYTES: usize = 8 << 10;

/// Most header fields.
const FIELDS_MAX: usize = 100;

/// A head that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// HTTP status.
    pub(crate) status: u16,
    /// Why.
    pub(crate) text: String,
}

fn refused<T>(status: u16, text: &str) -> Result<T, Refused> {
    Err(Refused { status, text: text.into() })
}

/// Whether `bytes` hold a whole head, which is then a good one. What follows it is not looked at.
pub(crate) fn is_complete(bytes: &[u8]) -> Result<bool, Refused> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let head = end.map_or(bytes, |end| &bytes[..end]);
    let line = head.windows(2).position(|window| window == b"\r\n").unwrap_or(head.len());
    if line > LINE_BYTES {
        return refused(414, "the request line is too long");
    }
    if head.len() > HEAD_BYTES {
        return refused(431, "the head is too long");
    }
    if is_broken(head, end.is_some()) {
        return refused(400, "a line of the head does not end in CR LF");
    }
    if end.is_none() {
        return Ok(false);
    }
    check(head).map(|()| true)
}

/// Whether a CR or LF stands alone. The last byte of a head that goes on may be half of a pair.
fn is_broken(head: &[u8], whole: bool) -> bool {
    let alone = |at: usize| match head[at] {
        b'\r' => head.get(at + 1).map_or(whole, |next| *next != b'\n'),
        b'\n' => at == 0 || head[at - 1] != b'\r',
        _ => false,
    };
    (0..head.len()).any(alone)
}

fn check(head: &[u8]) -> Result<(), Refused> {
    let Ok(text) = std::str::from_utf8(head) else { return refused(400, "the head is not text") };
    let mut lines = text.split("\r\n");
    request_line(lines.next().unwrap_or_default())?;
    let (mut count, mut length, mut coding) = (0, false, false);
    for line in lines {
        count += 1;
        if count > FIELDS_MAX {
            return refused(431, "too many header fields");
        }
        let Some((name, value)) = line.split_once(':') else {
            return refused(400, "a header field has no colon");
        };
        if name.is_empty() || !name.bytes().all(is_token) {
            return refused(400, "a header field has a malformed name");
        }
        let value = value.trim_matches([' ', '\t']);
        if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
            return refused(400, "a header field has a control character");
        }
        if name.eq_ignore_ascii_case("content-length") {
            if length || value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                return refused(400, "Content-Length is not one number");
            }
            match value.parse::<usize>() {
                Ok(bytes) if bytes <= crate::http::LIST_BYTES => length = true,
                _ => return refused(413, "the body is too long"),
            }
        }
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if coding || !value.eq_ignore_ascii_case("chunked") {
                return refused(400, "Transfer-Encoding is not `chunked`");
            }
            coding = true;
        }
    }
    if length && coding {
        return refused(400, "Content-Length and Transfer-Encoding stand together");
    }
    Ok(())
}

fn request_line(line: &str) -> Result<(), Refused> {
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return refused(400, "the request line is malformed");
    };
    if method.is_empty() || !method.bytes().all(is_token) {
        return refused(400, "the method is malformed");
    }
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return refused(505, "the version of HTTP is neither 1.1 nor 1.0");
    }
    if method == "CONNECT" {
        return refused(405, "this resource has no such method");
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refused(400, "the request target is not a path");
    }
    Ok(())
}

/// `tchar` of RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
