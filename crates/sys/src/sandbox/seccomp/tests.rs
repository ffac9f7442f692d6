use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use libc::c_long;
use rustix::event::epoll;
use rustix::time;

use super::*;
use crate::process::program::Ids;
use crate::sandbox::{Files, enter, guard};
use crate::seqpacket::Channel;
use crate::testing::{NOBODY, expect_child, in_child, root};
use crate::unix_path::{self, Base};
use crate::{listen, pidfd, pipe, sockopt};

mod every;

#[test]
fn the_tables_are_in_order() {
    let never = [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_clone,
        libc::SYS_clone3,
        libc::SYS_ptrace,
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
    for role in Role::ALL {
        let numbers: BTreeSet<_> = role.calls().map(|call| call.number).collect();
        assert_eq!(numbers.len(), role.calls().count(), "{role:?}: each call once");
        for call in role.calls() {
            assert!(!call.name.is_empty() && !call.why.is_empty(), "{}", call.name);
        }
        for number in never {
            assert!(!numbers.contains(&number), "{role:?} {number}");
        }
        assert_eq!(numbers.contains(&libc::SYS_bind), role == Role::Inside, "{role:?}");
    }
    // What a list takes from the worker's is there, so that no name is misspelt.
    let part = |role: Role, more: usize| role.calls().count() - more;
    let all = Role::Worker.calls().count();
    assert_eq!(part(Role::Session, 4), all - 11);
    assert_eq!(part(Role::Tunnel, 0), all - 12);
    assert_eq!(part(Role::Stack, 1), all - 12);
    assert_eq!(
        (part(Role::Keeper, 0), part(Role::Inside, 2)),
        if cfg!(target_arch = "x86_64") { (33, 39) } else { (32, 38) }
    );
}

/// Everything a worker does before it serves.
fn confine() {
    confine_as(Role::Worker);
}

/// Everything a process of this role does before it serves.
fn confine_as(role: Role) {
    enter(role, Some(Ids { uid: NOBODY, gid: NOBODY, groups: &[] }), Files::Gone).unwrap().seal().unwrap();
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

/// Fails when: a call of the list is not refused, by either of its numbers, or ends the process.
#[test]
fn what_is_denied_is_refused() {
    if !root() {
        return;
    }
    for denies in [Denies::Root, Denies::Network] {
        expect_child(None, || {
            guard(denies).unwrap();
            for number in deny::numbers(denies) {
                // SAFETY: descriptor -1 and null pointers. The filter refuses it before it is looked at.
                let result = unsafe { libc::syscall(number, -1, 0, 0, 0, 0, 0) };
                let errno = io::Error::last_os_error().raw_os_error();
                assert_eq!((result, errno), (-1, Some(libc::EPERM)), "{denies:?} {number}");
            }
        });
    }
    let numbers = deny::numbers(Denies::Network);
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len(), "each once");
}

/// What the daemon starts has its own list within the daemon's, and what the daemon does is not refused to it.
///
/// Fails when: a role cannot be confined below a guarded daemon, or its own list is not what counts.
#[test]
fn a_guarded_process_can_confine_another() {
    if !root() {
        return;
    }
    for role in Role::ALL {
        let (status, message) = in_child(None, || {
            guard(Denies::Root).unwrap();
            confine_as(role);
            // SAFETY: a null pointer, which the kernel would refuse; this filter ends the process before.
            unsafe { libc::syscall(libc::SYS_ptrace, 0, 0, 0, 0) };
        });
        assert_eq!(status.terminating_signal(), Some(libc::SIGSYS), "{role:?} {message}");
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
        enter(Role::Worker, None, Files::Left).unwrap().seal().unwrap();
        go.send(()).unwrap();
        thread.join().unwrap();
    });
    assert_eq!(status.terminating_signal(), Some(libc::SIGSYS), "{message}");
}

/// Fails when: a session that has somebody logged in cannot ask for its turn, or can for another process.
#[test]
fn a_session_goes_first_by_itself() {
    expect_child(None, || {
        enter(Role::Session, None, Files::GoneIfPermitted).unwrap().seal().unwrap();
        crate::sched::promptly().unwrap();
    });
    let parent = std::process::id();
    let (status, message) = in_child(None, || {
        enter(Role::Session, None, Files::GoneIfPermitted).unwrap().seal().unwrap();
        // SAFETY: a null pointer, which the kernel refuses if the filter does not end the process before.
        unsafe { libc::syscall(libc::SYS_sched_setattr, parent, 0, 0) };
    });
    assert_eq!(status.terminating_signal(), Some(libc::SIGSYS), "{message}");
}

/// The stack of a mesh tunnel makes unix pairs and no other socket.
#[test]
fn a_stack_makes_pairs() {
    expect_child(None, || {
        enter(Role::Stack, None, Files::GoneIfPermitted).unwrap().seal().unwrap();
        let flags = rustix::net::SocketFlags::CLOEXEC;
        let (family, kind) = (rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM);
        rustix::net::socketpair(family, kind, flags, None).unwrap();
    });
}
