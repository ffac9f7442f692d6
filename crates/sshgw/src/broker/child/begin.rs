//! From an accepted connection to its process.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portway_sys::seqpacket::Channel;
use portway_sys::{process, random, sockopt};
use tokio::net::TcpStream;

use super::{Broker, Child, Entrance, Identity};
use crate::broker::GRACE;
use crate::greeting;
use crate::session::{CHANNEL_FD, CONNECTION_FD, ROLE};
use crate::watched::watched_channel;
use crate::wire::{self, Init, PROTOCOL_VERSION};

/// When a client that says nothing is asked by TCP whether it is there, how often, and when it is given up.
const GONE: Duration = Duration::from_secs(60);
const GONE_PROBE: Duration = Duration::from_secs(15);
const GONE_PROBES: u32 = 4;

pub(super) fn start(
    broker: &Arc<Broker>,
    id: u64,
    stream: TcpStream,
    peer: SocketAddr,
) -> io::Result<(Child, process::Child)> {
    let local = stream.local_addr()?;
    let ip = |address: SocketAddr| address.ip().to_canonical();
    let connection = format!("{} {} {} {}", ip(peer), peer.port(), ip(local), local.port());
    stream.set_nodelay(true)?;
    // One that has vanished is noticed where no questions are asked over SSH either.
    sockopt::keepalive(stream.as_fd(), GONE, GONE_PROBE, GONE_PROBES)?;
    let stream = stream.into_std()?;
    let (ours, theirs) = Channel::pair()?;
    let entrance = Entrance::new(&broker.judge);
    let init = Init {
        version: PROTOCOL_VERSION,
        host_keys: broker.host_keys.clone(),
        banner: if broker.options.options.banner {
            greeting::banner(&broker.options.banner)
        } else {
            String::new()
        },
        ids: broker.options.ids.map(|ids| (ids.uid, ids.gid)),
        methods: entrance.methods(),
        // Less than a second would be never.
        idle_secs: broker.options.options.idle_timeout.map_or(0, |limit| limit.as_secs().max(1)),
        grace_secs: GRACE.as_secs(),
        log: broker.options.log.as_str().to_owned(),
    };
    ours.send(&wire::encode(&init, &[])?, &[])?;
    const { assert!(CONNECTION_FD == process::FIRST_FD && CHANNEL_FD == process::FIRST_FD + 1) };
    // Whatever can fail comes before the process: nobody would look after it.
    let (session, link) = (name()?, watched_channel(ours)?);
    let process = process::spawn_role(&ROLE, vec![stream.into(), theirs.into()], Vec::new())?;
    let child = Child {
        broker: Arc::clone(broker),
        id,
        pid: process.pid,
        session,
        peer,
        connection,
        link,
        ledger: Mutex::default(),
        entrance,
        running: Mutex::default(),
        identity: Identity::default(),
        is_made: AtomicBool::new(false),
        record: Mutex::default(),
        asked: Mutex::default(),
        sums: Mutex::default(),
        shells: super::shell::Shells::default(),
    };
    Ok((child, process))
}

/// A name that no other session has: 128 bits in 26 letters and digits, so that its socket's path stays short.
fn name() -> io::Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let number = u128::from_ne_bytes(random::bytes()?);
    let letter = |at: u32| char::from(LETTERS[usize::from((number >> (5 * at)).to_le_bytes()[0] & 31)]);
    Ok((0..26).map(letter).collect())
}
