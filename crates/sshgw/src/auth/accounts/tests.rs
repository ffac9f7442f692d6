//! Files as an instance has them, and as its root could write them.

use super::*;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/bash\r\n\
bob:x:1000:1000:Bob,,,:/home/bob:/bin/sh\n\
bob:x:0:0:second:/root:/bin/sh\n\
# comment\n\
\n\
+nis::::::\n\
empty:x::0::/:/bin/sh\n\
minus:x:-1:0::/:/bin/sh\n\
plus:x:+1:0::/:/bin/sh\n\
word:x:zero:0::/:/bin/sh\n\
big:x:4294967295:0::/:/bin/sh\n\
bigger:x:4294967296:0::/:/bin/sh\n\
gid:x:1:4294967295::/:/bin/sh\n\
hex:x:0x10:0::/:/bin/sh\n\
blank:x: 0:0::/:/bin/sh\n\
short:x:1:1::/home\n\
long:x:1:1::/home:/bin/sh:more\n\
:x:1:1::/:/bin/sh\n\
tty\x1b[2J:x:1:1::/:/bin/sh\n\
\xff\xfe:x:1:1::/:/bin/sh\n\
noshell:x:1001:1001:::\n\
1002:x:1003:1003::/:/bin/sh\n\
last:x:4294967294:1::/:/bin/sh";

fn found(name: &str) -> Option<(u32, u32)> {
    find_user(PASSWD, name).found.map(|user| (user.uid, user.gid))
}

/// Fails when: an id that cannot be read becomes 0, or 4294967295, which Incus runs as root, is one.
#[test]
fn an_id_that_cannot_be_read_is_nobody() {
    for name in [
        "empty",
        "minus",
        "plus",
        "word",
        "big",
        "bigger",
        "gid",
        "hex",
        "blank",
        "short",
        "long",
        "",
        "+nis",
        "tty",
        "4294967295",
        "4294967296",
        "-1",
        "0x0",
        "no",
    ] {
        assert_eq!(found(name), None, "{name}");
    }
    assert_eq!(find_user(PASSWD, "root").fault_count, 15);
}

/// Fails when: a later line of a name replaces the first, or a carriage return becomes part of a shell.
#[test]
fn the_first_line_of_a_name_counts() {
    assert_eq!(found("bob"), Some((1000, 1000)));
    let root = find_user(PASSWD, "root").found.unwrap();
    assert_eq!((root.shell.as_str(), root.home.as_str()), ("/bin/bash", "/root"));
    let bare = find_user(PASSWD, "noshell").found.unwrap();
    assert_eq!((bare.shell.as_str(), bare.home.as_str()), ("", ""));
    assert_eq!(found("last"), Some((4_294_967_294, 1)));
}

/// Fails when: somebody is found by his number, whom no rule about his name would meet.
#[test]
fn digits_are_a_name_and_no_id() {
    assert_eq!(found("1002"), Some((1003, 1003)));
    for id in ["0", "00", "1000", "+0"] {
        assert_eq!(found(id), None, "{id}");
    }
}

/// Fails when: a group is left out, stands there twice, or that of another is taken.
#[test]
fn groups_of_a_user() {
    let user = find_user(PASSWD, "bob").found.unwrap();
    let group = b"root:x:0:\nbob:x:1000:\naudio:x:29:ann,bob\nvideo:x:44:bobby,bob2\nmore:x:29:bob\n\
        disk:x:4294967295:bob\nwheel:x::bob\nshort:x:7\ndocker:x:999:bob\r\n";
    let read = groups_of(group, &user);
    assert_eq!(read.found, [1000, 29, 999]);
    assert_eq!(read.fault_count, 3);
}

/// Fails when: an expired account or password is still good, or one that is good is not.
#[test]
fn expiry_is_enforced() {
    let today = 20_000;
    let cases = [
        ("bob:h:19000:0:99999:7:::", Ok(())),
        ("bob:h:19000:0:999:7:::", Err(Expired::Password)),
        ("bob:h:19000:0:1000:7:::", Ok(())),
        ("bob:h:0:0:99999:7:::", Err(Expired::MustChange)),
        ("bob:h:19000:0:99999:7::20000:", Err(Expired::Account)),
        ("bob:h:19000:0:99999:7::20001:", Ok(())),
        ("bob:h:19000:0:99999:7::0:", Err(Expired::Account)),
        ("bob:h:::::::", Ok(())),
        ("bob:h:-1:0:-1:7::-1:", Ok(())),
    ];
    for (line, good) in cases {
        let entry = find_shadow(line.as_bytes(), "bob").found.unwrap();
        assert_eq!(entry.check(today), good, "{line}");
        assert_eq!(format!("{entry:?}"), "Shadow { .. }", "a hash is not for the log");
    }
    for line in ["bob:h:x:0:99999:7:::", "bob:h:1:0:99999:7::x:", "bob:h:1", ":h:1:0:99999:7:::"] {
        let read = find_shadow(line.as_bytes(), "bob");
        assert_eq!((read.found.is_none(), read.fault_count), (true, 1), "{line}");
    }
}
