//! Users and groups of the host as its name service knows them, directories too: what `getent` says.

use std::time::Duration;

use super::accounts::{self, User};
use super::run::{Bounds, RunError, run};

const BOUNDS: Bounds = Bounds { time: Duration::from_secs(10), output_bytes: 4 * 1024 * 1024 };

/// Exit code of `getent` for a name that nobody has, getent(1).
const NOT_FOUND: i32 = 2;

/// Where `getent` is.
const PROGRAMS: [&str; 2] = ["/usr/bin/getent", "/bin/getent"];

/// Why the name service has not answered. Never read as "nobody has that name".
#[derive(Debug, thiserror::Error)]
pub enum NssError {
    /// `getent` is not there.
    #[error("getent is not installed")]
    Missing,
    /// It has not answered.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It has failed.
    #[error("getent {database} failed")]
    Failed {
        /// What was asked.
        database: &'static str,
    },
    /// It has said something that is no user or group.
    #[error("getent {database} gave a malformed answer")]
    Malformed {
        /// What was asked.
        database: &'static str,
    },
}

/// A user of the host by name. `None` when nobody has it.
///
/// # Errors
/// Why that is not known.
pub async fn find_user(name: &str) -> Result<Option<User>, NssError> {
    let database = "passwd";
    let Some(answer) = ask(database, name).await? else { return Ok(None) };
    let user = accounts::find_user(&answer, name).found.ok_or(NssError::Malformed { database })?;
    // A number finds the user of that id: a login name is a name.
    Ok((user.name == name).then_some(user))
}

/// Names of the groups that a user is in. A group without a name is left out: no rule can mean it.
///
/// # Errors
/// Why that is not known.
pub async fn groups_of(user: &User) -> Result<Vec<String>, NssError> {
    let database = "initgroups";
    let mut gids = vec![user.gid.to_string()];
    if let Some(answer) = ask(database, &user.name).await? {
        let text = String::from_utf8(answer).map_err(|_| NssError::Malformed { database })?;
        // `NAME GID GID ...`
        for gid in text.trim_start_matches(user.name.as_str()).split_ascii_whitespace() {
            let number: u32 = gid.parse().map_err(|_| NssError::Malformed { database })?;
            gids.push(number.to_string());
        }
    }
    gids.sort();
    gids.dedup();
    let mut names = Vec::new();
    for gid in gids {
        let Some(answer) = ask("group", &gid).await? else { continue };
        let text = String::from_utf8_lossy(&answer);
        let Some((name, _)) = text.split_once(':') else {
            return Err(NssError::Malformed { database: "group" });
        };
        names.push(name.to_owned());
    }
    Ok(names)
}

/// What is known of a key; `None` when nothing.
async fn ask(database: &'static str, key: &str) -> Result<Option<Vec<u8>>, NssError> {
    // A file of one entry a line cannot hold these, and one that is empty would list everybody.
    if key.is_empty() || key.contains([':', '\n', '\0']) {
        return Ok(None);
    }
    let program = PROGRAMS.into_iter().find(|path| std::path::Path::new(path).exists());
    let program = program.ok_or(NssError::Missing)?;
    let arguments = ["--".to_owned(), database.to_owned(), key.to_owned()];
    let said = run(program, &arguments, None, BOUNDS).await?;
    match said.code {
        Some(0) => Ok(Some(said.output)),
        Some(NOT_FOUND) => Ok(None),
        _ => Err(NssError::Failed { database }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a name that nobody has is an error, a number is a name, or an option is read from a name.
    #[tokio::test]
    async fn users_of_the_host() {
        let root = find_user("root").await.unwrap().unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(groups_of(&root).await.unwrap().contains(&"root".to_owned()));
        for name in ["", "no-such-user", "0", "--help", "root:x", "root\nroot", "-s"] {
            assert_eq!(find_user(name).await.unwrap(), None, "{name:?}");
        }
    }
}
