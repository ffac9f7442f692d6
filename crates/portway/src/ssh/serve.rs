//! `portway ssh serve`: arguments to the gateway's own entry.

use std::io::{self, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use portway_config::Paths;
use portway_control::api::FailureKind;
use portway_incus::Client;
use portway_sshgw::broker::{self, ServeError, ServeOptions};

use crate::cli::ssh::ServeArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::service::{settings, wrong_settings};
use crate::session::{paths, wrong_paths};

/// Runs the gateway until it is told to end.
pub(super) fn run(args: &ServeArgs) -> Outcome {
    let listen = address(&args.listen)?;
    let paths = paths()?;
    paths.prepare().map_err(|error| wrong_paths(&error))?;
    let settings = settings(&paths)?;
    // Only root can become somebody else.
    let ids = if rustix::process::geteuid().is_root() {
        Some(settings.daemon.user.lookup().map_err(|error| wrong_settings(&error))?)
    } else {
        None
    };
    let discovered = || Client::discover(|name| std::env::var(name).ok());
    let incus = settings.incus.socket.clone().or_else(discovered);
    let incus = incus.ok_or_else(|| {
        Stop::of(FailureKind::Unreachable, "there is no Incus on this host")
            .hint("INCUS_SOCKET names its socket")
    })?;
    let options = ServeOptions {
        listen,
        sessions: sessions_dir(&paths),
        host_key: paths.ssh_host_key,
        audit: paths.ssh_audit,
        incus,
        ids,
        log: settings.daemon.log,
    };
    broker::serve(options, |address| {
        // Whoever reads along may go; the gateway stays.
        let mut stdout = io::stdout();
        let _unheard = writeln!(stdout, "ready {address}").and_then(|()| stdout.flush());
    })
    .map_err(|error| failed(&error))
}

/// Where sessions are noted: beside the control socket.
pub(super) fn sessions_dir(paths: &Paths) -> PathBuf {
    paths.socket.with_file_name("ssh")
}

fn failed(error: &ServeError) -> Stop {
    let stop = Stop::refused(chain(error));
    match error {
        ServeError::Listen { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            stop.hint("run as root, or listen on a port from 1024 on")
        }
        _ => stop,
    }
}

/// `ADDRESS:PORT`, or `:PORT` for all addresses of both families.
fn address(text: &str) -> Outcome<SocketAddr> {
    let wrong =
        || Stop::usage(format!("cannot listen on {text:?}")).hint("as in 0.0.0.0:2222, [::1]:2222, :2222");
    match text.strip_prefix(':') {
        Some(port) => {
            let port: u16 = port.parse().map_err(|_| wrong())?;
            Ok((Ipv6Addr::UNSPECIFIED, port).into())
        }
        None => text.parse().map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_port_alone() {
        for (text, expected) in
            [(":2222", "[::]:2222"), ("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:22", "[::1]:22")]
        {
            assert_eq!(address(text).unwrap().to_string(), expected);
        }
        for text in ["", ":", "2222", ":x", ":65536", "host:22", "::1:22"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
