//! Every key, every message.

use super::*;

fn parse(text: &str) -> Result<Settings, String> {
    Settings::parse(Path::new("p.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn nothing_gives_the_defaults() {
    assert_eq!(parse("").unwrap(), Settings::default());
    assert_eq!(parse("[daemon]\n[incus]\n").unwrap(), Settings::default());
    let missing = Settings::load(Path::new("/nonexistent/portway.toml")).unwrap();
    assert_eq!(missing, Settings::default());
    assert_eq!(missing.daemon.log.as_str(), "info");
}

#[test]
fn every_key_is_read() {
    let settings = parse(
        "[daemon]\nuser = \"relay\"\nlog = \"warn,portway_relay=trace\"\n[incus]\nsocket = \"/run/i.sock\"\n\
         [lxd]\nsocket = \"/run/l.sock\"\n\
         [ssh]\ndaemon = true\nlisten = \":22\"\ngroups = [\"a\", \"b\"]\nbanner = true\nidle-timeout = 0\n",
    )
    .unwrap();
    assert!(settings.ssh.daemon);
    let flags = settings.ssh.flags.iter().map(|flag| (flag.name.as_str(), flag.value.as_str(), flag.line));
    let wanted =
        [("banner", "true", 12), ("groups", "a,b", 11), ("idle-timeout", "0", 13), ("listen", ":22", 10)];
    assert_eq!(flags.collect::<Vec<_>>(), wanted);
    assert_eq!(settings.daemon.user, RelayUser::Name("relay".to_owned()));
    assert_eq!(settings.daemon.log.as_str(), "warn,portway_relay=trace");
    assert_eq!(settings.incus.socket.as_deref(), Some(Path::new("/run/i.sock")));
    assert_eq!(settings.lxd.socket.as_deref(), Some(Path::new("/run/l.sock")));
    assert_eq!(parse("[daemon]\nuser = 977").unwrap().daemon.user, RelayUser::Uid(977));
    assert_eq!(parse("[daemon]\nuser = \"977\"").unwrap().daemon.user, RelayUser::Uid(977));
}

#[test]
fn errors_name_file_line_and_column() {
    let cases = [
        ("[daemon]\nusr = 1\n", "p.toml:2:1: unknown field `usr`, expected `user` or `log`"),
        (
            "[deamon]\n",
            "p.toml:1:2: unknown field `deamon`, expected one of `daemon`, `incus`, `lxd`, `ssh`, `access-log`, `mesh`",
        ),
        ("\n[daemon]\n  user = 0\n", "p.toml:3:10: daemon.user must not be root"),
        ("[daemon]\nuser = \"root\"", "p.toml:2:8: daemon.user must not be root"),
        ("[daemon]\nuser = \"\"", "p.toml:2:8: daemon.user is empty"),
        ("[daemon]\nuser = -1", "p.toml:2:8: expected a user name or a uid"),
        ("[daemon]\nuser = 4294967296", "p.toml:2:8: expected a user name or a uid"),
        (
            "[daemon]\nlog = \"loud\"",
            "p.toml:2:7: log level \"loud\" is unknown, expected one of off, error, warn, info, debug, trace",
        ),
        ("[daemon]\nlog = \"a b=info\"", "p.toml:2:7: log target \"a b\" is not a module path"),
        ("[incus]\nsocket = \"i.sock\"", "p.toml:2:10: incus.socket i.sock is not an absolute path"),
        ("[ssh]\ndaemon = 1", "p.toml:2:10: ssh.daemon is neither true nor false"),
        ("[ssh]\nlisten = 1.5", "p.toml:2:10: expected a text, a number, true, false or a list of texts"),
        ("# ä\n[daemon]\nlog = 3", "p.toml:3:7: invalid type: integer `3`, expected a string"),
    ];
    for (text, want) in cases {
        assert_eq!(parse(text).unwrap_err(), want, "for {text:?}");
    }
    assert!(parse("[daemon\n").unwrap_err().starts_with("p.toml:1:"));
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let temp = tempfile::tempdir().unwrap();
    assert!(matches!(Settings::load(temp.path()), Err(SettingsError::File(FileError::NotAFile { .. }))));
    let file = temp.path().join("portway.toml");
    std::fs::write(&file, [b'#', 0xff]).unwrap();
    assert!(matches!(Settings::load(&file), Err(SettingsError::File(FileError::NotText { .. }))));
    std::fs::write(&file, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(matches!(Settings::load(&file), Err(SettingsError::File(FileError::TooLarge { .. }))));
}

#[test]
fn users_are_looked_up() {
    assert!(matches!(RelayUser::Name("root".to_owned()).lookup(), Err(SettingsError::RootUser)));
    let missing = RelayUser::Name("no-such-user-here".to_owned()).lookup().unwrap_err();
    assert_eq!(missing.to_string(), "no user \"no-such-user-here\" on this system");
    assert!(missing.hint().is_some());
    let unknown = RelayUser::Uid(3_999_999_999).lookup().unwrap();
    assert_eq!(unknown, UserIds { uid: 3_999_999_999, gid: 65_534 });
    assert_ne!(RelayUser::Default.lookup().unwrap().uid, 0);
}

const MESH: &str = "[mesh.home]\nconfig = \"/etc/portway/home.toml\"\ningress = [\"TCP:80:localhost:80\"]\n\
    egress = [\"udp:53:10.9.0.2:53\", \"tcp:53:10.9.0.2:53\"]\n";

#[test]
fn a_mesh_is_read() {
    let Ok(settings) = parse_text(MESH) else { panic!("it is taken") };
    let [mesh] = settings.mesh.as_slice() else { panic!("one network") };
    assert_eq!(mesh.name, "home");
    assert_eq!(mesh.source, MeshSource::Config("/etc/portway/home.toml".into()));
    let rules: Vec<String> = mesh.rules.iter().map(|rule| format!("{} {rule}", rule.direction())).collect();
    let wanted = ["ingress tcp:80:localhost:80", "egress udp:53:10.9.0.2:53", "egress tcp:53:10.9.0.2:53"];
    assert_eq!(rules, wanted);
}

#[test]
fn an_organization_is_read() {
    let text = "[mesh.work]\norg = \"acme\"\nlisten_port = 51820\nengine = \"smoltcp\"\ndrain = 5\n\
        balance = \"least-connections\"\n";
    let Ok(settings) = parse_text(text) else { panic!("it is taken") };
    let [mesh] = settings.mesh.as_slice() else { panic!("one network") };
    let listen_port = std::num::NonZeroU16::new(51820);
    assert_eq!(mesh.source, MeshSource::Org { name: "acme".to_owned(), listen_port });
    assert_eq!((mesh.engine, mesh.balance), (MeshEngine::Smoltcp, MeshBalance::LeastConnections));
    assert_eq!(mesh.drain, Some(5));
}

#[test]
fn a_mesh_is_checked() {
    let head = "[mesh.a]\nconfig = \"/c\"\n";
    let cases = [
        (
            "[mesh.\"a/b\"]".to_owned(),
            "p.toml:1:7: a mesh is called by letters, digits, `-` and `_`, 40 at most",
        ),
        ("[mesh.a]".to_owned(), "p.toml:1:7: mesh.a has neither config nor org"),
        (format!("{head}org = \"acme\""), "p.toml:3:7: mesh.a has a config and an org: it is one network"),
        (
            format!("{head}listen_port = 1"),
            "p.toml:3:15: mesh.a.listen_port is for an organization; the file has its own",
        ),
        ("[mesh.a]\norg = \"a/b\"".to_owned(), "p.toml:2:7: mesh.a.org is not the name of an organization"),
        ("[mesh.a]\nconfig = \"c\"".to_owned(), "p.toml:2:10: mesh.a.config c is not an absolute path"),
        (
            format!("{head}[mesh.b]\norg = \"a\""),
            "p.toml:3:7: mesh.a and mesh.b would keep what they know in one folder, a",
        ),
        (
            "[mesh.a]\norg = \"o\"\n[mesh.b]\norg = \"o\"".to_owned(),
            "p.toml:3:7: mesh.a and mesh.b would keep what they know in one folder, o",
        ),
        (
            "[mesh.a]\nconf = \"c\"".to_owned(),
            "p.toml:2:1: unknown field `conf`, expected one of `config`, `org`, `listen_port`, `ingress`, `egress`, \
             `engine`, `balance`, `drain`",
        ),
        (
            format!("{head}engine = \"fast\""),
            "p.toml:3:10: unknown variant `fast`, expected one of `auto`, `kernel`, `smoltcp`",
        ),
        (
            format!("{head}egress = [\"tcp:80:localhost:80\"]"),
            "p.toml:3:11: egress rule of mesh.a: column 8: destination `localhost` is not in the network: an egress \
             rule dials through the tunnel",
        ),
        (
            format!("{head}ingress = [\"tcp:80:a:80\", \"TCP:080:A:80\"]"),
            "p.toml:3:27: ingress rule of mesh.a: the same rule stands twice",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(parse(&text).unwrap_err(), message, "{text}");
    }
}
