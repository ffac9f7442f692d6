//! The demo's instance: a network namespace, and in it a tcp, a udp and a unix service.
//!
//! The stream services answer only when the client has shut its side down, with all it has sent: what no relay can
//! carry that closes both directions at the first end. They live until standard input ends.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::ExitCode;
use std::thread;

use nix::sched::CloneFlags;
use portway_sys::netns;

/// Tcp port of the service.
pub(super) const TCP_PORT: u16 = 80;

/// Udp port of the service.
pub(super) const UDP_PORT: u16 = 53;

/// Abstract name of the unix service: it belongs to the network namespace, not to a file system.
pub(super) const UNIX_NAME: &str = "app";

/// What the parent waits for.
pub(super) const READY: u8 = b'+';

/// Most bytes one connection may bring: bounds what a service keeps.
const ROUND_MAX_BYTES: u64 = 16 << 20;

/// The role.
pub(crate) fn instance() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => super::failed("run the demo's instance", &error).report(),
    }
}

fn serve() -> io::Result<()> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
    netns::loopback_up()?;
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, TCP_PORT))?;
    let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, UDP_PORT))?;
    let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(UNIX_NAME)?)?;
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        thread::Builder::new().name(name.to_owned()).spawn(body).map(drop)
    };
    spawn("tcp", Box::new(move || tcp.incoming().for_each(|stream| unheard(stream.and_then(reply)))))?;
    spawn("unix", Box::new(move || unix.incoming().for_each(|stream| unheard(stream.and_then(reply)))))?;
    spawn("udp", Box::new(move || datagrams(&udp)))?;
    io::stdout().write_all(&[READY])?;
    io::stdout().flush()?;
    // The demo holds the other end, and lets go when it ends, however it ends.
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// One connection: everything in, then everything out.
fn reply(mut stream: impl Read + Write + Send + 'static) -> io::Result<()> {
    let round = move || {
        let mut all = Vec::new();
        let answered = Read::by_ref(&mut stream).take(ROUND_MAX_BYTES).read_to_end(&mut all);
        // A client that has gone wants no answer.
        unheard(answered.and_then(|_| stream.write_all(&all)));
    };
    thread::Builder::new().name("connection".to_owned()).spawn(round).map(drop)
}

/// A failed connection is its client's to notice.
fn unheard(_result: io::Result<()>) {}

fn datagrams(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Ok((length, client)) = socket.recv_from(&mut buffer)
            && let Some(datagram) = buffer.get(..length)
        {
            unheard(socket.send_to(datagram, client).map(drop));
        }
    }
}
