//! How long SSH takes through the gateway, beside OpenSSH's own server in the same container, and what a flood of
//! connections does to those who are in. `cargo xtask figures` runs all of it, continuous integration the flood in
//! short, where no clock is looked at.

#![expect(clippy::print_stdout, reason = "a measurement shows its figures")]

#[expect(dead_code, reason = "each test binary uses its part")]
#[path = "incus_ssh/scene.rs"]
mod scene;
#[expect(dead_code, clippy::unwrap_used, reason = "each test binary uses its part; a helper fails its test")]
#[path = "incus_ssh/tty.rs"]
mod tty;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use portway_testkit::{ContainerSpec, Image, Ports, Server, process, wait_for};
use std::os::fd::AsRawFd as _;

use scene::Scene;

/// Rounds of a comparison: in each, one measurement of either server.
const ROUNDS: usize = 9;

/// Length of the file that is copied, bytes.
const FILE_BYTES: usize = 200_000_000;

/// Keystrokes of one measurement.
const KEYS: usize = 500;

/// Floods whose keystrokes are put together.
const FLOODS: u8 = 5;

/// A server that takes clients more slowly gets fewer of them.
const FLOOD_LIMIT: Duration = Duration::from_secs(3);

/// The kind of key exchange both servers know.
const EXCHANGE: &str = "KexAlgorithms=curve25519-sha256";

/// One of the two servers, as OpenSSH's client is told of it.
struct Peer<'a> {
    scene: &'a Scene,
    name: &'static str,
    words: Vec<String>,
}

impl Peer<'_> {
    /// Runs one of OpenSSH's programs to its good end; how long that took.
    fn time(&self, program: &str, options: &[&str], last: &[&str], input: &[u8]) -> Result<Duration> {
        let mut command = Command::new(program);
        command.args(&self.words[..self.words.len() - 1]).args(["-o", EXCHANGE]).args(options);
        command.arg(self.words.last().context("where to")?).args(last);
        let begin = Instant::now();
        let output = self.scene.talk(&mut command, input)?;
        let took = begin.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {}: {said} {}", self.name, output.status, self.scene.log());
        Ok(took)
    }
}

/// The gateway, and an `sshd` of the container's own with the same key.
fn peers(scene: &Scene) -> Result<[Peer<'_>; 2]> {
    let key = fs::read_to_string(scene.path("key.pub"))?;
    let script = format!(
        "mkdir -p -m 700 /root/.ssh /run/sshd; echo '{}' >/root/.ssh/authorized_keys; chmod 600 /root/.ssh/authorized_keys; \
         test -f /etc/ssh/ssh_host_ed25519_key || ssh-keygen -A >/dev/null; /usr/sbin/sshd",
        key.trim()
    );
    scene.container.sh(&script)?;
    let address = scene.container.address(false)?;
    let words = |port: u16, at: String| {
        let port = format!("Port={port}");
        let mut words = scene.options("key");
        words.extend(["-o".to_owned(), port, at]);
        words
    };
    Ok([
        Peer { scene, name: "gateway", words: words(scene.port, Scene::at(scene.container.name())) },
        Peer { scene, name: "sshd", words: words(22, format!("root@{address}")) },
    ])
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Measures both in turn, and prints the medians.
fn compare(
    peers: &[Peer<'_>; 2],
    what: &str,
    mut measure: impl FnMut(&Peer<'_>) -> Result<Duration>,
) -> Result<()> {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (peer, times) in peers.iter().zip(&mut times) {
            let took = measure(peer).with_context(|| format!("{what} of {}", peer.name))?;
            // The first round fills caches.
            if round > 0 {
                times.push(took);
            }
        }
    }
    let [ours, theirs] = times.map(median);
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!(
        "{what}: gateway {:.1} ms, sshd {:.1} ms, ratio {ratio:.2}",
        ours.as_secs_f64() * 1e3,
        theirs.as_secs_f64() * 1e3
    );
    Ok(())
}

/// Prints how long it takes until a shell's prompt is to be seen: of a login, of the first of a session that stays, and of a
/// later one, which is shown what is there.
#[test]
#[ignore = "measures times; cargo xtask figures"]
fn to_a_session_that_stays() -> Result<()> {
    let Some(scene) = Scene::start(Server::Incus6, "attach")? else { return Ok(()) };
    let name = scene.container.name();
    let until_seen = |login: &str| {
        let begin = Instant::now();
        let mut tty = tty::Tty::open(&scene, login, 80, 24);
        tty.shows("~ $");
        (begin.elapsed(), tty)
    };
    let (mut plain, mut first, mut later) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let (took, tty) = until_seen(&format!("bob@{name}"));
        tty.kill();
        let login = format!("keep=r{round},bob@{name}");
        let (began, tty) = until_seen(&login);
        tty.kill();
        let (came, mut tty) = until_seen(&login);
        tty.keys("exit\r");
        tty.end();
        if round > 0 {
            plain.push(took);
            first.push(began);
            later.push(came);
        }
    }
    let [plain, first, later] = [plain, first, later].map(|times| median(times).as_secs_f64() * 1e3);
    println!(
        "to a prompt: login {plain:.1} ms, first of a session that stays {first:.1} ms, later {later:.1} ms"
    );
    Ok(())
}

/// Prints how long things take beside OpenSSH's server.
#[test]
#[ignore = "measures times; cargo xtask figures"]
fn beside_sshd() -> Result<()> {
    let spec = ContainerSpec { image: Image::Debian, ..ContainerSpec::default() };
    let Some(scene) = Scene::start_with(Server::Incus6, "beside", &spec)? else { return Ok(()) };
    let peers = peers(&scene)?;
    compare(&peers, "ssh … true", |peer| peer.time("ssh", &[], &["true"], b""))?;
    let mut masters = Vec::new();
    for peer in &peers {
        let path = format!("ControlPath={}", scene.path(peer.name).display());
        peer.time(
            "ssh",
            &["-o", "ControlMaster=yes", "-o", "ControlPersist=60", "-o", &path],
            &["true"],
            b"",
        )?;
        masters.push(path);
    }
    compare(&peers, "one more command of a connection", |peer| {
        let path = masters.iter().find(|path| path.ends_with(peer.name)).context("a master")?;
        peer.time("ssh", &["-o", path], &["true"], b"")
    })?;
    scene.container.sh(&format!("head -c {FILE_BYTES} /dev/urandom >/root/file"))?;
    compare(&peers, "200 MB out by a command", |peer| peer.time("ssh", &[], &["cat /root/file"], b""))?;
    let data = vec![7; FILE_BYTES];
    compare(&peers, "200 MB in by a command", |peer| peer.time("ssh", &[], &["cat >/root/in"], &data))?;
    let local = scene.path("copy").display().to_string();
    compare(&peers, "200 MB out by sftp", |peer| {
        peer.time("sftp", &["-q", "-b", "-"], &[], format!("get /root/file {local}\n").as_bytes())
    })?;
    compare(&peers, "200 MB in by sftp", |peer| {
        peer.time("sftp", &["-q", "-b", "-"], &[], format!("put {local} /root/in\n").as_bytes())
    })
}

/// Prints how long 200 MB take each way through `-L`, beside OpenSSH's server.
#[test]
#[ignore = "measures times; cargo xtask figures"]
fn forwards_beside_sshd() -> Result<()> {
    let spec = ContainerSpec { image: Image::Debian, ..ContainerSpec::default() };
    let Some(scene) = Scene::start_with(Server::Incus6, "tubes", &spec)? else { return Ok(()) };
    let peers = peers(&scene)?;
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 4001));
    serve(scene.container.netns()?.enter(bind)??);
    let ports = Ports::claim(scene.bed.netns())?;
    let mut clients = Vec::new();
    for peer in &peers {
        let port = ports.one()?;
        let mut command = Command::new("ssh");
        let (to, options) = peer.words.split_last().context("where to?")?;
        command.args(options).args(["-o", EXCHANGE, "-N", "-L", &format!("{port}:127.0.0.1:4001"), to]);
        clients.push((peer.name, port, scene.bed.netns().spawn(command.stdin(Stdio::null()))?));
    }
    let connect = |peer: &Peer<'_>| {
        let port = clients.iter().find(|client| client.0 == peer.name).map(|client| client.1);
        let dial = || TcpStream::connect((Ipv4Addr::LOCALHOST, port.unwrap_or_default()));
        wait_for("the client's port", || scene.bed.netns().enter(dial).ok()?.ok())
    };
    let data = vec![7; FILE_BYTES];
    let mut place = Vec::with_capacity(FILE_BYTES);
    for (what, is_out) in [("200 MB out by -L", true), ("200 MB in by -L", false)] {
        compare(&peers, what, |peer| {
            let mut stream = connect(peer)?;
            let begin = Instant::now();
            if is_out {
                stream.write_all(b"o")?;
                place.clear();
                stream.read_to_end(&mut place)?;
                ensure!(place.len() == FILE_BYTES, "{} bytes", place.len());
            } else {
                stream.write_all(b"i")?;
                stream.write_all(&data)?;
                stream.shutdown(Shutdown::Write)?;
                stream.read_exact(&mut [0])?;
            }
            Ok(begin.elapsed())
        })?;
    }
    for (_, _, mut client) in clients {
        client.kill()?;
        client.wait()?;
    }
    Ok(())
}

/// Prints what an agent adds to a login.
#[test]
#[ignore = "measures times; cargo xtask figures"]
fn a_login_with_an_agent() -> Result<()> {
    let Some(scene) = Scene::start(Server::Incus6, "lends")? else { return Ok(()) };
    let socket = scene.path("agent");
    let mut agent = Command::new("ssh-agent");
    let mut agent = agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn()?;
    wait_for("the agent", || socket.exists().then_some(()))?;
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..=ROUNDS {
        for (option, times) in ["-a", "-A"].iter().zip(&mut times) {
            let mut command = Command::new("ssh");
            // Who uses no agent himself lends none.
            let own = scene.options("key").into_iter();
            command.args(own.map(|word| word.replace("IdentityAgent=none", "IdentityAgent=SSH_AUTH_SOCK")));
            let bob = Scene::at(&format!("bob@{}", scene.container.name()));
            command.args([option, "-p", &scene.port.to_string(), &bob, "echo =$SSH_AUTH_SOCK"]);
            let begin = Instant::now();
            let output = scene.talk(command.env("SSH_AUTH_SOCK", &socket), b"")?;
            let took = begin.elapsed();
            let is_lent = output.stdout.starts_with(b"=/tmp/ssh-");
            ensure!(output.status.success() && is_lent == (*option == "-A"), "{option}: {}", scene.log());
            // The first round fills caches.
            if round > 0 {
                times.push(took);
            }
        }
    }
    agent.kill()?;
    agent.wait()?;
    let [plain, lent] = times.map(median);
    println!(
        "a login: {:.1} ms, with an agent {:.1} ms",
        plain.as_secs_f64() * 1e3,
        lent.as_secs_f64() * 1e3
    );
    Ok(())
}

/// Sends much to whoever says `o`, and reads all that whoever says `i` sends.
fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        let data = vec![9; FILE_BYTES];
        for mut stream in listener.incoming().flatten() {
            let mut word = [0];
            // One that goes again measures nothing.
            let _gone = stream.read_exact(&mut word).and_then(|()| match &word {
                b"o" => stream.write_all(&data),
                _ => std::io::copy(&mut stream, &mut std::io::sink()).and_then(|_| stream.write_all(b".")),
            });
        }
    });
}

/// Somebody who types in a terminal, and sees it.
struct Typist {
    client: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Typist {
    fn start(scene: &Scene) -> Result<Self> {
        let mut client = scene.client(&["-tt", "-b", "127.0.0.1"]);
        client.arg(Scene::at(scene.container.name()));
        Self::begin(scene, client)
    }

    /// One with an account at either server.
    fn at(peer: &Peer<'_>) -> Result<Self> {
        let mut client = Command::new("ssh");
        let (to, options) = peer.words.split_last().context("where to?")?;
        client.args(options).args(["-tt", to]);
        Self::begin(peer.scene, client)
    }

    fn begin(scene: &Scene, mut client: Command) -> Result<Self> {
        client.arg("stty raw -echo; echo ready; exec cat");
        let mut client = scene.bed.netns().spawn(client.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let input = client.stdin.take().context("its input")?;
        let mut output = client.stdout.take().context("its output")?;
        let mut line = Vec::new();
        while !line.ends_with(b"ready\n") && !line.ends_with(b"ready\r\n") {
            let mut byte = [0];
            output.read_exact(&mut byte).with_context(|| scene.log())?;
            line.push(byte[0]);
        }
        Ok(Self { client, input, output })
    }

    /// Types so many keys, one every few milliseconds; how long each took to be seen, the shortest first.
    fn types(&mut self, keys: usize) -> Result<Vec<Duration>> {
        let mut times = Vec::new();
        for _ in 0..keys {
            let begin = Instant::now();
            self.input.write_all(b"k")?;
            self.input.flush()?;
            self.output.read_exact(&mut [0])?;
            times.push(begin.elapsed());
            std::thread::sleep(Duration::from_millis(5));
        }
        times.sort();
        Ok(times)
    }

    fn end(mut self) -> Result<()> {
        drop((self.input, self.output));
        self.client.kill()?;
        self.client.wait()?;
        Ok(())
    }
}

/// Opens `count` connections that say nothing, from `sources` addresses in turn, as fast as they are taken; they end
/// with the value.
fn flood(port: u16, count: u32, sources: u32) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for number in 0..count {
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + number % sources);
        held.push(knock(SocketAddrV4::new(source, 0), SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?);
    }
    Ok(held)
}

/// A connection that says nothing.
fn knock(from: SocketAddrV4, to: SocketAddrV4) -> Result<TcpStream> {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(from))?;
    connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    Ok(TcpStream::from(socket))
}

/// What somebody who types at either server notices of 5,000 connections from one source, several times over: the gateway
/// and OpenSSH's server beside each other, for all of them share this machine's processors with those who knock. They do
/// so at the lowest priority: elsewhere they would be other machines.
fn typed_beside_floods(peers: &[Peer<'_>; 2]) -> Result<()> {
    let IpAddr::V4(address) = peers[1].scene.container.address(false)? else { bail!("no IPv4 address") };
    let doors = [SocketAddrV4::new(Ipv4Addr::LOCALHOST, peers[0].scene.port), SocketAddrV4::new(address, 22)];
    let netns = peers[0].scene.bed.netns();
    let mut typists = [Typist::at(&peers[0])?, Typist::at(&peers[1])?];
    let mut times: [[Vec<Duration>; 2]; 2] = Default::default();
    for round in 0..FLOODS {
        for (which, typist) in typists.iter_mut().enumerate() {
            times[which][0].extend(typist.types(KEYS / 2)?);
            // A source that is turned away already is another flood.
            let from = if which == 0 { Ipv4Addr::new(127, 2, round, 1) } else { Ipv4Addr::UNSPECIFIED };
            let to = doors[which];
            let under = std::thread::scope(|scope| {
                let knocking = scope.spawn(move || {
                    netns.enter(|| {
                        rustix::process::nice(19)?;
                        let begin = Instant::now();
                        let mut held = Vec::new();
                        while held.len() < 5000 && begin.elapsed() < FLOOD_LIMIT {
                            // One that is not taken in time is one less.
                            held.extend(knock(SocketAddrV4::new(from, 0), to).ok());
                        }
                        anyhow::Ok((held, begin.elapsed()))
                    })
                });
                let mut under = Vec::new();
                while !knocking.is_finished() || under.len() < KEYS / 2 {
                    under.extend(typist.types(25)?);
                }
                let (held, took) = knocking.join().map_err(|_| anyhow::anyhow!("the flood"))???;
                println!("  {}: {} connections in {took:.2?}", peers[which].name, held.len());
                anyhow::Ok(under)
            })?;
            times[which][1].extend(under);
        }
    }
    for (peer, [mut idle, mut under]) in peers.iter().zip(times) {
        idle.sort();
        under.sort();
        let ms = |times: &[Duration], part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
        println!(
            "keystroke at {}: idle p50 {:.2} ms p99 {:.2} ms, beside 5,000 from one source p50 {:.2} ms p99 {:.2} ms, \
             ratio of p99 {:.2}",
            peer.name,
            ms(&idle, 50),
            ms(&idle, 99),
            ms(&under, 50),
            ms(&under, 99),
            ms(&under, 99) / ms(&idle, 99)
        );
    }
    typists.into_iter().try_for_each(Typist::end)
}

/// What somebody who is in, and somebody who comes in, notices of a flood.
fn under_a_flood(count: u32, sources: u32, keys: usize) -> Result<()> {
    process::raise_nofile()?;
    let Some(scene) = Scene::start(Server::Incus6, "flooded")? else { return Ok(()) };
    let mut typist = Typist::start(&scene)?;
    let idle = typist.types(keys)?;
    let port = scene.port;
    let (under, login) = std::thread::scope(|scope| {
        let netns = scene.bed.netns();
        let flood = scope.spawn(move || netns.enter(|| flood(port, count, sources)));
        let begin = Instant::now();
        let login = scene.talk(
            scene.client(&["-b", "127.0.0.2"]).args([&Scene::at(scene.container.name()), "echo in"]),
            b"",
        );
        let took = begin.elapsed();
        let mut under = Vec::new();
        while !flood.is_finished() || under.len() < keys {
            under.extend(typist.types(keys.min(50))?);
        }
        let held = flood.join().map_err(|_| anyhow::anyhow!("the flood"))???;
        let login = login?;
        ensure!(
            login.stdout == b"in\n",
            "no login: {} {}",
            String::from_utf8_lossy(&login.stderr),
            scene.log()
        );
        println!("{} connections from {sources} sources", held.len());
        under.sort();
        anyhow::Ok((under, took))
    })?;
    typist.end()?;
    let ms = |times: &[Duration], part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
    println!(
        "  keystroke idle p50 {:.2} ms p99 {:.2} ms, under the flood p50 {:.2} ms p99 {:.2} ms; a login {:.2} s",
        ms(&idle, 50),
        ms(&idle, 99),
        ms(&under, 50),
        ms(&under, 99),
        login.as_secs_f64()
    );
    Ok(())
}

/// In short: it goes on, and ends.
///
/// Fails when a flood ends a session or keeps somebody out.
#[test]
fn a_flood_of_some_ends_nobody() -> Result<()> {
    under_a_flood(150, 30, 50)
}

/// Prints what floods from one source do to who is in, beside OpenSSH's server.
#[test]
#[ignore = "measures times; cargo xtask figures"]
fn floods_beside_sshd() -> Result<()> {
    process::raise_nofile()?;
    let spec = ContainerSpec { image: Image::Debian, ..ContainerSpec::default() };
    let Some(scene) = Scene::start_with(Server::Incus6, "knocked", &spec)? else { return Ok(()) };
    typed_beside_floods(&peers(&scene)?)
}

/// Prints what 5,000 connections from one source and from a thousand do.
#[test]
#[ignore = "measures times; cargo xtask figures"]
fn a_flood_of_five_thousand() -> Result<()> {
    under_a_flood(5000, 1, KEYS)?;
    under_a_flood(5000, 1000, KEYS)
}
