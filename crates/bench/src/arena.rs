//! Where it all happens: a container of a real Incus with the service in it, a client outside the host,
//! and a daemon beside the server.
//!
//! The host is the test bed's namespace. The client has a namespace of its own and a link to the host, so that
//! what arrives is what arrives from a network.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use portway_testkit::{Bed, Container, ContainerSpec, Daemon, DaemonSpec, Netns, bed, process};
use serde_json::json;
use tempfile::TempDir;

use crate::peer::Peer;
use crate::process::Program;

/// First port of the service inside, and how many there are: who reaches it by the kernel has one of his own, so
/// that his connections are not those of another in connection tracking.
const PORT: u16 = 9000;
const PORTS: u16 = 4;

/// Path of the service's unix socket inside.
pub(crate) const SERVICE_PATH: &str = "/srv/bench.sock";

/// Sysctls of the three namespaces. A connection that is over leaves nothing behind that the next thousand would
/// have to wait for, or the rate of new ones falls from run to run. Streams are not paced by a measured link (BBR),
/// where there is none: Reno is what every kernel lets a namespace have, and without loss it is like CUBIC.
const SYSCTLS: &[(&str, &str)] =
    &[("ipv4/tcp_max_tw_buckets", "512"), ("ipv4/tcp_congestion_control", "reno")];

/// The same where there is connection tracking: seconds.
const CONNTRACK: &[(&str, &str)] = &[
    ("netfilter/nf_conntrack_tcp_timeout_time_wait", "1"),
    ("netfilter/nf_conntrack_tcp_timeout_close", "1"),
];

/// All of it; drop takes it down.
pub(crate) struct Arena {
    /// Ended before the daemon and the container are.
    _service: Program,
    pub(crate) daemon: Daemon,
    pub(crate) container: Container<'static>,
    pub(crate) bed: &'static Bed,
    pub(crate) client: Netns,
    /// The host's address on the client's link.
    pub(crate) host: Ipv4Addr,
    /// The container's address.
    pub(crate) address: Ipv4Addr,
    pub(crate) folder: TempDir,
    _sysctls: Vec<Sysctl>,
}

impl Arena {
    /// Brings it up; `portway` is the program under test.
    ///
    /// # Errors
    /// When a part does not start, as without root.
    pub(crate) fn open(portway: &Path) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "peers are measured with a real Incus server, which needs root"
        );
        process::raise_nofile()?;
        let bed = bed().context("there is no test server")?;
        let container = bed.launch("bench", &ContainerSpec::default())?;
        let address: Ipv4Addr = container.address(false)?.to_string().parse().context("an IPv4 address")?;
        // Incus' NAT asks for an address that stays.
        let nic = json!({"eth0": {
            "type": "nic", "network": "br0", "name": "eth0", "ipv4.address": address.to_string(),
        }});
        container.request("PATCH", "", &json!({"devices": nic}))?;
        let client = Netns::new()?;
        // A network of its own for each benchmark that runs: RFC 2544's range.
        let [high, low] = [std::process::id() >> 6 & 0xff, std::process::id() << 2 & 0xfc]
            .map(|part| u8::try_from(part).unwrap_or_default());
        let [host, outside] = [1, 2].map(|end| Ipv4Addr::new(198, 18, high, low + end));
        let link = format!("bench{}", std::process::id());
        bed.netns().veth(&link, &[&format!("{host}/30")], &client, "eth0", &[&format!("{outside}/30")])?;
        client.ip(&format!("route add default via {host}"))?;
        client.sysctl("ipv4/ip_local_port_range", "1024 65535")?;
        let inside = container.netns()?;
        let mut sysctls = Vec::new();
        for (name, value) in SYSCTLS {
            for netns in [bed.netns(), &client, &inside] {
                sysctls.push(Sysctl::set(netns, name, value)?);
            }
        }
        for (name, value) in CONNTRACK {
            sysctls.push(Sysctl::set(bed.netns(), name, value)?);
        }
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        // Workers without privilege look for sockets below it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let service = start_service(&container)?;
        let daemon = DaemonSpec::new(portway).on(bed).start()?;
        Ok(Self {
            _service: service,
            daemon,
            container,
            bed,
            client,
            host,
            address,
            folder,
            _sysctls: sysctls,
        })
    }

    /// The service, as the host and the client's network reach it.
    pub(crate) fn service_address(&self) -> SocketAddr {
        SocketAddrV4::new(self.address, PORT).into()
    }

    /// The service's unix socket as the host sees it.
    ///
    /// # Errors
    /// When the container does not run.
    pub(crate) fn service_path(&self) -> Result<PathBuf> {
        Ok(self.container.site()?.path(Path::new(SERVICE_PATH)))
    }
}

/// Port of the service for a peer.
pub(crate) fn service_port(peer: Peer) -> u16 {
    match peer {
        Peer::Direct => PORT,
        Peer::IncusNat => PORT + 1,
        Peer::Nat => PORT + 2,
        Peer::Forkproxy | Peer::Nginx | Peer::Haproxy | Peer::Socat | Peer::Relay => PORT + 3,
    }
}

/// Starts this program as the service, in the container's network and with a socket among its files.
fn start_service(container: &Container<'_>) -> Result<Program> {
    let site = container.site()?;
    let listener = site.run(|| {
        let path = site.path(Path::new(SERVICE_PATH));
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        // The library's own backlog is 128.
        rustix::net::listen(&listener, 8192)?;
        std::io::Result::Ok(listener)
    })?;
    let listener = listener.context("cannot make the service's unix socket")?;
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(["server", "--unix"]);
    for port in PORT..PORT + PORTS {
        command.arg("--address").arg(format!("0.0.0.0:{port}"));
    }
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::piped());
    let mut service = Program::start(site.network(), &mut command)?;
    let output = service.child.stdout.as_mut().context("the service has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("cannot read from the service")?;
    ensure!(line == "ready\n", "the service did not start");
    Ok(service)
}

/// A sysctl of a namespace that is shared; drop puts the old value back.
struct Sysctl {
    netns: Netns,
    name: &'static str,
    before: String,
}

impl Sysctl {
    fn set(netns: &Netns, name: &'static str, value: &str) -> Result<Self> {
        let before = netns.enter(|| fs::read_to_string(format!("/proc/sys/net/{name}")))?;
        let before = before.with_context(|| format!("there is no {name}"))?.trim().to_owned();
        netns.sysctl(name, value)?;
        Ok(Self { netns: netns.clone(), name, before })
    }
}

impl Drop for Sysctl {
    fn drop(&mut self) {
        // A namespace that is gone has none.
        let _ = self.netns.sysctl(self.name, &self.before);
    }
}
