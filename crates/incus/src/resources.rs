//! What stands beside instances and has a name, keys and users: projects, networks, storage volumes, profiles.
//!
//! All are read, made, put back and deleted alike. They are put back as a whole and only from the version that was
//! read; a part alone is never sent, because the servers do not agree on what becomes of the rest: Incus 6.0.4 takes a
//! project's `PATCH` for all its keys and drops the others, its features among them.

use std::collections::BTreeMap;
use std::fmt;

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::encode::{addressable, percent_decode, percent_encode};
use crate::transport::protocol;
use crate::{Client, Device, Result};

/// Keys and values of a configuration.
pub type Keys = BTreeMap<String, String>;

/// Which one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ResourceId {
    /// A project.
    Project {
        /// Its name.
        name: String,
    },
    /// A network.
    Network {
        /// The project it is seen from; one without networks of its own sees those of the default project.
        project: String,
        /// Its name.
        name: String,
    },
    /// A custom volume with files.
    Volume {
        /// The project it is in.
        project: String,
        /// The storage pool.
        pool: String,
        /// Its name.
        name: String,
    },
    /// A profile.
    Profile {
        /// The project it is in.
        project: String,
        /// Its name.
        name: String,
    },
}

/// All of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shelf {
    /// All projects.
    Projects,
    /// The networks a project sees, those of the host that the server does not manage among them.
    Networks {
        /// The project.
        project: String,
    },
    /// The custom volumes of a project in a pool.
    Volumes {
        /// The project.
        project: String,
        /// The pool.
        pool: String,
    },
}

/// What was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Which one.
    pub id: ResourceId,
    /// Its configuration.
    pub config: Keys,
    /// Description.
    pub description: String,
    /// Paths of what uses it, in the API's words: `/1.0/instances/c1?project=p`.
    pub used_by: Vec<String>,
    /// Of a network, whether the server manages it; the others are interfaces of the host. Else true.
    pub is_managed: bool,
    /// Of a network, whether the server has noted it and not made it: it was interrupted, or is at it. Else false.
    pub is_half: bool,
    /// Devices of a profile.
    pub devices: BTreeMap<String, Device>,
    etag: Option<String>,
}

/// What a path among the users of a resource names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// An instance.
    Instance(String),
    /// A profile.
    Profile(String),
    /// An image, by its fingerprint.
    Image(String),
    /// A custom volume, of files or blocks.
    Volume {
        /// The storage pool.
        pool: String,
        /// Its name.
        name: String,
    },
    /// Anything else, as the path says it.
    Other(String),
}

impl User {
    /// By the path.
    #[must_use]
    pub fn of(path: &str) -> User {
        let other = || User::Other(path.to_owned());
        let (plain, _) = path.split_once('?').unwrap_or((path, ""));
        let Some(words) = plain.strip_prefix("/1.0/") else { return other() };
        let words: Option<Vec<String>> = words.split('/').map(percent_decode).collect();
        match words.unwrap_or_default().as_slice() {
            [kind, name] if kind == "instances" => User::Instance(name.clone()),
            [kind, name] if kind == "profiles" => User::Profile(name.clone()),
            [kind, name] if kind == "images" => User::Image(name.clone()),
            [pools, pool, volumes, kind, name]
                if pools == "storage-pools" && volumes == "volumes" && kind == "custom" =>
            {
                User::Volume { pool: pool.clone(), name: name.clone() }
            }
            _ => other(),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            User::Instance(name) => write!(f, "instance {name}"),
            User::Profile(name) => write!(f, "profile {name}"),
            User::Image(name) => write!(f, "image {}", name.get(..12).unwrap_or(name)),
            User::Volume { name, .. } => write!(f, "volume {name}"),
            User::Other(path) => f.write_str(path),
        }
    }
}

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Pool {
    /// Name.
    pub name: String,
    /// `dir`, `zfs`, `btrfs`, …
    #[serde(default)]
    pub driver: String,
}

#[derive(Deserialize)]
struct Wire {
    name: String,
    #[serde(default)]
    config: Keys,
    #[serde(default)]
    description: String,
    #[serde(default)]
    used_by: Option<Vec<String>>,
    #[serde(default)]
    managed: Option<bool>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    devices: Option<BTreeMap<String, Device>>,
    #[serde(default)]
    content_type: String,
    #[serde(default, rename = "type")]
    kind: String,
}

#[derive(Serialize)]
struct Written<'a> {
    config: &'a Keys,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<&'a BTreeMap<String, Device>>,
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project { name } => write!(f, "project {name}"),
            Self::Network { name, .. } => write!(f, "network {name}"),
            Self::Volume { name, .. } => write!(f, "volume {name}"),
            Self::Profile { name, .. } => write!(f, "profile {name}"),
        }
    }
}

impl ResourceId {
    /// Name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Project { name }
            | Self::Network { name, .. }
            | Self::Volume { name, .. }
            | Self::Profile { name, .. } => name,
        }
    }

    /// The shelf's path and the query that goes with it; `None` where a name cannot be asked for.
    fn shelf(&self) -> Option<(String, String)> {
        if !addressable(self.name()) {
            return None;
        }
        Some(match self {
            Self::Project { .. } => ("/1.0/projects".to_owned(), String::new()),
            Self::Network { project, .. } => ("/1.0/networks".to_owned(), of_project(project)?),
            Self::Profile { project, .. } => ("/1.0/profiles".to_owned(), of_project(project)?),
            Self::Volume { project, pool, .. } => (volumes(pool)?, of_project(project)?),
        })
    }

    fn target(&self) -> Option<String> {
        let (shelf, query) = self.shelf()?;
        Some(format!("{shelf}/{}{query}", percent_encode(self.name())))
    }

    /// The path, for a change that is nothing without it.
    fn required(&self) -> Result<String> {
        self.target().ok_or_else(|| protocol(&self.to_string(), "it cannot be named"))
    }
}

fn of_project(project: &str) -> Option<String> {
    (!project.is_empty()).then(|| format!("?project={}", percent_encode(project)))
}

fn volumes(pool: &str) -> Option<String> {
    addressable(pool).then(|| format!("/1.0/storage-pools/{}/volumes/custom", percent_encode(pool)))
}

impl Resource {
    fn of(id: ResourceId, wire: Wire, etag: Option<String>) -> Self {
        Self {
            id,
            config: wire.config,
            description: wire.description,
            used_by: wire.used_by.unwrap_or_default(),
            is_managed: wire.managed.unwrap_or(true),
            is_half: wire.managed == Some(true) && matches!(wire.status.as_str(), "Pending" | "Errored"),
            devices: wire.devices.unwrap_or_default(),
            etag,
        }
    }
}

impl Client {
    /// What has this name; `None` when there is no such project or no such thing in it.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn resource(&self, id: &ResourceId) -> Result<Option<Resource>> {
        let Some(target) = id.target() else { return Ok(None) };
        let limit = self.limits().answer_bytes;
        let found: Option<(Wire, Option<String>)> = self.door().get_versioned(&target, limit).await?;
        Ok(found.map(|(wire, etag)| Resource::of(id.clone(), wire, etag)))
    }

    /// All of a kind; none where the project or the pool is not there. They cannot be put back: they have no version.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn resources(&self, shelf: &Shelf) -> Result<Vec<Resource>> {
        let place = match shelf {
            Shelf::Projects => Some(("/1.0/projects".to_owned(), String::new())),
            Shelf::Networks { project } => {
                of_project(project).map(|query| ("/1.0/networks".to_owned(), query))
            }
            Shelf::Volumes { project, pool } => volumes(pool).zip(of_project(project)),
        };
        let Some((path, query)) = place else { return Ok(Vec::new()) };
        let target = format!("{path}{}recursion=1", if query.is_empty() { "?".into() } else { query + "&" });
        let found: Option<Vec<Wire>> = self.door().get(&target, self.limits().list_bytes).await?;
        // Snapshots and blocks of virtual machines stand in the same list.
        let files = |wire: &Wire| {
            !matches!(shelf, Shelf::Volumes { .. }) || (wire.kind == "custom" && wire.content_type != "block")
        };
        let named = found.unwrap_or_default().into_iter().filter(files).map(|wire| {
            let name = wire.name.clone();
            let id = match shelf.clone() {
                Shelf::Projects => ResourceId::Project { name },
                Shelf::Networks { project } => ResourceId::Network { project, name },
                Shelf::Volumes { project, pool } => ResourceId::Volume { project, pool, name },
            };
            Resource::of(id, wire, None)
        });
        Ok(named.collect())
    }

    /// Makes one; a network is a bridge, and gets the addresses its keys say.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; [`Refusal::Exists`](crate::Refusal::Exists) where there is one.
    pub async fn create(&self, id: &ResourceId, description: &str, config: &Keys) -> Result<()> {
        let unnamed = || protocol(&id.to_string(), "it cannot be named");
        let (shelf, query) = id.shelf().ok_or_else(unnamed)?;
        let target = format!("{shelf}{query}");
        let mut body = Map::from_iter([
            ("name".to_owned(), json!(id.name())),
            ("description".to_owned(), json!(description)),
            ("config".to_owned(), json!(config)),
        ]);
        if matches!(id, ResourceId::Network { .. }) {
            body.insert("type".to_owned(), Value::from("bridge"));
        }
        self.carry_out(Method::POST, &target, Some(&body), None).await
    }

    /// Puts one back as it was changed.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; [`is_outdated`](crate::IncusError::is_outdated) when it was changed
    /// since it was read.
    pub async fn put(&self, resource: &Resource) -> Result<()> {
        let target = resource.id.required()?;
        let devices = matches!(resource.id, ResourceId::Profile { .. }).then_some(&resource.devices);
        let written = Written { config: &resource.config, description: &resource.description, devices };
        self.carry_out(Method::PUT, &target, Some(&written), resource.etag.clone()).await
    }

    /// Deletes one; `None` when there is none.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; [`Refusal::InUse`](crate::Refusal::InUse) while something uses it, or
    /// is in it.
    pub async fn remove(&self, id: &ResourceId) -> Result<Option<()>> {
        let Some(target) = id.target() else { return Ok(None) };
        absent_is_none(self.carry_out(Method::DELETE, &target, None::<&Value>, None).await)
    }

    /// Addresses that a network's interface has on the server's host, as `10.1.2.1/24`; none when there is no such
    /// network, or nothing of its name.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn host_addresses(&self, network: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct State {
            #[serde(default)]
            addresses: Option<Vec<Address>>,
        }
        #[derive(Deserialize)]
        struct Address {
            address: String,
            netmask: String,
        }
        let id = ResourceId::Network { project: "default".to_owned(), name: network.to_owned() };
        let Some((shelf, query)) = id.shelf() else { return Ok(Vec::new()) };
        let target = format!("{shelf}/{}/state{query}", percent_encode(network));
        let found: Option<State> = self.door().get(&target, self.limits().answer_bytes).await?;
        let addresses = found.and_then(|state| state.addresses).unwrap_or_default();
        Ok(addresses.into_iter().map(|one| format!("{}/{}", one.address, one.netmask)).collect())
    }

    /// The storage pools.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn pools(&self) -> Result<Vec<Pool>> {
        let target = "/1.0/storage-pools?recursion=1";
        let found: Option<Vec<Pool>> = self.door().get(target, self.limits().answer_bytes).await?;
        found.ok_or_else(|| protocol(target, "the list of pools is not found"))
    }
}

/// What is gone already has been deleted.
pub(crate) fn absent_is_none<T>(done: Result<T>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.refusal() == Some(crate::Refusal::Absent) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_by_their_paths() {
        let volume = User::Volume { pool: "d".to_owned(), name: "v w".to_owned() };
        for (path, user) in [
            ("/1.0/instances/c1?project=p", User::Instance("c1".to_owned())),
            ("/1.0/profiles/a%20b?project=p", User::Profile("a b".to_owned())),
            ("/1.0/images/f00?project=p", User::Image("f00".to_owned())),
            ("/1.0/storage-pools/d/volumes/custom/v%20w?project=p", volume),
            ("/1.0/storage-pools/d/buckets/b", User::Other("/1.0/storage-pools/d/buckets/b".to_owned())),
            ("/1.0/profiles/%zz", User::Other("/1.0/profiles/%zz".to_owned())),
        ] {
            assert_eq!(User::of(path), user, "{path}");
        }
    }

    #[test]
    fn names_cannot_leave_their_place() {
        let network = |project: &str, name: &str| {
            ResourceId::Network { project: project.into(), name: name.into() }.target()
        };
        assert_eq!(network("a&b", "c d").as_deref(), Some("/1.0/networks/c%20d?project=a%26b"));
        for (project, name) in [("", "n"), ("p", ""), ("p", ".."), ("p", "a/b")] {
            assert_eq!(network(project, name), None);
        }
        let volume = |pool: &str| {
            ResourceId::Volume { project: "p".into(), pool: pool.into(), name: "v".into() }.target()
        };
        assert_eq!(volume("d").as_deref(), Some("/1.0/storage-pools/d/volumes/custom/v?project=p"));
        assert_eq!(volume("../x"), None);
        assert_eq!(
            ResourceId::Project { name: "ü".into() }.target().as_deref(),
            Some("/1.0/projects/%C3%BC")
        );
    }
}
