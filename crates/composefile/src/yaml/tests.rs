use super::*;

fn one(text: &str) -> Node {
    documents("f", text).unwrap().remove(0)
}

fn fault(text: &str) -> String {
    documents("f", text).unwrap_err().to_string()
}

#[test]
fn scalars_are_what_compose_reads() {
    let cases = [
        ("0x1f", Value::Int(31)),
        ("1_000", Value::Int(1000)),
        ("010", Value::Int(8)),
        ("0o17", Value::Int(15)),
        ("-0b11", Value::Int(-3)),
        ("+5", Value::Int(5)),
        ("08", Value::Float(8.0)),
        ("1e3", Value::Float(1000.0)),
        (".5", Value::Float(0.5)),
        ("18446744073709551616", Value::Float(18_446_744_073_709_552_000.0)),
        ("True", Value::Bool(true)),
        ("~", Value::Null),
        ("yes", Value::Text("yes".to_owned())),
        ("22:22", Value::Text("22:22".to_owned())),
        ("0o8", Value::Text("0o8".to_owned())),
        ("'5'", Value::Text("5".to_owned())),
        ("!!str 5", Value::Text("5".to_owned())),
        ("2020-1-1", Value::Text("2020-01-01 00:00:00 +0000 UTC".to_owned())),
    ];
    for (text, wanted) in cases {
        assert_eq!(one(&format!("a: {text}")).at("a").unwrap().value, wanted, "{text}");
    }
}

/// Fails when `<<` wins over the mapping's own keys, or a later mapping over an earlier one.
#[test]
fn merge_keys_fill_in_what_is_not_said() {
    let tree = one("a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: {'<<': 1}");
    let c = tree.at("c").unwrap();
    let values: Vec<_> = ["x", "y", "z"].iter().map(|key| c.at(key).unwrap().value.clone()).collect();
    assert_eq!(values, [Value::Int(3), Value::Int(1), Value::Int(2)]);
    assert!(tree.at("d").unwrap().at("<<").is_some(), "in quotes it is a key");
}

#[test]
fn a_node_knows_its_place_and_its_tag() {
    let tree = one("a:\n  - x\n  - !reset y\nb: !override {c: 1}\n");
    let list = tree.items("a");
    assert_eq!((list[1].place.line, list[1].place.column, list[1].tag), (3, 12, Tag::Reset));
    assert_eq!(tree.at("b").unwrap().tag, Tag::Override);
}

#[test]
fn faults_have_their_place() {
    assert_eq!(fault("a: 1\na: 2"), "f:2:1: a: the key is there already, in line 1");
    assert_eq!(fault("a: *x"), "f:1:4: malformed YAML: while parsing node, found unknown anchor");
    assert_eq!(fault("a: &a [*a]"), "f:1:8: an alias stands inside what it names");
    assert_eq!(fault("1: x"), "f:1:1: a key must be a text, not a whole number");
    assert_eq!(fault("a: {<<: 5}"), "f:1:5: <<: merges mappings only");
}

/// Fails without the count of what aliases stand for: nine lines would make a billion values.
#[test]
fn bombs_are_refused_before_they_go_off() {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..10 {
        let aliases = format!("*a{},", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
    }
    assert!(fault(&bomb).contains("more than 200000 values"), "{}", fault(&bomb));
    assert!(documents("f", &"[".repeat(100_000)).is_err());
    let nested: String = (0..1000).map(|depth| format!("{}- \n", " ".repeat(depth))).collect();
    assert!(documents("f", &nested).is_err());
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..200 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(fault(&chain).contains("nested more than"), "{}", fault(&chain));
    assert!(fault(&"#".repeat(MAX_FILE_BYTES + 1)).contains("longer than"));
}
