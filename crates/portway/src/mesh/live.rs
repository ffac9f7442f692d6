//! `portway mesh status` and `portway mesh rule`: a network that runs, by its control socket.

use std::fmt::Write as _;
use std::future::Future;

use portway_control::api::{
    ChangeMeshRules, MeshOrg, MeshPeer, MeshProxyStatus, MeshRuleStatus, MeshStatus, NewMeshRule,
};
use portway_control::{Client, ClientError};
use portway_mesh::proxy::Home;

use crate::cli::mesh::{RuleChangeArgs, RuleCommand, RuleListArgs, StatusArgs};
use crate::failure::{Outcome, Stop, printable};
use crate::output::{Out, csv};
use crate::session::runtime;

/// Prints how a network is.
pub(super) fn status(args: &StatusArgs) -> Outcome {
    let client = client(args.name.as_deref())?;
    let status = wait(client.mesh())?;
    Out::new().show(args.format.format, &status, |_| text(&status), || lines(&status.rules))
}

/// Rules of a network that runs.
pub(super) fn rule(command: &RuleCommand) -> Outcome {
    match command {
        RuleCommand::Add(args) => {
            let rules = |direction: &str, texts: &[String]| -> Vec<NewMeshRule> {
                let rule = |text: &String| NewMeshRule {
                    direction: direction.to_owned(),
                    rule: text.clone(),
                    configured: false,
                };
                texts.iter().map(rule).collect()
            };
            let mut add = rules("ingress", &args.ingress);
            add.extend(rules("egress", &args.egress));
            change(args, ChangeMeshRules { add, remove: Vec::new() })
        }
        RuleCommand::Remove(args) => {
            let client = client(args.name.as_deref())?;
            let change = ChangeMeshRules { add: Vec::new(), remove: args.ids.clone() };
            wait(client.change_rules(&change)).map(|_| ())
        }
        RuleCommand::List(args) => list(args),
    }
}

fn change(args: &RuleChangeArgs, change: ChangeMeshRules) -> Outcome {
    if change.add.is_empty() {
        return Err(Stop::usage("no rule is named").hint("`--ingress RULE` and `--egress RULE` name them"));
    }
    let client = client(args.name.as_deref())?;
    wait(client.change_rules(&change)).map(|_| ())
}

fn list(args: &RuleListArgs) -> Outcome {
    let client = client(args.name.as_deref())?;
    let rules = wait(client.mesh())?.rules;
    let line = |rule: &MeshRuleStatus| printable(rule_line(rule).trim_end()) + "\n";
    Out::new().show(args.format.format, &rules, |_| rules.iter().map(line).collect(), || lines(&rules))
}

/// The network of that name, or the only one that runs.
pub(super) fn client(name: Option<&str>) -> Outcome<Client> {
    let home: Home = super::home(name.unwrap_or("mesh"))?;
    if name.is_some() {
        return Ok(Client::new(home.socket().map_err(|error| super::no_home(&error))?));
    }
    match home.running().as_slice() {
        [(_, only)] => Ok(Client::new(only.clone())),
        [] => {
            let socket = home.socket().map_err(|error| super::no_home(&error))?;
            let dir = socket.parent().unwrap_or(&socket);
            Err(Stop::of(
                portway_control::api::FailureKind::Unreachable,
                format!("no network runs below {}", dir.display()),
            ))
        }
        several => {
            let names = several.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            Err(Stop::usage(format!("several networks run: {}", printable(&names)))
                .hint("`--name` says which"))
        }
    }
}

fn wait<T>(work: impl Future<Output = Result<T, ClientError>>) -> Outcome<T> {
    runtime()?.block_on(work).map_err(Into::into)
}

fn text(status: &MeshStatus) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _infallible = writeln!(
        text,
        "{}: engine {}, UDP port {}, {}, up {} s",
        printable(&status.name),
        status.engine,
        status.udp_port,
        status.addresses.join(", "),
        status.uptime_seconds
    );
    if let Some(why) = &status.engine_reason {
        let _infallible = writeln!(text, "not the kernel's engine: {}", printable(why));
    }
    if let Some(organization) = &status.organization {
        text.push_str(&organization_line(organization));
        text.push_str(&super::outside::lines(organization));
    }
    if status.passed_on > 0 {
        let _infallible = writeln!(text, "passed on for others: {} messages", status.passed_on);
    }
    status.peers.iter().for_each(|peer| text.push_str(&peer_line(peer)));
    status.rules.iter().for_each(|rule| text.push_str(&rule_line(rule)));
    status.proxies.iter().for_each(|proxy| text.push_str(&proxy_line(proxy)));
    for (why, count) in &status.dropped {
        let _infallible = writeln!(text, "dropped: {count} {why}");
    }
    // All of it is the network's own word, and who runs that may be less than who reads it.
    text.lines().map(|line| printable(line) + "\n").collect()
}

fn organization_line(organization: &MeshOrg) -> String {
    let MeshOrg { organization, device, revision, devices, registrar, since_seconds, error, hub, .. } =
        organization;
    let what = if *hub { ", a hub" } else { "" };
    let how = match error {
        None => format!("followed for {since_seconds} s"),
        Some(error) => format!("not reached for {since_seconds} s: {}", printable(error)),
    };
    format!(
        "{device} of {organization}{what}, revision {revision}, devices: {devices}; registrar {registrar} {how}\n"
    )
}

fn peer_line(peer: &MeshPeer) -> String {
    let place = match (&peer.through, &peer.endpoint) {
        (Some(hub), _) => format!("through hub {}", printable(hub)),
        (None, Some(endpoint)) => format!("at {endpoint}"),
        (None, None) => "at nowhere yet".to_owned(),
    };
    // An answer that is a moment late is none that is missing.
    let trying = peer.trying_seconds.filter(|seconds| *seconds > 5);
    let trying = trying.map_or_else(String::new, |seconds| format!(", no answer for {seconds} s"));
    let heard = peer.handshake_seconds.map_or_else(|| "never".to_owned(), |age| format!("{age} s ago"));
    let refused = match peer.connections_refused {
        0 => String::new(),
        count => format!(", {count} connections refused beyond its share"),
    };
    format!(
        "peer {} {place}: keys agreed {heard}{trying}, {} bytes in, {} out{refused}\n",
        peer.name.as_ref().unwrap_or(&peer.public_key),
        peer.received_bytes,
        peer.sent_bytes
    )
}

fn rule_line(rule: &MeshRuleStatus) -> String {
    let mut line = format!(
        "{}  {} {}: {} live of {}, {} bytes in, {} out",
        rule.id,
        rule.direction,
        rule.rule,
        rule.connections_now,
        rule.connections_total,
        rule.bytes_in,
        rule.bytes_out
    );
    if let Some(error) = rule.last_error.as_ref().filter(|_| rule.failures > 0) {
        let aside = if rule.aside { ", put aside" } else { "" };
        // As above.
        let _infallible = write!(line, ", {} failed{aside}, last: {}", rule.failures, printable(error));
    }
    line + "\n"
}

fn proxy_line(proxy: &MeshProxyStatus) -> String {
    let login = if proxy.login { " with a password" } else { "" };
    let (now, total) = (proxy.connections_now, proxy.connections_total);
    let mut line = format!("{} {}{login}: {now} live of {total}", proxy.kind, proxy.listen);
    if let Some(error) = &proxy.last_error {
        // As above.
        let _infallible = write!(line, ", {} failed, last: {}", proxy.failures, printable(error));
    }
    line + "\n"
}

fn lines(rules: &[MeshRuleStatus]) -> String {
    let line = |rule: &MeshRuleStatus| {
        csv::line([
            rule.id.clone(),
            rule.direction.clone(),
            rule.rule.clone(),
            rule.connections_now.to_string(),
            rule.connections_total.to_string(),
            rule.failures.to_string(),
            rule.bytes_in.to_string(),
            rule.bytes_out.to_string(),
        ])
    };
    let head = csv::line([
        "id",
        "direction",
        "rule",
        "connections_now",
        "connections_total",
        "failures",
        "bytes_in",
        "bytes_out",
    ]);
    head + &rules.iter().map(line).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_rules_and_peers() {
        let mut rule = MeshRuleStatus {
            id: "0123456789ab".to_owned(),
            direction: "ingress".to_owned(),
            rule: "tcp:80:a.example:80".to_owned(),
            place: "added while it ran".to_owned(),
            aside: false,
            connections_now: 1,
            connections_total: 3,
            failures: 0,
            last_error: None,
            bytes_in: 5,
            bytes_out: 7,
            port_bytes_in: 0,
            port_bytes_out: 0,
        };
        assert_eq!(
            rule_line(&rule),
            "0123456789ab  ingress tcp:80:a.example:80: 1 live of 3, 5 bytes in, 7 out\n"
        );
        (rule.failures, rule.aside, rule.last_error) = (2, true, Some("refused\n".to_owned()));
        assert_eq!(
            rule_line(&rule),
            "0123456789ab  ingress tcp:80:a.example:80: 1 live of 3, 5 bytes in, 7 out, 2 failed, put aside, \
             last: refused \n"
        );
        let mut peer = MeshPeer {
            name: None,
            public_key: "K".to_owned(),
            endpoint: None,
            through: None,
            trying_seconds: None,
            allowed_ips: Vec::new(),
            handshake_seconds: None,
            received_bytes: 1,
            sent_bytes: 2,
            connections_now: 0,
            connections_refused: 0,
        };
        assert_eq!(peer_line(&peer), "peer K at nowhere yet: keys agreed never, 1 bytes in, 2 out\n");
        (peer.through, peer.trying_seconds) = (Some("east".to_owned()), Some(7));
        assert_eq!(
            peer_line(&peer),
            "peer K through hub east: keys agreed never, no answer for 7 s, 1 bytes in, 2 out\n"
        );
        peer.connections_refused = 3;
        assert!(peer_line(&peer).ends_with("2 out, 3 connections refused beyond its share\n"));
        let mut organization = MeshOrg {
            organization: "acme".to_owned(),
            device: "one".to_owned(),
            revision: 7,
            devices: 3,
            registrar: "https://r:1".to_owned(),
            reachable: true,
            since_seconds: 5,
            error: None,
            hub: false,
            hubs: Vec::new(),
            outside: Vec::new(),
        };
        let begin = "one of acme, revision 7, devices: 3; registrar https://r:1 ";
        assert_eq!(organization_line(&organization), format!("{begin}followed for 5 s\n"));
        organization.error = Some("it is silent".to_owned());
        assert_eq!(organization_line(&organization), format!("{begin}not reached for 5 s: it is silent\n"));
    }
}
