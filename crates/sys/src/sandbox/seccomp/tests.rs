use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::time;

use super::*;
use crate::sandbox::{drop_all_caps, drop_ids, landlock, no_new_privs, private_root, undumpable};
use crate::seqpacket::Channel;
use crate::testing::{NOBODY, expect_child, in_child, root};
use crate::unix_path::{self, Base};
use crate::{listen, pidfd, pipe, sockopt};

#[test]
fn the_table_is_in_order() {
    let numbers: BTreeSet<_> = allowed().map(|call| call.number).collect();
    assert_eq!(numbers.len(), allowed().count(), "each call once");
    for call in allowed() {
        assert!(!call.name.is_empty() && !call.why.is_empty(), "{}", call.name);
    }
    let never = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_ptrace,
        libc::SYS_bind,
        libc::SYS_setns,
        libc::SYS_unshare,
        libc::SYS_mount,
        libc::SYS_prctl,
        libc::SYS_kill,
        libc::SYS_process_vm_readv,
        libc::SYS_pidfd_getfd,
        libc::SYS_io_uring_setup,
        libc::SYS_bpf,
    ];
    for number in never {
        assert!(!numbers.contains(&number), "{number}");
    }
}

/// Everything a worker does before it serves.
fn confine() {
    private_root().unwrap();
    drop_ids(NOBODY, NOBODY, &[]).unwrap();
    drop_all_caps().unwrap();
    no_new_privs().unwrap();
    undumpable().unwrap();
    landlock().unwrap();
    worker_seccomp().unwrap();
}

/// What a confined process is given.
struct Work {
    base: OwnedFd,
    tcp: TcpListener,
    udp: UdpSocket,
    channel: Channel,
    peer: Channel,
}

#[test]
fn a_relay_can_do_its_work() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(dir.path().join("s")).unwrap();
    for place in [dir.path().to_owned(), dir.path().join("s")] {
        fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let (channel, peer) = Channel::pair().unwrap();
    let work = Work {
        base: File::open(dir.path()).unwrap().into(),
        tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
        udp: UdpSocket::bind("127.0.0.1:0").unwrap(),
        channel,
        peer,
    };
    expect_child(None, move || {
        confine();
        streams(&work);
        datagrams(&work);
        loops(&work);
    });
}

fn streams(work: &Work) {
    unix_path::connect_stream(work.base.as_fd(), Base::Root, Path::new("/s")).unwrap();
    unix_path::connect_stream(work.base.as_fd(), Base::Parent, Path::new("/s")).unwrap();
    assert!(!pidfd::dying(std::process::id().try_into().unwrap()));

    work.tcp.set_nonblocking(true).unwrap();
    let mut client = TcpStream::connect(work.tcp.local_addr().unwrap()).unwrap();
    let (mut server, peer) = work.tcp.accept().unwrap();
    assert_eq!(peer, client.local_addr().unwrap());
    sockopt::keepalive(server.as_fd(), Duration::from_secs(30), Duration::from_secs(5), 3).unwrap();
    sockopt::user_timeout(server.as_fd(), Duration::from_secs(120)).unwrap();
    sockopt::nodelay(server.as_fd()).unwrap();
    client.write_all(b"hello").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let pipe = pipe::Pipe::new(256 * 1024).unwrap();
    assert_eq!(pipe::splice(server.as_fd(), pipe.write.as_fd(), 1 << 20).unwrap(), 5);
    assert_eq!(pipe::splice(pipe.read.as_fd(), server.as_fd(), 1 << 20).unwrap(), 5);
    drop(pipe);
    assert_eq!(server.read(&mut [0; 9]).unwrap(), 0);
    sockopt::linger_reset(server.as_fd()).unwrap();
    assert!(sockopt::take_error(server.as_fd()).unwrap().is_none());
    drop(server);
    listen::refuse(work.tcp.as_fd()).unwrap();
    listen::relisten(work.tcp.as_fd()).unwrap();
    assert!(listen::is_listening(work.tcp.as_fd()).unwrap());

    let big = vec![1_u8; 8 << 20];
    let copy = big.clone();
    drop(big);
    drop(copy);
}

fn datagrams(work: &Work) {
    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
    use std::io::{IoSlice, IoSliceMut};
    use std::os::fd::AsRawFd;
    work.udp.connect(work.udp.local_addr().unwrap()).unwrap();
    work.udp.send(b"one").unwrap();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(2, None);
    let out = [[IoSlice::new(b"two")], [IoSlice::new(b"three")]];
    sendmmsg(work.udp.as_raw_fd(), &mut headers, &out, [None, None], [], MsgFlags::empty()).unwrap();
    let mut bytes = [[0_u8; 16]; 2];
    let mut into: Vec<_> = bytes.iter_mut().map(|b| [IoSliceMut::new(b)]).collect();
    let got = recvmmsg(work.udp.as_raw_fd(), &mut headers, into.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
    assert_eq!(got.unwrap().count(), 2);

    let mut packet = Vec::new();
    let zero = io::pipe().unwrap().0;
    work.peer.send(b"packet", &[zero.as_fd()]).unwrap();
    let fds = work.channel.recv(&mut packet).unwrap().unwrap();
    let stat = rustix::fs::fstat(&fds[0]).unwrap();
    assert_eq!(rustix::fs::FileType::from_raw_mode(stat.st_mode), rustix::fs::FileType::Fifo);
    assert!(File::from(fds.into_iter().next().unwrap()).metadata().is_ok());
    assert_eq!(work.channel.peer_uid().unwrap(), 0);
}

fn loops(work: &Work) {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let timer = time::timerfd_create(time::TimerfdClockId::Monotonic, time::TimerfdFlags::CLOEXEC).unwrap();
    let soon = time::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let zero = time::Timespec { tv_sec: 0, tv_nsec: 0 };
    let spec = time::Itimerspec { it_interval: zero, it_value: soon };
    time::timerfd_settime(&timer, time::TimerfdTimerFlags::empty(), &spec).unwrap();
    epoll::add(&poll, &timer, epoll::EventData::new_u64(7), epoll::EventFlags::IN | epoll::EventFlags::ET)
        .unwrap();
    let mut events = Vec::with_capacity(4);
    epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None).unwrap();
    assert_eq!(events.len(), 1);
    rustix::io::read(&timer, &mut [0; 8]).unwrap();
    let reserve = rustix::io::fcntl_dupfd_cloexec(&work.base, 3).unwrap();
    drop(reserve);
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    assert!(start.elapsed() >= Duration::from_millis(1));
    let names: std::collections::HashMap<_, _> = [(1, 2)].into();
    assert_eq!(names.len(), 1);
    eprintln!("a log line of a confined process");
}

/// Runs a system call in a confined process; tells whether it ended the process.
fn kills(what: &str, call: impl FnOnce() -> c_long) -> bool {
    let (status, message) = in_child(None, || {
        confine();
        call();
    });
    let signal = status.terminating_signal();
    assert!(signal == Some(libc::SIGSYS) || status.exit_status() == Some(0), "{what}: {status:?} {message}");
    signal.is_some()
}

#[test]
fn everything_else_kills() {
    if !root() {
        return;
    }
    let pid = std::process::id();
    let calls: &[(&str, c_long, [c_long; 4])] = &[
        ("fork", libc::SYS_clone, [c_long::from(libc::SIGCHLD), 0, 0, 0]),
        ("clone3", libc::SYS_clone3, [0; 4]),
        ("execve", libc::SYS_execve, [0; 4]),
        ("bind", libc::SYS_bind, [-1, 0, 0, 0]),
        ("setns", libc::SYS_setns, [-1, 0, 0, 0]),
        ("unshare", libc::SYS_unshare, [0; 4]),
        ("ptrace", libc::SYS_ptrace, [0; 4]),
        ("kill", libc::SYS_kill, [0; 4]),
        ("prctl", libc::SYS_prctl, [0; 4]),
        ("setuid", libc::SYS_setuid, [0; 4]),
        ("mount", libc::SYS_mount, [0; 4]),
        ("unlinkat", libc::SYS_unlinkat, [-1, 0, 0, 0]),
        ("memfd_create", libc::SYS_memfd_create, [0; 4]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
        ("bpf", libc::SYS_bpf, [0; 4]),
        ("seccomp", libc::SYS_seccomp, [0; 4]),
        ("a number of another table", libc::SYS_getpid | 0x4000_0000, [0; 4]),
        ("a netlink socket", libc::SYS_socket, [16, 3, 0, 0]),
        ("a packet socket", libc::SYS_socket, [17, 3, 0, 0]),
        ("a vsock socket", libc::SYS_socket, [40, 1, 0, 0]),
        ("opening for writing", libc::SYS_openat, [-100, 0, 1, 0]),
        ("creating", libc::SYS_openat, [-100, 0, 0o100, 0]),
        ("opening below a descriptor", libc::SYS_openat, [3, 0, 0, 0]),
        ("executable memory", libc::SYS_mmap, [0, 4096, 5, 0x22]),
        ("memory made executable", libc::SYS_mprotect, [0, 0, 4, 0]),
        ("signals by fcntl", libc::SYS_fcntl, [0, 8, 1, 0]),
        ("TIOCSTI", libc::SYS_ioctl, [0, 0x5412, 0, 0]),
        ("a signal to another process", libc::SYS_tgkill, [pid.into(), pid.into(), 0, 0]),
    ];
    for (what, number, [a, b, c, d]) in calls {
        // SAFETY: whatever it would do is done to the forked process, which ends with it.
        assert!(kills(what, || unsafe { libc::syscall(*number, *a, *b, *c, *d, 0, 0) }), "{what}");
    }
}

#[test]
fn every_allowed_call_passes() {
    if !root() {
        return;
    }
    // Those that end or suspend the process when called like this.
    let special = ["exit", "exit_group", "rt_sigreturn", "ppoll", "poll", "rseq", "brk", "munmap"];
    for call in allowed().filter(|call| !special.contains(&call.name)) {
        let mut arguments: [c_long; 6] = [-1, 0, 0, 0, 0, 0];
        match call.when {
            When::Always | When::Without(..) => {}
            When::OneOf(index, values) => arguments[usize::from(index)] = values[0].into(),
            When::Both(..) => arguments[0] = libc::AT_FDCWD.into(),
            When::OwnPid(_) => continue,
        }
        let [a, b, c, d, e, f] = arguments;
        // SAFETY: descriptor -1 and null pointers: the kernel refuses the call after the filter let it pass.
        let killed = kills(call.name, || unsafe { libc::syscall(call.number, a, b, c, d, e, f) });
        assert!(!killed, "{}", call.name);
    }
}

#[test]
fn an_abort_is_an_abort() {
    if !root() {
        return;
    }
    let (status, _) = in_child(None, || {
        confine();
        std::process::abort();
    });
    assert_eq!(status.terminating_signal(), Some(libc::SIGABRT));
}

#[test]
fn threads_that_exist_are_confined_too() {
    if !root() {
        return;
    }
    let (status, message) = in_child(None, || {
        let (go, wait) = std::sync::mpsc::sync_channel(0);
        let thread = std::thread::spawn(move || {
            wait.recv().unwrap();
            assert!(rustix::process::getppid().is_some());
        });
        no_new_privs().unwrap();
        worker_seccomp().unwrap();
        go.send(()).unwrap();
        thread.join().unwrap();
    });
    assert_eq!(status.terminating_signal(), Some(libc::SIGSYS), "{message}");
}

/// A session is handed what it uses: none of the calls that make a socket, a pipe or a way to a path passes.
#[test]
fn a_session_makes_nothing() {
    if !root() {
        return;
    }
    for name in NOT_IN_SESSIONS {
        let call = allowed().find(|call| call.name == name).expect("a call of the table");
        let (status, message) = in_child(None, || {
            no_new_privs().unwrap();
            session_seccomp().unwrap();
            // SAFETY: descriptor -1 and null pointers; the process ends here, or the kernel refuses the call.
            unsafe { libc::syscall(call.number, -1, 0, 0, 0, 0, 0) };
        });
        assert_eq!(status.terminating_signal(), Some(libc::SIGSYS), "{name} {message}");
    }
    for call in &ONLY_IN_SESSIONS {
        assert!(allowed().all(|other| other.number != call.number), "{} is in both", call.name);
    }
}

/// Fails when: a session that has somebody logged in cannot ask for its turn, or can for another process.
#[test]
fn a_session_goes_first_by_itself() {
    expect_child(None, || {
        no_new_privs().unwrap();
        session_seccomp().unwrap();
        crate::sched::promptly().unwrap();
    });
    let parent = std::process::id();
    let (status, message) = in_child(None, || {
        no_new_privs().unwrap();
        session_seccomp().unwrap();
        // SAFETY: a null pointer, which the kernel refuses if the filter does not end the process before.
        unsafe { libc::syscall(libc::SYS_sched_setattr, parent, 0, 0) };
    });
    assert_eq!(status.terminating_signal(), Some(libc::SIGSYS), "{message}");
}

/// The stack of a mesh tunnel makes unix pairs and no other socket.
#[test]
fn a_stack_makes_pairs_alone() {
    expect_child(None, || {
        no_new_privs().unwrap();
        stack_seccomp().unwrap();
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
        rustix::net::socketpair(family, kind, flags, None).unwrap();
    });
    if !root() {
        return;
    }
    for name in NOT_IN_STACKS {
        let call = allowed().find(|call| call.name == name).expect("a call of the table");
        let (status, message) = in_child(None, || {
            no_new_privs().unwrap();
            stack_seccomp().unwrap();
            // SAFETY: descriptor -1 and null pointers; the process ends here, or the kernel refuses the call.
            unsafe { libc::syscall(call.number, -1, 0, 0, 0, 0, 0) };
        });
        assert_eq!(status.terminating_signal(), Some(libc::SIGSYS), "{name} {message}");
    }
    for call in &ONLY_IN_STACKS {
        assert!(allowed().all(|other| other.number != call.number), "{} is in both", call.name);
    }
}
