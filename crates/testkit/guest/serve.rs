//! A server for containers of the test image: `serve KIND ADDRESS [KIND ADDRESS]...`.
//!
//! KIND is `echo`, or `eof` (answers with everything it read, after the client's end of stream).
//! ADDRESS is `tcp:IP:PORT`, `udp:IP:PORT` or `unix:PATH`. Compiled alone and linked statically.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut threads = Vec::new();
    for pair in args.chunks(2) {
        let [kind, address] = pair else { fail("KIND ADDRESS expected") };
        let eof = match kind.as_str() {
            "echo" => false,
            "eof" => true,
            other => fail(&format!("unknown kind {other}")),
        };
        let Some((net, place)) = address.split_once(':') else { fail("tcp:, udp: or unix: expected") };
        let place = place.to_owned();
        threads.push(match net {
            "tcp" => {
                let listener = TcpListener::bind(&place).unwrap_or_else(|e| fail(&format!("{place}: {e}")));
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        small(move || tcp(stream, eof));
                    }
                })
            }
            "unix" => {
                let _ = std::fs::remove_file(&place);
                let listener = UnixListener::bind(&place).unwrap_or_else(|e| fail(&format!("{place}: {e}")));
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        small(move || unix(stream, eof));
                    }
                })
            }
            "udp" => {
                let socket = UdpSocket::bind(&place).unwrap_or_else(|e| fail(&format!("{place}: {e}")));
                thread::spawn(move || {
                    let mut buffer = vec![0; 65536];
                    loop {
                        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                            let _ = socket.send_to(&buffer[..length], from);
                        }
                    }
                })
            }
            other => fail(&format!("unknown network {other}")),
        });
    }
    for thread in threads {
        let _ = thread.join();
    }
}

fn fail(text: &str) -> ! {
    eprintln!("serve: {text}");
    std::process::exit(2)
}

fn small(work: impl FnOnce() + Send + 'static) {
    // A refused thread closes the connection.
    let _ = thread::Builder::new().stack_size(128 << 10).spawn(work);
}

fn tcp(stream: TcpStream, eof: bool) {
    let _ = stream.set_nodelay(true);
    copy(&stream, &stream, eof);
    let _ = stream.shutdown(Shutdown::Write);
}

fn unix(stream: UnixStream, eof: bool) {
    copy(&stream, &stream, eof);
    let _ = stream.shutdown(Shutdown::Write);
}

fn copy(mut from: impl Read, mut to: impl Write, eof: bool) {
    if eof {
        let mut all = Vec::new();
        if from.read_to_end(&mut all).is_ok() {
            let _ = to.write_all(&all);
        }
        return;
    }
    let mut buffer = [0; 16384];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 || to.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}
