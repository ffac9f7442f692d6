//! Connections from the client into the instance: `-L`, `-D`, `-W`, as OpenSSH's client makes them.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use portway_sys::sockopt;
use portway_testkit::{Ports, Server, wait_for};
use serde_json::Value;

use crate::scene::Scene;

/// A client that forwards, and runs nothing; ended on drop.
pub(crate) struct Client(pub(crate) Child);

impl Client {
    pub(crate) fn start(scene: &Scene, login: &str, options: &[&str]) -> Self {
        Self::start_with(scene, "key", login, options)
    }

    fn start_with(scene: &Scene, key: &str, login: &str, options: &[&str]) -> Self {
        let mut client = scene.client_with(key, &["-N", "-o", "ExitOnForwardFailure=yes"]);
        client.args(options).arg(Scene::at(login)).stdin(Stdio::null()).stderr(Stdio::piped());
        Self(scene.bed.netns().spawn(&mut client).unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Connects where the client listens, once it does.
pub(crate) fn connect(scene: &Scene, port: u16) -> TcpStream {
    let stream = wait_for("the client's port", || dial(scene, port).ok()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

fn dial(scene: &Scene, port: u16) -> io::Result<TcpStream> {
    scene.bed.netns().enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port))).unwrap()
}

/// Listens in the container.
pub(crate) fn listen(scene: &Scene, address: impl Into<IpAddr>, port: u16) -> TcpListener {
    let address = SocketAddr::new(address.into(), port);
    scene.container.netns().unwrap().enter(|| TcpListener::bind(address)).unwrap().unwrap()
}

/// Sends back to everybody what they send, after a word of its own.
pub(crate) fn echo(listener: TcpListener, word: &'static [u8]) {
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            thread::spawn(move || {
                stream.write_all(word)?;
                io::copy(&mut stream.try_clone()?, &mut stream)?;
                stream.shutdown(Shutdown::Write)
            });
        }
    });
}

/// What comes back of these bytes.
pub(crate) fn answer(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut sender = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(bytes).unwrap();
            sender.shutdown(Shutdown::Write).unwrap();
        });
        let mut said = Vec::new();
        stream.read_to_end(&mut said).unwrap();
        said
    })
}

/// Bytes that no other number has.
pub(crate) fn pattern(number: u32, length: u32) -> Vec<u8> {
    let mix =
        |at: u32| at.wrapping_mul(2_654_435_761).wrapping_add(number.wrapping_mul(40_503)).to_be_bytes()[0];
    (0..length).map(mix).collect()
}

/// A connection on a client's own input and output.
fn through(scene: &Scene, key: &str, login: &str, place: &str, input: &[u8]) -> Output {
    scene.talk(scene.client_with(key, &["-v", "-W", place]).arg(Scene::at(login)), input).unwrap()
}

/// What a client says of a connection that it did not get.
fn refused(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.contains("open failed"));
    assert_eq!(output.status.code(), Some(255), "{said}");
    line.unwrap_or_default().trim().to_owned()
}

/// Lines of the audit log about forwards.
fn forwarded(scene: &Scene) -> Vec<Value> {
    scene.audit().unwrap().into_iter().filter(|line| line["event"] == "forwarded").collect()
}

/// Waits for a line about a forward.
fn noted(scene: &Scene, of: impl Fn(&Value) -> bool) -> Value {
    wait_for("a line of the audit log", || forwarded(scene).into_iter().find(|line| of(line))).unwrap()
}

/// Fails when a place that the instance knows is not reached, by name, address or as itself, bytes of one forward go
/// to another, or it is not in the log.
#[test]
fn places_are_those_of_the_instance() {
    let Some(scene) = Scene::start(Server::Incus6, "places").unwrap() else { return };
    let name = scene.container.name();
    scene.container.sh("echo '127.0.0.7 shelf.internal shelf' >>/etc/hosts").unwrap();
    let own = scene.container.address(false).unwrap();
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"4");
    echo(listen(&scene, Ipv6Addr::LOCALHOST, 4002), b"6");
    echo(listen(&scene, [127, 0, 0, 7], 4003), b"h");
    echo(listen(&scene, own, 4004), b"o");
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let places = [
        ("127.0.0.1:4001", "4"),
        ("localhost:4001", "4"),
        ("[::1]:4002", "6"),
        ("localhost:4002", "6"),
        ("shelf:4003", "h"),
        ("SHELF.internal:4003", "h"),
        (":4001", "4"),
        (":4002", "6"),
        (":4004", "o"),
    ];
    let inside = scene.container.sh("hostname").unwrap();
    let itself = format!("{}:4004", inside.trim());
    let forwards: Vec<(u16, &str, &str)> = places
        .into_iter()
        .chain([(itself.as_str(), "o")])
        .map(|(place, word)| (ports.one().unwrap(), place, word))
        .collect();
    let options: Vec<String> =
        forwards.iter().flat_map(|(port, place, _)| ["-L".to_owned(), format!("{port}:{place}")]).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let _client = Client::start(&scene, name, &options);
    for (port, place, word) in &forwards {
        let said = answer(connect(&scene, *port), b" is there");
        assert_eq!(String::from_utf8_lossy(&said), format!("{word} is there"), "{place}: {}", scene.log());
    }
    let line = noted(&scene, |line| line["target"] == "shelf:4003");
    assert_eq!(
        (&line["peer"], &line["bytes_in"], &line["bytes_out"], &line["end"], &line["way"]),
        (&"127.0.0.7:4003".into(), &9.into(), &10.into(), &"closed".into(), &"local".into())
    );
    // Fifty at once, each with bytes of its own, as bob.
    let port = ports.one().unwrap();
    let _bob = Client::start(&scene, &format!("bob@{name}"), &["-L", &format!("{port}:127.0.0.1:4001")]);
    drop(connect(&scene, port));
    thread::scope(|scope| {
        for number in 0..50 {
            let scene = &scene;
            scope.spawn(move || {
                let bytes = pattern(number, 300_000);
                let said = answer(connect(scene, port), &bytes);
                assert!(said[1..] == bytes, "{number}: {} of {} bytes", said.len() - 1, bytes.len());
            });
        }
    });
}

/// Names go to the instance, as do addresses of either kind; a port that is closed is an answer of SOCKS at once.
#[test]
fn a_browser_goes_through_socks() {
    let Some(scene) = Scene::start(Server::Incus7, "socks").unwrap() else { return };
    scene.container.sh("echo '127.0.0.9 shop' >>/etc/hosts").unwrap();
    echo(listen(&scene, [127, 0, 0, 9], 4001), b"h");
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"4");
    echo(listen(&scene, Ipv6Addr::LOCALHOST, 4001), b"6");
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let _client = Client::start(&scene, scene.container.name(), &["-D", &format!("127.0.0.1:{port}")]);
    let name = [&b"\x03\x04shop"[..]].concat();
    let v4 = [&b"\x01"[..], &[127, 0, 0, 1]].concat();
    let v6 = [&b"\x04"[..], &Ipv6Addr::LOCALHOST.octets()].concat();
    for (address, to, word) in [(&name, 4001_u16, "h"), (&v4, 4001, "4"), (&v6, 4001, "6")] {
        let mut stream = connect(&scene, port);
        stream.write_all(&[5, 1, 0]).unwrap();
        let mut said = [0; 2];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(&[&[5, 1, 0], &address[..], &to.to_be_bytes()].concat()).unwrap();
        let mut head = [0; 10];
        stream.read_exact(&mut head).unwrap();
        assert_eq!((said, head[1]), ([5, 0], 0), "{word}");
        assert_eq!(String::from_utf8_lossy(&answer(stream, b"!")), format!("{word}!"), "{}", scene.log());
    }
}

/// Fails when a connection that cannot be is confirmed first, or the reason is another.
#[test]
fn what_cannot_be_reached_is_said_before() {
    let Some(scene) = Scene::start(Server::Incus6, "closed").unwrap() else { return };
    let name = scene.container.name();
    let of = |place: &str| refused(&through(&scene, "key", name, place, b""));
    let begin = Instant::now();
    let said = of("127.0.0.1:4001");
    assert!(said.contains("connect failed: cannot connect to 127.0.0.1:4001: Connection refused"), "{said}");
    let said = of("no-such-name.invalid:80");
    assert!(
        said.contains("connect failed: cannot connect to no-such-name.invalid:80: the name has no"),
        "{said}"
    );
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    let line = noted(&scene, |line| line["target"] == "127.0.0.1:4001");
    assert_eq!((&line["end"], &line["bytes_in"]), (&"refused".into(), &0.into()));
    assert!(line["reason"].as_str().unwrap().contains("refused"), "{line}");
}

/// A jump: OpenSSH's client goes on through the instance to another gateway's port, here the same one's.
#[test]
fn standard_input_is_a_connection() {
    let Some(scene) = Scene::start(Server::Incus6, "dash-w").unwrap() else { return };
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"");
    let bytes = pattern(7, 3_000_000);
    let output = through(&scene, "key", scene.container.name(), "localhost:4001", &bytes);
    assert!(output.stdout == bytes, "{} bytes, {}", output.stdout.len(), scene.log());
}

/// Fails when a unix socket is led to by another than the instance's user.
#[test]
fn unix_sockets_are_the_users() {
    let Some(scene) = Scene::start(Server::Incus6, "unix").unwrap() else { return };
    let name = scene.container.name();
    let folder = fs::File::open(format!("/proc/{}/root/tmp", scene.container.pid().unwrap())).unwrap();
    let owner = fs::metadata(format!("/proc/{}/root/root", scene.container.pid().unwrap())).unwrap().uid();
    thread::spawn(move || {
        // What makes a file there is a user of the container's.
        setfsgid(Gid::from_raw(owner));
        setfsuid(Uid::from_raw(owner));
        let path = format!("/proc/self/fd/{}/s", folder.as_raw_fd());
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut said = Vec::new();
            stream.read_to_end(&mut said).unwrap();
            stream.write_all(&said).unwrap();
        }
    });
    wait_for("the socket", || scene.container.sh("test -S /tmp/s").ok()).unwrap();
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let (root, bob) = (ports.one().unwrap(), ports.one().unwrap());
    let _root = Client::start(&scene, name, &["-L", &format!("{root}:/tmp/s")]);
    assert_eq!(answer(connect(&scene, root), b"hello"), b"hello", "{}", scene.log());
    let _bob = Client::start(&scene, &format!("bob@{name}"), &["-L", &format!("{bob}:/tmp/s")]);
    assert_eq!(answer(connect(&scene, bob), b""), b"");
    let line = noted(&scene, |line| line["end"] == "refused");
    let reason = line["reason"].as_str().unwrap();
    assert!(reason.contains("Permission denied") && line["instance_user"] == "bob", "{line}");
}

/// Fails when the end of one way ends the other, or a reset is an end as any other, in either direction.
#[test]
fn each_way_ends_for_itself_and_a_reset_is_one() {
    let Some(scene) = Scene::start(Server::Incus6, "ends").unwrap() else { return };
    let listener = listen(&scene, Ipv4Addr::LOCALHOST, 4001);
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let client = Client::start(&scene, scene.container.name(), &["-L", &format!("{port}:127.0.0.1:4001")]);
    let pair = || {
        let outside = connect(&scene, port);
        let (inside, _) = listener.accept().unwrap();
        inside.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        (outside, inside)
    };
    // The client's side ends first, and is answered after that.
    let (mut outside, mut inside) = pair();
    outside.write_all(b"question").unwrap();
    outside.shutdown(Shutdown::Write).unwrap();
    let mut said = String::new();
    inside.read_to_string(&mut said).unwrap();
    inside.write_all(&pattern(1, 200_000)).unwrap();
    drop(inside);
    let mut answer = Vec::new();
    outside.read_to_end(&mut answer).unwrap();
    assert!(said == "question" && answer == pattern(1, 200_000));
    // The service's side ends first, and is told something after that.
    let (mut outside, mut inside) = pair();
    inside.shutdown(Shutdown::Write).unwrap();
    assert_eq!(outside.read(&mut [0; 8]).unwrap(), 0);
    outside.write_all(b"late").unwrap();
    let mut late = [0; 4];
    inside.read_exact(&mut late).unwrap();
    assert_eq!(&late, b"late");
    drop((outside, inside));
    // A reset from inside: what was said before it arrives, and it is noted as what it is.
    let (mut outside, mut inside) = pair();
    inside.write_all(b"last words").unwrap();
    let mut words = [0; 10];
    outside.read_exact(&mut words).unwrap();
    sockopt::linger_reset(inside.as_fd()).unwrap();
    drop(inside);
    assert_eq!((&words, outside.read(&mut [0; 8]).unwrap_or(0)), (b"last words", 0));
    let line = noted(&scene, |line| line["end"] == "reset");
    assert_eq!(line["bytes_out"], 10);
    // A client that is gone in the middle: what it sent arrives, and after that no end but a reset.
    let (mut outside, mut inside) = pair();
    outside.write_all(b"half").unwrap();
    let mut half = [0; 4];
    inside.read_exact(&mut half).unwrap();
    drop(client);
    let end = inside.read(&mut [0; 8]).map_err(|error| error.kind());
    assert_eq!((&half, end), (b"half", Err(io::ErrorKind::ConnectionReset)));
}

/// Fails when a key or the policy is asked by the session alone, or names of either are looked up.
#[test]
fn keys_and_policy_say_where_to() {
    let Some(scene) = Scene::start(Server::Incus6, "permits").unwrap() else { return };
    let name = scene.container.name();
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"4");
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4002), b"4");
    let goes = |key: &str, place: &str| {
        let output = through(&scene, key, name, place, b"!");
        if output.stdout == b"4!" { "goes".to_owned() } else { refused(&output) }
    };
    let options = |options: &str| {
        let key = |name: &str| fs::read_to_string(scene.path(&format!("{name}.pub"))).unwrap();
        let lines = format!("{}{options} {}", key("key"), key("other"));
        fs::write(scene.path("home/.ssh/authorized_keys"), lines).unwrap();
    };
    const NOT_ALLOWED: &str = "administratively prohibited";
    options("permitopen=\"127.0.0.1:4001\",permitopen=\"[::1]:*\"");
    assert_eq!(goes("other", "127.0.0.1:4001"), "goes");
    for place in ["127.0.0.1:4002", "localhost:4001", ":4001"] {
        let said = goes("other", place);
        assert!(said.contains(NOT_ALLOWED), "{place}: {said}");
    }
    let closed = goes("other", "[::1]:4001");
    assert!(closed.contains("Connection refused"), "{closed}");
    for option in ["restrict", "no-port-forwarding", "restrict,permitopen=\"127.0.0.1:4001\""] {
        options(option);
        let said = goes("other", "127.0.0.1:4001");
        assert!(said.contains(NOT_ALLOWED), "{option}: {said}");
    }
    options("restrict,port-forwarding,command=\"echo forced\"");
    assert_eq!(goes("other", "127.0.0.1:4001"), "goes", "a command forbids no forward");
    let rule = |allow: &str| {
        let text = format!("[[rule]]\nusers = [\"root\"]\nallow = [{allow}]\n");
        let path = scene.path("p/ssh-policy.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    };
    rule("\"shell\", \"exec\", \"sftp\", \"forward-remote\"");
    let said = goes("key", "127.0.0.1:4001");
    assert!(said.contains(NOT_ALLOWED), "{said}");
    rule("\"forward-local\"");
    assert_eq!(goes("key", "127.0.0.1:4001"), "goes");
}

/// Fails when a forward passes the gateway's process, or outlives the instance.
#[test]
fn forwards_outlive_the_gateway_and_not_the_instance() {
    let Some(mut scene) = Scene::start(Server::Incus6, "lives").unwrap() else { return };
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"");
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let _client = Client::start(&scene, scene.container.name(), &["-L", &format!("{port}:127.0.0.1:4001")]);
    let mut stream = connect(&scene, port);
    let bytes = pattern(3, 8_000_000);
    let mut sender = stream.try_clone().unwrap();
    let sent = bytes.clone();
    let sending = thread::spawn(move || sender.write_all(&sent).unwrap());
    let mut said = vec![0; bytes.len()];
    let (begun, rest) = said.split_at_mut(1_000_000);
    stream.read_exact(begun).unwrap();
    scene.stop(Signal::SIGKILL).unwrap();
    let (alone, rest) = rest.split_at_mut(3_000_000);
    stream.read_exact(alone).unwrap();
    scene.launch().unwrap();
    stream.read_exact(rest).unwrap();
    sending.join().unwrap();
    assert!(said == bytes);
    // A new one over the same connection, asked of nobody else.
    assert_eq!(answer(connect(&scene, port), b"another"), b"another", "{}", scene.log());
    scene.container.kill().unwrap();
    let end = stream.read(&mut [0; 8]);
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    noted(&scene, |line| line["end"] == "reset" && line["bytes_in"] == 8_000_000);
}
