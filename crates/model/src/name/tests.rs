//! What is a host and what is not.

use super::*;

#[test]
fn hosts_are_read_and_printed() {
    let cases = [
        ("10.0.0.1", "10.0.0.1"),
        ("[::1]", "[::1]"),
        ("[FD00::0:1]", "[fd00::1]"),
        ("[::ffff:10.0.0.1]", "10.0.0.1"),
        ("[fe80::1%eth0]", "[fe80::1%eth0]"),
        ("db", "db"),
        ("DB.Example", "db.example"),
        ("my_db-1.example.", "my_db-1.example."),
        ("1password.example", "1password.example"),
        ("0xbeef.0xg", "0xbeef.0xg"),
    ];
    for (text, canonical) in cases {
        let host: Host = text.parse().unwrap();
        assert_eq!(host.to_string(), canonical);
        assert_eq!(canonical.parse(), Ok(host), "{canonical}");
    }
}

#[test]
fn what_is_no_host_is_refused() {
    let long = format!("{}.example", "a".repeat(64));
    let longer = "a.".repeat(128);
    let part = format!("column 1: part `{}…` of a name is longer than 63 characters", "a".repeat(48));
    let cases = [
        ("", "column 1: host is empty"),
        (".", "column 1: IPv4 address has an empty part"),
        ("a..b", "column 3: name has an empty part"),
        ("-a", "column 1: part `-a` of a name begins or ends with a hyphen"),
        ("a.b-", "column 3: part `b-` of a name begins or ends with a hyphen"),
        ("a b", "column 2: unexpected ` ` in a name"),
        ("a/b", "column 2: unexpected `/` in a name"),
        ("b\u{fc}cher", "column 2: unexpected `\u{fc}` in a name, write it as DNS has it (xn--...)"),
        ("a\nb", "column 2: unexpected `\\n` in a name"),
        ("10.0.0", "column 1: expected 4 parts in an IPv4 address, found 3"),
        ("10.0.0.256", "column 8: IPv4 address part `256` is above 255"),
        ("10.0.0.08", "column 8: IPv4 address part `08` has a leading zero"),
        ("a.10", "column 1: `a.10` is neither a name nor an IPv4 address"),
        ("0x7f000001", "column 1: `0x7f000001` is neither a name nor an IPv4 address"),
        ("::1", "column 1: IPv6 address needs brackets, as in [::1]:80"),
        ("[::1", "column 1: closing bracket missing"),
        ("[10.0.0.1]", "column 2: brackets are for IPv6 addresses only"),
        ("[fe80::1]", "column 9: link-local address needs a zone, as in [fe80::1%eth0]"),
        (&long, &part),
        (&longer, "column 1: name is longer than 253 characters"),
    ];
    for (text, message) in cases {
        assert_eq!(text.parse::<Host>().unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn localhost_is_known() {
    for (name, loopback) in
        [("localhost", true), ("LOCALHOST.", true), ("a.localhost", true), ("mylocalhost", false)]
    {
        assert_eq!(name.parse::<HostName>().unwrap().is_loopback(), loopback, "{name}");
    }
}
