//! Users and groups of the host as its name service knows them, directories too: what `getent` says.

use std::time::Duration;

use super::accounts::{self, Shadow, User};
use super::run::{Bounds, RunError, run};
use zeroize::Zeroizing;

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
    // A number finds the user of that id: a login name is a name.
    if !answer.starts_with(format!("{name}:").as_bytes()) {
        return Ok(None);
    }
    accounts::find_user(&answer, name).found.ok_or(NssError::Malformed { database }).map(Some)
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
    let (answer, _some_missing) = run_getent("group", &gids).await?;
    let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let name = line.split(|byte| *byte == b':').next().filter(|name| name.len() < line.len());
            let name = name.map(|name| String::from_utf8_lossy(name).into_owned());
            name.ok_or(NssError::Malformed { database: "group" })
        })
        .collect()
}

/// The shadow entry of a user. `None` when the name service has none.
///
/// # Errors
/// Why that is not known.
pub async fn find_shadow(name: &str) -> Result<Option<Shadow>, NssError> {
    let answer = ask("shadow", name).await?.map(Zeroizing::new);
    Ok(answer.and_then(|answer| accounts::find_shadow(&answer, name).found))
}

/// What is known of a key; `None` when nothing.
async fn ask(database: &'static str, key: &str) -> Result<Option<Vec<u8>>, NssError> {
    // A file of one entry a line cannot hold these, and one that is empty would list everybody.
    if key.is_empty() || key.contains([':', '\n', '\0']) {
        return Ok(None);
    }
    let (answer, missing) = run_getent(database, std::slice::from_ref(&key.to_owned())).await?;
    Ok((!missing).then_some(answer))
}

/// What is said of several keys, and whether one of them is not known.
async fn run_getent(database: &'static str, keys: &[String]) -> Result<(Vec<u8>, bool), NssError> {
    let program = PROGRAMS.into_iter().find(|path| std::path::Path::new(path).exists());
    let program = program.ok_or(NssError::Missing)?;
    let mut arguments = vec!["--".to_owned(), database.to_owned()];
    arguments.extend_from_slice(keys);
    let said = run(program, &arguments, None, BOUNDS).await?;
    match said.code {
        Some(0) => Ok((said.output, false)),
        Some(NOT_FOUND) => Ok((said.output, true)),
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
