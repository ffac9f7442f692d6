//! Keys from a program: `AuthorizedKeysCommand`. It runs as a user of its own, never through a shell, and is believed only
//! where nobody but root could have put it.

use std::path::Path;
use std::time::Duration;

use super::authorized_keys::FILE_MAX_BYTES;
use super::files::{self, FileError, Owner};
use super::run::{Bounds, RunAs, RunError, run};

const BOUNDS: Bounds = Bounds { time: Duration::from_secs(10), output_bytes: FILE_MAX_BYTES };

/// The program, its arguments with their tokens, and whom it runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysCommand {
    program: String,
    arguments: Vec<String>,
    user: RunAs,
}

/// What tokens stand for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `%u`: the user of the host who logs in.
    pub user: &'a str,
    /// `%U`: his id.
    pub uid: u32,
    /// `%h`: his home.
    pub home: &'a str,
    /// `%t`: type of the key that is offered.
    pub key_type: &'a str,
    /// `%k`: that key in base64.
    pub key: &'a str,
    /// `%f`: its fingerprint.
    pub fingerprint: &'a str,
}

/// Why there are no keys from it.
#[derive(Debug, thiserror::Error)]
pub enum KeysCommandError {
    /// No absolute path.
    #[error("the program is not an absolute path")]
    Relative,
    /// A `%` before something else than a token.
    #[error("unknown token %{0}")]
    Token(char),
    /// Others could have written the program.
    #[error(transparent)]
    Untrusted(#[from] FileError),
    /// It has not answered.
    #[error(transparent)]
    Run(#[from] RunError),
    /// It has failed.
    #[error("{program} ended with exit code {code:?}")]
    Failed {
        /// Its path.
        program: String,
        /// `None` for a signal.
        code: Option<i32>,
    },
}

impl KeysCommand {
    /// Reads `PROGRAM ARGUMENT ...`, split at blanks. Without a token the user's name is the only argument, as in sshd.
    ///
    /// # Errors
    /// [`KeysCommandError::Relative`], [`KeysCommandError::Token`].
    pub fn parse(line: &str, user: RunAs) -> Result<Self, KeysCommandError> {
        let mut words = line.split_ascii_whitespace().map(str::to_owned);
        let program = words.next().filter(|program| program.starts_with('/'));
        let program = program.ok_or(KeysCommandError::Relative)?;
        let mut arguments: Vec<String> = words.collect();
        if arguments.is_empty() {
            arguments.push("%u".to_owned());
        }
        let nobody = Asked { user: "", uid: 0, home: "", key_type: "", key: "", fingerprint: "" };
        for argument in &arguments {
            expand(argument, &nobody)?;
        }
        Ok(Self { program, arguments, user })
    }

    /// Asks the program. What it says is read as a file of keys.
    ///
    /// # Errors
    /// Why there is no answer; then no key of it lets anybody in.
    pub async fn keys(&self, asked: &Asked<'_>) -> Result<Vec<u8>, KeysCommandError> {
        files::check_path(Path::new(&self.program), Owner { uid: 0, home: None })?;
        let arguments = self.arguments.iter().map(|argument| expand(argument, asked));
        let arguments: Vec<String> = arguments.collect::<Result<_, _>>()?;
        let said = run(&self.program, &arguments, Some(self.user), BOUNDS).await?;
        if said.code != Some(0) {
            return Err(KeysCommandError::Failed { program: self.program.clone(), code: said.code });
        }
        Ok(said.output)
    }
}

fn expand(argument: &str, asked: &Asked<'_>) -> Result<String, KeysCommandError> {
    let mut text = String::with_capacity(argument.len());
    let mut chars = argument.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        match chars.next() {
            Some('%') => text.push('%'),
            Some('u') => text.push_str(asked.user),
            Some('U') => text.push_str(&asked.uid.to_string()),
            Some('h') => text.push_str(asked.home),
            Some('t') => text.push_str(asked.key_type),
            Some('k') => text.push_str(asked.key),
            Some('f') => text.push_str(asked.fingerprint),
            other => return Err(KeysCommandError::Token(other.unwrap_or('%'))),
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELF: RunAs = RunAs { uid: 65534, gid: 65534 };

    fn asked() -> Asked<'static> {
        Asked {
            user: "ann; rm -rf $(x)",
            uid: 1000,
            home: "/home/ann",
            key_type: "ssh-ed25519",
            key: "AAAA",
            fingerprint: "SHA256:x",
        }
    }

    /// Fails when: a token is not replaced, or what replaces it becomes more than one argument.
    #[test]
    fn tokens_stand_for_one_argument() {
        let text = expand("%u-%U-%h-%t-%k-%f-100%%", &asked()).unwrap();
        assert_eq!(text, "ann; rm -rf $(x)-1000-/home/ann-ssh-ed25519-AAAA-SHA256:x-100%");
        for bad in ["%x", "%", "a%"] {
            assert!(matches!(
                KeysCommand::parse(&format!("/bin/x {bad}"), SELF),
                Err(KeysCommandError::Token(_))
            ));
        }
        for bad in ["", "keys %u", "./keys"] {
            assert!(matches!(KeysCommand::parse(bad, SELF), Err(KeysCommandError::Relative)), "{bad}");
        }
    }

    /// Fails when: it runs as somebody else, keeps root's groups, or sees a shell. As root only: others cannot change
    /// whom a program runs as.
    #[tokio::test]
    async fn it_runs_as_its_own_user() {
        if !rustix::process::getuid().is_root() {
            return portway_testkit::require("root, to run a program as another user");
        }
        let command = KeysCommand::parse("/usr/bin/id -G", SELF).unwrap();
        assert_eq!(command.keys(&asked()).await.unwrap(), b"65534\n");
        let command = KeysCommand::parse("/bin/echo %u", SELF).unwrap();
        assert_eq!(command.keys(&asked()).await.unwrap(), b"ann; rm -rf $(x)\n");
        let command = KeysCommand::parse("/bin/false", SELF).unwrap();
        assert!(matches!(command.keys(&asked()).await, Err(KeysCommandError::Failed { .. })));
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let program = dir.path().join("keys");
        std::fs::copy("/bin/true", &program).unwrap();
        let command = KeysCommand::parse(program.to_str().unwrap(), SELF).unwrap();
        assert!(matches!(command.keys(&asked()).await, Err(KeysCommandError::Untrusted(_))), "below /tmp");
    }
}
