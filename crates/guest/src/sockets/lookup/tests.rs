use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, poll};

use super::*;

/// How a server answers a question; `None`: not at all.
type Manner = fn(question: &[u8], is_stream: bool) -> Option<Vec<u8>>;

/// A server of the DNS on a port of its own, until the test's process ends.
fn serve(manner: Manner) -> SocketAddr {
    let (udp, tcp) = (0..100)
        .find_map(|_| {
            let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
            let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
            Some((udp, tcp))
        })
        .expect("a port");
    let address = udp.local_addr().expect("an address");
    thread::spawn(move || {
        let mut message = [0; 2048];
        while let Ok((count, from)) = udp.recv_from(&mut message) {
            if let Some(answer) = manner(&message[..count], false) {
                udp.send_to(&answer, from).expect("sent");
            }
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut message = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut message).expect("a question");
                let Some(answer) = manner(&message, true) else { break };
                let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
                // In pieces, as a network may bring it.
                for piece in [&length[..1], &length[1..], &answer[..20], &answer[20..]] {
                    stream.write_all(piece).expect("sent");
                    stream.flush().expect("sent");
                }
            }
        }
    });
    address
}

fn is_extended(question: &[u8]) -> bool {
    question[11] == 1
}

/// An answer with so many addresses, if those of IPv4 are asked for.
fn answered(question: &[u8], flags: u16, count: u8) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
    let count = if question[end - 3] == 1 { count } else { 0 };
    let mut message = question[..end].to_vec();
    message[2..4].copy_from_slice(&flags.to_be_bytes());
    message[6..12].copy_from_slice(&[0, count, 0, 0, 0, 0]);
    for last in 0..count {
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, last]);
    }
    message
}

fn found(servers: &[SocketAddr]) -> usize {
    let settings = Settings {
        servers: servers.to_vec(),
        search: Vec::new(),
        dots: 1,
        timeout: Duration::from_secs(1),
        tries: 2,
    };
    let mut lookup = Lookup::begin(settings, "big.example", Instant::now());
    loop {
        if let Some((fd, flags)) = lookup.waits() {
            let wait = crate::serve::until(lookup.next());
            poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&wait)).expect("polled");
        }
        match lookup.turn(Instant::now()) {
            Found::NotYet => {}
            Found::Addresses(addresses) => return addresses.len(),
            Found::Nothing => return 0,
        }
    }
}

/// Fails when an answer of more than 512 bytes is not asked for, or is not read.
#[test]
fn a_long_answer_comes_by_datagram() {
    let long = |question: &[u8], is_stream: bool| {
        let (flags, count) = if is_extended(question) { (0x8180, 70) } else { (0x8380, 0) };
        (!is_stream).then(|| answered(question, flags, count))
    };
    assert_eq!(found(&[serve(long)]), 32);
}

/// Fails when a name whose addresses do not fit a datagram has none.
#[test]
fn what_does_not_fit_comes_by_a_connection() {
    let cut = |question: &[u8], is_stream: bool| {
        let (flags, count) = if is_stream { (0x8180, 200) } else { (0x8380, 0) };
        Some(answered(question, flags, count))
    };
    assert_eq!(found(&[serve(cut)]), 32);
}

/// Fails when a server that takes no connections, or says nothing on them, is the last that is asked.
#[test]
fn who_has_no_room_for_an_answer_is_not_the_last() {
    let shut = |question: &[u8], is_stream: bool| (!is_stream).then(|| answered(question, 0x8380, 0));
    let good = |question: &[u8], _| Some(answered(question, 0x8180, 3));
    assert_eq!(found(&[serve(shut), serve(good)]), 3);
}

/// Fails when a server of before 1999, or one behind who drops what is newer, is not understood.
#[test]
fn a_server_of_rfc_1035_is_asked_as_that_says() {
    let old = |question: &[u8], _| match is_extended(question) {
        true => Some([&question[..2], &[0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]].concat()),
        false => Some(answered(question, 0x8180, 2)),
    };
    assert_eq!(found(&[serve(old)]), 2);
    let deaf = |question: &[u8], _| (!is_extended(question)).then(|| answered(question, 0x8180, 4));
    assert_eq!(found(&[serve(deaf)]), 4);
}

/// Fails when what is no file is waited for: everybody else would wait too.
#[test]
fn only_files_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("hosts");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR).expect("a pipe");
    assert_eq!((read(&path), read("/dev/zero"), read(dir.path())), (Vec::new(), Vec::new(), Vec::new()));
    std::fs::remove_file(&path).expect("removed");
    std::fs::write(&path, "10.0.0.1 db\n").expect("written");
    assert_eq!(read(&path), b"10.0.0.1 db\n");
}
