//! Everything here that reads what others have sent or written, one function each: fed by a fuzzer, and with the
//! committed corpus by a test. A function returns for whatever it is given.
//!
//! No part of the product.

mod files;
mod org;
mod proxies;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::segment::{Cut, Join, LONGEST_HEADERS_BYTES, OFFLOAD_BYTES, Offload};
use crate::spec::PrivateKey;
use crate::wg::cookie::{Jar, MacKeys};
use crate::wg::{Now, PeerSpec, Received, Sessions};

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// Names, as folders of the corpus and binaries of the fuzzer have them, and functions. All begin with [`PREFIX`].
pub const TARGETS: &[(&str, Target)] = &[
    ("mesh_datagrams", datagrams),
    ("mesh_env", files::env),
    ("mesh_http_connect", proxies::http_connect),
    ("mesh_ini", files::ini),
    ("mesh_names", proxies::names),
    ("mesh_rule", files::rule),
    ("mesh_segments", segments),
    ("mesh_snapshot", org::snapshot),
    ("mesh_socks5", proxies::socks5),
    ("mesh_stack", stack),
    ("mesh_token", org::token),
    ("mesh_toml", files::toml),
];

/// Begins the names of the targets here.
pub const PREFIX: &str = "mesh_";

/// Feeds one input to a target.
///
/// # Panics
/// When there is no such target, or the input has found a fault.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, function) = found.expect("the name is one of the table");
    function(data);
}

/// Pieces, each behind its length, two bytes; the last one is what is left.
fn pieces(mut data: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let (piece, behind) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        pieces.push(piece);
        data = behind;
    }
    pieces
}

fn cut(offload: Offload, packet: &[u8]) -> Vec<Vec<u8>> {
    let Ok(cut) = Cut::new(offload, packet) else { return Vec::new() };
    let mut room = vec![0; cut.longest()];
    let write = |number| {
        let length = cut.write(number, &mut room);
        room.get(..length).unwrap_or_default().to_vec()
    };
    (0..cut.count()).map(write).collect()
}

/// The first piece is what the kernel says of the second and that packet. Then all are packets that came: what is joined
/// and cut again is the same, but for identifications that say nothing.
fn segments(data: &[u8]) {
    if let Some((header, packet)) = data.split_first_chunk::<OFFLOAD_BYTES>()
        && let Some(offload) = Offload::read(*header)
    {
        let made = cut(offload, packet);
        assert!(made.iter().all(|made| made.len() <= packet.len()));
    }
    let packets = pieces(data);
    let mut rest = packets.as_slice();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        let Some(mut run) = Join::begin(first) else { continue };
        let headers = run.headers();
        let mut joined = vec![*first];
        while let Some((next, behind)) = rest.split_first()
            && run.take(next)
        {
            joined.push(next);
            rest = behind;
        }
        if joined.len() < 2 {
            continue;
        }
        let mut long = [0; LONGEST_HEADERS_BYTES];
        let offload = run.finish(&mut long);
        let mut whole = long.get(..headers).unwrap_or_default().to_vec();
        joined.iter().for_each(|packet| whole.extend(packet.get(headers..).unwrap_or_default()));
        let again: Vec<Vec<u8>> = cut(offload, &whole).iter().map(|packet| plain(packet)).collect();
        let before: Vec<Vec<u8>> = joined.iter().map(|packet| plain(packet)).collect();
        assert_eq!(again, before);
    }
}

/// Without identification and header checksum, if it is IPv4; and both zeros of a checksum are one.
fn plain(packet: &[u8]) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    let is_v4 = bytes.first().is_some_and(|first| first >> 4 == 4);
    if is_v4 {
        for place in [4..6, 10..12] {
            bytes.get_mut(place).unwrap_or_default().fill(0);
        }
    }
    let (transport, protocol) = if is_v4 { (20, bytes.get(9)) } else { (40, bytes.get(6)) };
    let sum = transport + if protocol == Some(&17) { 6 } else { 16 };
    if let Some(sum) = bytes.get_mut(sum..sum + 2)
        && sum == [0xff, 0xff]
    {
        sum.fill(0);
    }
    bytes
}

/// Datagrams to a tunnel, with macs that hold if their first byte is odd; time passes between them. No stranger's is a
/// packet, and no more is answered than has come.
fn datagrams(data: &[u8]) {
    let key = |byte: u8| PrivateKey::from_bytes(&[byte; 32]).expect("not zero");
    let start = Instant::now();
    let from = SocketAddr::from(([192, 0, 2, 1], 1));
    let peer = PeerSpec {
        public_key: key(2).public(),
        preshared_key: None,
        allowed_ips: Vec::new(),
        endpoint: Some(from),
        keepalive: Some(Duration::from_secs(5)),
    };
    let mut sessions = Sessions::new(key(1), &[peer], start).expect("one peer");
    let macs = MacKeys::of(key(1).public().as_bytes());
    for (number, piece) in (0_u32..).zip(pieces(data)) {
        let passed = Duration::from_secs(1) * number;
        let now = Now { instant: start + passed, unix: Duration::from_secs(1_700_000_000) + passed };
        sessions.tick(now);
        while sessions.outgoing().is_some() {}
        let Some((how, piece)) = piece.split_first() else { continue };
        let mut datagram = piece.to_vec();
        if how % 2 == 1 {
            Jar::default().stamp(&macs, &mut datagram, now.instant);
        }
        assert_eq!(sessions.receive(now, from, &mut datagram), Received::Nothing);
        let answers = std::iter::from_fn(|| sessions.outgoing()).count();
        assert!(answers <= 1);
    }
}

/// Packets to engine S.
fn stack(data: &[u8]) {
    crate::engine::smoltcp::probe(pieces(data).into_iter());
}
