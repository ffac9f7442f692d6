use super::*;

#[test]
fn names_follow_the_rule_of_incus() {
    let long = "d".repeat(64);
    for name in
        ["web", "A", "1", "a/b", "a:b", "a.b", "a_b", "-a", "a-", "/", "a.", "a/..", "_", long.as_str()]
    {
        assert_eq!(name.parse::<DeviceName>().expect(name).as_str(), name);
    }
    let too_long = "d".repeat(65);
    let cases = [
        ("", "column 1: device name is empty"),
        (".", "column 1: device name cannot begin with `.`"),
        ("../a", "column 1: device name cannot begin with `.`"),
        ("a b", "column 2: unexpected ` ` in device name"),
        ("ab\n", "column 3: unexpected `\\n` in device name"),
        ("aé", "column 2: unexpected `é` in device name"),
        ("éa", "column 1: unexpected `é` in device name"),
        ("a%b", "column 2: unexpected `%` in device name"),
        (too_long.as_str(), "column 65: device name is longer than 64 characters"),
    ];
    for (text, message) in cases {
        assert_eq!(text.parse::<DeviceName>().expect_err(text).to_string(), message);
    }
}

#[test]
fn keys_have_one_text() {
    for text in [
        "incus:default/c1/web",
        "lxd:p/C-1/a:b.c_d",
        "netns:blue/web",
        "netns:/proc/7/ns/net/web",
        "pid:7/-a",
        "incus:default/c1/a%2Fb%2F%2Fc",
        "netns:blue/%2F",
    ] {
        let key: DeviceKey = text.parse().expect(text);
        assert_eq!(key.to_string(), text);
    }
    let key: DeviceKey = "incus:default/c1/a%2Fb".parse().expect("a key");
    assert_eq!((key.device.as_str(), key.instance.name().as_str()), ("a/b", "c1"));
}

#[test]
fn malformed_keys_name_the_place() {
    let cases = [
        ("", "column 1: device missing, expected INSTANCE/DEVICE"),
        ("web", "column 4: device missing, expected INSTANCE/DEVICE"),
        ("c1/web", "column 1: provider missing, expected incus:, lxd:, netns: or pid:"),
        ("incus:c1/web", "column 7: project missing, expected PROJECT/INSTANCE"),
        ("incus:default/c_1/web", "column 16: unexpected `_` in instance name"),
        ("incus:default/c1/", "column 18: device name is empty"),
        ("incus:default/c1/a%2Fb%c", "column 23: unexpected `%` in device name"),
        ("incus:default/c1/a%2fb", "column 19: unexpected `%` in device name"),
        ("incus:é/c1/a%2F.b ", "column 18: unexpected ` ` in device name"),
        ("netns:/a//web", "column 9: path names a directory"),
    ];
    for (text, message) in cases {
        assert_eq!(text.parse::<DeviceKey>().expect_err(text).to_string(), message);
    }
}

#[test]
fn serde_uses_the_text() {
    let key: DeviceKey = serde_json::from_str("\"netns:blue/web\"").expect("reads");
    assert_eq!(serde_json::to_string(&key).expect("serializes"), "\"netns:blue/web\"");
    assert!(serde_json::from_str::<DeviceName>("\".a\"").is_err());
}
