//! A container with services, and a client outside the host.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_testkit::{ContainerSpec, DaemonSpec, Netns, Rig, Server, Site, wait_for};
use serde_json::Value;

use crate::PORTWAY;

/// Where the services are inside.
pub(crate) const INSIDE: u16 = 7;

/// Patience for an answer that must come.
const LIMIT: Duration = Duration::from_secs(5);

/// Patience for an answer that must not come, or may be lost.
const SHORT: Duration = Duration::from_millis(300);

/// A rig with a machine beside its host.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
    /// Another machine, on a link of its own.
    pub(crate) client: Site,
    /// The host's addresses on that link.
    pub(crate) hosts: [IpAddr; 2],
    /// The client's.
    pub(crate) clients: [IpAddr; 2],
    _link: Link,
}

/// The host's end of the link; it goes with the client's namespace.
struct Link(Netns);

impl Scene {
    /// `None`, after [`require`](portway_testkit::require()), where there is no bed.
    pub(crate) fn start(name: &str) -> Option<Scene> {
        Scene::on(Server::Incus6, name, &ContainerSpec::default())
    }

    /// The same on the bed of one of the servers, with this container, whose addresses are waited for.
    pub(crate) fn on(server: Server, name: &str, container: &ContainerSpec) -> Option<Scene> {
        let scene = Scene::made_as(server, name, container)?;
        for v6 in [false, true] {
            scene.rig.container.address(v6).unwrap();
        }
        Some(scene)
    }

    /// The same without waiting for addresses.
    pub(crate) fn made_as(server: Server, name: &str, container: &ContainerSpec) -> Option<Scene> {
        let rig = Rig::on(server, DaemonSpec::new(PORTWAY), name, container).unwrap()?;
        let port = rig.ports.one().unwrap();
        let client = Netns::new().unwrap();
        // A block of ports is this test's alone, so what is made of its number is too.
        let [high, low] = port.to_be_bytes();
        let (hosts, clients) = ([1, 2].map(|end| format!("198.18.{high}.{}", low / 4 * 4 + end)), [1, 2]);
        let v6 = clients.map(|end| format!("fd18:{port:x}::{end}"));
        rig.host()
            .network()
            .veth(
                &format!("nat{port}"),
                &[&format!("{}/30", hosts[0]), &format!("{}/64", v6[0])],
                &client,
                "eth0",
                &[&format!("{}/30", hosts[1]), &format!("{}/64", v6[1])],
            )
            .unwrap();
        client.ip(&format!("route add default via {}", hosts[0])).unwrap();
        client.ip(&format!("-6 route add default via {}", v6[0])).unwrap();
        let ip = |text: &String| text.parse().unwrap();
        Some(Scene {
            client: Site::netns(&client),
            hosts: [ip(&hosts[0]), ip(&v6[0])],
            clients: [ip(&hosts[1]), ip(&v6[1])],
            _link: Link(client),
            rig,
        })
    }

    /// Serves on all addresses inside: each connection, each datagram is told its own source.
    pub(crate) fn serve(&self) {
        let inside = self.rig.inside().unwrap();
        let listener = inside.run(|| TcpListener::bind(("::", INSIDE))).unwrap().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().map(|peer| peer.ip().to_canonical().to_string());
                let _ = stream.write_all(peer.unwrap_or_default().as_bytes());
            }
        });
        let socket = inside.run(|| UdpSocket::bind(("::", INSIDE))).unwrap().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer);
            }
        });
    }

    /// Has the kernel carry a port of the host's IPv4 addresses to the service; returns where clients go.
    pub(crate) fn publish(&self, name: &str, protocol: &str, port: u16) -> SocketAddr {
        let keys = [
            format!("listen={protocol}:0.0.0.0:{port}"),
            format!("connect={protocol}:0.0.0.0:{INSIDE}"),
            "nat=true".to_owned(),
        ];
        self.rig.add(name, &keys.each_ref().map(String::as_str)).unwrap();
        self.wait_until_led(name);
        SocketAddr::new(self.hosts[0], port)
    }

    /// Has the host forget whose an address was: it asks anew only after some seconds, and containers of other
    /// tests have had it.
    pub(crate) fn forget_neighbour(&self, address: IpAddr) {
        self.rig.host().network().ip(&format!("neigh flush to {address}")).unwrap();
    }

    /// A device of the container.
    pub(crate) fn device(&self, name: &str) -> Value {
        self.rig.daemon.device(name).unwrap()
    }

    /// Waits until the kernel carries a device.
    pub(crate) fn wait_until_led(&self, name: &str) {
        let led = || {
            let device = self.rig.daemon.device(name).ok()?;
            (device["mode"] == "nat" && device["state"] == "active").then_some(())
        };
        wait_for(&format!("{name} to be carried by the kernel"), led).unwrap();
    }

    /// The same for clients of both families: an IPv6 address comes later.
    pub(crate) fn wait_until_led_everywhere(&self, name: &str) {
        let led = || {
            let device = self.rig.daemon.device(name).ok()?;
            let is_whole = !device["mode_reason"].as_str()?.contains("relayed");
            (device["mode"] == "nat" && device["state"] == "active" && is_whole).then_some(())
        };
        wait_for(&format!("{name} to be carried by the kernel for everybody"), led).unwrap();
    }

    /// Waits until a device has counted so many connections: what is shown may be half a second old.
    pub(crate) fn wait_until_counted(&self, name: &str, total: u64) -> Value {
        let mut last = Value::Null;
        let counted = || {
            last = self.device(name);
            Some(last.clone()).filter(|device| device["connections_total"] == total)
        };
        wait_for(&format!("{total} connections of {name}"), counted)
            .unwrap_or_else(|why| panic!("{why}: {last}"))
    }

    /// What the daemon counts.
    pub(crate) fn metrics(&self) -> String {
        let mut stream = UnixStream::connect(self.rig.daemon.api().socket()).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// The server's own chains for its bridge and for a container, with the handles of their rules where asked
    /// for: a rule that is made anew has another. Those of other tests' containers come and go.
    pub(crate) fn chains_of(&self, container: &str, with_handles: bool) -> String {
        let mut nft = std::process::Command::new("nft");
        nft.arg("--stateless").args(with_handles.then_some("--handle")).args(["list", "ruleset"]);
        let all = self.rig.host().network().run(&mut nft).unwrap();
        let (mut chains, mut present): (Vec<String>, Option<String>) = (Vec::new(), None);
        for line in all.lines() {
            if let Some(name) = line.strip_prefix("\tchain ").and_then(|rest| rest.split(' ').next()) {
                let concerned = name.ends_with(".br0") || name.contains(container);
                present = concerned.then(String::new);
            }
            if let Some(chain) = &mut present {
                chain.push_str(line);
                chain.push('\n');
            }
            if line.starts_with("\t}") {
                chains.extend(present.take());
            }
        }
        chains.sort_unstable();
        chains.concat()
    }

    /// Our tables in the host's namespace, as nft shows them, without what is counted.
    pub(crate) fn tables(&self) -> String {
        let daemon = self.rig.daemon.dir();
        let name = portway_config::Paths::below(&daemon).unwrap().nft_table();
        let mut nft = std::process::Command::new("nft");
        nft.args(["--stateless", "list", "table", "inet", &name]);
        self.rig.host().network().run(&mut nft).unwrap_or_default()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The other end goes with it; the namespace itself may live on in a thread that ends.
        let _ = self.0.ip("link del eth0");
    }
}

/// What the tcp service sees as the source of a connection to `target`.
pub(crate) fn seen_by_tcp(from: &Site, target: SocketAddr) -> Option<IpAddr> {
    let stream = from.run(|| TcpStream::connect_timeout(&target, LIMIT)).unwrap();
    let mut stream = stream.ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.parse().ok()
}

/// What the udp service sees as the source of a datagram to `target`.
pub(crate) fn seen_by_udp(from: &Site, target: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if target.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() };
    let socket = from.run(|| UdpSocket::bind((any, 0))).unwrap().ok()?;
    seen_on(&socket, target)
}

/// The same on a socket that stays. It asks again: datagrams may be lost while something changes.
pub(crate) fn seen_on(socket: &UdpSocket, target: SocketAddr) -> Option<IpAddr> {
    socket.set_read_timeout(Some(SHORT)).ok()?;
    let mut buffer = [0; 64];
    for _ in 0..5 {
        let _ = socket.send_to(b"who", target);
        // An answer of the kernel's, as that nobody is there, is none.
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return std::str::from_utf8(buffer.get(..length)?).ok()?.parse().ok();
        }
    }
    None
}
