//! Checks of Portway itself: paths, settings, the daemon.

use std::env;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_config::paths::{DIR_VARIABLE, SOCKET_PATH_MAX_BYTES};
use portway_config::{Caller, Paths, PathsError, RelayUser, Settings};
use portway_control::api::{NetworkState, NetworkStatus, Server};
use portway_control::{Client, ClientError, Limits};
use portway_nat::{Nat, TableName};
use portway_sshgw::broker;

use super::{Finding, kernel};
use crate::failure::chain;
use crate::mesh::{Symmetric, symmetric};
use crate::output::human;
use crate::ssh;

/// Longest wait for the daemon.
const WAIT: Duration = Duration::from_secs(3);

const DAEMON: &str = "daemon";

/// Runs the checks; also gives what the daemon said, if it did.
pub(super) async fn check() -> (Vec<Finding>, Option<Server>) {
    let paths = match Paths::from_env(|name| env::var_os(name)) {
        Ok(paths) => paths,
        Err(error) => {
            let finding = Finding::fail("dir", chain(&error), "set PORTWAY_DIR to an absolute path");
            return (vec![finding], None);
        }
    };
    let mut findings = vec![dir(&paths), socket_path(&paths)];
    findings.extend(settings(&paths));
    findings.extend(gateway(&paths));
    let limits = Limits { ask: WAIT, ..Limits::default() };
    let answer = Client::with_limits(&paths.socket, limits).server().await;
    match answer {
        Ok(server) => {
            findings.extend(daemon(&server));
            findings.extend(server.networks.iter().map(network));
            findings.extend(server.networks.iter().filter_map(seen_from_outside));
            (findings, Some(server))
        }
        Err(error) => {
            findings.push(no_daemon(&error));
            findings.extend(left_table(&paths));
            (findings, None)
        }
    }
}

/// The SSH gateway, where there is or ought to be one.
fn gateway(paths: &Paths) -> Option<Finding> {
    const CHECK: &str = "ssh";
    let is_wanted = Settings::load(&paths.config).is_ok_and(|settings| settings.ssh.daemon);
    match broker::running(&ssh::sessions_dir(paths)) {
        Some(pid) => Some(Finding::ok(CHECK, format!("the SSH gateway runs, pid {pid}"))),
        None if is_wanted => {
            let mend = "the daemon's log says why; `portway ssh serve` tries it by hand";
            Some(Finding::warn(CHECK, "the SSH gateway of [ssh] does not run", mend))
        }
        None => None,
    }
}

/// A network of `[mesh.NAME]`.
fn network(network: &NetworkStatus) -> Finding {
    const CHECK: &str = "mesh";
    let name = &network.name;
    match (network.state, &network.error, &network.engine_reason) {
        (NetworkState::Running, Some(why), _) => Finding::warn(
            CHECK,
            format!("network {name} runs: {why}"),
            "mend its file, then SIGHUP the daemon",
        ),
        (NetworkState::Running, None, Some(why)) => {
            let text = format!("network {name} runs with smoltcp, which is slower: {why}");
            Finding::warn(CHECK, text, kernel::userns_mend())
        }
        (NetworkState::Running, None, None) => Finding::ok(CHECK, format!("network {name} runs")),
        (NetworkState::Starting, ..) => Finding::ok(CHECK, format!("network {name} is started")),
        (NetworkState::Ending | NetworkState::Ended, ..) => {
            Finding::ok(CHECK, format!("network {name} ends"))
        }
        (NetworkState::Failed, why, _) => {
            let why = why.as_deref().unwrap_or("its process has ended");
            let mend = "mend what it says; it is tried again at SIGHUP, else within a minute";
            Finding::fail(CHECK, format!("network {name} does not run: {why}"), mend)
        }
    }
}

/// A network whose device cannot be met by all.
fn seen_from_outside(network: &NetworkStatus) -> Option<Finding> {
    const CHECK: &str = "mesh";
    let organization = network.organization.as_ref().filter(|_| network.state == NetworkState::Running)?;
    let Symmetric { text, mend } = symmetric(organization)?;
    let text = format!("network {}: {text}", network.name);
    Some(match mend {
        Some(mend) => Finding::warn(CHECK, text, mend),
        None => Finding::ok(CHECK, text),
    })
}

fn dir(paths: &Paths) -> Finding {
    const CHECK: &str = "dir";
    let Some(dir) = &paths.dir else {
        return Finding::ok(CHECK, format!("{DIR_VARIABLE} is not set: the system's own Portway"));
    };
    match paths.check(Caller::Client) {
        // Has a line of its own.
        Ok(()) | Err(PathsError::TooLong { .. }) => {}
        Err(error) => {
            let hint = error.hint().unwrap_or_else(|| "use another folder, or unset it".to_owned());
            return Finding::fail(CHECK, chain(&error), hint);
        }
    }
    let system = Paths::system();
    if UnixStream::connect(&system.socket).is_ok() {
        return Finding::warn(
            CHECK,
            format!(
                "{DIR_VARIABLE} is {}: commands here do not reach the daemon on {}",
                dir.display(),
                system.socket.display()
            ),
            format!("unset {DIR_VARIABLE} to steer that daemon; two daemons cannot publish the same port"),
        );
    }
    Finding::ok(CHECK, format!("{DIR_VARIABLE} is {}", dir.display()))
}

fn socket_path(paths: &Paths) -> Finding {
    const CHECK: &str = "socket";
    if let Err(error @ PathsError::TooLong { .. }) = paths.check(Caller::Client) {
        return Finding::fail(CHECK, error.to_string(), error.hint().unwrap_or_default());
    }
    let length = paths.socket.as_os_str().as_bytes().len();
    Finding::ok(CHECK, format!("{}: {length} of {SOCKET_PATH_MAX_BYTES} bytes", paths.socket.display()))
}

fn settings(paths: &Paths) -> Vec<Finding> {
    const CHECK: &str = "settings";
    let settings = match Settings::load(&paths.config) {
        Ok(settings) => settings,
        Err(error) => {
            let hint = error.hint().unwrap_or_else(|| "mend the file, or remove it".to_owned());
            return vec![Finding::fail(CHECK, chain(&error), hint)];
        }
    };
    let there = paths.config.exists();
    let text = if there { "is well-formed" } else { "is not there: defaults" };
    vec![Finding::ok(CHECK, format!("{} {text}", paths.config.display())), user(&settings)]
}

fn user(settings: &Settings) -> Finding {
    const CHECK: &str = "user";
    match settings.daemon.user.lookup() {
        Ok(ids) if settings.daemon.user == RelayUser::Default && ids.uid == 65_534 => Finding::warn(
            CHECK,
            "no user portway: relay workers run as uid 65534, which other programs may use too",
            "`systemd-sysusers` with our sysusers.d file, or `groupadd --system portway-relay` and `useradd --system --gid portway-relay portway`",
        ),
        Ok(ids) if control_group() == Some(ids.gid) => Finding::fail(
            CHECK,
            format!(
                "relay workers run with group portway (gid {}), which may use the control socket",
                ids.gid
            ),
            "`groupadd --system portway-relay` and `usermod --gid portway-relay portway`",
        ),
        Ok(ids) => Finding::ok(CHECK, format!("relay workers run as uid {}, gid {}", ids.uid, ids.gid)),
        Err(error) => {
            let hint = error.hint().unwrap_or_else(|| "look at /etc/nsswitch.conf".to_owned());
            Finding::fail(CHECK, chain(&error), hint)
        }
    }
}

/// The group whose members may use the control socket, if the system has it.
fn control_group() -> Option<u32> {
    nix::unistd::Group::from_name("portway").ok().flatten().map(|group| group.gid.as_raw())
}

fn no_daemon(error: &ClientError) -> Finding {
    let mend = match error {
        ClientError::Unreachable { .. } => "start it: `systemctl start portway`, or `portway daemon`",
        error => error.hint().unwrap_or("look at the daemon's log"),
    };
    Finding::fail(DAEMON, chain(error), mend)
}

/// A table that leads though no daemon runs: nobody follows the instances' addresses.
fn left_table(paths: &Paths) -> Option<Finding> {
    let name = TableName::new(&paths.nft_table())?;
    let is_left = Nat::open(name.clone()).and_then(|mut nat| nat.exists()).unwrap_or(false);
    is_left.then(|| {
        Finding::warn(
            "table",
            format!(
                "the table inet {name} leads published ports to the addresses that instances had when the daemon ended, \
                 whoever has them now"
            ),
            "start the daemon; or `portway daemon --purge` ends all that is published",
        )
    })
}

fn daemon(server: &Server) -> Vec<Finding> {
    let up = human::seconds(server.uptime_seconds);
    let ours = env!("CARGO_PKG_VERSION");
    let mut findings = vec![if server.version == ours {
        Finding::ok(DAEMON, format!("version {ours}, pid {}, up {up}", server.pid))
    } else {
        Finding::warn(
            DAEMON,
            format!("version {}, this command is {ours}", server.version),
            "restart the daemon: no port closes and no connection ends",
        )
    }];
    let warnings = server.warnings.iter();
    findings.extend(warnings.map(|text| Finding::warn(DAEMON, text.clone(), "see `portway status`")));
    findings
}
