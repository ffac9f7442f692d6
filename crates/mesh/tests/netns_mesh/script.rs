//! What a node does with what its engine hands over, the same for both engines.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portway_mesh::engine::{Engine, Inlet, is_reset};
use portway_testkit::Pattern;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SendFlags, Shutdown, sockopt};

/// What servers have seen, one line each.
static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Bytes of one read.
const PIECE: usize = 64 << 10;

pub(crate) fn run(engine: &Arc<dyn Engine>, words: &[&str]) -> String {
    match words {
        ["serve", address, how] => match engine.listen_tcp(address.parse().unwrap()) {
            Ok(listener) => {
                let how = (*how).to_owned();
                std::thread::spawn(move || {
                    loop {
                        wait(&listener, PollFlags::IN);
                        match listener.accept() {
                            Ok((fd, from)) => drop(std::thread::spawn({
                                let how = how.clone();
                                move || served(&how, fd, from)
                            })),
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                            Err(_) => return,
                        }
                    }
                });
                "ok".to_owned()
            }
            Err(error) => format!("{:?}", error.kind()),
        },
        ["dial", address, how, length] => {
            let patience =
                if *how == "patience" { Duration::from_millis(length.parse().unwrap()) } else { TEN };
            let dialed = engine.connect_tcp(address.parse().unwrap()).and_then(|dial| dial.wait(patience));
            match dialed {
                Ok(fd) => dialed_with(fd, how, length.parse().unwrap()),
                Err(error) => format!("{:?}", error.kind()),
            }
        }
        ["bulk", address, streams, length] => {
            let begin = Instant::now();
            let (address, length): (SocketAddr, u64) = (address.parse().unwrap(), length.parse().unwrap());
            std::thread::scope(|scope| {
                for _ in 0..streams.parse::<u32>().unwrap() {
                    scope.spawn(|| {
                        let fd = engine.connect_tcp(address).and_then(|dial| dial.wait(TEN)).unwrap();
                        dialed_with(fd, "bulk", length)
                    });
                }
            });
            begin.elapsed().as_micros().to_string()
        }
        ["talk", address, count] => {
            let fd = engine.connect_tcp(address.parse().unwrap()).and_then(|dial| dial.wait(TEN)).unwrap();
            blocking(&fd);
            let begin = Instant::now();
            for _ in 0..count.parse::<u32>().unwrap() {
                write_all(&fd, b"x").unwrap();
                rustix::io::read(&fd, &mut [0; 10]).unwrap();
            }
            begin.elapsed().as_micros().to_string()
        }
        ["seen"] => SEEN.lock().unwrap().pop().unwrap_or_else(|| "nothing".to_owned()),
        ["reflect", address] => match engine.bind_udp(address.parse().unwrap()) {
            Ok(inlet) => {
                std::thread::spawn(move || reflect(&inlet));
                "ok".to_owned()
            }
            Err(error) => format!("{:?}", error.kind()),
        },
        ["send", address, lengths] => send(&**engine, address.parse().unwrap(), lengths),
        other => panic!("{other:?}"),
    }
}

const TEN: Duration = Duration::from_secs(10);

fn wait(fd: &impl AsFd, flags: PollFlags) {
    poll(&mut [PollFd::new(fd, flags)], None).unwrap();
}

/// Whether it can be read within that time.
fn within(fd: &impl AsFd, patience: Duration) -> bool {
    let time = Timespec::try_from(patience).unwrap();
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&time)).unwrap() > 0
}

fn blocking(fd: &OwnedFd) {
    rustix::io::ioctl_fionbio(fd, false).unwrap();
}

fn end(fd: &OwnedFd) {
    rustix::net::shutdown(fd, Shutdown::Write).unwrap();
}

/// Writes and reads a stream of either kind.
struct Wire<'a>(&'a OwnedFd);

impl io::Read for Wire<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(self.0, bytes)?)
    }
}

impl io::Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn read_all(fd: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    io::Read::read_to_end(&mut Wire(fd), &mut all)?;
    Ok(all)
}

fn write_all(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut Wire(fd), bytes)
}

fn is_tcp(fd: &OwnedFd) -> bool {
    sockopt::socket_domain(fd).unwrap() != rustix::net::AddressFamily::UNIX
}

/// Resets a connection: as the kernel wants it said, or by closing it unread.
fn reset(fd: OwnedFd) {
    if is_tcp(&fd) {
        sockopt::set_socket_linger(&fd, Some(Duration::ZERO)).unwrap();
    }
    drop(fd);
}

/// How what comes ends.
fn ending(fd: &OwnedFd) -> String {
    match read_all(fd) {
        Ok(bytes) if !is_tcp(fd) && is_reset(fd.as_fd()) => format!("reset {}", bytes.len()),
        Ok(bytes) => format!("end {}", bytes.len()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => "reset".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn served(how: &str, fd: OwnedFd, from: SocketAddr) {
    blocking(&fd);
    let seen = match how {
        // All, and then all of it back.
        "echo" => {
            let bytes = read_all(&fd).unwrap();
            write_all(&fd, &bytes).unwrap();
            return;
        }
        // Each piece as it comes.
        "mirror" => {
            let mut room = vec![0; PIECE];
            while let Ok(count @ 1..) = rustix::io::read(&fd, &mut room[..]) {
                if write_all(&fd, &room[..count]).is_err() {
                    break;
                }
            }
            return;
        }
        // What it has to say, its end, and then what the other has to say.
        "first" => {
            Pattern::new(1).write(1 << 20, Wire(&fd)).unwrap();
            end(&fd);
            format!("end {}", read_all(&fd).unwrap().len())
        }
        "reset" => {
            rustix::io::read(&fd, &mut [0; 100]).unwrap();
            reset(fd);
            return;
        }
        "ending" => ending(&fd),
        // Said at once; closed when the other has ended, since before that it would be a reset.
        "from" => {
            SEEN.lock().unwrap().push(from.ip().to_string());
            read_all(&fd).ok();
            return;
        }
        "unread" => {
            std::thread::sleep(Duration::from_secs(600));
            return;
        }
        "sink" => {
            let mut room = vec![0; 4 * PIECE];
            while let Ok(1..) = rustix::io::read(&fd, &mut room[..]) {}
            return;
        }
        other => panic!("{other}"),
    };
    SEEN.lock().unwrap().push(seen);
}

fn dialed_with(fd: OwnedFd, how: &str, length: u64) -> String {
    blocking(&fd);
    match how {
        "echo" => {
            Pattern::new(length).write(length, Wire(&fd)).unwrap();
            end(&fd);
            Pattern::new(length).check_to_end(length, Wire(&fd)).unwrap();
            format!("ok {length}")
        }
        // Hears the other out, then speaks.
        "second" => {
            Pattern::new(1).check_to_end(1 << 20, Wire(&fd)).unwrap();
            let bytes = vec![1; usize::try_from(length).unwrap()];
            write_all(&fd, &bytes).unwrap();
            "ok".to_owned()
        }
        "ending" => {
            write_all(&fd, b"x").unwrap();
            ending(&fd)
        }
        "reset" => {
            write_all(&fd, b"x").unwrap();
            // So that it is there before the reset is.
            std::thread::sleep(Duration::from_millis(200));
            reset(fd);
            "ok".to_owned()
        }
        "bulk" => {
            let bytes = vec![7; PIECE];
            let mut left = usize::try_from(length).unwrap();
            while left > 0 {
                let part = bytes.get(..left.min(PIECE)).unwrap();
                write_all(&fd, part).unwrap();
                left -= part.len();
            }
            end(&fd);
            read_all(&fd).unwrap();
            "ok".to_owned()
        }
        "patience" => "connected".to_owned(),
        other => panic!("{other}"),
    }
}

/// Sends every datagram back to whom it is from.
fn reflect(inlet: &Inlet) {
    let mut room = vec![0; 70_000];
    match inlet {
        Inlet::Socket(fd) => loop {
            wait(inlet, PollFlags::IN);
            while let Ok((count, _, Some(from))) =
                rustix::net::recvfrom(fd, &mut room[..], RecvFlags::empty())
            {
                rustix::net::sendto(fd, &room[..count], SendFlags::empty(), &from).ok();
            }
        },
        Inlet::Flows(_) => loop {
            wait(inlet, PollFlags::IN);
            while let Ok((fd, _)) = inlet.accept() {
                blocking(&fd);
                std::thread::spawn(move || {
                    let mut room = vec![0; 70_000];
                    while let Ok((count, _)) = rustix::net::recv(&fd, &mut room[..], RecvFlags::empty()) {
                        // It has ended, which reads as an empty one.
                        if rustix::net::send(&fd, &room[..count], SendFlags::NOSIGNAL).is_err() {
                            return;
                        }
                    }
                });
            }
        },
    }
}

/// Sends datagrams of these lengths, one after the other, and says which came back as they were.
fn send(engine: &dyn Engine, to: SocketAddr, lengths: &str) -> String {
    let fd = match engine.connect_udp(to) {
        Ok(fd) => fd,
        Err(error) => return format!("{:?}", error.kind()),
    };
    let mut back = Vec::new();
    for length in lengths.split(',') {
        let bytes: Vec<u8> = (0..length.parse::<u32>().unwrap()).map(|at| at.to_le_bytes()[0]).collect();
        if let Err(error) = rustix::net::send(&fd, &bytes, SendFlags::NOSIGNAL) {
            back.push(format!("{:?}", io::Error::from(error).kind()));
            continue;
        }
        if !within(&fd, Duration::from_secs(2)) {
            back.push("nothing".to_owned());
            continue;
        }
        let mut room = vec![0; 70_000];
        back.push(match rustix::net::recv(&fd, &mut room[..], RecvFlags::empty()) {
            Ok((count, _)) if room[..count] == bytes => length.to_owned(),
            Ok((count, _)) => format!("other {count}"),
            Err(error) => format!("{:?}", io::Error::from(error).kind()),
        });
    }
    back.join(",")
}
