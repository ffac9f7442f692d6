//! `portway status`: the daemon, the servers it follows, its workers.

use std::fmt::Write as _;

use portway_control::api::{
    DeviceTotals, LimitHits, NetworkPeer, NetworkState, NetworkStatus, ProviderStatus, Refusals, Server,
};
use portway_sshgw::broker;
use serde::Serialize;

use crate::cli::{StatusArgs, target};
use crate::failure::{Outcome, printable};
use crate::output::table::{Text, Tone};
use crate::output::{Format, Look, Out, csv, human, table};
use crate::session::{Session, paths};
use crate::ssh;

/// Asks the daemon and prints what it says.
pub(crate) fn run(args: &StatusArgs) -> Outcome {
    let session = Session::open()?;
    let server = session.run("asking the daemon", session.client.server())?;
    let mut out = Out::new();
    match args.format.format {
        Format::Table => {
            let text = text(&server, out.look);
            out.text(&text)?;
            match broker::running(&ssh::sessions_dir(&paths()?)) {
                Some(pid) => out.line(&format!("\nSSH gateway: pid {pid}")),
                None => Ok(()),
            }
        }
        Format::Json => out.json(&whole(&server)?),
        Format::Yaml => out.yaml(&whole(&server)?),
        Format::Csv => out.text(&csv_text(&server)),
    }
}

/// The daemon and the gateway beside it, whoever started that.
#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    server: &'a Server,
    /// `null` where none runs, or this user may not know.
    ssh: Option<Gateway>,
}

#[derive(Serialize)]
struct Gateway {
    pid: i32,
    /// Connections that have logged in.
    sessions: Option<usize>,
}

fn whole(server: &Server) -> Outcome<Whole<'_>> {
    let dir = ssh::sessions_dir(&paths()?);
    let gateway = |pid| Gateway { pid, sessions: broker::sessions(&dir).ok().map(|sessions| sessions.len()) };
    Ok(Whole { server, ssh: broker::running(&dir).map(gateway) })
}

fn text(server: &Server, look: Look) -> String {
    let mut text = String::new();
    let Server { version, pid, generation, .. } = server;
    let up = human::seconds(server.uptime_seconds);
    // Writing to a String cannot fail, here and below.
    let _infallible = writeln!(text, "portway {}, pid {pid}, up {up}", printable(version));
    let _infallible = writeln!(text, "devices: {}", totals(server.devices));
    let _infallible = writeln!(text, "refused: {}", refused(server.refusals));
    if !server.limits.is_empty() {
        let _infallible = writeln!(text, "limits: {}", limits(&server.limits));
    }
    let _infallible = writeln!(text, "state: generation {generation}");
    match server.keeper_pid {
        Some(pid) => {
            let _infallible = writeln!(text, "keeper: pid {pid}");
        }
        None => text.push_str("keeper: none\n"),
    }
    if !server.providers.is_empty() {
        text.push('\n');
        text.push_str(&table::render(
            ["SERVER", "ENDPOINT", "STATE"],
            server.providers.iter().map(provider_row).collect(),
            look,
        ));
    }
    if !server.workers.is_empty() {
        let default = target::default_provider();
        let rows = server.workers.iter().map(|worker| {
            [
                Text::number(worker.pid.to_string()),
                Text::new(target::short(&worker.instance, default)),
                Text::number(worker.uid.map_or_else(|| "-".to_owned(), |uid| uid.to_string())),
                Text::number(worker.devices.to_string()),
            ]
        });
        text.push('\n');
        text.push_str(&table::render(["WORKER", "INSTANCE", "UID", "DEVICES"], rows.collect(), look));
    }
    text.push_str(&networks_text(&server.networks, look));
    if !server.warnings.is_empty() {
        text.push('\n');
        for warning in &server.warnings {
            let _infallible = writeln!(text, "warning: {}", printable(warning));
        }
    }
    text
}

/// A table of networks, and below it what is wrong with each.
fn networks_text(networks: &[NetworkStatus], look: Look) -> String {
    if networks.is_empty() {
        return String::new();
    }
    let mut text = "\n".to_owned();
    let header = ["NETWORK", "STATE", "PID", "ENGINE", "RULES", "LIVE", "RESTARTS", "PEERS"];
    text.push_str(&table::render(header, networks.iter().map(network_row).collect(), look));
    for NetworkStatus { name, error, engine_reason, .. } in networks {
        for why in error.iter().chain(engine_reason) {
            // As above.
            let _infallible = writeln!(text, "{}: {}", printable(name), printable(why));
        }
    }
    text
}

fn network_row(network: &NetworkStatus) -> [Text; 8] {
    let number = |value: Option<u64>| Text::number(value.map_or_else(|| "-".to_owned(), |it| it.to_string()));
    let state = match network.state {
        NetworkState::Starting => Text::new("starting"),
        NetworkState::Running if network.error.is_none() => Text::new("running").tone(Tone::Good),
        NetworkState::Running => Text::new("running").tone(Tone::Bad),
        NetworkState::Failed => Text::new("failed").tone(Tone::Bad),
        NetworkState::Ending => Text::new("ending"),
        NetworkState::Ended => Text::new("ended"),
    };
    let pid = network.pid.filter(|_| network.state != NetworkState::Failed);
    [
        Text::new(&network.name),
        state,
        number(pid.and_then(|pid| pid.try_into().ok())),
        Text::new(network.engine.as_deref().unwrap_or("-")),
        number(network.rules),
        number(network.connections),
        number(Some(network.restarts)),
        Text::new(peers(&network.peers)),
    ]
}

/// `2 of 3, last 12 s ago`: those with which keys were agreed on lately enough to be in use, and when that last was.
fn peers(peers: &[NetworkPeer]) -> String {
    /// Age at which keys are no longer used (WireGuard's `REJECT_AFTER_TIME`).
    const USED_SECONDS: u64 = 180;
    let ages = peers.iter().filter_map(|peer| peer.handshake_seconds);
    let met = ages.clone().filter(|age| *age < USED_SECONDS).count();
    match ages.min() {
        Some(age) => format!("{met} of {}, last {age} s ago", peers.len()),
        None => format!("{met} of {}", peers.len()),
    }
}

/// `3 active, 1 waiting`; states without devices are left out.
fn totals(totals: DeviceTotals) -> String {
    let DeviceTotals { active, waiting, degraded, failed } = totals;
    let parts: Vec<String> =
        [(active, "active"), (waiting, "waiting"), (degraded, "degraded"), (failed, "failed")]
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// `7 clients (4 by allow or deny, 3 by limits.rate)`; what did not happen is left out.
fn refused(refusals: Refusals) -> String {
    let Refusals { denied, over_connections, over_rate, over_per_source, bad_headers } = refusals;
    let reasons = [
        (denied, "by allow or deny"),
        (over_connections, "by limits.connections"),
        (over_rate, "by limits.rate"),
        (over_per_source, "by limits.per_source"),
        (bad_headers, "for a bad PROXY header"),
    ];
    let parts: Vec<String> = reasons
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, reason)| format!("{count} {reason}"))
        .collect();
    match refusals.total() {
        0 => "none".to_owned(),
        total => format!("{} ({})", human::count(total, "client"), parts.join(", ")),
    }
}

/// `control.connections hit 2 times`: the caps that were hit.
fn limits(hits: &[LimitHits]) -> String {
    let one = |of: &LimitHits| format!("{} hit {}", printable(&of.limit), human::count(of.hits, "time"));
    hits.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn provider_row(provider: &ProviderStatus) -> [Text; 3] {
    let state = match (provider.reachable, provider.error.as_deref()) {
        (true, _) => Text::new("reachable").tone(Tone::Good),
        // Without a socket it is not installed, and nobody is asked.
        (false, _) if provider.endpoint.is_none() => Text::new("not found"),
        (false, Some(why)) => Text::new(format!("unreachable: {why}")).tone(Tone::Bad),
        (false, None) => Text::new("unreachable").tone(Tone::Bad),
    };
    [Text::new(&provider.name), Text::new(provider.endpoint.as_deref().unwrap_or("-")), state]
}

/// One line: what a monitor wants.
fn csv_text(server: &Server) -> String {
    let DeviceTotals { active, waiting, degraded, failed } = server.devices;
    let header = [
        "version",
        "pid",
        "uptime_seconds",
        "generation",
        "active",
        "waiting",
        "degraded",
        "failed",
        "warnings",
        "refused",
    ];
    let numbers = [
        u64::from(server.pid),
        server.uptime_seconds,
        server.generation,
        active,
        waiting,
        degraded,
        failed,
        u64::try_from(server.warnings.len()).unwrap_or(u64::MAX),
        server.refusals.total(),
    ];
    let fields = std::iter::once(server.version.clone()).chain(numbers.iter().map(u64::to_string));
    csv::line(header) + &csv::line(fields)
}

#[cfg(test)]
mod tests {
    use portway_control::api::WorkerStatus;

    use super::*;

    fn server() -> Server {
        Server {
            api: "1.0".to_owned(),
            version: "0.1.0".to_owned(),
            pid: 812,
            uptime_seconds: 11_045,
            generation: 17,
            devices: DeviceTotals { active: 12, waiting: 1, degraded: 0, failed: 0 },
            refusals: Refusals { denied: 4, over_rate: 3, ..Refusals::default() },
            providers: vec![
                ProviderStatus {
                    name: "incus".to_owned(),
                    endpoint: Some("/var/lib/incus/unix.socket".to_owned()),
                    reachable: true,
                    error: None,
                },
                ProviderStatus {
                    name: "lxd".to_owned(),
                    endpoint: Some("/var/lib/lxd/unix.socket".to_owned()),
                    reachable: false,
                    error: Some("connection refused".to_owned()),
                },
            ],
            workers: vec![WorkerStatus {
                pid: 4711,
                instance: "incus:default/c1".parse().unwrap(),
                uid: Some(998),
                group: "instance:998:998:0".to_owned(),
                devices: 12,
            }],
            keeper_pid: Some(813),
            networks: networks(),
            limits: vec![LimitHits { limit: "control.connections".to_owned(), hits: 2 }],
            warnings: vec!["state.json was restored from its previous generation".to_owned()],
        }
    }

    fn networks() -> Vec<NetworkStatus> {
        let peer =
            |handshake_seconds| NetworkPeer { name: "b".to_owned(), endpoint: None, handshake_seconds };
        let runs = NetworkStatus {
            name: "home".to_owned(),
            state: NetworkState::Running,
            pid: Some(4812),
            since_seconds: 100,
            restarts: 0,
            error: None,
            engine: Some("smoltcp".to_owned()),
            engine_reason: Some("namespaces: Operation not permitted (os error 1)".to_owned()),
            addresses: vec!["10.9.0.1/24".to_owned()],
            organization: None,
            rules: Some(2),
            connections: Some(7),
            peers: vec![peer(Some(12)), peer(Some(400)), peer(None)],
        };
        let failed = NetworkStatus {
            name: "work".to_owned(),
            state: NetworkState::Failed,
            restarts: 3,
            error: Some("/etc/portway/work.conf:3:1: unknown key `Adress`".to_owned()),
            engine: None,
            engine_reason: None,
            rules: None,
            connections: None,
            peers: Vec::new(),
            ..runs.clone()
        };
        vec![runs, failed]
    }

    /// Fails when: a server that is not installed is called unreachable.
    #[test]
    fn a_server_without_a_socket_is_not_found() {
        let missing = ProviderStatus {
            name: "lxd".to_owned(),
            endpoint: None,
            reachable: false,
            error: Some("no lxd socket was found".to_owned()),
        };
        let text = text(&Server { providers: vec![missing], ..server() }, WIDE);
        assert!(text.contains("not found") && !text.contains("unreachable"), "{text}");
    }

    const WIDE: Look = Look { width: None, colour: false };

    #[test]
    fn a_busy_and_an_idle_daemon() {
        insta::assert_snapshot!("busy", text(&server(), WIDE));
        let idle = Server {
            devices: DeviceTotals::default(),
            refusals: Refusals::default(),
            providers: Vec::new(),
            workers: Vec::new(),
            keeper_pid: None,
            networks: Vec::new(),
            limits: Vec::new(),
            warnings: Vec::new(),
            ..server()
        };
        insta::assert_snapshot!("idle", text(&idle, WIDE));
        insta::assert_snapshot!("csv", csv_text(&server()));
    }
}
