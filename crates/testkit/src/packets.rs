//! Packets of senders that there are not: IPv4 with any source address, by a raw socket.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Netns;

/// TCP's number in an IPv4 header, and UDP's.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A raw socket in a namespace.
#[derive(Debug)]
pub struct Forger {
    socket: Socket,
}

impl Forger {
    /// A raw socket there.
    ///
    /// # Errors
    /// When this process may have none.
    pub fn new(netns: &Netns) -> Result<Self> {
        let made = netns.enter(|| {
            // IPPROTO_RAW: the header is in what is sent, and nothing is received.
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
            socket.set_header_included_v4(true)?;
            std::io::Result::Ok(socket)
        })?;
        Ok(Self { socket: made.context("cannot make a raw socket")? })
    }

    /// Sends a datagram; whether the kernel took it. One that is too long is not sent.
    #[must_use]
    pub fn datagram(&self, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> bool {
        let Ok(length) = u16::try_from(8 + payload.len()) else { return false };
        let mut body = Vec::with_capacity(length.into());
        body.extend(from.port().to_be_bytes());
        body.extend(to.port().to_be_bytes());
        body.extend(length.to_be_bytes());
        // No checksum, which IPv4 permits.
        body.extend([0, 0]);
        body.extend(payload);
        self.send(UDP, from, to, &body)
    }

    /// Sends the beginning of a connection; whether the kernel took it.
    #[must_use]
    pub fn syn(&self, from: SocketAddrV4, to: SocketAddrV4, sequence: u32) -> bool {
        let mut body = Vec::with_capacity(20);
        body.extend(from.port().to_be_bytes());
        body.extend(to.port().to_be_bytes());
        body.extend(sequence.to_be_bytes());
        body.extend([0; 4]);
        // Five words of header, SYN, a window.
        body.extend([5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
        let mut pseudo = Vec::with_capacity(32);
        pseudo.extend(from.ip().octets());
        pseudo.extend(to.ip().octets());
        pseudo.extend([0, TCP, 0, 20]);
        pseudo.extend(&body);
        body[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        self.send(TCP, from, to, &body)
    }

    fn send(&self, protocol: u8, from: SocketAddrV4, to: SocketAddrV4, body: &[u8]) -> bool {
        // Length, number and checksum are filled in by the kernel, raw(7).
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
        packet.extend(from.ip().octets());
        packet.extend(to.ip().octets());
        packet.extend(body);
        self.socket.send_to(&packet, &SockAddr::from(to)).is_ok()
    }
}

/// The internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// The source of a number: one of a million addresses of 172.16.0.0/12, each with a port.
#[must_use]
pub fn source(number: u64) -> SocketAddrV4 {
    // Numbers that follow each other are spread all over, by the golden ratio.
    let spread = u32::try_from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44).unwrap_or_default();
    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) | spread);
    SocketAddrV4::new(ip, 1024 + u16::try_from(number % 60_000).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::is_root;
    use std::net::UdpSocket;

    #[test]
    fn a_checksum_of_the_rfc() {
        // RFC 1071, section 3: the sum of these is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn sources_are_many_and_of_one_network() {
        let all: std::collections::BTreeSet<_> = (0..10_000).map(|number| *source(number).ip()).collect();
        assert!(all.len() > 9_900, "{}", all.len());
        assert!(all.iter().all(|ip| ip.octets()[0] == 172 && ip.octets()[1] & 0xf0 == 16));
    }

    #[test]
    fn a_datagram_of_nobody_arrives() {
        if !is_root() {
            return;
        }
        let netns = Netns::new().unwrap();
        let heard = netns.enter(|| UdpSocket::bind("127.0.0.1:7").unwrap()).unwrap();
        heard.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let forger = Forger::new(&netns).unwrap();
        let from = "127.0.0.9:99".parse().unwrap();
        assert!(forger.datagram(from, "127.0.0.1:7".parse().unwrap(), b"who"));
        let mut buffer = [0; 10];
        let (length, sender) = heard.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..length], sender), (&b"who"[..], from.into()));
    }
}
