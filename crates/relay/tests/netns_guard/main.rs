//! Who is let in: headers of a proxy in front, lists of addresses, caps.
//!
//! ```text
//! client (127.0.0.x, ::1, fd00::x) ---- listener (worker) ---- service
//! ```

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

mod announced;
mod caps;
mod headers;
mod lists;
#[path = "../rig/mod.rs"]
mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use portway_testkit::{Listener, Stream};
use rig::{PATIENCE, Rig, accept};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

const SERVICE: &str = "tcp:127.0.0.1:2000";
const LISTEN: &str = "tcp:127.0.0.1:1000";
/// The address of [`LISTEN`].
const DOOR: &str = "127.0.0.1:1000";

/// A client with this address of its own. Who is refused may be reset before the call returns.
fn client(from: &str, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket(family, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    match connect(&fd, &to) {
        Ok(()) | Err(Errno::CONNRESET) => {}
        Err(errno) => panic!("{to}: {errno}"),
    }
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The client sends `bytes` and ends; what the service gets, to its end.
fn delivered(mut client: &TcpStream, service: &Listener, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    everything(&accept(service))
}

fn everything(stream: &Stream) -> Vec<u8> {
    let mut all = Vec::new();
    (&*stream).read_to_end(&mut all).unwrap();
    all
}

/// The client is reset without a byte; if it was while it connected, it is no longer connected.
fn expect_reset(mut client: &TcpStream, what: &str) {
    let got = client.read(&mut [0]);
    let reset = [ErrorKind::ConnectionReset, ErrorKind::NotConnected];
    assert!(matches!(&got, Err(error) if reset.contains(&error.kind())), "{what}: {got:?}");
}

/// The client is connected to the service and bytes pass; the service's end.
fn expect_service(mut client: &TcpStream, service: &Listener, what: &str) -> Stream {
    client.write_all(what.as_bytes()).unwrap();
    let server = accept(service);
    let mut got = vec![0; what.len()];
    (&server).read_exact(&mut got).unwrap();
    assert_eq!(String::from_utf8_lossy(&got), what);
    (&server).write_all(b"ok").unwrap();
    client.read_exact(&mut [0; 2]).unwrap();
    server
}

/// Nobody has called the service.
fn expect_no_call(service: &Listener) {
    let called = service.accept_within(Duration::from_millis(50));
    assert!(called.is_err(), "the service was called");
}

/// A worker with a tcp device in slot 0, and its service.
fn guarded(keys: &[(&str, &str)]) -> (Rig, Listener) {
    let mut rig = Rig::start();
    let service = rig::service(SERVICE);
    rig.add(0, LISTEN, SERVICE, keys);
    (rig, service)
}
