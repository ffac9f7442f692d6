//! Texts of the operator's: the banner, before somebody logs in, and the welcome, before the shell on a terminal.

use std::path::Path;

use portway_config::files::{self, Trust};

use crate::policy::Target;

/// Longest text.
const TEXT_BYTES: u64 = 16 << 10;

/// The text without a file.
const BANNER: &str = "SSH to the instances of [HOSTNAME]\n";

/// The same of the welcome.
const WELCOME: &str =
    "You are [INSTANCE_USER] in [INSTANCE], project [PROJECT], server [REMOTE], by way of [HOSTNAME].\n";

/// What is not known yet.
const OF_LOGIN: [&str; 4] = ["[INSTANCE_USER]", "[INSTANCE]", "[PROJECT]", "[REMOTE]"];

/// The text before a login. The login's name is not known then: lines that ask for a part of it are left out.
pub(crate) fn banner(path: &Path) -> String {
    let text = text(path).unwrap_or_else(|| BANNER.to_owned());
    let known = |line: &&str| !OF_LOGIN.iter().any(|name| line.contains(name));
    let text: String = text.split_inclusive('\n').filter(known).collect();
    ended(text.replace("[HOSTNAME]", &hostname()))
}

/// The text after a login to this place.
pub(crate) fn welcome(path: &Path, place: &Target) -> String {
    let text = text(path).unwrap_or_else(|| WELCOME.to_owned());
    let Target { remote, project, instance, instance_user } = place;
    let hostname = hostname();
    let values = [instance_user, instance, project, remote, &hostname];
    let names = OF_LOGIN.iter().chain(&["[HOSTNAME]"]);
    ended(names.zip(values).fold(text, |text, (name, value)| text.replace(name, value)))
}

/// What the operator has written; `None` without a file, or with one that cannot be used.
fn text(path: &Path) -> Option<String> {
    match files::read(path, TEXT_BYTES, Trust::Own).and_then(|bytes| files::text(path, bytes)) {
        Ok(text) => Some(text),
        Err(files::FileError::Missing { .. }) => None,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "our own text is shown instead");
            None
        }
    }
}

/// Lines as a terminal wants them, the last one ended.
fn ended(text: String) -> String {
    let text = text.replace("\r\n", "\n").replace('\n', "\r\n");
    if text.is_empty() || text.ends_with('\n') { text } else { text + "\r\n" }
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a variable stays, or a banner says something of a login.
    #[test]
    fn variables_have_values() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("text");
        assert_eq!(banner(&path), format!("SSH to the instances of {}\r\n", hostname()));
        let all = "a [HOSTNAME]\r\nb [INSTANCE_USER] [INSTANCE] [PROJECT] [REMOTE]\nc";
        std::fs::write(&path, all).expect("written");
        assert_eq!(banner(&path), format!("a {}\r\nc\r\n", hostname()));
        let word = |text: &str| text.to_owned();
        let place = Target {
            remote: word("r1"),
            project: word("dev"),
            instance: word("c1"),
            instance_user: word("bob"),
        };
        assert_eq!(welcome(&path, &place), format!("a {}\r\nb bob c1 dev r1\r\nc\r\n", hostname()));
        std::fs::write(&path, [0xff]).expect("written");
        assert!(welcome(&path, &place).starts_with("You are bob in c1, project dev, server r1, by way of "));
        assert!(banner(&path).starts_with("SSH to"), "a text that is none");
    }
}
