//! Every example of the three dialects, every kind of fault, and that what is printed is read back.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;

/// One line of what a login says, without what is not said.
fn show(text: &str, dialect: Dialect) -> String {
    match Login::parse(text, dialect) {
        Ok(login) => {
            let mut line = show_wish(&login.wish);
            for warning in &login.warnings {
                write!(line, "; {warning}").unwrap();
            }
            line
        }
        Err(error) => format!("{}: {}", error.position, error.kind),
    }
}

fn show_wish(wish: &Wish) -> String {
    let host_user =
        |user: &HostUser| if user.as_str() == "root" { String::new() } else { format!(" as {user}") };
    match wish {
        Wish::Session(Session { place, keep, host_user: user }) => {
            let keep = match keep {
                Keep::No => String::new(),
                Keep::Shared => "keep ".to_owned(),
                Keep::Named(name) => format!("keep {name} "),
            };
            format!("{keep}{}{}", show_place(place), host_user(user))
        }
        Wish::Create(Create { place, ephemeral, options, host_user: user }) => {
            let CreateOptions { image, memory_gib, cpu_count, disk_gib, nesting, privileged, vm, profiles } =
                options;
            let mut line = format!("{} {}", if *ephemeral { "tmp" } else { "new" }, show_place(place));
            if let Some(image) = image {
                write!(line, " {image}").unwrap();
            }
            for (letter, number) in [('m', memory_gib), ('c', cpu_count), ('d', disk_gib)] {
                if let Some(number) = number {
                    write!(line, " {letter}{number}").unwrap();
                }
            }
            for (word, given) in [("nest", nesting), ("priv", privileged), ("vm", vm)] {
                line.push_str(&if *given { format!(" {word}") } else { String::new() });
            }
            if !profiles.is_empty() {
                write!(line, " [{}]", profiles.join("|")).unwrap();
            }
            line + &host_user(user)
        }
        Wish::Command(command) => match command {
            Command::Shell { host_user: user } => format!("command shell{}", host_user(user)),
            Command::Remove { place, host_user: user, .. } => {
                format!("command {} {}{}", command.as_str(), show_place(place), host_user(user))
            }
            Command::Explain(wish) => format!("command explain ({})", show_wish(wish)),
        },
    }
}

fn show_place(place: &Place) -> String {
    let Place { remote, instance_user, instance, project } = place;
    let remote = remote.as_ref().map(|remote| format!("{remote}:")).unwrap_or_default();
    let user = if instance_user.as_str() == "root" { String::new() } else { format!("{instance_user}@") };
    let project = if project.as_str() == "default" { String::new() } else { format!(" in {project}") };
    format!("{remote}{user}{instance}{project}")
}

/// What the dialects say of a login.
enum Says {
    /// All three the same.
    All(&'static str),
    /// 0.7 something else than 0.10 and `auto`.
    Old(&'static str, &'static str),
    /// `auto`, 0.7 and 0.10.
    Each(&'static str, &'static str, &'static str),
}

use Says::{All, Each, Old};

/// The examples that are known of the dialects, one after the other; those that the reference reads wrongly are
/// refused, or read by the last `@`.
fn examples() -> Vec<(&'static str, Says)> {
    let mut all = plain_examples();
    all.extend(create_examples());
    all.extend(odd_examples());
    all
}

fn plain_examples() -> Vec<(&'static str, Says)> {
    vec![
        ("c1", All("c1")),
        ("c1.p1", All("c1 in p1")),
        ("u@c1", All("u@c1")),
        ("u@c1.p1", All("u@c1 in p1")),
        (
            "c1~adm",
            Old("c1~adm; no instance can be called `c1~adm`: unexpected `~` in instance name", "c1 as adm"),
        ),
        ("c1+adm", All("c1 as adm")),
        ("u@c1.p1~adm", Old("u@c1 in p1~adm", "u@c1 in p1 as adm")),
        ("r:u@c1.p1+adm", All("r:u@c1 in p1 as adm")),
        ("r:c1", All("r:c1")),
        ("%c1", Old("1: unknown command `c1`", "keep c1")),
        ("%u@c1.p1~adm", Old("%u@c1 in p1~adm", "keep u@c1 in p1 as adm")),
        ("%r:u@c1", Old("%r:u@c1", "keep r:u@c1")),
        ("/shell", Old("keep shell", "command shell")),
        (
            "/shell~adm",
            Each(
                "command shell as adm",
                "keep shell~adm; no instance can be called `shell~adm`: unexpected `~` in instance name",
                "1: unknown command `shell~adm`",
            ),
        ),
        ("%shell", Each("command shell", "command shell", "keep shell")),
        (
            "/ubuntu@test01",
            Each("keep ubuntu@test01", "keep ubuntu@test01", "1: unknown command `ubuntu@test01`"),
        ),
        (
            "/rm/c1.p1",
            Old(
                "keep rm/c1 in p1; no instance can be called `rm/c1`: unexpected `/` in instance name",
                "command remove c1 in p1",
            ),
        ),
        ("/rm-f/r:c1", Old("5: unexpected `/` in the remote", "command remove-force r:c1")),
        (
            "/explain/%u@c1.p1~adm",
            Old("8: unexpected `/` in the instance user", "command explain (keep u@c1 in p1 as adm)"),
        ),
        ("/explain", Old("keep explain", "8: command `explain` needs a target")),
        ("/remove", Old("keep remove", "7: command `remove` needs a target")),
    ]
}

fn create_examples() -> Vec<(&'static str, Says)> {
    vec![
        ("+t1", All("new t1")),
        ("~t1", All("tmp t1")),
        ("+t1+ubuntu/24.04+m2+c2+d10", All("new t1 ubuntu/24.04 m2 c2 d10")),
        (
            "+t1+m4+nest+priv+vm",
            All("new t1 m4 nest priv vm; `nest` means nothing for a virtual machine; \
                 `priv` means nothing for a virtual machine"),
        ),
        (
            "+r:u@t1.p1+%web,db+m4~adm",
            Old("11: unknown create option `%web,db`", "new r:u@t1 in p1 m4 [web|db] as adm"),
        ),
        (
            "~t1+alpine/edge+e+n+p+v",
            All("tmp t1 alpine/edge nest priv vm; `nest` means nothing for a virtual machine; \
                 `priv` means nothing for a virtual machine"),
        ),
        ("+t1+adm", All("4: unknown create option `adm`")),
        ("+t1+m+c2x+m-3", All("4: create option `m` is not a number")),
        ("+t1+c2x", All("5: create option `c2x` is not a number")),
        ("+t1+m-3", All("5: create option `m-3` is not a number")),
        ("+t1+debian", All("4: unknown create option `debian`")),
    ]
}

fn odd_examples() -> Vec<(&'static str, Says)> {
    vec![
        (
            "u%40c1",
            Old("u%40c1; no instance can be called `u%40c1`: unexpected `%` in instance name", "u@c1"),
        ),
        (
            "u%2540c1",
            Old("u%2540c1; no instance can be called `u%2540c1`: unexpected `%` in instance name", "u@c1"),
        ),
        ("a@b@c", All("a@b@c")),
        ("c1.p1.x", All("c1 in p1.x")),
        ("c1.", All("3: project name is empty")),
        (".p1", All("0: instance name is empty")),
        ("@c1", All("0: instance user is empty")),
        ("u@", All("2: instance name is empty")),
        ("r:", All("2: instance name is empty")),
        ("", All("0: instance name is empty")),
        ("%", Old("1: unknown command ``", "1: instance name is empty")),
        (
            "c1~a+b",
            Old("c1~a as b; no instance can be called `c1~a`: unexpected `~` in instance name", "c1 as a+b"),
        ),
        (
            "c1+a~b",
            Old("c1 as a~b", "c1+a as b; no instance can be called `c1+a`: unexpected `+` in instance name"),
        ),
        ("u+x@c1", All("u+x@c1; `+` before the last `@` belongs to the instance user `u+x`")),
        ("+", All("1: instance name is empty")),
        ("~", All("1: instance name is empty")),
        ("%40c1", Old("1: unknown command `40c1`", "keep 40c1")),
    ]
}

/// Fails when: a sign of one dialect is read in another, or a part goes to another place.
#[test]
fn every_example_of_every_dialect() {
    for (text, says) in examples() {
        let (auto, old, new) = match says {
            All(same) => (same, same, same),
            Old(old, new) => (new, old, new),
            Each(auto, old, new) => (auto, old, new),
        };
        assert_eq!(show(text, Dialect::Auto), auto, "auto: {text}");
        assert_eq!(show(text, Dialect::V07), old, "0.7: {text}");
        assert_eq!(show(text, Dialect::V010), new, "0.10: {text}");
    }
}

/// Fails when: a word is read as a name, or a name as a word.
#[test]
fn words_stand_for_signs() {
    let cases = [
        ("keep=c1", "keep c1"),
        ("keep=work,r:u@c1.p~adm", "keep work r:u@c1 in p as adm"),
        ("keep=shell", "keep shell"),
        ("new=t1+alpine%2Fedge+m2", "new t1 alpine/edge m2"),
        ("new=t1+%web,d%62", "new t1 [web|db]"),
        ("tmp=t1~adm", "tmp t1 as adm"),
        ("cmd=shell", "command shell"),
        ("cmd=shell~ann", "command shell as ann"),
        ("cmd=shell+ann%40corp", "command shell as ann@corp"),
        ("cmd=rm,c1.p", "command remove c1 in p"),
        ("cmd=rm-f%2fr%3ac1", "command remove-force r:c1"),
        ("cmd=explain/new=t1", "command explain (new t1)"),
        ("cmd=explain,+t1+alpine/edge", "command explain (new t1 alpine/edge)"),
        ("/u@shell", "keep u@shell; `shell` is an instance here; the command stands alone"),
        ("keep=,c1", "5: session name is empty"),
        ("keep=a b,c1", "6: unexpected ` ` in the session name"),
        ("keep=", "5: instance name is empty"),
        ("new=", "4: instance name is empty"),
        ("cmd=", "4: unknown command ``"),
        ("cmd=shell~", "10: host user is empty"),
        ("cmd=shell,c1", "10: nothing can follow the command `shell`"),
        ("cmd=rm,c1~adm", "command remove c1 as adm"),
        ("cmd=shell~adm", "command shell as adm"),
        ("%shell~adm", "command shell as adm"),
        ("/rm-f/r:c1.p~ab", "command remove-force r:c1 in p as ab"),
        ("/shell~", "7: host user is empty"),
        ("cmd=explain,cmd=shell", "16: a command cannot be explained"),
        ("/explain//explain/c1", "10: a command cannot be explained"),
        ("/rm/", "4: instance name is empty"),
        ("/foo/bar", "1: unknown command `foo`"),
    ];
    for (text, says) in cases {
        assert_eq!(show(text, Dialect::Auto), says, "{text}");
    }
    assert!(show("keep=c1", Dialect::V010).starts_with("keep=c1; no instance can be called"));
}

/// Fails when: an encoded byte is taken for a sign where it is not, or the other way round.
#[test]
fn every_byte_can_be_encoded() {
    for byte in (0x20..0x7f).filter(|byte| !b":/".contains(byte)) {
        let encoded = format!("u%{byte:02x}x@c1");
        let user = format!("u{}x", char::from(byte));
        let login =
            Login::parse(&encoded, Dialect::Auto).unwrap_or_else(|error| panic!("{encoded}: {error}"));
        assert_eq!(login.wish.place().map(|place| place.instance_user.as_str()), Some(user.as_str()));
        assert_eq!(login.warnings, []);
    }
    let cases = [
        ("bob%40corp@c1", "bob@corp@c1"),
        ("bob%40corp%40c1", "bob@corp@c1"),
        ("bob%2540corp%2540c1", "bob@corp@c1"),
        ("root@c1.p%40q", "c1 in p@q"),
        ("c1.p%2Bx~adm", "c1 in p+x as adm"),
        ("c1.p%7ex", "c1 in p~x"),
        ("c1.sshp%3Ax", "c1 in sshp:x"),
        ("r%3Au@c1", "r:u@c1"),
        ("r%3ac1", "r:c1"),
        ("my.host%3Aroot@c1", "my.host:c1"),
        ("root@c1~bob%40corp", "c1 as bob@corp"),
        ("root@c1.p%25%340q", "c1 in p%40q"),
        ("DOM%5Cbob@c1", "DOM\\bob@c1"),
        ("u%2Bx@c1", "u+x@c1"),
        ("r:%C3%BC@c1", "r:ü@c1"),
        ("c1%", "2: % is not followed by two hexadecimal digits"),
        ("c1%4", "2: % is not followed by two hexadecimal digits"),
        ("c1%+1", "2: % is not followed by two hexadecimal digits"),
        ("u%zz@c1", "1: % is not followed by two hexadecimal digits"),
        ("c1.p%e4", "4: the encoded bytes are not UTF-8"),
        ("c1%0aroot", "2: control character `\\n`"),
        ("u%c2%80@c1", "1: control character `\\u{80}`"),
        ("u%3Ax:y@c1", "0: unexpected `:` in the remote"),
        ("u@r:c1", "3: unexpected `:` in the instance name"),
        ("c1~a/b", "4: unexpected `/` in the host user"),
        ("c1~..", "3: `..` cannot be the host user"),
        ("c1.a_b", "4: unexpected `_` in project name"),
        ("+t1+m2+m4", "new t1 m4; create option `m4` replaces `m2`"),
        ("+t1++m4", "4: create option is empty"),
        ("+t1+%a,,b", "7: profile name is empty"),
        ("+t1+private", "4: unknown create option `private`"),
        ("+t1+nes", "4: unknown create option `nes`"),
        ("+t1+nesting+privil+ephem", "tmp t1 nest priv"),
        ("+t1+m99999999999", "5: create option `m99999999999` is not a number"),
        ("+t1+/etc/passwd", "4: unexpected `/` in the image"),
        ("+t1~bob@corp", "new t1 as bob@corp"),
        ("c1\n", "2: control character `\\n`"),
        ("c1\u{1b}[2J", "2: control character `\\u{1b}`"),
    ];
    for (text, says) in cases {
        assert_eq!(show(text, Dialect::Auto), says, "{text}");
    }
}

/// Fails when: the length of a login or of a part has no bound.
#[test]
fn lengths_have_a_bound() {
    let login = |length: usize| show(&"u".repeat(length), Dialect::Auto);
    assert_eq!(login(LOGIN_MAX_BYTES + 1), "4096: login is longer than 4096 bytes");
    let user = format!("{}@c1", "u".repeat(NAME_MAX_BYTES + 1));
    assert_eq!(show(&user, Dialect::Auto), "0: instance user is longer than 256 bytes");
}

/// Fails when: a place is counted in bytes where people count characters.
#[test]
fn columns_are_those_of_a_person() {
    let error = Login::parse("ü@c1+ü~/", Dialect::Auto).unwrap_err();
    assert_eq!((error.position, error.column), (9, 8));
    assert_eq!(error.to_string(), "column 8: unexpected `/` in the host user");
}

/// Every sign is worth trying, and so is everything else.
fn logins() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-c%@:.+~/,=0-9A-F]{0,24}",
        "(keep=|new=|tmp=|cmd=|cmd=rm,|cmd=explain,|/rm/|/explain/|%|\\+|~)?([a-z%:]{1,4}@)?[a-z0-9]{1,4}(\\.[a-z%@:.]{1,4})?([+~][a-z@%/,0-9]{1,6}){0,3}",
        "\\PC{0,16}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Fails when: a byte that is a sign is printed as it is, or a part is left out.
    #[test]
    fn what_is_printed_is_read_back(text in logins()) {
        for dialect in Dialect::ALL {
            // Only 0.7 has names that begin with what is a sign to `auto`.
            let foreign = dialect == Dialect::V07 && text.trim_start_matches('/').starts_with('%');
            let Ok(login) = Login::parse(&text, dialect) else { continue };
            if foreign {
                continue;
            }
            let printed = login.to_string();
            let again = Login::parse(&printed, Dialect::Auto);
            prop_assert_eq!(again.map(|again| again.wish), Ok(login.wish), "{} as {}", text, printed);
        }
    }

    /// Fails when: a sign stays in the printed text that a shell, scp or rsync would take for its own.
    #[test]
    fn what_is_printed_survives_other_programs(text in logins()) {
        let Ok(login) = Login::parse(&text, Dialect::Auto) else { return Ok(()) };
        let printed = login.to_string();
        let plain = |c: char| c.is_alphanumeric() || "%@.+~,=-_".contains(c);
        // What stands first stays as it was typed.
        prop_assert!(printed.chars().skip(1).all(plain) && !printed.starts_with(['~', '+', '%', '/']), "{}", printed);
    }

    /// Fails when: an error points outside its login.
    #[test]
    fn an_error_has_its_place(text in "\\PC{0,40}") {
        for dialect in Dialect::ALL {
            if let Err(error) = Login::parse(&text, dialect) {
                prop_assert!(text.is_char_boundary(error.position) && error.column <= text.chars().count() + 1);
            }
        }
    }
}
