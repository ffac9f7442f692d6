//! A host with two networks and a bridge of instances, and who answers and asks there.
//!
//! ```text
//! client ---- eth0                    br0 ---- one   10.0.0.2, fd00::2
//!  .100       192.0.2.1  host 10.0.0.1   \---- two   10.0.0.3, fd00::3
//!             2001:db8::1     fd00::1
//! other ----- eth1
//!  .100       198.51.100.1, 2001:db8:1::1
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portway_nat::{Affected, Applied, Conntrack, Nat, Swept, TableName, Want};
use portway_testkit::Netns;

/// Longest wait for what should come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing has to come.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// The namespaces.
pub(crate) struct Town {
    pub(crate) host: Netns,
    pub(crate) client: Netns,
    pub(crate) other: Netns,
    pub(crate) one: Netns,
    pub(crate) two: Netns,
}

impl Town {
    pub(crate) fn new() -> Self {
        let [host, client, other, one, two] = [(); 5].map(|()| Netns::new().unwrap());
        host.sysctl("ipv4/ip_forward", "1").unwrap();
        host.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
        let outside = [
            (&client, "eth0", ["192.0.2.1/24", "2001:db8::1/64"], ["192.0.2.100/24", "2001:db8::100/64"]),
            (
                &other,
                "eth1",
                ["198.51.100.1/24", "2001:db8:1::1/64"],
                ["198.51.100.100/24", "2001:db8:1::100/64"],
            ),
        ];
        for (netns, name, here, there) in outside {
            host.veth(name, &here, netns, "eth0", &there).unwrap();
            gateway(netns, here);
        }
        host.ip("link add br0 type bridge").unwrap();
        host.ip("addr add 10.0.0.1/24 dev br0").unwrap();
        host.ip("addr add fd00::1/64 dev br0 nodad").unwrap();
        host.ip("link set br0 up").unwrap();
        for (netns, name, there) in
            [(&one, "veth1", ["10.0.0.2/24", "fd00::2/64"]), (&two, "veth2", ["10.0.0.3/24", "fd00::3/64"])]
        {
            host.veth(name, &[], netns, "eth0", &there).unwrap();
            host.ip(&format!("link set {name} master br0")).unwrap();
            gateway(netns, ["10.0.0.1", "fd00::1"]);
        }
        Self { host, client, other, one, two }
    }

    /// Whether bridged packets pass the host's rules too (`br_netfilter`). Then an instance reaches itself
    /// only by a port that sends packets back where they came from. A kernel without it passes none.
    pub(crate) fn bridged_packets_pass_rules(&self, pass: bool) {
        let value = if pass { "1" } else { "0" };
        for family in ["iptables", "ip6tables"] {
            self.host.sysctl(&format!("bridge/bridge-nf-call-{family}"), value).ok();
        }
        for port in ["veth1", "veth2"] {
            let hairpin = if pass { "on" } else { "off" };
            self.host.ip(&format!("link set dev {port} type bridge_slave hairpin {hairpin}")).unwrap();
        }
    }

    /// Makes the host's table what is wanted, and forgets what it leads elsewhere.
    pub(crate) fn apply(&self, want: &Want) -> (Applied, Swept) {
        let applied = self.apply_alone(want);
        let swept = self.sweep(want, &applied);
        (applied, swept)
    }

    /// Makes the host's table what is wanted.
    pub(crate) fn apply_alone(&self, want: &Want) -> Applied {
        self.host.enter(|| Nat::open(TableName::default()).unwrap().apply(want).unwrap()).unwrap()
    }

    /// Forgets what the table leads elsewhere.
    pub(crate) fn sweep(&self, want: &Want, applied: &Applied) -> Swept {
        let sweep = || {
            Conntrack::open(&TableName::default())
                .unwrap()
                .sweep(&want.check().unwrap(), &applied.affected)
                .unwrap()
        };
        self.host.enter(sweep).unwrap()
    }
}

impl Town {
    /// Forgets all that a table leads elsewhere than `want` says.
    pub(crate) fn sweep_everything(&self, table: &TableName, want: &Want) -> Swept {
        let sweep = || {
            let mut conntrack = Conntrack::open(table).unwrap();
            conntrack.sweep(&want.check().unwrap(), &Affected::Everything).unwrap()
        };
        self.host.enter(sweep).unwrap()
    }
}

fn gateway(netns: &Netns, [v4, v6]: [&str; 2]) {
    let plain = |address: &str| address.split('/').next().unwrap().to_owned();
    netns.ip(&format!("route add default via {}", plain(v4))).unwrap();
    netns.ip(&format!("-6 route add default via {}", plain(v6))).unwrap();
}

/// Answers on one port over TCP and UDP: `NAME ADDRESS`, who was reached and from where. Ends on drop.
pub(crate) struct Answerer {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Answerer {
    pub(crate) fn start(netns: &Netns, name: &str, port: u16) -> Self {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        // Dual-stack, so a v4 client shows as v4-mapped.
        let place = SocketAddr::from(([0_u16; 8], port));
        let tcp = netns.enter(|| TcpListener::bind(place)).unwrap().unwrap();
        let udp = netns.enter(|| UdpSocket::bind(place)).unwrap().unwrap();
        let tick = Duration::from_millis(50);
        udp.set_read_timeout(Some(tick)).unwrap();
        socket2::SockRef::from(&tcp).set_read_timeout(Some(tick)).unwrap();
        let answer = |name: &str, from: SocketAddr| format!("{name} {}", from.ip().to_canonical());
        let mut threads = Vec::new();
        let shared = (Arc::clone(&stop), Arc::clone(&asked), name.to_owned());
        threads.push(std::thread::spawn(move || {
            let (stop, asked, name) = shared;
            while !stop.load(Ordering::SeqCst) {
                let Ok((mut stream, from)) = tcp.accept() else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(answer(&name, from).as_bytes());
            }
        }));
        let shared = (Arc::clone(&stop), Arc::clone(&asked), name.to_owned());
        threads.push(std::thread::spawn(move || {
            let (stop, asked, name) = shared;
            let mut buffer = [0; 64];
            while !stop.load(Ordering::SeqCst) {
                let Ok((_, from)) = udp.recv_from(&mut buffer) else { continue };
                asked.fetch_add(1, Ordering::SeqCst);
                let _ = udp.send_to(answer(&name, from).as_bytes(), from);
            }
        }));
        Self { stop, asked, threads }
    }

    /// How often it was reached.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What somebody at `to` answers over TCP; `None`: nobody does within `limit`.
pub(crate) fn ask_tcp(netns: &Netns, to: &str, limit: Duration) -> Option<String> {
    let to: SocketAddr = to.parse().unwrap();
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, limit).ok()?;
        stream.set_read_timeout(Some(limit)).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    };
    netns.enter(ask).unwrap()
}

/// The same over UDP, asking again while nobody answers.
pub(crate) fn ask_udp(netns: &Netns, to: &str, limit: Duration) -> Option<String> {
    let client = Sender::new(netns, to);
    let until = Instant::now() + limit;
    let mut answer = client.ask();
    while answer.is_none() && Instant::now() < until {
        answer = client.ask();
    }
    answer
}

/// A UDP client that keeps its port.
pub(crate) struct Sender {
    socket: UdpSocket,
}

impl Sender {
    pub(crate) fn new(netns: &Netns, to: &str) -> Self {
        let to: SocketAddr = to.parse().unwrap();
        let own: IpAddr = if to.is_ipv4() { [0_u8; 4].into() } else { [0_u16; 8].into() };
        let socket = netns.enter(|| UdpSocket::bind((own, 0))).unwrap().unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        Self { socket }
    }

    /// Sends once and takes what comes within a moment.
    pub(crate) fn ask(&self) -> Option<String> {
        let mut buffer = [0; 64];
        let asked = Instant::now();
        // A refusal of an earlier datagram is reported by this one.
        while self.socket.send(b"?").is_err() && asked.elapsed() < QUIET {}
        let length = self.socket.recv(&mut buffer).ok()?;
        // A refusal comes at once: do not spin on it.
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}
