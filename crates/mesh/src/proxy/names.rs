//! Names of the network, asked of its own servers through the tunnel (`dns` of the file).
//!
//! One question for each family, to one server after the other (RFC 1035, 4). An answer counts when it has the number
//! and the question that were asked; the socket hears nobody but the server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::serve::Shared;
use crate::spec::Dns;

/// How long a server has for an answer, and how often it is asked.
const ANSWER: Duration = Duration::from_millis(1500);
const TRIES: usize = 2;

/// Longest answer that is read, bytes: what every resolver keeps to without EDNS is 512.
const ANSWER_BYTES: usize = 4096;

/// Where servers listen.
const PORT: u16 = 53;

/// Types of records.
const A: u16 = 1;
const AAAA: u16 = 28;

/// See the module.
pub(super) struct Names {
    dns: Dns,
}

impl Names {
    pub(super) fn new(dns: Dns) -> Names {
        Names { dns }
    }

    /// The addresses of `name` in the network, IPv4 first.
    pub(super) async fn lookup(&self, shared: &Shared, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let Some(_) = self.dns.servers.first() else {
            let text = format!("no server is known that could be asked for {name} (key dns)");
            return Err(io::Error::new(io::ErrorKind::HostUnreachable, text));
        };
        let mut last = io::Error::from(io::ErrorKind::HostUnreachable);
        for name in self.candidates(name) {
            for server in &self.dns.servers {
                match ask_both(shared, *server, &name).await {
                    Ok(found) if found.is_empty() => break,
                    Ok(found) => return Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }

    /// A name without a dot is tried in the network's domains first.
    fn candidates(&self, name: &str) -> Vec<String> {
        let mut candidates = Vec::new();
        if !name.contains('.') {
            candidates.extend(self.dns.search.iter().map(|domain| format!("{name}.{domain}")));
        }
        candidates.push(name.to_owned());
        candidates
    }
}

async fn ask_both(shared: &Shared, server: IpAddr, name: &str) -> io::Result<Vec<IpAddr>> {
    let (v4, v6) = tokio::join!(ask(shared, server, name, A), ask(shared, server, name, AAAA));
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.extend(v6);
            Ok(v4)
        }
        // What one of them found is good enough.
        (Ok(found), Err(_)) | (Err(_), Ok(found)) if !found.is_empty() => Ok(found),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}

async fn ask(shared: &Shared, server: IpAddr, name: &str, kind: u16) -> io::Result<Vec<IpAddr>> {
    let engine = Arc::clone(&shared.engine);
    let fd = shared.room.ask(move || engine.connect_udp(SocketAddr::new(server, PORT))).await?;
    let socket = UdpSocket::from_std(fd.into())?;
    let mut number = [0; 2];
    getrandom::fill(&mut number).map_err(io::Error::other)?;
    let number = u16::from_be_bytes(number);
    let question = question(number, name, kind).ok_or(io::ErrorKind::InvalidInput)?;
    let mut buffer = vec![0; ANSWER_BYTES];
    for _ in 0..TRIES {
        socket.send(&question).await?;
        let heard = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                let answer = buffer.get(..length).unwrap_or_default();
                if let Some(answer) = read(&question, answer, kind) {
                    return answer;
                }
            }
        };
        if let Ok(answer) = timeout(ANSWER, heard).await {
            return answer;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// A question with recursion wanted. `None`: such a name cannot be asked for.
fn question(number: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(64);
    bytes.extend(number.to_be_bytes());
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        bytes.push(length);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    (bytes.len() <= 12 + 255 + 4).then_some(bytes)
}

/// What an answer to `question` says. `None`: it is none.
fn read(question: &[u8], answer: &[u8], kind: u16) -> Option<io::Result<Vec<IpAddr>>> {
    let same_number = answer.get(..2)? == question.get(..2)?;
    let flags = answer.get(2..4)?;
    let is_answer = flags.first()? & 0x80 != 0;
    let asked = question.get(12..)?;
    let same = answer.get(12..12 + asked.len())?.eq_ignore_ascii_case(asked);
    if !same_number || !is_answer || !same || answer.get(4..6)? != [0, 1] {
        return None;
    }
    match flags.get(1)? & 0x0f {
        0 => {}
        // There is no such name.
        3 => return Some(Ok(Vec::new())),
        code => return Some(Err(io::Error::other(format!("the name server says no (code {code})")))),
    }
    let count = u16::from_be_bytes(answer.get(6..8)?.try_into().ok()?);
    Some(Ok(records(answer, 12 + asked.len(), count, kind)))
}

/// The addresses among the answers that begin at `at`. Aliases come with what they stand for.
fn records(answer: &[u8], mut at: usize, count: u16, kind: u16) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for _ in 0..count {
        let Some((this, data, next)) = record(answer, at) else { break };
        let ip = match (kind, data.len()) {
            (A, 4) => <[u8; 4]>::try_from(data).ok().map(|it| IpAddr::from(Ipv4Addr::from(it))),
            (AAAA, 16) => <[u8; 16]>::try_from(data).ok().map(|it| IpAddr::from(Ipv6Addr::from(it))),
            _ => None,
        };
        found.extend(ip.filter(|_| this == kind));
        at = next;
    }
    found
}

/// Type and data of the record at `at`, and where the next one is.
fn record(answer: &[u8], mut at: usize) -> Option<(u16, &[u8], usize)> {
    // Whose it is: labels until an empty one, or a pointer to the rest.
    loop {
        let length = *answer.get(at)?;
        at += 1;
        match length {
            0 => break,
            pointer if pointer & 0xc0 == 0xc0 => {
                at += 1;
                break;
            }
            label => at += usize::from(label),
        }
    }
    let number = |at: usize| Some(u16::from_be_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let (kind, class, length) = (number(at)?, number(at + 2)?, usize::from(number(at + 8)?));
    let begin = at + 10;
    let data = answer.get(begin..begin + length)?;
    Some((if class == 1 { kind } else { 0 }, data, begin + length))
}

/// Reads an answer to each question that has been asked for `db.mesh`: for a fuzzer.
pub(crate) fn probe(answer: &[u8]) {
    for kind in [A, AAAA] {
        let question = question(7, "db.mesh", kind).unwrap_or_default();
        if let Some(Ok(found)) = read(&question, answer, kind) {
            // A record has at least ten bytes behind its name, and an address.
            assert!(found.len() * 14 <= answer.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(question: &[u8], flags: [u8; 2], records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = question.to_vec();
        bytes[2..4].copy_from_slice(&flags);
        bytes[7] = u8::try_from(records.len()).unwrap();
        bytes.extend(records.concat());
        bytes
    }

    /// Fails when: compression, aliases or case are not understood, or an answer to somebody else is believed.
    #[test]
    fn answers_are_read() {
        let question = question(7, "Db.mesh.example", A).unwrap();
        assert_eq!(&question[..12], [0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&question[12..], b"\x02Db\x04mesh\x07example\x00\x00\x01\x00\x01");
        let alias = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x04\x01x\xc0\x0f";
        let a = b"\x01x\xc0\x0f\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x09\x00\x02";
        let good = answer(&question, [0x81, 0x80], &[alias, a]);
        let ok = |bytes: &[u8]| read(&question, bytes, A).map(Result::unwrap);
        assert_eq!(ok(&good), Some(vec![IpAddr::from([10, 9, 0, 2])]));
        let mut lower = good.clone();
        lower[13] = b'd';
        assert_eq!(ok(&lower), ok(&good));
        for (place, byte) in [(0, 9), (2, 0x01), (5, 0), (14, b'c'), (30, 28)] {
            let mut other = good.clone();
            other[place] = byte;
            assert_eq!(ok(&other), None, "{place}");
        }
        assert_eq!(ok(&answer(&question, [0x81, 0x83], &[])), Some(Vec::new()));
        assert!(read(&question, &answer(&question, [0x81, 0x82], &[]), A).unwrap().is_err());
        // Cut anywhere it is read as far as it goes.
        for length in 0..good.len() {
            assert!(ok(&good[..length]).unwrap_or_default().is_empty(), "{length}");
        }
    }

    #[test]
    fn names_that_cannot_be_asked_for() {
        let long = "a".repeat(64);
        for name in ["", "a..b", long.as_str(), &"a.".repeat(130)] {
            assert_eq!(question(1, name, A), None, "{name}");
        }
    }

    #[test]
    fn short_names_are_tried_in_the_domains() {
        let search = vec!["mesh.example".parse().unwrap(), "example".parse().unwrap()];
        let names = Names::new(Dns { servers: Vec::new(), search });
        assert_eq!(names.candidates("db"), ["db.mesh.example", "db.example", "db"]);
        assert_eq!(names.candidates("db.other"), ["db.other"]);
    }
}
