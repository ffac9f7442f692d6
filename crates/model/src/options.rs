//! Small options of a device: enumerations, file ownership and mode.

use std::fmt;
use std::str::FromStr;

use crate::at::{ValueError, ValueErrorKind};
use crate::limits::GroupIds;
use crate::text::{quote, serde_by_text};

/// The words for yes, any letter case.
const TRUTHY: [&str; 4] = ["true", "yes", "on", "1"];
/// The words for no, any letter case.
const FALSY: [&str; 4] = ["false", "no", "off", "0"];

fn is_one_of(text: &str, words: &[&str]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// `Some` for a word for yes or no.
pub(crate) fn truth(text: &str) -> Option<bool> {
    if is_one_of(text, &TRUTHY) {
        Some(true)
    } else if is_one_of(text, &FALSY) {
        Some(false)
    } else {
        None
    }
}

/// The error of a text that is none of `expected`.
pub(crate) fn not_one_of(text: &str, expected: &'static str) -> ValueError {
    let kind = if text.is_empty() {
        ValueErrorKind::Empty { expected }
    } else {
        ValueErrorKind::NotOneOf { found: quote(text), expected }
    };
    ValueError::new(text, 0, kind)
}

/// Which side owns the listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Bind {
    /// The host listens, the target is in the instance.
    #[default]
    Host,
    /// The instance listens, the target is on the host.
    Instance,
}

impl FromStr for Bind {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "host" | "" => Ok(Self::Host),
            "instance" | "guest" | "container" => Ok(Self::Instance),
            _ => Err(not_one_of(text, "host or instance")),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Instance => "instance",
        })
    }
}

/// The PROXY protocol header sent to the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// None.
    #[default]
    Off,
    /// The text header, version 1.
    V1,
    /// The binary header, version 2.
    V2,
}

impl FromStr for ProxyProtocol {
    type Err = ValueError;

    /// Every word for yes is `v1`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        match (truth(text), text) {
            (Some(true), _) | (None, "v1") => Ok(Self::V1),
            (None, "v2") => Ok(Self::V2),
            (Some(false), _) => Ok(Self::Off),
            (None, _) => Err(not_one_of(text, "v1, v2, true or false")),
        }
    }
}

impl fmt::Display for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "false",
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// Whether a unix to unix device passes file descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum FdPassing {
    /// Yes.
    #[default]
    On,
    /// No: they are closed, the bytes go on.
    Off,
}

impl FromStr for FdPassing {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match truth(text) {
            Some(true) => Ok(Self::On),
            Some(false) => Ok(Self::Off),
            None => Err(not_one_of(text, "on or off")),
        }
    }
}

impl fmt::Display for FdPassing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
        })
    }
}

/// How datagrams stand in a byte stream, between udp and tcp or unix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UdpFraming {
    /// Not at all: a datagram is a write, and what one read gives is a datagram.
    Raw,
    /// Before each its length, 16 bits, high byte first, as DNS over TCP has it (RFC 1035, 4.2.2).
    Len16,
}

impl FromStr for UdpFraming {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "raw" => Ok(Self::Raw),
            "len16" => Ok(Self::Len16),
            _ => Err(not_one_of(text, "raw or len16")),
        }
    }
}

impl fmt::Display for UdpFraming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Len16 => "len16",
        })
    }
}

/// What a device follows when its instance is deleted and made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Follow {
    /// The instance it was bound to: a namesake does not get the device.
    Uuid,
    /// The name: whoever bears it gets the device.
    Name,
}

impl FromStr for Follow {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text {
            "uuid" => Ok(Self::Uuid),
            "name" => Ok(Self::Name),
            _ => Err(not_one_of(text, "uuid or name")),
        }
    }
}

impl fmt::Display for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uuid => "uuid",
            Self::Name => "name",
        })
    }
}

/// Permission bits of a socket file, 0 to 0777.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketMode(u16);

impl SocketMode {
    /// The mode `bits`; `None` above 0777.
    #[must_use]
    pub const fn new(bits: u16) -> Option<Self> {
        if bits <= 0o777 { Some(Self(bits)) } else { None }
    }

    /// Its bits, 0 to 0777.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }
}

impl Default for SocketMode {
    /// 0644, as Incus has it: only the owner can connect.
    fn default() -> Self {
        Self(0o644)
    }
}

impl FromStr for SocketMode {
    type Err = ValueError;

    /// Octal digits.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        const EXPECTED: &str = "an octal mode such as 0660";
        let fail = |position, kind| Err(ValueError::new(text, position, kind));
        if text.is_empty() {
            return fail(0, ValueErrorKind::Empty { expected: EXPECTED });
        }
        if let Some((position, c)) = text.char_indices().find(|(_, c)| !c.is_digit(8)) {
            let found = quote(&c.to_string());
            return fail(position, ValueErrorKind::Character { found, expected: EXPECTED });
        }
        match u16::from_str_radix(text, 8).ok().and_then(Self::new) {
            Some(mode) => Ok(mode),
            None => {
                let (min, max) = ("0000".to_owned(), "0777".to_owned());
                fail(0, ValueErrorKind::Bounds { found: quote(text), min, max })
            }
        }
    }
}

impl fmt::Display for SocketMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o}", self.0)
    }
}

/// Owner and mode of the socket file a device listens on. Ids are those of the listen side's user
/// namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SocketOwner {
    /// User, if not the creator.
    pub uid: Option<u32>,
    /// Group, if not the creator's.
    pub gid: Option<u32>,
    /// Permissions.
    pub mode: SocketMode,
}

/// Who the relay runs as (`security.uid`, `security.gid`, `security.groups`). Ids are those of the connect side's user
/// namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RunAs {
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Supplementary groups.
    pub groups: GroupIds,
}

/// Reads a number from `min` to `max`.
pub(crate) fn parse_number(text: &str, min: u32, max: u32) -> Result<u32, ValueError> {
    const EXPECTED: &str = "a number";
    let fail = |position, kind| Err(ValueError::new(text, position, kind));
    if text.is_empty() {
        return fail(0, ValueErrorKind::Empty { expected: EXPECTED });
    }
    if let Some((position, c)) = text.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        return fail(
            position,
            ValueErrorKind::Character { found: quote(&c.to_string()), expected: EXPECTED },
        );
    }
    match text.parse() {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) => {
            let (min, max) = (min.to_string(), max.to_string());
            fail(0, ValueErrorKind::Bounds { found: quote(text), min, max })
        }
    }
}

/// Reads a user or group id. `u32::MAX` is refused: to setresuid(2) and chown(2) it means "unchanged".
pub(crate) fn parse_id(text: &str) -> Result<u32, ValueError> {
    match parse_number(text, 0, u32::MAX)? {
        u32::MAX => Err(ValueError::new(text, 0, ValueErrorKind::IdReserved)),
        id => Ok(id),
    }
}

serde_by_text!(Bind, ProxyProtocol, FdPassing, UdpFraming, Follow, SocketMode);

#[cfg(test)]
mod tests;
