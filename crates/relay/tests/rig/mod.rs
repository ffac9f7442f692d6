//! A worker and what its daemon would be, for tests: starts the engine on a thread of this process inside a
//! fresh network namespace, gives it devices, hears what it says.

#![expect(dead_code, reason = "each test binary uses a part")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portway_model::{Address, DeviceSpec, IpHost, Port, UnixKind, UnixName};
use portway_relay::talk;
use portway_relay::wire::{
    FromWorker, Identity, Init, Lifetime, MAX_FDS, PROTOCOL_VERSION, Sandbox, Slot, ToWorker, UnixBase,
    WireDevice, field,
};
use portway_relay::worker::{Confinement, WorkerError, serve};
use portway_sys::listen::{self, V6Only};
use portway_sys::seqpacket::Channel;
use portway_sys::shm::CountersView;
use portway_sys::unix_path;
use portway_testkit::{Addr, Netns, Pattern, Stream};
use rustix::net::SocketType;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `test` inside a network namespace of its own, with loopback up. What it starts is there, too.
pub(crate) fn in_netns(test: impl FnOnce() + Send) {
    if portway_testkit::is_root() {
        Netns::new().unwrap().enter(test).unwrap();
    }
}

/// Packets that have left by the loopback interface of this network namespace.
pub(crate) fn packets() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().nth(9).unwrap().parse().unwrap()
}

/// Bounds what a tcp connection of this network namespace keeps in the kernel to about 100 kB each way. For tests
/// with many connections that are not read: all namespaces share the kernel's limit for tcp memory (`tcp_mem` of
/// tcp(7)), and beyond it the kernel resets connections of others.
pub(crate) fn bound_tcp_memory() {
    for name in ["tcp_rmem", "tcp_wmem"] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), "4096 16384 65536").unwrap();
    }
}

/// The worker's other end.
pub(crate) struct Rig {
    channel: Option<Channel>,
    counters: CountersView,
    thread: Option<JoinHandle<Result<(), WorkerError>>>,
    inbox: VecDeque<(FromWorker, Vec<OwnedFd>)>,
    seq: u64,
    /// How many devices each slot has had before, by index.
    generations: BTreeMap<u32, u64>,
    dir: tempfile::TempDir,
    /// Listeners as the daemon would keep them, by slot.
    pub(crate) kept: Vec<(Slot, Vec<OwnedFd>)>,
    /// For a worker that is a process.
    pub(crate) pid: i32,
}

/// What a worker is started with unless a test says otherwise.
pub(crate) fn init() -> Init {
    Init {
        version: PROTOCOL_VERSION,
        has_netns: false,
        has_pidfd: false,
        init_pid: None,
        ids: None,
        sandbox: Sandbox::BestEffort,
        lifetime: Lifetime::Detached,
        owner_uid: rustix::process::geteuid().as_raw(),
        identity: Identity {
            name: "w".into(),
            instance: "netns:test".into(),
            run: "1".into(),
            group: "host".into(),
            build: "test".into(),
        },
    }
}

impl Rig {
    pub(crate) fn start() -> Rig {
        Rig::start_with(init(), &[])
    }

    /// On a thread of this process.
    pub(crate) fn start_with(init: Init, fds: &[BorrowedFd<'_>]) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = Channel::pair().unwrap();
        let adoption = Channel::listen(&dir.path().join("w.sock")).unwrap();
        let thread = std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || serve(theirs, Some(adoption), Confinement::Thread))
            .unwrap();
        Rig::finish(ours, dir, Some(thread), &init, fds)
    }

    /// As a process of its own with everything given up; for a test binary whose `main` runs the role.
    pub(crate) fn start_process(init: Init, fds: &[BorrowedFd<'_>]) -> Rig {
        Rig::start_role("worker", init, fds)
    }

    pub(crate) fn start_role(role: &str, init: Init, fds: &[BorrowedFd<'_>]) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = Channel::pair().unwrap();
        let adoption = Channel::listen(&dir.path().join("w.sock")).unwrap();
        portway_sys::process::spawn_role(&[role], vec![theirs.into(), adoption], Vec::new()).unwrap();
        Rig::finish(ours, dir, None, &init, fds)
    }

    fn finish(
        channel: Channel,
        dir: tempfile::TempDir,
        thread: Option<JoinHandle<Result<(), WorkerError>>>,
        init: &Init,
        fds: &[BorrowedFd<'_>],
    ) -> Rig {
        channel.set_timeout(Some(PATIENCE)).unwrap();
        talk::say(&channel, &ToWorker::Init(init.clone()), fds).unwrap();
        let (message, fds) = receive(&channel).expect("ready");
        let FromWorker::Ready { pid, .. } = message else { panic!("not ready: {message:?}") };
        let counters = talk::begun(&message, &fds).unwrap();
        Rig {
            channel: Some(channel),
            counters,
            thread,
            inbox: VecDeque::new(),
            seq: 0,
            generations: BTreeMap::new(),
            dir,
            kept: Vec::new(),
            pid,
        }
    }

    /// A folder for sockets.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn say(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) {
        talk::say(self.channel.as_ref().expect("a channel"), message, fds).unwrap();
    }

    /// The next message.
    pub(crate) fn hear(&mut self) -> Option<(FromWorker, Vec<OwnedFd>)> {
        self.inbox.pop_front().or_else(|| receive(self.channel.as_ref().expect("a channel")))
    }

    /// Waits for a message that `wanted` takes; others are kept.
    pub(crate) fn wait_for<T>(
        &mut self,
        mut wanted: impl FnMut(&FromWorker) -> Option<T>,
    ) -> (T, Vec<OwnedFd>) {
        for at in 0..self.inbox.len() {
            if let Some(found) = wanted(&self.inbox[at].0) {
                return (found, self.inbox.remove(at).unwrap().1);
            }
        }
        loop {
            let (message, fds) =
                receive(self.channel.as_ref().expect("a channel")).expect("the worker to go on");
            match wanted(&message) {
                Some(found) => return (found, fds),
                None => self.inbox.push_back((message, fds)),
            }
        }
    }

    /// Waits for the answer to `seq`.
    pub(crate) fn done(&mut self, seq: u64) -> Option<String> {
        self.wait_for(|message| match message {
            FromWorker::Done { seq: answered, error } if *answered == seq => Some(error.clone()),
            _ => None,
        })
        .0
    }

    /// The slot of the present device, or of the next one, at `index`.
    pub(crate) fn slot(&self, index: u32) -> Slot {
        Slot::new(index, self.generations.get(&index).copied().unwrap_or_default())
    }

    /// Adds a device and waits until it serves.
    pub(crate) fn add(&mut self, slot: u32, listen: &str, connect: &str, more: &[(&str, &str)]) {
        self.try_add(slot, listen, connect, more, None).unwrap();
    }

    pub(crate) fn add_held(
        &mut self,
        slot: u32,
        listen: &str,
        connect: &str,
        more: &[(&str, &str)],
        hold: Duration,
    ) {
        self.try_add(slot, listen, connect, more, Some(hold)).unwrap();
    }

    pub(crate) fn try_add(
        &mut self,
        slot: u32,
        listen: &str,
        connect: &str,
        more: &[(&str, &str)],
        hold: Option<Duration>,
    ) -> Result<(), String> {
        let device = device(listen, connect, more);
        let listeners = open(&device.spec);
        let result = self.put(slot, &device, &listeners, hold);
        self.kept.retain(|(kept, _)| kept.index != slot);
        self.kept.push((self.slot(slot), listeners));
        result
    }

    /// Gives the device in `slot` other options; its listeners stay.
    pub(crate) fn change(&mut self, slot: u32, listen: &str, connect: &str, more: &[(&str, &str)]) {
        self.change_to(slot, &device(listen, connect, more));
    }

    /// The same with all that a device has.
    pub(crate) fn change_to(&mut self, slot: u32, device: &WireDevice) {
        let listen_count = device.spec.listen_count();
        self.seq += 1;
        let bases = bases(device);
        let fds: Vec<BorrowedFd<'_>> = bases.iter().map(AsFd::as_fd).collect();
        let message = ToWorker::Put {
            seq: self.seq,
            slot: self.slot(slot),
            device: Box::new(device.clone()),
            listen_count,
            keep_listeners: true,
            hold: None,
        };
        self.say(&message, &fds);
        assert_eq!(self.done(self.seq), None);
    }

    pub(crate) fn put(
        &mut self,
        slot: u32,
        device: &WireDevice,
        listeners: &[OwnedFd],
        hold: Option<Duration>,
    ) -> Result<(), String> {
        self.seq += 1;
        let bases = bases(device);
        let fds: Vec<BorrowedFd<'_>> = bases.iter().map(AsFd::as_fd).collect();
        let message = ToWorker::Put {
            seq: self.seq,
            slot: self.slot(slot),
            device: Box::new(device.clone()),
            listen_count: u32::try_from(listeners.len()).unwrap(),
            keep_listeners: false,
            hold,
        };
        self.say(&message, &fds);
        for (chunk, part) in listeners.chunks(MAX_FDS).enumerate() {
            let fds: Vec<BorrowedFd<'_>> = part.iter().map(AsFd::as_fd).collect();
            let first = u32::try_from(chunk * MAX_FDS).unwrap();
            self.say(&ToWorker::Listeners { slot: self.slot(slot), first }, &fds);
        }
        match self.done(self.seq) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    pub(crate) fn remove(&mut self, slot: u32, drain: bool) {
        self.seq += 1;
        self.say(&ToWorker::Remove { seq: self.seq, slot: self.slot(slot), drain }, &[]);
        assert_eq!(self.done(self.seq), None);
        self.kept.retain(|(kept, _)| kept.index != slot);
        *self.generations.entry(slot).or_default() += 1;
    }

    /// A counter of a slot.
    pub(crate) fn count(&self, slot: u32, field: usize) -> u64 {
        self.counters.read(usize::try_from(slot).unwrap())[field]
    }

    /// Connections or flows of a slot that are live.
    pub(crate) fn live(&self, slot: u32) -> u64 {
        self.count(slot, field::OPENED) - self.count(slot, field::CLOSED)
    }

    /// Waits until `condition` holds.
    pub(crate) fn until(&self, what: &str, condition: impl Fn(&Rig) -> bool) {
        until(what, || condition(self));
    }

    /// The daemon dies.
    pub(crate) fn lose_channel(&mut self) {
        self.channel = None;
        self.inbox.clear();
    }

    /// A later daemon connects and says hello.
    pub(crate) fn adopt(&mut self) {
        let channel = Channel::connect(&self.path("w.sock")).unwrap();
        channel.set_timeout(Some(PATIENCE)).unwrap();
        self.channel = Some(channel);
        self.say(&ToWorker::Hello { version: PROTOCOL_VERSION }, &[]);
    }

    /// Waits for the end of a worker on a thread.
    pub(crate) fn join(&mut self) -> Result<(), WorkerError> {
        self.thread.take().expect("a thread").join().unwrap()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(channel) = &self.channel {
            // It may be gone already.
            let _ = talk::say(channel, &ToWorker::Exit, &[]);
        }
        if self.thread.is_none() && self.pid != i32::try_from(std::process::id()).unwrap() {
            // A process of ours: not to outlive its test. It may have been reaped already.
            let deadline = Instant::now() + PATIENCE;
            while matches!(portway_sys::process::reap(self.pid), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if let Some(thread) = self.thread.take()
            && (self.channel.is_some() || thread.is_finished())
            && !std::thread::panicking()
        {
            thread.join().unwrap().unwrap();
        }
    }
}

fn receive(channel: &Channel) -> Option<(FromWorker, Vec<OwnedFd>)> {
    talk::hear(channel).expect("a message")
}

/// Waits until `condition` holds.
pub(crate) fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn device(listen: &str, connect: &str, more: &[(&str, &str)]) -> WireDevice {
    let keys = [("listen", listen), ("connect", connect)].into_iter().chain(more.iter().copied());
    let spec = DeviceSpec::from_keys(keys).unwrap();
    let path = matches!(spec.connect.address(), Address::Unix(_, UnixName::Path(_)));
    let datagrams = matches!(spec.listen.address(), Address::Unix(UnixKind::Datagram, _));
    WireDevice {
        key: "netns:test/dev".into(),
        spec,
        base: path.then_some(UnixBase::Root),
        base_name: None,
        replies: datagrams.then_some(UnixBase::Root),
        brokered: false,
        direct: None,
        note: "note".into(),
    }
}

/// The root of this process for whatever is to be looked up; with [`UnixBase::Parent`], for replies, the folder of the
/// listen path.
fn bases(device: &WireDevice) -> Vec<OwnedFd> {
    let root = || unix_path::host_root().unwrap();
    let replies = device.replies.map(|kind| match (kind, device.spec.listen.address()) {
        (UnixBase::Parent, Address::Unix(_, UnixName::Path(path))) => {
            unix_path::open_parent(root().as_fd(), path.as_path()).unwrap().0
        }
        _ => root(),
    });
    device.base.map(|_| root()).into_iter().chain(replies).collect()
}

/// Opens the listeners of a device.
pub(crate) fn open(spec: &DeviceSpec) -> Vec<OwnedFd> {
    let v6only = if spec.v6only { V6Only::Yes } else { V6Only::No };
    let at = |host: &IpHost, port: Port| {
        let mut at = SocketAddr::new(host.ip(), port.get());
        if let (SocketAddr::V6(at), Some(zone)) = (&mut at, host.zone()) {
            at.set_scope_id(portway_sys::interface::index(zone.as_str()).unwrap());
        }
        at
    };
    match spec.listen.address() {
        Address::Tcp { host, ports } => {
            ports.iter().map(|port| listen::tcp(at(host, port), v6only).unwrap()).collect()
        }
        Address::Udp { host, ports } => {
            ports.iter().map(|port| listen::udp(at(host, port), v6only).unwrap()).collect()
        }
        Address::Unix(kind, UnixName::Abstract(name)) => {
            vec![listen::unix_abstract(unix_type(*kind), name.as_str().as_bytes()).unwrap()]
        }
        Address::Unix(kind, UnixName::Path(path)) => {
            vec![bind_path(path.as_path(), unix_type(*kind))]
        }
    }
}

/// The kernel's word for a kind of unix socket.
pub(crate) fn unix_type(kind: UnixKind) -> SocketType {
    match kind {
        UnixKind::Stream => SocketType::STREAM,
        UnixKind::Packet => SocketType::SEQPACKET,
        UnixKind::Datagram => SocketType::DGRAM,
    }
}

/// Binds `path`, in the place of a socket file that is there.
pub(crate) fn bind_path(path: &Path, kind: SocketType) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketAddrUnix, bind, listen, socket};
    let _ = std::fs::remove_file(path);
    let fd = socket(AddressFamily::UNIX, kind, None).unwrap();
    unix_path::widen(fd.as_fd(), kind).unwrap();
    bind(&fd, &SocketAddrUnix::new(path).unwrap()).unwrap();
    if kind != SocketType::DGRAM {
        listen(&fd, 128).unwrap();
    }
    fd
}

/// Connects to a device's or a service's address in its text form, bounded in every wait.
pub(crate) fn connect(address: &str) -> Stream {
    try_connect(address).unwrap()
}

pub(crate) fn try_connect(address: &str) -> io::Result<Stream> {
    let stream = addr(address).connect(PATIENCE)?;
    stream.set_timeout(PATIENCE)?;
    Ok(stream)
}

pub(crate) fn addr(address: &str) -> Addr {
    match address.split_once(':').unwrap() {
        ("tcp", rest) => Addr::tcp(rest),
        ("unix", name) if name.starts_with('@') => Addr::Abstract(name[1..].to_owned()),
        ("unix", path) => Addr::unix(path),
        _ => panic!("no stream address: {address}"),
    }
}

/// Bytes that tell where they belong.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    Pattern::new(seed).bytes(length)
}

/// Reads to the end and compares; says where the first difference is.
pub(crate) fn expect_to_end(mut stream: &Stream, wanted: &[u8]) {
    let mut got = Vec::with_capacity(wanted.len() + 1);
    let end = stream.read_to_end(&mut got);
    if got != wanted {
        let same = got.iter().zip(wanted).take_while(|(one, two)| one == two).count();
        panic!("{} of {} bytes came, the first {same} are right, then {end:?}", got.len(), wanted.len());
    }
    end.unwrap();
}

/// Listens at an address in its text form.
pub(crate) fn service(address: &str) -> portway_testkit::Listener {
    addr(address).listen().unwrap()
}

/// Accepts with bounded waits.
pub(crate) fn accept(listener: &portway_testkit::Listener) -> Stream {
    let stream = listener.accept().unwrap();
    stream.set_timeout(PATIENCE).unwrap();
    stream
}
