//! The same script over engine K and engine S, against the kernel's TCP and UDP behind wireguard-go. Engine K is the
//! measure: what holds for it holds for S.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use portway_testkit::{Netns, Pattern, wait_for};

use crate::bed::{Bed, Node, WireguardGo};
use crate::ping;

/// A node and wireguard-go.
pub(crate) struct Rig {
    pub(crate) node: Node,
    pub(crate) peer: WireguardGo,
    bed: Bed,
}

impl Rig {
    pub(crate) fn new(way: &str) -> Rig {
        Rig::on(Bed::new(), way)
    }

    pub(crate) fn on(bed: Bed, way: &str) -> Rig {
        let peer = bed.wireguard_go();
        let mut node = Node::start(&bed.place(), way);
        // A handshake, so that nothing waits for one.
        assert_eq!(node.ask("dial 10.9.0.2:1 echo 0"), "ConnectionRefused");
        Rig { node, peer, bed }
    }

    /// Of the node; nobody else is to see it.
    pub(crate) fn key(&self) -> String {
        self.bed.key.reveal().as_str().to_owned()
    }

    pub(crate) fn there(&self) -> &Netns {
        &self.peer.netns
    }

    pub(crate) fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        self.there().enter(move || TcpListener::bind(address)).unwrap().unwrap()
    }

    pub(crate) fn connect(&self, address: &str) -> TcpStream {
        self.try_connect(address).unwrap()
    }

    fn try_connect(&self, address: &str) -> std::io::Result<TcpStream> {
        let address: SocketAddr = address.parse().unwrap();
        self.there().enter(move || TcpStream::connect_timeout(&address, Duration::from_secs(20))).unwrap()
    }

    pub(crate) fn udp(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        let socket = self.there().enter(move || UdpSocket::bind(address)).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    }

    /// Waits for what a server of the node has seen.
    fn seen(&mut self) -> String {
        self.node.wait("seen", |seen| seen != "nothing")
    }
}

/// One after the other, so that what differs stands side by side.
pub(crate) fn both(test: fn(&mut Rig)) {
    for way in ["auto", "pair"] {
        test(&mut Rig::new(way));
    }
}

/// As [`both`], for what has a topology of its own.
pub(crate) fn both_ways(test: fn(&str)) {
    for way in ["auto", "pair"] {
        test(way);
    }
}

const LENGTH: u64 = (8 << 20) + 77;

/// Ping and bulk, both ways, IPv4 and IPv6.
///
/// Fails when: a checksum or a length is wrong, packets are moved one by one, or any is lost between stack and crypto.
pub(crate) fn bulk() {
    let mut rig = Rig::new("pair");
    assert_eq!(rig.node.way, "Pair");
    for (ours, theirs) in [("10.9.0.1", "10.9.0.2"), ("[fd09::1]", "[fd09::2]")] {
        ping(rig.there(), ours.trim_matches(['[', ']']));
        let listener = rig.listen(&format!("{theirs}:2000"));
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        let begin = Instant::now();
        let length = 64 << 20;
        assert_eq!(rig.node.ask(&format!("dial {theirs}:2000 echo {length}")), format!("ok {length}"));
        println!("{length} bytes there and back in {:?}", begin.elapsed());
        echo.join().unwrap();
    }
    ping_long(rig.there(), "10.9.0.1");
    ping_long(rig.there(), "fd09::1");
    let [frames_out, messages_out, _, _, messages_in, frames_in, _] = rig.node.totals();
    println!(
        "out: {frames_out} frames, {messages_out} messages; in: {messages_in} messages, {frames_in} frames"
    );
    println!("dropped: {}", rig.node.ask("dropped"));
    assert_eq!(rig.node.ask("lost"), "0");
    assert_eq!(rig.node.ask("dropped Undelivered"), "0");
    assert!(messages_out > 5 * frames_out, "segments are long until they are cut");
    assert!(messages_in > 2 * frames_in, "packets are joined");
}

/// An echo that is in fragments both ways.
fn ping_long(from: &Netns, to: &str) {
    from.run(Command::new("ping").args(["-c", "2", "-i", "0.1", "-W", "5", "-s", "8000", to])).unwrap();
}

/// Fails when: what reads packets of peers may make system calls that it does not need.
pub(crate) fn confined() {
    let mut rig = Rig::new("pair");
    let status = std::fs::read_to_string(format!("/proc/{}/status", rig.node.pid)).unwrap();
    for line in
        ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Uid:\t65534\t65534\t65534\t65534"]
    {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(rig.node.ask("serve 10.9.0.1:80 echo"), "ok");
    let mut stream = rig.connect("10.9.0.1:80");
    stream.write_all(b"once").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "once");
}

/// Row 1: who has ended its side is answered all the same, and completely.
pub(crate) fn half_closes(rig: &mut Rig) {
    for (ours, theirs) in [("10.9.0.1:80", "10.9.0.2:81"), ("[fd09::1]:80", "[fd09::2]:81")] {
        assert_eq!(rig.node.ask(&format!("serve {ours} echo")), "ok");
        let stream = rig.connect(ours);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                Pattern::new(3).write(LENGTH, &stream).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            Pattern::new(3).check_to_end(LENGTH, &stream).unwrap();
        });
        let listener = rig.listen(theirs);
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            // The end is there before the answer begins.
            std::thread::sleep(Duration::from_millis(300));
            stream.write_all(&all).unwrap();
        });
        assert_eq!(rig.node.ask(&format!("dial {theirs} echo {LENGTH}")), format!("ok {LENGTH}"));
        echo.join().unwrap();
    }
}

/// Row 2: who is told the end may still speak.
pub(crate) fn server_first(rig: &mut Rig) {
    assert_eq!(rig.node.ask("serve 10.9.0.1:80 first"), "ok");
    let mut stream = rig.connect("10.9.0.1:80");
    Pattern::new(1).check_to_end(1 << 20, &stream).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    stream.write_all(&[1; 100_000]).unwrap();
    drop(stream);
    assert_eq!(rig.seen(), "end 100000");
    let listener = rig.listen("[fd09::2]:81");
    let first = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        Pattern::new(1).write(1 << 20, &stream).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.len()
    });
    assert_eq!(rig.node.ask("dial [fd09::2]:81 second 100000"), "ok");
    assert_eq!(first.join().unwrap(), 100_000);
}

/// Row 3: a reset is a reset on the other side, whoever makes it, and no end.
pub(crate) fn resets(rig: &mut Rig) {
    assert_eq!(rig.node.ask("serve 10.9.0.1:80 ending"), "ok");
    assert_eq!(rig.node.ask("serve 10.9.0.1:82 reset"), "ok");
    let before = connections(rig);
    let mut stream = rig.connect("10.9.0.1:80");
    stream.write_all(b"x").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    reset(stream);
    assert!(rig.seen().starts_with("reset"));
    // Made by the server of the node.
    let mut stream = rig.connect("10.9.0.1:82");
    stream.write_all(b"x").unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(stream.read(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Made by the server there, and by the client here.
    let listener = rig.listen("10.9.0.2:81");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
        reset(stream);
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = [0; 10];
        assert_eq!(stream.read(&mut bytes).unwrap(), 1);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.read(&mut bytes).unwrap_err().kind()
    });
    assert!(rig.node.ask("dial 10.9.0.2:81 ending 0").starts_with("reset"));
    assert_eq!(rig.node.ask("dial 10.9.0.2:81 reset 0"), "ok");
    assert_eq!(server.join().unwrap(), ErrorKind::ConnectionReset);
    // What was reset waits for nothing: two segment lives later there can be no more of it than now.
    wait_for("no socket is left", || (connections(rig) == before).then_some(())).unwrap();
}

/// Sockets of the node in the network that do not listen; of a stack in a process its descriptors.
fn connections(rig: &Rig) -> usize {
    if rig.node.way == "Pair" {
        return std::fs::read_dir(format!("/proc/{}/fd", rig.node.pid)).unwrap().count();
    }
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let read = move || tables.map(|table| std::fs::read_to_string(table).unwrap()).concat();
    let text = rig.node.stack.enter(read).unwrap();
    // The fourth word is the state; 0A listens.
    let states = text.lines().filter_map(|line| line.split_whitespace().nth(3));
    states.filter(|state| state.len() == 2 && !["st", "0A"].contains(state)).count()
}

fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// Bytes of a process that are in memory.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

/// Row 5: who does not read makes the sender wait, costs bounded memory, and nobody else's bytes wait for it.
pub(crate) fn slow_readers(rig: &mut Rig) {
    assert_eq!(rig.node.ask("serve 10.9.0.1:80 unread"), "ok");
    assert_eq!(rig.node.ask("serve 10.9.0.1:81 echo"), "ok");
    let before = resident(rig.node.pid);
    let mut streams: Vec<_> = (0..10).map(|_| rig.connect("10.9.0.1:80")).collect();
    let (mut sent, mut quiet) = (0, Instant::now());
    let bytes = vec![1; 1 << 16];
    while quiet.elapsed() < Duration::from_secs(1) {
        for stream in &mut streams {
            stream.set_nonblocking(true).unwrap();
            if let Ok(count) = stream.write(&bytes) {
                (sent, quiet) = (sent + count, Instant::now());
            }
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let grown = resident(rig.node.pid).saturating_sub(before);
    println!("{}: 10 streams took {sent} bytes, the stack grew by {grown}", rig.node.way);
    assert!(sent < 256 << 20, "{sent}");
    if rig.node.way == "Pair" {
        assert!(grown < 24 << 20, "{grown}");
    }
    let stream = rig.connect("10.9.0.1:81");
    let begin = Instant::now();
    Pattern::new(3).write(1000, &stream).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    Pattern::new(3).check_to_end(1000, &stream).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(3));
}

/// A thousand connections at a time, each with its own bytes both ways.
pub(crate) fn a_thousand(rig: &mut Rig) {
    assert_eq!(rig.node.ask("serve [::]:80 echo"), "ok");
    let begin = Instant::now();
    let mut streams: Vec<_> = (0..1000).map(|_| rig.connect("[fd09::1]:80")).collect();
    let opened = begin.elapsed();
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("{number}").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut text = String::new();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, number.to_string());
    }
    let memory = resident(rig.node.pid);
    println!("{}: opened in {opened:?}, done in {:?}; the stack has {memory}", rig.node.way, begin.elapsed());
    assert!(memory < 40 << 20, "{memory}");
}

/// Row 4: a port that nobody has is refused at once, both ways; who does not answer is waited for as long as was said.
pub(crate) fn refused(rig: &mut Rig) {
    for (ours, theirs) in [("10.9.0.1:9", "10.9.0.2:9"), ("[fd09::1]:9", "[fd09::2]:9")] {
        let begin = Instant::now();
        assert_eq!(rig.node.ask(&format!("dial {theirs} echo 0")), "ConnectionRefused");
        assert_eq!(rig.try_connect(ours).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert!(begin.elapsed() < Duration::from_secs(3));
    }
    let begin = Instant::now();
    assert_eq!(rig.node.ask("dial 10.9.0.77:80 patience 700"), "TimedOut");
    assert!((Duration::from_millis(700)..Duration::from_secs(3)).contains(&begin.elapsed()));
}

/// Rows 13 to 15: no datagram is cut short, also none that takes fragments; one without bytes is one; a port that nobody
/// has is said to be none.
pub(crate) fn datagrams(rig: &mut Rig) {
    const LENGTHS: [usize; 9] = [0, 1, 100, 1372, 1392, 1393, 8000, 40_000, 65_507];
    for (ours, theirs) in [("10.9.0.1:53", "10.9.0.2:54"), ("[fd09::1]:53", "[fd09::2]:54")] {
        assert_eq!(rig.node.ask(&format!("reflect {ours}")), "ok");
        let any = theirs.replace(":54", ":0");
        let socket = rig.udp(&any);
        socket.connect(ours).unwrap();
        for length in LENGTHS {
            let bytes: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[1] ^ at.to_le_bytes()[0]).collect();
            socket.send(&bytes).unwrap();
            let mut room = vec![0; 70_000];
            let count = socket.recv(&mut room).unwrap_or_else(|error| panic!("{length}: {error}"));
            assert!(room[..count] == bytes, "{length} bytes became {count}");
        }
        let socket = rig.udp(theirs);
        let server = std::thread::spawn(move || {
            let mut room = vec![0; 70_000];
            while let Ok((count, from)) = socket.recv_from(&mut room) {
                socket.send_to(&room[..count], from).unwrap();
            }
        });
        let lengths = LENGTHS.map(|length| length.to_string()).join(",");
        assert_eq!(rig.node.ask(&format!("send {theirs} {lengths}")), lengths);
        server.join().unwrap();
        // Nobody there: nobody here.
        let socket = rig.udp(&any);
        socket.connect(ours.replace(":53", ":9")).unwrap();
        socket.send(b"x").unwrap();
        assert_eq!(socket.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let said = rig.node.ask(&format!("send {} 1,1", theirs.replace(":54", ":9")));
        assert!(said.contains("ConnectionRefused"), "{said}");
    }
}

/// Fails when: a port is had twice, or an address that is not ours can be listened on.
pub(crate) fn ports(rig: &mut Rig) {
    for words in ["serve 10.9.0.1:80 from", "reflect 10.9.0.1:80", "serve [::]:80 from"] {
        assert_eq!(rig.node.ask(words), "ok");
    }
    for words in
        ["serve 10.9.0.1:80 from", "serve 0.0.0.0:80 from", "reflect 10.9.0.1:80", "serve [fd09::1]:80 from"]
    {
        assert_eq!(rig.node.ask(words), "AddrInUse", "{words}");
    }
    assert_eq!(rig.node.ask("serve 10.9.0.3:80 from"), "AddrNotAvailable");
    // The service closes at once, which is a reset from engine S: it may come before the connect has returned.
    let _stream = rig.try_connect("10.9.0.1:80");
    assert_eq!(rig.seen(), "10.9.0.2");
    let _stream = rig.try_connect("[fd09::1]:80");
    assert_eq!(rig.seen(), "fd09::2");
}

/// A service of this node through this node's own address.
pub(crate) fn to_oneself(rig: &mut Rig) {
    for address in ["10.9.0.1:80", "[fd09::1]:80"] {
        assert_eq!(rig.node.ask(&format!("serve {address} echo")), "ok");
        assert_eq!(rig.node.ask(&format!("dial {address} echo {LENGTH}")), format!("ok {LENGTH}"));
    }
    assert_eq!(rig.node.ask("reflect 10.9.0.1:53"), "ok");
    assert_eq!(rig.node.ask("send 10.9.0.1:53 0,5,9000"), "0,5,9000");
}

/// Row 12: more flows than there may be: those that have waited longest give way, and nothing else does.
pub(crate) fn flows_give_way() {
    let mut rig = Rig::new("pair");
    assert_eq!(rig.node.ask("reflect 10.9.0.1:53"), "ok");
    let sockets: Vec<_> = (0..600)
        .map(|_| {
            let socket = rig.udp("10.9.0.2:0");
            socket.connect("10.9.0.1:53").unwrap();
            socket.send(b"x").unwrap();
            assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 1);
            socket
        })
        .collect();
    let files = std::fs::read_dir(format!("/proc/{}/fd", rig.node.pid)).unwrap().count();
    println!("600 flows, {files} descriptors");
    assert!(files > 500);
    // The first ones are as good as the last.
    for socket in [&sockets[0], &sockets[599]] {
        socket.send(b"again").unwrap();
        assert_eq!(socket.recv(&mut [0; 10]).unwrap(), 5);
    }
}

/// S with S, and S with K.
pub(crate) fn to_each_other() {
    for other in ["auto", "pair"] {
        let bed = Bed::new();
        let mut one = Node::start(&bed.place(), "pair");
        let mut two = Node::start(&bed.other_place(), other);
        for (ours, theirs) in [("10.9.0.1:80", "10.9.0.2:80"), ("[fd09::1]:80", "[fd09::2]:80")] {
            assert_eq!(one.ask(&format!("serve {ours} echo")), "ok");
            assert_eq!(two.ask(&format!("serve {theirs} echo")), "ok");
            assert_eq!(two.ask(&format!("dial {ours} echo {LENGTH}")), format!("ok {LENGTH}"));
            assert_eq!(one.ask(&format!("dial {theirs} echo {LENGTH}")), format!("ok {LENGTH}"));
        }
        println!("dropped: {} / {}", one.ask("dropped"), two.ask("dropped"));
    }
}
