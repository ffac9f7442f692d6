use super::*;

fn resolve(text: &str, default: Provider, flag: Option<&str>) -> Result<String, String> {
    let typed: InstanceRef = text.parse().map_err(|error: RefError| error.to_string())?;
    assert_eq!(typed.to_string(), text, "a reference prints as typed");
    let flag = flag.map(|flag| flag.parse().expect("a project"));
    typed.resolve(default, flag).map(|key| key.to_string()).map_err(|error| error.to_string())
}

#[test]
fn references_resolve_to_one_key() {
    use Provider::{Incus, Lxd, Netns, Pid};
    let cases = [
        ("c1", Incus, None, "incus:default/c1"),
        ("c1", Lxd, None, "lxd:default/c1"),
        ("c1", Netns, None, "netns:c1"),
        ("7", Pid, None, "pid:7"),
        ("incus:c1", Netns, None, "incus:default/c1"),
        ("c1", Incus, Some("p"), "incus:p/c1"),
        ("p/c1", Incus, None, "incus:p/c1"),
        ("p/c1", Incus, Some("p"), "incus:p/c1"),
        ("lxd:p.é/A-1b", Incus, None, "lxd:p.é/A-1b"),
        ("netns:blue", Incus, None, "netns:blue"),
        ("netns:a:b c", Incus, None, "netns:a:b c"),
        ("netns:/proc/7/ns/net", Incus, None, "netns:/proc/7/ns/net"),
        ("netns://proc/./7//ns/net", Incus, None, "netns:/proc/7/ns/net"),
        ("netns:/run/netns/blue", Incus, None, "netns:blue"),
        ("netns:/var/run/netns/blue", Incus, None, "netns:blue"),
        ("netns:/run/netns/a/b", Incus, None, "netns:/run/netns/a/b"),
        ("netns:/a:b", Incus, None, "netns:/a:b"),
        ("pid:007", Incus, None, "pid:7"),
        ("pid:4194304", Incus, None, "pid:4194304"),
    ];
    for (text, default, flag, key) in cases {
        assert_eq!(resolve(text, default, flag).as_deref(), Ok(key), "{text}");
        assert_eq!(key.parse::<InstanceKey>().map(|key| key.to_string()).as_deref(), Ok(key));
    }
}

#[test]
fn bad_references_name_the_place() {
    use Provider::{Incus, Netns};
    let long = "a".repeat(64);
    let cases = [
        ("", Incus, None, "column 1: instance name is empty"),
        ("incus:", Incus, None, "column 7: instance name is empty"),
        ("p/", Incus, None, "column 3: instance name is empty"),
        ("/c1", Incus, None, "column 1: project name is empty"),
        ("incus:/c1", Incus, None, "column 7: project name is empty"),
        (":c1", Incus, None, "column 1: unknown provider ``, expected incus, lxd, netns or pid"),
        ("docker:c1", Incus, None, "column 1: unknown provider `docker`, expected incus, lxd, netns or pid"),
        ("Incus:c1", Incus, None, "column 1: unknown provider `Incus`, expected incus, lxd, netns or pid"),
        ("c 1", Incus, None, "column 2: unexpected ` ` in instance name"),
        ("c_1", Incus, None, "column 2: unexpected `_` in instance name"),
        ("p/c.1", Incus, None, "column 4: unexpected `.` in instance name"),
        ("incus:é/cé", Incus, None, "column 10: unexpected `é` in instance name"),
        ("p/q/c1", Incus, None, "column 4: unexpected `/` in instance name"),
        ("-c1", Incus, None, "column 1: instance name cannot begin with `-`"),
        ("c1-", Incus, None, "column 3: instance name cannot end with `-`"),
        ("123", Incus, None, "column 1: `123` cannot be an instance name"),
        (long.as_str(), Incus, None, "column 64: instance name is longer than 63 characters"),
        ("c\u{1b}1", Incus, None, "column 2: unexpected `\\u{1b}` in instance name"),
        ("a_b/c1", Incus, None, "column 2: unexpected `_` in project name"),
        ("a b/c1", Incus, None, "column 2: unexpected ` ` in project name"),
        ("*/c1", Incus, None, "column 1: `*` cannot be a project name"),
        ("../c1", Incus, None, "column 1: `..` cannot be a project name"),
        ("p/c1", Incus, Some("q"), "column 1: project `p` differs from the project `q` asked for"),
        ("incus:p/c1", Incus, Some("q"), "column 7: project `p` differs from the project `q` asked for"),
        ("c1", Netns, Some("q"), "column 1: netns instances have no project"),
        ("netns:p/c1", Incus, None, "column 7: netns instances have no project"),
        ("pid:p/7", Incus, None, "column 5: pid instances have no project"),
        ("netns:..", Incus, None, "column 7: `..` cannot be a network namespace name"),
        ("netns:/a/../b", Incus, None, "column 10: path has a `..` component"),
        ("netns:/a/", Incus, None, "column 9: path names a directory"),
        ("netns:/", Incus, None, "column 7: path names a directory"),
        ("netns:a\0", Incus, None, "column 8: unexpected `\\u{0}` in instance name"),
        ("pid:0", Incus, None, "column 5: `0` is not a process id"),
        ("pid:+7", Incus, None, "column 5: `+7` is not a process id"),
        ("pid:4194305", Incus, None, "column 5: `4194305` is not a process id"),
        ("pid:c1", Incus, None, "column 5: `c1` is not a process id"),
    ];
    for (text, default, flag, message) in cases {
        assert_eq!(resolve(text, default, flag), Err(message.to_owned()), "{text:?}");
    }
    let name = "a".repeat(InstanceName::MAX_BYTES + 1);
    assert!(name.parse::<InstanceRef>().is_err());
    let name = "a".repeat(256);
    let message = "column 256: instance name is longer than 255 bytes";
    assert_eq!(resolve(&name, Netns, None), Err(message.to_owned()));
    let project = format!("{}/c1", "p".repeat(ProjectName::MAX_BYTES + 1));
    let message = "column 1025: project name is longer than 1024 bytes";
    assert_eq!(resolve(&project, Incus, None), Err(message.to_owned()));
}

#[test]
fn keys_are_read_in_full() {
    let cases = [
        ("c1", "column 1: provider missing, expected incus:, lxd:, netns: or pid:"),
        ("default/c1", "column 1: provider missing, expected incus:, lxd:, netns: or pid:"),
        ("incus:c1", "column 7: project missing, expected PROJECT/INSTANCE"),
        ("netns:p/c1", "column 7: netns instances have no project"),
    ];
    for (text, message) in cases {
        assert_eq!(text.parse::<InstanceKey>().expect_err(text).to_string(), message);
    }
}

#[test]
fn keys_from_parts() {
    let key = InstanceKey::new(Provider::Incus, None, "c1").expect("a key");
    assert_eq!(key.to_string(), "incus:default/c1");
    assert_eq!(
        (key.provider(), key.project(), key.name().as_str()),
        (Provider::Incus, Some(&ProjectName::default()), "c1")
    );
    let key = InstanceKey::new(Provider::Netns, None, "/proc/7/ns/net").expect("a key");
    assert!(key.name().is_path() && key.project().is_none());
    let fail = |provider, project, name| {
        InstanceKey::new(provider, project, name).expect_err("malformed").to_string()
    };
    assert_eq!(fail(Provider::Incus, Some("é"), "c_"), "column 4: unexpected `_` in instance name");
    assert_eq!(fail(Provider::Incus, Some("é"), ""), "column 3: instance name is empty");
    assert_eq!(fail(Provider::Incus, Some("a_"), "c"), "column 2: unexpected `_` in project name");
    assert_eq!(fail(Provider::Pid, Some("p"), "7"), "column 1: pid instances have no project");
}

#[test]
fn serde_uses_the_text() {
    let key: InstanceKey = serde_json::from_str("\"incus:default/c1\"").expect("reads");
    assert_eq!(serde_json::to_string(&key).expect("serializes"), "\"incus:default/c1\"");
    assert!(serde_json::from_str::<InstanceKey>("\"c1\"").is_err());
    assert_eq!(serde_json::to_string(&Provider::Netns).expect("serializes"), "\"netns\"");
}
