//! A network of `[mesh.NAME]`: what the daemon is told of it, and its process.
//!
//! Both read the same words: the flags of `portway mesh proxy`. Nothing of the daemon's environment is part of a network.

use std::fs::File;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use portway_config::{MeshBalance, MeshEngine, MeshSettings, MeshSource};
use portway_control::api::{Failure, FailureKind};
use portway_daemon::{Judged, NetworkRole};
use portway_mesh::org::Trust;
use portway_mesh::proxy::{self, Confine, Notice, Options};
use portway_mesh::spec::{FilesAlone, PortRights, Request, proxies};
use portway_model::Direction;

use super::{proxy as foreground, unusable};
use crate::cli::mesh::{MeshCommand, ProxyArgs};
use crate::cli::{Cli, Command};
use crate::failure::{Outcome, Stop, exit_code, of_arguments, printable};
use crate::role;

/// What the daemon knows of networks.
pub(crate) const NETWORKS: NetworkRole = NetworkRole { role: role::NETWORK, rehearse: REHEARSE, judge };

/// Behind the ids: nothing is opened.
const REHEARSE: &str = "rehearse";

/// Longest line that the daemon is told, bytes.
const LINE_BYTES: usize = 2000;

/// Reads a network as its process will.
fn judge(settings: &MeshSettings) -> Result<Judged, Failure> {
    let flags = flags(settings);
    let judged = options(&flags).map(|(options, trust)| {
        let rule = |entry: &portway_mesh::spec::RuleEntry| {
            (entry.rule.direction().to_string(), entry.rule.to_string())
        };
        let Options { spec, engine, policy, drain, .. } = &options;
        Judged {
            key: options.identity(),
            drain: *drain,
            fingerprint: format!("{} {engine:?} {policy:?} {drain:?} {trust:?}", spec.fingerprint()),
            rules: spec.rules.iter().map(rule).collect(),
            warnings: spec
                .warnings
                .iter()
                .map(ToString::to_string)
                .chain(foreground::clash(&spec.network))
                .map(|warning| printable(&warning))
                .collect(),
            flags,
        }
    });
    judged.map_err(failure)
}

fn failure(stop: Stop) -> Failure {
    let other = |text: &str| Failure { kind: FailureKind::Internal, error: text.to_owned(), hint: None };
    match stop {
        Stop::Failed(failure) => Failure {
            error: printable(&failure.error),
            hint: failure.hint.map(|hint| printable(&hint)),
            ..failure
        },
        Stop::ReaderGone | Stop::Found | Stop::Status(_) => other("it has ended"),
    }
}

/// What is said in the file, as flags of `portway mesh proxy`.
fn flags(settings: &MeshSettings) -> Vec<String> {
    let MeshSettings { name, source, rules, engine, balance, drain } = settings;
    let mut flags = vec![format!("--name={name}")];
    match source {
        MeshSource::Config(path) => flags.push(format!("--config={}", path.display())),
        MeshSource::Org { name, listen_port } => {
            flags.push(format!("--org={name}"));
            flags.extend(listen_port.map(|port| format!("--listen-port={port}")));
        }
    }
    flags.push(format!(
        "--engine={}",
        match engine {
            MeshEngine::Auto => "auto",
            MeshEngine::Kernel => "kernel",
            MeshEngine::Smoltcp => "smoltcp",
        }
    ));
    flags.push(format!(
        "--balance={}",
        match balance {
            MeshBalance::RoundRobin => "round-robin",
            MeshBalance::LeastConnections => "least-connections",
        }
    ));
    flags.extend(drain.map(|seconds| format!("--drain={seconds}")));
    flags.extend(rules.iter().map(|rule| match rule.direction() {
        Direction::Ingress => format!("--ingress={rule}"),
        Direction::Egress => format!("--egress={rule}"),
    }));
    flags
}

fn options(flags: &[String]) -> Outcome<(Options, Option<Trust>)> {
    let args = arguments(flags)?;
    let request = Request { is_configured: true, ..args.network.request() };
    let (joined, trust) = match foreground::unread(&args.organization)? {
        Some((network, joined, trust)) => (Some((network, joined)), Some(trust)),
        None => (None, None),
    };
    let options = foreground::options(&args, &request, joined, &FilesAlone)?;
    // It will have no privilege when it opens ports.
    let rights = PortRights { privileged: false, ..PortRights::here() };
    let allowed = options.spec.rules.allowed(rights);
    let allowed = allowed.and_then(|()| proxies::allowed(&options.spec.proxies, rights));
    allowed.map_err(|error| unusable(&error))?;
    Ok((options, trust))
}

fn arguments(flags: &[String]) -> Outcome<Box<ProxyArgs>> {
    let words = ["portway", "mesh", "proxy"].into_iter().map(str::to_owned).chain(flags.iter().cloned());
    match Cli::try_parse_from(words) {
        Ok(Cli { command: Command::Mesh(MeshCommand::Proxy(args)) }) => Ok(args),
        Ok(_) => Err(Stop::usage("that is no network")),
        Err(error) => Err(of_arguments(&error.render().to_string())),
    }
}

/// Role `portway mesh-network UID GID [rehearse] FLAGS`: a network, begun as the daemon and run as that user; `-` for both:
/// as who it is. With `rehearse` it only says whether it could be run, and leaves the one that runs alone. Descriptor 3 is a pipe on which the daemon is told how it goes, in lines that begin with `ready`, `trouble` or
/// `failed`. The daemon may have gone.
pub(crate) fn network(arguments: &[String]) -> ExitCode {
    let teller = portway_sys::process::inherited(portway_sys::process::FIRST_FD).map(File::from);
    let tell = |kind: &str, text: &str| {
        let mut line = format!("{kind} {}", printable(text));
        line.truncate(line.floor_char_boundary(LINE_BYTES));
        line.push('\n');
        // Nobody may be there to read it, or to read it in time.
        let _unheard = teller.as_ref().map(|mut pipe| pipe.write_all(line.as_bytes()));
    };
    match serve(arguments, &tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => {
            let failure = failure(stop);
            let hint = failure.hint.map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            tell("failed", &format!("{}{hint}", failure.error));
            ExitCode::from(exit_code(failure.kind))
        }
    }
}

fn serve(arguments: &[String], tell: &impl Fn(&str, &str)) -> Outcome {
    let [uid, gid, flags @ ..] = arguments else {
        return Err(Stop::usage("a network is started by the daemon only"));
    };
    let (is_rehearsal, flags) = match flags {
        [first, flags @ ..] if first == REHEARSE => (true, flags),
        flags => (false, flags),
    };
    let ids = match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => Some((uid, gid)),
        _ if uid == "-" && gid == "-" => None,
        _ => return Err(Stop::usage("uid and gid are none")),
    };
    portway_sys::process::set_name("portway-mesh");
    proxy::log(&foreground::log_filter(None)?);
    let (mut options, _) = options(flags)?;
    options.confine = Some(Confine { ids });
    if is_rehearsal {
        proxy::rehearse(options).map_err(|error| foreground::stop(&error))?;
        tell("ready", "it could be started");
        return Ok(());
    }
    let report = |notice| match notice {
        Notice::Ready(ready) => tell("ready", foreground::ready_line(&ready).trim_start_matches("ready: ")),
        Notice::Trouble(text) => tell("trouble", &text),
    };
    let is_joined = options.joined.is_some();
    let entered = proxy::enter(options).map_err(|error| foreground::stop(&error))?;
    // That of a file was said by the daemon.
    if let Some(clash) = foreground::clash(entered.network()).filter(|_| is_joined) {
        tell("trouble", &format!("warning: {clash}"));
    }
    entered.run(report).map_err(|error| foreground::stop(&error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Fails when: something of the file does not reach the network, or its rules are part of what it is.
    #[test]
    fn what_the_file_says_is_what_is_judged() {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node.conf");
        let text = "[Interface]\nPrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\nAddress = 10.9.0.1/24\n\
            [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = 10.9.0.2/32\n";
        std::fs::write(&node, text).unwrap();
        std::fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let judge_text = |more: &str| {
            let text = format!("[mesh.n]\nconfig = \"{}\"\n{more}", node.display());
            let settings = portway_config::Settings::parse(Path::new("p.toml"), &text).unwrap();
            judge(&settings.mesh[0])
        };
        let plain = judge_text("").unwrap();
        let ruled = judge_text("egress = [\"TCP:08080:10.9.0.2:80\"]").unwrap();
        assert_eq!(plain.fingerprint, ruled.fingerprint);
        assert_eq!(ruled.rules, [("egress".to_owned(), "tcp:8080:10.9.0.2:80".to_owned())]);
        for more in ["engine = \"smoltcp\"", "balance = \"least-connections\"", "drain = 3"] {
            assert_ne!(judge_text(more).unwrap().fingerprint, plain.fingerprint, "{more}");
        }
        let refused = judge_text("egress = [\"tcp:80:10.8.0.2:80\"]").unwrap_err();
        assert_eq!(
            refused.error,
            "portway.toml: egress rule `tcp:80:10.8.0.2:80`: no peer has 10.8.0.2 in its allowed IPs"
        );
        // It will be no root's process.
        let refused = judge_text("egress = [\"tcp:22:10.9.0.2:80\"]").unwrap_err();
        assert_eq!(refused.error, "portway.toml: cannot listen on tcp:22: ports below 1024 need a privilege");
        std::fs::write(&node, text.replace("Address", "Adress")).unwrap();
        let refused = judge_text("").unwrap_err();
        assert!(refused.error.contains("node.conf:3:"), "{}", refused.error);
    }
}
