//! Every parser of the gateway that reads what others have written, one function each: fed by a fuzzer, and with the
//! committed corpus by a test. A function returns for whatever it is given.
//!
//! No part of the product.

use std::path::Path;

use portway_proto::guest::Listed;
use portway_proto::login::{Dialect, Login};
use portway_proto::x11::{MAGIC_COOKIE, Setup};
use russh::keys::ssh_key::Certificate;

use crate::auth::accounts;
use crate::auth::authorized_keys::AuthorizedKeys;
use crate::auth::grant::Circumstances;
use crate::auth::key;
use crate::auth::password;
use crate::auth::revoked::Revoked;
use crate::auth::source::Sources;
use crate::policy::Policy;
use crate::recording::{Cast, visible};

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// Names, as folders of the corpus and binaries of the fuzzer have them, and functions. All begin with [`PREFIX`].
pub const TARGETS: &[(&str, Target)] = &[
    ("ssh_accounts", accounts),
    ("ssh_authorized_keys", authorized_keys),
    ("ssh_certificate", certificate),
    ("ssh_hash", hash),
    ("ssh_kept", kept),
    ("ssh_login", login),
    ("ssh_policy", policy),
    ("ssh_recording", recording),
    ("ssh_revoked", revoked),
    ("ssh_shell", shell),
    ("ssh_x11", x11),
];

/// Begins the names of the targets here.
pub const PREFIX: &str = "ssh_";

/// Feeds one input to a target.
///
/// # Panics
/// When there is no such target, or the input has found a fault.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, function) = found.expect("the name is one of the table");
    function(data);
}

/// What a program says to a display first. Once that is decided it stays so, and with another authorization it is one.
fn x11(data: &[u8]) {
    let whole = Setup::read(data);
    for end in 0..data.len() {
        let part = Setup::read(data.get(..end).unwrap_or_default());
        assert!(part == Ok(None) || part == whole, "{end}");
    }
    if let Ok(Some((setup, length))) = whole {
        assert!(length <= data.len());
        let written = setup.with(MAGIC_COOKIE.as_bytes(), &[7; 16]);
        let again = Setup::read(&written);
        assert!(
            again.is_ok_and(
                |read| read.is_some_and(|(read, end)| read.shows(&[7; 16]) && end == written.len())
            )
        );
    }
}

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

fn here() -> Circumstances {
    Circumstances {
        client: std::net::Ipv4Addr::LOCALHOST.into(),
        now_seconds: 1_795_132_800,
        local_offset_seconds: None,
    }
}

/// What is read prints as a login that is read again, as the same.
fn login(data: &[u8]) {
    for dialect in Dialect::ALL {
        match Login::parse(text(data), dialect) {
            // Only 0.7 has names that begin with what is a sign to `auto`.
            Ok(_) if dialect == Dialect::V07 && text(data).trim_start_matches('/').starts_with('%') => {}
            Ok(login) => {
                let printed = login.to_string();
                let again = Login::parse(&printed, Dialect::Auto);
                assert!(again.is_ok_and(|again| again.wish == login.wish), "{printed}");
            }
            Err(error) => assert!(text(data).is_char_boundary(error.position)),
        }
    }
}

/// The line of a key never allows more than the same key without options.
fn authorized_keys(data: &[u8]) {
    let keys = AuthorizedKeys::parse(data);
    for line in data.split(|byte| *byte == b'\n') {
        let mut words = text(line).split_ascii_whitespace().rev();
        let (Some(base64), Some(kind)) = (words.next(), words.next()) else { continue };
        let Some(key) = key::parse(kind, base64) else { continue };
        let _ = keys.find_key(&key, &here());
    }
    if let Ok(sources) = Sources::parse(text(data)) {
        let _ = sources.allow(here().client);
    }
}

fn certificate(data: &[u8]) {
    if let Ok(certificate) = Certificate::from_bytes(data) {
        let names = ["root".to_owned()];
        let authority = certificate.signature_key().clone();
        let _ = crate::auth::certificate::check(&certificate, &authority, &names, &here());
        let _ = Revoked::default().has_certificate(&certificate);
    }
}

/// No id of a user or group is the one that Incus runs as root.
fn accounts(data: &[u8]) {
    let (name, file) = text(data).split_once('\n').unwrap_or(("root", ""));
    if let Some(user) = accounts::find_user(file.as_bytes(), name).found {
        assert!(user.uid != u32::MAX && user.gid != u32::MAX);
        let groups = accounts::groups_of(file.as_bytes(), &user).found;
        assert!(groups.first() == Some(&user.gid) && !groups.contains(&u32::MAX));
    }
    if let Some(entry) = accounts::find_shadow(file.as_bytes(), name).found {
        let _ = entry.check(20_000);
    }
    let _ = accounts::find_user(data, "root");
}

/// A hash and an empty password: the bounds let nothing through that takes long.
fn hash(data: &[u8]) {
    let _ = password::verify(text(data), b"");
}

/// What an instance says of sessions that stay: nothing of it is a control character, and it is written as it is read.
fn kept(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for listed in text.lines().filter_map(Listed::read) {
        let line = listed.write();
        assert!(!line.chars().any(|letter| letter.is_control() && letter != '\t'), "{line:?}");
        assert_eq!(Listed::read(&line), Some(listed));
    }
}

fn policy(data: &[u8]) {
    let _ = Policy::parse(Path::new("ssh-policy.toml"), text(data));
}

/// Whatever a recording says, a terminal is told nothing that begins a text for itself or is a question.
fn recording(data: &[u8]) {
    if let Ok(mut cast) = Cast::new(data) {
        while let Ok(Some(_)) = cast.next_moment() {}
    }
    let shown = visible(text(data));
    for begun in
        ["\u{1b}]", "\u{1b}P", "\u{1b}_", "\u{1b}^", "\u{1b}X", "\u{1b}Z", "\u{9d}", "\u{90}", "\u{5}"]
    {
        assert!(!shown.contains(begun), "{shown:?}");
    }
    assert_eq!(visible(&shown), shown);
}

fn shell(data: &[u8]) {
    crate::shell::fuzz(text(data));
}

fn revoked(data: &[u8]) {
    let _ = Revoked::parse(data);
}
