use super::*;
use crate::shell::{LineError, read as read_line};

fn order(line: &str) -> Order {
    read_line(line).unwrap_or_else(|error| unreachable!("{line}: {error}")).expect("an order")
}

fn error(line: &str) -> String {
    match read_line(line) {
        Err(error) => error.to_string(),
        Ok(order) => unreachable!("{line}: {order:?}"),
    }
}

fn at(name: &str) -> Instance {
    Instance { place: Place::default(), name: name.to_owned() }
}

/// Fails when a line that is allowed is read as another one.
#[test]
fn what_is_allowed_is_read() {
    assert_eq!(read_line("  "), Ok(None));
    assert_eq!(read_line("incus"), Ok(None));
    assert_eq!(order("list"), order("incus ls"));
    let Order::List { place, everywhere, patterns, format } = order("list r1: 'c*' b -f=csv --project dev")
    else {
        unreachable!("a list")
    };
    assert_eq!(
        (place.remote.as_deref(), place.project.as_deref(), everywhere),
        (Some("r1"), Some("dev"), false)
    );
    assert_eq!((patterns.as_slice(), format), (&["c*".to_owned(), "b".to_owned()][..], Format::Csv));
    assert_eq!(order("start a b"), Order::Change(Change::Start, vec![at("a"), at("b")]));
    let stop = |force, seconds| Change::Stop { force, patience: Duration::from_secs(seconds) };
    assert_eq!(order("stop a"), Order::Change(stop(false, 60), vec![at("a")]));
    assert_eq!(order("lxc stop a -f --timeout=5"), Order::Change(stop(true, 5), vec![at("a")]));
    assert_eq!(order("freeze a"), order("pause a"));
    assert_eq!(order("rm a --force"), Order::Delete { instances: vec![at("a")], force: true });
    let far = Instance {
        place: Place { remote: Some("r1".to_owned()), project: Some("dev".to_owned()) },
        name: "c1".to_owned(),
    };
    assert_eq!(order("info r1:c1 --project dev"), Order::Info(far));
    let set = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Order::Config(at("c"), ConfigOrder::Set(pairs.collect()))
    };
    assert_eq!(order("config set c limits.cpu 2"), set(&[("limits.cpu", "2")]));
    assert_eq!(
        order("config set c limits.cpu=2 user.a='b=c d'"),
        set(&[("limits.cpu", "2"), ("user.a", "b=c d")])
    );
    assert_eq!(order("config unset c user.a"), set(&[("user.a", "")]));
    assert_eq!(
        order("config get c volatile.uuid"),
        Order::Config(at("c"), ConfigOrder::Get("volatile.uuid".to_owned()))
    );
    let Order::Launch(instance, wanted) = order(
        "launch images:debian/13 t1 -e --vm -p web -c limits.memory=2GiB -c limits.cpu=3 -d root,size=9GiB",
    ) else {
        unreachable!("a launch")
    };
    assert_eq!((instance, wanted.image.as_deref()), (at("t1"), Some("images:debian/13")));
    assert_eq!((wanted.ephemeral, wanted.vm, wanted.privileged, wanted.nesting), (true, true, false, false));
    assert_eq!((wanted.memory_gib, wanted.cpu_count, wanted.disk_gib), (Some(2), Some(3), Some(9)));
    assert_eq!(wanted.profiles, ["web"]);
    assert_eq!(order("snapshot create c"), Order::Snapshot(at("c"), SnapshotOrder::Create(None)));
    assert_eq!(order("project switch dev"), Order::Switch("dev".to_owned()));
    assert_eq!(order("help config set"), Order::Help(vec!["config".to_owned(), "set".to_owned()]));
    assert!(matches!(order("quit"), Order::Exit));
    // What follows is no flag.
    assert!(matches!(read_line("start -- -f"), Err(LineError::Order(OrderError::Name(_)))));
}

/// What clients of the servers have, and would lead to the host, to its files or past the policy.
const ABSENT_LINES: &[&str] = &[
    "exec c1 -- sh",
    "shell c1",
    "console c1",
    "file pull c1/etc/shadow /tmp/x",
    "file push /etc/shadow c1/x",
    "file edit c1/x",
    "file mount c1/ /mnt",
    "config edit c1",
    "config device add c1 root disk source=/ path=/host",
    "config device set c1 root source=/",
    "config template edit c1 x",
    "config trust add",
    "config trust list",
    "config metadata edit c1",
    "config uefi edit c1",
    "config",
    "export c1 /tmp/x",
    "import /etc/shadow",
    "publish c1",
    "image import /etc/shadow",
    "image export x",
    "image edit x",
    "image copy x r1:",
    "image delete x",
    "image",
    "admin init",
    "admin sql global 'select 1'",
    "remote add x https://x",
    "remote list",
    "alias add x 'exec c1 sh'",
    "query /1.0",
    "cluster list",
    "profile edit default",
    "profile device add default x disk source=/ path=/h",
    "storage volume import default /etc/shadow",
    "network edit x",
    "network set x raw.dnsmasq=1",
    "project edit default",
    "project create x",
    "project",
    "snapshot",
    "monitor",
    "top",
    "create i c",
    "init i c",
];

/// Every verb of the servers' clients that would lead to the host, to its files or past the policy.
#[test]
fn verbs_that_are_not_here() {
    for line in ABSENT_LINES {
        let text = error(line);
        assert!(text.contains("is not here: "), "{line}: {text}");
    }
    for line in [
        "copy c1 c2",
        "move c1 c2",
        "rename c1 c2",
        "edit c1",
        "rebuild",
        "webui",
        "manpage",
        "debug",
        "sh",
        "--help",
        "-v",
        "wait c1",
        "warning list",
        "operation delete x",
        "sudo list",
        "./x",
    ] {
        let text = error(line);
        assert!(text.starts_with("there is no `"), "{line}: {text}");
    }
    assert_eq!(
        error("exec c1 sh"),
        "`exec` is not here: log in by its name instead: ssh USER@NAME.PROJECT@GATEWAY COMMAND"
    );
    assert_eq!(error("config edit c1"), "`config edit` is not here: no editor runs here; use config set");
    assert_eq!(error("lisst"), "there is no `lisst`, is it `list`?; `help` lists what there is");
}

/// Every flag that would read or write a file of the host, name another server's socket, or make an instance more than an
/// instance.
#[test]
fn flags_and_values_that_are_not_here() {
    for line in [
        "list --config-file /etc/shadow",
        "list --force-local",
        "list -q",
        "list --debug",
        "list -c n,volatile.x",
        "list --sub-commands",
        "info c1 --resources",
        "info c1 --show-log",
        "start c1 --console",
        "start c1 --stateless",
        "stop c1 --console=vga",
        "stop --all",
        "delete c1 -i",
        "config show c1 --target x",
        "launch i c --profile-file x",
        "launch i c --network eth0",
        "launch i c --storage default",
        "launch i c --target x",
        "launch i c --empty",
        "launch i c --no-profiles",
        "start c1 -xf",
        "start c1 -",
        "start c1 --",
    ] {
        let found = read_line(line);
        let is_refused = matches!(found, Err(LineError::Order(OrderError::Flag(..) | OrderError::Name(_))));
        assert!(is_refused || line == "start c1 --", "{line}: {found:?}");
    }
    for line in [
        "launch i c -c security.privileged=true",
        "launch i c -c raw.lxc=lxc.mount.entry=/etc",
        "launch i c -c security.nesting=true",
        "launch i c -c user.portway.ssh.gateway=x",
        "launch i c -c limits.memory=x",
        "launch i c -d root,source=/",
        "launch i c -d 'h,type=disk,source=/,path=/h'",
        "launch i c -d root,size=5GiB,source=/",
    ] {
        assert!(matches!(read_line(line), Err(LineError::Order(OrderError::Wish(_)))), "{line}");
    }
}

/// Fails when a key that is not to be set, a name that is none, or a word too many is taken.
#[test]
fn words_that_are_refused() {
    for line in [
        "config set c raw.lxc=x",
        "config set c security.privileged true",
        "config set c user.portway.ssh.owner=me",
        "config set c limits.cpu=1 volatile.uuid=x",
        "config unset c security.protection.shift",
        "config unset c user.portway.ssh.expires",
    ] {
        assert!(matches!(read_line(line), Err(LineError::Order(OrderError::Key(_)))), "{line}");
    }
    for line in [
        "info a/b",
        "info ../x",
        "info ..",
        "info -x",
        "info 'a b'",
        "info ''",
        "info a%2fb",
        "info r1:",
        "info :a",
        "start 'c*'",
        "config get c a/b",
        "snapshot delete c ../c2",
        "snapshot create c a/b",
        "list --project ''",
        "list --project ../x",
        "list --project a/b",
        "launch '' c",
        "info a\\\\b",
    ] {
        let found = read_line(line);
        assert!(
            matches!(found, Err(LineError::Order(OrderError::Name(_) | OrderError::Flag(..)))),
            "{line}: {found:?}"
        );
    }
    for line in [
        "info",
        "info a b",
        "config set c",
        "list a r1:",
        "list --all-projects --project x",
        "image list x",
        "exit now",
    ] {
        assert!(matches!(read_line(line), Err(LineError::Order(OrderError::Usage(_)))), "{line}");
    }
    for line in
        ["list -f yaml", "list -f", "stop c --timeout 0", "stop c --timeout 99999", "stop c --force=yes"]
    {
        assert!(matches!(read_line(line), Err(LineError::Order(OrderError::Value(..)))), "{line}");
    }
    assert!(matches!(read_line("config set c a b c"), Err(LineError::Order(OrderError::Pair(_)))));
}

/// Fails when something that changes could be done twice after a gateway has gone.
#[test]
fn changes_are_changes() {
    for line in [
        "start c",
        "stop c",
        "launch i c",
        "delete c",
        "config set c user.a=b",
        "config unset c user.a",
        "snapshot create c",
        "snapshot delete c s",
        "snapshot restore c s",
    ] {
        assert!(order(line).is_change(), "{line}");
    }
    for line in [
        "list",
        "info c",
        "config get c a",
        "config show c",
        "snapshot list c",
        "image list",
        "network list",
        "project list",
        "project switch p",
        "version",
        "help",
        "exit",
    ] {
        assert!(!order(line).is_change(), "{line}");
    }
}

/// Fails when help does not know a verb, or names one that is not read.
#[test]
fn help_is_about_what_there_is() {
    let all = crate::shell::help(&[]).expect("all");
    for verb in VERBS {
        let name = verb.name();
        assert!(all.lines().any(|line| line.starts_with(&name)), "{name}");
        let words: Vec<String> = verb.words.iter().map(|&word| word.to_owned()).collect();
        assert!(crate::shell::help(&words).is_some_and(|text| text.starts_with(verb.usage)), "{name}");
        let first = verb.usage.split([' ', '[']).next().unwrap_or_default();
        assert_eq!(verb.words.first(), Some(&first));
    }
    assert_eq!(crate::shell::help(&["config".to_owned()]).map(|text| text.lines().count()), Some(8));
    assert_eq!(crate::shell::help(&["exec".to_owned()]), None);
}
