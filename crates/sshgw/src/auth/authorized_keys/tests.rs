//! Lines as people write them, and as somebody would who wants in.

use super::*;
use crate::auth::grant::Permitted;

const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPTsJa29VQ2HJfPRSh8A/5Ie8TtuctMXe5dBfMVDLyj4";
const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx3YMIFgnd70p3JJZgX3kkLexkQnolhMLjyB1os15eP";
const E: &str = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAs6FAVMtATAI043Qx/y4htNtwVwcbut84r6mdVX9M64GA8NiwqAMNe3Ut2zbgI2nQpAtkqLu4waucpVVTUB3RU=";
const R: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDXTJszNw0Q7iGW4X6uzRS6Gb5sBeTilB30xhMcWDEKfOpxWSLYjUwLG2hnxn04ewfxvg+3o8/1wk/N0kzKOn/e8L9CC367yE6j8ANTFUuMrRMCMB9WflmK/EMr1tgvFbgCssvSW9ZvcQ2BwAS3dMPgMny3rR+MyCDYxuMYNQdsyQ==";
const DSA: &str = "ssh-dss AAAAB3NzaC1kc3MAAACBAKlmSbPB3Hl9lKamAK9IlbOv9ez6FteT3GGWO9Qct1J0nfAqgUPn6elGAGlVlyk1hmw8Lm47uKdz4pGqvoov/KK8x60oJATHWYvOV+yLvaojL5Wqne9Qvzlcf/dIylYix03xPhYmCRfy3M/5eFacobBpeHbVZKiSM6PNWhj7+Np9AAAAFQDfTGBsPy1m0qyIIeVtPJvhDNG8BwAAAIB2UUzz+XN/rGhgytenbkXKxMsLlL1MKG0VfXzaUIla5srkSnCH4AW5XG0qTOAO9EApQwbUsLQF4Ig+vKMcwcdkGSkBg9I3f0sYMTHgpEBlZ70ZQXI254sNlV5e2RQd8wvhS6I1VhNG9KdiiaDUmiufo09YyLOZgaIj5foCQUiV8QAAAIAgxUq4S3luuAnfirlsXpF6aGCyzJIez5RqBseiA1f5/4r9NCVWf09P5u53EWbT41nlFxThQ7tU1eRSzSZXCvnjpDYLdoGmEBSf/k2jC5IIf8grPQ12+lU6OT8VFL+FKCCM32KQ4B7tBpzX0+mWtUw4BVro/rDofJQOhNhSbiddJQ==";

fn key(line: &str) -> KeyData {
    let (kind, base64) = line.split_once(' ').unwrap();
    key::parse(kind, base64).unwrap()
}

fn here() -> Circumstances {
    Circumstances {
        client: "10.0.0.7".parse().unwrap(),
        now_seconds: 1_795_132_800,
        local_offset_seconds: Some(0),
    }
}

fn find(file: &str, offered: &str) -> Result<Grant, KeyRefusal> {
    AuthorizedKeys::parse(file.as_bytes()).find_key(&key(offered), &here()).map(|found| found.grant)
}

/// Fails when: a kind of line that sshd takes is not found.
#[test]
fn keys_are_found_however_their_lines_look() {
    let file = format!(
        "# comment\r\n\r\n   \n{A} ann@example\r\n\t {E}\nno-pty,command=\"a \\\"b\\\" c, d\" {R} x y z\n\
         ssh-ed25519 short\nnonsense\n{DSA} old\n"
    );
    let keys = AuthorizedKeys::parse(file.as_bytes());
    assert_eq!(keys.len(), 3);
    assert_eq!(keys.fault_count, 3);
    let lines: Vec<usize> = keys.faults.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [7, 8, 9]);
    assert_eq!(keys.faults.last().map(|(_, fault)| fault.clone()), Some(LineFault::Weak(WeakKey::Dsa)));
    assert_eq!(keys.find_key(&key(A), &here()), Ok(Found { line: 4, grant: Grant::default() }));
    assert_eq!(keys.find_key(&key(E), &here()).map(|found| found.line), Ok(5));
    let found = keys.find_key(&key(R), &here()).unwrap().grant;
    assert_eq!(found, Grant { command: Some("a \"b\" c, d".to_owned()), pty: false, ..Grant::default() });
    assert_eq!(keys.find_key(&key(B), &here()), Err(KeyRefusal::Unknown));
}

/// Fails when: an option is dropped, or changes another.
#[test]
fn every_option_is_honoured() {
    let cases: Vec<(&str, Grant)> = vec![
        ("restrict", Grant::restricted()),
        ("RESTRICT,pty", Grant { pty: true, ..Grant::restricted() }),
        ("pty,restrict", Grant::restricted()),
        ("restrict,port-forwarding,agent-forwarding,X11-forwarding,user-rc,pty", Grant::default()),
        ("no-port-forwarding", Grant { port_forwarding: false, ..Grant::default() }),
        ("no-agent-forwarding", Grant { agent_forwarding: false, ..Grant::default() }),
        ("no-X11-forwarding", Grant { x11_forwarding: false, ..Grant::default() }),
        ("no-user-rc", Grant { user_rc: false, ..Grant::default() }),
        ("no-touch-required,tunnel=\"0\"", Grant::default()),
        ("from=\"10.0.0.0/8\"", Grant::default()),
        ("expiry-time=\"20261121Z\"", Grant::default()),
        (
            "environment=\"A=b=c\",environment=\"A=d\"",
            Grant { environment: vec![("A".to_owned(), "b=c".to_owned())], ..Grant::default() },
        ),
        (
            "permitopen=\"DB:5432\",permitopen=\"[::1]:*\",permitlisten=\"8080\"",
            Grant {
                permit_open: Some(vec![
                    Permitted { host: Some("db".to_owned()), port: Some(5432) },
                    Permitted { host: Some("::1".to_owned()), port: None },
                ]),
                permit_listen: Some(vec![Permitted { host: None, port: Some(8080) }]),
                ..Grant::default()
            },
        ),
    ];
    for (options, grant) in cases {
        assert_eq!(find(&format!("{options} {A}\n"), A), Ok(grant), "{options}");
    }
    let grant = find(&format!("permitopen=\"db:5432\" {A}"), A).unwrap();
    assert!(grant.may_open("DB", 5432) && !grant.may_open("db", 5433) && !grant.may_open("other", 5432));
    assert!(grant.may_listen("", 80));
    let grant = find(&format!("restrict,permitopen=\"db:5432\" {A}"), A).unwrap();
    assert!(!grant.may_open("db", 5432), "a list of places does not bring forwarding back");
}

/// The key would do more than its line says: 3.6 of what other gateways got wrong.
///
/// Fails when: an option that cannot be honoured is skipped and the key lets somebody in.
#[test]
fn a_key_whose_options_cannot_be_honoured_is_refused() {
    let long = format!("command=\"{}\"", "x".repeat(LINE_MAX_BYTES));
    let cases = [
        "from=\"192.168.0.0/16\"",
        "from=\"\"",
        "from=\"10.0.0.7/8\"",
        "from=\"*,!10.0.0.7\"",
        "from=10.0.0.7",
        "from",
        "expiry-time=\"20261120Z\"",
        "expiry-time=\"soon\"",
        "expiry-time=\"20301120\",expiry-time=\"20311120\"",
        "cert-authority",
        "cert-authority,principals=\"root\"",
        "principals=\"root\"",
        "verify-required",
        "touch-required",
        "no-restrict",
        "no-command",
        "unknown-option",
        "unknown=\"x\"",
        "command=\"a\",command=\"b\"",
        "command=\"a\"b",
        "command=\"a\",,pty",
        ",pty",
        "pty,",
        "permitopen=\"5432\"",
        "permitopen=\"db:0\"",
        "permitopen=\"db:70000\"",
        "permitopen=\"::1:80\"",
        "permitlisten=\"\"",
        "environment=\"1A=b\"",
        "environment=\"LD PRELOAD=b\"",
        "environment=\"novalue\"",
        "command=\"unterminated",
        &long,
    ];
    for options in cases {
        let refusal = find(&format!("{options} {A}\n"), A);
        assert!(refusal.is_err(), "{}", options.get(..60).unwrap_or(options));
    }
    let bytes = [b"command=\"\xff\" ", A.as_bytes()].concat();
    let refusal = AuthorizedKeys::parse(&bytes).find_key(&key(A), &here());
    assert_eq!(refusal, Err(KeyRefusal::Options { line: 1, error: OptionError::NotText }));
}

/// Fails when: a line that refuses hides a later one that allows, or the other way round.
#[test]
fn the_first_line_that_allows_decides() {
    let file = format!("from=\"1.2.3.4\" {A}\nunknown {A}\nno-pty {A}\n{A}\n");
    assert_eq!(find(&file, A), Ok(Grant { pty: false, ..Grant::default() }));
    let file = format!("unknown {A}\nfrom=\"1.2.3.4\" {A}\n");
    let client = here().client;
    assert_eq!(find(&file, A), Err(KeyRefusal::Source { line: 2, client }));
}

/// Fails when: a key is taken by the name of its type or by its comment.
#[test]
fn a_type_must_be_that_of_the_key() {
    let (_, base64) = A.split_once(' ').unwrap();
    for line in [format!("ssh-rsa {base64}"), base64.to_owned(), format!("# {A}"), format!("x {A}x")] {
        assert_eq!(find(&line, A), Err(KeyRefusal::Unknown), "{line}");
    }
}

/// Fails when: a long file takes more than its bytes, or its last lines hide its first.
#[test]
fn long_files_end() {
    let mut file = format!("{A}\n").into_bytes();
    file.extend(std::iter::repeat_n(b'x', LINE_MAX_BYTES + 1));
    file.extend(format!("\n{B}\n").into_bytes());
    let keys = AuthorizedKeys::parse(&file);
    assert_eq!((keys.len(), keys.fault_count), (2, 1));
    assert_eq!(keys.faults, [(2, LineFault::TooLong)]);
    let many = AuthorizedKeys::parse(&b"x\n".repeat(FILE_MAX_BYTES));
    assert_eq!((many.fault_count, many.faults.len()), (FILE_MAX_BYTES / 2, FAULTS_MAX));
}
