//! The topology: two namespaces and a cable, a node in one, a peer in the other.
//!
//! ```text
//!   stack of the node (its own user and network namespace)       10.9.0.1, fd09::1
//!     | tun or veth
//!   node, uid 65534 ── 192.0.2.1 ═══ veth ═══ 192.0.2.2 ── peer   10.9.0.2, fd09::2
//! ```

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use portway_mesh::spec::PrivateKey;
use portway_testkit::{Netns, wait_for};

/// An ordinary user.
const NOBODY: u32 = 65_534;

/// A node as a process.
pub(crate) struct Node {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pub(crate) way: String,
    pub(crate) stack: Netns,
    /// Of the stack's process.
    pub(crate) pid: i32,
}

/// Its place and its peer's.
pub(crate) struct Place<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) key: &'a PrivateKey,
    pub(crate) peer: &'a PrivateKey,
    pub(crate) addresses: &'a str,
    pub(crate) prefixes: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) port: u16,
}

impl Node {
    /// Starts one as a user without privileges, which is asserted, as is its engine.
    pub(crate) fn start(place: &Place<'_>, wanted: &str) -> Node {
        let mut command = Command::new("/proc/self/exe");
        let (key, port) = (place.key.reveal(), place.port.to_string());
        let peer = place.peer.public().to_string();
        command.args([
            super::node::ROLE,
            &key,
            place.addresses,
            wanted,
            &port,
            &peer,
            place.prefixes,
            place.endpoint,
        ]);
        command.uid(NOBODY).gid(NOBODY).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = place.netns.spawn(&mut command).unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let ready = line(&mut output);
        let words: Vec<&str> = ready.split(' ').collect();
        let ["ready", pid, _, way, "65534", "0000000000000000"] = words[..] else { panic!("{ready}") };
        assert_eq!(way == "Pair", wanted == "pair", "another engine than the one that is tested");
        let engine = if way == "Pair" { "S" } else { "K" };
        println!("engine {engine} by {way}, uid 65534, no capabilities; {}", line(&mut output));
        let pid = pid.parse().unwrap();
        let stack = Netns::of_pid(pid).unwrap();
        Node { child, input, output, way: way.to_owned(), stack, pid }
    }

    pub(crate) fn ask(&mut self, words: &str) -> String {
        writeln!(self.input, "{words}").unwrap();
        line(&mut self.output)
    }

    /// Of the tunnel's own process.
    pub(crate) fn main_pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// Frames out, messages out, rows out, rows in, messages in, frames in, rows refused.
    pub(crate) fn totals(&mut self) -> [u64; 7] {
        let totals = self.ask("totals");
        let numbers: Vec<u64> = totals.split(' ').map(|number| number.parse().unwrap()).collect();
        numbers.try_into().unwrap()
    }

    /// Waits for an answer.
    pub(crate) fn wait(&mut self, words: &str, good: impl Fn(&str) -> bool) -> String {
        wait_for(words, || Some(self.ask(words)).filter(|answer| good(answer))).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// What wireguard-go is, where another than the installed one is wanted.
pub(crate) fn wireguard_go_program() -> OsString {
    std::env::var_os("PORTWAY_MESH_WIREGUARD_GO").unwrap_or_else(|| "wireguard-go".into())
}

/// wireguard-go on a TUN device of its namespace.
pub(crate) struct WireguardGo {
    child: Child,
    pub(crate) netns: Netns,
    pub(crate) name: String,
    _keys: tempfile::TempDir,
}

impl WireguardGo {
    /// Starts it in `netns` with an address of each family.
    pub(crate) fn start(netns: &Netns, name: &str, key: &PrivateKey, addresses: &[&str]) -> WireguardGo {
        let mut command = Command::new(wireguard_go_program());
        command.args(["-f", name]).env("LOG_LEVEL", "error").stdin(Stdio::null()).stderr(Stdio::null());
        let child = netns.spawn(&mut command).unwrap();
        let keys = tempfile::tempdir().unwrap();
        let file = keys.path().join("key");
        std::fs::write(&file, key.reveal().as_bytes()).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let path = file.display().to_string();
        let peer = WireguardGo { child, netns: netns.clone(), name: name.to_owned(), _keys: keys };
        // wg takes a socket that nobody listens on yet for one that was left behind, and removes it.
        let listens = || UnixStream::connect(format!("/var/run/wireguard/{name}.sock")).ok();
        wait_for("wireguard-go", listens).unwrap();
        peer.set(&format!("private-key {path}"));
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            netns.ip(&format!("addr add {address} dev {name} {nodad}")).unwrap();
        }
        netns.ip(&format!("link set {name} up mtu 1420")).unwrap();
        peer
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }

    /// `wg set` of its interface with these words.
    pub(crate) fn set(&self, words: &str) {
        let mut command = Command::new("wg");
        self.netns.run(command.args(["set", &self.name]).args(words.split(' '))).unwrap();
    }

    /// A column of `wg show … dump` for its only peer.
    pub(crate) fn shown(&self, column: usize) -> String {
        let dump = self.netns.run(Command::new("wg").args(["show", &self.name, "dump"])).unwrap();
        dump.lines().nth(1).unwrap().split('\t').nth(column).unwrap().to_owned()
    }
}

impl Drop for WireguardGo {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name)).ok();
    }
}

/// Namespaces and keys.
pub(crate) struct Bed {
    pub(crate) ours: Netns,
    pub(crate) theirs: Netns,
    /// Where the other side is.
    pub(crate) endpoint: &'static str,
    /// Of this side, in the tunnel.
    pub(crate) addresses: [&'static str; 2],
    pub(crate) key: PrivateKey,
    pub(crate) peer: PrivateKey,
}

impl Bed {
    pub(crate) fn new() -> Bed {
        let (ours, theirs) = (Netns::new().unwrap(), Netns::new().unwrap());
        ours.veth("cable", &["192.0.2.1/24"], &theirs, "cable", &["192.0.2.2/24"]).unwrap();
        Bed::between(ours, theirs, "192.0.2.2:51820")
    }

    fn between(ours: Netns, theirs: Netns, endpoint: &'static str) -> Bed {
        let (key, peer) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        Bed { ours, theirs, endpoint, addresses: ["10.9.0.1/24", "fd09::1/64"], key, peer }
    }

    /// As the other side sees it.
    pub(crate) fn mirrored(&self) -> Bed {
        Bed {
            ours: self.theirs.clone(),
            theirs: self.ours.clone(),
            endpoint: "192.0.2.1:51820",
            addresses: ["10.9.0.2/24", "fd09::2/64"],
            key: self.peer.clone(),
            peer: self.key.clone(),
        }
    }

    /// With a router between them, beyond which packets have `mtu` bytes at most.
    ///
    /// ```text
    ///   node ── 192.0.2.1 ═══ near 192.0.2.254, router, far 198.51.100.254 ═══ 198.51.100.2 ── peer
    /// ```
    pub(crate) fn routed(mtu: u16) -> (Bed, Netns) {
        let [ours, router, theirs] = [(); 3].map(|()| Netns::new().unwrap());
        ours.veth("cable", &["192.0.2.1/24"], &router, "near", &["192.0.2.254/24"]).unwrap();
        router.veth("far", &["198.51.100.254/24"], &theirs, "cable", &["198.51.100.2/24"]).unwrap();
        for (netns, name) in [(&router, "far"), (&theirs, "cable")] {
            netns.ip(&format!("link set {name} mtu {mtu}")).unwrap();
        }
        router.sysctl("ipv4/ip_forward", "1").unwrap();
        ours.ip("route add default via 192.0.2.254").unwrap();
        theirs.ip("route add default via 198.51.100.254").unwrap();
        (Bed::between(ours, theirs, "198.51.100.2:51820"), router)
    }

    pub(crate) fn place(&self) -> Place<'_> {
        Place {
            netns: &self.ours,
            key: &self.key,
            peer: &self.peer,
            addresses: "10.9.0.1/24,fd09::1/64",
            prefixes: "10.9.0.2/32,fd09::2/128",
            endpoint: self.endpoint,
            port: 51_820,
        }
    }

    /// The place of the other side, for a node of ours there.
    pub(crate) fn other_place(&self) -> Place<'_> {
        Place {
            netns: &self.theirs,
            key: &self.peer,
            peer: &self.key,
            addresses: "10.9.0.2/24,fd09::2/64",
            prefixes: "10.9.0.1/32,fd09::1/128",
            endpoint: "192.0.2.1:51820",
            port: 51_820,
        }
    }

    /// wireguard-go on the other side, that waits for us.
    pub(crate) fn wireguard_go(&self) -> WireguardGo {
        // Its control socket has this name in a folder that all share.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("wg{}n{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let addresses = ["10.9.0.2/24", "fd09::2/64"];
        let peer = WireguardGo::start(&self.theirs, &name, &self.peer, &addresses);
        let key = self.key.public();
        peer.set(&format!("listen-port 51820 peer {key} allowed-ips 10.9.0.1/32,fd09::1/128"));
        peer
    }
}
