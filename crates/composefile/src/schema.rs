//! The keys of a Compose file: one table, from which unknown keys, kinds, canonical forms and what is left out follow.

use crate::forms;
use crate::shape::Shape::{
    Any, Between, Bool, Command, Dict, Duration, Integer, List, Long, Named, Nullable, Number, Object, OneOf,
    Options, Size, Text, TextOrTexts, Texts, Word,
};
use crate::shape::{Absent, Field, Shape, kept, key};

/// A whole file, after `include` and `extends`.
pub(crate) static FILE: Shape = Object(&[
    key("name", Text),
    key("version", Any),
    key("include", Any),
    kept("services", Named(&SERVICE)),
    key("networks", Named(&Nullable(&NETWORK))),
    key("volumes", Named(&Nullable(&VOLUME))),
    key("secrets", Named(&SECRET)),
    key("configs", Named(&CONFIG)),
]);

/// One service.
pub(crate) static SERVICE: Shape = Object(SERVICE_KEYS);

static SERVICE_KEYS: &[Field] = &[
    key("annotations", Dict(Absent::Blank)),
    kept("attach", Bool),
    key("blkio_config", BLKIO),
    key("build", Long(forms::build, &BUILD)),
    key("cap_add", Texts),
    key("cap_drop", Texts),
    key("cgroup", OneOf(&["host", "private"])),
    key("cgroup_parent", Text),
    kept("command", Command),
    key("configs", List(&FILE_GRANT)),
    key("container_name", Text),
    key("cpu_count", Integer),
    key("cpu_percent", Between(0, 100)),
    key("cpu_period", Integer),
    key("cpu_quota", Integer),
    key("cpu_rt_period", Integer),
    key("cpu_rt_runtime", Integer),
    key("cpu_shares", Integer),
    key("cpus", Number),
    key("cpuset", Text),
    key("credential_spec", Object(&[key("config", Text), key("file", Text), key("registry", Text)])),
    key("depends_on", Long(forms::depends_on, &Named(&DEPENDENCY))),
    key("deploy", Nullable(&DEPLOY)),
    key("develop", Nullable(&DEVELOP)),
    key("device_cgroup_rules", List(&Text)),
    key("devices", List(&DEVICE)),
    key("dns", TextOrTexts),
    key("dns_opt", Texts),
    key("dns_search", TextOrTexts),
    key("domainname", Text),
    kept("entrypoint", Command),
    key("env_file", Long(forms::one_or_many, &List(&ENV_FILE))),
    key("environment", Dict(Absent::Null)),
    key("expose", Long(forms::words, &Texts)),
    key("extends", Any),
    key("external_links", List(&Text)),
    key("extra_hosts", Long(forms::extra_hosts, &Texts)),
    key("gpus", Long(forms::gpus, &List(&GPU))),
    key("group_add", List(&Long(forms::whole, &Word))),
    key("healthcheck", HEALTHCHECK),
    key("hostname", Text),
    key("image", Text),
    kept("init", Bool),
    key("ipc", Text),
    key("isolation", Text),
    key("label_file", TextOrTexts),
    key("labels", Dict(Absent::Blank)),
    key("links", Texts),
    key("logging", Object(&[key("driver", Text), key("options", Options)])),
    key("mac_address", Text),
    key("mem_limit", Size),
    key("mem_reservation", Size),
    key("mem_swappiness", Long(forms::whole, &Size)),
    key("memswap_limit", Size),
    key("network_mode", Text),
    key("networks", Long(forms::names, &Named(&Nullable(&ATTACHMENT)))),
    key("oom_kill_disable", Bool),
    key("oom_score_adj", Between(-1000, 1000)),
    key("pid", Text),
    key("pids_limit", Integer),
    key("platform", Text),
    key("ports", Long(forms::ports, &List(&PORT))),
    key("post_start", List(&HOOK)),
    key("pre_stop", List(&HOOK)),
    key("privileged", Bool),
    key("profiles", Texts),
    key("pull_policy", OneOf(&["always", "never", "if_not_present", "build", "missing"])),
    key("read_only", Bool),
    key("restart", Text),
    key("runtime", Text),
    kept("scale", Integer),
    key("secrets", List(&FILE_GRANT)),
    key("security_opt", List(&Text)),
    key("shm_size", Size),
    key("stdin_open", Bool),
    kept("stop_grace_period", Duration),
    key("stop_signal", Text),
    key("storage_opt", Options),
    key("sysctls", Dict(Absent::Blank)),
    key("tmpfs", TextOrTexts),
    key("tty", Bool),
    key("ulimits", ULIMITS),
    key("user", Text),
    key("userns_mode", Text),
    key("uts", Text),
    key("volumes", List(&MOUNT)),
    key("volumes_from", List(&Text)),
    key("working_dir", Text),
];

const WEIGHTS: Shape = List(&Object(&[key("path", Text), key("weight", Integer)]));
const RATES: Shape = List(&Object(&[key("path", Text), key("rate", Size)]));

const BLKIO: Shape = Object(&[
    key("weight", Integer),
    key("weight_device", WEIGHTS),
    key("device_read_bps", RATES),
    key("device_read_iops", RATES),
    key("device_write_bps", RATES),
    key("device_write_iops", RATES),
]);

static BUILD: Shape = Object(&[
    key("additional_contexts", Dict(Absent::Blank)),
    key("args", Dict(Absent::Null)),
    key("cache_from", List(&Text)),
    key("cache_to", List(&Text)),
    key("context", Text),
    key("dockerfile", Text),
    key("dockerfile_inline", Text),
    key("entitlements", List(&Text)),
    key("extra_hosts", Long(forms::extra_hosts, &Texts)),
    key("isolation", Text),
    key("labels", Dict(Absent::Blank)),
    key("network", Text),
    key("no_cache", Bool),
    key("platforms", List(&Text)),
    key("privileged", Bool),
    key("pull", Bool),
    key("secrets", List(&FILE_GRANT)),
    key("shm_size", Size),
    key("ssh", Dict(Absent::Blank)),
    key("tags", Texts),
    key("target", Text),
    key("ulimits", ULIMITS),
]);

const ULIMITS: Shape = Named(&Long(forms::ulimit, &Any));

static DEPENDENCY: Shape = Object(&[
    key("condition", OneOf(&["service_started", "service_healthy", "service_completed_successfully"])),
    kept("required", Bool),
    key("restart", Bool),
]);

static DEPLOY: Shape = Object(&[
    key("endpoint_mode", Text),
    key("labels", Dict(Absent::Blank)),
    key("mode", Text),
    key(
        "placement",
        Object(&[
            key("constraints", List(&Text)),
            key("max_replicas_per_node", Integer),
            key("preferences", List(&Object(&[key("spread", Text)]))),
        ]),
    ),
    kept("replicas", Integer),
    key(
        "resources",
        Object(&[
            key("limits", Object(&[key("cpus", Number), key("memory", Size), key("pids", Integer)])),
            key(
                "reservations",
                Object(&[
                    key("cpus", Number),
                    key("devices", List(&GPU)),
                    key("generic_resources", List(&GENERIC)),
                    key("memory", Size),
                    key("pids", Integer),
                ]),
            ),
        ]),
    ),
    key(
        "restart_policy",
        Object(&[
            key("condition", Text),
            kept("delay", Duration),
            kept("max_attempts", Integer),
            kept("window", Duration),
        ]),
    ),
    key("rollback_config", ROLLOUT),
    key("update_config", ROLLOUT),
]);

static GENERIC: Shape =
    Object(&[key("discrete_resource_spec", Object(&[key("kind", Text), key("value", Integer)]))]);

const ROLLOUT: Shape = Object(&[
    key("delay", Duration),
    key("failure_action", Text),
    key("max_failure_ratio", Number),
    key("monitor", Duration),
    key("order", OneOf(&["start-first", "stop-first"])),
    kept("parallelism", Integer),
]);

static DEVELOP: Shape = Object(&[key(
    "watch",
    List(&Object(&[
        key("action", OneOf(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"])),
        key("exec", HOOK),
        key("ignore", List(&Text)),
        key("include", List(&Text)),
        key("path", Text),
        key("target", Text),
    ])),
)]);

static DEVICE: Shape =
    Long(forms::device, &Object(&[key("source", Text), key("target", Text), key("permissions", Text)]));

static ENV_FILE: Shape =
    Long(forms::env_file, &Object(&[key("path", Text), key("required", Bool), key("format", Text)]));

static GPU: Shape = Object(&[
    key("capabilities", List(&Text)),
    key("count", Long(forms::count, &Integer)),
    key("device_ids", List(&Text)),
    key("driver", Text),
    key("options", Dict(Absent::Blank)),
]);

const HEALTHCHECK: Shape = Object(&[
    key("disable", Bool),
    kept("interval", Duration),
    kept("retries", Integer),
    kept("start_interval", Duration),
    kept("start_period", Duration),
    key("test", Long(forms::healthcheck, &List(&Text))),
    kept("timeout", Duration),
]);

const HOOK: Shape = Object(&[
    key("command", Command),
    key("environment", Dict(Absent::Null)),
    key("privileged", Bool),
    key("user", Text),
    key("working_dir", Text),
]);

static FILE_GRANT: Shape = Long(
    forms::grant,
    &Object(&[
        key("source", Text),
        key("target", Text),
        key("uid", Text),
        key("gid", Text),
        kept("mode", Long(forms::mode, &Integer)),
    ]),
);

static ATTACHMENT: Shape = Object(&[
    key("aliases", Texts),
    key("driver_opts", Options),
    key("gw_priority", Number),
    key("ipv4_address", Text),
    key("ipv6_address", Text),
    key("link_local_ips", Texts),
    key("mac_address", Text),
    key("priority", Integer),
]);

static PORT: Shape = Object(&[
    key("app_protocol", Text),
    key("host_ip", Text),
    key("mode", Text),
    key("name", Text),
    key("protocol", Text),
    key("published", Word),
    key("target", Integer),
]);

static MOUNT: Shape = Long(
    forms::mount,
    &Object(&[
        key(
            "bind",
            Object(&[
                key("create_host_path", Bool),
                key("propagation", Text),
                key("recursive", OneOf(&["enabled", "disabled", "writable", "readonly"])),
                key("selinux", OneOf(&["z", "Z"])),
            ]),
        ),
        key("consistency", Text),
        key("read_only", Bool),
        key("source", Text),
        key("target", Text),
        key("tmpfs", Object(&[key("mode", Integer), key("size", Size)])),
        key("type", Text),
        key("volume", Object(&[key("nocopy", Bool), key("subpath", Text)])),
    ]),
);

static NETWORK: Shape = Object(&[
    key("attachable", Bool),
    key("driver", Text),
    key("driver_opts", Options),
    kept("enable_ipv4", Bool),
    kept("enable_ipv6", Bool),
    key("external", Long(forms::external, &Bool)),
    key("internal", Bool),
    key(
        "ipam",
        Object(&[
            key(
                "config",
                List(&Object(&[
                    key("aux_addresses", Options),
                    key("gateway", Text),
                    key("ip_range", Text),
                    key("subnet", Text),
                ])),
            ),
            key("driver", Text),
            key("options", Options),
        ]),
    ),
    key("labels", Dict(Absent::Blank)),
    key("name", Text),
]);

static VOLUME: Shape = Object(&[
    key("driver", Text),
    key("driver_opts", Options),
    key("external", Long(forms::external, &Bool)),
    key("labels", Dict(Absent::Blank)),
    key("name", Text),
]);

static SECRET: Shape = Object(&[
    key("driver", Text),
    key("driver_opts", Options),
    key("environment", Text),
    key("external", Long(forms::external, &Bool)),
    key("file", Text),
    key("labels", Dict(Absent::Blank)),
    key("name", Text),
    key("template_driver", Text),
]);

static CONFIG: Shape = Object(&[
    key("content", Text),
    key("environment", Text),
    key("external", Long(forms::external, &Bool)),
    key("file", Text),
    key("labels", Dict(Absent::Blank)),
    key("name", Text),
    key("template_driver", Text),
]);
