//! Files that are read again when they have changed.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::lock;

/// What tells one state of a file from another: device, inode, length, and when it was last written and changed.
pub(super) type Stamp = [i64; 7];

/// What was made of a file, as long as that stays as it is.
#[derive(Debug)]
pub(super) struct Fresh<T> {
    last: Mutex<Option<(Option<Stamp>, Read<T>)>>,
}

/// What came of reading, or why nothing did.
pub(super) type Read<T> = Result<Arc<T>, String>;

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self { last: Mutex::new(None) }
    }
}

impl<T> Fresh<T> {
    /// What `load` makes of the file, asked again only when the file is another.
    ///
    /// A file that was there and has gone is an error until it is back: what it forbade stays forbidden.
    pub(super) fn get(&self, path: &Path, load: impl FnOnce(&Path) -> Result<T, String>) -> Read<T> {
        let failed = |error: &io::Error| format!("{}: {error}", path.display());
        let mut last = lock(&self.last);
        let stamp = match stamp(path) {
            Ok(stamp) => Some(stamp),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if matches!(&*last, Some((Some(_), _))) {
                    return Err(failed(&error));
                }
                None
            }
            Err(error) => return Err(failed(&error)),
        };
        if let Some((of, read)) = &*last
            && *of == stamp
        {
            return read.clone();
        }
        let read = load(path).map(Arc::new);
        *last = Some((stamp, read.clone()));
        read
    }
}

/// The state of a file.
pub(super) fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = std::fs::metadata(path)?;
    let number = |number: u64| number.cast_signed();
    Ok([
        number(meta.dev()),
        number(meta.ino()),
        number(meta.len()),
        meta.mtime(),
        meta.mtime_nsec(),
        meta.ctime(),
        meta.ctime_nsec(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a file is read again for nothing, or its change is not seen.
    #[test]
    fn a_changed_file_is_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("file");
        let fresh = Fresh::default();
        let get = || fresh.get(&path, |path| std::fs::read_to_string(path).map_err(|_| "none".to_owned()));
        assert_eq!(get(), Err("none".to_owned()));
        std::fs::write(&path, "one").expect("written");
        let one = get().expect("there");
        assert!(Arc::ptr_eq(&one, &get().expect("there")) && *one == "one");
        std::fs::write(&path, "three").expect("written");
        assert_eq!(*get().expect("there"), "three");
        std::fs::remove_file(&path).expect("removed");
        let gone = get().expect_err("what is not there any more is no default");
        assert!(gone.contains("file") && gone != "none", "{gone}");
        std::fs::write(&path, "four").expect("written");
        assert_eq!(*get().expect("back"), "four");
    }
}
