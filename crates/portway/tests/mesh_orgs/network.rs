//! An organization that runs: a registrar, members as an ordinary user, wireguard-go with what was exported.
//!
//! ```text
//!   registrar 192.0.2.254, 198.51.100.254, 203.0.113.254, forwards
//!     ├── one    192.0.2.1      10.77.0.1: serves TCP and UDP
//!     ├── two    198.51.100.1   10.77.0.2: reaches them by egress rules
//!     ├── three  203.0.113.1    wireguard-go, or a hub
//!     └── four   198.18.0.1     another hub
//! ```

use std::cell::RefCell;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Netns, is_root, wait_for};
use tempfile::TempDir;

/// An ordinary user.
const NOBODY: u32 = 65_534;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Hosts, their addresses, and that of the registrar beside each.
pub(crate) const HOSTS: [(&str, &str, &str); 4] = [
    ("one", "192.0.2.1", "192.0.2.254"),
    ("two", "198.51.100.1", "198.51.100.254"),
    ("three", "203.0.113.1", "203.0.113.254"),
    ("four", "198.18.0.1", "198.18.0.254"),
];

pub(crate) struct Field {
    dir: TempDir,
    pub(crate) registrar: Netns,
    pub(crate) hosts: Vec<Netns>,
    /// They stand between hosts and the registrar, as long as this is there.
    pub(crate) routers: Vec<Netns>,
}

/// How hosts reach the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Direct,
    /// Behind a router each, that translates addresses and lets nobody in whom nothing was sent to.
    Translated,
    /// The first two are, by routers that take another port for each destination: they cannot meet.
    Symmetric,
}

impl Way {
    fn is_routed(self, host: usize) -> bool {
        match self {
            Way::Direct => false,
            Way::Translated => true,
            Way::Symmetric => host < 2,
        }
    }
}

/// A process and what it says, line by line.
pub(crate) struct Running {
    pub(crate) child: Child,
    lines: Receiver<String>,
    /// What was said and not asked for yet.
    heard: RefCell<Vec<String>>,
}

impl Running {
    fn start(netns: &Netns, mut command: Command) -> Running {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = netns.spawn(&mut command).unwrap();
        let (sender, lines) = sync_channel(1024);
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let streams: [Box<dyn std::io::Read + Send>; 2] = [Box::new(out), Box::new(err)];
        for stream in streams {
            let sender = sender.clone();
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    println!("{line}");
                    // The test has heard enough, or is busy elsewhere.
                    sender.try_send(line).ok();
                }
            });
        }
        Running { child, lines, heard: RefCell::default() }
    }

    /// The first line that has `word` in it and was not asked for before.
    pub(crate) fn hear(&self, word: &str) -> String {
        let mut heard = self.heard.borrow_mut();
        loop {
            if let Some(at) = heard.iter().position(|line| line.contains(word)) {
                return heard.remove(at);
            }
            let line = self.lines.recv_timeout(PATIENCE);
            heard.push(line.unwrap_or_else(|_| panic!("nothing said of {word}")));
        }
    }

    /// It does nothing more, and what it has open stays open, until what is returned is dropped.
    pub(crate) fn freeze(&self) -> Frozen {
        Frozen::new(self.child.id())
    }

    /// The same of its child of this name.
    pub(crate) fn freeze_child(&self, name: &str) -> Frozen {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let children =
            tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).unwrap());
        let children: Vec<String> = children.collect();
        let mut all = children.iter().flat_map(|some| some.split_whitespace());
        let called =
            |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim() == name;
        Frozen::new(all.find(called).unwrap().parse().unwrap())
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A process that is stopped as long as this is there.
pub(crate) struct Frozen(Pid);

impl Frozen {
    fn new(pid: u32) -> Frozen {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        let frozen = Frozen(pid);
        // A thread that runs goes on for as long as its processor has not heard of it.
        wait_for("all threads stop", || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
            let stat = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("stat")).unwrap();
            let mut all = tasks.map(|task| stat(task.unwrap()));
            all.all(|stat| stat.rsplit(')').next().unwrap().trim_start().starts_with('T')).then_some(())
        })
        .unwrap();
        frozen
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed.
        kill(self.0, Signal::SIGCONT).ok();
    }
}

/// Rules of a router.
const ROUTER: &str = "add table ip r; add chain ip r p { type nat hook postrouting priority 100; }; \
    add rule ip r p oifname wan masquerade; add chain ip r i { type filter hook input priority 0; }; \
    add rule ip r i iifname wan drop";

impl Field {
    pub(crate) fn new(way: Way) -> Field {
        let registrar = Netns::new().unwrap();
        registrar.sysctl("ipv4/ip_forward", "1").unwrap();
        let dir = TempDir::new().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        // Where that user can run it.
        std::fs::copy(env!("CARGO_BIN_EXE_portway"), dir.path().join("portway")).unwrap();
        let (mut hosts, mut routers) = (Vec::new(), Vec::new());
        for (number, (name, own, gateway)) in HOSTS.iter().enumerate() {
            let netns = Netns::new().unwrap();
            let (public, there) = (format!("{own}/24"), format!("{gateway}/24"));
            if !way.is_routed(number) {
                registrar.veth(name, &[&there], &netns, "cable", &[&public]).unwrap();
                netns.ip(&format!("route add default via {gateway}")).unwrap();
            } else {
                let router = Netns::new().unwrap();
                registrar.veth(name, &[&there], &router, "wan", &[&public]).unwrap();
                router.ip(&format!("route add default via {gateway}")).unwrap();
                router.sysctl("ipv4/ip_forward", "1").unwrap();
                let (inside, local) = (format!("10.1.{number}.1/24"), format!("10.1.{number}.2/24"));
                router.veth("lan", &[&inside], &netns, "cable", &[&local]).unwrap();
                netns.ip(&format!("route add default via 10.1.{number}.1")).unwrap();
                let random = if way == Way::Symmetric { "masquerade fully-random" } else { "masquerade" };
                router.nft(&ROUTER.replace("masquerade", random)).unwrap();
                routers.push(router);
            }
            hosts.push(netns);
        }
        for name in HOSTS.iter().map(|(name, ..)| *name).chain(["registrar"]) {
            let path = dir.path().join(name);
            std::fs::create_dir(&path).unwrap();
            chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Field { dir, registrar, hosts, routers }
    }

    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The program on `name`, as nobody.
    pub(crate) fn command(&self, name: &str, words: &str) -> Command {
        let mut command = Command::new(self.home("portway"));
        command.args(words.split_whitespace()).env_clear().env("PORTWAY_DIR", self.home(name));
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
        command
    }

    pub(crate) fn registrar(&self) -> Running {
        self.registrar_on("0.0.0.0:51821")
    }

    pub(crate) fn registrar_on(&self, listen: &str) -> Running {
        let running = Running::start(
            &self.registrar,
            self.command("registrar", &format!("mesh registrar --listen {listen}")),
        );
        running.hear("registrar ready");
        running
    }

    /// What it prints on the registrar's host.
    pub(crate) fn owner(&self, words: &str) -> String {
        self.registrar.run(&mut self.command("registrar", words)).unwrap().trim().to_owned()
    }

    /// A member; engine and privileges are asserted.
    pub(crate) fn member(&self, host: usize, engine: &str, words: &str) -> Running {
        let words = format!("mesh {words} --engine {engine} --drain 0");
        let running = Running::start(&self.hosts[host], self.command(HOSTS[host].0, &words));
        let ready = running.hear("ready");
        assert!(ready.starts_with(&format!("ready: engine {engine} ")), "{ready}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        running
    }

    pub(crate) fn status(&self, host: usize) -> serde_json::Value {
        let mut command = self.command(HOSTS[host].0, "mesh status --format json");
        serde_json::from_str(&self.hosts[host].run(&mut command).unwrap()).unwrap()
    }

    fn readyz(&self, host: usize) -> String {
        let socket = self.home(HOSTS[host].0).join("mesh-acme.sock");
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// Gives back what each client says, on TCP and UDP ports of `netns`.
pub(crate) fn serve(netns: &Netns) {
    let (tcp, udp) = netns
        .enter(|| (TcpListener::bind("127.0.0.1:8000").unwrap(), UdpSocket::bind("127.0.0.1:5300").unwrap()))
        .unwrap();
    std::thread::spawn(move || {
        for mut client in tcp.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut back = client.try_clone().unwrap();
                // A reset is the end of it, too.
                std::io::copy(&mut back, &mut client).ok();
            });
        }
    });
    std::thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((length, from)) = udp.recv_from(&mut room) {
            udp.send_to(&room[..length], from).unwrap();
        }
    });
}

pub(crate) fn connect(netns: &Netns, to: &str) -> TcpStream {
    let to: SocketAddr = to.parse().unwrap();
    let stream = netns.enter(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Says something and hears it again.
pub(crate) fn echo(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, text.as_bytes());
}

pub(crate) fn echo_udp(netns: &Netns, to: &str) {
    let socket = netns.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"datagram").unwrap();
    let mut room = [0; 64];
    let length = socket.recv(&mut room).unwrap();
    assert_eq!(&room[..length], b"datagram");
}

/// wireguard-go as a member that was exported, on host three.
struct Kernel {
    child: Child,
    name: String,
}

impl Kernel {
    fn start(field: &Field, exported: &str) -> Kernel {
        let name = format!("pwo{}", std::process::id());
        let mut command = Command::new("wireguard-go");
        command.args(["-f", &name]).env("LOG_LEVEL", "silent").stdin(Stdio::null()).stderr(Stdio::null());
        let netns = &field.hosts[2];
        let kernel = Kernel { child: netns.spawn(&mut command).unwrap(), name: name.clone() };
        let own = |line: &&str| !line.starts_with("Address") && !line.starts_with("MTU");
        let plain: String = exported.lines().filter(own).map(|line| format!("{line}\n")).collect();
        let path = field.home("wg.conf");
        std::fs::write(&path, plain).unwrap();
        let path = path.display().to_string();
        // wg takes a socket that nobody listens on yet for one that was left behind, and removes it.
        let listens = || UnixStream::connect(format!("/var/run/wireguard/{name}.sock")).ok();
        wait_for("wireguard-go", listens).unwrap();
        netns.run(Command::new("wg").args(["setconf", &name, &path])).unwrap();
        let address = exported.lines().find_map(|line| line.strip_prefix("Address = ")).unwrap();
        netns.ip(&format!("addr add {} dev {name}", address.split(',').next().unwrap())).unwrap();
        netns.ip(&format!("link set {name} up mtu 1420")).unwrap();
        kernel
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name)).ok();
    }
}

/// Host three joins and is exported; its kernel's WireGuard reaches a rule of the first.
fn kernel_joins(field: &Field, token: &str) {
    let words = format!(
        "mesh join https://203.0.113.254:51821 --key {token} --name three --endpoint 203.0.113.1:51820"
    );
    field.hosts[2].run(&mut field.command("three", &words)).unwrap();
    wait_for("the new member", || {
        let peers = field.status(0)["peers"].as_array().unwrap().len();
        (peers == 2).then_some(())
    })
    .unwrap();
    let export = "mesh export --org acme --wg-quick";
    let exported = field.hosts[2].run(&mut field.command("three", export)).unwrap();
    let kernel = Kernel::start(field, &exported);
    echo(&mut connect(&field.hosts[2], "10.77.0.1:80"), "from the kernel");
    drop(kernel);
}

/// Row 25, and all of an organization's life: joined and run in one command, the registrar away and back, a new member, a
/// kernel's peer, a member that is revoked in mid-stream.
///
/// Fails when: a stream ends with the registrar, a member does not start from what it last knew or does not say so, a new
/// member is not heard of, or a revoked one is spoken to for longer than two seconds.
fn a_life(engine: &str) {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Direct);
    let mut registrar = field.registrar();
    field.owner("mesh org create acme --network 10.77.0.0/24");
    let token = field.owner("mesh key create --org acme --uses 10");
    let join = |host: usize| {
        let (name, _, gateway) = HOSTS[host];
        format!("--join https://{gateway}:51821 --key {token} --device {name}")
    };
    serve(&field.hosts[0]);
    let rules = "--ingress tcp:80:127.0.0.1:8000 --ingress udp:53:127.0.0.1:5300";
    let one =
        format!("proxy --org acme {} --request-ip 10.77.0.1 --endpoint 192.0.2.1:51820 {rules}", join(0));
    let mut one = field.member(0, engine, &one);
    let rules = "--egress tcp:127.0.0.1:9000:10.77.0.1:80 --egress udp:127.0.0.1:9053:10.77.0.1:53";
    // Flags before the subcommand, as nexd takes them.
    let two_words = format!("--org acme --request-ip 10.77.0.2 proxy {} {rules}", join(1));
    let mut two = field.member(1, engine, &two_words);
    let mut stream = connect(&field.hosts[1], "127.0.0.1:9000");
    echo(&mut stream, "first");
    echo_udp(&field.hosts[1], "127.0.0.1:9053");
    let status = field.status(1);
    assert_eq!(status["organization"]["reachable"], true);
    assert_eq!(
        (&status["organization"]["device"], &status["peers"][0]["name"]),
        (&"two".into(), &"one".into())
    );

    // The registrar is gone: nothing else is. A rule is added that is there after the restart.
    registrar.kill();
    two.hear("cannot be reached");
    echo(&mut stream, "second");
    assert_eq!(field.status(1)["organization"]["reachable"], false);
    let ready = field.readyz(1);
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("cannot be reached"), "{ready}");
    let add = "mesh rule add --egress tcp:127.0.0.1:9001:10.77.0.1:80";
    field.hosts[1].run(&mut field.command("two", add)).unwrap();
    two.kill();
    drop(stream);
    // Its worker ends with it, a moment later.
    wait_for("its port", || field.hosts[1].enter(|| TcpListener::bind("127.0.0.1:9000").ok()).unwrap())
        .unwrap();
    let mut two = field.member(1, engine, &two_words);
    two.hear("peers are those of revision");
    let mut stream = connect(&field.hosts[1], "127.0.0.1:9001");
    echo(&mut stream, "third");

    // It is back, with a member whose kernel is the peer.
    let mut registrar = field.registrar();
    kernel_joins(&field, &token);

    // One is revoked in mid-stream.
    wait_for("two follows", || field.status(1)["organization"]["reachable"].as_bool().filter(|is| *is))
        .unwrap();
    echo(&mut stream, "fourth");
    let begin = Instant::now();
    field.owner("mesh device revoke one --org acme");
    let ended =
        stream.read(&mut [0; 16]).map_or_else(|error| error.kind().to_string(), |n| format!("{n} bytes"));
    let after = begin.elapsed();
    println!("{engine}: the stream has ended after {after:?}: {ended}");
    assert!(after < Duration::from_secs(2), "{after:?} {ended}");
    assert!(field.status(1)["peers"].as_array().unwrap().iter().all(|peer| peer["name"] != "one"));
    one.hear("this device was revoked in organization acme");
    assert_eq!(one.child.wait().unwrap().code(), Some(1));
    registrar.kill();
    two.kill();
}

#[test]
fn an_organization_runs_on_the_kernels_engine() {
    a_life("kernel");
}

#[test]
fn an_organization_runs_on_smoltcp() {
    a_life("smoltcp");
}

/// Two members behind a router each, of which neither has been told where it is reached.
///
/// Fails when: a device does not find out where it is, does not say so, tries the other one in one place only, or does not
/// send to it what lets its answers in.
#[test]
fn members_behind_routers_meet() {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Translated);
    let _registrar = field.registrar();
    field.owner("mesh org create acme --network 10.77.0.0/24");
    let token = field.owner("mesh key create --org acme --uses 10");
    let join = |host: usize| {
        let (name, _, gateway) = HOSTS[host];
        format!("--join https://{gateway}:51821 --key {token} --device {name} --listen-port 51820")
    };
    serve(&field.hosts[0]);
    let words = format!("proxy {} --request-ip 10.77.0.1 --ingress tcp:80:127.0.0.1:8000", join(0));
    let _one = field.member(0, "kernel", &words);
    let words = format!("proxy {} --egress tcp:127.0.0.1:9000:10.77.0.1:80", join(1));
    let _two = field.member(1, "kernel", &words);
    let begin = Instant::now();
    echo(&mut connect(&field.hosts[1], "127.0.0.1:9000"), "through both");
    println!("after {:?}", begin.elapsed());
    let devices = field.owner("mesh device list --org acme --format json");
    let devices: serde_json::Value = serde_json::from_str(&devices).unwrap();
    let endpoints = |name: &str| {
        let all = devices.as_array().unwrap();
        all.iter().find(|device| device["name"] == name).unwrap()["endpoints"].clone()
    };
    assert_eq!(endpoints("one"), serde_json::json!(["10.1.0.2:51820", "192.0.2.1:51820"]));
    assert_eq!(endpoints("two"), serde_json::json!(["10.1.1.2:51820", "198.51.100.1:51820"]));
    assert_eq!(field.status(1)["peers"][0]["endpoint"], "192.0.2.1:51820");
}
