//! `[access-log]`: one line for each connection that is over.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::{Fault, checked};

/// Smallest and largest file. Below, each batch of lines would be a file.
const BYTES_MIN: u64 = 64 * 1024;
const BYTES_MAX: u64 = 1 << 40;

/// Most files that are kept.
const FILES_MAX: u32 = 1000;

/// `[access-log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSettings {
    /// `on`: it is written. Default: not.
    pub on: bool,
    /// `path`: its file, absolute; otherwise that of `Paths::access_log`.
    pub path: Option<PathBuf>,
    /// `max_bytes`: size at which the file is renamed and another one begun. Default 64 MiB.
    pub max_bytes: u64,
    /// `files`: how many of those are kept beside it. Default 4.
    pub files: u32,
}

impl Default for AccessSettings {
    fn default() -> AccessSettings {
        AccessSettings { on: false, path: None, max_bytes: 64 << 20, files: 4 }
    }
}

/// As written.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    on: Option<bool>,
    path: Option<Spanned<PathBuf>>,
    max_bytes: Option<Spanned<u64>>,
    files: Option<Spanned<u32>>,
}

pub(super) fn read(raw: Raw) -> Result<AccessSettings, Fault> {
    let defaults = AccessSettings::default();
    let absolute = |path: PathBuf| {
        if path.is_absolute() && path.file_name().is_some() {
            return Ok(path);
        }
        Err(format!("access-log.path {} is not the absolute path of a file", path.display()))
    };
    let bytes = |bytes: u64| {
        let fits = (BYTES_MIN..=BYTES_MAX).contains(&bytes);
        let why = format!("access-log.max_bytes {bytes} is not between {BYTES_MIN} and {BYTES_MAX}");
        if fits { Ok(bytes) } else { Err(why) }
    };
    let files = |files: u32| {
        if files <= FILES_MAX { Ok(files) } else { Err(format!("access-log.files is above {FILES_MAX}")) }
    };
    Ok(AccessSettings {
        on: raw.on.unwrap_or(defaults.on),
        path: checked(raw.path, absolute)?,
        max_bytes: checked(raw.max_bytes, bytes)?.unwrap_or(defaults.max_bytes),
        files: checked(raw.files, files)?.unwrap_or(defaults.files),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Settings;
    use super::*;

    #[test]
    fn off_unless_it_is_said() {
        let read = |text: &str| Settings::parse(Path::new("x.toml"), text);
        assert_eq!(read("").unwrap().access, AccessSettings::default());
        assert!(!read("[access-log]\nfiles = 2\n").unwrap().access.on);
        let all = "[access-log]\non = true\npath = \"/a/b\"\nmax_bytes = 65536\nfiles = 0\n";
        let wanted = AccessSettings { on: true, path: Some("/a/b".into()), max_bytes: 65_536, files: 0 };
        assert_eq!(read(all).unwrap().access, wanted);
        for bad in ["path = \"b\"", "path = \"/\"", "max_bytes = 1000", "files = 1001", "size = 1", "on = 1"]
        {
            let error = read(&format!("[access-log]\n{bad}\n")).unwrap_err().to_string();
            assert!(error.starts_with("x.toml:2:"), "{bad}: {error}");
        }
    }
}
