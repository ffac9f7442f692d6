//! Checks of the servers: is there one, does it answer, does it let us.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use portway_config::Settings;
use portway_control::api::ProviderStatus;
use portway_incus::{Client, IncusError, Limits};
use rustix::process::geteuid;

use super::{Finding, Status};
use crate::failure::chain;

/// Longest wait for a server: it answers within milliseconds, or hangs.
const WAIT: Duration = Duration::from_secs(3);

/// Runs the checks. What the daemon follows goes before what this command would find by itself: their
/// environments may differ.
pub(super) async fn check(daemon: Option<&portway_control::api::Server>) -> Vec<Finding> {
    let providers = daemon.map_or(&[] as &[_], |daemon| daemon.providers.as_slice());
    let mut findings = Vec::new();
    let followed = |name: &str| providers.iter().find(|provider| provider.name == name);
    let endpoint =
        |name: &str| followed(name).and_then(|provider| provider.endpoint.as_deref()).map(PathBuf::from);
    let variable = |name: &str| env::var(name).ok();
    let settings = crate::session::paths().ok().and_then(|paths| Settings::load(&paths.config).ok());
    let settings = settings.unwrap_or_default();
    let incus = endpoint("incus").or(settings.incus.socket).or_else(|| Client::discover(variable));
    let lxd = endpoint("lxd").or(settings.lxd.socket).or_else(|| Client::discover_lxd(variable));
    if incus.is_none() && lxd.is_none() {
        findings.push(Finding::warn(
            "servers",
            "no socket of Incus or LXD: namespaces and processes can be served, instances cannot",
            "install Incus or LXD, or set INCUS_SOCKET, INCUS_DIR, LXD_SOCKET or LXD_DIR to where it is",
        ));
    }
    for (name, socket) in [("incus", incus), ("lxd", lxd)] {
        let Some(socket) = socket else { continue };
        let own = server(name, socket).await;
        // Where nobody reaches it one line is enough.
        let daemons = followed(name).and_then(unreached).filter(|_| own.status != Status::Fail);
        findings.extend(daemons);
        findings.push(own);
    }
    findings
}

/// What the daemon says of a server that answers here. Without a socket it is not installed: that is no failure, and has
/// its own line.
fn unreached(provider: &ProviderStatus) -> Option<Finding> {
    provider.endpoint.as_ref()?;
    let error = provider.error.as_deref().filter(|_| !provider.reachable)?;
    let text = format!("the daemon cannot reach {}: {error}", provider.name);
    Some(Finding::fail("servers", text, "it tries again every second; look at its log"))
}

async fn server(check: &'static str, socket: PathBuf) -> Finding {
    let place = socket.display().to_string();
    let limits = Limits { request: WAIT, ..Limits::default() };
    let answer = Client::with_limits(socket, limits).server().await;
    match answer {
        Ok(server) if server.auth != "trusted" => Finding::fail(
            check,
            format!("{place} answers, but does not trust us"),
            "use the socket of the server's administrators, not that of its users",
        ),
        Ok(server) if server.product != check => Finding::warn(
            check,
            format!("{} {} on {place}, where {check} was looked for", server.product, server.version),
            "it is served all the same; look at the variables and settings that name the socket",
        ),
        Ok(server) => Finding::ok(check, format!("{} on {place}", server.version)),
        Err(error) => unanswered(check, &error),
    }
}

fn unanswered(check: &'static str, error: &IncusError) -> Finding {
    let text = chain(error);
    match error {
        IncusError::Denied { .. } if !geteuid().is_root() => Finding::warn(
            check,
            text,
            "the daemon, as root, may ask it all the same; `sudo portway doctor` knows",
        ),
        IncusError::Unreachable { .. } => {
            let hint = if check == "lxd" { "systemctl start lxd" } else { "systemctl start incus" };
            Finding::fail(check, text, format!("start the server: `{hint}`"))
        }
        _ => Finding::fail(check, text, "look at the server's own log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a server that is not installed counts as one that does not answer.
    #[test]
    fn a_server_without_a_socket_is_no_failure() {
        let status = |endpoint: Option<&str>, error: Option<&str>| ProviderStatus {
            name: "incus".to_owned(),
            endpoint: endpoint.map(str::to_owned),
            reachable: error.is_none(),
            error: error.map(str::to_owned),
        };
        assert_eq!(unreached(&status(None, Some("no incus socket was found"))), None);
        assert_eq!(unreached(&status(Some("/run/s"), None)), None);
        assert!(unreached(&status(Some("/run/s"), Some("connection refused"))).is_some());
    }
}
