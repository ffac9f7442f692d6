//! Descriptors across a unix to unix device.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

mod rig;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use portway_relay::wire::field;
use portway_testkit::{Addr, MessageSocket, Stream, fds};
use rig::{Rig, accept, connect, in_netns, service};
use rustix::fs::{Gid, Uid};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, UCred, recvmsg, sendmsg,
};
use rustix::process::Pid;

fn unix(stream: Stream) -> UnixStream {
    match stream {
        Stream::Unix(stream) => stream,
        Stream::Tcp(_) => panic!("not a unix stream"),
    }
}

fn pair(fds: &str) -> (Rig, UnixStream, UnixStream) {
    let mut rig = Rig::start();
    let target = format!("unix:{}", rig.path("target").display());
    let listen = format!("unix:{}", rig.path("listen").display());
    let service = service(&target);
    rig.add(0, &listen, &target, &[("fds", fds)]);
    let client = unix(connect(&listen));
    let server = unix(accept(&service));
    (rig, client, server)
}

/// Memory, a pipe and a socket arrive and work, in both directions.
#[test]
fn kinds_of_descriptors_cross_both_ways() {
    in_netns(|| {
        let (_rig, client, server) = pair("on");
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (pipe_read, pipe_write) = rustix::pipe::pipe().unwrap();
            let (here, there) = UnixStream::pair().unwrap();
            let memory = fds::memfd(b"memory").unwrap();
            fds::send(from, b"three", &[memory.as_fd(), pipe_read.as_fd(), there.as_fd()]).unwrap();
            drop((pipe_read, there));
            let (bytes, mut got) = fds::recv(to, 16).unwrap();
            assert_eq!((bytes.as_slice(), got.len()), (&b"three"[..], 3));
            let mut socket = UnixStream::from(got.pop().unwrap());
            socket.write_all(b"socket").unwrap();
            let mut text = [0; 6];
            (&here).read_exact(&mut text).unwrap();
            assert_eq!(&text, b"socket");
            rustix::io::write(&pipe_write, b"pipe").unwrap();
            drop(pipe_write);
            let mut text = String::new();
            File::from(got.pop().unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "pipe");
            assert_eq!(fds::content(got.pop().unwrap()).unwrap(), b"memory");
        }
    });
}

#[test]
fn one_and_253_in_a_message() {
    in_netns(|| {
        let (rig, client, server) = pair("on");
        for count in [1, fds::MAX_FDS] {
            let memories: Vec<OwnedFd> =
                (0..count).map(|number| fds::memfd(number.to_string()).unwrap()).collect();
            let borrowed: Vec<_> = memories.iter().map(AsFd::as_fd).collect();
            fds::send(&client, b"!", &borrowed).unwrap();
            let (_, got) = fds::recv(&server, 1).unwrap();
            assert_eq!(got.len(), count);
            for (number, fd) in got.into_iter().enumerate() {
                assert_eq!(fds::content(fd).unwrap(), number.to_string().as_bytes());
            }
        }
        assert_eq!(rig.count(0, field::DROPPED), 0);
    });
}

/// Messages between bytes: a reader that takes each part by its length finds descriptors where they were sent, as
/// OpenSSH's multiplexing and Python's do.
#[test]
fn descriptors_between_bytes_stay_in_place() {
    in_netns(|| {
        let (_rig, client, server) = pair("on");
        for round in 0..200_usize {
            let head = vec![1; 1 + round * 37 % 5000];
            (&client).write_all(&head).unwrap();
            let memory = fds::memfd(b"x").unwrap();
            fds::send(&client, b"f", &[memory.as_fd()]).unwrap();
            (&client).write_all(&head).unwrap();
            let mut got = vec![0; head.len()];
            (&server).read_exact(&mut got).unwrap();
            assert_eq!(got, head);
            let (byte, received) = fds::recv(&server, 1).unwrap();
            assert_eq!((byte.as_slice(), received.len()), (&b"f"[..], 1), "round {round}");
            (&server).read_exact(&mut got).unwrap();
        }
    });
}

/// The same between large amounts that come without pause, on a stream that has carried much for a while. Fails when: such a
/// stream is spliced without a look.
#[test]
fn descriptors_between_large_amounts_stay_in_place() {
    in_netns(|| {
        let (rig, client, server) = pair("on");
        let large = vec![1; 100_000];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..48_u8 {
                    (&client).write_all(&large).unwrap();
                    if round >= 32 {
                        let memory = fds::memfd([round]).unwrap();
                        fds::send(&client, &[round], &[memory.as_fd()]).unwrap();
                    }
                }
            });
            let mut got = vec![0; large.len()];
            for round in 0..48_u8 {
                (&server).read_exact(&mut got).unwrap();
                assert_eq!(got, large);
                if round >= 32 {
                    let (byte, received) = fds::recv(&server, 1).unwrap();
                    assert_eq!((byte.as_slice(), received.len()), (&[round][..], 1), "round {round}");
                    assert_eq!(fds::content(received.into_iter().next().unwrap()).unwrap(), [round]);
                }
            }
        });
        assert_eq!(rig.count(0, field::DROPPED), 0);
    });
}

#[test]
fn directories_are_dropped_and_counted() {
    in_netns(|| {
        let (rig, client, server) = pair("on");
        let directory = File::open("/").unwrap();
        let memory = fds::memfd(b"x").unwrap();
        fds::send(&client, b"two", &[directory.as_fd(), memory.as_fd()]).unwrap();
        let (bytes, got) = fds::recv(&server, 16).unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b"two"[..], 1));
        rig.until("counted", |rig| rig.count(0, field::DROPPED) == 1);
    });
}

/// Sends `bytes` with credentials that are not the sender's, as root may.
fn send_as_another(socket: impl AsFd, bytes: &[u8]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let another = UCred { pid: Pid::INIT, uid: Uid::from_raw(4711), gid: Gid::from_raw(4711) };
    assert!(control.push(SendAncillaryMessage::ScmCredentials(another)));
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

/// What comes, and with whose credentials.
fn receive_signed(socket: impl AsFd) -> (Vec<u8>, Option<(i32, u32)>) {
    let (mut bytes, mut signed) = (vec![0; 64], None);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let parts = &mut [IoSliceMut::new(&mut bytes)];
    let length = recvmsg(socket, parts, &mut control, RecvFlags::empty()).unwrap().bytes;
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmCredentials(of) = part {
            signed = Some((of.pid.as_raw_nonzero().get(), of.uid.as_raw()));
        }
    }
    bytes.truncate(length);
    (bytes, signed)
}

/// Credentials that a client sends do not cross: who asks gets the relay's own, who does not gets none, and what came with
/// them crosses. Fails when: what comes beside bytes is handed on as it came.
#[test]
fn credentials_do_not_cross() {
    in_netns(|| {
        let (mut rig, client, server) = pair("on");
        let ours = (i32::try_from(std::process::id()).unwrap(), rustix::process::getuid().as_raw());
        send_as_another(&client, b"stream");
        assert_eq!(receive_signed(&server), (b"stream".to_vec(), None));
        for (slot, protocol) in [(1, "unixpacket"), (2, "unixgram")] {
            let (listen, target) = (rig.path(protocol), rig.path(&format!("{protocol}-target")));
            let [listen_key, target_key] =
                [&listen, &target].map(|path| format!("{protocol}:{}", path.display()));
            let (listen, target) = (Addr::unix(listen), Addr::unix(target));
            let stream = protocol == "unixpacket";
            let service =
                if stream { MessageSocket::listen(&target) } else { MessageSocket::bind(&target) }.unwrap();
            rig.add(slot, &listen_key, &target_key, &[]);
            let (client, server) = if stream {
                let client = MessageSocket::connect(&listen).unwrap();
                (client, service.accept().unwrap())
            } else {
                let client = MessageSocket::unnamed().unwrap();
                client.connect_to(&listen).unwrap();
                (client, service)
            };
            for asks in [false, true] {
                set_socket_passcred(&server, asks).unwrap();
                send_as_another(&client, b"message");
                assert_eq!(
                    receive_signed(&server),
                    (b"message".to_vec(), asks.then_some(ours)),
                    "{protocol}"
                );
            }
        }
        set_socket_passcred(&server, true).unwrap();
        send_as_another(&client, b"stream");
        assert_eq!(receive_signed(&server), (b"stream".to_vec(), Some(ours)));
        assert_eq!([0, 1, 2].map(|slot| rig.count(slot, field::DROPPED)), [0; 3]);
    });
}

/// Switched off, the bytes go on and the descriptors are closed.
#[test]
fn off_passes_bytes_only() {
    in_netns(|| {
        let (_rig, client, server) = pair("off");
        let (here, there) = UnixStream::pair().unwrap();
        fds::send(&client, b"bytes", &[there.as_fd()]).unwrap();
        drop(there);
        let (bytes, got) = fds::recv(&server, 16).unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b"bytes"[..], 0));
        assert_eq!((&here).read(&mut [0]).unwrap(), 0, "it was closed");
    });
}
