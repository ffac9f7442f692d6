//! The hash that docker compose tells a changed service by: of its JSON, whose members stand in an order of their own.
//!
//! The order is what `docker compose config --format json` prints; that the hash is of it was found by comparing.

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::emit;
use crate::tree::Node;

/// Members that do not count.
const LEFT_OUT: [&str; 3] = ["build", "pull_policy", "scale"];

/// SHA-256 in hexadecimal.
pub(crate) fn of(service: &Node) -> String {
    // Texts as they are meant, with a single `$`.
    let mut json = emit::json(service, true);
    emit::complete_service(&mut json);
    if let Some(map) = json.as_object_mut() {
        map.retain(|key, _| !LEFT_OUT.contains(&key.as_str()));
        let watch = map.get_mut("develop").and_then(|develop| develop.get_mut("watch"));
        for rule in watch.and_then(Json::as_array_mut).into_iter().flatten() {
            emit::always(rule, "exec", serde_json::json!({"command": null}));
        }
        if let Some(deploy) = map.get_mut("deploy").and_then(Json::as_object_mut) {
            deploy.remove("replicas");
        }
    }
    let mut text = String::new();
    write(&json, "", &mut text);
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Members of the mapping at `path` that do not stand where the alphabet puts them, in their order; the others follow
/// from the places of these.
fn order(path: &str) -> &'static [&'static str] {
    match path {
        "" => SERVICE,
        "develop.watch" => &["path", "action", "target", "exec", "ignore"],
        "develop.watch.exec" | "post_start" | "pre_stop" => {
            &["command", "user", "privileged", "working_dir", "environment"]
        }
        "blkio_config" => &[
            "weight",
            "weight_device",
            "device_read_bps",
            "device_read_iops",
            "device_write_bps",
            "device_write_iops",
        ],
        "configs" | "secrets" => &["source", "target", "uid", "gid", "mode"],
        "deploy" => &[
            "mode",
            "replicas",
            "labels",
            "update_config",
            "rollback_config",
            "resources",
            "restart_policy",
            "placement",
            "endpoint_mode",
        ],
        "deploy.update_config" | "deploy.rollback_config" => {
            &["parallelism", "delay", "failure_action", "monitor", "max_failure_ratio", "order"]
        }
        "deploy.resources.limits" | "deploy.resources.reservations" => {
            &["cpus", "memory", "pids", "devices", "generic_resources"]
        }
        "deploy.resources.reservations.devices" | "gpus" => {
            &["capabilities", "driver", "count", "device_ids", "options"]
        }
        "deploy.restart_policy" => &["condition", "delay", "max_attempts", "window"],
        "deploy.placement" => &["constraints", "preferences", "max_replicas_per_node"],
        "devices" => &["source", "target", "permissions"],
        "healthcheck" => {
            &["test", "timeout", "interval", "retries", "start_period", "start_interval", "disable"]
        }
        "networks.*" => &[
            "priority",
            "gw_priority",
            "aliases",
            "ipv4_address",
            "ipv6_address",
            "link_local_ips",
            "mac_address",
            "driver_opts",
        ],
        "ports" => &["name", "mode", "host_ip", "target", "published", "protocol", "app_protocol"],
        "ulimits.*" => &["single", "soft", "hard"],
        "volumes" => &["type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs"],
        "volumes.bind" => &["selinux", "propagation", "create_host_path", "recursive"],
        "volumes.tmpfs" => &["size", "mode"],
        "depends_on.*" => &["condition", "restart", "required"],
        _ => &[],
    }
}

/// The members of a service.
const SERVICE: &[&str] = &[
    "profiles",
    "annotations",
    "attach",
    "develop",
    "blkio_config",
    "cap_add",
    "cap_drop",
    "cgroup_parent",
    "cgroup",
    "cpu_count",
    "cpu_percent",
    "cpu_period",
    "cpu_quota",
    "cpu_rt_period",
    "cpu_rt_runtime",
    "cpus",
    "cpuset",
    "cpu_shares",
    "command",
    "configs",
    "container_name",
    "credential_spec",
    "depends_on",
    "deploy",
    "device_cgroup_rules",
    "devices",
    "dns",
    "dns_opt",
    "dns_search",
    "domainname",
    "entrypoint",
    "environment",
    "env_file",
    "expose",
    "external_links",
    "extra_hosts",
    "group_add",
    "gpus",
    "hostname",
    "healthcheck",
    "image",
    "init",
    "ipc",
    "isolation",
    "labels",
    "links",
    "logging",
    "mem_limit",
    "mem_reservation",
    "memswap_limit",
    "mem_swappiness",
    "mac_address",
    "network_mode",
    "networks",
    "oom_kill_disable",
    "oom_score_adj",
    "pid",
    "pids_limit",
    "platform",
    "ports",
    "privileged",
    "read_only",
    "restart",
    "runtime",
    "secrets",
    "security_opt",
    "shm_size",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "storage_opt",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "userns_mode",
    "uts",
    "volumes",
    "volumes_from",
    "working_dir",
    "post_start",
    "pre_stop",
];

/// JSON without blanks, in that order, `<`, `>` and `&` escaped.
fn write(value: &Json, path: &str, text: &mut String) {
    match value {
        Json::Object(map) => {
            let order = order(path);
            let place = |key: &str| order.iter().position(|known| *known == key).unwrap_or(usize::MAX);
            let mut members: Vec<(&String, &Json)> =
                map.iter().filter(|(key, _)| !key.starts_with("x-") || free(path)).collect();
            members.sort_by_key(|(key, _)| (place(key), key.as_str()));
            text.push('{');
            for (at, (key, value)) in members.into_iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                scalar(&Json::from(called(path, key).as_str()), text);
                text.push(':');
                write(value, &below(path, key), text);
            }
            text.push('}');
        }
        Json::Array(list) => {
            text.push('[');
            for (at, value) in list.iter().enumerate() {
                if at > 0 {
                    text.push(',');
                }
                write(value, path, text);
            }
            text.push(']');
        }
        value => scalar(value, text),
    }
}

/// The name of a member: below some keys it is one that no file may have.
fn called(path: &str, key: &str) -> String {
    let mut letters = key.chars();
    match letters.next() {
        Some(first) if path.starts_with("blkio_config.") => {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        }
        _ => key.to_owned(),
    }
}

/// Whether the members of `path` are anybody's names.
fn free(path: &str) -> bool {
    matches!(
        path,
        "environment" | "labels" | "annotations" | "sysctls" | "networks" | "ulimits" | "depends_on"
    )
}

fn below(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        "networks" | "ulimits" | "depends_on" => format!("{path}.*"),
        path => format!("{path}.{key}"),
    }
}

fn scalar(value: &Json, text: &mut String) {
    for c in value.to_string().chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
}
