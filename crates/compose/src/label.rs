//! Keys by which what is ours is known again: `user.portway.*` in the configuration of projects, instances, networks
//! and volumes of the server.

use portway_proto::service::health;
use portway_proto::service::label as labels;

use crate::want::Keys;

/// What all of them begin with.
pub const PREFIX: &str = "user.portway.";

/// Name of the Compose project: on everything that was made for one.
pub const PROJECT: &str = labels::PROJECT;

/// Its own name; on instances and volumes. A copy has the labels of what it was copied from and another name, and is
/// nobody's.
pub const NAME: &str = labels::NAME;

/// The name that it gets: on an instance that is made beside the one it replaces.
pub const BESIDE: &str = labels::BESIDE;

/// Name of the service; on instances.
pub const SERVICE: &str = labels::SERVICE;

/// Number of the replica, from 1; on instances.
pub const INDEX: &str = "user.portway.index";

/// [`want::Instance::hash`](crate::want::Instance::hash) of what it was made or last changed from; on instances.
pub const HASH: &str = "user.portway.hash";

/// Hash of the part that cannot be changed without making it anew; on instances.
pub const BORN: &str = "user.portway.born";

/// Hash of the files that were written into it; on instances.
pub const FILES: &str = "user.portway.files";

/// Hash of the program that is its first process, when that is ours; on instances.
pub const GUEST: &str = "user.portway.guest";

/// What its image runs, as a shell's line, when our first process stands in its place; on instances.
pub const RUNS: &str = "user.portway.runs";

/// What hashes of secrets are made with, so that who sees a hash cannot guess; on the server's project.
pub const SEAL: &str = "user.portway.seal";

/// Names of the configuration keys, devices and devices of Portway that are ours, a JSON text: what is no longer wanted
/// goes, what somebody has set by hand stays; on instances.
pub const KEYS: &str = "user.portway.keys";

/// Services it depends on, separated by commas: the order of stopping when no file says it; on instances.
pub const DEPENDS: &str = "user.portway.depends";

/// Milliseconds it has to stop before force is used; on instances.
pub const GRACE: &str = "user.portway.grace";

/// What it runs when it has started and before it is stopped, a JSON text; on instances.
pub const HOOKS: &str = "user.portway.hooks";

/// How its health is asked for, a [`Health`](health::Health); on instances.
pub const HEALTH: &str = health::KEY;

/// What the files have been allowed beyond what every file may have, a JSON text; on the server's project.
pub const GRANTED: &str = "user.portway.granted";

/// What registries told of what runs in their images, a JSON text; on the server's project.
pub const TOLD: &str = "user.portway.told";

/// Of an instance that `run` made: not part of its service's scale.
pub const ONE_OFF: &str = "user.portway.one-off";

/// Key of the volume or network in the file; on volumes and networks.
pub const KEY: &str = "user.portway.key";

/// What carries published ports, `portway` or `incus`; on the server's project.
pub const ENGINE: &str = "user.portway.engine";

/// Who changes the project at present; on the server's project.
pub const LOCK: &str = "user.portway.lock";

/// Folder of the Compose files; on the server's project.
pub const DIR: &str = "user.portway.dir";

/// Pool of instances and volumes that name none; on the server's project.
pub const POOL: &str = "user.portway.pool";

/// What the names of volumes begin with that the files give none.
pub const NAMELESS: &str = "anon-";

/// Whether a volume of this name is one that the files give none, by the form of it.
#[must_use]
pub fn is_nameless(volume: &str) -> bool {
    let hash = volume.strip_prefix(NAMELESS);
    hash.is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Whether who lists instances lists the one called `name`: not when it was made to replace another that `is_there`, and
/// waits for that. `beside` is its label.
#[must_use]
pub fn is_listed(name: &str, beside: Option<&str>, is_there: impl Fn(&str) -> bool) -> bool {
    beside.is_none_or(|gets| gets == name || !is_there(gets))
}

/// Whether these labels say that what is called `name` was made for a Compose project.
#[must_use]
pub fn are_of(labels: &Keys, project: &str, name: &str) -> bool {
    let is = |key: &str, said: &str| labels.get(key).map(|text| text == said);
    // Without a name of its own it was made by an earlier version.
    is(PROJECT, project) == Some(true) && (is(NAME, name) != Some(false) || is(BESIDE, name) == Some(true))
}
