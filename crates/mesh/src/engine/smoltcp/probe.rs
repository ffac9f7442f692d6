//! The stack between a peer that may send anything and nobody: for a fuzzer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use portway_sys::seqpacket::Channel;
use rustix::net::SocketType;

use super::datagrams::unix_pair;
use super::packet::{
    ACK, ICMP4, Ip, SYN, Segment, TCP, UDP, V4_BYTES, V6_BYTES, byte, ip_bytes, long, pseudo, put, seal_v4,
};
use super::turns::Turns;
use crate::engine::frames::PEER_BYTES;
use crate::engine::role::{Request, SetUp};
use crate::segment::{Cut, OFFLOAD_BYTES, Offload, checksum};

const MTU: u16 = 1420;

/// What the first byte of a piece asks for.
const SUMS: u8 = 1;
const ANSWERS: u8 = 2;
const PASSES: u8 = 4;

/// Pieces are packets behind a byte: whether its checksums are made to hold, whether its numbers are made to answer what
/// was last sent, and whether a second passes. What is sent is whole, is cut as it says, and is no longer than it may be.
///
/// # Panics
/// When it is not.
pub(crate) fn probe<'a>(pieces: impl Iterator<Item = &'a [u8]>) {
    let Ok((tunnel, stack)) = unix_pair(SocketType::SEQPACKET) else { return };
    let Ok((asks, answers)) = Channel::pair() else { return };
    let addresses = vec![
        (IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)), 24),
        (IpAddr::V6(Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1)), 64),
    ];
    let wanted = SetUp { mtu: MTU, addresses: addresses.clone(), way: None };
    let mut now = Instant::now();
    let Ok(mut turns) = Turns::new(answers, stack, &wanted, 1024) else { return };
    // Who asked holds on to what it has got.
    let mut held = Vec::new();
    for (ip, _) in addresses {
        let there = if ip.is_ipv4() {
            IpAddr::from([10, 9, 0, 2])
        } else {
            Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2).into()
        };
        for request in [
            Request::ListenTcp((ip, 80).into()),
            Request::BindUdp((ip, 53).into()),
            Request::ConnectTcp((there, 81).into()),
            Request::ConnectUdp((there, 54).into()),
            Request::Echo(there),
        ] {
            let sent = serde_json::to_vec(&request).ok().and_then(|request| asks.send(&request, &[]).ok());
            let served = turns.on_channel(now).is_ok();
            let mut packet = Vec::new();
            let answer = asks.recv(&mut packet);
            assert!(sent.is_some() && served && packet == b"0", "{request:?}");
            held.push(answer);
        }
    }
    let (mut last, mut room) = (Vec::new(), vec![0; 70_000]);
    turns.once(now);
    for piece in pieces {
        while let Ok(length @ 1..) = rustix::io::read(&tunnel, &mut room[..]) {
            last = check(room.get(..length).unwrap_or_default());
        }
        let Some((how, packet)) = piece.split_first() else { continue };
        let mut frame = Offload::default().write(0).to_vec();
        frame.extend([0; PEER_BYTES]);
        frame.extend_from_slice(packet);
        let packet = frame.get_mut(OFFLOAD_BYTES + PEER_BYTES..).unwrap_or_default();
        if how & ANSWERS != 0 {
            answer(packet, &last);
        }
        if how & SUMS != 0 {
            sum(packet);
        }
        now += if how & PASSES != 0 { Duration::from_secs(1) } else { Duration::from_micros(50) };
        rustix::io::write(&tunnel, &frame).ok();
        turns.arrived();
        turns.once(now);
        assert_eq!(turns.inside.faults, 0, "smoltcp fails at nothing");
    }
}

/// A frame of the stack's; its packet.
fn check(frame: &[u8]) -> Vec<u8> {
    let (header, packet) = frame.split_first_chunk::<OFFLOAD_BYTES>().expect("a header");
    let offload = Offload::read(*header).expect("a header that is known");
    assert!(Ip::read(packet).is_some_and(|ip| ip.length == packet.len()), "a whole packet");
    let cut = Cut::new(offload, packet).expect("as its header says");
    assert!(cut.longest() <= usize::from(MTU), "{}", cut.longest());
    packet.to_vec()
}

/// Makes addresses, ports and numbers of a packet those that answer `last`.
fn answer(packet: &mut [u8], last: &[u8]) {
    let Some(ip) = Ip::read(last).filter(|_| byte(packet, 0) >> 4 == byte(last, 0) >> 4) else { return };
    let at = ip_bytes(ip.source);
    let (from, whom, bytes) = if ip.source.is_ipv4() { (12, 16, 4) } else { (8, 24, 16) };
    put(packet, from, last.get(whom..whom + bytes).unwrap_or_default());
    put(packet, whom, last.get(from..from + bytes).unwrap_or_default());
    let transport = ip.transport(last);
    put(packet, at, transport.get(2..4).unwrap_or_default());
    put(packet, at + 2, transport.get(..2).unwrap_or_default());
    if ip.protocol == TCP
        && let Some(segment) = Segment::read(transport)
    {
        put(packet, at + 8, &segment.sequence.wrapping_add(segment.takes).to_be_bytes());
        if segment.flags & (SYN | ACK) != SYN {
            let sequence = long(transport, 8);
            put(packet, at + 4, &sequence.to_be_bytes());
        }
    }
}

/// Makes its checksums hold, where they are in the plainest place.
fn sum(packet: &mut [u8]) {
    let is_v4 = byte(packet, 0) >> 4 == 4;
    let at = if is_v4 { V4_BYTES } else { V6_BYTES };
    if is_v4 {
        seal_v4(packet);
    }
    let Some(ip) = Ip::read(packet) else { return };
    let place = match ip.protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    };
    put(packet, at + place, &[0, 0]);
    let transport = ip.transport(packet);
    let begin = if ip.protocol == ICMP4 {
        0
    } else {
        pseudo(ip.source, ip.destination, ip.protocol, transport.len())
    };
    let sum = checksum::finish(checksum::add(begin, transport));
    put(packet, at + place, &sum);
}
