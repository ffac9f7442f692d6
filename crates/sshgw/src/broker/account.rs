//! A user inside an instance: from its own `/etc/passwd`, read through the server.
//!
//! What an instance says is a stranger's: a user whose id is no number, or is the number that means "no change", does
//! not exist. It never becomes root.

use portway_incus::{Client, FileContent, IncusError, InstanceFile};

use crate::auth::accounts;

/// Where users are.
const PASSWD: &str = "/etc/passwd";

/// Longest user database that is read, bytes.
const PASSWD_BYTES: usize = 4 << 20;

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
    let file = read(client, project, instance, PASSWD, PASSWD_BYTES).await?;
    if let Some(FileContent::Plain(text)) = file.map(|file| file.content) {
        return Ok(in_passwd(&text, user).map_or(Found::NoUser, Found::Account));
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
    let file = read(client, project, instance, GROUP, PASSWD_BYTES).await?;
    let text = match file.map(|file| file.content) {
        Some(FileContent::Plain(text)) => text,
        _ => Default::default(),
    };
    let Account { name, uid, gid, home, shell } = account.clone();
    let mut groups = accounts::groups_of(&text, &accounts::User { name, uid, gid, home, shell }).found;
    groups.truncate(GROUPS);
    Ok(groups)
}

fn bare_root() -> Account {
    Account { name: "root".to_owned(), uid: 0, gid: 0, home: "/".to_owned(), shell: SHELL.to_owned() }
}

/// Reads a file, following links as the instance would when all folders on the way are plain.
async fn read(
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

/// The first line about a user, by name. One that is malformed is nobody, whatever comes after it.
fn in_passwd(text: &[u8], user: &str) -> Option<Account> {
    // It would name more than the first field.
    if user.contains(':') {
        return None;
    }
    let prefix = [user.as_bytes(), b":"].concat();
    let line = text.split(|&byte| byte == b'\n').find(|line| line.starts_with(&prefix))?;
    let line = str::from_utf8(line).ok()?;
    let mut fields = line.trim_end_matches('\r').split(':');
    let name = fields.next()?.to_owned();
    let (_password, uid, gid, _gecos) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let (home, shell) = (fields.next()?, fields.next()?);
    if name.is_empty() || fields.next().is_some() || line.contains('\0') {
        return None;
    }
    let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
    Some(Account { name, uid: id(uid)?, gid: id(gid)?, home: or(home, "/"), shell: or(shell, SHELL) })
}

/// A user's or group's number. The greatest means "no change" to the kernel, and root to the server.
fn id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && number != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"root:x:0:0:root:/root:/bin/bash\n\
        bob:x:1000:1001:Bob:/home/bob:/bin/sh\r\n\
        bare:x:7:8:::\n\
        a.b+c:x:9:9::/:/bin/sh\n\
        \xff:x:0:0::/:/bin/sh\n\
        bob:x:0:0::/:/bin/sh";

    #[test]
    fn a_user_is_found_by_name() {
        let bob = in_passwd(TEXT, "bob").expect("bob");
        assert_eq!(
            (bob.uid, bob.gid, bob.home.as_str(), bob.shell.as_str()),
            (1000, 1001, "/home/bob", "/bin/sh")
        );
        let bare = in_passwd(TEXT, "bare").expect("bare");
        assert_eq!((bare.home.as_str(), bare.shell.as_str()), ("/", "/bin/sh"));
        assert_eq!(in_passwd(TEXT, "a.b+c").expect("there").uid, 9);
        for nobody in ["", "bo", "bobb", "x", "0", "1000", "root:x", "bob\nroot"] {
            assert_eq!(in_passwd(TEXT, nobody), None, "{nobody:?}");
        }
    }

    /// Fails when a strange id becomes a number, or a later line stands in for a malformed one.
    #[test]
    fn a_strange_id_is_nobodys() {
        for id in ["", "-1", "+0", " 0", "0x0", "4294967295", "4294967296", "99999999999999999999", "root"] {
            for (uid, gid) in [(id, "0"), ("0", id)] {
                let text = format!("u:x:{uid}:{gid}::/:/bin/sh\nu:x:0:0::/:/bin/sh\n");
                assert_eq!(in_passwd(text.as_bytes(), "u"), None, "{text}");
            }
        }
        for line in ["u:x:0:0::/", "u:x:0:0::/:/bin/sh:more", "u", "u:", "u:x:0:0::/\0:/bin/sh"] {
            assert_eq!(in_passwd(line.as_bytes(), "u"), None, "{line}");
        }
    }

    #[test]
    fn links_stay_inside() {
        assert_eq!(joined("/etc/passwd", "static/passwd"), "/etc/static/passwd");
        assert_eq!(joined("/etc/passwd", "../usr/./lib//passwd"), "/usr/lib/passwd");
        assert_eq!(joined("/etc/passwd", "/nix/store/x"), "/nix/store/x");
        assert_eq!(joined("/etc/passwd", "../../../../a"), "/a");
    }
}
