//! Hold, death of the instance, adoption, drain: what a client sees while its surroundings change.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use portway_relay::wire::{FromWorker, Init, Known, Lifetime, PROTOCOL_VERSION, Slot, ToWorker, field};
use portway_relay::worker::WorkerError;
use portway_sys::listen;
use portway_testkit::Stream;
use rig::{Rig, accept, connect, in_netns, init, service, try_connect};

const TARGET: &str = "tcp:127.0.0.1:2000";
const LISTEN: &str = "tcp:127.0.0.1:1000";

fn exchange(client: &Stream, server: &Stream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    (&*client).write_all(text).unwrap();
    (&*server).read_exact(&mut got).unwrap();
    assert_eq!(got, text);
    (&*server).write_all(text).unwrap();
    (&*client).read_exact(&mut got).unwrap();
    assert_eq!(got, text);
}

fn hold_ended(rig: &mut Rig, slot: u32) -> bool {
    rig.wait_for(|message| match message {
        FromWorker::HoldEnded { slot: ended, reached } if ended.index == slot => Some(*reached),
        _ => None,
    })
    .0
}

/// Clients of a target that is not there yet are kept, in order, and served as soon as it is.
#[test]
fn held_clients_are_served_when_the_target_comes() {
    in_netns(|| {
        let mut rig = Rig::start();
        let path = format!("unix:{}", rig.path("target").display());
        for (slot, listen, target) in [(0, LISTEN, TARGET), (1, "unix:@listen", path.as_str())] {
            rig.add_held(slot, listen, target, &[], Duration::from_secs(20));
            let clients: Vec<Stream> = (0..100_u8)
                .map(|number| {
                    let client = connect(listen);
                    (&client).write_all(&[number]).unwrap();
                    client
                })
                .collect();
            // Two leave: the one that is being called for, and one that waits.
            let mut clients = clients;
            clients.remove(50).reset();
            clients.remove(0).reset();
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(rig.count(slot, field::DIAL_FAILED), 0);
            let service = service(target);
            let start = Instant::now();
            let mut served = Vec::new();
            while served.len() < clients.len() {
                let server = accept(&service);
                let mut number = [0];
                // Those that left may still be called for: what they sent before stands.
                if matches!((&server).read(&mut number), Ok(1)) && ![0, 50].contains(&number[0]) {
                    served.push(number[0]);
                    (&server).write_all(&number).unwrap();
                }
            }
            assert!(start.elapsed() < Duration::from_millis(500), "served after {:?}", start.elapsed());
            for client in &clients {
                (&*client).read_exact(&mut [0]).unwrap();
            }
            assert!(hold_ended(&mut rig, slot));
            // The hold is over: the next refusal is told.
            drop(service);
        }
        let told = try_connect(LISTEN).map(|client| (&client).read(&mut [0]).unwrap_err().kind());
        assert_eq!(told.unwrap_or_else(|error| error.kind()), ErrorKind::ConnectionReset);
    });
}

/// When the hold runs out those who wait are told.
#[test]
fn a_hold_that_runs_out_is_told() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add_held(0, LISTEN, TARGET, &[], Duration::from_millis(400));
        let start = Instant::now();
        let clients: Vec<Stream> = (0..10).map(|_| connect(LISTEN)).collect();
        for client in &clients {
            assert_eq!((&*client).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        assert!(start.elapsed() >= Duration::from_millis(350));
        assert!(!hold_ended(&mut rig, 0));
        assert_eq!(rig.count(0, field::DIAL_FAILED), 10);
    });
}

/// Each target port of a range is held by itself.
#[test]
fn ports_of_a_range_are_held_apart() {
    in_netns(|| {
        let mut rig = Rig::start();
        let first = service("tcp:127.0.0.1:2000");
        rig.add_held(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[], Duration::from_secs(20));
        let late = connect("tcp:127.0.0.1:1001");
        let early = connect("tcp:127.0.0.1:1000");
        exchange(&early, &accept(&first), b"early");
        assert!(hold_ended(&mut rig, 0));
        std::thread::sleep(Duration::from_millis(100));
        let second = service("tcp:127.0.0.1:2001");
        exchange(&late, &accept(&second), b"late");
    });
}

/// A hold can be put on a device that serves, and its target can change meanwhile.
#[test]
fn waiting_clients_follow_a_changed_target() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add_held(0, LISTEN, TARGET, &[], Duration::from_secs(20));
        let client = connect(LISTEN);
        std::thread::sleep(Duration::from_millis(100));
        let other = service("tcp:127.0.0.1:2001");
        rig.change(0, LISTEN, "tcp:127.0.0.1:2001", &[]);
        exchange(&client, &accept(&other), b"moved");
    });
}

/// An instance: a process that can die.
fn instance() -> Child {
    Command::new("sleep").arg("1000").spawn().unwrap()
}

fn init_of(child: &Child) -> (Init, OwnedFd) {
    let pid = i32::try_from(child.id()).unwrap();
    let init = Init { has_pidfd: true, init_pid: Some(pid), ..init() };
    (init, portway_sys::pidfd::open(pid).unwrap())
}

fn orphan(rig: &mut Rig) -> (Slot, u32, OwnedFd) {
    let ((slot, index), mut fds) = rig.wait_for(|message| match message {
        FromWorker::Orphan { slot, index } => Some((*slot, *index)),
        _ => None,
    });
    (slot, index, fds.remove(0))
}

/// A client that is refused because the instance dies is handed over with everything it has sent, and the next worker
/// serves it. Those that come later wait in the backlog.
#[test]
fn clients_of_a_dying_instance_are_handed_over() {
    in_netns(|| {
        // A zombie: it is dying, and no pidfd tells.
        let mut child = instance();
        child.kill().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        rig::until("it is a zombie", || portway_sys::pidfd::dying(pid));
        let mut old = Rig::start_with(Init { init_pid: Some(pid), ..init() }, &[]);
        old.add(7, "tcp:127.0.0.1:1000-1001", TARGET, &[]);
        let client = connect("tcp:127.0.0.1:1001");
        (&client).write_all(b"request").unwrap();
        let (slot, index, fd) = orphan(&mut old);
        assert_eq!((slot, index), (Slot::new(7, 0), 1));
        let later = connect("tcp:127.0.0.1:1000");
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(old.count(7, field::OPENED), 1, "it waits in the backlog");
        assert_eq!((old.live(7), old.count(7, field::DIAL_FAILED)), (0, 0));

        let mut new = Rig::start();
        let service = service(TARGET);
        let device = rig::device("tcp:127.0.0.1:1000-1001", TARGET, &[]);
        new.put(3, &device, &std::mem::take(&mut old.kept)[0].1, None).unwrap();
        let for_later = accept(&service);
        new.say(
            &ToWorker::Client { slot: Slot::new(3, 0), index: 1, known: Known::default() },
            &[fd.as_fd()],
        );
        drop(fd);
        let server = accept(&service);
        let mut request = [0; 7];
        (&server).read_exact(&mut request).unwrap();
        assert_eq!(&request, b"request");
        exchange(&client, &server, b"and more");
        exchange(&later, &for_later, b"later");
        child.wait().unwrap();
    });
}

/// When the instance dies: held clients are handed over, bytes on their way arrive, and the worker is gone in
/// 200 ms.
#[test]
fn the_worker_ends_with_its_instance() {
    in_netns(|| {
        let mut child = instance();
        let (init, pidfd) = init_of(&child);
        let mut rig = Rig::start_with(init, &[pidfd.as_fd()]);
        let source = service("tcp:127.0.0.1:2001");
        rig.add_held(0, LISTEN, TARGET, &[], Duration::from_secs(20));
        rig.add(1, "tcp:127.0.0.1:1001", "tcp:127.0.0.1:2001", &[]);
        let held = connect(LISTEN);
        let live = connect("tcp:127.0.0.1:1001");
        let server = accept(&source);
        // Through the worker: now it knows that the connection stands.
        exchange(&live, &server, b"before");
        (&server).write_all(b"last words").unwrap();
        rig.until("held", |rig| rig.live(0) == 1);
        let start = Instant::now();
        child.kill().unwrap();
        child.wait().unwrap();
        rig.wait_for(|message| (*message == FromWorker::InstanceGone).then_some(()));
        let (slot, _, _client) = orphan(&mut rig);
        assert_eq!(slot, Slot::new(0, 0));
        drop(server);
        let mut got = Vec::new();
        let _ = (&live).read_to_end(&mut got);
        assert_eq!(got, b"last words");
        rig.lose_channel();
        rig.join().unwrap();
        assert!(start.elapsed() < Duration::from_millis(6000), "{:?}", start.elapsed());
        // The held client is the daemon's: it has not been told anything.
        held.set_timeout(Duration::from_millis(50)).unwrap();
        assert_eq!((&held).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    });
}

/// A connection that is still open when the 200 ms are over ends with a reset: it was cut.
#[test]
fn what_cannot_finish_with_the_instance_is_reset() {
    in_netns(|| {
        let mut child = instance();
        let (init, pidfd) = init_of(&child);
        let mut rig = Rig::start_with(init, &[pidfd.as_fd()]);
        let service = service(TARGET);
        rig.add(0, LISTEN, TARGET, &[]);
        let client = connect(LISTEN);
        let server = accept(&service);
        exchange(&client, &server, b"x");
        child.kill().unwrap();
        child.wait().unwrap();
        let start = Instant::now();
        assert_eq!((&client).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(start.elapsed() < Duration::from_millis(800), "{:?}", start.elapsed());
        rig.lose_channel();
        rig.join().unwrap();
    });
}

fn table(rig: &mut Rig) -> Vec<(Slot, u32, Vec<OwnedFd>)> {
    let mut entries: Vec<(Slot, u32, Vec<OwnedFd>)> = Vec::new();
    loop {
        match rig.hear().unwrap() {
            (FromWorker::Ready { .. }, fds) => assert_eq!(fds.len(), 1),
            (FromWorker::Entry { slot, listen_count, first, device }, fds) => {
                assert_eq!(device.note, "note");
                if first == 0 {
                    entries.push((slot, listen_count, fds));
                } else {
                    let entry = entries.iter_mut().find(|entry| entry.0 == slot).unwrap();
                    assert_eq!(entry.2.len(), usize::try_from(first).unwrap());
                    entry.2.extend(fds);
                }
            }
            (FromWorker::End, _) => return entries,
            (other, _) => panic!("{other:?}"),
        }
    }
}

/// The daemon dies: connections go on and new ones are served. The next daemon gets everything back.
#[test]
fn a_worker_outlives_its_daemon_and_is_adopted() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service(TARGET);
        rig.add(0, LISTEN, TARGET, &[]);
        rig.add(5, "udp:127.0.0.1:3000-3699", "udp:127.0.0.1:2000", &[]);
        let before = connect(LISTEN);
        let server = accept(&service);
        exchange(&before, &server, b"before");
        rig.lose_channel();
        rig.kept.clear();
        exchange(&before, &server, b"meanwhile");
        let orphaned = connect(LISTEN);
        let second = accept(&service);
        exchange(&orphaned, &second, b"meanwhile");

        rig.adopt();
        let entries = table(&mut rig);
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].0, entries[0].1, entries[0].2.len()), (Slot::new(0, 0), 1, 1));
        assert_eq!((entries[1].0, entries[1].1, entries[1].2.len()), (Slot::new(5, 0), 700, 700));
        for (port, listener) in (3000..).zip(&entries[1].2) {
            assert_eq!(listen::local_addr(listener.as_fd()).unwrap().port(), port);
        }
        assert_eq!(rig.count(0, field::OPENED), 2);
        rig.remove(5, true);
        exchange(&before, &server, b"after");
        rig.change(0, LISTEN, "tcp:127.0.0.1:2001", &[]);
        exchange(&orphaned, &second, b"after");

        // A second adoption takes the place of the first.
        rig.adopt();
        assert_eq!(table(&mut rig).len(), 1);
        exchange(&before, &server, b"again");
    });
}

/// A daemon of another version is told, and nothing changes; a stranger is turned away.
#[test]
fn another_version_is_told() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service(TARGET);
        rig.add(0, LISTEN, TARGET, &[]);
        let other = portway_sys::seqpacket::Channel::connect(&rig.path("w.sock")).unwrap();
        other.set_timeout(Some(rig::PATIENCE)).unwrap();
        other.send(br#"{"op":"hello","version":999}"#, &[]).unwrap();
        let mut packet = Vec::new();
        other.recv(&mut packet).unwrap().unwrap();
        assert_eq!(
            serde_json::from_slice::<FromWorker>(&packet).unwrap(),
            FromWorker::Version { version: PROTOCOL_VERSION }
        );
        assert!(other.recv(&mut packet).unwrap().is_none());
        let noise = portway_sys::seqpacket::Channel::connect(&rig.path("w.sock")).unwrap();
        noise.send(b"not json", &[]).unwrap();
        noise.set_timeout(Some(rig::PATIENCE)).unwrap();
        assert!(noise.recv(&mut packet).unwrap().is_none());
        rig.change(0, LISTEN, TARGET, &[]);
        exchange(&connect(LISTEN), &accept(&service), b"x");
    });
}

/// A foreground command's worker ends with it.
#[test]
fn a_worker_of_a_foreground_command_ends_with_it() {
    in_netns(|| {
        let mut rig = Rig::start_with(Init { lifetime: Lifetime::WithDaemon, ..init() }, &[]);
        rig.add(0, LISTEN, TARGET, &[]);
        rig.lose_channel();
        rig.join().unwrap();
    });
}

/// Drained, a worker takes no new clients, finishes the ones it has, and ends.
#[test]
fn a_drained_worker_finishes() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service(TARGET);
        rig.add(0, LISTEN, TARGET, &[]);
        let client = connect(LISTEN);
        let server = accept(&service);
        exchange(&client, &server, b"before");
        rig.say(&ToWorker::Drain { grace: Duration::from_secs(20) }, &[]);
        rig.kept.clear();
        rig::until("nobody listens", || try_connect(LISTEN).is_err());
        exchange(&client, &server, b"after");
        assert!(!rig.is_over());
        drop((client, server));
        rig.lose_channel();
        rig.join().unwrap();
    });
}

/// Flows are answered for a moment; nobody waits for ever for what may never come.
#[test]
fn a_drained_worker_still_answers_flows() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = UdpSocket::bind("127.0.0.1:2000").unwrap();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:1000").unwrap();
        client.set_read_timeout(Some(rig::PATIENCE)).unwrap();
        client.send(b"question").unwrap();
        let (_, from) = target.recv_from(&mut [0; 10]).unwrap();
        let start = Instant::now();
        rig.say(&ToWorker::Drain { grace: Duration::from_secs(20) }, &[]);
        std::thread::sleep(Duration::from_millis(100));
        target.send_to(b"answer", from).unwrap();
        client.recv(&mut [0; 10]).unwrap();
        // What comes in is for the worker that took over the listener.
        client.send(b"question").unwrap();
        rig.lose_channel();
        rig.join().unwrap();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        let next = UdpSocket::from(rig.kept.remove(0).1.remove(0));
        assert_eq!(next.recv(&mut [0; 10]).unwrap(), 8);
    });
}

#[test]
fn a_drain_has_an_end() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service(TARGET);
        rig.add(0, LISTEN, TARGET, &[]);
        let client = connect(LISTEN);
        let _server = accept(&service);
        let start = Instant::now();
        rig.say(&ToWorker::Drain { grace: Duration::from_millis(300) }, &[]);
        assert_eq!((&client).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(start.elapsed() >= Duration::from_millis(290));
        rig.lose_channel();
        rig.join().unwrap();
    });
}

/// A listener that was told to refuse, and to listen again: the worker neither spins nor misses it.
#[test]
fn a_refusing_listener_comes_back() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service(TARGET);
        rig.add(0, LISTEN, TARGET, &[]);
        for _ in 0..3 {
            exchange(&connect(LISTEN), &accept(&service), b"open");
            listen::refuse(rig.kept[0].1[0].as_fd()).unwrap();
            assert_eq!(try_connect(LISTEN).unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let before = cpu();
            std::thread::sleep(Duration::from_millis(200));
            assert!(cpu() - before < Duration::from_millis(100), "spins");
            listen::relisten(rig.kept[0].1[0].as_fd()).unwrap();
            let pair = (connect(LISTEN), connect(LISTEN));
            exchange(&pair.0, &accept(&service), b"again");
            exchange(&pair.1, &accept(&service), b"again");
        }
    });
}

/// CPU time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap(), u32::try_from(time.tv_nsec).unwrap())
}

/// What does not fit together is refused with a reason, and leaves what was there alone.
#[test]
fn requests_that_make_no_sense_are_refused() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service(TARGET);
        rig.add(0, LISTEN, TARGET, &[]);
        let device = rig::device("tcp:127.0.0.1:1001", TARGET, &[]);
        let say = |rig: &mut Rig, seq, slot, listen_count, keep| {
            let device = Box::new(device.clone());
            rig.say(
                &ToWorker::Put {
                    seq,
                    slot: Slot::new(slot, 0),
                    device,
                    listen_count,
                    keep_listeners: keep,
                    hold: None,
                },
                &[],
            );
        };
        say(&mut rig, 100, 5000, 1, false);
        assert_eq!(rig.done(100).unwrap(), "slot 5000 is out of range");
        say(&mut rig, 101, 9, 1, true);
        assert_eq!(rig.done(101).unwrap(), "no device in slot 9");
        say(&mut rig, 102, 0, 3, true);
        assert_eq!(rig.done(102).unwrap(), "3 listeners are to be kept, there are 1");
        say(&mut rig, 103, 1, 2, false);
        say(&mut rig, 104, 1, 2, false);
        assert_eq!(rig.done(103).unwrap(), "replaced by a later request");
        rig.say(&ToWorker::Listeners { slot: Slot::new(1, 0), first: 1 }, &[service.as_fd()]);
        assert_eq!(rig.done(104).unwrap(), "listeners 1 and on do not fit");
        say(&mut rig, 106, 2, 60_000, false);
        assert_eq!(rig.done(106).unwrap(), "no descriptors left for 60000 listeners");
        rig.say(&ToWorker::Remove { seq: 105, slot: Slot::new(1, 0), drain: true }, &[]);
        assert_eq!(rig.done(105).unwrap(), "no device in slot 1");
        rig.say(&ToWorker::Listeners { slot: Slot::new(77, 0), first: 0 }, &[]);
        rig.say(&ToWorker::Client { slot: Slot::new(77, 0), index: 0, known: Known::default() }, &[]);
        exchange(&connect(LISTEN), &accept(&service), b"still");
    });
}

/// The first message decides: another version is told, and anything else ends the worker.
#[test]
fn a_wrong_beginning_ends_the_worker() {
    let start = |packet: &[u8]| {
        let (ours, theirs) = portway_sys::seqpacket::Channel::pair().unwrap();
        ours.send(packet, &[]).unwrap();
        let result = portway_relay::worker::serve(theirs, None, portway_relay::worker::Confinement::Thread);
        let mut answer = Vec::new();
        let answered = ours.recv(&mut answer).unwrap().is_some();
        (result, answered.then(|| serde_json::from_slice::<FromWorker>(&answer).unwrap()))
    };
    let (result, answer) = start(br#"{"op":"init","version":7,"shape":"of another time"}"#);
    assert!(matches!(result, Err(WorkerError::Version(7))));
    assert_eq!(answer, Some(FromWorker::Version { version: PROTOCOL_VERSION }));
    let (result, answer) = start(br#"{"op":"exit"}"#);
    assert!(matches!(result, Err(WorkerError::Init(_))) && answer.is_none());
    let missing = Init { has_netns: true, ..init() };
    let (result, answer) = start(&serde_json::to_vec(&ToWorker::Init(missing)).unwrap());
    assert!(matches!(result, Err(WorkerError::Init(_))));
    let Some(FromWorker::Done { seq: 0, error: Some(error) }) = answer else { panic!("{answer:?}") };
    assert_eq!(error, "no init message: 0 descriptors came, 1 were announced");
}
