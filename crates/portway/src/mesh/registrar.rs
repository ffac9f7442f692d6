//! `portway mesh registrar`: arguments to a registrar that runs.

use std::io::{self, Write as _};

use portway_control::api::FailureKind;
use portway_mesh::org::registrar::run::{self, RunError, RunOptions};
use portway_mesh::org::store::{EtcdAddress, StoreError, etcd_tls};

use super::state_dir;
use crate::cli::mesh::orgs::{RegistrarArgs, StateArg};
use crate::failure::{Outcome, Stop, chain};

/// The folder of the registrar.
pub(super) fn folder(state: &StateArg) -> Outcome<std::path::PathBuf> {
    state.state.clone().map_or_else(state_dir, Ok)
}

/// Runs one until it is told to end.
pub(super) fn run(args: &RegistrarArgs) -> Outcome {
    if args.second_port == Some(args.listen.port()) {
        return Err(Stop::usage(format!("--second-port {} is the port of --listen", args.listen.port())));
    }
    let options = RunOptions {
        listen: args.listen,
        second_port: args.second_port,
        dir: folder(&args.state)?,
        etcd: etcd(args)?,
    };
    let ready = |listen| {
        // Whoever reads along may go.
        let _unheard = writeln!(io::stdout(), "ready {listen}").and_then(|()| io::stdout().flush());
    };
    run::run(&options, ready).map_err(|error| {
        let kind = match &error {
            RunError::Store(StoreError::Unreachable(_)) => FailureKind::Unreachable,
            _ => FailureKind::Refused,
        };
        Stop::of(kind, chain(&error))
    })
}

fn etcd(args: &RegistrarArgs) -> Outcome<Option<EtcdAddress>> {
    let has_tls = args.etcd_ca.is_some() || args.etcd_cert.is_some();
    let Some(text) = &args.store else {
        if has_tls {
            return Err(Stop::usage("--etcd-ca and --etcd-cert are for --store etcds://"));
        }
        return Ok(None);
    };
    let address: EtcdAddress = text.parse().map_err(|error| Stop::usage(format!("--store: {error}")))?;
    if !address.wants_tls() {
        if has_tls {
            return Err(Stop::usage("--store etcd:// is without TLS").hint("write etcds://"));
        }
        return Ok(Some(address));
    }
    let authority = args.etcd_ca.as_deref();
    let authority = authority.ok_or_else(|| Stop::usage("--store etcds:// needs --etcd-ca"))?;
    let identity = args.etcd_cert.as_deref().zip(args.etcd_key.as_deref());
    let tls = etcd_tls(authority, identity).map_err(|error| Stop::refused(chain(&error)))?;
    Ok(Some(address.with_tls(tls)))
}
