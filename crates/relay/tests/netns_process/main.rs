//! The worker as a process of its own, with everything given up: does the sandbox leave it what the engine needs, what does
//! it weigh, what happens when descriptors run out.
//!
//! This binary is its own test harness, because its `main` is also the worker's: `process::spawn_role` starts the
//! running program again.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test program of its own")]

mod idle;
#[path = "../rig/mod.rs"]
mod rig;
mod rows;
mod stalled;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use idle::{IDLE, assert_idle, cpu_time};
use portway_model::GroupIds;
use portway_relay::wire::{FromWorker, Ids, Init, Sandbox, field};
use portway_testkit::{Addr, MessageSocket, Stream, fds, process};
use rig::{
    PATIENCE, Rig, accept, bound_tcp_memory, connect, expect_to_end, in_netns, init, pattern, service,
};
use rustix::process::{Pid, Resource, Rlimit};

/// Tests by name.
const TESTS: [(&str, fn()); 19] = [
    ("everything_works_in_the_sandbox", everything_works_in_the_sandbox),
    ("the_sandbox_holds", the_sandbox_holds),
    ("clients_are_judged_in_the_sandbox", clients_are_judged_in_the_sandbox),
    ("groups_open_what_is_theirs", groups_open_what_is_theirs),
    ("a_worker_starts_quickly", a_worker_starts_quickly),
    ("a_worker_stays_small", a_worker_stays_small),
    ("stalled_readers_stay_in_the_kernel", stalled_readers_stay_in_the_kernel),
    ("a_worker_without_descriptors_recovers", a_worker_without_descriptors_recovers),
    ("descriptors_that_cannot_be_taken_are_not_left_out", descriptors_that_cannot_be_taken_are_not_left_out),
    ("descriptors_held_for_stalled_readers_leave_room", descriptors_held_for_stalled_readers_leave_room),
    ("a_stalled_datagram_target_leaves_others_room", stalled::a_stalled_datagram_target_leaves_others_room),
    ("stalled_datagram_targets_take_little_memory", stalled::stalled_datagram_targets_take_little_memory),
    ("replies_that_came_together_go_back_together", rows::replies_that_came_together_go_back_together),
    ("failures_cost_no_cpu", idle::failures_cost_no_cpu),
    ("waiting_listeners_cost_no_cpu", idle::waiting_listeners_cost_no_cpu),
    ("descriptors_without_quota_cost_no_cpu", idle::descriptors_without_quota_cost_no_cpu),
    ("flows_share_the_descriptors", flows_share_the_descriptors),
    ("a_name_outlives_the_flow_that_makes_room", a_name_outlives_the_flow_that_makes_room),
    ("clients_beyond_the_descriptors_wait", clients_beyond_the_descriptors_wait),
];

/// What cargo-nextest and `cargo test` ask of a harness: a list, one test by its exact name, or all that contain a
/// word.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["worker"] {
        return portway_relay::worker::run();
    }
    if arguments == ["limited"] {
        let limit = Rlimit { current: Some(FEW_FDS), maximum: Some(FEW_FDS) };
        rustix::process::setrlimit(Resource::Nofile, limit).unwrap();
        return portway_relay::worker::run();
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // The value of `--format` is no test's name.
    let words: Vec<&String> = arguments
        .iter()
        .filter(|word| !word.starts_with('-') && *word != "terse" && *word != "pretty")
        .collect();
    let wanted = |name: &str| {
        words.is_empty()
            || words.iter().any(|word| if has("--exact") { name == *word } else { name.contains(*word) })
    };
    for (name, test) in TESTS.into_iter().filter(|(name, _)| wanted(name)) {
        if has("--list") {
            if !has("--ignored") {
                println!("{name}: test");
            }
        } else if !has("--ignored") {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

/// Descriptors of a worker in the role `limited`.
const FEW_FDS: u64 = 400;

/// An unprivileged user, as the daemon would pick one.
const NOBODY: Ids = Ids { uid: 65_534, gid: 65_534, groups: GroupIds::NONE };

fn confined() -> Init {
    Init { ids: Some(NOBODY), sandbox: Sandbox::Full, ..init() }
}

fn start() -> Rig {
    Rig::start_process(confined(), &[])
}

fn exchange(client: &Stream, server: &Stream, length: usize) {
    let bytes = pattern(length as u64, length);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&*client).write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
        });
        expect_to_end(server, &bytes);
        scope.spawn(|| {
            (&*server).write_all(&bytes).unwrap();
            server.shutdown(Shutdown::Write).unwrap();
        });
        expect_to_end(client, &bytes);
    });
}

/// Every kind of traffic and every kind of message, so that each system call of the engine is made under the filter.
fn everything_works_in_the_sandbox() {
    in_netns(|| {
        let child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = portway_sys::pidfd::open(pid).unwrap();
        let netns = portway_sys::netns::current().unwrap();
        let init = Init { has_netns: true, has_pidfd: true, init_pid: Some(pid), ..confined() };
        let mut rig = Rig::start_process(init, &[netns.as_fd(), pidfd.as_fd()]);
        open_to_all(&rig);
        streams(&mut rig);
        datagrams(&mut rig);
        records(&mut rig);
        messages(&mut rig);
        frames(&mut rig);
        refusals(&mut rig);
        rig.lose_channel();
        rig.adopt();
        while !matches!(rig.hear().unwrap().0, FromWorker::End) {}
        streams(&mut rig);
        death(&mut rig, child);
    });
}

/// A header is looked at and taken, a client refused and reset, without another system call.
fn clients_are_judged_in_the_sandbox() {
    in_netns(|| {
        let mut rig = start();
        let service = service("tcp:127.0.0.1:2000");
        let keys = [("accept_proxy", "127.0.0.1"), ("deny", "192.0.2.66"), ("proxy_protocol", "v1")];
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &keys);
        for (address, served) in [("192.0.2.1", true), ("192.0.2.66", false)] {
            let client = connect("tcp:127.0.0.1:1000");
            let header = format!("PROXY TCP4 {address} 198.51.100.1 1 2\r\n");
            (&client).write_all(header.as_bytes()).unwrap();
            if served {
                client.shutdown(Shutdown::Write).unwrap();
                expect_to_end(&accept(&service), header.as_bytes());
            } else {
                assert_eq!((&client).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
        }
        assert_eq!(rig.count(0, field::DENIED), 1);
    });
}

/// A socket that only a group may use is reached with that group among the supplementary ones, and not without.
///
/// Fails when: the groups of the worker are always emptied.
fn groups_open_what_is_theirs() {
    const THEIRS: u32 = 4242;
    in_netns(|| {
        for (groups, served) in [(&[4, THEIRS][..], true), (&[4], false)] {
            let ids = Ids { groups: GroupIds::new(groups).unwrap(), ..NOBODY };
            let mut rig = Rig::start_process(Init { ids: Some(ids), ..confined() }, &[]);
            open_to_all(&rig);
            let path = rig.path("target");
            let target = format!("unix:{}", path.display());
            let service = service(&target);
            std::os::unix::fs::chown(&path, None, Some(THEIRS)).unwrap();
            {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o660)).unwrap();
            }
            rig.add(0, "tcp:127.0.0.1:1000", &target, &[]);
            // The reset may come before the call returns.
            let client = rig::try_connect("tcp:127.0.0.1:1000");
            if served {
                exchange(&client.unwrap(), &accept(&service), 10);
            } else {
                let refused = client.and_then(|client| (&client).read(&mut [0]));
                assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset);
            }
        }
    });
}

fn records(rig: &mut Rig) {
    let (listen, target) = (rig.path("records-in"), rig.path("records-out"));
    let service = MessageSocket::listen(&Addr::unix(&target)).unwrap();
    open_socket(&target);
    let key = |path: &Path| format!("unixpacket:{}", path.display());
    rig.add(7, &key(&listen), &key(&target), &[]);
    let client = MessageSocket::connect(&Addr::unix(&listen)).unwrap();
    let server = service.accept().unwrap();
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    for (from, to) in [(&client, &server), (&server, &client)] {
        for size in [0, 5, 200_000] {
            from.send_with(&pattern(1, size), &[file.as_fd()]).unwrap();
            let (bytes, got) = to.receive_with().unwrap();
            assert!(bytes == pattern(1, size) && got.len() == 1, "{size} bytes");
        }
    }
    drop(client);
    assert_eq!(server.receive().unwrap(), b"");
    rig.remove(7, false);
}

/// Answers to paths and abstract names, a target that restarts, one whose queue is full.
fn messages(rig: &mut Rig) {
    let (listen, target) = (rig.path("grams-in"), rig.path("grams-out"));
    let key = |path: &Path| format!("unixgram:{}", path.display());
    rig.add(7, &key(&listen), &key(&target), &[]);
    let names = [Addr::unix(rig.path("client")), Addr::Abstract("client".into())];
    let clients = names.map(|name| {
        let client = MessageSocket::bind(&name).unwrap();
        client.connect_to(&Addr::unix(&listen)).unwrap();
        client
    });
    open_socket(&rig.path("client"));
    for _ in 0..2 {
        let service = MessageSocket::bind(&Addr::unix(&target)).unwrap();
        open_socket(&target);
        for client in &clients {
            client.send(b"hello").unwrap();
            assert!(service.answer(b"re ", PATIENCE).unwrap());
            assert_eq!(client.receive().unwrap(), b"re hello");
        }
        for _ in 0..20 {
            clients[0].send(b"more").unwrap();
        }
        for _ in 0..20 {
            assert_eq!(service.receive().unwrap(), b"more");
        }
        std::fs::remove_file(&target).unwrap();
    }
    rig.remove(7, false);
}

/// A datagram in a stream, with a header before it, and a frame out of one.
fn frames(rig: &mut Rig) {
    let len16 = ("udp.framing", "len16");
    let service = service("tcp:127.0.0.1:2000");
    rig.add(7, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[len16, ("proxy_protocol", "v2")]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(b"hello", "127.0.0.1:1000").unwrap();
    let server = accept(&service);
    let mut got = [0; 28 + 7];
    (&server).read_exact(&mut got).unwrap();
    assert_eq!(&got[28..], b"\0\x05hello");
    (&server).write_all(b"\0\x02re").unwrap();
    assert_eq!(client.recv(&mut got).unwrap(), 2);
    rig.remove(7, false);
    let target = UdpSocket::bind("127.0.0.1:2000").unwrap();
    target.set_read_timeout(Some(PATIENCE)).unwrap();
    rig.add(7, "tcp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[len16]);
    let client = connect("tcp:127.0.0.1:1000");
    (&client).write_all(b"\0\x05hello").unwrap();
    let (length, from) = target.recv_from(&mut got).unwrap();
    target.send_to(&got[..length], from).unwrap();
    (&client).read_exact(&mut got[..7]).unwrap();
    assert_eq!(&got[..7], b"\0\x05hello");
    rig.remove(7, false);
}

/// The worker is another user: sockets of the test have to let it in.
fn open_to_all(rig: &Rig) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(rig.dir(), std::fs::Permissions::from_mode(0o777)).unwrap();
}

fn open_socket(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}

fn streams(rig: &mut Rig) {
    let target = rig.path("target");
    let unix_target = format!("unix:{}", target.display());
    for (listen, connect_to, keys) in [
        ("tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[("proxy_protocol", "false")][..]),
        ("tcp:[::1]:1000", "tcp:[::1]:2000", &[]),
        ("tcp:127.0.0.1:1000", &unix_target, &[]),
        ("unix:@listen", &unix_target, &[]),
        ("unix:@listen", "unix:@target", &[("fds", "off")]),
    ] {
        let service = service(connect_to);
        if connect_to == unix_target {
            open_socket(&target);
        }
        rig.add_held(0, listen, connect_to, keys, Duration::from_secs(5));
        let (client, server) = (connect(listen), accept(&service));
        exchange(&client, &server, 3_000_000);
        if let (Stream::Unix(_), true) = (&client, keys.is_empty()) {
            descriptors(listen, &service);
        }
        rig.remove(0, true);
        drop(service);
        let _ = std::fs::remove_file(&target);
    }
    let service = service("tcp:127.0.0.1:2000");
    rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[("proxy_protocol", "v1")]);
    let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&service));
    (&server).read_exact(&mut [0; 10]).unwrap();
    client.reset();
    let end = (&server).read_to_end(&mut Vec::new());
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    rig.remove(0, false);
}

fn descriptors(listen: &str, service: &portway_testkit::Listener) {
    let (Stream::Unix(client), Stream::Unix(server)) = (connect(listen), accept(service)) else { return };
    let file = std::fs::File::open("/dev/null").unwrap();
    let directory = std::fs::File::open("/").unwrap();
    fds::send(&client, b"x", &[file.as_fd(), directory.as_fd()]).unwrap();
    let (bytes, got) = fds::recv(&server, 10).unwrap();
    assert_eq!((bytes.as_slice(), got.len()), (&b"x"[..], 1));
}

fn datagrams(rig: &mut Rig) {
    let service = UdpSocket::bind("127.0.0.1:2000").unwrap();
    rig.add(1, "udp:[::]:1000", "udp:127.0.0.1:2000", &[("udp.idle", "200ms")]);
    rig.add(2, "tcp:127.0.0.1:1001", "udp:127.0.0.1:2000", &[("udp.idle", "200ms")]);
    for to in ["127.0.0.1:1000", "[::1]:1000"] {
        let client = UdpSocket::bind(if to.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        client.connect(to).unwrap();
        for size in [0, 100, 65_507] {
            let bytes = pattern(1, size);
            client.send(&bytes).unwrap();
            let mut got = vec![0; 70_000];
            let (length, from) = service.recv_from(&mut got).unwrap();
            service.send_to(&got[..length], from).unwrap();
            assert_eq!(client.recv(&mut got).unwrap(), size);
        }
    }
    let stream = connect("tcp:127.0.0.1:1001");
    (&stream).write_all(b"question").unwrap();
    let mut got = [0; 100];
    let (length, from) = service.recv_from(&mut got).unwrap();
    service.send_to(&got[..length], from).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    expect_to_end(&stream, b"question");
    drop(service);
    stream_of_errors(rig);
    rig.until("flows end", |rig| rig.live(1) == 0);
    rig.remove(1, true);
    rig.remove(2, true);
    let error = rig.try_add(1, "udp:127.0.0.1:1000", "udp:[fe80::1%none]:2000", &[], None).unwrap_err();
    assert_eq!(error, "no interface none for the target address");
    rig.add(1, "udp:127.0.0.1:1003", "udp:127.0.0.1:2000", &[]);
    rig.remove(1, true);
}

fn stream_of_errors(rig: &mut Rig) {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        client.send_to(b"nobody", "127.0.0.1:1000").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    rig.until("errors are seen", |rig| rig.count(1, field::DIAL_FAILED) > 0);
}

/// Refused and timed-out calls, which ask whether the instance is dying.
fn refusals(rig: &mut Rig) {
    rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2999", &[]);
    rig.add(1, "tcp:127.0.0.1:1001", "unix:/nowhere/to/be/found", &[]);
    rig.add(2, "tcp:127.0.0.1:1002", "tcp:192.0.2.1:80", &[]);
    for port in 1000..=1002 {
        let told = rig::try_connect(&format!("tcp:127.0.0.1:{port}"))
            .map_or_else(|error| error.kind(), |client| (&client).read(&mut [0]).unwrap_err().kind());
        assert_eq!(told, ErrorKind::ConnectionReset);
    }
    for slot in 0..=2 {
        rig.remove(slot, true);
    }
}

/// The instance dies: a held client is handed over, and the worker ends by itself.
fn death(rig: &mut Rig, mut child: std::process::Child) {
    rig.add_held(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2999", &[], Duration::from_secs(20));
    let _client = connect("tcp:127.0.0.1:1000");
    rig.until("held", |rig| rig.live(0) == 1);
    child.kill().unwrap();
    child.wait().unwrap();
    rig.wait_for(|message| matches!(message, FromWorker::Orphan { .. }).then_some(()));
    rig.wait_for(|message| matches!(message, FromWorker::InstanceGone).then_some(()));
    rig.lose_channel();
    let pid = Pid::from_raw(rig.pid).unwrap();
    let status =
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap().1;
    assert_eq!(status.exit_status(), Some(0), "{status:?}");
}

/// What the process still has.
fn the_sandbox_holds() {
    in_netns(|| {
        let rig = start();
        let tasks: Vec<_> = std::fs::read_dir(format!("/proc/{}/task", rig.pid)).unwrap().collect();
        assert_eq!(tasks.len(), 2, "the engine's thread and the one for large streams");
        for task in tasks {
            let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| {
                status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
            };
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                assert_eq!(field(set), "0000000000000000", "{set}");
            }
            assert_eq!(field("Uid:"), "65534\t65534\t65534\t65534");
            assert_eq!(field("Gid:"), "65534\t65534\t65534\t65534");
            assert_eq!(field("Groups:"), "");
            assert_eq!(field("NoNewPrivs:"), "1");
            assert_eq!(field("Seccomp:"), "2");
        }
        let root: Vec<_> = std::fs::read_dir(format!("/proc/{}/root", rig.pid)).unwrap().collect();
        assert_eq!(root.len(), 1, "nothing but /proc");
    });
}

fn a_worker_starts_quickly() {
    in_netns(|| {
        let mut times: Vec<Duration> = (0..20)
            .map(|_| {
                let begin = Instant::now();
                let rig = start();
                let took = begin.elapsed();
                drop(rig);
                took
            })
            .collect();
        times.sort_unstable();
        println!("start to ready: median {:?}, worst {:?}", times[10], times[19]);
        // A loaded test machine; alone it is a few milliseconds.
        assert!(times[10] < Duration::from_millis(100), "{times:?}");
    });
}

/// Resident memory, KiB.
fn resident(rig: &Rig) -> u64 {
    process::rss_bytes(rig.pid).unwrap() / 1024
}

const LIMIT_KIB: u64 = 8 * 1024;

/// The figures are those of a release build; a debug build is allowed more code.
fn assert_small(rig: &Rig, what: &str) {
    let resident = resident(rig);
    println!("{what}: {resident} KiB resident");
    let limit = if cfg!(debug_assertions) { LIMIT_KIB * 2 } else { LIMIT_KIB };
    assert!(resident < limit, "{what}: {resident} KiB resident");
}

/// 1,000 connections that carry data, then 100,000 more in turn (fewer in a debug build).
fn a_worker_stays_small() {
    in_netns(|| {
        let _ = portway_sys::process::raise_nofile();
        let mut rig = start();
        assert_small(&rig, "idle");
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let bytes = pattern(1, 200_000);
        let open: Vec<(Stream, Stream)> =
            (0..1000).map(|_| (connect("tcp:127.0.0.1:1000"), accept(&target))).collect();
        for (client, server) in &open {
            std::thread::scope(|scope| {
                scope.spawn(|| (&*client).write_all(&bytes).unwrap());
                let mut got = vec![0; bytes.len()];
                (&*server).read_exact(&mut got).unwrap();
                assert!(got == bytes);
            });
        }
        assert_small(&rig, "1,000 connections that carried 200 kB each");
        drop(open);
        let rounds = if cfg!(debug_assertions) { 10_000 } else { 100_000 };
        for _ in 0..rounds {
            let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
            (&client).write_all(b"x").unwrap();
            (&server).read_exact(&mut [0]).unwrap();
            client.reset();
        }
        rig.until("all are closed", |rig| rig.live(0) == 0);
        assert_small(&rig, "after all of them");
        assert_eq!(rig.count(0, field::OPENED), 1000 + rounds);
        let fds = std::fs::read_dir(format!("/proc/{}/fd", rig.pid)).unwrap().count();
        assert!(fds < 60, "{fds} descriptors are still open");
    });
}

/// 1,000 clients ask for much and read nothing: what waits for them waits in the kernel.
fn stalled_readers_stay_in_the_kernel() {
    in_netns(|| {
        bound_tcp_memory();
        let _ = portway_sys::process::raise_nofile();
        let mut rig = start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let chunk = vec![1; 1 << 20];
        let mut open = Vec::new();
        for _ in 0..1000 {
            let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
            rustix::net::sockopt::set_socket_recv_buffer_size(&client, 4096).unwrap();
            rustix::io::ioctl_fionbio(&server, true).unwrap();
            while (&server).write(&chunk).is_ok() {}
            open.push((client, server));
        }
        std::thread::sleep(Duration::from_millis(500));
        assert_small(&rig, "1,000 stalled readers");
        let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
        (&client).write_all(b"x").unwrap();
        (&server).read_exact(&mut [0]).unwrap();
    });
}

/// Both ends of a device between records or datagrams.
fn packets(rig: &mut Rig, slot: u32, protocol: &str) -> (MessageSocket, MessageSocket) {
    let (listen, target) = (rig.path(&format!("in-{slot}")), rig.path(&format!("out-{slot}")));
    let (to, from) = (Addr::unix(&target), Addr::unix(&listen));
    let key = |path: &Path| format!("{protocol}:{}", path.display());
    let service = if protocol == "unixgram" {
        MessageSocket::bind(&to).unwrap()
    } else {
        MessageSocket::listen(&to).unwrap()
    };
    open_socket(&target);
    rig.add(slot, &key(&listen), &key(&target), &[]);
    if protocol == "unixgram" {
        let client = MessageSocket::unnamed().unwrap();
        client.connect_to(&from).unwrap();
        return (client, service);
    }
    let client = MessageSocket::connect(&from).unwrap();
    (client, service.accept().unwrap())
}

/// A worker that cannot take all descriptors of a message never passes it on without them: a stream waits, a
/// connection of records ends, a datagram is dropped. What it took is closed. Fails when: a message goes on
/// without its descriptors.
fn descriptors_that_cannot_be_taken_are_not_left_out() {
    in_netns(|| {
        // As our own user: another one's limits cannot be changed everywhere.
        let mut rig = Rig::start_process(Init { ids: None, ..confined() }, &[]);
        let target = service(&format!("unix:{}", rig.path("target").display()));
        let (listen, to) = (rig.path("listen"), rig.path("target"));
        rig.add(0, &format!("unix:{}", listen.display()), &format!("unix:{}", to.display()), &[]);
        let stream = (connect(&format!("unix:{}", listen.display())), accept(&target));
        exchange_bytes(&stream.0, &stream.1);
        let records = packets(&mut rig, 1, "unixpacket");
        let grams = packets(&mut rig, 2, "unixgram");
        for (from, to) in [&records, &grams] {
            from.send(b"first").unwrap();
            assert_eq!(to.receive().unwrap(), b"first");
        }
        let pid = Pid::from_raw(rig.pid);
        let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
        let low = Rlimit { current: Some(worker_fds(&rig) as u64 + 5), maximum: hard };
        let before = rustix::process::prlimit(pid, Resource::Nofile, low).unwrap();
        let mut closed = Vec::new();
        for from in [&records.0, &grams.0] {
            let (reader, writer) = std::io::pipe().unwrap();
            from.send_with(b"many", &[writer.as_fd(); 20]).unwrap();
            closed.push(reader);
        }
        let (Stream::Unix(client), Stream::Unix(server)) = &stream else { return };
        let (mut piped, writer) = std::io::pipe().unwrap();
        fds::send(client, b"many", &[writer.as_fd(); 20]).unwrap();
        drop(writer);
        // All copies are gone: those of the sender, in the queue, and in the worker.
        for mut reader in closed {
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        }
        assert_eq!(records.1.receive().unwrap(), b"", "the end");
        rig.until("each is counted", |rig| [1, 2].map(|slot| rig.count(slot, field::DROPPED)) == [1, 1]);
        assert_eq!((rig.count(1, field::RESET), rig.live(0)), (1, 1));
        rustix::process::prlimit(pid, Resource::Nofile, before).unwrap();
        let (bytes, got) = fds::recv(server, 10).unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b"many"[..], 20));
        rustix::io::write(&got[19], b"x").unwrap();
        piped.read_exact(&mut [0]).unwrap();
        grams.0.send(b"after").unwrap();
        assert_eq!(grams.1.receive().unwrap(), b"after");
        assert_eq!((rig.count(0, field::DROPPED), rig.count(0, field::RESET)), (0, 0));
    });
}

/// One byte each way.
fn exchange_bytes(client: &Stream, server: &Stream) {
    for (mut from, mut to) in [(client, server), (server, client)] {
        from.write_all(b"x").unwrap();
        to.read_exact(&mut [0]).unwrap();
    }
}

/// Descriptors that nobody takes stay with the kernel, but for a few: the worker keeps room for new clients, and has all
/// of it again when the readers are gone. Fails when: what waits with its descriptors is not counted.
fn descriptors_held_for_stalled_readers_leave_room() {
    // A user of its own: the kernel counts descriptors on their way by user, whoever's limit they meet.
    let ids = Ids { uid: 100_000 + std::process::id() % 100_000, ..NOBODY };
    in_netns(|| {
        let mut rig = Rig::start_role("limited", Init { ids: Some(ids), ..confined() }, &[]);
        open_to_all(&rig);
        let target = service("tcp:127.0.0.1:2000");
        rig.add(20, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let open = worker_fds(&rig);
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut stalled = Vec::new();
        for slot in 0..8 {
            let protocol = ["unixpacket", "unixgram"][usize::from(slot % 2 == 1)];
            let (client, server) = packets(&mut rig, slot, protocol);
            client.send(b"first").unwrap();
            assert_eq!(server.receive().unwrap(), b"first");
            rustix::io::ioctl_fionbio(&client, true).unwrap();
            for _ in 0..30 {
                if client.send_with(b"many", &[file.as_fd(); 100]).is_err() {
                    break;
                }
            }
            stalled.push((client, server));
        }
        for _ in 0..20 {
            let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
            exchange(&client, &server, 1000);
            let now = worker_fds(&rig);
            assert!(now < 300, "{now} descriptors, {open} before");
        }
        drop(stalled);
        rig.until("all are closed", |rig| (0..8).all(|slot| rig.live(slot) == 0 || slot % 2 == 1));
        for slot in 0..8 {
            rig.remove(slot, false);
        }
        rig.until("the worker has them back", |rig| worker_fds(rig) <= open);
        let (client, server) = packets(&mut rig, 8, "unixpacket");
        client.send_with(b"again", &[file.as_fd(); 100]).unwrap();
        let (bytes, got) = server.receive_with().unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b"again"[..], 100));
    });
}

/// Descriptors run out: clients wait in the backlog, those there are served, and everybody is once there is room.
fn a_worker_without_descriptors_recovers() {
    in_netns(|| {
        // As our own user: another one's limits cannot be changed everywhere.
        let mut rig = Rig::start_process(Init { ids: None, ..confined() }, &[]);
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let first = (connect("tcp:127.0.0.1:1000"), accept(&target));
        let pid = Pid::from_raw(rig.pid);
        let open = std::fs::read_dir(format!("/proc/{}/fd", rig.pid)).unwrap().count();
        let hard = rustix::process::getrlimit(Resource::Nofile).maximum;
        let low = Rlimit { current: Some(open as u64 + 5), maximum: hard };
        let before = rustix::process::prlimit(pid, Resource::Nofile, low).unwrap();
        let waiting: Vec<Stream> = (0..20).map(|_| connect("tcp:127.0.0.1:1000")).collect();
        for client in &waiting {
            (&*client).write_all(b"x").unwrap();
        }
        let text = rig
            .wait_for(|message| match message {
                FromWorker::Failure { text, .. } => Some(text.clone()),
                _ => None,
            })
            .0;
        assert!(text.ends_with("too many open files"), "{text}");
        (&first.0).write_all(b"y").unwrap();
        (&first.1).read_exact(&mut [0]).unwrap();
        let spent = cpu_time(&rig);
        std::thread::sleep(IDLE);
        assert_idle(&rig, spent);
        rustix::process::prlimit(pid, Resource::Nofile, before).unwrap();
        for _ in &waiting {
            (&accept(&target)).read_exact(&mut [0]).unwrap();
        }
        assert_eq!(rig.count(0, field::DIAL_FAILED), 0);
    });
}

fn worker_fds(rig: &Rig) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", rig.pid)).unwrap().count()
}

/// More flows than descriptors: the device with the most gives way, conversations of the other one go on, and streams find
/// room.
fn flows_share_the_descriptors() {
    in_netns(|| {
        let mut rig = Rig::start_role("limited", confined(), &[]);
        let _silent = UdpSocket::bind("127.0.0.1:2000").unwrap();
        let service_socket = UdpSocket::bind("127.0.0.1:2001").unwrap();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        rig.add(1, "udp:127.0.0.1:1001", "udp:127.0.0.1:2001", &[]);
        rig.add(2, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let talker = UdpSocket::bind("127.0.0.1:0").unwrap();
        talker.connect("127.0.0.1:1001").unwrap();
        for round in 0..1000 {
            let spoofed = UdpSocket::bind(format!("127.1.{}.{}:0", round / 200, round % 200 + 1)).unwrap();
            spoofed.send_to(b"flood", "127.0.0.1:1000").unwrap();
            if round % 50 == 0 {
                talker.send(b"talk").unwrap();
                let (_, from) = service_socket.recv_from(&mut [0; 10]).unwrap();
                service_socket.send_to(b"talk", from).unwrap();
                talker.recv(&mut [0; 10]).unwrap();
            }
        }
        rig.until("all are counted", |rig| rig.count(0, field::OPENED) == 1000);
        assert!(worker_fds(&rig) < 300, "{}", worker_fds(&rig));
        assert_eq!((rig.count(1, field::OPENED), rig.count(1, field::EVICTED)), (1, 0));
        assert_eq!(rig.count(0, field::DROPPED), 0);
        let target = service("tcp:127.0.0.1:2000");
        let pairs: Vec<(Stream, Stream)> =
            (0..20).map(|_| (connect("tcp:127.0.0.1:1000"), accept(&target))).collect();
        for (client, server) in &pairs {
            exchange(client, server, 1000);
        }
    });
}

/// A client of unix datagrams whose only flow makes room for its next one, on another device, is answered. Fails when: the
/// name goes with the flow, between the look at it and the new flow.
fn a_name_outlives_the_flow_that_makes_room() {
    in_netns(|| {
        let mut rig = Rig::start_role("limited", confined(), &[]);
        let name = |name: &str| Addr::Abstract(name.to_owned());
        let target = MessageSocket::bind(&name("target")).unwrap();
        rig.add(0, "unixgram:@first", "unixgram:@target", &[]);
        rig.add(1, "unixgram:@second", "unixgram:@target", &[]);
        let ask = |client: &MessageSocket, device: &str| {
            client.send_to(b"hello", &name(device)).unwrap();
            assert!(target.answer(b"", PATIENCE).unwrap());
            assert_eq!(client.receive().unwrap(), b"hello");
        };
        // Until the first flow has made room for the last.
        let mut clients = Vec::new();
        while rig.count(0, field::EVICTED) == 0 {
            let client = MessageSocket::bind(&name(&format!("c{}", clients.len()))).unwrap();
            ask(&client, "first");
            clients.push(client);
        }
        // The next in line.
        ask(&clients[1], "second");
        assert_eq!((rig.count(0, field::EVICTED), rig.count(1, field::OPENED)), (2, 1));
        // Under the same flow as before: the name is the one that the flow has.
        ask(&clients[1], "second");
        assert_eq!((rig.count(1, field::OPENED), rig.count(1, field::DROPPED)), (1, 0));
    });
}

/// More clients than descriptors: those that fit are served, the others wait in the backlog for their turn.
fn clients_beyond_the_descriptors_wait() {
    in_netns(|| {
        let mut rig = Rig::start_role("limited", confined(), &[]);
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let clients: Vec<Stream> = (0..400).map(|_| connect("tcp:127.0.0.1:1000")).collect();
        for client in &clients {
            (&*client).write_all(b"x").unwrap();
        }
        std::thread::scope(|scope| {
            for client in clients {
                // Each goes when it has been served, which makes room for the next.
                scope.spawn(move || assert_eq!((&client).read(&mut [0]).unwrap(), 0));
            }
            for _ in 0..400 {
                let server = accept(&target);
                (&server).read_exact(&mut [0]).unwrap();
                assert!(worker_fds(&rig) < 350);
            }
        });
        rig.until("all are closed", |rig| rig.live(0) == 0);
        assert_eq!((rig.count(0, field::OPENED), rig.count(0, field::DIAL_FAILED)), (400, 0));
    });
}
