//! A new target for a device that serves, in the pairings that end in a unix socket or in datagrams.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use portway_testkit::udp::UdpEcho;
use portway_testkit::{Addr, Behaviour, Rig, Service, Stream, Talk, check};

use crate::PORTWAY;
use crate::datagrams::socket_addr;
use crate::place::{BOTH, Bind, Kind, Pair, SocketFile};
use crate::streams::dial;

/// Listen and connect: every pairing of streams but tcp to tcp, and those that end in datagrams.
const PAIRINGS: [(Kind, Kind); 6] = [
    (Kind::Path, Kind::Path),
    (Kind::Tcp, Kind::Path),
    (Kind::Path, Kind::Tcp),
    (Kind::Abstract, Kind::Abstract),
    (Kind::Path, Kind::Udp),
    (Kind::Tcp, Kind::Udp),
];

/// `connect` of a device is changed while it serves: the next client comes to the new target, the connection
/// that is open goes on with the old one, and the listener is the very same socket. On both `bind` sides.
///
/// Fails when: a change of the target opens the listener again (its file or socket is another), cuts what is
/// open, or leaves the worker with the old folder of a unix target.
#[test]
fn a_new_target_for_the_next_client() {
    let Some(rig) = Rig::start(PORTWAY, "target").unwrap() else { return };
    let mut failures = Vec::new();
    for (number, (listen, connect)) in (0..).zip(PAIRINGS) {
        for bind in BOTH {
            let offset = if bind == Bind::Host { 0 } else { 20 };
            let row = format!("{} to {}, bind={}", listen.name(), connect.name(), bind.name());
            let pairs = [0, 100].map(|other| Pair::new(&rig, bind, listen, connect, number + offset + other));
            let [Ok(pair), Ok(other)] = pairs else { panic!("{row}: no addresses") };
            pair.add(&rig, "pair", &[]).unwrap();
            let check = if connect == Kind::Udp { datagrams } else { streams };
            match check(&rig, &pair, &other) {
                Ok(()) => println!("pass: {row}"),
                Err(error) => failures.push(format!("{row}: {error:#}")),
            }
            rig.device_ok("remove", &["pair"]).unwrap();
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

fn change(rig: &Rig, other: &Pair) -> Result<()> {
    rig.device_ok("set", &["pair", &format!("connect={}", other.connect.key)])?;
    rig.daemon.wait_for_state("pair", "active")
}

/// What tells one listener from another at the same address: its inode (proc_pid_net(5)).
fn identity(pair: &Pair) -> Result<String> {
    let (table, column) = match &pair.listen.addr {
        Addr::Unix(path) => return Ok(fs::symlink_metadata(path)?.ino().to_string()),
        Addr::Abstract(_) => ("unix", 6),
        Addr::Tcp(_) => ("tcp", 9),
    };
    let is_it = |words: &[&str]| match &pair.listen.addr {
        // What it has accepted has its name, and not the flag of a listener.
        Addr::Abstract(name) => words[3] == "00010000" && words.last() == Some(&format!("@{name}").as_str()),
        Addr::Tcp(addr) => words[1] == format!("0100007F:{:04X}", addr.port()) && words[3] == "0A",
        Addr::Unix(_) => false,
    };
    let network = pair.listen.site.network();
    let text = network.enter(|| fs::read_to_string(format!("/proc/thread-self/net/{table}")))??;
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|words| is_it(words)).context("no listener")?;
    Ok(line.get(column).context("no inode")?.to_string())
}

fn streams(rig: &Rig, pair: &Pair, other: &Pair) -> Result<()> {
    let old = Service::start(&pair.connect.site, &pair.connect.addr, Behaviour::Echo)?;
    let say = Behaviour::Say("the new one".to_owned());
    let new = Service::start(&other.connect.site, &other.connect.addr, say)?;
    let _files = [&pair.connect.addr, &other.connect.addr].map(SocketFile::open_to_all);
    let open = Talk::start(&pair.listen.site, &pair.listen.addr, 1)?;
    let before = identity(pair)?;
    change(rig, other)?;
    ensure!(check::read_all(&dial(pair)?)? == b"the new one", "not the new target");
    ensure!(identity(pair)? == before, "another listener");
    open.wait_for_rounds(5)?;
    open.finish()?;
    ensure!((old.accepted(), new.accepted()) == (1, 1), "{} and {}", old.accepted(), new.accepted());
    Ok(())
}

/// One write, and the one datagram that comes back for it.
fn exchange(mut stream: &Stream, name: &str) -> Result<()> {
    stream.write_all(b" hello").context("cannot send")?;
    let wanted = format!("{name} hello");
    let mut answer = vec![0; wanted.len()];
    stream.read_exact(&mut answer).context("no answer")?;
    ensure!(answer == wanted.as_bytes(), "{} in place of {wanted}", String::from_utf8_lossy(&answer));
    Ok(())
}

fn datagrams(rig: &Rig, pair: &Pair, other: &Pair) -> Result<()> {
    let _old = UdpEcho::start(&pair.connect.site, socket_addr(&pair.connect.addr)?, "old")?;
    let _new = UdpEcho::start(&other.connect.site, socket_addr(&other.connect.addr)?, "new")?;
    let open = dial(pair)?;
    exchange(&open, "old")?;
    let before = identity(pair)?;
    change(rig, other)?;
    exchange(&dial(pair)?, "new")?;
    ensure!(identity(pair)? == before, "another listener");
    exchange(&open, "old").context("the connection that was open")?;
    Ok(())
}
