//! The banner: a text of the operator's before somebody logs in.

use std::path::Path;

use portway_config::files::{self, Trust};

/// Longest text.
const TEXT_BYTES: u64 = 16 << 10;

/// The text without a file.
const BANNER: &str = "SSH to the instances of [HOSTNAME]\n";

/// What is not known yet.
const OF_LOGIN: [&str; 4] = ["[INSTANCE_USER]", "[INSTANCE]", "[PROJECT]", "[REMOTE]"];

/// The text before a login. The login's name is not known then: lines that ask for a part of it are left out.
pub(crate) fn banner(path: &Path) -> String {
    let text = text(path).unwrap_or_else(|| BANNER.to_owned());
    let known = |line: &&str| !OF_LOGIN.iter().any(|name| line.contains(name));
    let text: String = text.split_inclusive('\n').filter(known).collect();
    ended(text.replace("[HOSTNAME]", &hostname()))
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
        std::fs::write(&path, [0xff]).expect("written");
        assert!(banner(&path).starts_with("SSH to"), "a text that is none");
    }
}
