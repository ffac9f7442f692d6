//! The request of an HTTP client that wants a tunnel (RFC 9110, 9.3.6; RFC 9112), and what it is answered.
//!
//! Strict, since a proxy in front of us may read otherwise: lines end in CR LF, nothing is folded, no blank stands before
//! a colon. What follows the empty line is payload and is not touched.

use crate::target::{Target, TargetHost};

/// Longest head of a request, bytes: as most servers have it.
pub const HEAD_MAX_BYTES: usize = 8192;

const END: &[u8] = b"\r\n\r\n";

/// The head of a request as far as it has come.
#[derive(Debug, Clone, Default)]
pub struct Head {
    bytes: Vec<u8>,
}

/// What was taken of the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// How many; the others belong to the payload.
    pub count: usize,
    /// The head is whole.
    pub is_whole: bool,
}

/// A request for a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Where to.
    pub target: Target,
    /// What stands in `Proxy-Authorization`.
    pub authorization: Option<&'a str>,
}

/// Why a head is no request for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A byte that no head has: another protocol, most likely.
    #[error("not HTTP")]
    NotHttp,
    /// Longer than [`HEAD_MAX_BYTES`].
    #[error("the head is longer than {HEAD_MAX_BYTES} bytes")]
    TooLong,
    /// Not three words, or no version that is known.
    #[error("the request line is malformed")]
    RequestLine,
    /// Another method than CONNECT.
    #[error("the method is not CONNECT")]
    Method,
    /// Not `HOST:PORT`.
    #[error("the target is not HOST:PORT")]
    Target,
    /// A line that is no field, or a field twice that stands once.
    #[error("a field is malformed")]
    Field,
    /// Not one `Host` in a request of HTTP/1.1 (RFC 9112, 3.2).
    #[error("Host does not stand once")]
    Host,
}

/// What a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The tunnel is there.
    Established,
    /// It is no request.
    BadRequest,
    /// Nobody may go there.
    Forbidden,
    /// Only CONNECT.
    MethodNotAllowed,
    /// Name and password are wanted.
    AuthenticationRequired,
    /// It did not come in time.
    RequestTimeout,
    /// Its head is too long.
    HeadTooLarge,
    /// The target refuses, or there is no way to it.
    BadGateway,
    /// The target does not answer.
    GatewayTimeout,
}

impl Malformed {
    /// What the client is answered.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Malformed::Method => Status::MethodNotAllowed,
            Malformed::TooLong => Status::HeadTooLarge,
            Malformed::NotHttp
            | Malformed::RequestLine
            | Malformed::Target
            | Malformed::Field
            | Malformed::Host => Status::BadRequest,
        }
    }
}

impl Head {
    /// Takes what belongs to the head of bytes that have come.
    ///
    /// # Errors
    /// [`Malformed::NotHttp`] and [`Malformed::TooLong`], as soon as that is seen.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Taken, Malformed> {
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(byte, 0..=8 | 11..=12 | 14..=31 | 127) {
                return Err(Malformed::NotHttp);
            }
            if self.bytes.len() == HEAD_MAX_BYTES {
                return Err(Malformed::TooLong);
            }
            self.bytes.push(*byte);
            if self.bytes == b"\r\n" {
                // RFC 9112, 2.2: one empty line before the request is none.
                self.bytes.clear();
            }
            if self.bytes.ends_with(END) {
                return Ok(Taken { count: at + 1, is_whole: true });
            }
        }
        Ok(Taken { count: bytes.len(), is_whole: false })
    }

    /// Reads a whole head.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self) -> Result<Connect<'_>, Malformed> {
        let text = self.bytes.strip_suffix(END).ok_or(Malformed::RequestLine)?;
        let mut lines = lines(text);
        let (target, version) = request_line(lines.next().ok_or(Malformed::RequestLine)??)?;
        let (mut authorization, mut hosts) = (None, 0);
        for line in lines {
            let (name, value) = field(line?)?;
            if name.eq_ignore_ascii_case(b"host") {
                hosts += 1;
            } else if name.eq_ignore_ascii_case(b"proxy-authorization") {
                let value = str::from_utf8(value).map_err(|_| Malformed::Field)?;
                if authorization.replace(value).is_some() {
                    return Err(Malformed::Field);
                }
            }
        }
        if version == b"HTTP/1.1" && hosts != 1 {
            return Err(Malformed::Host);
        }
        Ok(Connect { target, authorization })
    }
}

/// The lines of a head; a CR or LF that stands alone is an error.
fn lines(text: &[u8]) -> impl Iterator<Item = Result<&[u8], Malformed>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = bytes.windows(2).position(|pair| pair == b"\r\n");
        let (line, behind) = match end {
            Some(at) => (bytes.get(..at)?, bytes.get(at + 2..)),
            None => (bytes, None),
        };
        rest = behind;
        let alone = line.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
        Some(if alone { Err(Malformed::Field) } else { Ok(line) })
    })
}

/// Target and version.
fn request_line(line: &[u8]) -> Result<(Target, &[u8]), Malformed> {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed::RequestLine);
    };
    if !is_token(method) || !matches!(version, b"HTTP/1.0" | b"HTTP/1.1") {
        return Err(Malformed::RequestLine);
    }
    if method != b"CONNECT" {
        return Err(Malformed::Method);
    }
    let target = str::from_utf8(target).ok().and_then(authority).ok_or(Malformed::Target)?;
    Ok((target, version))
}

/// `HOST:PORT`, IPv6 addresses in brackets (RFC 9112, 3.2.3).
fn authority(text: &str) -> Option<Target> {
    let (host, digits) = text.rsplit_once(':')?;
    let is_number = (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|port| is_number && *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(host) => {
            TargetHost::Ip(host.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?.to_canonical())
        }
        // Without brackets it has no colon.
        None => TargetHost::read(host).filter(|_| !host.contains(':'))?,
    };
    Some(Target { host, port })
}

/// Name and value, without blanks around the value.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed::Field)?;
    let (name, value) = line.split_at(colon);
    if !is_token(name) {
        return Err(Malformed::Field);
    }
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// RFC 9110, 5.6.2.
fn is_token(word: &[u8]) -> bool {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !word.is_empty() && word.iter().all(fits)
}

impl Status {
    /// The whole answer. Behind any but the first one the connection is closed.
    #[must_use]
    pub const fn answer(self) -> &'static str {
        match self {
            Status::Established => "HTTP/1.1 200 Connection established\r\n\r\n",
            Status::BadRequest => {
                "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Status::Forbidden => "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            Status::MethodNotAllowed => {
                "HTTP/1.1 405 Method Not Allowed\r\nAllow: CONNECT\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Status::AuthenticationRequired => {
                "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"portway\"\r\n\
                 Connection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Status::RequestTimeout => {
                "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Status::HeadTooLarge => {
                "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Status::BadGateway => {
                "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Status::GatewayTimeout => {
                "HTTP/1.1 504 Gateway Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
        }
    }
}

#[cfg(test)]
mod tests;
