//! `portway mesh`: keys, files, and networks that run.

mod check;
mod clash;
mod events;
mod genconf;
mod join;
mod live;
mod network;
mod outside;
mod owner;
mod ping;
mod proxy;
mod registrar;

use std::io::Read as _;
use std::path::PathBuf;

use portway_config::paths::DIR_VARIABLE;
use portway_control::api::FailureKind;
use portway_mesh::org::ClientError;
use portway_mesh::proxy::{Home, HomeError};
use portway_mesh::spec::{PresharedKey, PrivateKey, SpecError};
use zeroize::Zeroizing;

use crate::cli::mesh::MeshCommand;
use crate::failure::{Outcome, Stop, chain};
use crate::output::Out;

pub(crate) use network::{NETWORKS, network};
pub(crate) use outside::{Symmetric, symmetric};

/// Runs one of the commands.
pub(crate) fn run(command: &MeshCommand) -> Outcome {
    match command {
        MeshCommand::Check(args) => check::run(args),
        MeshCommand::Proxy(args) => proxy::run(args),
        MeshCommand::Status(args) => live::status(args),
        MeshCommand::Ping(args) => ping::run(args),
        MeshCommand::Events(args) => events::run(args),
        MeshCommand::Rule(command) => live::rule(command),
        MeshCommand::Genconf(args) => genconf::run(args),
        MeshCommand::Genkey => Out::new().line(&PrivateKey::generate().map_err(no_random)?.reveal()),
        MeshCommand::Genpsk => Out::new().line(&PresharedKey::generate().map_err(no_random)?.reveal()),
        MeshCommand::Pubkey => pubkey(),
        MeshCommand::Registrar(args) => registrar::run(args),
        MeshCommand::Org(command) => owner::org(command),
        MeshCommand::Key(command) => owner::key(command),
        MeshCommand::Device(command) => owner::device(command),
        MeshCommand::Join(args) => join::join(args),
        MeshCommand::Export(args) => join::export(args),
    }
}

fn no_random<E: std::fmt::Display>(error: E) -> Stop {
    Stop::refused(format!("no random numbers: {error}"))
}

fn pubkey() -> Outcome {
    /// More than a key and its line end; anything longer is none.
    const READ_MAX_BYTES: u64 = 1024;
    let mut text = Zeroizing::new(String::new());
    let read = std::io::stdin().take(READ_MAX_BYTES).read_to_string(&mut text);
    read.map_err(|error| Stop::usage(format!("cannot read standard input: {}", chain(&error))))?;
    let key: PrivateKey =
        text.trim().parse().map_err(|error| Stop::usage(format!("standard input: private key: {error}")))?;
    Out::new().line(&key.public().to_string())
}

/// Where the files of a network are.
fn home(name: &str) -> Outcome<Home> {
    let variable = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(Into::into);
    Home::find(name, variable, rustix::process::geteuid().is_root()).map_err(|error| no_home(&error))
}

/// What is wrong with them.
fn no_home(error: &HomeError) -> Stop {
    match error {
        HomeError::Name(_) | HomeError::Damaged { .. } => Stop::usage(chain(error)),
        HomeError::Runs(_) | HomeError::Organization { .. } => {
            Stop::refused(chain(error)).hint("`--name` gives this one another name")
        }
        HomeError::File { .. } => Stop::refused(chain(error)),
        HomeError::Unsafe { .. } => Stop::refused(chain(error)).hint("`chmod go-w` it, or name another one"),
    }
}

/// Where registrars and memberships are kept: below `PORTWAY_DIR`, else root's or the user's own folder of state.
fn state_dir() -> Outcome<PathBuf> {
    let path = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = path(DIR_VARIABLE) {
        let absolute = std::path::absolute(&dir);
        return absolute.map_err(|error| Stop::usage(format!("PORTWAY_DIR: {}", chain(&error))));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/portway"));
    }
    let state = path("XDG_STATE_HOME").filter(|dir| dir.is_absolute());
    let state = state.or_else(|| path("HOME").map(|home| home.join(".local/state")));
    let state = state.ok_or_else(|| Stop::usage("neither PORTWAY_DIR, XDG_STATE_HOME nor HOME is set"))?;
    Ok(state.join("portway"))
}

/// A registrar's no, with the exit code that it has.
fn denied(error: &ClientError) -> Stop {
    let kind = match error {
        ClientError::Unreachable { .. } => FailureKind::Unreachable,
        ClientError::Refused { status: 404, .. } => FailureKind::Missing,
        ClientError::Refused { status: 400, .. } => FailureKind::Usage,
        ClientError::Refused { status: 503, .. } => FailureKind::Unreachable,
        ClientError::Stranger { .. }
        | ClientError::Refused { .. }
        | ClientError::Strange { .. }
        | ClientError::Unverified(_) => FailureKind::Refused,
    };
    Stop::of(kind, chain(error))
}

/// What is wrong with a network, with the exit code that it has.
fn unusable(error: &SpecError) -> Stop {
    let stop = if error.is_malformed() { Stop::usage(chain(error)) } else { Stop::refused(chain(error)) };
    match error.hint() {
        Some(hint) => stop.hint(hint),
        None => stop,
    }
}
