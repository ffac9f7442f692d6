use super::*;

fn list(text: &str) -> PortList {
    text.parse().expect(text)
}

#[test]
fn ports_start_at_one() {
    assert_eq!(Port::new(0), None);
    assert_eq!(Port::new(1).map(Port::get), Some(1));
    assert_eq!(Port::new(65535).map(Port::get), Some(65535));
}

#[test]
fn a_range_does_not_fall() {
    let port = |number| Port::new(number).expect("not 0");
    assert_eq!(PortRange::new(port(2), port(1)), None);
    let one = PortRange::new(port(7), port(7)).expect("one port");
    assert_eq!((one, one.count(), one.to_string()), (port(7).into(), 1, "7".to_owned()));
    let all = PortRange::new(port(1), port(65535)).expect("rises");
    assert_eq!(all.count(), 65535);
    assert_eq!((all.nth(0), all.nth(65534), all.nth(65535)), (Port::new(1), Port::new(65535), None));
    assert_eq!(all.nth(u32::MAX), None);
}

#[test]
fn lists_keep_the_order_of_the_text() {
    let cases: [(&str, &[u16]); 6] = [
        ("80", &[80]),
        ("2000,2002,3000-3003", &[2000, 2002, 3000, 3001, 3002, 3003]),
        ("3-4,1-2", &[3, 4, 1, 2]),
        ("80,81", &[80, 81]),
        ("65534-65535", &[65534, 65535]),
        ("5,5,4-6", &[5, 5, 4, 5, 6]),
    ];
    for (text, ports) in cases {
        let list = list(text);
        assert_eq!(list.iter().map(Port::get).collect::<Vec<_>>(), ports, "{text}");
        assert_eq!(usize::try_from(list.count()), Ok(ports.len()));
        for (index, &port) in (0..).zip(ports) {
            assert_eq!(list.nth(index), Port::new(port), "{text} at {index}");
        }
        assert_eq!((list.nth(list.count()), list.nth(u32::MAX)), (None, None));
        assert_eq!(list.to_string(), text);
    }
}

#[test]
fn canonical_text_has_no_leading_zeros() {
    assert_eq!(list("0080,0001-01000,065535").to_string(), "80,1-1000,65535");
}

#[test]
fn malformed_lists_name_the_place() {
    let cases = [
        ("", "column 1: port missing"),
        (",", "column 1: port missing"),
        ("80,", "column 4: port missing"),
        (",80", "column 1: port missing"),
        ("80,,81", "column 4: port missing"),
        ("-", "column 1: port missing"),
        ("-5", "column 1: port missing"),
        ("5-", "column 3: port missing"),
        ("1--2", "column 3: port missing"),
        ("1-2-3", "column 4: a range has two ports"),
        ("1-2-", "column 4: a range has two ports"),
        ("80-80", "column 1: range 80-80 does not rise"),
        ("1,81-80", "column 3: range 81-80 does not rise"),
        ("0", "column 1: port 0 is not allowed"),
        ("000", "column 1: port 0 is not allowed"),
        ("0-5", "column 1: port 0 is not allowed"),
        ("1,65536", "column 3: port 65536 is above 65535"),
        ("1-9999999999", "column 3: port 9999999999 is above 65535"),
        ("99999999999999999999999999999999", "column 1: port 99999999999999999999… is above 65535"),
        (" 80", "column 1: unexpected ` ` in a port"),
        ("80 ", "column 3: unexpected ` ` in a port"),
        ("80, 81", "column 4: unexpected ` ` in a port"),
        ("80 - 81", "column 3: unexpected ` ` in a port"),
        ("+80", "column 1: unexpected `+` in a port"),
        ("0x50", "column 2: unexpected `x` in a port"),
        ("http", "column 1: unexpected `h` in a port"),
        ("80;81", "column 3: unexpected `;` in a port"),
        ("8\u{0}0", "column 2: unexpected `\\u{0}` in a port"),
        ("8٠", "column 2: unexpected `٠` in a port"),
        ("é8,x", "column 1: unexpected `é` in a port"),
    ];
    for (text, message) in cases {
        let error = text.parse::<PortList>().expect_err(text);
        assert_eq!(error.to_string(), message, "{text:?}");
    }
}

#[test]
fn lists_have_bounds() {
    let items = |count: usize| vec!["7"; count].join(",");
    assert_eq!(list(&items(PortList::ITEMS_MAX)).count(), 1024);
    let error = items(PortList::ITEMS_MAX + 1).parse::<PortList>().expect_err("too many items");
    assert_eq!(error.to_string(), "column 2049: more than 1024 items in a port list, use ranges");
    assert_eq!(list("1-65535").count(), 65535);
    assert_eq!(list("1-65534,9").count(), 65535);
    let error = "1-65535,1".parse::<PortList>().expect_err("too many ports");
    assert_eq!(error.to_string(), "column 9: more than 65535 ports in a port list");

    let one = PortRange::from(Port::new(1).expect("not 0"));
    assert_eq!(PortList::new(Vec::new()), None);
    assert_eq!(PortList::new(vec![one; PortList::ITEMS_MAX + 1]), None);
    assert!(PortList::new(vec![one; PortList::ITEMS_MAX]).is_some());
}

#[test]
fn repeats_are_found_at_the_later_item() {
    let cases = [
        ("80,81", None),
        ("1-65535", None),
        ("80,80", Some((1, 80))),
        ("80-90,85", Some((1, 85))),
        ("85,80-90", Some((1, 85))),
        ("80-90,85-100", Some((1, 85))),
        ("85-100,80-90", Some((1, 85))),
        ("1-10,20,5-6,20", Some((2, 5))),
        ("20,1-10,20,5-6", Some((2, 20))),
        ("1-100,50,60-70,200,199-201", Some((1, 50))),
        ("9,8,7,6,5,4,3,2,1,9", Some((9, 9))),
    ];
    for (text, repeat) in cases {
        let found = list(text).first_repeat().map(|(item, port)| (item, port.get()));
        assert_eq!(found, repeat, "{text}");
    }
}

#[test]
fn serde_uses_the_text() {
    let json = serde_json::to_string(&list("80,90-99")).expect("serializes");
    assert_eq!(json, "\"80,90-99\"");
    assert_eq!(serde_json::from_str::<PortList>(&json).expect("reads"), list("80,90-99"));
    let error = serde_json::from_str::<PortList>("\"90-80\"").expect_err("falls");
    assert!(error.to_string().starts_with("column 1: range 90-80 does not rise"), "{error}");
}
