//! The first thing a program says to an X server, and the file that tells it what to show there.
//!
//! A connection begins with the byte order, the version, and the name and data of an authorization (X Window System
//! Protocol, 8). [`Setup`] reads that, and writes it with another authorization. The file is a list of authorizations, each for
//! a display ([`authority`]; as libXau has it, Xau(3)).

/// Name of the authorization that everybody knows: who shows the cookie is let in.
pub const MAGIC_COOKIE: &str = "MIT-MAGIC-COOKIE-1";

/// Length of such a cookie, bytes.
pub const COOKIE_BYTES: usize = 16;

/// Longest name and data of an authorization, bytes. The longest that there is has a name of 19 (`XDM-AUTHORIZATION-1`).
pub const NAME_MAX_BYTES: usize = 64;

/// See [`NAME_MAX_BYTES`]; tickets of Kerberos are not passed on.
pub const DATA_MAX_BYTES: usize = 256;

/// Port of display 0 (X Window System Protocol, B).
pub const FIRST_PORT: u16 = 6000;

/// Byte order, an unused byte, version, two lengths and two unused bytes.
const HEAD_BYTES: usize = 12;

/// Families of addresses in the file (`Xauth.h`): this host by its name, and any at all.
const LOCAL: u16 = 256;
const WILD: u16 = 65_535;

/// The beginning of a connection.
#[derive(Clone, PartialEq, Eq)]
pub struct Setup {
    /// Order, unused byte and version, as they came.
    version: [u8; 6],
    name: Vec<u8>,
    data: Vec<u8>,
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("version", &self.version).finish_non_exhaustive()
    }
}

/// What is the beginning of no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The first byte is no byte order.
    #[error("what is said is not X11")]
    Order,
    /// An authorization that is longer than any.
    #[error("an authorization that is too long")]
    Length,
}

impl Setup {
    /// Reads it off what has come: it and its length in bytes, or `None` when more has to come.
    ///
    /// # Errors
    /// [`SetupError`], as soon as that can be known.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, SetupError> {
        let number = match bytes.first() {
            None => return Ok(None),
            Some(b'B') => u16::from_be_bytes,
            Some(b'l') => u16::from_le_bytes,
            Some(_) => return Err(SetupError::Order),
        };
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let [v0, v1, v2, v3, v4, v5, n0, n1, d0, d1, _, _] = *head;
        let (name_bytes, data_bytes) = (usize::from(number([n0, n1])), usize::from(number([d0, d1])));
        if name_bytes > NAME_MAX_BYTES || data_bytes > DATA_MAX_BYTES {
            return Err(SetupError::Length);
        }
        let (data_at, end) = (padded(name_bytes), padded(name_bytes) + padded(data_bytes));
        let (Some(name), Some(data), true) =
            (rest.get(..name_bytes), rest.get(data_at..data_at + data_bytes), rest.len() >= end)
        else {
            return Ok(None);
        };
        let version = [v0, v1, v2, v3, v4, v5];
        Ok(Some((Self { version, name: name.to_vec(), data: data.to_vec() }, HEAD_BYTES + end)))
    }

    /// Whether this cookie is shown. How long that takes does not depend on what is shown.
    #[must_use]
    pub fn shows(&self, cookie: &[u8; COOKIE_BYTES]) -> bool {
        let Ok(shown) = <&[u8; COOKIE_BYTES]>::try_from(self.data.as_slice()) else { return false };
        let differs = shown.iter().zip(cookie).fold(0, |differs, (one, other)| differs | (one ^ other));
        std::hint::black_box(differs) == 0 && self.name == MAGIC_COOKIE.as_bytes()
    }

    /// The same with another authorization, of lengths that [`Setup::read`] takes.
    #[must_use]
    pub fn with(&self, name: &[u8], data: &[u8]) -> Vec<u8> {
        let length = |bytes: &[u8]| {
            let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            if self.version[0] == b'B' { length.to_be_bytes() } else { length.to_le_bytes() }
        };
        let mut bytes = [&self.version[..], &length(name), &length(data), &[0; 2]].concat();
        for field in [name, data] {
            bytes.extend_from_slice(field);
            bytes.resize(bytes.len() + padded(field.len()) - field.len(), 0);
        }
        bytes
    }
}

/// Fields end at a multiple of four bytes.
const fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(4)
}

/// The file of a program that is to show `cookie` at this display of its own host. Its name may change, so any is named
/// too.
#[must_use]
pub fn authority(host: &[u8], display: u16, cookie: &[u8; COOKIE_BYTES]) -> Vec<u8> {
    let mut file = Vec::new();
    for (family, address) in [(LOCAL, host), (WILD, &b""[..])] {
        file.extend(family.to_be_bytes());
        for field in [address, display.to_string().as_bytes(), MAGIC_COOKIE.as_bytes(), cookie] {
            let field = field.get(..usize::from(u16::MAX)).unwrap_or(field);
            file.extend(u16::try_from(field.len()).unwrap_or(u16::MAX).to_be_bytes());
            file.extend_from_slice(field);
        }
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: [u8; COOKIE_BYTES] = *b"0123456789abcdef";

    /// As libxcb says it, in this order.
    fn said(order: u8) -> Vec<u8> {
        let head: &[u8] = match order {
            b'l' => b"l\0\x0b\0\0\0\x12\0\x10\0\0\0",
            _ => b"B\0\0\x0b\0\0\0\x12\0\x10\0\0",
        };
        [head, MAGIC_COOKIE.as_bytes(), b"\0\0", &COOKIE].concat()
    }

    /// Fails when a beginning is read before it has come, or not when it has, in either order.
    #[test]
    fn a_beginning_is_read_when_it_is_whole() {
        for order in *b"lB" {
            let bytes = said(order);
            for end in 0..bytes.len() {
                assert_eq!(Setup::read(&bytes[..end]), Ok(None), "{end}");
            }
            let (setup, length) =
                Setup::read(&[&bytes[..], b"more"].concat()).expect("X11").expect("all of it");
            assert_eq!((length, setup.shows(&COOKIE)), (bytes.len(), true));
            assert_eq!(setup.with(MAGIC_COOKIE.as_bytes(), &COOKIE), bytes);
            let other = setup.with(b"OTHER", b"7bytes!");
            let (read, length) = Setup::read(&other).expect("X11").expect("all of it");
            assert_eq!((read.name.as_slice(), read.data.as_slice()), (&b"OTHER"[..], &b"7bytes!"[..]));
            assert_eq!((length, read.version), (other.len(), setup.version));
        }
    }

    /// Fails when another cookie, one of another name or length, or none is taken for the right one.
    #[test]
    fn only_the_cookie_is_the_cookie() {
        let (setup, _) = Setup::read(&said(b'l')).expect("X11").expect("all of it");
        for (name, data) in [
            (MAGIC_COOKIE, &b"0123456789abcdeF"[..]),
            (MAGIC_COOKIE, b"0123456789abcde"),
            (MAGIC_COOKIE, b"0123456789abcdef0"),
            (MAGIC_COOKIE, b""),
            ("", &COOKIE),
            ("MIT-MAGIC-COOKIE-2", &COOKIE),
        ] {
            let bytes = setup.with(name.as_bytes(), data);
            let (read, _) = Setup::read(&bytes).expect("X11").expect("all of it");
            assert!(!read.shows(&COOKIE), "{name} {data:?}");
        }
    }

    /// Fails when anything is waited for after what cannot be X11, or kept that is as long as it says.
    #[test]
    fn what_is_none_is_refused_at_once() {
        assert_eq!(Setup::read(b"GET / HTTP/1.1"), Err(SetupError::Order));
        assert_eq!(Setup::read(b"L"), Err(SetupError::Order));
        assert_eq!(Setup::read(b"l\0\x0b\0\0\0\x41\0\0\0\0\0"), Err(SetupError::Length));
        assert_eq!(Setup::read(b"B\0\0\x0b\0\0\0\0\x01\x01\0\0"), Err(SetupError::Length));
    }

    #[test]
    fn a_file_is_as_libxau_reads_it() {
        let file = authority(b"c1", 10, &COOKIE);
        let entry = |begin: &[u8]| {
            [begin, b"\0\x0210", b"\0\x12", MAGIC_COOKIE.as_bytes(), b"\0\x10", &COOKIE].concat()
        };
        assert_eq!(file, [entry(b"\x01\0\0\x02c1"), entry(b"\xff\xff\0\0")].concat());
    }
}
