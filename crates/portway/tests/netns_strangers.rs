//! Clients who lie, by the thousand: whom they say to be is believed of nobody but those in `accept_proxy`, and what
//! they say reaches no log as it is, nor fills it.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use portway_testkit::faults::{figure, scale};
use portway_testkit::{Addr, Behaviour, Daemon, DaemonSpec, Load, Netns, Pace, Service, Site, require};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

/// The program under test.
const PORTWAY: &str = env!("CARGO_BIN_EXE_portway");

/// Patience with an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// Who may say whom it speaks for.
const PROXY: &str = "127.0.0.2";

/// A header that says to be somebody.
fn header(source: &str) -> String {
    format!("PROXY TCP4 {source} 192.0.2.1 4321 80\r\n")
}

/// A daemon with a service that echoes, so that a client sees what the service did.
struct Place {
    daemon: Daemon,
    host: Site,
    instance: String,
    _service: Service,
    _netns: Netns,
}

impl Place {
    fn start() -> Option<Place> {
        let (host, netns) = match (Netns::new(), Netns::new()) {
            (Ok(host), Ok(netns)) => (host, netns),
            (one, other) => {
                require(&format!("no namespaces: {:?} {:?}", one.err(), other.err()));
                return None;
            }
        };
        let service =
            Service::start(&Site::netns(&netns), &Addr::tcp("127.0.0.1:7"), Behaviour::Echo).unwrap();
        let place = Place {
            daemon: DaemonSpec::new(PORTWAY).within(&host).start().unwrap(),
            host: Site::netns(&host),
            instance: format!("netns:{}", netns.path().display()),
            _service: service,
            _netns: netns,
        };
        let proxied = ["listen=tcp:127.0.0.1:8000", "connect=tcp:127.0.0.1:7", "proxy_protocol=v1"];
        place.add("front", &[&proxied[..], &["accept_proxy=127.0.0.2", "deny=203.0.113.0/24"]].concat());
        place.add("plain", &["listen=tcp:127.0.0.1:8001", "connect=tcp:127.0.0.1:7", "proxy_protocol=v1"]);
        place.add("load", &["listen=tcp:127.0.0.1:8002", "connect=tcp:127.0.0.1:7"]);
        place.add("nobody", &["listen=tcp:127.0.0.1:8003", "connect=tcp:127.0.0.1:9"]);
        Some(place)
    }

    fn add(&self, name: &str, keys: &[&str]) {
        self.daemon.add(&self.instance, name, keys).unwrap();
    }

    /// A client from an address sends bytes and its end: its own port, and all that comes back.
    fn ask(&self, from: &str, port: u16, bytes: &[u8]) -> (u16, std::io::Result<Vec<u8>>) {
        self.host.run(|| ask(from, port, bytes)).unwrap()
    }
}

fn ask(from: &str, port: u16, bytes: &[u8]) -> (u16, std::io::Result<Vec<u8>>) {
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&fd, &SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
    if let Err(errno) = connect(&fd, &SocketAddr::from(([127, 0, 0, 1], port))) {
        return (0, Err(errno.into()));
    }
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let own = stream.local_addr().map_or(0, |addr| addr.port());
    let mut answer = Vec::new();
    let result = stream
        .write_all(bytes)
        .and_then(|()| stream.shutdown(Shutdown::Write))
        .and_then(|()| stream.read_to_end(&mut answer))
        .map(|_| answer);
    (own, result)
}

/// A header of a stranger, or on a listener that asks for none, is bytes of its client: the service is told the address
/// that the client has, and the list of addresses judges that one. Who may say is believed. All of it under load.
///
/// Fails when: a header is read whoever sends it.
#[test]
fn strangers_are_whom_they_are() {
    let Some(place) = Place::start() else { return };
    let load = Load::new(&Addr::tcp("127.0.0.1:8002"), Pace::PerSecond(200)).start(&place.host).unwrap();
    let rounds = scale(300_u32, 50_000);
    for round in 0..rounds {
        let said = header(["198.51.100.7", "203.0.113.9", PROXY][round as usize % 3]);
        for (from, port) in [("127.0.0.3", 8000), (PROXY, 8001)] {
            let (own, got) = place.ask(from, port, said.as_bytes());
            let expected = format!("PROXY TCP4 {from} 127.0.0.1 {own} {port}\r\n{said}");
            assert_eq!(String::from_utf8(got.unwrap()).unwrap(), expected, "round {round}, {from} at {port}");
        }
        if round % 10 == 0 {
            let (_, believed) = place.ask(PROXY, 8000, header("198.51.100.7").as_bytes());
            let believed = String::from_utf8(believed.unwrap()).unwrap();
            assert!(believed.starts_with("PROXY TCP4 198.51.100.7 "), "{believed}");
            let (_, denied) = place.ask(PROXY, 8000, header("203.0.113.9").as_bytes());
            assert!(denied.is_err(), "{denied:?}");
        }
    }
    let report = load.stop().unwrap();
    assert_eq!(report.failures(), 0, "{report}");
    figure("R35", "headers of strangers", rounds * 2, "headers");
    figure("R35", "headers of strangers that were believed", 0, "headers");
    figure("R35", "connections of others meanwhile, none lost", report.records.len(), "connections");
}

/// What a bad client of the control socket asks for: escapes, new lines, half a request.
const REQUESTS: [&[u8]; 5] = [
    b"GET /1.0/devices/\x1b[2J%1b%5b2J%0aerror HTTP/1.1\r\n\r\n",
    b"\x1b]0;title\x07 /1.0 HTTP/1.1\r\nHost: \x1b[31m\r\n\r\n",
    b"POST /1.0/devices HTTP/1.1\r\nHost: x\r\nContent-Length: 60\r\n\r\n{\"instance\":\"netns:\\u001b[2J\\n\",\"name\":\"\\u001b[2J\",\"keys\":{}}",
    b"GET /1.0/de",
    b"\xff\xfe\x00",
];

/// Bad clients of devices and of the control socket write few lines, whatever their number, and none with a byte that a
/// terminal would obey.
///
/// Fails when: a refused client is a line of the log, or a text from outside is printed as it came.
#[test]
fn bad_clients_say_little_in_the_log() {
    let Some(place) = Place::start() else { return };
    let before = place.daemon.log().lines().count();
    let begin = Instant::now();
    let rounds = scale(600_usize, 20_000);
    for round in 0..rounds {
        // No header, one that ends early, one that is too long, a denied one, and a target where nobody is.
        let (long, denied) = (format!("PROXY {}\r\n", "\u{1b}[2J".repeat(40)), header("203.0.113.9"));
        let said = ["\u{1b}[2J\r\n", "PROXY TCP4 1.2.3.4", &long, &denied][round % 4];
        // A header that ends early may be an end or a reset; nothing comes of it.
        let (_, got) = place.ask(PROXY, 8000, said.as_bytes());
        assert!(got.as_ref().map_or(true, Vec::is_empty), "{got:?}");
        place.ask(PROXY, 8003, b"hello").1.unwrap_err();
        let mut stream = UnixStream::connect(place.daemon.dir().join("portway.sock")).unwrap();
        let _ = stream.write_all(REQUESTS[round % REQUESTS.len()]);
    }
    let seconds = usize::try_from(begin.elapsed().as_secs()).unwrap() + 1;
    let log = place.daemon.log();
    let lines = log.lines().count() - before;
    assert!(lines <= 100 * seconds && lines <= rounds / 10, "{lines} lines in {seconds} s");
    let raw = log.lines().find(|line| line.chars().any(|one| one.is_control() && one != '\t'));
    assert_eq!(raw, None);
    // It has seen them all, and shows none of it as it came.
    let front = place.daemon.device("front").unwrap();
    assert!(front["bad_headers"].as_u64() >= Some(rounds as u64 / 2), "{front}");
    let shown = place.daemon.devices().unwrap();
    assert!(!shown.iter().any(|device| device.to_string().contains("\\u001b")), "{shown:?}");
    figure("R47", "bad clients", rounds * 3, "clients");
    figure("R47", "lines in the log because of them", lines, "lines");
    figure("R47", "bytes in the log that a terminal would obey", 0, "bytes");
}
