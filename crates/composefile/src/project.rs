//! A loaded project: what `config` prints and everything later is planned from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::emit;
use crate::fault::{Fault, Kind, nearest};
use crate::hash;
use crate::load::Environment;
use crate::template::Variable;
use crate::tree::{Map, Node, Value};

/// A project in canonical form.
#[derive(Debug)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// Sections by name: services, networks, volumes, secrets, configs, and what begins with `x-`.
    pub tree: Map,
    /// What was noticed, one line each.
    pub warnings: Vec<String>,
    /// Variables that the files name, each once, by name.
    pub variables: Vec<Variable>,
    /// Every profile that a service names.
    pub profiles: BTreeSet<String>,
    /// Services that the files name and that are left out, for no profile of theirs is enabled.
    pub disabled: BTreeSet<String>,
    /// The variables of the outside and of `.env`.
    pub environment: Environment,
    /// Files that were read, each once.
    pub files: BTreeSet<PathBuf>,
    /// Texts stand as they are written.
    pub(crate) raw: bool,
}

impl Project {
    /// The services by name.
    pub fn services(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.tree.get("services").and_then(Node::as_map).into_iter().flatten()
    }

    /// Names of the services, each after those it depends on.
    pub fn service_names(&self) -> Vec<String> {
        let all: BTreeSet<&str> = self.services().map(|(name, _)| name.as_str()).collect();
        let mut missing: BTreeMap<&str, usize> = BTreeMap::new();
        let mut needed_by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, service) in self.services() {
            let needs = service.members("depends_on").map(|(name, _)| name.as_str());
            let needs: Vec<&str> = needs.filter(|name| all.contains(name)).collect();
            missing.insert(name, needs.len());
            needs.into_iter().for_each(|need| needed_by.entry(need).or_default().push(name));
        }
        let mut names = Vec::with_capacity(all.len());
        // Those that wait for none; then those that waited for these alone, and so on. Cycles were refused before.
        let mut ready: BTreeSet<&str> =
            missing.iter().filter(|(_, left)| **left == 0).map(|(name, _)| *name).collect();
        while !ready.is_empty() {
            let mut next = BTreeSet::new();
            for name in ready {
                names.push(name.to_owned());
                for other in needed_by.get(name).into_iter().flatten() {
                    if let Some(left) = missing.get_mut(other) {
                        *left -= 1;
                        if *left == 0 {
                            next.insert(*other);
                        }
                    }
                }
            }
            ready = next;
        }
        names
    }

    /// Names of a section's members.
    pub fn names(&self, section: &str) -> Vec<String> {
        self.tree
            .get(section)
            .and_then(Node::as_map)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Images of the services, one for each; one that is built here is called after project and service.
    pub fn images(&self) -> Vec<String> {
        let image = |(name, service): (&String, &Node)| {
            let image = service.text_at("image").filter(|image| !image.is_empty());
            image.map_or_else(|| format!("{}-{name}", self.name), str::to_owned)
        };
        let mut images: Vec<String> = self.services().map(image).collect();
        images.sort();
        images
    }

    /// A hash of what a service is, for each of `names`; all of them when one is `*`.
    ///
    /// The hash of docker compose. Replicas, `build` and `pull_policy` do not count.
    ///
    /// # Errors
    /// A service that is not there.
    pub fn hashes(&self, names: &[&str]) -> Result<Vec<(String, String)>, Fault> {
        let all: Vec<String> = self.services().map(|(name, _)| name.clone()).collect();
        let names: Vec<&str> =
            if names.contains(&"*") { all.iter().map(String::as_str).collect() } else { names.to_vec() };
        let none = Map::new();
        let services = self.tree.get("services").and_then(Node::as_map).unwrap_or(&none);
        let hash = |name: &str| {
            let Some(service) = services.get(name) else { return Err(self.no_service(name)) };
            Ok((name.to_owned(), hash::of(service)))
        };
        names.into_iter().map(hash).collect()
    }

    /// The project with these services, those they depend on, and what all of them use.
    ///
    /// # Errors
    /// A service that is not there.
    pub(crate) fn keep(&mut self, names: &[String]) -> Result<(), Fault> {
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        let mut open: Vec<String> = names.to_vec();
        if let Some(missing) = names.iter().find(|name| !self.services().any(|(key, _)| key == *name)) {
            return Err(self.no_service(missing));
        }
        while let Some(name) = open.pop() {
            let service = self.services().find(|(key, _)| **key == name).map(|(_, service)| service);
            if let Some(service) = service
                && wanted.insert(name.clone())
            {
                open.extend(service.members("depends_on").map(|(name, _)| name.clone()));
            }
        }
        if let Some(services) = self.tree.get_mut("services").and_then(Node::as_map_mut)
            && !names.is_empty()
        {
            services.retain(|name, _| wanted.contains(name));
        }
        Ok(())
    }

    /// Leaves out what no service uses.
    pub(crate) fn drop_unused(&mut self) {
        let mut used: BTreeSet<(&str, String)> = BTreeSet::new();
        for (_, service) in self.services() {
            used.extend(service.members("networks").map(|(name, _)| ("networks", name.clone())));
            let mut add = |section, node: &Node| {
                used.insert((section, node.text_at("source").unwrap_or_default().to_owned()));
            };
            service.items("volumes").iter().for_each(|mount| add("volumes", mount));
            service.items("secrets").iter().for_each(|grant| add("secrets", grant));
            service.items("configs").iter().for_each(|grant| add("configs", grant));
            let build = service.at("build").map(|build| build.items("secrets")).unwrap_or_default();
            build.iter().for_each(|grant| add("secrets", grant));
        }
        for section in ["networks", "volumes", "secrets", "configs"] {
            if let Some(members) = self.tree.get_mut(section).and_then(Node::as_map_mut) {
                members.retain(|name, _| used.contains(&(section, name.clone())));
            }
        }
        self.tree.retain(|name, node| match &node.value {
            Value::Map(map) => name == "services" || name.starts_with("x-") || !map.is_empty(),
            _ => name.starts_with("x-") && node.value != Value::Null,
        });
    }

    fn no_service(&self, name: &str) -> Fault {
        let near = nearest(name, self.services().map(|(name, _)| name.as_str()));
        let hint = near.map(|near| format!("did you mean `{near}`?"));
        Fault::of(Kind::Missing, format!("there is no service `{name}`")).hint(hint)
    }

    /// The project as YAML.
    pub fn yaml(&self) -> String {
        emit::yaml(&self.name, &self.tree, self.raw)
    }

    /// The project as JSON.
    pub fn json(&self) -> serde_json::Value {
        emit::project_json(&self.name, &self.tree, self.raw)
    }
}
