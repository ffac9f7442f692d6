//! `ssh-auth.toml`: what decides who gets in beyond the flags of the gateway. Without that file everything in it is off.

use std::path::{Path, PathBuf};

use portway_config::Paths;
use portway_config::files::{self, FileError, Trust};
use serde::Deserialize;
use toml::Spanned;

/// Longest file, bytes.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// Where the file is: beside the settings.
#[must_use]
pub fn path(paths: &Paths) -> PathBuf {
    paths.config.with_file_name("ssh-auth.toml")
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Program that is asked for a user's keys besides: its path and arguments, as sshd has it.
    pub keys_command: Option<String>,
    /// Whom that program runs as.
    pub keys_command_user: String,
    /// List of revoked keys.
    pub revoked_keys: Option<PathBuf>,
    /// Keys that sign certificates for every user of the host.
    pub trusted_ca_keys: Option<PathBuf>,
    /// Passwords are those of the host's users, and not those of the instance's.
    pub host_passwords: bool,
}

/// Why the file cannot be used. Then nobody gets in.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read, or be trusted.
    #[error(transparent)]
    File(FileError),
    /// It is malformed.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    authorized_keys_command: Option<Spanned<String>>,
    authorized_keys_command_user: Option<Spanned<String>>,
    revoked_keys: Option<Spanned<PathBuf>>,
    trusted_user_ca_keys: Option<Spanned<PathBuf>>,
    #[serde(default)]
    host_passwords: bool,
}

impl Settings {
    /// Reads `path`; a file that is not there says nothing.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let bytes = match files::read(path, FILE_MAX_BYTES, Trust::Own) {
            Ok(bytes) => bytes,
            Err(FileError::Missing { .. }) => return Ok(Self::default()),
            Err(error) => return Err(SettingsError::File(error)),
        };
        let text = files::text(path, bytes).map_err(SettingsError::File)?;
        Self::parse(&text).map_err(|(at, message)| {
            let (line, column) = files::position(&text, at);
            SettingsError::Syntax { path: path.to_owned(), line, column, message }
        })
    }

    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let raw: Raw = toml::from_str(text).map_err(|error| {
            (error.span().map_or(0, |span| span.start), error.message().replace('\n', ", "))
        })?;
        let absolute = |path: Option<Spanned<PathBuf>>| match path {
            Some(path) if !path.get_ref().is_absolute() => {
                Err((path.span().start, "the path is not absolute".to_owned()))
            }
            path => Ok(path.map(Spanned::into_inner)),
        };
        let user = raw.authorized_keys_command_user;
        let (keys_command, keys_command_user) = match (raw.authorized_keys_command, user) {
            (Some(command), Some(user)) if user.get_ref() != "root" => {
                let runs_as = super::run::RunAs { uid: u32::MAX, gid: u32::MAX };
                let checked = super::command::KeysCommand::parse(command.get_ref(), runs_as);
                checked.map_err(|error| (command.span().start, error.to_string()))?;
                (Some(command.into_inner()), user.into_inner())
            }
            (Some(_), Some(user)) => {
                return Err((user.span().start, "the program must not run as root".to_owned()));
            }
            (Some(command), None) => {
                let text = "authorized_keys_command needs authorized_keys_command_user";
                return Err((command.span().start, text.to_owned()));
            }
            (None, _) => (None, String::new()),
        };
        Ok(Self {
            keys_command,
            keys_command_user,
            revoked_keys: absolute(raw.revoked_keys)?,
            trusted_ca_keys: absolute(raw.trusted_user_ca_keys)?,
            host_passwords: raw.host_passwords,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a misspelt or half-given setting is passed over.
    #[test]
    fn what_is_written_is_meant() {
        let text = "authorized_keys_command = \"/bin/keys %u\"\nauthorized_keys_command_user = \"nobody\"\n\
                    revoked_keys = \"/etc/r\"\nhost_passwords = true\n";
        let settings = Settings::parse(text).unwrap();
        assert_eq!(settings.keys_command.as_deref(), Some("/bin/keys %u"));
        assert!(settings.host_passwords && settings.trusted_ca_keys.is_none());
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        for bad in [
            "host_password = true",
            "authorized_keys_command = \"/bin/keys\"",
            "authorized_keys_command = \"keys\"\nauthorized_keys_command_user = \"nobody\"",
            "authorized_keys_command = \"/bin/keys\"\nauthorized_keys_command_user = \"root\"",
            "revoked_keys = \"r\"",
            "host_passwords = 1",
        ] {
            assert!(Settings::parse(bad).is_err(), "{bad}");
        }
    }

    /// Fails when: the documented file is not one that is read.
    #[test]
    fn the_documented_file_is_one() {
        let page = include_str!("../../../../docs/ssh-gateway.md");
        let (_, example) = page.split_once("```toml ssh-auth\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let settings = Settings::parse(example).unwrap();
        assert!(settings.trusted_ca_keys.is_some() && settings.revoked_keys.is_some());
    }
}
