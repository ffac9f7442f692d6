use std::io::{Read as _, pipe};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use portway_proto::guest::Inbox;

use super::*;

/// What is said to the gateway.
fn said(outbox: &mut Outbox) -> Vec<String> {
    let (mut reader, writer) = pipe().expect("a pipe");
    outbox.flush(writer.as_fd()).expect("it is short");
    drop(writer);
    let (mut inbox, mut said) = (Inbox::default(), Vec::new());
    loop {
        let count = reader.read(inbox.room()).expect("a pipe can be read");
        if count == 0 {
            return said;
        }
        inbox.filled(count);
        while let Some(frame) = inbox.next().expect("frames") {
            said.push(format!("{:?}", Frame::read(frame).expect("a frame")));
        }
    }
}

fn lend(channel: u32) -> Socket {
    Socket::Lend { listener: SOCKETS + channel, channel, lent: Lent::Agent }
}

/// Fails when a session that asks for more than this program was started with gets it.
#[test]
fn what_is_not_allowed_is_not_lent() {
    let mut outbox = Outbox::default();
    let mut permits = Permits::default();
    for word in ["forward-local", "forward-remote", "x11"] {
        permits.take(word).expect("a word of ours");
    }
    let mut sockets = Sockets::new(permits);
    sockets.obey(lend(7), 0, &mut outbox).expect("it may be asked");
    let refused = Socket::Failed { channel: SOCKETS + 7, why: Why::Forbidden, errno: 1 };
    assert_eq!(said(&mut outbox), [format!("{:?}", Frame::Socket(refused))]);
    assert_eq!((sockets.variables(7).count(), sockets.count()), (0, 0));
}

/// Fails when a program is told of what another was lent, or its end takes more or less than its own.
#[test]
fn a_program_has_its_own_and_it_goes_with_it() {
    let mut outbox = Outbox::default();
    let mut sockets = Sockets::new(Permits::ALL);
    for channel in [7, 8] {
        sockets.obey(lend(channel), 0, &mut outbox).expect("it may be asked");
    }
    assert_eq!(sockets.obey(lend(7), 0, &mut outbox), Err(Refused::InUse));
    assert_eq!(said(&mut outbox).len(), 2);
    let path = |sockets: &Sockets, channel| {
        let variables: Vec<_> = sockets.variables(channel).collect();
        let [variable] = variables.as_slice() else { panic!("{variables:?}") };
        PathBuf::from(String::from_utf8_lossy(variable).strip_prefix("SSH_AUTH_SOCK=").expect("it"))
    };
    let (one, other) = (path(&sockets, 7), path(&sockets, 8));
    assert!(one != other && one.exists() && other.exists());
    sockets.take_back(7, &mut outbox);
    assert_eq!(said(&mut outbox), [format!("{:?}", Frame::Closed { channel: SOCKETS + 7 })]);
    assert!(!one.exists() && other.exists() && sockets.variables(7).next().is_none());
    // It may be taken back by who has lent it, and then there is nothing to be taken.
    sockets.leave(SOCKETS + 8, Farewell::Close, &mut outbox);
    sockets.take_back(8, &mut outbox);
    assert_eq!(said(&mut outbox), [format!("{:?}", Frame::Closed { channel: SOCKETS + 8 })]);
    assert!(!other.exists() && sockets.count() == 0);
}

/// Fails when what nobody reads could be more than is said.
#[test]
fn windows_are_bounded_together() {
    let kib = [0, 15, 16, 63, 64, 959].map(|before| window(before) >> 10);
    assert_eq!(kib, [1024, 1024, 128, 128, 32, 32]);
    let all: u32 = (0..DESCRIPTORS_MAX_COUNT).map(window).sum();
    assert!(all <= 50 << 20, "{all}");
}
