//! `portway mesh proxy`: a network in the foreground.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portway_config::LogFilter;
use portway_mesh::engine::Way;
use portway_mesh::org::membership::{Identity, Membership};
use portway_mesh::org::{self, OrgName, Trust};
use portway_mesh::proxy::balance::Policy;
use portway_mesh::proxy::{self, EngineChoice, Joined, Notice, Options, ProxyError, Ready};
use portway_mesh::spec::{Here, Network, Request, Spec, Surroundings};
use portway_model::{Cidr, Port};

use super::{clash, join, unusable};
use crate::cli::mesh::{BalanceArg, EngineArg, OrganizationArgs, ProxyArgs};
use crate::doctor;
use crate::failure::{Outcome, Stop, chain, printable};

/// Runs it until it is told to end.
pub(super) fn run(args: &ProxyArgs) -> Outcome {
    let joined = joined(&args.organization)?;
    let options = options(args, &args.network.request(), joined, &Here)?;
    for warning in &options.spec.warnings {
        trouble(&format!("warning: {warning}"));
    }
    if let Some(clash) = clash(&options.spec.network) {
        trouble(&format!("warning: {clash}"));
    }
    proxy::log(&log_filter(args.log.as_deref())?);
    let report = |notice| match notice {
        Notice::Ready(ready) => {
            // Whoever reads along may go; the network stays.
            let line = ready_line(&ready) + "\n";
            let _unheard = io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush());
        }
        Notice::Trouble(text) => trouble(&text),
    };
    proxy::run(options, report).map_err(|error| stop(&error))
}

/// What is said, read and checked; of an organization with what is known of it.
pub(super) fn options(
    args: &ProxyArgs,
    request: &Request<'_>,
    joined: Option<(Network, Joined)>,
    around: &dyn Surroundings,
) -> Outcome<Options> {
    let (spec, joined) = match joined {
        Some((known, joined)) => (Spec::with(known, request, around), Some(joined)),
        None => (Spec::load(request, around), None),
    };
    Ok(Options {
        home: super::home(&name(args, joined.as_ref()))?,
        spec: spec.map_err(|error| unusable(&error))?,
        joined,
        engine: match args.engine {
            EngineArg::Auto => EngineChoice::Auto,
            EngineArg::Kernel => EngineChoice::Kernel,
            EngineArg::Smoltcp => EngineChoice::Smoltcp,
        },
        policy: match args.balance {
            BalanceArg::RoundRobin => Policy::RoundRobin,
            BalanceArg::LeastConnections => Policy::LeastConnections,
        },
        drain: Duration::from_secs(args.drain.into()),
        trace: args.trace.as_deref().map(trace).transpose()?,
        confine: None,
    })
}

/// What of the network's addresses this host has, too.
pub(super) fn clash(network: &Network) -> Option<String> {
    clash::with_host(network.addresses.iter().filter_map(|own| Cidr::around(own.ip, own.prefix)))
}

/// What is logged: as said here, else in the environment.
pub(super) fn log_filter(said: Option<&str>) -> Outcome<LogFilter> {
    let variable = || std::env::var("PORTWAY_LOG").ok().filter(|text| !text.is_empty());
    let (place, text) = match said {
        Some(text) => ("--log", text.to_owned()),
        None => ("PORTWAY_LOG", variable().unwrap_or_else(|| "warn".to_owned())),
    };
    LogFilter::new(&text).map_err(|error| Stop::usage(format!("{place}: {error}")))
}

/// The organization that is to run, as a network.
fn joined(args: &OrganizationArgs) -> Outcome<Option<(Network, Joined)>> {
    let said = args.org.as_ref().map(|org| org.parse::<OrgName>());
    let said = said.transpose().map_err(|error| Stop::usage(format!("--org: {error}")))?;
    let member = match (&args.join, &args.key, said) {
        (Some(url), Some(key), said) => {
            let wish = join::Joining {
                url,
                key,
                name: args.device.as_deref(),
                request_ip: args.request_ip,
                endpoints: &args.endpoints,
            };
            join::join_or_know(&wish, said.as_ref(), trouble)?
        }
        (_, _, Some(org)) => {
            Membership::load(&join::mesh_dir()?, &org).map_err(|error| join::not_member(&error))?
        }
        (_, _, None) if args.listen_port.is_some() => {
            return Err(Stop::usage("--listen-port is for an organization").hint("a file has a key for it"));
        }
        (_, _, None) => return Ok(None),
    };
    let (dir, org) = (member.folder().to_owned(), member.trust().org.clone());
    let port = args.listen_port.and_then(|port| Port::new(port.get()));
    let network = org::network(&member, port);
    let network = network.ok_or_else(|| stop(&ProxyError::Revoked(org.clone())))?;
    Ok(Some((network, Joined { dir, org })))
}

/// The same from this device's own key and whom it trusts: nothing is read that a registrar has sent.
pub(super) fn unread(args: &OrganizationArgs) -> Outcome<Option<(Network, Joined, Trust)>> {
    let Some(org) = &args.org else { return Ok(None) };
    let org: OrgName = org.parse().map_err(|error| Stop::usage(format!("--org: {error}")))?;
    let dir = Membership::dir(&join::mesh_dir()?, &org);
    let identity = Identity::load_in(&dir, &org).map_err(|error| join::not_member(&error))?;
    let port = args.listen_port.and_then(|port| Port::new(port.get()));
    Ok(Some((org::unread(&identity, port), Joined { dir, org }, identity.trust().clone())))
}

/// The file of a trace, for nobody else; another process may be writing to it, so it is not emptied here. Nothing that somebody else reads slowly: the tunnel writes it.
fn trace(path: &Path) -> Result<Arc<File>, Stop> {
    let open = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        let file = options.custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        file.set_permissions(Permissions::from_mode(0o600))?;
        Ok(Arc::new(file))
    };
    open().map_err(|error: io::Error| {
        Stop::refused(format!("cannot write {}: {error}", printable(&path.display().to_string())))
    })
}

pub(super) fn trouble(text: &str) {
    // There is nobody else to be told.
    let _unheard = writeln!(io::stderr(), "{}", printable(text));
}

/// What it is called: as was said, else as its organization or its file.
fn name(args: &ProxyArgs, joined: Option<&Joined>) -> String {
    let organization = joined.map(|joined| joined.org.to_string());
    args.name.clone().or(organization).unwrap_or_else(|| name_of(args.network.config.as_deref()))
}

fn name_of(config: Option<&Path>) -> String {
    let stem = config.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| "mesh".to_owned())
}

pub(super) fn ready_line(ready: &Ready) -> String {
    let way = match ready.way {
        Way::Tun => "a TUN device",
        Way::Veth => "a veth pair, since /dev/net/tun is not to be had",
        Way::Pair => "a unix pair",
    };
    let why = ready.why.as_ref().map(|why| format!(" (not kernel: {})", printable(why))).unwrap_or_default();
    let rules = match ready.rules {
        1 => "1 rule".to_owned(),
        count => format!("{count} rules"),
    };
    let proxies = match ready.proxies {
        0 => String::new(),
        1 => ", 1 proxy".to_owned(),
        count => format!(", {count} proxies"),
    };
    format!("ready: engine {}{why} by {way}, UDP port {}, {rules}{proxies}", ready.engine, ready.udp.port())
}

/// What is in the way, with the likely cure.
pub(super) fn stop(error: &ProxyError) -> Stop {
    match error {
        ProxyError::Spec(error) => unusable(error),
        ProxyError::Home(error) => super::no_home(error),
        ProxyError::Membership(error) => join::not_member(error),
        ProxyError::Revoked(_) => Stop::refused(chain(error))
            .hint("it can join again with a new key pair: remove its folder below mesh/ first"),
        error if error.is_no_namespace() => {
            Stop::refused(format!("no user namespace can be made: {}", chain(error)))
                .hint(doctor::userns_mend())
        }
        error => Stop::refused(chain(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_when_it_is_ready() {
        let udp = ([0, 0, 0, 0], 51_820).into();
        let ready = |way, rules| Ready { engine: "kernel", way, why: None, udp, rules, proxies: 0 };
        assert_eq!(
            ready_line(&ready(Way::Tun, 1)),
            "ready: engine kernel by a TUN device, UDP port 51820, 1 rule"
        );
        assert_eq!(
            ready_line(&ready(Way::Veth, 0)),
            "ready: engine kernel by a veth pair, since /dev/net/tun is not to be had, UDP port 51820, 0 rules"
        );
        assert_eq!(
            ready_line(&Ready { proxies: 2, ..ready(Way::Tun, 0) }),
            "ready: engine kernel by a TUN device, UDP port 51820, 0 rules, 2 proxies"
        );
        let why = Some("namespaces: Operation not permitted (os error 1)".to_owned());
        assert_eq!(
            ready_line(&Ready { engine: "smoltcp", why, ..ready(Way::Pair, 2) }),
            "ready: engine smoltcp (not kernel: namespaces: Operation not permitted (os error 1)) by a unix pair, \
             UDP port 51820, 2 rules"
        );
    }

    #[test]
    fn a_network_is_called_as_its_file() {
        assert_eq!(name_of(Some(Path::new("/etc/portway/home.toml"))), "home");
        assert_eq!(name_of(None), "mesh");
    }
}
