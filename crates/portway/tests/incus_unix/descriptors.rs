//! Descriptors that travel with a stream from unix to unix.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use portway_testkit::{Rig, Stream, fds, process, wait_for};
use rustix::fs::OFlags;

use crate::PORTWAY;
use crate::side::{BOTH, Bind, Place, add, unix, with};

/// A device from path to path with both ends connected.
struct Ends {
    client: Stream,
    service: Stream,
}

fn connect(rig: &Rig, bind: Bind, name: &str, keys: &[&str]) -> Ends {
    let (listen, connect) =
        (Place::listen(rig, bind, &format!("l-{name}")), Place::connect(rig, bind, &format!("c-{name}")));
    let target = connect.serve();
    let base = [listen.pair("listen"), connect.pair("connect"), bind.key().to_owned()];
    add(rig, name, &with(&base, keys)).unwrap();
    let client = listen.dial();
    let service = target.accept_within(crate::side::LIMIT).unwrap();
    Ends { client, service }
}

impl Ends {
    /// Sender and receiver.
    fn towards(&self, service: bool) -> (&UnixStream, &UnixStream) {
        let (client, other) = (unix(&self.client), unix(&self.service));
        if service { (client, other) } else { (other, client) }
    }
}

/// Receives until so many bytes are there, with all that came along, each by the byte it came with.
fn receive(stream: &UnixStream, bytes: usize) -> (Vec<u8>, Vec<(usize, OwnedFd)>) {
    let (mut all, mut descriptors) = (Vec::new(), Vec::new());
    while all.len() < bytes {
        let (part, came) = fds::recv(stream, bytes - all.len()).unwrap();
        assert!(!part.is_empty(), "the end after {} of {bytes} bytes", all.len());
        descriptors.extend(came.into_iter().map(|one| (all.len(), one)));
        all.extend(part);
    }
    (all, descriptors)
}

fn send(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    assert_eq!(fds::send(stream, bytes, descriptors).unwrap(), bytes.len());
}

fn one_of_each(from: &UnixStream, to: &UnixStream) {
    send(from, b"m", &[fds::memfd("memory").unwrap().as_fd()]);
    let (_, mut came) = receive(to, 1);
    assert_eq!(fds::content(came.remove(0).1).unwrap(), b"memory");

    let (reader, writer) = std::io::pipe().unwrap();
    send(from, b"p", &[writer.as_fd()]);
    drop(writer);
    let (_, mut came) = receive(to, 1);
    let mut writer = File::from(came.remove(0).1);
    writer.write_all(b"piped").unwrap();
    drop(writer);
    let mut text = String::new();
    // To the end: nobody in between has kept the writing end.
    (&reader).read_to_string(&mut text).unwrap();
    assert_eq!(text, "piped");

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    send(from, b"s", &[theirs.as_fd()]);
    drop(theirs);
    let (_, mut came) = receive(to, 1);
    let mut theirs = UnixStream::from(came.remove(0).1);
    theirs.write_all(b"socket").unwrap();
    drop(theirs);
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "socket");
}

fn as_many_as_go(from: &UnixStream, to: &UnixStream) {
    let files: Vec<OwnedFd> =
        (0..fds::MAX_FDS).map(|number| fds::memfd(number.to_string()).unwrap()).collect();
    let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(std::os::fd::AsFd::as_fd).collect();
    send(from, b"all of them", &borrowed);
    let (bytes, came) = receive(to, 11);
    assert_eq!(bytes, b"all of them");
    assert_eq!(came.len(), fds::MAX_FDS);
    for (number, (_, descriptor)) in came.into_iter().enumerate() {
        assert_eq!(fds::content(descriptor).unwrap(), number.to_string().into_bytes());
    }
}

/// Messages of several lengths that wait in the relay, each with a descriptor, bytes without any
/// between them: each descriptor comes with its own byte.
fn each_with_its_byte(from: &UnixStream, to: &UnixStream) {
    let mut bytes = Vec::new();
    for number in 0..50_u8 {
        let message = vec![number; 1 + usize::from(number) * 97];
        bytes.extend_from_slice(&message);
        send(from, &message, &[fds::memfd(number.to_string()).unwrap().as_fd()]);
        bytes.push(255);
        send(from, &[255], &[]);
    }
    let (got, came) = receive(to, bytes.len());
    assert_eq!(got, bytes);
    assert_eq!(came.len(), 50);
    for (number, (at, descriptor)) in came.into_iter().enumerate() {
        assert_eq!(fds::content(descriptor).unwrap(), number.to_string().into_bytes());
        // A message may begin in the part before, never later than its descriptor was due.
        let first = bytes.iter().position(|byte| usize::from(*byte) == number).unwrap();
        assert!(at <= first, "descriptor {number} came at byte {at}, after its own at {first}");
    }
}

/// Memory files, pipes and sockets cross, one and 253 in a message, in both directions and on both
/// `bind` sides; the relay keeps none of them.
///
/// Fails when: unix to unix is spliced (descriptors vanish), the control buffer holds fewer than 253,
/// or a passed descriptor is not closed.
#[test]
fn descriptors_cross() {
    let Some(rig) = Rig::start(PORTWAY, "fds").unwrap() else { return };
    for bind in BOTH {
        let name = if bind == Bind::Host { "host" } else { "instance" };
        let ends = connect(&rig, bind, name, &[]);
        let worker = rig.daemon.device(name).unwrap()["worker_pid"].as_i64().unwrap();
        let worker = i32::try_from(worker).unwrap();
        // Once a byte has crossed, the relay is done with dialling.
        let (from, to) = ends.towards(true);
        send(from, b"x", &[]);
        receive(to, 1);
        let open = process::fd_count(worker).unwrap();
        for to_service in [true, false] {
            let (from, to) = ends.towards(to_service);
            one_of_each(from, to);
            as_many_as_go(from, to);
            each_with_its_byte(from, to);
        }
        let as_before = || (process::fd_count(worker).ok()? == open).then_some(());
        wait_for("the relay has closed what it passed", as_before).unwrap();
        assert_eq!(rig.daemon.device(name).unwrap()["dropped"], 0);
    }
}

/// With `fds=off` the bytes come and the descriptors do not; whoever holds the other end of a pipe
/// sees its end.
///
/// Fails when: `fds=off` is ignored.
#[test]
fn descriptors_are_turned_off() {
    let Some(rig) = Rig::start(PORTWAY, "fdsoff").unwrap() else { return };
    for bind in BOTH {
        let name = if bind == Bind::Host { "host" } else { "instance" };
        let ends = connect(&rig, bind, name, &["fds=off"]);
        for to_service in [true, false] {
            let (from, to) = ends.towards(to_service);
            let (mut reader, writer) = std::io::pipe().unwrap();
            send(from, b"only bytes", &[writer.as_fd()]);
            drop(writer);
            let (bytes, came) = receive(to, 10);
            assert_eq!((bytes.as_slice(), came.len()), (&b"only bytes"[..], 0));
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
    }
}

/// Folders and `O_PATH` descriptors, which lead out of an instance, are held back and counted; what
/// came with them crosses.
///
/// Fails when: `may_pass` lets folders through.
#[test]
fn what_leads_out_of_an_instance_is_held_back() {
    let Some(rig) = Rig::start(PORTWAY, "fdsdir").unwrap() else { return };
    let ends = connect(&rig, Bind::Host, "unix", &[]);
    let (folder, file) = (File::open("/").unwrap(), fds::memfd("fine").unwrap());
    let path = rustix::fs::open("/etc/hostname", OFlags::PATH, rustix::fs::Mode::empty())
        .or_else(|_| rustix::fs::open("/etc/passwd", OFlags::PATH, rustix::fs::Mode::empty()))
        .unwrap();
    for to_service in [true, false] {
        let (from, to) = ends.towards(to_service);
        send(from, b"three", &[folder.as_fd(), file.as_fd(), path.as_fd()]);
        let (bytes, mut came) = receive(to, 5);
        assert_eq!((bytes.as_slice(), came.len()), (&b"three"[..], 1));
        assert_eq!(fds::content(came.remove(0).1).unwrap(), b"fine");
    }
    let dropped = || (rig.daemon.device("unix").ok()?["dropped"] == 4).then_some(());
    wait_for("four are counted", dropped).unwrap();
}

/// Half-close works with descriptors on their way, and what waits is not lost with the sender.
///
/// Fails when: the end of the stream overtakes a message.
#[test]
fn descriptors_outlive_their_sender() {
    let Some(rig) = Rig::start(PORTWAY, "fdsend").unwrap() else { return };
    let ends = connect(&rig, Bind::Instance, "unix", &[]);
    let (client, service) = (unix(&ends.client), unix(&ends.service));
    for number in 0..20 {
        send(client, b"x", &[fds::memfd(number.to_string()).unwrap().as_fd()]);
    }
    client.shutdown(Shutdown::Write).unwrap();
    let (_, came) = receive(service, 20);
    let texts: Vec<String> =
        came.into_iter().map(|(_, one)| String::from_utf8(fds::content(one).unwrap()).unwrap()).collect();
    assert_eq!(texts, (0..20).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!(fds::recv(service, 1).unwrap().0.len(), 0);
    send(service, b"answer", &[fds::memfd("late").unwrap().as_fd()]);
    service.shutdown(Shutdown::Both).unwrap();
    let (_, mut came) = receive(client, 6);
    assert_eq!(fds::content(came.remove(0).1).unwrap(), b"late");
    assert_eq!(fds::recv(client, 1).unwrap().0.len(), 0);
}
