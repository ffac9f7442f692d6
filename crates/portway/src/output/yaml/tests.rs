//! Quoting and nesting.

use super::*;

#[test]
fn scalars_keep_their_type() {
    let plain = [
        "tcp:[::]:80",
        "tcp:0.0.0.0:80,90-99",
        "/run/a.sock",
        "c1",
        "incus:default/c1",
        "unix:@x",
        "the instance is stopped",
    ];
    for text in plain {
        assert_eq!(scalar(text), text);
    }
    let quoted = [
        "", "1000", "22:22", "0644", "yes", "Off", "~", "a: b", "a #b", "-x", "@x", "x:", "é", "1e3", "a\tb",
        " a", "a ", "a  b", "{a}", "a\"b",
    ];
    for text in quoted {
        assert!(scalar(text).starts_with('"'), "{text:?} is plain");
    }
    assert_eq!(scalar("a\u{85}\"\\\n"), "\"a\\u0085\\\"\\\\\\u000a\"");
}

#[test]
fn blocks_nest_and_keep_their_order() {
    let value: serde_json::Value = serde_json::json!({
        "devices": [{"instance": "c1", "name": "web", "uid": "1000"}, {"instance": "c2"}, [1, [2]], []],
        "empty": {}, "none": null, "deep": {"a": {"b": true}}, "list": [1, "x: y", -2.5],
    });
    insta::assert_snapshot!(document(&value).unwrap());
    assert_eq!(document(&[0; 0]).unwrap(), "[]\n");
    #[derive(Serialize)]
    struct Ordered {
        z: u8,
        a: &'static str,
    }
    assert_eq!(document(&Ordered { z: 1, a: "1" }).unwrap(), "z: 1\na: \"1\"\n");
}
