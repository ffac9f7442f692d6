//! Every key that is said to be mapped changes what is wanted, and what is done.

use super::*;
use crate::keys::{KEYS, Treatment};
use crate::plan::{Start, Up, up};
use crate::scene;

/// A key, and lines of a service that say it; a line that begins with `/` stands at the top.
const EFFECTS: &[(&str, &str)] = &[
    ("services.annotations", "annotations: {a: b}"),
    ("services.build", "build: ."),
    ("services.build.additional_contexts", "build: {context: ., additional_contexts: {a: ./b}}"),
    ("services.build.args", "build: {context: ., args: {A: b}}"),
    ("services.build.context", "build: {context: ./b}"),
    ("services.build.dockerfile", "build: {context: ., dockerfile: b}"),
    ("services.build.dockerfile_inline", "build: {context: ., dockerfile_inline: FROM b}"),
    ("services.build.extra_hosts", "build: {context: ., extra_hosts: ['a=10.0.0.1']}"),
    ("services.build.labels", "build: {context: ., labels: {a: b}}"),
    ("services.build.network", "build: {context: ., network: none}"),
    ("services.build.no_cache", "build: {context: ., no_cache: true}"),
    ("services.build.platforms", "build: {context: ., platforms: [linux/arm64]}"),
    ("services.build.pull", "build: {context: ., pull: true}"),
    ("services.build.secrets", "build: {context: ., secrets: [sec]}"),
    ("services.build.secrets.source", "build: {context: ., secrets: [{source: tok}]}"),
    ("services.build.secrets.target", "build: {context: ., secrets: [{source: sec, target: t}]}"),
    ("services.build.shm_size", "build: {context: ., shm_size: 64m}"),
    ("services.build.tags", "build: {context: ., tags: ['a:1']}"),
    ("services.build.target", "build: {context: ., target: t}"),
    ("services.build.ulimits", "build: {context: ., ulimits: {nofile: 5}}"),
    ("services.cap_add", "cap_drop: [ALL]\n    cap_add: [CHOWN]"),
    ("services.cap_drop", "cap_drop: [NET_RAW]"),
    ("services.command", "command: other"),
    ("services.configs", "configs: [cfg]"),
    ("services.configs.source", "configs: [{source: cfg}]"),
    ("services.configs.target", "configs: [{source: cfg, target: /t}]"),
    ("services.configs.uid", "configs: [{source: cfg, uid: '5'}]"),
    ("services.configs.gid", "configs: [{source: cfg, gid: '5'}]"),
    ("services.configs.mode", "configs: [{source: cfg, mode: 0400}]"),
    ("services.container_name", "container_name: other"),
    ("services.cpu_period", "cpu_quota: 5000\n    cpu_period: 20000"),
    ("services.cpu_quota", "cpu_quota: 5000"),
    ("services.cpus", "cpus: 0.5"),
    ("services.cpuset", "cpuset: '0'"),
    ("services.depends_on", "depends_on: [other]"),
    ("services.depends_on.condition", "depends_on: {other: {condition: service_healthy}}"),
    ("services.depends_on.required", "depends_on: {other: {condition: service_started, required: false}}"),
    ("services.depends_on.restart", "depends_on: {other: {condition: service_started, restart: true}}"),
    ("services.post_start", "post_start: [{command: x}]"),
    ("services.post_start.command", "post_start: [{command: y}]"),
    ("services.post_start.environment", "post_start: [{command: x, environment: {A: b}}]"),
    ("services.post_start.user", "post_start: [{command: x, user: bob}]"),
    ("services.post_start.working_dir", "post_start: [{command: x, working_dir: /y}]"),
    ("services.pre_stop", "pre_stop: [{command: x}]"),
    ("services.pre_stop.command", "pre_stop: [{command: y}]"),
    ("services.pre_stop.environment", "pre_stop: [{command: x, environment: [A=b]}]"),
    ("services.pre_stop.user", "pre_stop: [{command: x, user: '5:6'}]"),
    ("services.pre_stop.working_dir", "pre_stop: [{command: x, working_dir: /y}]"),
    ("services.deploy.replicas", "deploy: {replicas: 2}"),
    ("services.deploy.resources.limits.cpus", "deploy: {resources: {limits: {cpus: '2'}}}"),
    ("services.deploy.resources.limits.memory", "deploy: {resources: {limits: {memory: 64m}}}"),
    ("services.deploy.resources.limits.pids", "deploy: {resources: {limits: {pids: 7}}}"),
    (
        "services.deploy.resources.reservations.devices",
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
    ),
    (
        "services.deploy.resources.reservations.devices.count",
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], count: 1}]}}}",
    ),
    (
        "services.deploy.resources.reservations.devices.device_ids",
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: ['3']}]}}}",
    ),
    ("services.deploy.restart_policy", "deploy: {restart_policy: {condition: any}}"),
    ("services.deploy.restart_policy.condition", "deploy: {restart_policy: {condition: on-failure}}"),
    (
        "services.deploy.restart_policy.max_attempts",
        "deploy: {restart_policy: {condition: on-failure, max_attempts: 4}}",
    ),
    ("services.deploy.restart_policy.delay", "deploy: {restart_policy: {condition: on-failure, delay: 3s}}"),
    ("services.devices", "devices: ['/dev/kvm']"),
    ("services.devices.permissions", "devices: ['/dev/kvm:/dev/kvm:r']"),
    ("services.devices.source", "devices: ['/dev/sda:/dev/x']"),
    ("services.devices.target", "devices: ['/dev/kvm:/dev/y']"),
    ("services.dns", "dns: [1.1.1.1]"),
    ("services.dns_opt", "dns: [1.1.1.1]\n    dns_opt: ['ndots:2']"),
    ("services.dns_search", "dns: [1.1.1.1]\n    dns_search: [a.example]"),
    ("services.entrypoint", "entrypoint: other"),
    ("services.environment", "environment: {A: 1}"),
    ("services.extra_hosts", "extra_hosts: ['a=10.0.0.1']"),
    ("services.gpus", "gpus: all"),
    ("services.gpus.count", "gpus: [{count: 1}]"),
    ("services.gpus.device_ids", "gpus: [{device_ids: ['4']}]"),
    ("services.group_add", "group_add: [audio]"),
    ("services.healthcheck", "healthcheck: {test: [CMD, x]}"),
    ("services.healthcheck.interval", "healthcheck: {test: [CMD, x], interval: 7s}"),
    ("services.healthcheck.retries", "healthcheck: {test: [CMD, x], retries: 7}"),
    ("services.healthcheck.start_interval", "healthcheck: {test: [CMD, x], start_interval: 7s}"),
    ("services.healthcheck.start_period", "healthcheck: {test: [CMD, x], start_period: 7s}"),
    ("services.healthcheck.test", "healthcheck: {test: x}"),
    ("services.healthcheck.timeout", "healthcheck: {test: [CMD, x], timeout: 7s}"),
    ("services.hostname", "hostname: h"),
    ("services.image", "image: images:alpine/edge"),
    ("services.labels", "labels: {a: b}"),
    ("services.links", "links: ['other:alias']"),
    ("services.mac_address", "mac_address: 00:16:3e:00:00:02"),
    ("services.mem_limit", "mem_limit: 64m"),
    ("services.memswap_limit", "mem_limit: 64m\n    memswap_limit: 96m"),
    ("services.network_mode", "network_mode: none"),
    ("services.networks", "networks: [net]"),
    ("services.networks.aliases", "networks: {net: {aliases: [x]}}"),
    ("services.networks.gw_priority", "networks: {default: , net: {gw_priority: 9}}"),
    ("services.networks.ipv4_address", "networks: {net: {ipv4_address: 10.9.0.5}}"),
    ("services.networks.ipv6_address", "networks: {net: {ipv6_address: 'fd00::5'}}"),
    ("services.networks.mac_address", "networks: {net: {mac_address: 00:16:3e:00:00:03}}"),
    ("services.networks.priority", "networks: {default: , net: {priority: 9}}"),
    ("services.oom_score_adj", "oom_score_adj: 5"),
    ("services.pids_limit", "pids_limit: 9"),
    ("services.ports", "ports: ['1:1']"),
    ("services.ports.host_ip", "ports: ['127.0.0.1:1:1']"),
    ("services.ports.protocol", "ports: ['1:1/udp']"),
    ("services.ports.published", "ports: ['2:1']"),
    ("services.ports.target", "ports: ['1:2']"),
    ("services.privileged", "privileged: true"),
    ("services.pull_policy", "pull_policy: always"),
    ("services.restart", "restart: always"),
    ("services.scale", "scale: 2"),
    ("services.secrets", "secrets: [sec]"),
    ("services.secrets.source", "secrets: [{source: sec}]"),
    ("services.secrets.target", "secrets: [{source: sec, target: t}]"),
    ("services.secrets.uid", "secrets: [{source: sec, uid: '5'}]"),
    ("services.secrets.gid", "secrets: [{source: sec, gid: '5'}]"),
    ("services.secrets.mode", "secrets: [{source: sec, mode: 0400}]"),
    ("services.security_opt", "security_opt: [no-new-privileges]"),
    ("services.shm_size", "shm_size: 64m"),
    ("services.stop_grace_period", "stop_grace_period: 3s"),
    ("services.stdin_open", "stdin_open: true"),
    ("services.stop_signal", "stop_signal: SIGINT"),
    ("services.storage_opt", "storage_opt: {size: 3G}"),
    ("services.sysctls", "sysctls: {net.ipv4.ip_forward: 1}"),
    ("services.tmpfs", "tmpfs: [/run]"),
    ("services.tty", "tty: true"),
    ("services.ulimits", "ulimits: {nofile: 5}"),
    ("services.user", "user: '5'"),
    ("services.volumes", "volumes: ['vol:/data']"),
    (
        "services.volumes.bind.propagation",
        "volumes: [{type: bind, source: /x, target: /y, bind: {propagation: rslave}}]",
    ),
    (
        "services.volumes.bind.recursive",
        "volumes: [{type: bind, source: /x, target: /y, bind: {recursive: enabled}}]",
    ),
    ("services.volumes.read_only", "volumes: ['vol:/data:ro']"),
    ("services.volumes.source", "volumes: ['/srv/shop/other:/data']"),
    ("services.volumes.target", "volumes: ['vol:/elsewhere']"),
    ("services.volumes.tmpfs.mode", "volumes: [{type: tmpfs, target: /y, tmpfs: {mode: 0700}}]"),
    ("services.volumes.tmpfs.size", "volumes: [{type: tmpfs, target: /y, tmpfs: {size: 1m}}]"),
    ("services.volumes.type", "volumes: [{type: tmpfs, target: /data}]"),
    (
        "services.volumes.volume.subpath",
        "volumes: [{type: volume, source: vol, target: /y, volume: {subpath: s}}]",
    ),
    ("services.working_dir", "working_dir: /w"),
    ("networks.driver_opts", "/networks.net.driver_opts: {com.docker.network.driver.mtu: 1400}"),
    ("networks.enable_ipv4", "/networks.net.enable_ipv4: false"),
    ("networks.enable_ipv6", "/networks.net.enable_ipv6: true"),
    ("networks.external", "/networks.net.external: true"),
    ("networks.internal", "/networks.net.internal: true"),
    (
        "networks.ipam.config.aux_addresses",
        "/networks.net.ipam: {config: [{subnet: 10.8.0.0/24, aux_addresses: {router: 10.8.0.2}}]}",
    ),
    (
        "networks.ipam.config.gateway",
        "/networks.net.ipam: {config: [{subnet: 10.8.0.0/24, gateway: 10.8.0.9}]}",
    ),
    (
        "networks.ipam.config.ip_range",
        "/networks.net.ipam: {config: [{subnet: 10.8.0.0/24, ip_range: 10.8.0.0/25}]}",
    ),
    ("networks.ipam.config.subnet", "/networks.net.ipam: {config: [{subnet: 10.8.0.0/24}]}"),
    ("networks.labels", "/networks.net.labels: {a: b}"),
    ("networks.name", "/networks.net.name: other"),
    ("volumes.external", "/volumes.vol.external: true"),
    ("volumes.labels", "/volumes.vol.labels: {a: b}"),
    ("volumes.name", "/volumes.vol.name: other"),
    ("secrets.environment", "secrets: [tok]"),
    ("secrets.file", "secrets: [sec]"),
    ("configs.content", "configs: [cfg]"),
    ("configs.environment", "configs: [env]"),
    ("configs.file", "configs: [fil]"),
];

/// Those whose only effect is what stands below them, is refused, is nothing, or has been seen to by the loader.
const OTHERWISE: &[&str] = &[
    "configs",
    "configs.name",
    "name",
    "networks",
    "networks.attachable",
    "networks.driver",
    "networks.ipam",
    "networks.ipam.config",
    "secrets",
    "secrets.name",
    "services",
    "services.attach",
    "services.cgroup",
    "services.deploy",
    "services.deploy.mode",
    "services.deploy.resources",
    "services.deploy.resources.limits",
    "services.deploy.resources.reservations",
    "services.deploy.resources.reservations.devices.capabilities",
    "services.develop",
    "services.develop.watch",
    "services.develop.watch.action",
    "services.develop.watch.exec",
    "services.develop.watch.exec.command",
    "services.develop.watch.exec.environment",
    "services.develop.watch.exec.user",
    "services.develop.watch.exec.working_dir",
    "services.develop.watch.ignore",
    "services.develop.watch.include",
    "services.develop.watch.path",
    "services.develop.watch.target",
    "services.expose",
    "services.healthcheck.disable",
    "services.ipc",
    "services.pid",
    "services.ports.mode",
    "services.userns_mode",
    "services.uts",
    "services.volumes.bind",
    "services.volumes.bind.create_host_path",
    "services.volumes.tmpfs",
    "services.volumes.volume",
    "services.volumes.volume.nocopy",
    "volumes",
    "volumes.driver",
];

fn document(lines: &str) -> String {
    let (top, lines) = match lines.strip_prefix('/') {
        Some(top) => (Some(top), "networks: [net]\n    volumes: ['vol:/data']"),
        None => (None, lines),
    };
    let member = |section: &str, name: &str, usual: &str| match top.and_then(|top| top.split_once(": ")) {
        Some((key, value)) if key.starts_with(&format!("{section}.{name}.")) => {
            format!("{section}: {{{name}: {{{}: {value}}}}}", key.rsplit('.').next().unwrap_or_default())
        }
        _ => format!("{section}: {{{name}: {usual}}}"),
    };
    let mut own = lines.to_owned();
    for (key, usual) in [("image", "busybox"), ("command", "run")] {
        if !own.lines().any(|line| line.trim_start().starts_with(&format!("{key}:"))) {
            own.push_str(&format!("\n    {key}: {usual}"));
        }
    }
    format!(
        "services:\n  other: {{image: busybox, healthcheck: {{test: [CMD, y]}}}}\n  web:\n    {own}\n{}\n{}\n\
         secrets: {{sec: {{file: sec}}, tok: {{environment: TOKEN}}}}\n\
         configs: {{cfg: {{content: c}}, env: {{environment: TOKEN}}, fil: {{file: sec}}}}\n",
        member("networks", "net", "{}"),
        member("volumes", "vol", "{}"),
    )
}

/// Fails when a key that the table calls mapped makes no difference.
#[test]
fn every_mapped_key_makes_a_difference() {
    let setting = new_without_registries();
    for (key, lines) in EFFECTS {
        let base = if lines.starts_with('/') {
            "networks: [net]\n    volumes: ['vol:/data']"
        } else {
            "attach: true"
        };
        let base = if key.starts_with("services.build.") { "build: ." } else { base };
        let (plain, with) = (mapped(&document(base), &setting), mapped(&document(lines), &setting));
        let differ = plain.services != with.services
            || plain.networks != with.networks
            || plain.volumes != with.volumes
            || plain.images != with.images
            || plain.builds != with.builds;
        assert!(differ, "{key} makes no difference");
        assert!(with.warnings.iter().all(|line| !line.contains("ignored")), "{key}: {:?}", with.warnings);
    }
}

/// What stands in the file without the key, where that is more than nothing: by the longest path that a key begins with.
const WITHOUT: &[(&str, &str)] = &[
    ("configs.environment", "configs: [cfg]"),
    ("configs.file", "configs: [cfg]"),
    ("networks.ipam.config.gateway", "/networks.net.ipam: {config: [{subnet: 10.8.0.0/24}]}"),
    ("networks.ipam.config.ip_range", "/networks.net.ipam: {config: [{subnet: 10.8.0.0/24}]}"),
    ("secrets.environment", "secrets: [sec]"),
    ("services.cap_add", "cap_drop: [ALL]"),
    ("services.configs.", "configs: [{source: cfg}]"),
    ("services.configs.source", "configs: [{source: fil, target: /cfg}]"),
    ("services.cpu_period", "cpu_quota: 5000"),
    ("services.depends_on.", "depends_on: [other]"),
    (
        "services.deploy.resources.reservations.devices.",
        "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}",
    ),
    ("services.deploy.restart_policy.", "deploy: {restart_policy: {condition: any}}"),
    ("services.deploy.restart_policy.max_attempts", "deploy: {restart_policy: {condition: on-failure}}"),
    ("services.devices.", "devices: ['/dev/kvm']"),
    ("services.dns_", "dns: [1.1.1.1]"),
    ("services.gpus.", "gpus: all"),
    ("services.healthcheck.", "healthcheck: {test: [CMD, x]}"),
    ("services.memswap_limit", "mem_limit: 64m"),
    ("services.networks.", "networks: [net]"),
    ("services.networks.gw_priority", "networks: {default: , net: }"),
    ("services.networks.priority", "networks: {default: , net: }"),
    ("services.ports.", "ports: ['1:1']"),
    ("services.post_start.", "post_start: [{command: x}]"),
    ("services.pre_stop.", "pre_stop: [{command: x}]"),
    ("services.secrets.", "secrets: [{source: sec}]"),
    ("services.secrets.source", "secrets: [{source: tok, target: sec}]"),
    ("services.volumes.", "volumes: ['vol:/data']"),
    ("services.volumes.bind.", "volumes: [{type: bind, source: /x, target: /y}]"),
    ("services.volumes.tmpfs.", "volumes: [{type: tmpfs, target: /y}]"),
    ("services.volumes.volume.", "volumes: [{type: volume, source: vol, target: /y}]"),
];

/// Keys that need not show in the first plan, and the test that shows what each does.
const LATER: &[(&str, &str)] = &[
    ("services.depends_on.restart", "a_dependency_that_is_made_anew_restarts_who_asked_for_it"),
    ("services.deploy.restart_policy.max_attempts", "restarts are counted while it runs"),
    ("services.pull_policy", "an image that is there is fetched by the command"),
];

/// The first plan of a document, or why there is none.
fn steps(document: &str, setting: &Setting) -> String {
    let options = Up { start: Start::Wait, ..Up::default() };
    match up(&mapped(document, setting), &scene::server(), &options) {
        Ok(plan) => format!("{:#?}", plan.steps),
        Err(refusal) => refusal.to_string(),
    }
}

/// Fails when a key that the table calls mapped changes what is wanted, and nothing that is done.
#[test]
fn every_mapped_key_changes_a_step() {
    let setting = new_without_registries();
    let mut same = Vec::new();
    for (key, lines) in EFFECTS {
        let bases = WITHOUT.iter().filter(|(path, _)| key.starts_with(path));
        let without = match bases.max_by_key(|(path, _)| path.len()) {
            Some((_, without)) => *without,
            None if lines.starts_with('/') => "networks: [net]\n    volumes: ['vol:/data']",
            None => "attach: true",
        };
        let differ =
            without == *lines || steps(&document(without), &setting) != steps(&document(lines), &setting);
        if !differ && LATER.iter().all(|(later, _)| later != key) {
            same.push(*key);
        }
    }
    assert!(same.is_empty(), "{same:?} change no step");
}

/// Fails when a key is called mapped, and no test says what it does.
#[test]
fn every_mapped_key_is_tried() {
    for key in KEYS.iter().filter(|key| key.treatment == Treatment::Mapped) {
        let loaded = key.about.starts_with("taken in when");
        let tried = EFFECTS.iter().any(|(path, _)| *path == key.path) || OTHERWISE.contains(&key.path);
        assert!(tried || loaded, "{} is not tried", key.path);
    }
}

/// What a server of 7.0 can, with the images of one of 6.0.
fn new_without_registries() -> Setting {
    let mut setting = new();
    setting.extensions.remove("instance_oci");
    setting
}
