use std::io;
use std::time::Duration;

use portway_composefile::{Environment, Host, Options, Source, load};
use portway_proto::service::{Again, Spec};

use super::*;
use crate::build::HealthConfig;
use crate::want::{Addressing, Instance, Owner, Restart};

mod again;
mod bounds;
mod effects;
mod nat;
mod networks;
mod ports;
mod reach;

struct Nothing;

impl Host for Nothing {
    fn read(&self, _path: &Path) -> io::Result<String> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn is_file(&self, _path: &Path) -> bool {
        false
    }
}

/// The project of a text.
fn project(text: &str) -> Project {
    let options = Options {
        sources: vec![Source::Text(text.to_owned())],
        dir: PathBuf::from("/srv/shop"),
        name: Some("shop".to_owned()),
        environment: Environment::from([("TOKEN".to_owned(), "t0k".to_owned())]),
        env_files: Some(Vec::new()),
        profiles: Vec::new(),
        services: Vec::new(),
        enabled: Vec::new(),
        interpolate: true,
    };
    load(&options, &Nothing).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

/// A server of 6.0.
fn old() -> Setting {
    let extensions =
        ["network_bridge_acl", "instance_auto_restart", "disk_volume_subpath", "instance_memory_swap_bytes"];
    let files = BTreeMap::from([(PathBuf::from("/srv/shop/sec"), b"s3cret".to_vec())]);
    Setting {
        extensions: extensions.map(str::to_owned).into(),
        dir: PathBuf::from("/srv/shop"),
        files,
        architecture: "x86_64".to_owned(),
        program: Some(b"the first process"),
        graphics: ["0000:01:00.0", "0000:02:00.0"].map(str::to_owned).into(),
        ..Setting::default()
    }
}

/// What the first process of a replica is told to run.
fn told(instance: &Instance) -> Spec {
    let file = instance.files.iter().find(|file| file.path == "/.portway/service").expect("a service");
    assert_eq!((file.uid, file.gid, file.mode), (0, 0, 0o400), "variables may be secrets");
    Spec::read(&file.content).expect("it can be read")
}

/// A server of 7.0.
fn new() -> Setting {
    let mut setting = old();
    let more = ["instance_oci", "instance_oci_entrypoint", "instance_limits_oom", "container_disk_tmpfs"];
    setting.extensions.extend(more.map(str::to_owned));
    setting
}

/// Where each path leads that the test does not lead elsewhere: to itself.
fn without_links(text: &str, setting: &Setting) -> (Project, Setting) {
    let (project, mut setting) = (project(text), setting.clone());
    for path in paths(&project, &setting.dir) {
        setting.real.entry(path.clone()).or_insert(path);
    }
    (project, setting)
}

fn mapped(text: &str, setting: &Setting) -> ComposeProject {
    let (project, setting) = without_links(text, setting);
    map(&project, &setting).unwrap_or_else(|fault| panic!("{fault}\n{text}"))
}

fn fault(text: &str, setting: &Setting) -> String {
    let (project, setting) = without_links(text, setting);
    map(&project, &setting).map(|_| ()).expect_err(text).to_string()
}

fn first(want: &ComposeProject) -> &Instance {
    want.instances().next().expect("an instance").1
}

#[test]
fn a_small_project_on_the_old_server() {
    let want = mapped(
        "services:\n\
         \x20 web:\n\
         \x20   image: busybox\n\
         \x20   command: httpd -f -p 80\n\
         \x20   environment: {A: 1, B: }\n\
         \x20   ports: ['8080:80']\n\
         \x20   restart: unless-stopped\n\
         \x20   volumes: ['data:/data', './html:/var/www:ro', '/cache']\n\
         volumes: {data: }\n",
        &old(),
    );
    assert_eq!(want.incus_project, "shop");
    let web = first(&want);
    assert_eq!((web.name.as_str(), web.addressing), ("web-1", Addressing::Outside));
    let config: Vec<String> = web.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(
        config,
        [
            "boot.autorestart=true",
            "environment.A=1",
            "raw.lxc=lxc.init.cmd = /.portway/init service /.portway",
        ]
    );
    let bind = pairs(&[
        ("type", "disk"),
        ("shift", "true"),
        ("source", "/srv/shop/html"),
        ("path", "/var/www"),
        ("readonly", "true"),
    ]);
    assert_eq!(web.devices, BTreeMap::from([("bind-srv-shop-html".to_owned(), bind)]));
    let port = pairs(&[("listen", "tcp:[::]:8080"), ("connect", "tcp:127.0.0.1:80")]);
    assert_eq!(web.ports, BTreeMap::from([("proxy-8080".to_owned(), port)]));
    let mounts: Vec<(&str, &str)> =
        web.mounts.iter().map(|mount| (mount.device.as_str(), mount.volume.as_str())).collect();
    assert_eq!(mounts, [("vol-data", "data"), ("vol-cache", "web-1:/cache")]);
    assert_eq!(want.volumes["data"].name, "vol-data");
    assert_eq!(want.networks["default"].name, "shop-default");
    assert_eq!(want.services["web"].restart, Restart::UnlessStopped);
    assert!(want.privileges.is_empty() && want.warnings.is_empty(), "{want:?}");
    let words = ["httpd", "-f", "-p", "80"].map(|word| word.as_bytes().to_vec());
    let spec = Spec { args: words.to_vec(), again: Again::Always, ..Spec::default() };
    assert_eq!((told(web), want.program.bytes()), (spec, &b"the first process"[..]));
}

/// Fails when a restart is left out, or another one made than the file says, without a word.
#[test]
fn restarts_that_cannot_be_had_are_told() {
    for (service, place, what) in [
        ("restart: on-failure", "restart", "nothing tells how it has ended"),
        (
            "deploy: {restart_policy: {delay: 5s}}",
            "deploy.restart_policy.delay",
            "counts where the first process is",
        ),
        (
            "command: x\n    deploy: {restart_policy: {condition: any, max_attempts: 3}}",
            "deploy.restart_policy.max_attempts",
            "counts with `condition: on-failure`",
        ),
        ("tty: true", "tty", "counts where the first process is Portway's"),
        ("stdin_open: true", "stdin_open", "counts where the first process is Portway's"),
    ] {
        let want = mapped(&format!("services:\n  web:\n    image: images:x\n    {service}\n"), &new());
        assert_eq!(want.warnings.len(), 1, "{:?}", want.warnings);
        let said = &want.warnings[0];
        assert!(
            said.contains(&format!(": services.web.{place}: ignored: ")) && said.contains(what),
            "{said}"
        );
        let again = first(&want).config.contains_key("boot.autorestart");
        assert_eq!(again, service.contains("any") || service.contains("delay"), "{service}");
    }
    let registry = "services: {web: {image: nginx, restart: on-failure}, after: {image: x, depends_on: {web: {condition: \
                    service_completed_successfully}}}}";
    assert!(mapped(registry, &new()).warnings.is_empty());
    let bare = Setting { is_restricted: true, ..new() };
    assert!(fault(registry, &bare).contains("nothing tells how that ends"));
}

/// Fails when a word, a variable or a user reaches the program as another, or not at all.
#[test]
fn a_command_in_a_system_image_is_told_to_the_first_process() {
    let want = mapped(
        "services:\n\
         \x20 web:\n\
         \x20   image: busybox\n\
         \x20   entrypoint: [sh, -c]\n\
         \x20   command: [\"a 'b'\\n\\tc\", '']\n\
         \x20   environment: {A: \"x\\ny\", B: '', C: plain, D: }\n\
         \x20   user: bob:audio\n\
         \x20   group_add: [video, 44]\n\
         \x20   working_dir: /a b\n\
         \x20   stop_signal: SIGRTMIN\n\
         \x20   tty: true\n\
         \x20   stdin_open: true\n\
         \x20   deploy: {restart_policy: {condition: on-failure, max_attempts: 4, delay: 1500ms}}\n"
            .replace("SIGRTMIN", "sigquit")
            .as_str(),
        &old(),
    );
    let bytes = |of: &[&str]| of.iter().map(|text| text.as_bytes().to_vec()).collect();
    let spec = Spec {
        args: bytes(&["sh", "-c", "a 'b'\n\tc", ""]),
        env: bytes(&["A=x\ny", "B="]),
        cwd: b"/a b".to_vec(),
        user: b"bob:audio".to_vec(),
        groups: bytes(&["video", "44"]),
        stop: Some(3),
        terminal: true,
        input: true,
        again: Again::OnFailure(Some(4)),
        delay: Some(Duration::from_millis(1500)),
        of_image: false,
    };
    let web = first(&want);
    assert_eq!(told(web), spec);
    let config: Vec<&str> = web.config.keys().map(String::as_str).collect();
    assert_eq!(config, ["environment.C", "raw.lxc"], "the server would start it again whatever its status");
    assert!(want.warnings.is_empty(), "{:?}", want.warnings);
    let mut other = old();
    (other.architecture, other.program) = ("riscv64".to_owned(), None);
    let said = fault("services: {a: {image: x, command: y}}", &other);
    assert!(said.contains("services on a server of architecture `riscv64`"), "{said}");
    assert!(mapped("services: {a: {image: x}}", &other).warnings.is_empty(), "it has an init of its own");
}

/// What the first process of an image of a registry is told, as far as the file says it.
fn drafted(instance: &Instance) -> Spec {
    let file = instance.files.iter().find(|file| file.path == "/.portway/service").expect("a service");
    Spec::draft(&file.content).expect("it can be read")
}

/// Lines of `raw.lxc` that put our first process in the place of an image's.
const OURS: &str = "lxc.execute.cmd =\nlxc.init.uid = 0\nlxc.init.gid = 0\nlxc.init.cwd = /\n\
                    lxc.init.cmd = /.portway/init service /.portway";

/// Fails when what the image says is no longer known to the server, or wins over the file.
#[test]
fn an_image_of_a_registry_on_the_new_server() {
    let text = "services: {db: {image: 'postgres:16', entrypoint: [docker-entrypoint.sh], command: [postgres, -c, 'a b'], \
                user: 'pg:998', working_dir: /data, stop_signal: SIGINT, environment: {A: \"x\\ny\"}}}";
    let want = mapped(text, &new());
    let db = first(&want);
    assert_eq!((db.addressing, db.is_guest()), (Addressing::Over, true));
    let config: Vec<(&str, &str)> =
        db.config.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(config, [("boot.autostart", "false"), ("raw.lxc", OURS)]);
    let bytes = |of: &[&str]| of.iter().map(|text| text.as_bytes().to_vec()).collect();
    let said = Spec {
        args: bytes(&["docker-entrypoint.sh", "postgres", "-c", "a b"]),
        env: bytes(&["A=x\ny"]),
        cwd: b"/data".to_vec(),
        user: b"pg:998".to_vec(),
        stop: Some(2),
        of_image: true,
        ..Spec::default()
    };
    assert_eq!(drafted(db), said);
    let want = mapped("services: {db: {image: postgres}}", &new());
    assert_eq!(drafted(first(&want)), Spec { of_image: true, ..Spec::default() }, "all of it is the image's");
    let want = mapped("services: {db: {image: postgres, extra_hosts: ['a=10.0.0.1']}}", &new());
    assert!(first(&want).files.iter().any(|file| file.path == "/.portway/hosts"));
    let over = "lxc.mount.entry = .portway/hosts etc/hosts none bind,relative,create=file 0 0";
    let raw = &first(&want).config["raw.lxc"];
    assert_eq!(raw, &format!("{OURS}\n{over}"), "the server makes its own at each start");
    let said = fault("services: {db: {image: postgres, command: x}}", &new());
    assert!(said.ends_with("say `entrypoint` too"), "{said}");
    // Where it is known, the command comes after it, in the place of the image's own.
    let text = "services: {db: {image: postgres, command: [postgres, -c, x]}, own: {image: bb, entrypoint: a, command: b}, \
                native: {image: 'local:bb', command: x}, plain: {image: bb}}";
    let asked = |full_name: &str, is_needed| Asked { full_name: full_name.to_owned(), is_needed };
    let all = BTreeMap::from([
        ("bb".to_owned(), asked("docker.io/library/bb:latest", false)),
        ("postgres".to_owned(), asked("docker.io/library/postgres:latest", true)),
    ]);
    assert_eq!(asks(&project(text), &new()), all);
    assert_eq!(asks(&project(text), &old()), BTreeMap::new());
    let said = "services: {db: {image: postgres, stop_signal: INT, healthcheck: {disable: true}}}";
    assert_eq!(asks(&project(said), &new()), BTreeMap::new(), "nothing is left open");
    let told = Config {
        entrypoint: vec!["run it".to_owned()],
        cmd: vec!["not this".to_owned()],
        user: "nor this".to_owned(),
        stop_signal: "SIGINT".to_owned(),
        health: Some(HealthConfig {
            test: ["CMD", "pg_isready"].map(str::to_owned).into(),
            start_interval: 1_000_000_000,
            ..HealthConfig::default()
        }),
        ..Config::default()
    };
    let setting = Setting { told: BTreeMap::from([("postgres".to_owned(), told)]), ..new() };
    let want = mapped(text, &setting);
    let spec = drafted(first(&want));
    assert_eq!((spec.args, spec.stop), (bytes(&["run it", "postgres", "-c", "x"]), Some(2)));
    assert_eq!(spec.user, b"", "the server tells that itself");
    let health = want.services["db"].health.clone().unwrap();
    assert_eq!((health.test, health.start_interval), (vec!["pg_isready".to_owned()], Duration::from_secs(1)));
    let over = mapped(
        "services: {db: {image: postgres, stop_signal: USR1, healthcheck: {interval: 7s}}, off: {image: postgres, healthcheck: {disable: true}}}",
        &setting,
    );
    assert_eq!(drafted(first(&over)).stop, Some(10));
    assert_eq!(over.services["db"].health.as_ref().unwrap().interval, Duration::from_secs(7));
    assert_eq!(over.services["off"].health, None);
    let said = fault("services: {db: {image: ghcr.io/a/b}}", &old());
    assert!(said.ends_with("this server runs system images only"), "{said}");
}

/// Fails when a service that our first process cannot run is not run at all, or nobody is told what that costs.
#[test]
fn the_server_runs_what_we_cannot() {
    let text = |more: &str| {
        format!(
            "services: {{db: {{image: 'postgres:16', entrypoint: [docker-entrypoint.sh], command: [postgres, -c, 'a b'], \
             user: '999:998', working_dir: /data, stop_signal: SIGINT{more}}}}}"
        )
    };
    let root = ", x-incus-compose: {devices: {root: {type: disk, path: /, pool: p, readonly: true}}}";
    let cases = [
        (Setting { program: None, ..new() }, "", "has none for a server of architecture"),
        (Setting { is_restricted: true, ..new() }, "", "takes no `raw.lxc`"),
        (new(), root, "its root disk is only read"),
    ];
    for (setting, more, why) in cases {
        let want = mapped(&text(more), &setting);
        let db = first(&want);
        let config: Vec<String> = db.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(
            config,
            [
                "boot.autostart=false",
                "oci.cwd=/data",
                "oci.entrypoint=docker-entrypoint.sh postgres -c 'a b'",
                "oci.gid=998",
                "oci.uid=999",
                "raw.lxc=lxc.signal.halt = SIGINT",
            ]
        );
        assert!(
            !db.is_guest() && db.addressing == Addressing::Inside && want.warnings.len() == 1,
            "{:?}",
            want.warnings
        );
        let said = &want.warnings[0];
        assert!(said.contains("nothing tells how it ends") && said.contains(why), "{said}");
    }
    let names = fault("services: {db: {image: x, user: bob}}", &Setting { program: None, ..new() });
    assert!(names.ends_with("say UID or UID:GID"), "{names}");
}

/// What a service says, and what is said of it.
const REFUSED: &[(&str, &str)] = &[
    (
        "build: {context: ., privileged: true}",
        "services.web.build.privileged: cannot be had: a build has no privileges",
    ),
    ("container_name: ../../x", "is no name of an instance"),
    ("container_name: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'", "at most 63"),
    ("environment: {A: \"x\\ny\"}", "services.web.environment.A: has a line break"),
    ("labels: {A: \"x\\ry\"}", "services.web.labels.A: has a line break"),
    ("command: [sh, \"a\\0b\"]", "services.web.command: has a NUL in it"),
    ("command: ['']", "nothing is said to run"),
    ("command: x\n    working_dir: srv", "must be an absolute path"),
    ("secrets: [sec]", "/run/secrets/sec is not seen: the image's init empties /run"),
    ("command: x\n    tmpfs: [/run]\n    secrets: [sec]", "another file system is mounted at /run"),
    ("volumes: [/etc/x/]\n    secrets: [{source: sec, target: /etc/x/y}]", "mounted at /etc/x"),
    ("secrets: [{source: sec, target: /dev/shm/x}]", "mounted at /dev"),
    ("depends_on: {other: {condition: service_completed_successfully}}", "nothing tells how that ends"),
    ("network_mode: host", "`host` cannot be had"),
    ("pid: host", "`host` cannot be had"),
    ("userns_mode: host", "`host` cannot be had"),
    ("scale: 1000000", "has more than 1000 replicas"),
    ("healthcheck: {test: [CMD, x], interval: 1ms}", "a time of less than 100ms"),
    ("user: '1'", "counts for a command"),
    ("ports: ['80:80/sctp']", "the protocol sctp cannot be had"),
    ("ports: ['80:80']\n    scale: 2", "2 replicas cannot publish 80"),
    ("ports: ['80-81:80']\n    scale: 3", "3 replicas cannot publish 80-81"),
    ("networks: {default: {ipv4_address: 10.1.1.5}}\n    scale: 2", "is one, and there are 2 replicas"),
    ("volumes: [{type: npipe, target: /x}]", "the type `npipe` cannot be had"),
    ("tmpfs: ['/a b']", "is not PATH[:OPTIONS]"),
    ("tmpfs: ['/a:size=1,lxc=x y']", "is not PATH[:OPTIONS]"),
    ("devices: ['/etc/shadow:/x']", "is no device"),
    ("cap_drop: [EVERYTHING]", "is no capability"),
    ("hostname: \"a\\nlxc.x\"", "has a line break"),
    ("hostname: 'a b'", "is no name of a host"),
    ("sysctls: {'a b': 1}", "is no name of a setting"),
    ("cpus: 0.001", "between 0.01 and 4096"),
    ("mem_limit: -5", "is no size"),
    ("cpuset: 'x'", "is no set of processors"),
    ("stop_signal: SIGFOO\n    command: x", "is no signal"),
    ("restart: sometimes", "is none of no, always"),
    ("x-incus: {user.portway.project: y}", "is not the file's to set"),
    ("x-incus: {volatile.uuid: y}", "is not the file's to set"),
    ("x-incus: {nat-proxy: perhaps}\n    ports: ['1:1']", "`perhaps` is none of true, false, strict"),
    ("ports: ['1:1']\n    x-portway: {hold: soon}", "cannot be published"),
    ("post_start: [{user: x}]", "services.web.post_start[0].command: nothing is said to run"),
    (
        "pre_stop: [{command: x}, {command: x, working_dir: y}]",
        "pre_stop[1].working_dir: must be an absolute",
    ),
    ("volumes_from: [other]", "name the volumes in both services"),
    ("extra_hosts: ['a=host-gateway']", "is not known before the start"),
    ("dns_search: [a]", "counts with `dns` only"),
    ("secrets: [{source: sec, target: ../../etc/passwd}]", "is no path of a file"),
    ("deploy: {mode: global}", "`global` cannot be had"),
    ("gpus: [{count: 3}]", "asks for 3 graphics processors, and the server has 2"),
    (
        "deploy: {resources: {reservations: {devices: [{capabilities: [tpu]}]}}}",
        "only devices with the capability `gpu` can be had",
    ),
    ("depends_on: {other: {condition: service_healthy}}", "which has no test of it"),
];

/// Fails when something that cannot be had is only found out while it is made.
#[test]
fn what_cannot_be_had_is_refused_with_its_place() {
    for (service, what) in REFUSED {
        let text = format!(
            "services:\n  other: {{image: busybox}}\n  web:\n    image: busybox\n    {service}\nsecrets: {{sec: {{file: sec}}}}\n"
        );
        let said = fault(&text, &old());
        assert!(said.contains(what), "{service}: {said}");
        assert!(said.starts_with("-:") && said.lines().count() == 1, "{service}: {said}");
    }
    for (text, what) in [
        ("networks: {n: {driver: overlay}}", "`overlay` cannot be had"),
        (
            "networks: {n: {ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.1.0.1}]}}}",
            "is not in 10.0.0.0/24",
        ),
        ("networks: {n: {name: far-too-long-a-name}}", "is no name of a bridge"),
        ("volumes: {vol: {driver_opts: {type: nfs}}}", "say `x-incus` or a bind mount"),
    ] {
        let text = format!("services: {{a: {{image: x, networks: [n], volumes: ['vol:/vol']}}}}\n{text}\n");
        let text = if text.contains("\nnetworks:") {
            text.replace(", volumes: ['vol:/vol']", "")
        } else {
            text.replace(", networks: [n]", "")
        };
        let said = fault(&text, &old());
        assert!(said.contains(what), "{said}");
    }
}

/// Fails when two things get one name without a word.
#[test]
fn names_that_would_meet_are_refused() {
    let said = fault("services: {a_b: {image: x}, a-b: {image: x}}", &old());
    assert!(
        said.contains("the instance a-b-1 is also one of a-b") || said.contains("is also one of a_b"),
        "{said}"
    );
    let said = fault("services: {Web: {image: x}, web: {image: x}}", &old());
    assert!(said.contains("is also one of"), "{said}");
    let said =
        fault("services: {a: {image: x, volumes: ['d_b:/a', 'd-b:/b']}}\nvolumes: {d_b: , d-b: }", &old());
    assert!(said.contains("would have the name of the volume"), "{said}");
}

/// Fails when a file gets something from the host that nobody was asked for.
#[test]
fn privileges_are_listed_with_their_places() {
    let text = "services:\n\
                \x20 web:\n\
                \x20   image: busybox\n\
                \x20   privileged: true\n\
                \x20   devices: ['/dev/kvm']\n\
                \x20   gpus: all\n\
                \x20   volumes: ['/:/host', '../other:/o:ro', './in:/in', '/var/lib/incus/unix.socket:/s']\n\
                \x20   x-incus: {raw.lxc: 'lxc.x = 1', security.nesting: true, limits.cpu: 2}\n\
                \x20   x-incus-compose: {devices: {tpm: {type: tpm}}}\n\
                x-incus: {restricted: false, limits.instances: 5}\n";
    let want = mapped(text, &old());
    let said: Vec<String> =
        want.privileges.iter().map(|one| format!("{} {}: {}", one.place, one.service, one.what)).collect();
    insta::assert_snapshot!(said.join("\n"));
    assert_eq!(want.config["limits.instances"], "5");
    assert!(first(&want).config["raw.lxc"].ends_with("lxc.x = 1"));
}

/// Fails when a key is left out without a word, or one word is said for each service.
#[test]
fn what_is_left_out_is_said_once() {
    let text = "services: {a: {image: x, logging: {driver: none}, platform: p}, b: {image: x, logging: {driver: none}}}";
    assert_eq!(
        mapped(text, &old()).warnings,
        [
            "-:1:26: services.a.logging (and 1 more): ignored: the server keeps the output",
            "-:1:51: services.a.platform: ignored: the server runs images of its own architecture",
        ]
    );
}

#[test]
fn interfaces_stand_in_the_order_of_the_file_but_for_priorities() {
    let text = "services: {a: {image: x, networks: {z: , m: {priority: 5, mac_address: 00-16-3E-00-00-01}, b: {ipv4_address: 10.9.0.7}}}}\n\
                networks:\n\
                \x20 z: {internal: true}\n\
                \x20 m: {external: true, name: incusbr0}\n\
                \x20 b: {ipam: {config: [{subnet: 10.9.0.0/24, ip_range: 10.9.0.128/25}]}, enable_ipv6: true}\n";
    let want = mapped(text, &old());
    let nics: Vec<&str> = first(&want).nics.iter().map(|nic| nic.network.as_str()).collect();
    assert_eq!(nics, ["m", "z", "b"]);
    assert_eq!(first(&want).nics[0].keys["hwaddr"], "00:16:3e:00:00:01");
    assert_eq!((want.networks["m"].owner, want.networks["m"].name.as_str()), (Owner::External, "incusbr0"));
    let z = pairs(&[
        ("ipv4.nat", "false"),
        ("raw.dnsmasq", "dhcp-option=3\nno-resolv"),
        ("security.acls", "portway-shop-z"),
        ("security.acls.default.egress.action", "reject"),
        ("security.acls.default.ingress.action", "reject"),
    ]);
    assert_eq!(want.networks["z"].config, z);
    let b = pairs(&[
        ("ipv4.address", "10.9.0.1/24"),
        ("ipv4.dhcp.ranges", "10.9.0.129-10.9.0.254"),
        ("ipv4.nat", "true"),
        ("ipv6.address", "auto"),
        ("ipv6.nat", "true"),
    ]);
    assert_eq!(want.networks["b"].config, b);
}

#[test]
fn equal_files_come_to_equal_wants() {
    let text = "services: {a: {image: x, command: y, secrets: [s], scale: 2, volumes: [/v]}}\nsecrets: {s: {environment: TOKEN}}";
    let (one, two) = (mapped(text, &old()), mapped(text, &old()));
    assert_eq!(one, two);
    assert_eq!(
        first(&one).files.iter().find(|file| file.path == "/run/secrets/s").expect("written").content,
        b"t0k"
    );
    let volumes: BTreeSet<&str> = one.volumes.values().map(|volume| volume.name.as_str()).collect();
    assert_eq!(volumes.len(), 2, "each replica has its own");
}
