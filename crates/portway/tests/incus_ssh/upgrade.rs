//! Everything at once across the end of a gateway, by an upgrade and by a kill: forwards both ways, a session that stays with
//! two who look, a transfer.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Ports, Server, wait_for};

use crate::backwards::{asked, dial as dial_inside, service};
use crate::forwards::{Client, connect, echo, listen, pattern};
use crate::inside::copier;
use crate::keep::{begin, nothing_is_left};
use crate::scene::Scene;
use crate::tty::Tty;

/// Where a client listens inside.
const BACK: u16 = 5001;

/// What is sent, bytes, and how fast, kbit/s: a part of it while one thing is looked at.
const SENT_BYTES: u32 = 24_000_000;
const PACE: &str = "64000";

/// A connection to a port of the container's by a client's SOCKS.
fn through_socks(scene: &Scene, socks: u16, port: u16) -> TcpStream {
    let mut stream = connect(scene, socks);
    stream.write_all(&[5, 1, 0]).unwrap();
    stream.read_exact(&mut [0; 2]).unwrap();
    stream.write_all(&[&[5, 1, 0, 1, 127, 0, 0, 1][..], &port.to_be_bytes()].concat()).unwrap();
    let mut head = [0; 10];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[1], 0, "{}", scene.log());
    stream
}

fn goes_both_ways(stream: &mut TcpStream) {
    stream.write_all(b"word").unwrap();
    let mut said = [0; 4];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"word");
}

/// A file on its way, a part at a time.
struct Transfer {
    client: Child,
    path: PathBuf,
}

impl Transfer {
    fn begin(scene: &Scene, bytes: &[u8]) -> Self {
        fs::write(scene.path("sent"), bytes).unwrap();
        let mut client = copier(scene, "sftp");
        client.args(["-q", "-l", PACE, "-b", "-", &Scene::at(scene.container.name())]);
        let mut client = scene.bed.netns().spawn(client.stdin(Stdio::piped()).stdout(Stdio::null())).unwrap();
        let batch = format!("put {} /sent\n", scene.path("sent").display());
        client.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        let transfer = Self { client, path: scene.container.rootfs().join("sent") };
        transfer.goes_on();
        transfer
    }

    fn length(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Waits until more has come, and holds the client up.
    fn goes_on(&self) {
        let before = self.length();
        self.tell(Signal::SIGCONT);
        wait_for("more of the file", || (self.length() > before).then_some(())).unwrap();
        self.tell(Signal::SIGSTOP);
        assert!(self.length() < SENT_BYTES.into(), "it was meant to take longer");
    }

    /// Waits until all of it has come.
    fn ends(mut self) -> Vec<u8> {
        self.tell(Signal::SIGCONT);
        assert!(self.client.wait().unwrap().success());
        fs::read(&self.path).unwrap()
    }

    fn tell(&self, signal: Signal) {
        kill(Pid::from_raw(self.client.id().try_into().unwrap()), signal).unwrap();
    }
}

/// What was open is open, and what listens listens, without any gateway and with the next one.
///
/// Fails when anything passes the gateway's process, or is taken down by its successor.
#[test]
fn everything_goes_on() {
    let Some(mut scene) = Scene::start(Server::Incus6, "all").unwrap() else { return };
    echo(listen(&scene, Ipv4Addr::LOCALHOST, 4001), b"");
    let name = scene.container.name().to_owned();
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let socks = ports.one().unwrap();
    let to = service(&scene);
    let told = format!("{to} hears");
    let (dynamic, remote) = (format!("127.0.0.1:{socks}"), format!("{BACK}:127.0.0.1:{to}"));
    let client = Client::start(&scene, &name, &["-D", &dynamic, "-R", &remote]);
    let (mut one, pid) = begin(&scene, &format!("keep=all,bob@{name}"));
    let mut two = Tty::open(&scene, &format!("keep=all,bob@{name}"), 80, 24);
    two.shows(&format!("pid=<{pid}>"));
    let mut forth = through_socks(&scene, socks, 4001);
    assert_eq!(asked(&scene, Ipv4Addr::LOCALHOST, BACK), told);
    let mut back = dial_inside(&scene, Ipv4Addr::LOCALHOST, BACK).unwrap();
    back.read_exact(&mut vec![0; to.to_string().len()]).unwrap();
    let bytes = pattern(4, SENT_BYTES);
    let transfer = Transfer::begin(&scene, &bytes);
    let go_on = |scene: &Scene, number: usize, one: &mut Tty, two: &mut Tty, streams: [&mut TcpStream; 2]| {
        streams.into_iter().for_each(goes_both_ways);
        transfer.goes_on();
        goes_both_ways(&mut through_socks(scene, socks, 4001));
        assert_eq!(asked(scene, Ipv4Addr::LOCALHOST, BACK), told);
        one.keys(&format!("echo {number}-$kept\r"));
        two.shows(&format!("{number}-yes"));
        two.keys(&format!("echo two-{number}-$kept\r"));
        one.shows(&format!("two-{number}-yes"));
    };
    go_on(&scene, 0, &mut one, &mut two, [&mut forth, &mut back]);
    scene.replace().unwrap();
    go_on(&scene, 1, &mut one, &mut two, [&mut forth, &mut back]);
    scene.stop(Signal::SIGKILL).unwrap();
    go_on(&scene, 2, &mut one, &mut two, [&mut forth, &mut back]);
    scene.launch().unwrap();
    go_on(&scene, 3, &mut one, &mut two, [&mut forth, &mut back]);
    assert!(transfer.ends() == bytes, "another file");
    one.keys("exit 4\r");
    assert_eq!((one.end(), two.end()), (Some(4), Some(4)));
    drop((forth, back, client));
    nothing_is_left(&scene);
}
