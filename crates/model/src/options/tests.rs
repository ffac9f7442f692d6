use super::*;

fn text<T: FromStr<Err = ValueError> + fmt::Display>(value: &str) -> Result<String, String> {
    value.parse::<T>().map(|value| value.to_string()).map_err(|error| error.to_string())
}

fn good<T: FromStr<Err = ValueError> + fmt::Display>(cases: &[(&str, &str)]) {
    for (value, canonical) in cases {
        assert_eq!(text::<T>(value).as_deref(), Ok(*canonical), "{value:?}");
        assert_eq!(text::<T>(canonical).as_deref(), Ok(*canonical), "{canonical:?}");
    }
}

fn bad<T: FromStr<Err = ValueError> + fmt::Display>(cases: &[(&str, &str)]) {
    for (value, message) in cases {
        assert_eq!(text::<T>(value), Err((*message).to_owned()), "{value:?}");
    }
}

#[test]
fn bind() {
    good::<Bind>(&[
        ("", "host"),
        ("host", "host"),
        ("instance", "instance"),
        ("guest", "instance"),
        ("container", "instance"),
    ]);
    bad::<Bind>(&[
        ("Host", "column 1: `Host` is not host or instance"),
        ("vm", "column 1: `vm` is not host or instance"),
        (" host", "column 1: ` host` is not host or instance"),
    ]);
    assert_eq!(Bind::default(), Bind::Host);
}

#[test]
fn proxy_protocol_takes_every_word_for_yes_and_no() {
    for word in ["true", "yes", "on", "1", "TRUE", "Yes", "oN"] {
        assert_eq!(word.parse(), Ok(ProxyProtocol::V1), "{word}");
    }
    for word in ["false", "no", "off", "0", "FALSE", "No", "oFF"] {
        assert_eq!(word.parse(), Ok(ProxyProtocol::Off), "{word}");
    }
    good::<ProxyProtocol>(&[("true", "v1"), ("v1", "v1"), ("v2", "v2"), ("0", "false")]);
    bad::<ProxyProtocol>(&[
        ("", "column 1: value is empty, expected v1, v2, true or false"),
        ("v3", "column 1: `v3` is not v1, v2, true or false"),
        ("V1", "column 1: `V1` is not v1, v2, true or false"),
        ("2", "column 1: `2` is not v1, v2, true or false"),
        ("truee", "column 1: `truee` is not v1, v2, true or false"),
    ]);
}

#[test]
fn fds_and_follow() {
    good::<FdPassing>(&[("on", "on"), ("TRUE", "on"), ("1", "on"), ("off", "off"), ("no", "off")]);
    bad::<FdPassing>(&[
        ("", "column 1: value is empty, expected on or off"),
        ("2", "column 1: `2` is not on or off"),
    ]);
    good::<Follow>(&[("uuid", "uuid"), ("name", "name")]);
    bad::<Follow>(&[
        ("", "column 1: value is empty, expected uuid or name"),
        ("UUID", "column 1: `UUID` is not uuid or name"),
    ]);
}

#[test]
fn modes() {
    good::<SocketMode>(&[
        ("0644", "0644"),
        ("644", "0644"),
        ("0", "0000"),
        ("777", "0777"),
        ("000000660", "0660"),
    ]);
    bad::<SocketMode>(&[
        ("", "column 1: value is empty, expected an octal mode such as 0660"),
        ("0o644", "column 2: unexpected `o`, expected an octal mode such as 0660"),
        ("0648", "column 4: unexpected `8`, expected an octal mode such as 0660"),
        ("-644", "column 1: unexpected `-`, expected an octal mode such as 0660"),
        ("rw-", "column 1: unexpected `r`, expected an octal mode such as 0660"),
        ("1000", "column 1: `1000` is outside 0000 to 0777"),
        ("4755", "column 1: `4755` is outside 0000 to 0777"),
        ("77777777777777777777", "column 1: `77777777777777777777` is outside 0000 to 0777"),
    ]);
    assert_eq!(SocketMode::new(0o777).map(SocketMode::bits), Some(0o777));
    assert_eq!(SocketMode::new(0o1000), None);
    assert_eq!(SocketMode::default().bits(), 0o644);
}

#[test]
fn ids_and_numbers() {
    let id = |text: &str| parse_id(text).map_err(|error| error.to_string());
    assert_eq!(id("0"), Ok(0));
    assert_eq!(id("01000"), Ok(1000));
    assert_eq!(id("4294967294"), Ok(u32::MAX - 1));
    let cases = [
        ("", "column 1: value is empty, expected a number"),
        ("root", "column 1: unexpected `r`, expected a number"),
        ("-1", "column 1: unexpected `-`, expected a number"),
        ("+1", "column 1: unexpected `+`, expected a number"),
        ("1 ", "column 2: unexpected ` `, expected a number"),
        ("4294967295", "column 1: id 4294967295 is reserved by the kernel"),
        ("4294967296", "column 1: `4294967296` is outside 0 to 4294967295"),
        ("99999999999999999999", "column 1: `99999999999999999999` is outside 0 to 4294967295"),
    ];
    for (text, message) in cases {
        assert_eq!(id(text), Err(message.to_owned()), "{text:?}");
    }
    assert_eq!(parse_number("7", 7, 7), Ok(7));
    assert!(parse_number("8", 7, 7).is_err());
    assert!(parse_number("6", 7, 7).is_err());
}

#[test]
fn serde_uses_the_text() {
    assert_eq!(serde_json::to_string(&Bind::Instance).expect("serializes"), "\"instance\"");
    assert_eq!(serde_json::from_str::<Bind>("\"guest\"").expect("reads"), Bind::Instance);
    assert_eq!(serde_json::from_str::<SocketMode>("\"660\"").expect("reads").to_string(), "0660");
    assert!(serde_json::from_str::<SocketMode>("660").is_err());
}
