//! From a project in canonical form to what is wanted of a server. Pure: contents of files are given in.
//!
//! What cannot be had is refused here, before anything is made; what is left out is in the warnings; what reaches out
//! of the instances is in the privileges. [`crate::keys`] says it key by key.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use portway_composefile::tree::{Map, Node, Value};
use portway_composefile::{Fault, Kind, Project, keys as said};
use portway_incus::is_true;

use crate::build::Config;
use crate::keys;
use crate::want::{ComposeProject, Keys, Privilege, Program, lxc as raw};

mod build;
mod extension;
mod file;
mod image;
mod limits;
mod mount;
mod name;
mod network;
mod port;
mod process;
mod registry;
mod service;

pub(crate) use process::text;

/// Most replicas of a service.
const MAX_REPLICAS: u32 = 1_000;

/// Most services of a project.
const MAX_SERVICES: usize = 1_000;

/// Most instances of a project.
const MAX_INSTANCES: usize = 1_000;

/// Most published ports of a project: each is compared with all others, and each is a device.
const MAX_PORTS: usize = 20_000;

/// What carries published ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    /// Devices of Portway.
    #[default]
    Portway,
    /// Proxy devices of the server.
    Incus,
}

/// What the mapping depends on besides the project.
#[derive(Debug, Clone, Default)]
pub struct Setting {
    /// What the server can, by the names of its API extensions.
    pub extensions: BTreeSet<String>,
    /// What carries published ports.
    pub engine: Engine,
    /// Replicas by service: wins over what the file says.
    pub scale: BTreeMap<String, u32>,
    /// Folder of the project.
    pub dir: PathBuf,
    /// Where the paths that [`paths`] names lead when links are followed. One that is not among them leads nobody
    /// knows where.
    pub real: BTreeMap<PathBuf, PathBuf>,
    /// Contents of the files that [`reads`] names.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// What the images that were built here say of what runs in them, by the names they have in the files.
    pub built: BTreeMap<String, Config>,
    /// What the server's programs are built for.
    pub architecture: String,
    /// The first process of services, built for that; where there is none, commands in system images are refused.
    pub program: Option<&'static [u8]>,
    /// Whether the server's project is there and takes no `raw.lxc`.
    pub is_restricted: bool,
    /// What registries tell of the images that [`asks`] names, as far as they do.
    pub told: BTreeMap<String, Config>,
    /// Interfaces of the server's host.
    pub bridges: Bridges,
    /// PCI addresses of the host's graphics processors, where [`counts_graphics`] says so.
    pub graphics: Vec<String>,
}

/// Names that bridges have, and cannot have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bridges {
    /// Those of the project's networks, by their keys in the file.
    pub own: BTreeMap<String, String>,
    /// Interfaces that are no networks of the server's. It leaves one, and does not take it back, when whoever had a network
    /// made is killed meanwhile.
    pub strays: BTreeSet<String>,
}

impl Setting {
    /// Whether the server runs images of registries.
    fn oci(&self) -> bool {
        self.can("instance_oci")
    }

    fn can(&self, extension: &str) -> bool {
        self.extensions.contains(extension)
    }
}

/// Files that the mapping of `project` needs: those of secrets and configs.
#[must_use]
pub fn reads(project: &Project) -> BTreeSet<PathBuf> {
    file::sources(project)
}

/// Whether some service wants a number of graphics processors, so that it counts which there are.
#[must_use]
pub fn counts_graphics(project: &Project) -> bool {
    let mut asked = project.services().flat_map(|(_, service)| mount::graphics(service));
    asked.any(|said| said.at("count").is_some() && int(said.at("count")) != Some(-1))
}

/// Paths that are shared with instances: on the server's host, wherever that is.
#[must_use]
pub fn binds(project: &Project) -> BTreeSet<PathBuf> {
    let binds = project.services().flat_map(|(_, service)| service.items("volumes"));
    let binds = binds.filter(|mount| mount.text_at("type") == Some("bind"));
    binds.filter_map(|mount| mount.text_at("source")).map(PathBuf::from).collect()
}

/// What the mapping wants to be told of an image by its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `docker.io/library/nginx:latest`.
    pub full_name: String,
    /// Without its entrypoint nothing can be run: the file has another command for it. Else what is not told is left out.
    pub is_needed: bool,
}

/// Images of registries of which the mapping needs the entrypoint, or of which the file leaves open how they are stopped or
/// how their health is told, by what it calls them: the server tells neither.
#[must_use]
pub fn asks(project: &Project, setting: &Setting) -> BTreeMap<String, Asked> {
    let built = |image: &str| {
        let mut services = project.services().filter(|(_, service)| service.at("build").is_some());
        services.any(|(_, service)| service.text_at("image") == Some(image))
    };
    let mut asked: BTreeMap<String, Asked> = BTreeMap::new();
    for (_, service) in project.services() {
        let Some(image) = service.text_at("image") else { continue };
        if !setting.oci() || image.is_empty() || image::is_native(image) || built(image) {
            continue;
        }
        let said = |key: &str| service.at(key).is_some_and(|node| node.as_list().is_some());
        let health = service.at("healthcheck");
        let has_health =
            health.is_some_and(|health| health.is_true_at("disable") || health.at("test").is_some());
        let is_needed = said("command") && !said("entrypoint");
        if is_needed || service.at("stop_signal").is_none() || !has_health {
            let full_name = image::full_name(image);
            let one = asked.entry(image.to_owned()).or_insert(Asked { full_name, is_needed });
            one.is_needed |= is_needed;
        }
    }
    asked
}

/// The name in full of an image of a registry; `None` for one that is of none.
#[must_use]
pub fn registry_name(image: &str) -> Option<String> {
    (!image::is_native(image)).then(|| image::full_name(image))
}

/// Paths of the host of which the mapping has to know where they lead: the project's folder, and what is read or shared.
#[must_use]
pub fn paths(project: &Project, dir: &Path) -> BTreeSet<PathBuf> {
    let mut paths = binds(project);
    paths.extend(reads(project));
    paths.extend(build::sources(project));
    paths.extend(project.files.iter().cloned());
    paths.insert(dir.to_owned());
    paths
}

/// Whether a project of the server's takes no `raw.lxc`.
#[must_use]
pub fn is_restricted(config: &Keys) -> bool {
    let is = |key: &str, said: &str| config.get(key).is_some_and(|text| text == said);
    config.get("restricted").is_some_and(|text| is_true(text))
        && !is("restricted.containers.lowlevel", "allow")
}

/// Name of the server's project that holds `project`.
#[must_use]
pub fn server_project(project: &Project) -> String {
    name::slug(&project.name)
}

/// What `project` comes to.
///
/// # Errors
/// The first thing that cannot be had, with its place.
pub fn map(project: &Project, setting: &Setting) -> Result<ComposeProject, Fault> {
    let mut work = Work {
        project,
        setting,
        written: 0,
        want: ComposeProject {
            name: project.name.clone(),
            incus_project: name::slug(&project.name),
            program: setting.program.map(Program::new).unwrap_or_default(),
            config: pairs(&[
                ("features.images", "false"),
                ("features.networks", "false"),
                ("features.profiles", "true"),
                ("features.storage.volumes", "true"),
            ]),
            ..ComposeProject::default()
        },
    };
    work.want.warnings = keys::check(&said::said(&project.tree))?;
    work.extensions_of_project()?;
    work.networks()?;
    work.volumes()?;
    if let Some((name, node)) = project.services().nth(MAX_SERVICES) {
        let what = format!("the project has more than {MAX_SERVICES} services");
        return Err(refused(node, &format!("services.{name}"), what).kind(Kind::TooLarge));
    }
    work.builds()?;
    for (name, node) in project.services() {
        work.service(name, node)?;
    }
    work.links()?;
    work.names_differ()?;
    kept(&mut work.want.config);
    Ok(work.want)
}

/// A mapping under way.
struct Work<'w> {
    project: &'w Project,
    setting: &'w Setting,
    want: ComposeProject,
    /// Bytes of secrets and configs so far.
    written: usize,
}

impl Work<'_> {
    fn warn(&mut self, node: &Node, path: &str, what: &str) {
        let line = format!("{}: {path}: {what}", node.place);
        if !self.want.warnings.contains(&line) {
            self.want.warnings.push(line);
        }
    }

    /// Where a path of the host leads, and whether that is in the project's folder.
    fn real(&self, path: &str) -> (String, bool) {
        let real = &self.setting.real;
        let (Some(path), Some(dir)) = (real.get(Path::new(path)), real.get(&self.setting.dir)) else {
            return (path.to_owned(), false);
        };
        // What is no text cannot be said to the server, and must not be taken for another path.
        match path.to_str() {
            Some(text) => (text.to_owned(), path.starts_with(dir)),
            None => (path.display().to_string(), false),
        }
    }

    /// Notes something that not every file may have.
    fn privilege(&mut self, service: &str, node: &Node, what: impl Into<String>) {
        let privilege =
            Privilege { service: service.to_owned(), what: what.into(), place: node.place.to_string() };
        if !self.want.privileges.contains(&privilege) {
            self.want.privileges.push(privilege);
        }
    }

    /// The members of a section.
    fn section(&self, name: &str) -> impl Iterator<Item = (&String, &Node)> + use<'_> {
        self.project.tree.get(name).and_then(Node::as_map).into_iter().flatten()
    }

    /// Two instances of one name would be one.
    fn names_differ(&self) -> Result<(), Fault> {
        let mut seen: BTreeMap<String, &str> = BTreeMap::new();
        for (service, instance) in self.want.instances() {
            // Names are looked up without regard to their case.
            if let Some(other) = seen.insert(instance.name.to_lowercase(), &service.name) {
                let node = self.section("services").find(|(name, _)| **name == service.name);
                let what = format!("the instance {} is also one of {other}", instance.name);
                let path = format!("services.{}", service.name);
                return Err(node.map_or_else(
                    || Fault::of(Kind::Inconsistent, what.clone()),
                    |(_, node)| refused(node, &path, what.clone()),
                ));
            }
        }
        Ok(())
    }
}

/// A fault of what is well formed and cannot be had.
pub(crate) fn refused(node: &Node, path: &str, what: impl Into<String>) -> Fault {
    node.fault(path, what).kind(Kind::Inconsistent)
}

/// The text of a number, a truth value or a text that the server can hold.
fn plain(node: &Node, path: &str) -> Result<String, Fault> {
    let Some(text) = node.as_word() else {
        return Err(refused(node, path, format!("must be a text or a number, not {}", node.value.noun())));
    };
    if text.contains(['\n', '\r', '\0']) {
        return Err(refused(node, path, "has a line break in it, or a NUL, which the server does not take"));
    }
    Ok(text)
}

fn int(node: Option<&Node>) -> Option<i128> {
    match node?.value {
        Value::Int(value) => Some(value),
        _ => None,
    }
}

/// Labels of users.
fn labels(node: &Node, prefix: &str, path: &str, into: &mut Keys) -> Result<(), Fault> {
    for (name, value) in node.as_map().into_iter().flatten() {
        let path = format!("{path}.{name}");
        if name.is_empty() || name.contains(['\n', '\r', '\0', '=']) {
            return Err(refused(value, &path, "is no name of a label"));
        }
        into.insert(format!("{prefix}{name}"), plain(value, &path)?);
    }
    Ok(())
}

/// What the server keeps of a configuration: an empty value is none, and would be missed at each look.
fn kept(config: &mut Keys) {
    config.retain(|_, value| !value.is_empty());
}

fn pairs(pairs: &[(&str, &str)]) -> Keys {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The members of a mapping in the order of the file.
fn in_order(map: &Map) -> Vec<(&String, &Node)> {
    let mut members: Vec<(&String, &Node)> = map.iter().collect();
    members.sort_by_key(|(_, node)| (node.place.file.clone(), node.place.line, node.place.column));
    members
}

#[cfg(test)]
mod tests;
