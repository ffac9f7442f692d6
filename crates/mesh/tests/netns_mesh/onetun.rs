//! onetun as a peer: its own tunnel, its own TCP, and one port that leads into the network. It is in no distribution, so
//! what needs it runs when it is asked for, with `onetun` on the path or where `PORTWAY_MESH_ONETUN` says.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portway_mesh::spec::{PrivateKey, PublicKey};
use portway_testkit::{Netns, Pattern, wait_for};

use crate::bed::{Bed, Node};

/// Where clients of it connect to.
const PORT: &str = "127.0.0.1:9000";

pub(crate) struct Onetun {
    child: Child,
    netns: Netns,
}

pub(crate) fn program() -> OsString {
    std::env::var_os("PORTWAY_MESH_ONETUN").unwrap_or_else(|| "onetun".into())
}

/// What it calls itself, where it is there.
pub(crate) fn version() -> Option<String> {
    let said = Command::new(program()).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_owned()).filter(|version| !version.is_empty())
}

impl Onetun {
    /// From its port to `to` in the network of `peer`, which is at `endpoint`.
    pub(crate) fn start(
        netns: &Netns,
        (key, own): (&PrivateKey, &str),
        (peer, endpoint): (PublicKey, &str),
        to: &str,
    ) -> Onetun {
        netns.ip("link set lo up").ok();
        let mut command = Command::new(program());
        command.arg(format!("{PORT}:{to}:TCP")).args(["--endpoint-addr", endpoint, "--source-peer-ip", own]);
        command.args(["--endpoint-public-key", &peer.to_string(), "--keep-alive", "10", "--log", "error"]);
        command.env("ONETUN_PRIVATE_KEY", key.reveal().as_str());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let onetun = Onetun { child: netns.spawn(&mut command).unwrap(), netns: netns.clone() };
        wait_for("onetun", || onetun.try_connect().ok()).unwrap();
        onetun
    }

    fn try_connect(&self) -> std::io::Result<TcpStream> {
        let to: SocketAddr = PORT.parse().unwrap();
        let stream = self.netns.enter(move || TcpStream::connect(to)).unwrap()?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        self.try_connect().unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().try_into().unwrap()
    }
}

impl Drop for Onetun {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A peer that is not wireguard-go and has a TCP of its own, smoltcp's of long ago, on both engines.
///
/// Fails when: a handshake or a segment of it is not understood, or its bytes do not come back as they were.
pub(crate) fn is_a_peer(way: &str) {
    const LENGTH: u64 = 200_000;
    let bed = Bed::new();
    let mut node = Node::start(&bed.place(), way);
    assert_eq!(node.ask("serve 10.9.0.1:80 mirror"), "ok");
    let peer = (bed.key.public(), "192.0.2.1:51820");
    let onetun = Onetun::start(&bed.theirs, (&bed.peer, "10.9.0.2"), peer, "10.9.0.1:80");
    for _ in 0..3 {
        let (mut stream, begin) = (onetun.connect(), Instant::now());
        // One byte first: what comes while onetun itself connects it may lose.
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
        let (mut there, mut back) = (Vec::new(), vec![0; usize::try_from(LENGTH).unwrap()]);
        Pattern::new(3).write(LENGTH, &mut there).unwrap();
        std::thread::scope(|scope| {
            let mut writer = &stream;
            let there = &there;
            scope.spawn(move || writer.write_all(there).unwrap());
            (&stream).read_exact(&mut back).unwrap();
        });
        assert!(there == back);
        println!("{}: {LENGTH} bytes there and back in {:?}", node.way, begin.elapsed());
    }
    for why in ["Forged", "Form", "Inner", "Source"] {
        assert_eq!(node.ask(&format!("dropped {why}")), "0", "{why}");
    }
}
