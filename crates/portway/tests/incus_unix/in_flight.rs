//! Descriptors among much else: between bulk bytes in both directions, and so many on their way that the
//! kernel takes no more of a user.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use portway_testkit::{Addr, Container, Listener, Pattern, Rig, Site, Stream, check, fds};

use crate::PORTWAY;
use crate::side::{Bind, LIMIT, Place, add, unix};

/// Rounds of bulk bytes and a descriptor. A descriptor behind many bytes costs the relay up to a tenth of a
/// second.
const ROUNDS: u64 = 6;

/// Bytes between two descriptors: more than the relay reads at once, so that a stream without descriptors
/// would be spliced.
const BULK: usize = 300_000;

/// Users of the host that nobody else has; the relay's user is one of them.
const SHARED_USER: &str = "security.uid=47111";
const OTHER_USER: &str = "security.uid=47112";

fn send_rounds(mut to: &UnixStream, seed: u64) {
    for round in 0..ROUNDS {
        to.write_all(&Pattern::new(seed + round).bytes(BULK)).unwrap();
        let file = fds::memfd(round.to_string()).unwrap();
        assert_eq!(fds::send(to, b"!", &[file.as_fd()]).unwrap(), 1);
    }
}

fn receive_rounds(from: &UnixStream, seed: u64) {
    for round in 0..ROUNDS {
        let (mut got, mut came) = (Vec::new(), Vec::new());
        while got.len() < BULK + 1 {
            let (part, more) = fds::recv(from, BULK + 1 - got.len()).unwrap();
            assert!(!part.is_empty(), "the end in round {round}");
            got.extend(part);
            came.extend(more);
        }
        assert_eq!(got.pop(), Some(b'!'));
        assert!(got == Pattern::new(seed + round).bytes(BULK), "wrong bytes in round {round}");
        assert_eq!(came.len(), 1, "descriptors of round {round}");
        assert_eq!(fds::content(came.remove(0)).unwrap(), round.to_string().into_bytes());
    }
}

/// Bulk bytes with a descriptor now and then, in both directions of two connections at once: every byte
/// and every descriptor comes, each with its round.
///
/// Fails when: a busy stream from unix to unix is spliced.
#[test]
fn none_is_lost_among_bulk_bytes() {
    let Some(rig) = Rig::start(PORTWAY, "fdsbulk").unwrap() else { return };
    let (listen, connect) = (Place::listen(&rig, Bind::Host, "l"), Place::connect(&rig, Bind::Host, "c"));
    let target = connect.serve();
    add(&rig, "s", &[&listen.pair("listen"), &connect.pair("connect")]).unwrap();
    let ends: Vec<(Stream, Stream)> =
        (0..2).map(|_| (listen.dial(), target.accept_within(LIMIT).unwrap())).collect();
    std::thread::scope(|scope| {
        for (number, (client, service)) in (0..).zip(&ends) {
            let (up, down) = (number * 1000, number * 1000 + 500);
            scope.spawn(move || send_rounds(unix(client), up));
            scope.spawn(move || receive_rounds(unix(service), up));
            scope.spawn(move || send_rounds(unix(service), down));
            scope.spawn(move || receive_rounds(unix(client), down));
        }
    });
    assert_eq!(rig.daemon.device("s").unwrap()["dropped"], 0);
}

/// A device from a container to a socket of the host, its relay being the user `user` of the host.
struct Way {
    inside: Site,
    listen: PathBuf,
    target: Listener,
}

impl Way {
    fn new(rig: &Rig, container: &Container<'_>, name: &str, user: &str) -> Self {
        let host = rig.path(name);
        let target = Addr::unix(&host).listen().unwrap();
        std::fs::set_permissions(&host, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let connect = format!("connect=unix:{}", host.display());
        let keys = ["bind=instance", "listen=unix:/srv/s", &connect, user];
        rig.daemon.add(container.name(), name, &keys).unwrap();
        rig.daemon.wait_for_state(name, "active").unwrap();
        let inside = container.site().unwrap();
        Self { listen: inside.path("/srv/s".as_ref()), inside, target }
    }

    fn connect(&self) -> (Stream, Stream) {
        let client = check::dial(&self.inside, &Addr::unix(&self.listen)).unwrap();
        (client, self.target.accept_within(LIMIT).unwrap())
    }
}

/// Sends full messages of descriptors until nobody takes any more.
fn flood(client: &UnixStream) {
    let file = fds::memfd("flood").unwrap();
    let all: Vec<BorrowedFd<'_>> = (0..fds::MAX_FDS).map(|_| file.as_fd()).collect();
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    loop {
        match fds::send(client, b"f", &all) {
            Ok(_) => {}
            Err(error) => {
                let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
                assert!(kind.is_none_or(|kind| kind == ErrorKind::WouldBlock), "{error:#}");
                return;
            }
        }
    }
}

fn passes(from: &Stream, to: &Stream) {
    assert_eq!(fds::send(unix(from), b"d", &[fds::memfd("passed").unwrap().as_fd()]).unwrap(), 1);
    let (bytes, mut came) = fds::recv(unix(to), 1).unwrap();
    assert_eq!((bytes.as_slice(), came.len()), (&b"d"[..], 1));
    assert_eq!(fds::content(came.remove(0)).unwrap(), b"passed");
}

/// A container whose descriptors nobody takes fills the kernel's quota of its relay's user. A relay of
/// another user passes on as ever. One of the same user, for another container, loses nothing: bytes go on,
/// and a message with descriptors waits until there is room.
///
/// Fails when: `ETOOMANYREFS` ends a connection, or drops what a message brought.
#[test]
fn what_nobody_takes_holds_up_no_other_user() {
    let Some(rig) = Rig::start(PORTWAY, "fdsquota").unwrap() else { return };
    let (same, other) = (rig.bed().container("same").unwrap(), rig.bed().container("other").unwrap());
    let flooded = Way::new(&rig, &rig.container, "flooded", SHARED_USER);
    let same = Way::new(&rig, &same, "same", SHARED_USER);
    let other = Way::new(&rig, &other, "other", OTHER_USER);
    let (flooding, silent) = flooded.connect();
    flood(unix(&flooding));

    let (client, service) = other.connect();
    passes(&client, &service);
    passes(&service, &client);
    let (client, service) = same.connect();
    (&client).write_all(b"bytes").unwrap();
    let mut bytes = [0; 5];
    (&service).read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"bytes");
    assert_eq!(fds::send(unix(&client), b"w", &[fds::memfd("waited").unwrap().as_fd()]).unwrap(), 1);
    drop((flooding, silent));
    let (bytes, mut came) = fds::recv(unix(&service), 1).unwrap();
    assert_eq!((bytes.as_slice(), came.len()), (&b"w"[..], 1));
    assert_eq!(fds::content(came.remove(0)).unwrap(), b"waited");
    assert_eq!(rig.daemon.device("same").unwrap()["dropped"], 0);
}
