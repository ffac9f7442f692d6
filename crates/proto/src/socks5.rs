//! SOCKS version 5 as a server hears and says it: RFC 1928, and RFC 1929 for name and password.
//!
//! A client greets, says who it is if that is asked for, and makes one request. Each of these is heard by a [`Hearing`],
//! which never takes a byte behind the end of its message: what follows the request is the client's first payload, and
//! stays in the socket's queue for whoever carries the connection.

mod datagram;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::target::{Target, TargetHost};

pub use datagram::{HEADER_MAX_BYTES, Wrapped, unwrap, wrap};

/// Longest message: name and password (RFC 1929, 2).
const MESSAGE_MAX_BYTES: usize = 1 + 1 + 255 + 1 + 255;

/// Versions of the protocol, and of name and password.
const VERSION: u8 = 5;
const LOGIN_VERSION: u8 = 1;

/// Types of addresses.
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Which message comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// The first one: how the client can say who it is.
    Greeting,
    /// Name and password.
    Login,
    /// What it wants.
    Request,
}

/// A message as far as it has been heard.
#[derive(Debug, Clone)]
pub struct Hearing {
    expected: Expected,
    bytes: [u8; MESSAGE_MAX_BYTES],
    length: usize,
}

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Which of the two methods that are known here the client offers.
    Greeting {
        /// To say nothing (0).
        none: bool,
        /// Name and password (2).
        login: bool,
    },
    /// Who it says it is.
    Login {
        /// Its name.
        user: &'a [u8],
        /// Its password.
        password: &'a [u8],
    },
    /// What it wants.
    Request(Request),
}

/// What a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A connection.
    Connect(Target),
    /// Somebody's connection to it.
    Bind(Target),
    /// Datagrams: those that it sends from there, as far as that is known.
    Associate(Target),
}

/// Why bytes are no message. After a request of these kinds the client can be told ([`Malformed::reply`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Another version of SOCKS, or another protocol.
    #[error("not SOCKS version 5")]
    Version,
    /// Name and password of another version than RFC 1929.
    #[error("name and password of an unknown version")]
    LoginVersion,
    /// No such command.
    #[error("unknown command {0}")]
    Command(u8),
    /// No such type of address.
    #[error("unknown type of address {0}")]
    AddressType(u8),
    /// A name that no host has.
    #[error("no name of a host")]
    Name,
    /// A datagram that is shorter than what stands before its payload, or whose reserved bytes are not zero.
    #[error("no header of a datagram")]
    Datagram,
    /// A part of a datagram, which RFC 1928, 7 lets us drop.
    #[error("a fragment")]
    Fragment,
}

impl Malformed {
    /// What a client is told whose request this was; nothing when it was another message.
    #[must_use]
    pub const fn reply(self) -> Option<Reply> {
        match self {
            Malformed::Command(_) => Some(Reply::CommandNotSupported),
            Malformed::AddressType(_) => Some(Reply::AddressTypeNotSupported),
            Malformed::Name => Some(Reply::HostUnreachable),
            Malformed::Version | Malformed::LoginVersion | Malformed::Datagram | Malformed::Fragment => None,
        }
    }
}

/// What became of a request (RFC 1928, 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// It is so.
    Succeeded = 0,
    /// Something is wrong here.
    GeneralFailure = 1,
    /// Not to that address.
    NotAllowed = 2,
    /// There is no way to that network.
    NetworkUnreachable = 3,
    /// Nobody answers, or the name is not known.
    HostUnreachable = 4,
    /// It was refused.
    ConnectionRefused = 5,
    /// It took too long.
    TtlExpired = 6,
    /// No such command here.
    CommandNotSupported = 7,
    /// No such type of address.
    AddressTypeNotSupported = 8,
}

impl Hearing {
    /// Nothing has been heard of it.
    #[must_use]
    pub const fn of(expected: Expected) -> Hearing {
        Hearing { expected, bytes: [0; MESSAGE_MAX_BYTES], length: 0 }
    }

    /// Where the next bytes go: no more than belong to the message for certain. Empty once it is whole.
    pub fn room(&mut self) -> &mut [u8] {
        let wanted = self.wanted();
        self.bytes.get_mut(self.length..wanted).unwrap_or_default()
    }

    /// `count` bytes have been put into the room; the message, once it is whole.
    ///
    /// # Errors
    /// As soon as a byte cannot be right.
    pub fn filled(&mut self, count: usize) -> Result<Option<Heard<'_>>, Malformed> {
        self.length = (self.length + count).min(self.wanted());
        self.check()?;
        if self.length < self.wanted() {
            return Ok(None);
        }
        self.read().map(Some)
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(..self.length)?.get(at).copied()
    }

    /// How many bytes it has at least, as far as that can be seen.
    fn wanted(&self) -> usize {
        let length_at = |at: usize| self.byte(at).map(usize::from);
        match self.expected {
            Expected::Greeting => 2 + length_at(1).unwrap_or(0),
            Expected::Login => match length_at(1) {
                None => 2,
                Some(user) => 3 + user + length_at(2 + user).unwrap_or(0),
            },
            Expected::Request => match (self.byte(3), length_at(4)) {
                (None, _) => 4,
                (Some(IPV4), _) => 10,
                (Some(IPV6), _) => 22,
                (Some(NAME), None) => 5,
                (Some(NAME), Some(name)) => 7 + name,
                (Some(_), _) => 4,
            },
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        let is = |version: u8| self.byte(0).is_none_or(|byte| byte == version);
        match self.expected {
            Expected::Greeting | Expected::Request if !is(VERSION) => Err(Malformed::Version),
            Expected::Login if !is(LOGIN_VERSION) => Err(Malformed::LoginVersion),
            Expected::Greeting | Expected::Login => Ok(()),
            // The command before the type: who asks for what is not there is told just that.
            Expected::Request => match (self.byte(1), self.byte(3)) {
                (Some(command), Some(_)) if !(1..=3).contains(&command) => Err(Malformed::Command(command)),
                (_, None | Some(IPV4 | IPV6 | NAME)) => Ok(()),
                (_, Some(kind)) => Err(Malformed::AddressType(kind)),
            },
        }
    }

    fn read(&self) -> Result<Heard<'_>, Malformed> {
        let message = self.bytes.get(..self.length).unwrap_or_default();
        match self.expected {
            Expected::Greeting => {
                let methods = message.get(2..).unwrap_or_default();
                Ok(Heard::Greeting { none: methods.contains(&0), login: methods.contains(&2) })
            }
            Expected::Login => {
                let user = usize::from(message.get(1).copied().unwrap_or(0));
                let (user, password) = message.get(2..).unwrap_or_default().split_at(user);
                Ok(Heard::Login { user, password: password.get(1..).unwrap_or_default() })
            }
            Expected::Request => {
                let (target, _) = target(message.get(3..).unwrap_or_default())?;
                Ok(Heard::Request(match self.byte(1) {
                    Some(2) => Request::Bind(target),
                    Some(3) => Request::Associate(target),
                    _ => Request::Connect(target),
                }))
            }
        }
    }
}

/// Reads type, address and port; and how many bytes they have.
fn target(bytes: &[u8]) -> Result<(Target, usize), Malformed> {
    let short = Malformed::Datagram;
    let (kind, rest) = bytes.split_first().ok_or(short)?;
    let (host, rest) = match *kind {
        IPV4 => {
            let (ip, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
            (Some(TargetHost::Ip(Ipv4Addr::from(*ip).into())), rest)
        }
        IPV6 => {
            let (ip, rest) = rest.split_first_chunk::<16>().ok_or(short)?;
            (Some(TargetHost::Ip(IpAddr::from(Ipv6Addr::from(*ip)).to_canonical())), rest)
        }
        NAME => {
            let (length, rest) = rest.split_first().ok_or(short)?;
            let (name, rest) = rest.split_at_checked(usize::from(*length)).ok_or(short)?;
            (str::from_utf8(name).ok().and_then(TargetHost::read), rest)
        }
        other => return Err(Malformed::AddressType(other)),
    };
    let (port, rest) = rest.split_first_chunk::<2>().ok_or(short)?;
    let host = host.ok_or(Malformed::Name)?;
    Ok((Target { host, port: u16::from_be_bytes(*port) }, bytes.len() - rest.len()))
}

/// Type, address and port.
fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(IPV4);
            out.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(IPV6);
            out.extend(ip.octets());
        }
    }
    out.extend(address.port().to_be_bytes());
}

/// The answer to a greeting: which method is to be used; `None`: none of those that were offered.
#[must_use]
pub const fn method(next: Option<Expected>) -> [u8; 2] {
    let method = match next {
        Some(Expected::Login) => 2,
        Some(Expected::Request | Expected::Greeting) => 0,
        None => 0xff,
    };
    [VERSION, method]
}

/// The answer to name and password.
#[must_use]
pub const fn login(is_right: bool) -> [u8; 2] {
    [LOGIN_VERSION, if is_right { 0 } else { 1 }]
}

/// The answer to a request. `bound` is where the other side sees the connection come from, or where datagrams are to be
/// sent to; unspecified when that is nobody's concern.
#[must_use]
pub fn reply(reply: Reply, bound: Option<SocketAddr>) -> Vec<u8> {
    let mut bytes = vec![VERSION, reply as u8, 0];
    put_address(&mut bytes, bound.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))));
    bytes
}

#[cfg(test)]
mod tests;
