//! A machine beside the server's host, on a link of its own.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use portway_testkit::{Bed, Netns, Ports, wait_for};

/// Patience for an answer.
const LIMIT: Duration = Duration::from_secs(5);

/// The machine, and ports of the host that are this test's alone.
pub(crate) struct Outside {
    pub(crate) ports: Ports,
    client: Netns,
    bed: &'static Bed,
    link: String,
    /// The host's address on the link.
    pub(crate) host: Ipv4Addr,
    /// Its own.
    pub(crate) own: Ipv4Addr,
}

impl Outside {
    pub(crate) fn beside(bed: &'static Bed) -> Outside {
        let ports = Ports::claim(bed.netns()).unwrap();
        let client = Netns::new().unwrap();
        // A block of ports is this test's alone, so what is made of its number is too.
        let [high, low] = ports.one().unwrap().to_be_bytes();
        let [host, own] = [1, 2].map(|end| Ipv4Addr::new(198, 19, high, low / 4 * 4 + end));
        let link = format!("out{high}-{low}");
        let netns = bed.netns();
        // A bridge, for the server does not list veth pairs among the interfaces of its host.
        netns.ip(&format!("link add {link} type bridge")).unwrap();
        netns.ip(&format!("addr add {host}/30 dev {link}")).unwrap();
        netns.ip(&format!("link set {link} up")).unwrap();
        let end = format!("veth{high}-{low}");
        netns.veth(&end, &[], &client, "eth0", &[&format!("{own}/30")]).unwrap();
        netns.ip(&format!("link set {end} master {link}")).unwrap();
        client.ip(&format!("route add default via {host}")).unwrap();
        Outside { ports, client, bed, link, host, own }
    }

    /// Gives the host another address.
    pub(crate) fn give(&self, address: Ipv4Addr) {
        self.bed.netns().ip(&format!("addr add {address}/32 dev {}", self.link)).unwrap();
    }

    /// What the web server at an address of the host says to this machine, once it does.
    pub(crate) fn fetch(&self, host: Ipv4Addr, port: u16) -> String {
        let ask = || self.client.enter(|| fetch((host, port).into())).unwrap().ok();
        wait_for("an answer to a machine outside", ask).unwrap()
    }

    /// Connections to a port of the host from this machine, as the kernel tracks them.
    pub(crate) fn tracked(&self, port: u16) -> Vec<String> {
        let read = || std::fs::read_to_string("/proc/thread-self/net/nf_conntrack");
        let all = self.bed.netns().enter(read).unwrap().unwrap();
        let (from, to) = (format!("src={} ", self.own), format!("dport={port} "));
        all.lines().filter(|line| line.contains(&from) && line.contains(&to)).map(str::to_owned).collect()
    }

    /// Whether the kernel has led a connection from this machine to `target`: that is who answers.
    pub(crate) fn is_led(&self, port: u16, target: &str) -> bool {
        let answer = format!("src={target} dst={} ", self.own);
        self.tracked(port).iter().any(|line| line.contains(&answer))
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // The other end goes with it.
        let _ = self.client.ip("link del eth0");
        let _ = self.bed.netns().ip(&format!("link del {}", self.link));
    }
}

/// What a web server says.
pub(crate) fn fetch(address: SocketAddr) -> io::Result<String> {
    let stream = TcpStream::connect_timeout(&address, LIMIT)?;
    ask(stream)
}

/// What the web server at the other end of a connection says.
pub(crate) fn ask(mut stream: TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.contains(" 200 "));
    body.map(|(_, body)| body.trim().to_owned()).ok_or_else(|| io::Error::other("no answer"))
}
