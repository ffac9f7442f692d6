//! `portway mesh proxy` where it is meant to run: in an unprivileged container, from its environment alone, beside a real
//! wireguard-go on the host.
//!
//! ```text
//!   wireguard-go 10.209.N.2 ── the host's bridge ── eth0 of the container ── portway mesh proxy 10.209.N.1
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a helper fails its test, and says what ran"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use portway_mesh::spec::PrivateKey;
use portway_testkit::testbed::Server;
use portway_testkit::{Bed, Container, ContainerSpec, Netns, bed_of, is_root, wait_for};
use rustix::process::{Pid, Signal, kill_process};

/// The program under test.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

const LIMIT: Duration = Duration::from_secs(20);

/// An ordinary user of the container, and its root.
const USERS: [&str; 2] = ["65534", "0"];

/// A container with the program in it, and a peer on its host.
struct Scene {
    bed: &'static Bed,
    container: Container<'static>,
    key: PrivateKey,
    peer: PrivateKey,
    wireguard_go: Child,
    name: String,
    /// Third number of the network's addresses.
    number: u8,
    endpoint: String,
}

/// A network that runs in the container.
struct Running {
    client: Child,
    output: BufReader<ChildStdout>,
    ready: String,
}

impl Scene {
    /// `number` is a test's own: others run in the same namespace at the same time.
    fn open(server: Server, number: u8) -> Option<Scene> {
        let bed = if is_root() { bed_of(server)? } else { return None };
        let spec = ContainerSpec { stopped: true, ..ContainerSpec::booting("serve echo tcp:127.0.0.1:7\n") };
        let container = bed.launch("mesh", &spec).unwrap();
        install(&container);
        container.start().unwrap();
        let (key, peer) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let name = format!("wg{number}i{}", std::process::id());
        let wireguard_go = start_peer(bed.netns(), &name, &key, &peer, number);
        let host = host_address(bed.netns(), container.address(false).unwrap());
        let port = bed.netns().run(Command::new("wg").args(["show", &name, "listen-port"])).unwrap();
        let endpoint = format!("{host}:{}", port.trim());
        Some(Scene { bed, container, key, peer, wireguard_go, name, number, endpoint })
    }

    /// Runs it as a user of the container, all of it said by the environment; its first line, or nothing when it ended.
    fn begin(&self, user: &str, engine: &str) -> Running {
        let number = self.number;
        let variables = [
            ("PRIVATE_KEY", self.key.reveal().to_string()),
            ("ADDRESSES", format!("10.209.{number}.1/24")),
            ("INGRESS", "tcp:80:127.0.0.1:7".to_owned()),
            ("EGRESS", format!("tcp:127.0.0.1:9000:10.209.{number}.2:7000")),
            ("PEER_1_PUBLIC_KEY", self.peer.public().to_string()),
            ("PEER_1_ALLOWED_IPS", format!("10.209.{number}.2/32")),
            ("PEER_1_ENDPOINT", self.endpoint.clone()),
            ("PEER_1_KEEPALIVE", "1".to_owned()),
        ];
        let mut command = self.bed.client();
        command.args(["exec", self.container.name(), "--user", user]);
        for (key, value) in variables {
            command.args(["--env", &format!("PORTWAY_MESH_{key}={value}")]);
        }
        command.args(["--env", &format!("PORTWAY_DIR=/tmp/mesh-{user}"), "--env", "RUST_BACKTRACE=0"]);
        command.args(["--", "/opt/portway", "mesh", "proxy", "--drain", "0", "--engine", engine]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let mut output = BufReader::new(client.stdout.take().unwrap());
        let mut ready = String::new();
        output.read_line(&mut ready).unwrap();
        Running { client, output, ready }
    }

    /// Both rules carry.
    fn carry(&self) {
        let (host, number) = (self.bed.netns(), self.number);
        let inward: SocketAddr = format!("10.209.{number}.1:80").parse().unwrap();
        let through = || host.enter(|| TcpStream::connect_timeout(&inward, LIMIT)).unwrap().ok();
        assert_eq!(ask(wait_for("the tunnel", through).unwrap(), "in"), "in");
        let outward: SocketAddr = format!("10.209.{number}.2:7000").parse().unwrap();
        let listener = host.enter(|| TcpListener::bind(outward)).unwrap().unwrap();
        let inside = self.container.netns().unwrap();
        let client = inside.enter(|| TcpStream::connect("127.0.0.1:9000")).unwrap().unwrap();
        let service = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            client.read_to_end(&mut text).unwrap();
            client.write_all(&[b"out ", &text[..]].concat()).unwrap();
        });
        assert_eq!(ask(client, "there"), "out there");
        service.join().unwrap();
    }

    /// What its status says, and what a ping through it does.
    fn status(&self, user: &str) -> String {
        let portway = |words: &[&str]| {
            let mut command = self.bed.client();
            command.args(["exec", self.container.name(), "--user", user]);
            command.args(["--env", &format!("PORTWAY_DIR=/tmp/mesh-{user}"), "--", "/opt/portway", "mesh"]);
            let output = command.args(words).output().unwrap();
            assert!(output.status.success(), "{words:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let pong =
            portway(&["ping", "-c", "2", "-i", "0.05", "-W", "10", &format!("10.209.{}.2", self.number)]);
        assert!(pong.contains("2 sent, 2 received, 0 % lost"), "{pong}");
        portway(&["status"])
    }
}

impl Running {
    /// Tells it to end, by its number on the host, and waits.
    fn end(mut self, scene: &Scene) {
        let pids = scene.container.sh("pidof portway").unwrap_or_default();
        assert!(!pids.is_empty(), "it runs");
        scene.container.sh(&format!("kill {}", pids.trim())).ok();
        let client = Pid::from_raw(self.client.id().try_into().unwrap()).unwrap();
        if wait_for("the end", || self.client.try_wait().unwrap()).is_err() {
            kill_process(client, Signal::KILL).unwrap();
        }
        self.output.read_to_string(&mut String::new()).unwrap();
    }

    /// Exit status and standard error of what has ended by itself.
    fn failed(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        self.client.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (self.client.wait().unwrap().code(), text)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.wireguard_go.kill().ok();
        self.wireguard_go.wait().ok();
        fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name)).ok();
    }
}

/// Says something, ends, and returns the answer.
fn ask(mut stream: TcpStream, text: &str) -> String {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The program and the libraries it needs: the image has no C library.
fn install(container: &Container<'_>) {
    let put = |from: &str, to: &str| {
        let to = container.rootfs().join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    };
    put(PORTWAY, "/opt/portway");
    let needed = Command::new("ldd").arg(PORTWAY).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    let paths = needed.split_whitespace().filter(|word| word.starts_with('/'));
    paths.for_each(|path| put(path, path));
}

/// wireguard-go, which waits for the container.
fn start_peer(netns: &Netns, name: &str, key: &PrivateKey, peer: &PrivateKey, number: u8) -> Child {
    let mut command = Command::new("wireguard-go");
    command.args(["-f", name]).env("LOG_LEVEL", "error").stdin(Stdio::null()).stderr(Stdio::null());
    let child = netns.spawn(&mut command).unwrap();
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("key");
    fs::write(&file, peer.reveal().as_bytes()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let (path, own) = (file.display().to_string(), key.public().to_string());
    let allowed = format!("10.209.{number}.1/32");
    let words = ["set", name, "private-key", &path, "peer", &own, "allowed-ips", &allowed];
    // wg takes a socket that nobody listens on yet for one that was left behind, and removes it.
    let listens = || UnixStream::connect(format!("/var/run/wireguard/{name}.sock")).ok();
    wait_for("wireguard-go", listens).unwrap();
    netns.run(Command::new("wg").args(words)).unwrap();
    netns.ip(&format!("addr add 10.209.{number}.2/24 dev {name}")).unwrap();
    netns.ip(&format!("link set {name} up mtu 1420")).unwrap();
    child
}

/// The host's own address on the bridge that `container` is on.
fn host_address(netns: &Netns, container: IpAddr) -> String {
    let text = container.to_string();
    let (network, _) = text.rsplit_once('.').unwrap();
    let addresses = netns.ip("-4 -o addr show").unwrap();
    let mut words = addresses.split_whitespace().filter_map(|word| word.split_once('/'));
    let found =
        words.find(|(address, _)| address.rsplit_once('.').is_some_and(|(begin, _)| begin == network));
    found.unwrap().0.to_owned()
}

/// Fails when: it needs a privilege, a device or a mount that such a container has not.
fn runs_in_a_container_of(server: Server, number: u8) {
    let Some(scene) = Scene::open(server, number) else { return };
    for user in USERS {
        for engine in ["kernel", "smoltcp"] {
            let running = scene.begin(user, engine);
            if running.ready.is_empty() {
                panic!("uid {user}, {engine}: {:?}", running.failed());
            }
            assert!(running.ready.starts_with(&format!("ready: engine {engine} ")), "{}", running.ready);
            assert!(running.ready.ends_with(", 2 rules\n"), "{}", running.ready);
            scene.carry();
            let status = scene.status(user);
            assert!(status.contains(&format!(": engine {engine}, ")), "{status}");
            println!("uid {user}: {}", running.ready.trim());
            running.end(&scene);
        }
    }
}

#[test]
fn runs_in_a_container_of_incus_6() {
    runs_in_a_container_of(Server::Incus6, 6);
}

#[test]
fn runs_in_a_container_of_incus_7() {
    runs_in_a_container_of(Server::Incus7, 7);
}

/// Without user namespaces it takes the other stack and says why, in its first line and in its status; who insists on the
/// kernel's is told in one line.
#[test]
fn says_that_user_namespaces_are_denied() {
    let Some(scene) = Scene::open(Server::Incus7, 8) else { return };
    scene.container.sh("echo 0 > /proc/sys/user/max_user_namespaces").unwrap();
    for user in USERS {
        let running = scene.begin(user, "auto");
        let why = "(not kernel: namespaces: No space left on device";
        assert!(running.ready.starts_with(&format!("ready: engine smoltcp {why}")), "{}", running.ready);
        scene.carry();
        let status = scene.status(user);
        assert!(
            status.contains("\nnot the kernel's engine: namespaces: No space left on device"),
            "{status}"
        );
        println!("uid {user}: {}", running.ready.trim());
        running.end(&scene);
        let refused = scene.begin(user, "kernel");
        assert_eq!(refused.ready, "");
        let (code, text) = refused.failed();
        assert_eq!(code, Some(1), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        let [error, hint] = lines[..] else { panic!("{text}") };
        assert!(error.starts_with("error: no user namespace can be made: "), "{text}");
        assert!(hint.starts_with("hint: ") && hint.contains("max_user_namespaces"), "{text}");
    }
}
