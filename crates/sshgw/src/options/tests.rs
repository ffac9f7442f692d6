//! Flags as they are typed, and what they come to.

use super::*;

fn options(line: &str) -> Result<Options, String> {
    let values = Values::from_line(line).map_err(|error| error.to_string())?;
    Options::new(&values).map_err(|error| error.to_string())
}

/// Fails when: a default is another than documented.
#[test]
fn without_flags_the_defaults_hold() {
    let defaults = options("").unwrap();
    assert_eq!(defaults.listen, "[::]:2222".parse().unwrap());
    assert_eq!(defaults.groups, ["incus", "incus-admin"]);
    assert_eq!(defaults.idle_timeout, None);
    assert_eq!(defaults.term_mux, TermMux::Builtin);
    assert_eq!(defaults.dialect, Dialect::Auto);
    assert!(!defaults.auth.none && !defaults.auth.password && !defaults.allow_create);
    let longs: std::collections::BTreeSet<&str> = FLAGS.iter().map(|flag| flag.long).collect();
    let shorts: std::collections::BTreeSet<char> = FLAGS.iter().filter_map(|flag| flag.short).collect();
    assert_eq!(
        (longs.len(), shorts.len()),
        (FLAGS.len(), FLAGS.iter().filter(|f| f.short.is_some()).count())
    );
}

/// Fails when: one of the ways to write a flag is not read.
#[test]
fn flags_are_read_however_they_are_written() {
    for line in [
        "-l 127.0.0.1:22 -C -P -g a,b",
        "-l127.0.0.1:22 -CP -g=a,b",
        "--listen=127.0.0.1:22 --allow-create --password-auth=true --groups a,b",
        "-CPl \"127.0.0.1:22\" -g a\\,b",
        "-Cl127.0.0.1:22 -P --groups=\"a, b\"",
    ] {
        let options = options(line).unwrap();
        assert_eq!(options.listen, "127.0.0.1:22".parse().unwrap(), "{line}");
        assert_eq!(options.groups, ["a", "b"], "{line}");
        assert!(options.allow_create && options.auth.password, "{line}");
    }
    assert!(options("-g \"\"").unwrap().groups.is_empty());
    assert_eq!(options("--idle-timeout 3m").unwrap().idle_timeout, Some(Duration::from_secs(180)));
    assert_eq!(options("--idle-timeout 0").unwrap().idle_timeout, None);
    assert_eq!(options("-S su -T screen").unwrap().shell, ShellMode::Su);
}

/// Fails when: a word is dropped, or a value is taken that means nothing.
#[test]
fn what_cannot_be_read_is_told() {
    let cases = [
        ("--lisen x", "unknown flag `--lisen`"),
        ("-x", "unknown flag `-x`"),
        ("-l", "flag `-l` needs a value"),
        ("--groups", "flag `--groups` needs a value"),
        ("serve", "unexpected argument `serve`"),
        ("-", "unexpected argument `-`"),
        ("-g \"a", "quote without its end"),
        ("--web-auht=bob:secret", "unknown flag `--web-auht`"),
        ("-l 22", "listen: \"22\" is not an address and a port such as 127.0.0.1:2222, [::1]:2222 or :2222"),
        ("-l :x", "listen: \":x\" is not an address and a port such as 127.0.0.1:2222, [::1]:2222 or :2222"),
        ("-T x", "term-mux: \"x\" is not builtin, tmux or screen"),
        ("-S bash", "shell: \"bash\" is not login, su, sush, or nothing for the user's own"),
        ("--banner=maybe", "banner: \"maybe\" is not true or false"),
        (
            "--auth-methods none",
            "auth-methods: \"none\" is not a list of publickey, password and keyboard-interactive",
        ),
        ("-s /a -u https://b -c c -k k", "socket and url cannot stand together"),
        ("-u https://b", "url means nothing without client-cert"),
        ("-u https://b -c c", "client-cert means nothing without client-key"),
        ("-t s", "server-cert means nothing without url"),
        ("-u http://b -c c -k k", "url: \"http://b\" is not https://HOST:PORT"),
        ("--dialect 1", "dialect: \"1\" is not auto, 0.7 or 0.10"),
        (
            "--idle-timeout soon",
            "idle-timeout: \"soon\" is not a duration such as 10m or 1h, 0 for never, at most 168h",
        ),
    ];
    for (line, said) in cases {
        assert_eq!(options(line).unwrap_err(), said, "{line}");
    }
}

/// Fails when: everybody is let in from everywhere without having said so twice.
#[test]
fn noauth_is_for_loopback() {
    assert!(options("--noauth -l 127.0.0.1:2222").unwrap().auth.none);
    assert!(options("--noauth -l [::1]:2222").unwrap().auth.none);
    assert!(options("--noauth --noauth-anywhere").unwrap().auth.none);
    for listen in [":2222", "0.0.0.0:2222", "10.0.0.1:22", "[2001:db8::1]:22"] {
        let error = options(&format!("--noauth -l {listen}")).unwrap_err();
        assert!(error.starts_with("noauth lets in everybody"), "{error}");
    }
    assert!(!options("--noauth -I").unwrap().auth.none);
    let chain = options("--noauth --auth-methods publickey,password,publickey").unwrap().auth;
    assert_eq!(chain.chain, [Method::PublicKey, Method::Password]);
    assert!(!chain.none && chain.password);
}

/// Fails when: a file wins over an argument, or a difference is kept quiet.
#[test]
fn sources_stand_over_each_other() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let file =
        Values::from_pairs([pair("listen", ":22"), pair("web", "true"), pair("banner", "true")]).unwrap();
    let args = Values::from_line("-m --listen :23 --banner=false --web-auth bob:secret").unwrap();
    let values = args.over(file);
    let options = Options::new(&values).unwrap();
    assert_eq!((options.listen.port(), options.banner), (23, false));
    let noted: Vec<&str> = values.notes().map(|(flag, _)| flag).collect();
    assert_eq!(noted, ["master", "banner", "web", "web-auth"]);
    let dump = values.dump();
    assert!(dump.starts_with("listen: \":23\"\nmaster: true\n") && !dump.contains("secret"), "{dump}");
    assert!(Values::from_pairs([pair("lisen", "x")]).is_err());
}
