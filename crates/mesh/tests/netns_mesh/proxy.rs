//! Rules that run: `portway mesh proxy` as an ordinary user, wireguard-go on the other side.

mod balancing;
mod edges;
mod gates;
mod hostile;
mod life;
mod matrix;
mod rules;
mod shares;

use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use portway_mesh::proxy::balance::Policy;
use portway_mesh::proxy::{self, EngineChoice, Home, Notice, Options};
use portway_mesh::spec::{Here, Request, Spec};
use portway_testkit::{Netns, wait_for};

use crate::bed::{Bed, WireguardGo, line};

/// First argument of the role.
pub(crate) const ROLE: &str = "proxy";

/// An ordinary user.
const NOBODY: u32 = 65_534;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("every_rule_in_every_family", || matrix::every_rule_in_every_family("kernel")),
    ("every_rule_in_every_family_with_smoltcp", || matrix::every_rule_in_every_family("smoltcp")),
    ("names_are_looked_up_by_who_dials", matrix::names_are_looked_up_by_who_dials),
    ("a_network_reaches_itself", || matrix::a_network_reaches_itself("kernel")),
    ("a_network_reaches_itself_with_smoltcp", || matrix::a_network_reaches_itself("smoltcp")),
    ("ends_and_resets_are_carried", || edges::ends_and_resets_are_carried("kernel")),
    ("ends_and_resets_are_carried_with_smoltcp", || edges::ends_and_resets_are_carried("smoltcp")),
    ("who_resets_at_once_is_no_end", || edges::who_resets_at_once_is_no_end("kernel")),
    ("who_resets_at_once_with_smoltcp", || edges::who_resets_at_once_is_no_end("smoltcp")),
    ("a_slow_reader_slows_its_sender_only", || edges::a_slow_reader_slows_its_sender_only("kernel")),
    ("a_slow_reader_with_smoltcp", || edges::a_slow_reader_slows_its_sender_only("smoltcp")),
    ("datagrams_are_carried_whole", || edges::datagrams_are_carried_whole("kernel")),
    ("datagrams_are_carried_whole_with_smoltcp", || edges::datagrams_are_carried_whole("smoltcp")),
    ("a_closed_udp_port_ends_the_flow", || edges::a_closed_udp_port_ends_the_flow("kernel")),
    ("a_closed_udp_port_with_smoltcp", || edges::a_closed_udp_port_ends_the_flow("smoltcp")),
    ("ten_thousand_clients", || hostile::ten_thousand_clients("kernel")),
    ("ten_thousand_clients_with_smoltcp", || hostile::ten_thousand_clients("smoltcp")),
    ("without_descriptors", || hostile::without_descriptors_listeners_live("kernel")),
    ("without_descriptors_with_smoltcp", || hostile::without_descriptors_listeners_live("smoltcp")),
    ("rules_race_with_clients", || hostile::rules_race_with_clients("kernel")),
    ("rules_race_with_clients_with_smoltcp", || hostile::rules_race_with_clients("smoltcp")),
    ("what_is_not_served_is_not_changed", || hostile::what_is_not_served_is_not_changed("kernel")),
    ("what_is_not_served_with_smoltcp", || hostile::what_is_not_served_is_not_changed("smoltcp")),
    ("flows_of_removed_rules_are_cut", || hostile::flows_of_removed_rules_are_cut("kernel")),
    ("flows_of_removed_rules_with_smoltcp", || hostile::flows_of_removed_rules_are_cut("smoltcp")),
    ("ports_come_again_at_once", || hostile::ports_come_again_at_once("kernel")),
    ("ports_come_again_at_once_with_smoltcp", || hostile::ports_come_again_at_once("smoltcp")),
    ("a_rule_that_goes_twice", || hostile::a_rule_that_goes_twice("kernel")),
    ("a_rule_that_goes_twice_with_smoltcp", || hostile::a_rule_that_goes_twice("smoltcp")),
    ("a_dead_destination", || hostile::a_dead_destination_holds_up_its_own_port("kernel")),
    ("a_dead_destination_with_smoltcp", || hostile::a_dead_destination_holds_up_its_own_port("smoltcp")),
    ("a_peer_has_its_share", || shares::a_peer_has_its_share("kernel")),
    ("a_peer_has_its_share_with_smoltcp", || shares::a_peer_has_its_share("smoltcp")),
    ("bytes_are_counted_for_their_rule", || hostile::bytes_are_counted_for_their_rule("kernel")),
    ("bytes_are_counted_with_smoltcp", || hostile::bytes_are_counted_for_their_rule("smoltcp")),
    ("connections_are_shared_exactly", || balancing::connections_are_shared_exactly("kernel")),
    ("connections_are_shared_exactly_with_smoltcp", || balancing::connections_are_shared_exactly("smoltcp")),
    ("the_next_one_is_tried", || balancing::the_next_one_is_tried("kernel")),
    ("the_next_one_is_tried_with_smoltcp", || balancing::the_next_one_is_tried("smoltcp")),
    ("all_dead_is_a_reset", || balancing::all_dead_is_a_reset("kernel")),
    ("all_dead_is_a_reset_with_smoltcp", || balancing::all_dead_is_a_reset("smoltcp")),
    ("what_is_in_the_way_is_said", || life::what_is_in_the_way_is_said("kernel")),
    ("what_is_in_the_way_is_said_with_smoltcp", || life::what_is_in_the_way_is_said("smoltcp")),
    ("the_end_waits_for_connections", || life::the_end_waits_for_connections("kernel")),
    ("the_end_waits_for_connections_with_smoltcp", || life::the_end_waits_for_connections("smoltcp")),
    ("a_worker_that_dies_is_replaced", || life::a_worker_that_dies_is_replaced("kernel")),
    ("a_worker_that_dies_is_replaced_with_smoltcp", || life::a_worker_that_dies_is_replaced("smoltcp")),
    ("rules_come_and_go", || rules::rules_come_and_go("kernel")),
    ("rules_come_and_go_with_smoltcp", || rules::rules_come_and_go("smoltcp")),
    ("a_bad_rule_changes_nothing", || rules::a_bad_rule_changes_nothing("kernel")),
    ("a_bad_rule_changes_nothing_with_smoltcp", || rules::a_bad_rule_changes_nothing("smoltcp")),
    ("one_process_of_a_name", rules::one_process_of_a_name),
    ("proxies_serve_real_clients", || gates::real_clients("kernel")),
    ("proxies_serve_real_clients_with_smoltcp", || gates::real_clients("smoltcp")),
    ("proxies_ask_for_passwords", gates::passwords),
    ("proxies_lead_nowhere_else", || gates::where_nobody_goes("kernel")),
    ("proxies_lead_nowhere_else_with_smoltcp", || gates::where_nobody_goes("smoltcp")),
    ("bad_clients_of_proxies", gates::bad_clients),
    ("targets_of_one_proxy_that_do_not_answer", gates::dead_targets),
    ("datagrams_of_socks5", || gates::associations("kernel")),
    ("datagrams_of_socks5_with_smoltcp", || gates::associations("smoltcp")),
    ("echoes_are_asked_and_answered", || rules::echoes("kernel")),
    ("echoes_are_asked_and_answered_with_smoltcp", || rules::echoes("smoltcp")),
    ("haproxy_reads_who_it_is", || matrix::haproxy_reads_who_it_is("kernel")),
    ("haproxy_reads_who_it_is_with_smoltcp", || matrix::haproxy_reads_who_it_is("smoltcp")),
    ("events_are_told", rules::events_are_told),
    ("without_its_stack_it_ends", || life::without_its_stack_it_ends("kernel")),
    ("without_its_stack_it_ends_with_smoltcp", || life::without_its_stack_it_ends("smoltcp")),
    ("endpoints_are_looked_up_again", life::endpoints_are_looked_up_again),
    ("an_endpoint_that_nobody_knows", || life::an_endpoint_that_nobody_knows("kernel")),
    ("an_endpoint_that_nobody_knows_with_smoltcp", || life::an_endpoint_that_nobody_knows("smoltcp")),
];

/// The role: `CONFIG POLICY DRAIN_SECONDS ENGINE`.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let [config, policy, drain, engine] = words else { panic!("four words") };
    let request = Request { config: Some(config.as_ref()), ..Request::default() };
    let spec = match Spec::load(&request, &Here) {
        Ok(spec) => spec,
        Err(error) => {
            println!("failed {error}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        home: Home::find("test", |name| std::env::var_os(name).map(Into::into), false).unwrap(),
        spec,
        joined: None,
        engine: match engine.as_str() {
            "kernel" => EngineChoice::Kernel,
            "smoltcp" => EngineChoice::Smoltcp,
            _ => EngineChoice::Auto,
        },
        policy: if policy == "least" { Policy::LeastConnections } else { Policy::RoundRobin },
        drain: Duration::from_secs(drain.parse().unwrap()),
        trace: std::env::var_os("TEST_TRACE").map(|path| {
            Arc::new(File::options().write(true).create(true).truncate(false).open(path).unwrap())
        }),
        confine: None,
    };
    let report = |notice| match notice {
        Notice::Ready(ready) => println!("ready {} {:?} {}", ready.engine, ready.way, ready.rules),
        Notice::Trouble(text) => println!("trouble {text}"),
    };
    match proxy::run(options, report) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            println!("failed {error}: {source}");
            ExitCode::FAILURE
        }
    }
}

/// A network that runs.
pub(crate) struct Proxy {
    pub(crate) child: Child,
    pub(crate) output: BufReader<ChildStdout>,
    _dir: tempfile::TempDir,
}

/// What it is started with.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) ingress: &'a [&'a str],
    pub(crate) egress: &'a [&'a str],
    /// Lines of the file before the peer.
    pub(crate) more: &'a str,
    pub(crate) policy: &'a str,
    pub(crate) drain: u64,
    pub(crate) endpoint: &'a str,
    pub(crate) port: u16,
    /// Which engine; empty: the kernel's, chosen by itself.
    pub(crate) engine: &'a str,
    /// Where its socket and its state are.
    pub(crate) dir: Option<&'a std::path::Path>,
    /// How many files each of its processes may have; 0: as many as this one.
    pub(crate) files: u64,
}

impl Proxy {
    /// Starts it; its first line is returned too.
    pub(crate) fn begin(bed: &Bed, wanted: &Wanted<'_>) -> (Proxy, String) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let file = dir.path().join("mesh.toml");
        let endpoint = if wanted.endpoint.is_empty() { bed.endpoint } else { wanted.endpoint };
        let port = if wanted.port == 0 { 51_820 } else { wanted.port };
        let text = format!(
            "private_key = \"{}\"\naddresses = {:?}\nlisten_port = {port}\n\
             ingress = {:?}\negress = {:?}\n{}\n[[peers]]\npublic_key = \"{}\"\n\
             allowed_ips = [\"10.9.0.0/24\", \"fd09::/64\"]\nendpoint = \"{endpoint}\"\n",
            bed.key.reveal().as_str(),
            bed.addresses,
            wanted.ingress,
            wanted.egress,
            wanted.more,
            bed.peer.public(),
        );
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(NOBODY), Some(NOBODY)).unwrap();
        let mut command = match wanted.files {
            0 => Command::new("/proc/self/exe"),
            most => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--nofile={most}")).arg(std::env::current_exe().unwrap());
                command
            }
        };
        let policy = if wanted.policy.is_empty() { "round" } else { wanted.policy };
        command.arg(ROLE).arg(&file).args([policy, &wanted.drain.to_string(), wanted.engine]);
        // Not the tests' own.
        let path = std::env::var_os("PATH").unwrap();
        command.env_clear().env("PATH", path);
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
        let home = wanted.dir.unwrap_or(&own);
        command.env("PORTWAY_DIR", home).env("TEST_TRACE", home.join("trace"));
        command.uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = bed.ours.spawn(&mut command).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let first = line(&mut output);
        (Proxy { child, output, _dir: dir }, first)
    }

    /// Starts it and waits until it is ready; says and checks with which engine, and that it has no privilege.
    pub(crate) fn start(bed: &Bed, wanted: &Wanted<'_>) -> Proxy {
        let (proxy, first) = Proxy::begin(bed, wanted);
        let engine = if wanted.engine.is_empty() { "kernel" } else { wanted.engine };
        assert!(first.starts_with(&format!("ready {engine} ")), "{first}");
        let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.child.id())).unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        println!("{first}; uid 65534, no capabilities");
        proxy
    }

    /// All its processes.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let pid = self.child.id();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(path).unwrap();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        children.chain([pid.try_into().unwrap()]).collect()
    }

    pub(crate) fn line(&mut self) -> String {
        line(&mut self.output)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().try_into().unwrap());
        rustix::process::kill_process(pid.unwrap(), signal).unwrap();
    }

    pub(crate) fn ended(&mut self) -> ExitStatus {
        wait_for("the end", || self.child.try_wait().unwrap()).unwrap()
    }

    /// Its children whose name begins with `name`.
    pub(crate) fn child_called(&self, name: &str) -> rustix::process::Pid {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(path).unwrap();
        let called = |pid: &&str| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().starts_with(name)
        };
        let pid = children.split_whitespace().find(called).unwrap();
        rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Both sides: a bed, and wireguard-go there.
pub(crate) fn bed() -> (Bed, WireguardGo) {
    let bed = Bed::new();
    let peer = bed.wireguard_go();
    peer.set(&format!("peer {} endpoint 192.0.2.1:51820", bed.key.public()));
    for netns in [&bed.ours, &bed.theirs] {
        netns.ip("link set lo up").ok();
    }
    (bed, peer)
}

/// The peer has no keys with a proxy of before: it would try them for 15 seconds before it makes new ones.
pub(crate) fn forget(bed: &Bed, peer: &WireguardGo) {
    let key = bed.key.public();
    peer.set(&format!("peer {key} remove"));
    peer.set(&format!("peer {key} endpoint 192.0.2.1:51820 allowed-ips 10.9.0.1/32,fd09::1/128"));
}

pub(crate) fn listener(netns: &Netns, address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    netns.enter(|| TcpListener::bind(address)).unwrap().unwrap()
}

pub(crate) fn connect(netns: &Netns, address: &str) -> TcpStream {
    let address: SocketAddr = address.parse().unwrap();
    let stream = netns.enter(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn udp(netns: &Netns, address: &str) -> UdpSocket {
    let address: SocketAddr = address.parse().unwrap();
    let socket = netns.enter(|| UdpSocket::bind(address)).unwrap().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A UDP socket that talks to `address` alone.
pub(crate) fn udp_to(netns: &Netns, address: &str) -> UdpSocket {
    let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = udp(netns, any);
    socket.connect(address.parse::<SocketAddr>().unwrap()).unwrap();
    socket
}

/// Accepts one after the other: reads to the end, then answers `tag` and what was read, and ends. Ends with `count`.
pub(crate) fn serve(listener: TcpListener, tag: &'static str, count: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..count {
            let (mut client, _) = listener.accept().unwrap();
            let mut text = Vec::new();
            client.read_to_end(&mut text).unwrap();
            client.write_all(&[tag.as_bytes(), &text].concat()).unwrap();
        }
    })
}

/// Says something, ends, and returns the answer, which comes after that end.
pub(crate) fn ask(mut stream: TcpStream, text: &str) -> std::io::Result<String> {
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
