//! The roles: a node that runs a tunnel as an ordinary user, told what to do by lines on its standard input.

use std::fs::File;
use std::io::BufRead as _;
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portway_mesh::engine::{Engine, EngineError, Frames, Way, kernel, smoltcp};
use portway_mesh::spec::{InterfaceAddr, Mtu, PrivateKey};
use portway_mesh::tunnel::{Change, Rows, Tunnel, TunnelSpec};
use portway_mesh::udp::Udp;
use portway_mesh::wg::{Dropped, PeerSpec};
use portway_model::Cidr;

/// First argument of the role.
pub(crate) const ROLE: &str = "node";

pub(crate) fn cidr(text: &str) -> Cidr {
    let (ip, prefix) = text.split_once('/').unwrap();
    Cidr::around(ip.parse().unwrap(), prefix.parse().unwrap()).unwrap()
}

/// `KEY ADDRESSES WAY PORT PEER_KEY PREFIXES ENDPOINT`.
fn parse(words: &[String]) -> (TunnelSpec, Vec<InterfaceAddr>, Option<Way>, u16) {
    let [key, addresses, way, port, peer, prefixes, endpoint] = words else { panic!("seven words") };
    let addresses = addresses.split(',').map(|text| {
        let (ip, prefix) = text.split_once('/').unwrap();
        InterfaceAddr { ip: ip.parse().unwrap(), prefix: prefix.parse().unwrap() }
    });
    let chosen = match way.trim_end_matches("-single") {
        "tun" => Some(Way::Tun),
        "veth" => Some(Way::Veth),
        "pair" => Some(Way::Pair),
        _ => None,
    };
    let peer = PeerSpec {
        public_key: peer.parse().unwrap(),
        preshared_key: None,
        allowed_ips: prefixes.split(',').map(cidr).collect(),
        endpoint: endpoint.parse().ok(),
        keepalive: None,
    };
    let rows = if way.ends_with("-single") { Rows::Off } else { Rows::Auto };
    let private_key = key.parse::<PrivateKey>().unwrap();
    let spec = TunnelSpec { private_key, peers: vec![peer], mtu: Mtu::DEFAULT, rows, trace: None };
    (spec, addresses.collect(), chosen, port.parse().unwrap())
}

/// The line of /proc/self/status that begins with `name`.
fn status(name: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

fn start(
    addresses: &[InterfaceAddr],
    mtu: Mtu,
    way: Option<Way>,
) -> Result<(Arc<dyn Engine>, Frames), EngineError> {
    if way == Some(Way::Pair) {
        let (stack, frames) = smoltcp::Stack::start(addresses, mtu)?;
        return Ok((Arc::new(stack), frames));
    }
    let (stack, frames) = kernel::Stack::start(addresses, mtu, way)?;
    Ok((Arc::new(stack), frames))
}

pub(crate) fn run(words: &[String]) -> ExitCode {
    let (mut spec, addresses, way, port) = parse(words);
    let trace = Arc::new(tempfile::tempfile().unwrap());
    spec.trace = Some(Arc::clone(&trace));
    let udp = Udp::bind(port).unwrap();
    let port = udp.address.port();
    let (stack, frames) = match start(&addresses, spec.mtu, way) {
        Ok(started) => started,
        Err(error) => {
            println!("failed {error}: {}", std::error::Error::source(&error).unwrap());
            return ExitCode::FAILURE;
        }
    };
    let way = frames.way();
    let room = udp.room;
    let tunnel = Tunnel::start(spec, frames, udp).unwrap();
    println!("ready {} {port} {way:?} {} {}", stack.pid(), status("Uid:"), status("CapEff:"));
    println!("room {} {}", room.send_bytes, room.receive_bytes);
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        if words == ["trace"] {
            println!("{}", read_trace(&trace));
            continue;
        }
        let answer = obey(&*stack, &tunnel, &words).unwrap_or_else(|| super::script::run(&stack, &words));
        println!("{answer}");
    }
    drop(tunnel);
    ExitCode::SUCCESS
}

/// All lines so far, as one.
fn read_trace(file: &File) -> String {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    String::from_utf8(bytes).unwrap().replace('\n', " ")
}

/// `None`: it is for the script.
fn obey(stack: &dyn Engine, tunnel: &Tunnel, words: &[&str]) -> Option<String> {
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let first = || tunnel.peers().unwrap().remove(0).public_key;
    let change = |change| tunnel.change(vec![change]).is_ok().to_string();
    let answer = match words {
        ["rekey"] => tunnel.rekey(first()).to_string(),
        ["endpoint", to] => change(Change::Endpoint(first(), to.parse().unwrap())),
        ["allow", prefixes] => change(Change::AllowedIps(first(), prefixes.split(',').map(cidr).collect())),
        ["put", key, prefixes, endpoint] => change(Change::Put(PeerSpec {
            public_key: key.parse().unwrap(),
            preshared_key: None,
            allowed_ips: prefixes.split(',').map(cidr).collect(),
            endpoint: endpoint.parse().ok(),
            keepalive: None,
        })),
        ["remove", key] => change(Change::Remove(key.parse().unwrap())),
        ["peer"] => {
            let state = tunnel.peers().unwrap().remove(0);
            let endpoint = state.endpoint.map_or("none".to_owned(), |endpoint| endpoint.to_string());
            let since = state.last_handshake.map_or(Duration::MAX, |at| at.elapsed());
            format!("{endpoint} {}", since.as_millis())
        }
        ["dropped"] => {
            let seen: Vec<_> = tunnel.counters().seen().map(|(why, n)| format!("{why:?}={n}")).collect();
            seen.join(" ")
        }
        ["dropped", name] => {
            let why = Dropped::ALL.into_iter().find(|why| format!("{why:?}") == *name).unwrap();
            tunnel.counters().of(why).to_string()
        }
        ["longest"] => tunnel.peers().unwrap().remove(0).longest_packet.unwrap_or(1420).to_string(),
        ["lost"] => (stack.packets_lost().unwrap() + tunnel.packets_lost().unwrap()).to_string(),
        ["totals"] => {
            let totals = tunnel.totals();
            let all = [&totals.frames_out, &totals.messages_out, &totals.rows_out];
            let more = [&totals.rows_in, &totals.messages_in, &totals.frames_in, &totals.rows_refused];
            all.into_iter().chain(more).map(|it| count(it).to_string()).collect::<Vec<_>>().join(" ")
        }
        _ => return None,
    };
    Some(answer)
}
