//! What a daemon or a foreground device decides before it starts: ids, sandbox, limits, providers.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portway_config::Settings;
use portway_control::api::{Failure, FailureKind};
use portway_model::{GroupIds, Provider};
use portway_relay::wire::{Ids, Lifetime, Sandbox};
use portway_sys::sandbox::{self, Denies};
use portway_sys::userns::IdMap;
use portway_sys::{netns, process};
use tracing::warn;

use crate::hub::{HubSettings, failure};
use crate::provider::{Endpoint, Providers};
use crate::state::with_sources;

/// Largest id of the initial user namespace, which is identity-mapped there (user_namespaces(7)).
const LAST_ID: u32 = u32::MAX - 1;

/// An operating-system error as a failure.
pub(crate) fn io_failure(doing: &str, source: &std::io::Error) -> Failure {
    failure(FailureKind::Refused, format!("cannot {doing}: {}", with_sources(source)))
}

/// Decides what workers are like. `seal_key` is the file of the key that notes of moving devices are sealed with.
///
/// # Errors
/// When the configured user does not exist, or `/proc` cannot be read.
pub(crate) fn hub_settings(
    settings: &Settings,
    workers_dir: PathBuf,
    seal_key: PathBuf,
    lifetime: Lifetime,
) -> Result<HubSettings, Failure> {
    let nofile = process::raise_nofile();
    let own = netns::current().and_then(|namespace| netns::id(namespace.as_fd()));
    let map = IdMap::of_pid(process_id())
        .map_err(|source| io_failure("read the id map of this process", &source))?;
    let root = rustix::process::geteuid().is_root();
    let wanted = settings.daemon.user.lookup();
    let ids = wanted.map_err(|problem| failure(FailureKind::Usage, with_sources(&problem)))?;
    let mapped = map.uids.to_host(ids.uid).is_some() && map.gids.to_host(ids.gid).is_some();
    let initial = map.uids.to_host(LAST_ID) == Some(LAST_ID);
    Ok(HubSettings {
        workers_dir,
        seal_key,
        worker_ids: (root && mapped).then_some(Ids {
            uid: ids.uid,
            gid: ids.gid,
            groups: GroupIds::default(),
        }),
        sandbox: if root && initial { Sandbox::Full } else { Sandbox::BestEffort },
        lifetime,
        owner_uid: rustix::process::geteuid().as_raw(),
        build: build(),
        nofile,
        own_netns: own.map_err(|source| io_failure("look at the network namespace", &source))?,
        network_environment: vec![("PORTWAY_LOG".into(), settings.daemon.log.as_str().into())],
    })
}

fn process_id() -> i32 {
    i32::try_from(std::process::id()).unwrap_or(i32::MAX)
}

/// Which build of the program runs: version, and time and size of its file.
fn build() -> String {
    let file =
        std::fs::metadata("/proc/self/exe").map(|meta| format!("{:x}.{:x}", meta.mtime(), meta.size()));
    format!("{}+{}", env!("CARGO_PKG_VERSION"), file.unwrap_or_default())
}

/// The providers of this process.
pub(crate) fn providers(settings: &Settings) -> Providers {
    let endpoint = |provider, socket: &Option<PathBuf>| Arc::new(Endpoint::new(provider, socket.clone()));
    Providers {
        incus: endpoint(Provider::Incus, &settings.incus.socket),
        lxd: endpoint(Provider::Lxd, &settings.lxd.socket),
    }
}

/// Gives up what is not needed: capabilities, ways to gain others, being looked into, and system calls that nothing of
/// ours makes. Called while there is one thread.
pub(crate) fn confine() {
    if rustix::process::geteuid().is_root()
        && let Err(failure) = sandbox::daemon_keep_caps()
    {
        warn!(error = %failure, "capabilities not reduced");
    }
    if let Err(failure) = sandbox::guard(Denies::Root) {
        warn!(error = %failure, "system calls not reduced");
    }
}

/// The folder a path lies in.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}
