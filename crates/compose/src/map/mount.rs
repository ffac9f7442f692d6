//! Volumes, folders of the host, memory, devices.

use portway_composefile::Fault;
use portway_composefile::tree::Node;

use super::extension::Of;
use super::{Work, int, kept, labels, name, pairs, plain, raw, refused};
use crate::label;
use crate::want::{Instance, Keys, Mount, Owner, Volume};

impl Work<'_> {
    pub(super) fn volumes(&mut self) -> Result<(), Fault> {
        let members: Vec<(String, Node)> =
            self.section("volumes").map(|(key, node)| (key.clone(), node.clone())).collect();
        for (key, node) in members {
            let path = format!("volumes.{key}");
            if let Some(driver) = node.text_at("driver").filter(|driver| !matches!(*driver, "" | "local")) {
                return Err(refused(&node, &format!("{path}.driver"), format!("`{driver}` cannot be had")));
            }
            let usual = format!("{}_{key}", self.project.name);
            let external = node.is_true_at("external");
            let called = node.text_at("name").filter(|said| external || *said != usual);
            let called = called.map_or_else(|| name::device("vol", &key), str::to_owned);
            if !name::is_volume(&called) {
                return Err(refused(&node, &path, format!("`{called}` is no name of a volume")));
            }
            if let Some((other, _)) = self.want.volumes.iter().find(|(_, other)| other.name == called) {
                return Err(refused(
                    &node,
                    &path,
                    format!("would have the name of the volume `{other}`: {called}"),
                ));
            }
            let mut config = Keys::new();
            if !external {
                config.insert("security.shifted".to_owned(), "true".to_owned());
                if let Some(said) = node.at("labels") {
                    labels(said, "user.label.", &format!("{path}.labels"), &mut config)?;
                }
            }
            let pool = node.at("x-incus-compose").and_then(|own| own.text_at("pool")).map(str::to_owned);
            self.extensions(("", Of::Volume(&key)), &node, &path, &mut config)?;
            kept(&mut config);
            let owner = if external { Owner::External } else { Owner::Project };
            self.want.volumes.insert(key, Volume { name: called, pool, owner, config });
        }
        Ok(())
    }

    pub(super) fn mounts(
        &mut self,
        service: &str,
        node: &Node,
        path: &str,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        for (at, mount) in node.items("volumes").iter().enumerate() {
            let path = format!("{path}.volumes[{at}]");
            let target = mount.text_at("target").unwrap_or_default();
            if !target.starts_with('/') || target == "/" || target.contains(['\n', '\0']) {
                return Err(refused(mount, &path, format!("`{}` is no path inside", target.escape_debug())));
            }
            let mut keys = Keys::new();
            if mount.is_true_at("read_only") {
                keys.insert("readonly".to_owned(), "true".to_owned());
            }
            match mount.text_at("type").unwrap_or_default() {
                "volume" => self.volume(mount, &path, target, keys, instance)?,
                "bind" => self.bind(service, mount, &path, target, keys, instance)?,
                "tmpfs" if target.contains(char::is_whitespace) => {
                    return Err(refused(mount, &path, "a path in memory has no blanks"));
                }
                "tmpfs" => {
                    let options = mount.at("tmpfs");
                    let mut said = Vec::new();
                    if let Some(size) = options.and_then(|node| node.at("size")).and_then(Node::as_word) {
                        said.push(format!("size={size}"));
                    }
                    if let Some(mode) = int(options.and_then(|node| node.at("mode"))) {
                        said.push(format!("mode={mode:o}"));
                    }
                    memory(target, &said, &mut instance.config);
                }
                other => return Err(refused(mount, &path, format!("the type `{other}` cannot be had"))),
            }
        }
        for (at, line) in node.items("tmpfs").iter().enumerate() {
            let path = format!("{path}.tmpfs[{at}]");
            let text = plain(line, &path)?;
            let (target, options) = text.split_once(':').unwrap_or((&text, ""));
            let options: Vec<String> =
                options.split(',').filter(|one| !one.is_empty()).map(str::to_owned).collect();
            let fine = |option: &String| {
                let name = option.split('=').next().unwrap_or_default();
                let known = [
                    "size",
                    "mode",
                    "uid",
                    "gid",
                    "nr_inodes",
                    "ro",
                    "rw",
                    "noexec",
                    "exec",
                    "nosuid",
                    "nodev",
                ];
                known.contains(&name)
                    && option.bytes().all(|b| b.is_ascii_alphanumeric() || b"=_%".contains(&b))
            };
            if !target.starts_with('/') || target.contains(char::is_whitespace) || !options.iter().all(fine) {
                return Err(refused(line, &path, format!("`{text}` is not PATH[:OPTIONS]")));
            }
            memory(target, &options, &mut instance.config);
        }
        if let Some(size) = node.at("shm_size").and_then(Node::as_word) {
            memory("/dev/shm", &[format!("size={size}")], &mut instance.config);
        }
        Ok(())
    }

    fn volume(
        &mut self,
        mount: &Node,
        path: &str,
        target: &str,
        mut keys: Keys,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        let source = mount.text_at("source").unwrap_or_default();
        let key = if source.is_empty() {
            // Nobody else knows it: each replica has its own.
            let key = format!("{}:{target}", instance.name);
            let name = format!("{}{}", label::NAMELESS, name::short(&[&instance.name, target], 16));
            let config = pairs(&[("security.shifted", "true")]);
            self.want.volumes.insert(key.clone(), Volume { name, pool: None, owner: Owner::Project, config });
            key
        } else {
            source.to_owned()
        };
        if let Some(subpath) = mount.at("volume").and_then(|volume| volume.text_at("subpath")) {
            let name = self.want.volumes.get(&key).map(|volume| volume.name.clone()).unwrap_or_default();
            let climbs = subpath.split('/').any(|step| step == "..");
            if !self.setting.can("disk_volume_subpath") || climbs || subpath.starts_with('/') {
                return Err(refused(
                    mount,
                    path,
                    format!("the folder `{subpath}` of a volume cannot be had"),
                ));
            }
            keys.insert("source".to_owned(), format!("{name}/{subpath}"));
        }
        let device =
            if source.is_empty() { name::device("vol", target) } else { name::device("vol", source) };
        let device = free(device, |name| instance.mounts.iter().any(|mount| mount.device == *name));
        instance.mounts.push(Mount { device, volume: key, path: target.to_owned(), keys });
        Ok(())
    }

    fn bind(
        &mut self,
        service: &str,
        mount: &Node,
        path: &str,
        target: &str,
        mut keys: Keys,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        let source = mount.text_at("source").unwrap_or_default();
        if !source.starts_with('/') || source.contains(['\n', '\0']) {
            return Err(refused(mount, path, format!("`{}` is no absolute path", source.escape_debug())));
        }
        if mount.at("x-incus-compose").is_some_and(|own| own.at("seed").is_some()) {
            return Err(refused(mount, path, "`seed` cannot be had yet"));
        }
        // The server gets what was judged: a link that is changed later changes nothing.
        let (real, inside) = self.real(source);
        if real.contains(['\n', '\0']) {
            return Err(refused(mount, path, format!("`{}` is no path of a mount", real.escape_debug())));
        }
        if !inside {
            let verb = if mount.is_true_at("read_only") { "read" } else { "read and write" };
            self.privilege(service, mount, format!("{verb} {real} of the host"));
        }
        let mut device = pairs(&[("type", "disk"), ("shift", "true"), ("source", &real), ("path", target)]);
        if let Some(bind) = mount.at("bind") {
            if let Some(propagation) = bind.text_at("propagation") {
                keys.insert("propagation".to_owned(), propagation.to_owned());
            }
            match bind.text_at("recursive") {
                Some("enabled") if keys.contains_key("readonly") => {
                    return Err(refused(mount, path, "`recursive` and `read_only` cannot be had together"));
                }
                Some("enabled") => drop(keys.insert("recursive".to_owned(), "true".to_owned())),
                Some("disabled") | None => {}
                Some(other) => {
                    return Err(refused(mount, path, format!("`recursive: {other}` cannot be had")));
                }
            }
        }
        device.extend(keys);
        let name = free(name::device("bind", source), |name| instance.devices.contains_key(name));
        instance.devices.insert(name, device);
        Ok(())
    }

    /// Devices of the host.
    pub(super) fn hardware(
        &mut self,
        service: &str,
        node: &Node,
        path: &str,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        for (at, said) in node.items("devices").iter().enumerate() {
            let path = format!("{path}.devices[{at}]");
            let source = said.text_at("source").unwrap_or_default();
            let target = said.text_at("target").filter(|target| !target.is_empty()).unwrap_or(source);
            if !source.starts_with("/dev/") || source.contains("..") || !target.starts_with('/') {
                return Err(refused(said, &path, format!("`{source}` is no device: /dev/NAME is one")));
            }
            self.privilege(service, said, format!("use the device {source} of the host"));
            let disks =
                ["sd", "hd", "vd", "xvd", "nvme", "loop", "dm-", "mapper/", "md", "mmcblk", "zd", "disk/"];
            let name = source.trim_start_matches("/dev/");
            let kind =
                if disks.iter().any(|disk| name.starts_with(disk)) { "unix-block" } else { "unix-char" };
            let mut device = pairs(&[("type", kind), ("source", source), ("path", target)]);
            if said.text_at("permissions").is_some_and(|rights| !rights.is_empty() && !rights.contains('w')) {
                device.insert("mode".to_owned(), "0440".to_owned());
            }
            let name = free(name::device("dev", target), |name| instance.devices.contains_key(name));
            instance.devices.insert(name, device);
        }
        for said in graphics(node) {
            let named = said.items("capabilities");
            if !named.is_empty() && named.iter().all(|named| named.as_text() != Some("gpu")) {
                let path = format!("{path}.deploy.resources.reservations.devices");
                return Err(refused(said, &path, "only devices with the capability `gpu` can be had"));
            }
            let ids: Vec<String> = said.items("device_ids").iter().filter_map(Node::as_word).collect();
            // Where nothing is said the loader says -1; what is left without a count was said to be 0.
            let count = int(said.at("count")).unwrap_or(0);
            if count == 0 && ids.is_empty() {
                continue;
            }
            let devices = self.processors(said, path, (&ids, count))?;
            let which = match (&ids[..], count) {
                ([], -1) => String::new(),
                ([], count) => format!(" ({count} of them)"),
                (ids, _) => format!(" {}", ids.join(", ")),
            };
            self.privilege(service, said, format!("use graphics processors{which} of the host"));
            for device in devices {
                let name = free("gpu".to_owned(), |name| instance.devices.contains_key(name));
                instance.devices.insert(name, device);
            }
        }
        Ok(())
    }

    /// Devices for graphics processors: those that are named, as many as are asked for, else all.
    fn processors(
        &self,
        said: &Node,
        path: &str,
        (ids, count): (&[String], i128),
    ) -> Result<Vec<Keys>, Fault> {
        let one = |key: &str, value: &String| pairs(&[("type", "gpu"), (key, value)]);
        if !ids.is_empty() {
            return Ok(ids.iter().map(|id| one("id", id)).collect());
        }
        if count == -1 {
            // The server's device is all of them where it names none.
            return Ok(vec![pairs(&[("type", "gpu")])]);
        }
        let there = &self.setting.graphics;
        let taken =
            usize::try_from(count).ok().filter(|count| *count > 0).and_then(|count| there.get(..count));
        let taken = taken.ok_or_else(|| {
            let what = format!("asks for {count} graphics processors, and the server has {}", there.len());
            refused(said, &format!("{path}.gpus"), what)
        })?;
        Ok(taken.iter().map(|address| one("pci", address)).collect())
    }
}

/// What a service says of graphics processors that it wants.
pub(super) fn graphics(service: &Node) -> impl Iterator<Item = &Node> {
    let reserved = service.at("deploy").and_then(|deploy| deploy.at("resources"));
    let reserved = reserved.and_then(|resources| resources.at("reservations"));
    let deployed = reserved.map(|reserved| reserved.items("devices")).unwrap_or_default();
    service.items("gpus").iter().chain(deployed)
}

/// A file system in memory. By LXC, which every version of the server passes on.
fn memory(target: &str, options: &[String], config: &mut Keys) {
    let inside = target.trim_start_matches('/');
    let options: String = options.iter().map(|option| format!("{option},")).collect();
    raw(config, &[format!("lxc.mount.entry = tmpfs {inside} tmpfs {options}create=dir 0 0")]);
}

/// `name`, or the first of `name-2`, `name-3` that is free.
pub(super) fn free(name: String, taken: impl Fn(&String) -> bool) -> String {
    if !taken(&name) {
        return name;
    }
    let numbered = (2_u32..).map(|number| format!("{name}-{number}"));
    numbered.into_iter().find(|name| !taken(name)).unwrap_or(name)
}
