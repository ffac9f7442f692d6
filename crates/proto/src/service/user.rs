//! Who a service runs as, as the instance's own files of users and groups have it.

/// A user of the instance.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Its folder, when the files know it.
    pub home: Option<Vec<u8>>,
}

/// A line of either file: name, number, and for a user the number of the group and the folder.
struct Line {
    name: Vec<u8>,
    id: u32,
    gid: Option<u32>,
    fields: Vec<Vec<u8>>,
}

impl User {
    /// `wanted` is `USER[:GROUP]`, names or numbers, or nothing for root; a number need not be in the files, whose texts
    /// are given. `more` are further groups.
    ///
    /// # Errors
    /// A sentence that names what the files do not have.
    pub fn find(passwd: &[u8], group: &[u8], wanted: &[u8], more: &[Vec<u8>]) -> Result<Self, String> {
        let (users, groups) = (lines(passwd), lines(group));
        find(&users, &groups, wanted, more)
    }
}

fn find(users: &[Line], groups: &[Line], wanted: &[u8], more: &[Vec<u8>]) -> Result<User, String> {
    let mut words = wanted.splitn(2, |byte| *byte == b':');
    let name = words.next().filter(|name| !name.is_empty()).unwrap_or(b"0");
    let group = words.next().filter(|group| !group.is_empty());
    let known = line(users, name);
    let uid = number(name).or(known.map(|line| line.id)).ok_or_else(|| unknown("user", name))?;
    let of_group = |name: &[u8]| {
        number(name).or_else(|| line(groups, name).map(|line| line.id)).ok_or_else(|| unknown("group", name))
    };
    let gid = match group {
        Some(group) => of_group(group)?,
        None => known.and_then(|line| line.gid).unwrap_or(0),
    };
    // With a group of its own choice it is in no other.
    let is_member = |line: &&Line| {
        let members = line.fields.get(3).map(Vec::as_slice).unwrap_or_default();
        known.is_some_and(|user| members.split(|byte| *byte == b',').any(|member| member == user.name))
    };
    let mut ids: Vec<u32> = match group {
        Some(_) => Vec::new(),
        None => groups.iter().filter(is_member).map(|line| line.id).collect(),
    };
    for group in more {
        ids.push(of_group(group)?);
    }
    ids.retain(|id| *id != gid);
    ids.sort_unstable();
    ids.dedup();
    let home = known.and_then(|line| line.fields.get(5).cloned());
    Ok(User { uid, gid, groups: ids, home })
}

fn unknown(what: &str, name: &[u8]) -> String {
    format!("the instance has no {what} {}", String::from_utf8_lossy(name))
}

/// The line of a name; of a number, the first with it.
fn line<'a>(lines: &'a [Line], name: &[u8]) -> Option<&'a Line> {
    match number(name) {
        Some(id) => lines.iter().find(|line| line.id == id),
        None => lines.iter().find(|line| line.name == name),
    }
}

/// Never the number that means "no change".
fn number(text: &[u8]) -> Option<u32> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok().filter(|id| *id != u32::MAX)
}

fn lines(text: &[u8]) -> Vec<Line> {
    let of = |line: &[u8]| {
        let fields: Vec<Vec<u8>> = line.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect();
        let id = number(fields.get(2)?)?;
        Some(Line {
            name: fields.first()?.clone(),
            id,
            gid: fields.get(3).and_then(|text| number(text)),
            fields,
        })
    };
    text.split(|byte| *byte == b'\n').filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_the_instances() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:100::/home/bob:/bin/sh\nbroken\n:::\n";
        let group = "root:x:0:\nusers:x:100:bob\naudio:x:29:al,bob\nx:x:7:bobby\n";
        let of = |text: &str, more: &[&str]| {
            let more: Vec<Vec<u8>> = more.iter().map(|name| name.as_bytes().to_vec()).collect();
            User::find(passwd.as_bytes(), group.as_bytes(), text.as_bytes(), &more)
                .map(|user| (user.uid, user.gid, user.groups))
        };
        assert_eq!(of("", &[]), Ok((0, 0, vec![])));
        assert_eq!(of("bob", &[]), Ok((1000, 100, vec![29])));
        assert_eq!(of("1000", &["x"]), Ok((1000, 100, vec![7, 29])));
        assert_eq!(of("bob:audio", &["8", "audio"]), Ok((1000, 29, vec![8])));
        assert_eq!(of("4242", &[]), Ok((4242, 0, vec![])), "numbers need not be known");
        assert_eq!(of("4242:5", &[]), Ok((4242, 5, vec![])));
        for none in ["eve", "bob:eve", "4294967295", "4294967296", "-1"] {
            assert!(of(none, &[]).is_err(), "{none}");
        }
        assert!(of("bob", &["eve"]).is_err());
        assert_eq!(User::find(b"", b"", b"", &[]).map(|user| user.uid), Ok(0));
    }
}
