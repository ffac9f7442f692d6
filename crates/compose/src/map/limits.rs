//! What an instance may use.

use portway_composefile::Fault;
use portway_composefile::tree::{Node, Value};

use super::{Work, int, plain, raw, refused};
use crate::want::{Instance, Keys};

/// Period of a hard limit of processor time: the kernel's own (sched-bwc).
const PERIOD_MS: f64 = 100.0;

impl Work<'_> {
    pub(super) fn limits(
        &mut self,
        service: &Node,
        path: &str,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        let limits =
            service.at("deploy").and_then(|node| node.at("resources")).and_then(|node| node.at("limits"));
        let either = |own: &str, deployed: &str| service.at(own).or_else(|| limits?.at(deployed));
        let config = &mut instance.config;
        let mut set = |key: &str, value: String| config.insert(key.to_owned(), value);
        if let Some((key, value)) = processors(service, either("cpus", "cpus"), path)? {
            set(key, value);
        }
        if let Some(node) = service.at("cpuset") {
            set("limits.cpu", cpuset(node, &format!("{path}.cpuset"))?);
        }
        if let Some(node) = either("mem_limit", "memory") {
            set("limits.memory", size(bytes(node, &format!("{path}.mem_limit"))?));
        }
        if let Some(node) = either("pids_limit", "pids")
            && let Some(count @ 1..) = int(Some(node))
        {
            set("limits.processes", count.to_string());
        }
        self.swap(service, either("mem_limit", "memory"), path, config)?;
        self.score(service, path, config)?;
        ulimits(service, path, config)?;
        for (name, node) in service.members("sysctls") {
            let path = format!("{path}.sysctls.{name}");
            let legal = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b));
            if name.is_empty() || !legal {
                return Err(refused(node, &path, "is no name of a setting"));
            }
            config.insert(format!("linux.sysctl.{name}"), plain(node, &path)?);
        }
        capabilities(service, path, config)?;
        self.options(service, path, config)?;
        storage(service, path, &mut instance.root)
    }

    /// The file says memory and swap together; the server wants swap alone.
    fn swap(
        &mut self,
        service: &Node,
        memory: Option<&Node>,
        path: &str,
        config: &mut Keys,
    ) -> Result<(), Fault> {
        let Some(node) = service.at("memswap_limit") else { return Ok(()) };
        let path = format!("{path}.memswap_limit");
        let Some(memory) = memory else {
            return Err(refused(node, &path, "counts with `mem_limit` only"));
        };
        let memory = bytes(memory, &path)?;
        let value = match node.as_word().as_deref() {
            Some("-1") => "true".to_owned(),
            _ => match bytes(node, &path)?.checked_sub(memory) {
                Some(0) => "false".to_owned(),
                Some(swap) if self.setting.can("instance_memory_swap_bytes") => size(swap),
                Some(_) => {
                    self.warn(node, &path, "ignored: this server takes no size of swap");
                    return Ok(());
                }
                None => return Err(refused(node, &path, "is less than `mem_limit`, which it includes")),
            },
        };
        config.insert("limits.memory.swap".to_owned(), value);
        Ok(())
    }

    fn score(&mut self, service: &Node, path: &str, config: &mut Keys) -> Result<(), Fault> {
        let Some(node) = service.at("oom_score_adj") else { return Ok(()) };
        let path = format!("{path}.oom_score_adj");
        if self.setting.can("instance_limits_oom") {
            config.insert("limits.memory.oom_priority".to_owned(), plain(node, &path)?);
        } else {
            self.warn(node, &path, "ignored: this server has no such limit");
        }
        Ok(())
    }

    fn options(&mut self, service: &Node, path: &str, config: &mut Keys) -> Result<(), Fault> {
        for (at, node) in service.items("security_opt").iter().enumerate() {
            let text = node.as_text().unwrap_or_default();
            let path = format!("{path}.security_opt[{at}]");
            match text {
                "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
                    raw(config, &["lxc.no_new_privs = 1".to_owned()]);
                }
                "no-new-privileges:false" | "no-new-privileges=false" => {}
                _ => self.warn(node, &path, "ignored: the server has its own profiles"),
            }
        }
        Ok(())
    }
}

fn processors(
    service: &Node,
    cpus: Option<&Node>,
    path: &str,
) -> Result<Option<(&'static str, String)>, Fault> {
    let number = |node: &Node| match node.value {
        #[expect(clippy::cast_precision_loss, reason = "a limit has few digits")]
        Value::Int(value) => value as f64,
        Value::Float(value) => value,
        _ => 0.0,
    };
    if let Some(node) = service.at("cpu_quota") {
        let quota = number(node);
        let period = service.at("cpu_period").map_or(PERIOD_MS * 1000.0, number);
        // 1 ms is the least that the kernel takes, of either.
        if quota < 1000.0 || period < 1000.0 {
            return Err(refused(node, &format!("{path}.cpu_quota"), "quota and period are at least 1000"));
        }
        return Ok(Some(("limits.cpu.allowance", format!("{:.0}ms/{:.0}ms", quota / 1e3, period / 1e3))));
    }
    let Some(node) = cpus else { return Ok(None) };
    let count = number(node);
    if !(0.01..=4096.0).contains(&count) {
        return Err(refused(node, &format!("{path}.cpus"), "must be between 0.01 and 4096"));
    }
    // A set says which ones: the number is then a share of time.
    let whole = count.fract() == 0.0 && service.at("cpuset").is_none();
    Ok(Some(if whole {
        ("limits.cpu", format!("{count:.0}"))
    } else {
        ("limits.cpu.allowance", format!("{:.0}ms/{PERIOD_MS:.0}ms", (count * PERIOD_MS).max(1.0)))
    }))
}

/// One number alone would be a count to the server.
fn cpuset(node: &Node, path: &str) -> Result<String, Fault> {
    let text = plain(node, path)?;
    let number = |text: &str| text.parse::<u16>().is_ok();
    let range = |text: &str| text.split_once('-').map_or(number(text), |(a, b)| number(a) && number(b));
    if !text.split(',').all(range) {
        return Err(refused(node, path, format!("`{text}` is no set of processors, as 0-3,5 is")));
    }
    Ok(if number(&text) { format!("{text}-{text}") } else { text })
}

/// A size in canonical form.
fn bytes(node: &Node, path: &str) -> Result<u64, Fault> {
    let text = node.as_word().unwrap_or_default();
    let bytes = text.parse::<u64>().ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| refused(node, path, format!("`{text}` is no size")))
}

/// Bytes in the largest unit that leaves nothing over.
pub(super) fn size(bytes: u64) -> String {
    for (unit, name) in [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes.is_multiple_of(unit) {
            return format!("{}{name}", bytes / unit);
        }
    }
    format!("{bytes}B")
}

fn ulimits(service: &Node, path: &str, config: &mut Keys) -> Result<(), Fault> {
    for (name, node) in service.members("ulimits") {
        let path = format!("{path}.ulimits.{name}");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase()) {
            return Err(refused(node, &path, "is no name of a limit"));
        }
        let one = |node: &Node| match int(Some(node)) {
            Some(-1) => Ok("unlimited".to_owned()),
            Some(value @ 0..) => Ok(value.to_string()),
            _ => Err(refused(node, &path, "must be a number from 0, or -1")),
        };
        let value = match (node.at("soft"), node.at("hard")) {
            (Some(soft), Some(hard)) => format!("{}:{}", one(soft)?, one(hard)?),
            (Some(only), None) | (None, Some(only)) => one(only)?,
            (None, None) => one(node)?,
        };
        config.insert(format!("limits.kernel.{name}"), value);
    }
    Ok(())
}

/// Capabilities of Linux 6.12, capabilities(7).
const CAPABILITIES: [&str; 41] = [
    "audit_control",
    "audit_read",
    "audit_write",
    "block_suspend",
    "bpf",
    "checkpoint_restore",
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "ipc_lock",
    "ipc_owner",
    "kill",
    "lease",
    "linux_immutable",
    "mac_admin",
    "mac_override",
    "mknod",
    "net_admin",
    "net_bind_service",
    "net_broadcast",
    "net_raw",
    "perfmon",
    "setfcap",
    "setgid",
    "setpcap",
    "setuid",
    "sys_admin",
    "sys_boot",
    "sys_chroot",
    "sys_module",
    "sys_nice",
    "sys_pacct",
    "sys_ptrace",
    "sys_rawio",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "syslog",
    "wake_alarm",
];

/// What is dropped, without what is added again.
fn capabilities(service: &Node, path: &str, config: &mut Keys) -> Result<(), Fault> {
    let named = |key: &str| -> Result<Vec<String>, Fault> {
        let mut names = Vec::new();
        for (at, node) in service.items(key).iter().enumerate() {
            let text = node.as_text().unwrap_or_default().to_ascii_lowercase();
            let name = text.strip_prefix("cap_").unwrap_or(&text);
            match name {
                "all" => names.extend(CAPABILITIES.map(str::to_owned)),
                name if CAPABILITIES.contains(&name) => names.push(name.to_owned()),
                _ => {
                    let what = format!("`{text}` is no capability");
                    return Err(refused(node, &format!("{path}.{key}[{at}]"), what));
                }
            }
        }
        Ok(names)
    };
    let added = named("cap_add")?;
    let mut dropped = named("cap_drop")?;
    dropped.retain(|name| !added.contains(name));
    dropped.sort();
    dropped.dedup();
    if !dropped.is_empty() {
        raw(config, &[format!("lxc.cap.drop = {}", dropped.join(" "))]);
    }
    Ok(())
}

fn storage(service: &Node, path: &str, root: &mut Keys) -> Result<(), Fault> {
    for (name, node) in service.members("storage_opt") {
        let path = format!("{path}.storage_opt.{name}");
        if name != "size" {
            return Err(refused(node, &path, "cannot be had: only `size` can"));
        }
        let text = plain(node, &path)?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
            "" | "b" => "B",
            "k" | "kb" | "kib" => "KiB",
            "m" | "mb" | "mib" => "MiB",
            "g" | "gb" | "gib" => "GiB",
            "t" | "tb" | "tib" => "TiB",
            _ => return Err(refused(node, &path, format!("`{text}` is no size"))),
        };
        if digits.parse::<u64>().is_err() {
            return Err(refused(node, &path, format!("`{text}` is no size")));
        }
        root.insert("size".to_owned(), format!("{digits}{unit}"));
    }
    Ok(())
}
