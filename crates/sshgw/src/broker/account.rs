//! A user inside an instance: from its own `/etc/passwd`, read through the server.
//!
//! What an instance says is a stranger's: a user whose id is no number, or is the number that means "no change", does
//! not exist. It never becomes root.

use portway_incus::{Client, FileContent, IncusError, InstanceFile};

use crate::auth::accounts::{self, User};

/// Where users are.
const PASSWD: &str = "/etc/passwd";

/// Where groups are.
const GROUP: &str = "/etc/group";

/// Links on the way to a file: `MAXSYMLINKS` of the kernel is 40, real systems have two.
const LINKS: usize = 8;

/// Groups of one user that count: they are said in one argument.
const GROUPS: usize = 8192;

/// The shell where the database names none (passwd(5)).
const SHELL: &str = "/bin/sh";

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
    pub(super) shell: String,
}

impl Account {
    /// Whether somebody may be this user: not one whose shell only says no (nologin(8), false(1)).
    pub(super) fn logs_in(&self) -> bool {
        !matches!(self.shell.rsplit('/').next(), Some("nologin" | "false"))
    }
}

/// What became of a search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is one.
    Account(Account),
    /// There is no such user.
    NoUser,
    /// There is no such instance.
    NoInstance,
}

/// Looks a user up. Takes one request, 3 ms; works whether the instance runs or not.
pub(super) async fn find(
    client: &Client,
    project: &str,
    instance: &str,
    user: &str,
) -> Result<Found, IncusError> {
    let file = read(client, project, instance, PASSWD, accounts::FILE_MAX_BYTES).await?;
    if let Some(FileContent::Plain(text)) = file.map(|file| file.content) {
        let found = accounts::find_user(&text, user).found;
        return Ok(found.map_or(Found::NoUser, |user| Found::Account(account(user))));
    }
    if client.instance(project, instance).await?.is_none() {
        return Ok(Found::NoInstance);
    }
    // An instance of nothing but one program has no users, and root.
    Ok(if user == "root" { Found::Account(bare_root()) } else { Found::NoUser })
}

/// Ids of all groups of a user, the primary one among them.
pub(super) async fn groups(
    client: &Client,
    project: &str,
    instance: &str,
    account: &Account,
) -> Result<Vec<u32>, IncusError> {
    let file = read(client, project, instance, GROUP, accounts::FILE_MAX_BYTES).await?;
    let text = match file.map(|file| file.content) {
        Some(FileContent::Plain(text)) => text,
        _ => Default::default(),
    };
    let Account { name, uid, gid, home, shell } = account.clone();
    let mut groups = accounts::groups_of(&text, &User { name, uid, gid, home, shell }).found;
    groups.truncate(GROUPS);
    Ok(groups)
}

fn bare_root() -> Account {
    Account { name: "root".to_owned(), uid: 0, gid: 0, home: "/".to_owned(), shell: SHELL.to_owned() }
}

/// Reads a file, following links as the instance would when all folders on the way are plain.
pub(super) async fn read(
    client: &Client,
    project: &str,
    instance: &str,
    path: &str,
    limit_bytes: usize,
) -> Result<Option<InstanceFile>, IncusError> {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        let Some(file) = client.file(project, instance, &path, limit_bytes).await? else { return Ok(None) };
        let FileContent::Link(target) = &file.content else { return Ok(Some(file)) };
        let Ok(target) = str::from_utf8(target.trim_ascii_end()) else { return Ok(None) };
        path = joined(&path, target);
    }
    Ok(None)
}

/// Where a link at `path` leads, without dots.
fn joined(path: &str, target: &str) -> String {
    let folder =
        if target.starts_with('/') { "" } else { path.rsplit_once('/').map_or("", |(folder, _)| folder) };
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(target.split('/')) {
        match part {
            "" | "." => {}
            // Above the root is the root.
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// As accounts are run: an empty home and an empty shell have their meanings of passwd(5).
fn account(user: User) -> Account {
    let User { name, uid, gid, home, shell } = user;
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    Account { name, uid, gid, home: or(home, "/"), shell: or(shell, SHELL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when an empty field of the database becomes an empty path.
    #[test]
    fn an_empty_field_has_its_meaning() {
        let passwd = b"bare:x:7:8:::\nbob:x:1000:1001:Bob:/home/bob:/bin/ash\n";
        let of = |name| account(accounts::find_user(passwd, name).found.expect("there"));
        let (bare, bob) = (of("bare"), of("bob"));
        assert_eq!((bare.home.as_str(), bare.shell.as_str()), ("/", "/bin/sh"));
        assert_eq!((bob.gid, bob.home.as_str(), bob.shell.as_str()), (1001, "/home/bob", "/bin/ash"));
    }

    #[test]
    fn links_stay_inside() {
        assert_eq!(joined("/etc/passwd", "static/passwd"), "/etc/static/passwd");
        assert_eq!(joined("/etc/passwd", "../usr/./lib//passwd"), "/usr/lib/passwd");
        assert_eq!(joined("/etc/passwd", "/nix/store/x"), "/nix/store/x");
        assert_eq!(joined("/etc/passwd", "../../../../a"), "/a");
    }
}
