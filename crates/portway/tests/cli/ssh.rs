//! `portway ssh`: what it prints and refuses, without a server.

use crate::support::Place;

#[test]
fn logins_are_explained_in_every_format() {
    let place = Place::new();
    let mut text = String::new();
    for arguments in [
        &["c1"][..],
        &["%r:bob@c1.dev~adm"],
        &["keep=work,c1"],
        &["~t1+alpine/edge+m2+c0+n+%web,db", "--format", "json"],
        &["+t1+ubuntu/24.04+m4+vm+priv"],
        &["/rm-f/c1.dev", "--format", "yaml"],
        &["/explain/keep=work,c1"],
        &["%shell"],
        &["%shell", "--dialect", "0.10"],
        &["/shell", "--dialect", "0.7", "--format", "csv"],
        &["+t1+m2+%web", "--format", "csv"],
        &["c_1"],
    ] {
        text.push_str(&place.run(&[&["ssh", "explain"], arguments].concat()));
        text.push('\n');
    }
    insta::assert_snapshot!(text);
}

/// Fails when a server that a gateway of this user would not find is passed over in silence.
#[test]
fn a_server_that_is_not_known_is_told() {
    let place = Place::new();
    let warned = |login: &str| {
        let said = place.run(&["ssh", "explain", login]);
        said.lines().find(|line| line.starts_with("warning: ")).unwrap_or_default().to_owned()
    };
    assert_eq!(warned("r1:c1"), "warning: there is no server r1 (in DIR/incus/config.yml)");
    assert_eq!(warned("local:c1"), "");
    std::fs::create_dir(place.path().join("incus")).unwrap();
    let config = "remotes: {r1: {addr: 'https://192.0.2.1:8443'}, images: {addr: 'https://h', protocol: simplestreams}}\n";
    std::fs::write(place.path().join("incus/config.yml"), config).unwrap();
    assert_eq!(warned("r1:c1"), "");
    let images = "warning: server images: it has images and no instances (in DIR/incus/config.yml)";
    assert_eq!(warned("images:c1"), images);
    let said = place.run(&["ssh", "serve", "--listen", "127.0.0.1:0", "--remote", "r2"]);
    assert!(said.contains("there is no server r2") && said.ends_with("[exit 2]\n"), "{said}");
    let said = place.run(&[
        "ssh",
        "serve",
        "--listen",
        "127.0.0.1:0",
        "-u",
        "https://h:1",
        "-c",
        "/nowhere/c",
        "-k",
        "k",
    ]);
    assert!(said.contains("/nowhere/c does not exist") && said.ends_with("[exit 1]\n"), "{said}");
    let rule = "[[rule]]\nremotes = [\"r1\"]\nallow = [\"shell\"]\n";
    std::fs::write(place.path().join("ssh-policy.toml"), rule).unwrap();
    let allowed = |login: &str| {
        place
            .run(&["ssh", "policy", "check", login, "--as", "ann", "--group", "x", "--format", "csv"])
            .contains("shell,true")
    };
    assert!(!allowed("c1") && allowed("r1:c1"));
    std::fs::write(place.path().join("incus/config.yml"), format!("default-remote: r1\n{config}")).unwrap();
    assert!(allowed("c1") && !allowed("local:c1"));
    std::fs::write(place.path().join("incus/config.yml"), "remotes: [").unwrap();
    let said = place.run(&["ssh", "serve", "--listen", "127.0.0.1:0"]);
    assert!(said.contains("incus/config.yml: ") && said.ends_with("[exit 2]\n"), "{said}");
}

#[test]
fn a_malformed_login_is_a_usage_error_with_its_column() {
    let place = Place::new();
    let long = "x".repeat(5000);
    let mut text = String::new();
    for login in ["", "+t1+adm", "+t1+m", "c1%4", "-oProxyCommand=x@", "c1\u{1b}[2J", "/foo/bar", &long] {
        let said = place.run(&["ssh", "explain", login]);
        assert!(said.ends_with("[exit 2]\n"), "{said}");
        let (_, answer) = said.split_once('\n').unwrap();
        assert!(answer.lines().count() <= 3 && !answer.contains('\u{1b}') && answer.len() < 300, "{said}");
        text.push_str(answer);
        text.push('\n');
    }
    text.push_str(&place.run(&["ssh", "explain", "c1", "--dialect", "0.8"]));
    insta::assert_snapshot!(text);
}

#[test]
fn dialects_are_completed() {
    let place = Place::new();
    let said = place.run(&["complete-words", "--", "ssh", "explain", "--dialect", "0"]);
    assert!(said.ends_with("0\n0.7\n0.10\n"), "{said}");
}

/// Fails when a source is not read, or one of less weight wins.
#[test]
fn settings_of_the_gateway_are_printed() {
    let place = Place::new();
    std::fs::write(
        place.path().join("portway.toml"),
        "[ssh]\nlisten = \":22\"\ngroups = [\"wheel\", \"adm\"]\nmaster = true\n",
    )
    .unwrap();
    insta::assert_snapshot!(place.run(&["ssh", "serve", "--listen", "127.0.0.1:2200", "-d", "--dump"]));
}

/// Fails when a flag that cannot be served is taken in silence, or a fault does not say where it is.
#[test]
fn what_cannot_be_served_is_told() {
    let place = Place::new();
    let mut text = String::new();
    for arguments in [
        &["--listen", "22"][..],
        &["--listen=host:22"],
        &["--dialect", "1"],
        &["--idle-timeout", "soon"],
        &["--noauth=perhaps"],
        &["--noauth"],
        &["-s", "/a", "-u", "https://b"],
        &["--lisen", "x"],
        &["-C=perhaps"],
        &["serve"],
    ] {
        text.push_str(&place.run(&[&["ssh", "serve"], arguments].concat()));
        text.push('\n');
    }
    for settings in ["[ssh]\n\nlisten = 22\n", "[ssh]\nport = 22\n", "[ssh]\nlisten = {}\n"] {
        std::fs::write(place.path().join("portway.toml"), settings).unwrap();
        text.push_str(&place.run(&["ssh", "serve"]));
        text.push('\n');
    }
    insta::assert_snapshot!(text);
}

/// Fails when a dry run writes, a second run overwrites, or what is different is not said.
#[test]
fn an_installation_of_ssh2incus_is_imported() {
    let place = Place::new();
    let old = place.path().join("old");
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("args"), "ARGS=\"-m -W -l 127.0.0.1:2022\"\n").unwrap();
    std::fs::write(old.join("config.yaml"), "listen: \":22\"\ngroups: [adm, wheel]\ndebug: true\n").unwrap();
    std::fs::write(old.join("banner.txt"), "Hello [HOSTNAME]\n").unwrap();
    let create = "memory: 2\nconfig:\n  security.nested: true\n  user.user-data: <@cloud.yaml\n";
    std::fs::write(old.join("create-config.yaml"), create).unwrap();
    std::fs::write(old.join("cloud.yaml"), "#cloud-config\n").unwrap();
    std::fs::write(place.path().join("portway.toml"), "[daemon]\nlog = \"warn\"\n").unwrap();
    let (from, defaults) = (old.display().to_string(), old.join("args").display().to_string());
    let import = |more: &[&str]| {
        let said = place.run(&[&["ssh", "import", "--from", &from, "--defaults", &defaults], more].concat());
        let settings = std::fs::read_to_string(place.path().join("portway.toml")).unwrap();
        format!("{said}--- portway.toml\n{settings}\n")
    };
    let mut text = import(&["--dry-run"]);
    text.push_str(&import(&[]));
    text.push_str(&import(&[]));
    text.push_str(&import(&["--force"]));
    assert_eq!(std::fs::read_to_string(place.path().join("banner.txt")).unwrap(), "Hello [HOSTNAME]\n");
    text.push_str(&place.run(&["ssh", "import", "--from", "/nonexistent", "--defaults", "/nonexistent"]));
    text.push_str(&place.run(&["ssh", "serve", "--dump"]));
    text.push_str(&place.run(&["ssh", "serve", "--dump-create"]));
    std::fs::write(place.path().join("create-config.yaml"), "memory: 4gb\n").unwrap();
    text.push_str(&place.run(&["ssh", "serve", "--dump-create"]));
    insta::assert_snapshot!(text);
}
#[test]
fn the_default_policy_is_printed_and_in_force() {
    let place = Place::new();
    let default = place.run(&["ssh", "policy", "--default"]);
    let (_, in_force) =
        place.run(&["ssh", "policy"]).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(default.ends_with(&in_force) && in_force.contains("[[rule]]"), "{in_force}");
}

const POLICY: &str = r#"
[[rule]]
name = "no root in databases"
instances = ["db-*"]
instance_users = ["root"]
deny = ["*"]

[[rule]]
groups = ["ops"]
allow = ["shell", "exec"]
"#;

#[test]
fn a_policy_says_which_rule_decides() {
    let place = Place::new();
    let check = |login: &str, more: &[&str]| {
        place.run(&[&["ssh", "policy", "check", login, "--as", "ann"], more].concat())
    };
    let mut text = String::new();
    // Without a file the default one is in force.
    text.push_str(&check("c1", &["--group", "incus"]));
    text.push_str(&check("c1", &["--group", "users"]));
    std::fs::write(place.path().join("ssh-policy.toml"), POLICY).unwrap();
    text.push_str(&check("db-1", &["--group", "ops"]));
    text.push_str(&check("postgres@db-1.prod", &["--group", "ops", "--format", "csv"]));
    text.push_str(&check("/shell", &["--group", "ops", "--format", "json"]));
    text.push_str(&check("/rm/c1", &["--group", "ops"]));
    text.push_str(&check("+c1+m2", &["--group", "ops"]));
    text.push_str(&check("c1+", &["--group", "ops"]));
    text.push_str(&place.run(&["ssh", "policy", "check", "c1", "--as", "no-such-user"]));
    text.push_str(&place.run(&["ssh", "policy", "check", "c1"]));
    std::fs::write(place.path().join("ssh-policy.toml"), "[[rule]]\nallow = [\"shel\"]\n").unwrap();
    text.push_str(&check("c1", &["--group", "ops"]));
    text.push_str(&place.run(&["ssh", "policy"]));
    insta::assert_snapshot!(text);
}

/// The groups are those that the host knows.
#[test]
fn a_user_of_the_host_has_his_groups() {
    let place = Place::new();
    let said = place.run(&["ssh", "policy", "check", "c1", "--as", "root", "--format", "csv"]);
    assert!(said.contains("remove") || said.contains("shell,true,rule `root`"), "{said}");
}

/// Fails when the page about ssh2incus names a test that is not there.
#[test]
fn tests_of_the_page_about_ssh2incus_are_there() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let page = std::fs::read_to_string(tests.join("../../../docs/ssh2incus.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut named = 0;
    for word in rows.flat_map(|row| row.rsplit('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2))
    {
        if word.starts_with("portway_") || !word.contains("::") {
            continue;
        }
        let (folder, word) = word.rsplit_once(' ').unwrap_or(("incus_ssh", word));
        let (file, test) = word.rsplit_once("::").unwrap();
        let text = std::fs::read_to_string(tests.join(folder).join(format!("{file}.rs"))).unwrap_or_default();
        let is_there = text.contains(&format!("fn {test}(")) || (test == "*" && text.contains("#[test]"));
        assert!(is_there, "{folder} {word}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}

/// Fails when a socket that is not there is found out by the first login alone.
#[test]
fn a_socket_that_is_not_there_is_warned_of() {
    let place = Place::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let warned = |socket: &str| {
        // Somebody has the port, so it ends.
        let said = place.run(&["ssh", "serve", "--listen", &listen, "-s", socket]);
        assert!(said.ends_with("[exit 1]\n"), "{said}");
        said.lines().find_map(|line| Some(line.strip_prefix("warning: ")?.to_owned())).unwrap_or_default()
    };
    let text = |what: &str| format!("{what}: no instance is reached until it is one");
    assert_eq!(warned("/nope.sock"), text("/nope.sock does not exist"));
    assert_eq!(warned("/etc/passwd"), text("/etc/passwd is no socket"));
    let path = place.path().join("there.sock");
    let _there = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(warned(&path.display().to_string()), "");
}
