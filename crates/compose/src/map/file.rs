//! Files that are written before an instance starts: secrets, configs, names and addresses.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use portway_composefile::tree::Node;
use portway_composefile::{Fault, Kind, Project};

use super::{Work, int, plain, refused};
use crate::want::{File, Instance};

/// Permissions of a file for which none are said.
const MODE: u32 = 0o444;

/// Most bytes in the secrets and configs of all instances together.
const MAX_BYTES: usize = 128 << 20;

/// Files that secrets and configs are read from.
pub(super) fn sources(project: &Project) -> BTreeSet<PathBuf> {
    let sections = ["secrets", "configs"].into_iter().filter_map(|section| project.tree.get(section));
    let members = sections.filter_map(Node::as_map).flatten();
    members.filter_map(|(_, node)| node.text_at("file")).map(PathBuf::from).collect()
}

impl Work<'_> {
    pub(super) fn files(
        &mut self,
        name: &str,
        service: &Node,
        path: &str,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        for section in ["secrets", "configs"] {
            for (at, grant) in service.items(section).iter().enumerate() {
                let path = format!("{path}.{section}[{at}]");
                let file = self.granted(name, section, grant, &path)?;
                if let Some(what) = self.hidden(service, instance, &file.path) {
                    return Err(refused(grant, &path, format!("{} is not seen: {what}", file.path)));
                }
                if instance.files.iter().any(|other| other.path == file.path) {
                    return Err(refused(grant, &path, format!("{} is written twice", file.path)));
                }
                self.written = self.written.saturating_add(file.content.len());
                if self.written > MAX_BYTES {
                    let what = format!("the files of all instances have more than {} MiB", MAX_BYTES >> 20);
                    return Err(refused(grant, &path, what).kind(Kind::TooLarge));
                }
                instance.files.push(file);
            }
        }
        let names = resolver(service, path)?.into_iter().chain(hosts(service, path, &instance.name)?);
        for file in names {
            let file = if self.is_of_registry(service) { file.over(&mut instance.config) } else { file };
            instance.files.push(file);
        }
        Ok(())
    }

    /// What is in front of a file of the root disk: what is mounted is mounted over it.
    fn hidden(&self, service: &Node, instance: &Instance, file: &str) -> Option<String> {
        let below = |folder: &str| {
            let rest = file.strip_prefix(folder.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let volumes = instance.mounts.iter().map(|mount| mount.path.as_str());
        let disks = instance.devices.values().filter_map(|device| device.get("path").map(String::as_str));
        let raw = instance.config.get("raw.lxc").map(String::as_str).unwrap_or_default();
        let memory: Vec<String> = raw
            .lines()
            .filter_map(|line| line.strip_prefix("lxc.mount.entry = tmpfs ")?.split(' ').next())
            .map(|target| format!("/{target}"))
            .collect();
        let kernel = ["/dev", "/proc", "/sys"];
        let mut mounts = volumes.chain(disks).chain(memory.iter().map(String::as_str)).chain(kernel);
        if let Some(mount) = mounts.find(|mount| below(mount)) {
            return Some(format!("another file system is mounted at {mount}"));
        }
        let own_init = !self.is_of_registry(service) && !self.is_guest(service);
        let made = ["/run", "/var/run", "/tmp"].into_iter().find(|folder| own_init && below(folder))?;
        Some(format!("the image's init empties {made}; say another `target`, or a `command`"))
    }

    fn granted(&mut self, service: &str, section: &str, grant: &Node, path: &str) -> Result<File, Fault> {
        let source = grant.text_at("source").unwrap_or_default();
        let Some((_, said)) = self.section(section).find(|(name, _)| *name == source) else {
            return Err(refused(grant, path, format!("there is no `{source}` in {section}")));
        };
        let said = said.clone();
        let content = self.content(service, section, source, &said)?;
        let folder = if section == "secrets" { "/run/secrets" } else { "" };
        let target = grant.text_at("target").unwrap_or(source);
        let target = if target.starts_with('/') { target.to_owned() } else { format!("{folder}/{target}") };
        let climbs = Path::new(&target).components().any(|part| part == std::path::Component::ParentDir);
        if climbs || target.ends_with('/') || target.contains('\0') {
            return Err(refused(grant, path, format!("`{target}` is no path of a file")));
        }
        let id = |key: &str| match grant.text_at(key).map(str::parse) {
            None => Ok(0),
            Some(Ok(id)) => Ok(id),
            Some(Err(_)) => Err(refused(grant, path, format!("`{key}` must be a number"))),
        };
        let mode = match int(grant.at("mode")) {
            None => MODE,
            Some(mode) => u32::try_from(mode)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| refused(grant, path, "`mode` must be permissions, as 0440 is"))?,
        };
        Ok(File { path: target, uid: id("uid")?, gid: id("gid")?, mode, content })
    }

    fn content(&mut self, service: &str, section: &str, name: &str, said: &Node) -> Result<Vec<u8>, Fault> {
        let path = format!("{section}.{name}");
        if let Some(text) = said.text_at("content") {
            return Ok(text.as_bytes().to_vec());
        }
        if let Some(variable) = said.text_at("environment") {
            let value = self.project.environment.get(variable);
            let missing = || refused(said, &path, format!("the variable {variable} is not set"));
            return value.map(|value| value.as_bytes().to_vec()).ok_or_else(missing);
        }
        let file = said.text_at("file").unwrap_or_default();
        let (real, inside) = self.real(file);
        if !inside {
            self.privilege(service, said, format!("read {real}, which is outside of the project's folder"));
        }
        let content = self.setting.files.get(Path::new(file)).cloned();
        content.ok_or_else(|| said.fault(&path, format!("{file} is not there")).kind(Kind::Missing))
    }
}

/// `/etc/resolv.conf`, when somebody else is to answer.
fn resolver(service: &Node, path: &str) -> Result<Option<File>, Fault> {
    let mut text = String::new();
    for (key, word) in [("dns", "nameserver"), ("dns_search", "search"), ("dns_opt", "options")] {
        for (at, node) in service.items(key).iter().enumerate() {
            let path = format!("{path}.{key}[{at}]");
            let said = plain(node, &path)?;
            if key == "dns" && said.parse::<std::net::IpAddr>().is_err() {
                return Err(refused(node, &path, format!("`{said}` is no address")));
            }
            if key != "dns" && service.at("dns").is_none() {
                return Err(refused(node, &path, "counts with `dns` only"));
            }
            let _infallible = writeln!(text, "{word} {said}");
        }
    }
    Ok((!text.is_empty()).then(|| root_file("/etc/resolv.conf", text)))
}

fn hosts(service: &Node, path: &str, own: &str) -> Result<Option<File>, Fault> {
    if service.items("extra_hosts").is_empty() {
        return Ok(None);
    }
    let mut text = format!("127.0.0.1 localhost\n127.0.1.1 {own}\n::1 localhost\n");
    for (at, node) in service.items("extra_hosts").iter().enumerate() {
        let path = format!("{path}.extra_hosts[{at}]");
        let said = plain(node, &path)?;
        let (name, address) = said.split_once('=').unwrap_or((&said, ""));
        let address = address.trim_matches(['[', ']']);
        if address == "host-gateway" {
            return Err(refused(node, &path, "the address of the host is not known before the start"));
        }
        if address.parse::<std::net::IpAddr>().is_err() || name.contains(char::is_whitespace) {
            return Err(refused(node, &path, format!("`{said}` is not NAME=ADDRESS")));
        }
        let _infallible = writeln!(text, "{address} {name}");
    }
    Ok(Some(root_file("/etc/hosts", text)))
}

fn root_file(path: &str, text: String) -> File {
    File { path: path.to_owned(), uid: 0, gid: 0, mode: 0o644, content: text.into_bytes() }
}
