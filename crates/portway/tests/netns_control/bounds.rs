//! Number, time and descriptors.

use std::io::{IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use portway_testkit::wait_for;

use crate::support::{Answer, Place};

/// Catalogue: pipelined requests, half-close, disconnect in the middle of a body. Each connection
/// carries one request, and leaves nothing.
#[test]
fn connections_end_after_one_request_and_leave_nothing() {
    let Some(place) = Place::start() else { return };
    place.is_well();
    let before = place.descriptors();
    let request = "GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n";
    let answer = place.exchange(request.repeat(10_000).as_bytes());
    assert_eq!(answer.text.matches("HTTP/1.1 200").count(), 1, "{:.300}", answer.text);

    let mut stream = place.connect();
    stream.write_all(request.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(Answer::read(stream).status, 200);

    for part in ["", "GET", "POST /1.0/devices HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"inst"] {
        for _ in 0..50 {
            place.connect().write_all(part.as_bytes()).unwrap();
        }
    }
    wait_for("the descriptors of the daemon", || (place.descriptors() <= before).then_some(())).unwrap();
    assert!(place.daemon.devices().unwrap().is_empty());
    place.is_well();
}

/// Catalogue: 253 descriptors with any byte of a request. They are closed at once, and the request
/// is refused.
///
/// Fails when the socket is read without a look at `MSG_CTRUNC`.
#[test]
fn descriptors_are_closed_and_their_request_is_refused() {
    let Some(place) = Place::start() else { return };
    place.is_well();
    let before = place.descriptors();
    let body = "Content-Length: 2\r\n\r\n";
    for (first, second) in [
        ("", "GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("GET /1.0 HTTP/1.1\r\nHost", ": x\r\n\r\n"),
        (&format!("POST /1.0/devices HTTP/1.1\r\n{body}"), "{}"),
    ] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut stream = place.connect();
        stream.write_all(first.as_bytes()).unwrap();
        let fds: Vec<RawFd> = vec![writer.as_raw_fd(); 253];
        let rights = [ControlMessage::ScmRights(&fds)];
        let bytes = [IoSlice::new(second.as_bytes())];
        sendmsg::<()>(stream.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).unwrap();
        drop(writer);
        // The end of the pipe comes when the last copy is closed.
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0);
        let answer = Answer::read(stream);
        assert!(answer.status == 400, "{:.300}", answer.text);
    }
    wait_for("the descriptors of the daemon", || (place.descriptors() <= before).then_some(())).unwrap();
    place.is_well();
}

/// Who says nothing, or says it slowly, is told so and let go; who comes when all places are taken is
/// told that. Meanwhile nothing grows, and afterwards all is well.
///
/// Fails without `HEAD_TIMEOUT`: the silent ones stay, and the test hangs.
#[test]
fn silent_clients_are_let_go_and_too_many_are_turned_away() {
    let Some(place) = Place::start() else { return };
    let begin = Instant::now();
    let mut held: Vec<UnixStream> = (0..300).map(|_| place.connect()).collect();
    let served = || place.send("GET", "/1.0", "", "");
    wait_for("a full house", || (served().status == 503).then_some(())).unwrap();
    served().must_be(503, "unreachable", "a full house");
    assert!(place.descriptors() < 256 + 100, "{}", place.descriptors());
    let mut drip = held.remove(0);
    let dripping = std::thread::spawn(move || {
        for byte in b"GET /1.0 HTTP/1.1\r\nA: ".iter().chain(std::iter::repeat(&b'a')) {
            if drip.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Answer::read(drip).status
    });
    let statuses: Vec<u16> = held.into_iter().map(|stream| Answer::read(stream).status).collect();
    assert!(statuses.iter().all(|status| matches!(status, 408 | 503)), "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 300 - 256);
    assert_eq!(dripping.join().unwrap(), 408);
    // Ten seconds; a stall is the fault.
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    place.is_well();
}

/// Readers of events have places of their own, so that they cannot take all of the others'.
#[test]
fn readers_of_events_are_counted() {
    let Some(place) = Place::start() else { return };
    let mut readers = Vec::new();
    for _ in 0..64 {
        let mut stream = place.connect();
        stream.write_all(b"GET /1.0/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        readers.push(stream);
    }
    place.send("GET", "/1.0/events", "", "").must_be(503, "unreachable", "one more");
    place.is_well();
    readers.pop();
    // The place is free when the daemon has noticed: with the next event.
    place.daemon.add(&place.instance, "web", &["listen=tcp:127.0.0.1:8001", "connect=tcp::7"]).unwrap();
    wait_for("a free place", || {
        let mut stream = place.connect();
        stream.write_all(b"GET /1.0/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap();
        (&status == b"HTTP/1.1 200").then_some(())
    })
    .unwrap();
}
