//! Unix datagrams: `clients -- listener (worker) -- one named socket per flow -- service`.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::fs::{File, Permissions};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use portway_relay::wire::{UnixBase, field};
use portway_sys::unix_path::MESSAGE_MAX_BYTES;
use portway_testkit::{Addr, MessageSocket, fds};
use rig::{PATIENCE, Rig, device, in_netns, open, pattern};
use rustix::net::{RecvFlags, SendFlags, SocketAddrUnix, recvfrom, sendto};

/// Longest datagram that a program sends without asking the kernel for more room: `net.core.wmem_default` less 32.
const USUAL_MAX_BYTES: usize = 212_960;

/// Sends every datagram back where it came from, `tag` before it, until dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    path: Option<std::path::PathBuf>,
}

impl Echo {
    fn start(addr: &Addr, tag: &'static str) -> Echo {
        let socket = MessageSocket::bind(addr).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // A client may have gone.
                let _ = socket.answer(tag.as_bytes(), Duration::from_millis(20));
            }
        });
        let path = if let Addr::Unix(path) = addr { Some(path.clone()) } else { None };
        Echo { stop, thread: Some(thread), path }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        if let Some(path) = &self.path {
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn abstract_name(name: &str) -> Addr {
    Addr::Abstract(name.to_owned())
}

/// A client bound to `name` that talks to `listen`.
fn client(name: &Addr, listen: &Addr) -> MessageSocket {
    let client = MessageSocket::bind(name).unwrap();
    client.connect_to(listen).unwrap();
    client
}

fn ask(client: &MessageSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).unwrap();
    client.receive().unwrap()
}

/// Every size both ways, from clients with a path and with an abstract name, to targets of both kinds. Fails when: the
/// socket towards the target has no name, or an answer goes to a path as such.
#[test]
fn every_size_between_names_of_every_kind() {
    in_netns(|| {
        let mut rig = Rig::start();
        let path = |name: &str| Addr::unix(rig.path(name));
        let listens = [path("listen"), abstract_name("listen")];
        let targets = [path("target"), abstract_name("target")];
        let clients = [path("client"), abstract_name("client")];
        let key = |addr: &Addr| addr.to_string().replacen("unix:", "unixgram:", 1);
        for (slot, (listen, target)) in
            (0..).zip(listens.iter().flat_map(|listen| targets.iter().map(move |target| (listen, target))))
        {
            let _echo = Echo::start(target, "");
            rig.add(slot, &key(listen), &key(target), &[]);
            for name in &clients {
                let client = client(name, listen);
                for size in [1, 0, 1_472, 65_536, USUAL_MAX_BYTES, MESSAGE_MAX_BYTES] {
                    let question = pattern(size as u64, size);
                    assert!(ask(&client, &question) == question, "{size} bytes from {name} to {target}");
                }
                if let Addr::Unix(path) = name {
                    std::fs::remove_file(path).unwrap();
                }
            }
            assert_eq!((rig.count(slot, field::OPENED), rig.count(slot, field::DROPPED)), (2, 0));
            rig.remove(slot, false);
            if let Addr::Unix(path) = listen {
                std::fs::remove_file(path).unwrap();
            }
        }
    });
}

/// Each client is answered, and no other hears it; one without a name can send, and its answer is dropped.
#[test]
fn clients_are_told_apart_by_their_names() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start(&abstract_name("target"), "re ");
        rig.add(0, "unixgram:@listen", "unixgram:@target", &[]);
        let listen = abstract_name("listen");
        let clients: Vec<MessageSocket> =
            (0..20).map(|number| client(&abstract_name(&format!("c{number}")), &listen)).collect();
        for (number, client) in clients.iter().enumerate() {
            client.send(format!("{number}").as_bytes()).unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(client.receive().unwrap(), format!("re {number}").as_bytes());
        }
        let unnamed = MessageSocket::unnamed().unwrap();
        unnamed.send_to(b"hello", &listen).unwrap();
        rig.until("its answer is dropped", |rig| rig.count(0, field::DROPPED) == 1);
        assert_eq!(rig.count(0, field::OPENED), 21);
    });
}

/// A target that goes and comes back: what is sent meanwhile is lost and counted, and the same client goes on; under the
/// same flow if it has missed nothing. Fails when: a refused datagram is not sent again to the socket in the old one's
/// place.
#[test]
fn a_target_that_restarts_loses_no_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        let (listen, target) = (Addr::unix(rig.path("listen")), Addr::unix(rig.path("target")));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        let target_key = format!("unixgram:{}", rig.path("target").display());
        rig.add(0, &format!("unixgram:{}", rig.path("listen").display()), &target_key, &[]);
        rig.add(1, "udp:127.0.0.1:1000", &target_key, &[]);
        let client = client(&abstract_name("client"), &listen);
        for round in 0..3 {
            let echo = Echo::start(&target, "");
            for _ in 0..3 {
                assert_eq!(ask(&client, b"hello"), b"hello");
                udp.send_to(b"hello", "127.0.0.1:1000").unwrap();
                assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 5);
            }
            drop(echo);
            client.send(b"lost").unwrap();
            udp.send_to(b"lost", "127.0.0.1:1000").unwrap();
            rig.until("the loss is counted", |rig| {
                (0..2).all(|slot| rig.count(slot, field::DROPPED) == round + 1)
            });
        }
        assert!(rig.count(0, field::DIAL_FAILED) >= 3);
        let flows = [0, 1].map(|slot| rig.count(slot, field::OPENED));
        assert_eq!(flows, [3, 3]);
        for _ in 0..3 {
            let _echo = Echo::start(&target, "");
            assert_eq!(ask(&client, b"hello"), b"hello");
            udp.send_to(b"hello", "127.0.0.1:1000").unwrap();
            assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 5);
        }
        assert_eq!([0, 1].map(|slot| rig.count(slot, field::OPENED)), flows.map(|count| count + 1));
    });
}

/// While a target is away nobody else can answer in its name, neither then nor by what waits for its return. Fails when: the
/// socket of a flow whose target is closed takes datagrams from anybody.
#[test]
fn strangers_do_not_answer_for_a_target_that_is_away() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = MessageSocket::bind(&abstract_name("target")).unwrap();
        rig.add(0, "unixgram:@listen", "unixgram:@target", &[]);
        rig.add(1, "udp:127.0.0.1:1000", "unixgram:@target", &[]);
        let client = client(&abstract_name("client"), &abstract_name("listen"));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        let next = |target: &MessageSocket| {
            let (_, _, from) = recvfrom(target, &mut [0; 8], RecvFlags::empty()).unwrap();
            SocketAddrUnix::try_from(from.unwrap()).unwrap()
        };
        client.send(b"hello").unwrap();
        let first = next(&target);
        udp.send_to(b"hello", "127.0.0.1:1000").unwrap();
        let flows = [first, next(&target)];
        let stranger = MessageSocket::unnamed().unwrap();
        let intrude = || {
            for flow in &flows {
                let sent = sendto(&stranger, b"forged", SendFlags::NOSIGNAL, flow);
                assert!(sent.is_err(), "a stranger's datagram is taken");
            }
        };
        intrude();
        drop(target);
        intrude();
        client.send(b"lost").unwrap();
        udp.send_to(b"lost", "127.0.0.1:1000").unwrap();
        rig.until("the loss is counted", |rig| (0..2).all(|slot| rig.count(slot, field::DROPPED) == 1));
        intrude();
        let _echo = Echo::start(&abstract_name("target"), "true ");
        intrude();
        assert_eq!(ask(&client, b"hello"), b"true hello");
        udp.send_to(b"hello", "127.0.0.1:1000").unwrap();
        let mut got = [0; 16];
        let length = udp.recv(&mut got).unwrap();
        assert_eq!(&got[..length], b"true hello");
    });
}

/// A target that does not read makes its clients wait, and then gets everything in order. Fails when: what finds a
/// full queue is dropped, or the listener is not watched again.
#[test]
fn a_slow_target_loses_nothing() {
    in_netns(|| {
        const COUNT: u32 = 500;
        let mut rig = Rig::start();
        let target = MessageSocket::bind(&abstract_name("target")).unwrap();
        rig.add(0, "unixgram:@listen", "unixgram:@target", &[]);
        let sender = std::thread::spawn(|| {
            let client = MessageSocket::unnamed().unwrap();
            client.connect_to(&abstract_name("listen")).unwrap();
            for number in 0..COUNT {
                client.send(&number.to_be_bytes()).unwrap();
            }
        });
        rig.until("its queue is full", |rig| rig.count(0, field::BYTES_IN) > 0);
        std::thread::sleep(Duration::from_millis(50));
        assert!(!sender.is_finished(), "500 datagrams fit into no queue on the way");
        for number in 0..COUNT {
            assert_eq!(target.receive().unwrap(), number.to_be_bytes());
        }
        sender.join().unwrap();
        assert_eq!(rig.count(0, field::DROPPED), 0);
    });
}

/// A listener that waits for its target's room goes on when the flow ends, the target dies, or the device changes.
#[test]
fn a_listener_that_waits_goes_on() {
    in_netns(|| {
        let mut rig = Rig::start();
        let listen = abstract_name("listen");
        // A queue holds 11 (net.unix.max_dgram_qlen is 10), so one more waits in the worker and the rest before it.
        let fill = |rig: &Rig| {
            let full = rig.count(0, field::BYTES_IN) + 11 * 4;
            let client = MessageSocket::unnamed().unwrap();
            client.connect_to(&listen).unwrap();
            for _ in 0..20 {
                client.send(b"fill").unwrap();
            }
            rig.until("the target's queue is full", |rig| rig.count(0, field::BYTES_IN) >= full);
            client
        };
        let target = MessageSocket::bind(&abstract_name("target")).unwrap();
        rig.add(0, "unixgram:@listen", "unixgram:@target", &[]);
        let client = fill(&rig);
        drop(target);
        rig.until("what waits is counted as lost", |rig| rig.count(0, field::DROPPED) > 0);
        let target = MessageSocket::bind(&abstract_name("target")).unwrap();
        client.send(b"after").unwrap();
        while target.receive().unwrap() != b"after" {}
        // Another target, while the first is full.
        let _client = fill(&rig);
        let other = MessageSocket::bind(&abstract_name("other")).unwrap();
        rig.change(0, "unixgram:@listen", "unixgram:@other", &[]);
        assert!(!other.receive().unwrap().is_empty());
    });
}

/// Descriptors pass between unix datagram sockets, folders do not, none with `fds=off`, and none towards udp.
#[test]
fn descriptors() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = MessageSocket::bind(&abstract_name("target")).unwrap();
        let udp = UdpSocket::bind("127.0.0.1:2000").unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.add(0, "unixgram:@on", "unixgram:@target", &[]);
        rig.add(1, "unixgram:@off", "unixgram:@target", &[("fds", "off")]);
        rig.add(2, "unixgram:@udp", "udp:127.0.0.1:2000", &[]);
        let (file, folder) = (fds::memfd("text").unwrap(), File::open("/").unwrap());
        let send = |listen: &str| {
            let client = MessageSocket::unnamed().unwrap();
            client.connect_to(&abstract_name(listen)).unwrap();
            client.send_with(b"hello", &[file.as_fd(), folder.as_fd()]).unwrap();
        };
        send("on");
        let (bytes, mut got) = target.receive_with().unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b"hello"[..], 1));
        assert_eq!(fds::content(got.remove(0)).unwrap(), b"text");
        send("off");
        assert_eq!(target.receive_with().unwrap().1.len(), 0);
        send("udp");
        assert_eq!(udp.recv(&mut [0; 8]).unwrap(), 5);
        let counts: Vec<u64> = (0..3).map(|slot| rig.count(slot, field::DROPPED)).collect();
        assert_eq!(counts, [1, 2, 2]);
    });
}

/// Unix datagrams to udp and back, and udp to unix datagrams and back. What is longer than the other side can carry is
/// dropped and counted.
#[test]
fn unix_to_udp_and_udp_to_unix() {
    in_netns(|| {
        let mut rig = Rig::start();
        let server = UdpSocket::bind("127.0.0.1:2000").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.add(0, "unixgram:@to-udp", "udp:127.0.0.1:2000", &[]);
        let client = client(&abstract_name("client"), &abstract_name("to-udp"));
        let mut got = vec![0; 70_000];
        for size in [0, 1, 9_000, 65_507] {
            client.send(&pattern(1, size)).unwrap();
            let (length, from) = server.recv_from(&mut got).unwrap();
            assert!(got[..length] == pattern(1, size), "{length} of {size} bytes");
            server.send_to(&got[..length], from).unwrap();
            assert!(client.receive().unwrap() == pattern(1, size));
        }
        client.send(&pattern(1, 65_508)).unwrap();
        rig.until("it is dropped", |rig| rig.count(0, field::DROPPED) == 1);

        let service = MessageSocket::bind(&abstract_name("service")).unwrap();
        rig.add(1, "udp:127.0.0.1:1000", "unixgram:@service", &[]);
        let asking = UdpSocket::bind("127.0.0.1:0").unwrap();
        asking.connect("127.0.0.1:1000").unwrap();
        asking.set_read_timeout(Some(PATIENCE)).unwrap();
        for size in [0, 1, 9_000, 65_507] {
            asking.send(&pattern(2, size)).unwrap();
            assert!(service.answer(b"", PATIENCE).unwrap());
            let length = asking.recv(&mut got).unwrap();
            assert!(got[..length] == pattern(2, size), "{length} of {size} bytes");
        }
        assert_eq!(rig.count(1, field::DROPPED), 0);
        asking.send(b"").unwrap();
        assert!(service.answer(&pattern(3, 100_000), PATIENCE).unwrap());
        rig.until("the answer is dropped", |rig| rig.count(1, field::DROPPED) == 1);
        asking.send(b"").unwrap();
        assert!(service.answer(&pattern(3, 65_508), PATIENCE).unwrap());
        rig.until("the answer is dropped", |rig| rig.count(1, field::DROPPED) == 2);
        asking.send(b"after").unwrap();
        assert!(service.answer(b"", PATIENCE).unwrap());
        assert_eq!(asking.recv(&mut got).unwrap(), 5);
    });
}

/// Flows of unix clients end when idle, and the one idle longest makes room. Fails when: flows of names are not in the
/// table that udp's are in.
#[test]
fn idle_and_surplus_flows_end() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _target = MessageSocket::bind(&abstract_name("target")).unwrap();
        let keys = [("udp.idle", "300ms"), ("udp.max_flows", "2")];
        rig.add(0, "unixgram:@listen", "unixgram:@target", &keys);
        for number in 0..3 {
            let client = client(&abstract_name(&format!("c{number}")), &abstract_name("listen"));
            client.send(b"hello").unwrap();
            rig.until("its flow has begun", |rig| rig.count(0, field::OPENED) == number + 1);
        }
        assert_eq!(rig.count(0, field::EVICTED), 1);
        rig.until("they are over", |rig| rig.live(0) == 0);
    });
}

/// Answers go to paths below the descriptor that came with the device and nowhere else: with the folder of the
/// listen socket, a client elsewhere gets none, whatever its path says, nor does one with a relative path, or one
/// that the relay may not write to. Fails when: `to_client` sends to the name as it is.
#[test]
fn answers_stay_below_their_descriptor() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start(&abstract_name("target"), "");
        let folder = rig.path("in");
        std::fs::create_dir(&folder).unwrap();
        let listen = folder.join("listen");
        let mut wire = device(&format!("unixgram:{}", listen.display()), "unixgram:@target", &[]);
        wire.replies = Some(UnixBase::Parent);
        let listeners = open(&wire.spec);
        rig.put(0, &wire, &listeners, None).unwrap();
        let listen = Addr::unix(&listen);
        let inside = client(&Addr::unix(folder.join("client")), &listen);
        assert_eq!(ask(&inside, b"hello"), b"hello");

        let elsewhere = client(&Addr::unix(rig.path("client")), &listen);
        elsewhere.send(b"hello").unwrap();
        rig.until("its answer is dropped", |rig| rig.count(0, field::DROPPED) == 1);
        // The same socket by a path that begins in the folder and leads out of it.
        let out = client(&Addr::unix(folder.join("../out")), &listen);
        out.send(b"hello").unwrap();
        rig.until("its answer is dropped", |rig| rig.count(0, field::DROPPED) == 2);
        // A client that puts a link in its socket's place.
        let link = folder.join("link");
        let linked = client(&Addr::unix(&link), &listen);
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(rig.path("client"), &link).unwrap();
        linked.send(b"hello").unwrap();
        rig.until("its answer is dropped", |rig| rig.count(0, field::DROPPED) == 3);
        // What it would reach through a descriptor of the relay.
        let magic = Path::new("/proc/self/fd/3/client");
        assert!(MessageSocket::bind(&Addr::unix(magic)).is_err(), "nobody binds there");
        assert_eq!(ask(&inside, b"still"), b"still");
        std::fs::set_permissions(folder.join("client"), Permissions::from_mode(0o600)).unwrap();
    });
}
