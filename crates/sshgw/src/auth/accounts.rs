//! Users and groups as passwd(5), group(5) and shadow(5) have them: those of an instance, written by whoever rules there.
//!
//! A line that is malformed in any field is no line: it is skipped and counted. An id that cannot be read is never taken
//! for 0, and 4294967295 is no id: Incus would run that as root. Of several lines of one name the first counts, as in
//! libc.

/// Longest file, bytes; the rest of a longer one is not read.
pub const FILE_MAX_BYTES: usize = 8 * 1024 * 1024;

/// Most groups of one user: the kernel's NGROUPS_MAX.
pub const GROUPS_MAX: usize = 65_536;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Home folder; may be empty.
    pub home: String,
    /// Login shell; may be empty, which means `/bin/sh`.
    pub shell: String,
}

/// What was found, and how many lines were none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// What was looked for.
    pub found: T,
    /// Malformed lines.
    pub fault_count: usize,
}

/// A user by name, and by nothing else: rules speak of names, so nobody comes by his number.
#[must_use]
pub fn find_user(passwd: &[u8], name: &str) -> Read<Option<User>> {
    let (mut by_name, mut fault_count) = (None, 0);
    for line in lines(passwd) {
        let Some(user) = line.and_then(user) else {
            fault_count += 1;
            continue;
        };
        if user.name == name {
            by_name.get_or_insert(user);
        }
    }
    Read { found: by_name, fault_count }
}

/// Ids of the groups that a user is in: the primary one first, then the others in the order of the file, each once.
#[must_use]
pub fn groups_of(group: &[u8], user: &User) -> Read<Vec<u32>> {
    let (mut gids, mut fault_count) = (vec![user.gid], 0);
    let mut seen = std::collections::BTreeSet::from([user.gid]);
    for line in lines(group) {
        let Some((gid, members)) = line.and_then(members) else {
            fault_count += 1;
            continue;
        };
        let is_in = members.split(',').any(|member| member == user.name);
        if is_in && gids.len() < GROUPS_MAX && seen.insert(gid) {
            gids.push(gid);
        }
    }
    Read { found: gids, fault_count }
}

/// Lines that are not empty and no comments; `None` for one that is no text.
fn lines(text: &[u8]) -> impl Iterator<Item = Option<&str>> {
    let text = text.get(..FILE_MAX_BYTES).unwrap_or(text);
    let lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    lines
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
        .map(|line| std::str::from_utf8(line).ok().filter(|line| !line.contains(char::is_control)))
}

/// An id: digits alone, and not the one that means "unchanged" to the kernel.
fn id(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| plain && *id != u32::MAX)
}

/// The fields of a line, exactly `N` of them.
fn fields<const N: usize>(line: &str) -> Option<[&str; N]> {
    line.split(':').collect::<Vec<_>>().try_into().ok()
}

fn user(line: &str) -> Option<User> {
    let [name, _password, uid, gid, _comment, home, shell] = fields(line)?;
    // Lines of NIS begin with a sign.
    if name.is_empty() || name.starts_with(['+', '-']) {
        return None;
    }
    let (uid, gid) = (id(uid)?, id(gid)?);
    Some(User { name: name.to_owned(), uid, gid, home: home.to_owned(), shell: shell.to_owned() })
}

fn members(line: &str) -> Option<(u32, &str)> {
    let [name, _password, gid, members] = fields(line)?;
    if name.is_empty() || name.starts_with(['+', '-']) { None } else { Some((id(gid)?, members)) }
}

/// What shadow(5) has of a user.
#[derive(Clone, PartialEq, Eq)]
pub struct Shadow {
    /// Hash of the password, or what stands in its place.
    pub hash: zeroize::Zeroizing<String>,
    /// Day of the last change, from 1970.
    last_change_day: Option<i64>,
    /// Days for which a password is good.
    max_days: Option<i64>,
    /// First day on which the account is not.
    expiry_day: Option<i64>,
}

impl std::fmt::Debug for Shadow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shadow").finish_non_exhaustive()
    }
}

/// Why a password is not even looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Expired {
    /// The account.
    #[error("the account has expired")]
    Account,
    /// The password.
    #[error("the password has expired")]
    Password,
    /// It has to be changed first, which cannot be done here.
    #[error("the password must be changed first")]
    MustChange,
}

/// The shadow entry of a user.
#[must_use]
pub fn find_shadow(shadow: &[u8], name: &str) -> Read<Option<Shadow>> {
    let (mut found, mut fault_count) = (None, 0);
    for line in lines(shadow) {
        match line.and_then(shadow_entry) {
            Some((named, entry)) if named == name => _ = found.get_or_insert(entry),
            Some(_) => {}
            None => fault_count += 1,
        }
    }
    Read { found, fault_count }
}

fn shadow_entry(line: &str) -> Option<(&str, Shadow)> {
    let [name, hash, last_change, _min, max, _warn, _inactive, expiry, _reserved] = fields(line)?;
    let entry = Shadow {
        hash: zeroize::Zeroizing::new(hash.to_owned()),
        last_change_day: days(last_change)?,
        max_days: days(max)?,
        expiry_day: days(expiry)?,
    };
    (!name.is_empty()).then_some((name, entry))
}

/// Empty and -1 say nothing; something else than a number makes the line malformed.
fn days(text: &str) -> Option<Option<i64>> {
    if text.is_empty() {
        return Some(None);
    }
    let number: i32 = text.parse().ok()?;
    Some((number >= 0).then_some(i64::from(number)))
}

impl Shadow {
    /// Whether account and password are still good on a day, counted from 1970.
    ///
    /// # Errors
    /// What is not.
    pub fn check(&self, today: i64) -> Result<(), Expired> {
        if self.expiry_day.is_some_and(|day| today >= day) {
            return Err(Expired::Account);
        }
        match (self.last_change_day, self.max_days) {
            (Some(0), _) => Err(Expired::MustChange),
            (Some(changed), Some(max)) if today > changed + max => Err(Expired::Password),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
