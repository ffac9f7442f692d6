//! A service: what all its replicas share, and each of them.

use std::collections::BTreeMap;
use std::time::Duration;

use portway_composefile::tree::{Node, Value};
use portway_composefile::{Fault, Kind};
use portway_proto::service::health::{TEXT_MAX_BYTES, TIME_MIN};

use super::process::{is_kept, text};
use super::{MAX_INSTANCES, MAX_PORTS, MAX_REPLICAS, Work, int, kept, labels, name, plain, raw, refused};
use crate::hook::{self, Hooks};
use crate::inside::Program;
use crate::want::{
    Addressing, Condition, Dependency, Health, Instance, Keys, Restart, Service, Stopping, Tester,
};

impl Work<'_> {
    pub(super) fn service(&mut self, service: &str, node: &Node) -> Result<(), Fault> {
        let path = format!("services.{service}");
        namespaces(node, &path)?;
        let image = self.image(service, node, &path)?;
        let node = &self.with_image(&image, node, &path)?;
        let replicas = self.replicas(service, node, &path)?;
        let restart = restart(node, &path)?;
        let others: usize = self.want.services.values().map(|other| other.instances.len()).sum();
        if others.saturating_add(usize::try_from(replicas).unwrap_or(usize::MAX)) > MAX_INSTANCES {
            let what = format!("the project has more than {MAX_INSTANCES} instances");
            return Err(refused(node, &path, what).kind(Kind::TooLarge));
        }
        let ports = |service: &Service| -> usize {
            service.instances.iter().map(|one| one.ports.len() + one.devices.len()).sum()
        };
        let more = node.items("ports").len().saturating_mul(usize::try_from(replicas).unwrap_or(usize::MAX));
        if self.want.services.values().map(ports).sum::<usize>().saturating_add(more) > MAX_PORTS {
            let what = format!("the project has more than {MAX_PORTS} ports, all replicas counted");
            return Err(refused(node, &path, what).kind(Kind::TooLarge));
        }
        if node.is_true_at("privileged") {
            self.privilege(service, node, "run privileged: root inside is root of the host");
        }
        let mut instances = Vec::new();
        for index in 1..=replicas {
            instances.push(self.instance(service, node, &path, (index, replicas, &image, restart))?);
        }
        let made = Service {
            name: service.to_owned(),
            image,
            depends_on: self.depends_on(node, &path)?,
            health: self.health(node, &path)?,
            restart,
            stop: Stopping {
                signal: node.text_at("stop_signal").map(str::to_owned),
                grace: duration(node.at("stop_grace_period")).unwrap_or(Stopping::default().grace),
            },
            instances,
        };
        self.want.services.insert(service.to_owned(), made);
        Ok(())
    }

    fn replicas(&self, service: &str, node: &Node, path: &str) -> Result<u32, Fault> {
        let deploy = node.at("deploy");
        if let Some(mode) =
            deploy.and_then(|deploy| deploy.text_at("mode")).filter(|mode| *mode != "replicated")
        {
            return Err(refused(node, &format!("{path}.deploy.mode"), format!("`{mode}` cannot be had")));
        }
        let said = int(deploy.and_then(|deploy| deploy.at("replicas"))).or_else(|| int(node.at("scale")));
        let count = match self.setting.scale.get(service) {
            Some(count) => *count,
            None => u32::try_from(said.unwrap_or(1)).unwrap_or(u32::MAX),
        };
        if count > MAX_REPLICAS {
            return Err(refused(node, path, format!("has more than {MAX_REPLICAS} replicas")));
        }
        for key in ["container_name", "mac_address"] {
            if let Some(said) = node.at(key).filter(|_| count > 1) {
                let what = format!("is one, and there are {count} replicas");
                return Err(refused(said, &format!("{path}.{key}"), what));
            }
        }
        Ok(count)
    }

    fn instance(
        &mut self,
        service: &str,
        node: &Node,
        path: &str,
        (index, replicas, image, restart): (u32, u32, &str, Restart),
    ) -> Result<Instance, Fault> {
        let called = match node.text_at("container_name") {
            Some(name) => name.to_owned(),
            None => format!("{service}-{index}"),
        };
        let mut instance = Instance {
            name: name::instance(&called, node, path)?,
            index,
            image: image.to_owned(),
            config: Keys::new(),
            devices: BTreeMap::new(),
            nics: Vec::new(),
            mounts: Vec::new(),
            root: Keys::new(),
            files: Vec::new(),
            addressing: Addressing::Inside,
            ports: BTreeMap::new(),
            open: BTreeMap::new(),
            leads: BTreeMap::new(),
        };
        self.config(node, path, restart, &mut instance.config)?;
        hooks(node, path)?.label(&mut instance.config);
        self.process(node, path, restart, &mut instance)?;
        self.limits(node, path, &mut instance)?;
        self.nics((service, node), path, replicas, &mut instance)?;
        self.mounts(service, node, path, &mut instance)?;
        self.files(service, node, path, &mut instance)?;
        self.hardware(service, node, path, &mut instance)?;
        self.ports(service, node, path, (index, replicas), &mut instance)?;
        self.extensions_of_service(service, node, path, &mut instance)?;
        kept(&mut instance.config);
        Ok(instance)
    }

    fn config(&mut self, node: &Node, path: &str, restart: Restart, config: &mut Keys) -> Result<(), Fault> {
        for (name, value) in node.members("environment") {
            let path = format!("{path}.environment.{name}");
            if value.value == Value::Null {
                continue;
            }
            if name.is_empty() || name.contains(['=', '\n', '\r', '\0']) {
                return Err(refused(value, &path, "is no name of a variable"));
            }
            if self.is_guest(node) && !is_kept(&text(value, &path)?) {
                // Said to the service's first process.
                continue;
            }
            let text = plain(value, &path)?;
            if text.is_empty() {
                let what = "ignored: the server keeps no variable that is empty, so it is not set";
                self.warn(value, &path, what);
            }
            config.insert(format!("environment.{name}"), text);
        }
        for (key, prefix) in [("labels", "user.label."), ("annotations", "user.annotation.")] {
            if let Some(said) = node.at(key) {
                labels(said, prefix, &format!("{path}.{key}"), config)?;
            }
        }
        if node.is_true_at("privileged") {
            config.insert("security.privileged".to_owned(), "true".to_owned());
        }
        if let Some(said) = node.at("hostname") {
            let path = format!("{path}.hostname");
            let name = plain(said, &path)?;
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if name.is_empty() || name.len() > 64 || !name.chars().all(legal) {
                return Err(refused(said, &path, format!("`{name}` is no name of a host")));
            }
            raw(config, &[format!("lxc.uts.name = {name}")]);
        }
        // Started with the server's host: what is not said is left to how it was when the host stopped.
        let start = match restart {
            Restart::No => Some("false"),
            Restart::Always => Some("true"),
            Restart::UnlessStopped | Restart::OnFailure(_) => None,
        };
        config.extend(start.map(|start| ("boot.autostart".to_owned(), start.to_owned())));
        let again = matches!(restart, Restart::Always | Restart::UnlessStopped);
        if again && self.setting.can("instance_auto_restart") {
            config.insert("boot.autorestart".to_owned(), "true".to_owned());
        }
        Ok(())
    }

    fn depends_on(&self, node: &Node, path: &str) -> Result<BTreeMap<String, Dependency>, Fault> {
        let mut dependencies = BTreeMap::new();
        for (other, said) in node.members("depends_on") {
            let Some((_, there)) = self.project.services().find(|(name, _)| *name == other) else { continue };
            let condition = match said.text_at("condition") {
                Some("service_healthy") => Condition::Healthy,
                Some("service_completed_successfully") => Condition::Completed,
                _ => Condition::Started,
            };
            if condition == Condition::Healthy && !has_test(there) {
                let what = format!("waits for the health of `{other}`, which has no test of it");
                return Err(refused(said, &format!("{path}.depends_on.{other}"), what));
            }
            if condition == Condition::Completed && !self.is_guest(&self.as_run(other, there)?) {
                let what = format!(
                    "waits for the end of `{other}`, and nothing tells how that ends: only a first process of Portway's does"
                );
                return Err(refused(said, &format!("{path}.depends_on.{other}"), what));
            }
            let dependency = Dependency {
                condition,
                required: said.at("required").is_none_or(|node| node.value != Value::Bool(false)),
                restart: said.is_true_at("restart"),
            };
            dependencies.insert(other.clone(), dependency);
        }
        Ok(dependencies)
    }

    fn health(&mut self, node: &Node, path: &str) -> Result<Option<Health>, Fault> {
        let Some(said) = node.at("healthcheck") else { return Ok(None) };
        let path = format!("{path}.healthcheck");
        if !has_test(node) {
            let switched_off = said.is_true_at("disable") || said.at("test").is_some();
            if !switched_off {
                self.warn(said, &path, "ignored: it has no `test`, and that of the image is not known");
            }
            return Ok(None);
        }
        let mut words = Vec::new();
        for word in said.items("test") {
            let text = word.as_text().unwrap_or_default();
            if text.contains('\0') {
                return Err(refused(word, &path, "has a NUL in it"));
            }
            words.push(text.to_owned());
        }
        let kind = words.remove(0);
        if kind == "CMD-SHELL" {
            words.splice(0..0, ["/bin/sh".to_owned(), "-c".to_owned()]);
        }
        let time = |key: &str, default: u64| -> Result<Duration, Fault> {
            let said = duration(said.at(key)).filter(|time| !time.is_zero());
            Ok(said.unwrap_or(Duration::from_secs(default)))
        };
        let health = Health {
            test: words,
            tester: if self.is_guest(node) { Tester::Guest } else { Tester::Server },
            interval: time("interval", 30)?,
            timeout: time("timeout", 30)?,
            retries: int(said.at("retries"))
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .unwrap_or(3),
            start_period: time("start_period", 0)?,
            start_interval: time("start_interval", 5)?,
        };
        if let Err(name) = health.check() {
            let what = format!("has a time of less than {TIME_MIN:?}, or of more than a week: `{name}`");
            return Err(refused(said, &path, what));
        }
        if health.write().is_err() {
            let what = format!("is longer than {TEXT_MAX_BYTES} bytes, which is all that is kept of it");
            return Err(refused(said, &path, what).kind(Kind::TooLarge));
        }
        Ok(Some(health))
    }
}

/// What it runs at turns of its life.
fn hooks(node: &Node, path: &str) -> Result<Hooks, Fault> {
    let all = |key: &str| -> Result<Vec<Program>, Fault> {
        let programs = node.items(key).iter().enumerate();
        programs.map(|(at, one)| hook::program(one, &format!("{path}.{key}[{at}]"))).collect()
    };
    Ok(Hooks { post_start: all("post_start")?, pre_stop: all("pre_stop")? })
}

/// Whether a service says how its health is told.
fn has_test(service: &Node) -> bool {
    let Some(said) = service.at("healthcheck").filter(|said| !said.is_true_at("disable")) else {
        return false;
    };
    let test = said.items("test");
    test.len() > 1 && test.first().and_then(Node::as_text) != Some("NONE")
}

/// What would be somebody else's namespace.
fn namespaces(node: &Node, path: &str) -> Result<(), Fault> {
    let own: [(&str, &[&str]); 6] = [
        ("network_mode", &["", "none"]),
        ("pid", &[""]),
        ("ipc", &["", "private", "shareable", "none"]),
        ("uts", &[""]),
        ("cgroup", &["", "private"]),
        ("userns_mode", &["", "auto"]),
    ];
    for (key, fine) in own {
        let Some(said) = node.at(key) else { continue };
        let text = said.as_text().unwrap_or_default();
        if !fine.contains(&text) {
            let what = format!("`{text}` cannot be had: an instance has namespaces of its own");
            let hint = (key == "network_mode").then(|| "leave it out, or name `networks`".to_owned());
            return Err(refused(said, &format!("{path}.{key}"), what).hint(hint));
        }
    }
    Ok(())
}

fn restart(node: &Node, path: &str) -> Result<Restart, Fault> {
    if let Some(policy) = node.at("deploy").and_then(|deploy| deploy.at("restart_policy")) {
        let most = int(policy.at("max_attempts")).and_then(|most| u32::try_from(most).ok());
        return match policy.text_at("condition").unwrap_or("any") {
            "none" => Ok(Restart::No),
            "any" => Ok(Restart::Always),
            "on-failure" => Ok(Restart::OnFailure(most)),
            other => {
                let path = format!("{path}.deploy.restart_policy.condition");
                Err(refused(policy, &path, format!("`{other}` is none of none, on-failure, any")))
            }
        };
    }
    let Some(said) = node.at("restart") else { return Ok(Restart::No) };
    let text = said.as_text().unwrap_or_default();
    match text.split_once(':').map_or((text, None), |(word, count)| (word, Some(count))) {
        ("" | "no", None) => Ok(Restart::No),
        ("always", None) => Ok(Restart::Always),
        ("unless-stopped", None) => Ok(Restart::UnlessStopped),
        ("on-failure", None) => Ok(Restart::OnFailure(None)),
        ("on-failure", Some(count)) if count.parse::<u32>().is_ok() => {
            Ok(Restart::OnFailure(count.parse().ok()))
        }
        _ => {
            let what = format!("`{text}` is none of no, always, unless-stopped, on-failure[:N]");
            Err(refused(said, &format!("{path}.restart"), what))
        }
    }
}

/// A duration in canonical form: `1h0m1.5s`.
pub(super) fn duration(node: Option<&Node>) -> Option<Duration> {
    let mut rest = node?.as_text()?;
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(end)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_end)?;
        let size = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "µs" | "us" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * size;
        rest = after;
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use portway_composefile::Place;

    use super::*;

    #[test]
    fn durations_are_read_back() {
        let read = |text: &str| duration(Some(&Node::text(text, &Place::of_file("x"))));
        assert_eq!(read("1h0m1.5s"), Some(Duration::from_millis(3_601_500)));
        assert_eq!(read("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(read("-1s"), None);
    }
}
