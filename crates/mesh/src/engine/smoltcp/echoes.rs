//! Echoes asked for from here (RFC 792; RFC 4443, 4): whoever asks has the end of a pair, and writes and reads what
//! stands behind type, code and checksum.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use super::datagrams::unix_pair;
use super::link::Link;
use super::packet::{ICMP4, ICMP6, Ip, byte, compose};

/// Who may ask at a time; one more has an error.
const ASKERS: usize = 64;

/// Longest message, bytes.
const MESSAGE_BYTES: usize = 2048;

/// Messages that one asker sends before another one has its turn.
const BURST: usize = 16;

/// See the module.
#[derive(Default)]
pub(super) struct Echoes(BTreeMap<u64, (IpAddr, OwnedFd)>);

impl Echoes {
    /// One more who asks `whom`; its end.
    pub(super) fn add(&mut self, id: u64, whom: IpAddr) -> io::Result<OwnedFd> {
        if self.0.len() >= ASKERS {
            return Err(Errno::NOBUFS.into());
        }
        let (ours, theirs) = unix_pair(SocketType::SEQPACKET)?;
        self.0.insert(id, (whom, ours));
        Ok(theirs)
    }

    pub(super) fn descriptor(&self, id: u64) -> Option<&OwnedFd> {
        self.0.get(&id).map(|(_, fd)| fd)
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// Sends what an asker has written. What is more than a few at a time is not asked.
    pub(super) fn ask(&mut self, id: u64, link: &mut Link) {
        let Some((whom, fd)) = self.0.get(&id) else { return };
        let mut buffer = [0; MESSAGE_BYTES];
        for sent in 0.. {
            let Ok((_, length)) = rustix::net::recv(fd, &mut buffer[..], RecvFlags::empty()) else { return };
            if length == 0 {
                return;
            }
            let Some(from) = link.source_for(*whom).filter(|_| sent < BURST) else { continue };
            let (protocol, kind) = if whom.is_ipv4() { (ICMP4, 8) } else { (ICMP6, 128) };
            let parts = [&[kind, 0, 0, 0][..], buffer.get(..length).unwrap_or_default()];
            link.put(&compose(from, *whom, protocol, &parts, 2));
        }
    }

    /// Passes an answer on to those who have asked there; false: it is none.
    pub(super) fn answer(&self, ip: &Ip, message: &[u8]) -> bool {
        let kind = if ip.protocol == ICMP6 { 129 } else { 0 };
        if byte(message, 0) != kind {
            return false;
        }
        for (_, fd) in self.0.values().filter(|(whom, _)| *whom == ip.source) {
            // Who does not read loses it, as in the network.
            let rest = message.get(4..).unwrap_or_default();
            rustix::net::send(fd, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).ok();
        }
        true
    }
}
