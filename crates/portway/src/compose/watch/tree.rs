//! What a folder holds, and what of it has changed since the last look.
//!
//! An event only says where to look. What has changed follows from two looks, so that events which are lost, doubled or
//! out of order change nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::failure::{Outcome, Stop, chain};

/// Most files and folders that are watched for one rule.
const ENTRIES_MAX: usize = 200_000;

/// Deepest folder in folders.
const DEPTH_MAX: usize = 128;

/// By what a change is known.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mark {
    /// The number of one that was removed is given again at once; when it was made tells them apart, where the file
    /// system knows that.
    Folder {
        mode: u32,
        inode: u64,
        made: Option<SystemTime>,
    },
    Other {
        mode: u32,
        inode: u64,
        size_bytes: u64,
        modified: (i64, i64),
        changed: (i64, i64),
    },
}

/// A file or folder, and all below it.
#[derive(Debug)]
pub(super) struct Tree {
    root: PathBuf,
    /// By the path below the root; the root's own is empty.
    known: BTreeMap<PathBuf, Mark>,
}

/// What has changed: paths below the root.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) changed: BTreeSet<PathBuf>,
    pub(super) gone: BTreeSet<PathBuf>,
}

/// How far a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// What is in a folder, and all of what is new there.
    Folder,
    /// All below.
    All,
}

/// What is left out, and who is told of each folder before it is looked at.
pub(super) struct View<'v> {
    pub(super) is_ignored: &'v dyn Fn(&Path) -> bool,
    /// Whether a folder that is ignored may hold what is not.
    pub(super) looks_into_ignored: bool,
    pub(super) folder: &'v mut dyn FnMut(&Path) -> io::Result<()>,
}

impl Tree {
    /// Nothing is known of it yet.
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, known: BTreeMap::new() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Looks at a folder, a path below the root, or at the root itself. One that has gone has changed, and is no failure.
    pub(super) fn look(&mut self, at: &Path, reach: Reach, view: &mut View<'_>) -> Outcome<Changes> {
        let mut seen: BTreeMap<PathBuf, Mark> = BTreeMap::new();
        // Folders whose content is as it was known: not looked at.
        let mut kept: Vec<PathBuf> = Vec::new();
        let mut next = vec![(at.to_owned(), 0)];
        while let Some((path, depth)) = next.pop() {
            if depth > DEPTH_MAX {
                return Err(Stop::refused(format!("{} is too deep", self.full(&path).display())));
            }
            let is_ignored = !path.as_os_str().is_empty() && (view.is_ignored)(&path);
            let Some(mark) = self.mark(&path)? else { continue };
            let is_folder = matches!(mark, Mark::Folder { .. });
            if is_ignored && !(is_folder && view.looks_into_ignored) {
                continue;
            }
            let is_same = self.known.get(&path) == Some(&mark);
            if !is_ignored {
                seen.insert(path.clone(), mark);
            }
            if seen.len() > ENTRIES_MAX {
                let what = format!("{} holds more than {ENTRIES_MAX} files and folders", self.root.display());
                return Err(Stop::refused(what).hint("leave some out with `ignore`"));
            }
            if !is_folder {
                continue;
            }
            if reach == Reach::Folder && depth > 0 && is_same {
                kept.push(path);
                continue;
            }
            for name in self.names(&path, view)? {
                next.push((path.join(name), depth + 1));
            }
        }
        Ok(self.take(at, seen, &kept))
    }

    /// Names in a folder, whose watcher is told of it first: what comes afterwards is an event.
    fn names(&self, path: &Path, view: &mut View<'_>) -> Outcome<Vec<PathBuf>> {
        let folder = self.full(path);
        let failed = |error: io::Error| broken(&folder, &error);
        let told = (view.folder)(&folder).and_then(|()| std::fs::read_dir(&folder));
        let entries = match told {
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
            told => told.map_err(failed)?,
        };
        let names = entries.map(|entry| entry.map(|entry| PathBuf::from(entry.file_name())));
        names.collect::<io::Result<_>>().map_err(failed)
    }

    fn mark(&self, path: &Path) -> Outcome<Option<Mark>> {
        let full = self.full(path);
        let found = match full.symlink_metadata() {
            Ok(found) => found,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(broken(&full, &error)),
        };
        let (mode, inode) = (found.mode(), found.ino());
        Ok(Some(if found.is_dir() {
            Mark::Folder { mode, inode, made: found.created().ok() }
        } else {
            Mark::Other {
                mode,
                inode,
                size_bytes: found.size(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            }
        }))
    }

    /// The path of what is below the root. Without a slash behind it where it is the root: that may be a link.
    fn full(&self, path: &Path) -> PathBuf {
        if path.as_os_str().is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    /// What differs from what was known at `at` and below it; from here on that is known.
    fn take(&mut self, at: &Path, seen: BTreeMap<PathBuf, Mark>, kept: &[PathBuf]) -> Changes {
        let mut changes = Changes::default();
        let is_kept = |path: &Path| kept.iter().any(|folder| path != folder && path.starts_with(folder));
        let below = self.known.range::<Path, _>((Bound::Included(at), Bound::Unbounded));
        let below = below.map(|(path, _)| path).take_while(|path| path.starts_with(at));
        let gone: Vec<PathBuf> =
            below.filter(|path| !seen.contains_key(*path) && !is_kept(path)).cloned().collect();
        for path in gone {
            self.known.remove(&path);
            changes.gone.insert(path);
        }
        for (path, mark) in seen {
            if self.known.get(&path) != Some(&mark) {
                changes.changed.insert(path.clone());
                self.known.insert(path, mark);
            }
        }
        changes
    }
}

fn broken(path: &Path, error: &io::Error) -> Stop {
    Stop::refused(format!("cannot look at {}: {}", path.display(), chain(error)))
}

/// Nothing is there, or no longer what it was a moment ago.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Changes {
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }

    /// These, and then the others.
    pub(super) fn then(&mut self, later: Changes) {
        self.changed.retain(|path| !later.gone.contains(path));
        self.gone.retain(|path| !later.changed.contains(path));
        self.changed.extend(later.changed);
        self.gone.extend(later.gone);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn look(tree: &mut Tree, at: &str, reach: Reach) -> (Vec<String>, Vec<String>) {
        let mut view = View {
            is_ignored: &|path| path.ends_with("skip"),
            looks_into_ignored: false,
            folder: &mut |_| Ok(()),
        };
        let changes = tree.look(Path::new(at), reach, &mut view).expect("it can be looked at");
        let texts = |paths: BTreeSet<PathBuf>| paths.iter().map(|path| path.display().to_string()).collect();
        (texts(changes.changed), texts(changes.gone))
    }

    fn none() -> (Vec<String>, Vec<String>) {
        (Vec::new(), Vec::new())
    }

    fn some(changed: &[&str], gone: &[&str]) -> (Vec<String>, Vec<String>) {
        let texts = |of: &[&str]| of.iter().map(|text| (*text).to_owned()).collect();
        (texts(changed), texts(gone))
    }

    /// Fails when a change is missed, told twice, or made up.
    #[test]
    fn changes_are_told_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("a/b")).expect("made");
        fs::create_dir_all(at("skip/deep")).expect("made");
        fs::write(at("a/b/f"), "1").expect("written");
        fs::write(at("skip/deep/g"), "1").expect("written");
        symlink("/", at("out")).expect("a link");
        let mut tree = Tree::new(dir.path().to_owned());
        assert_eq!(look(&mut tree, "", Reach::All), some(&["", "a", "a/b", "a/b/f", "out"], &[]));
        for reach in [Reach::All, Reach::Folder] {
            assert_eq!(look(&mut tree, "", reach), none());
        }
        fs::write(at("a/b/f"), "22").expect("written");
        fs::write(at("a/new"), "1").expect("written");
        fs::create_dir_all(at("a/c/d")).expect("made");
        fs::write(at("a/c/d/e"), "1").expect("written");
        // A folder that is as it was is not looked into: its own event tells of it.
        assert_eq!(look(&mut tree, "a", Reach::Folder), some(&["a/c", "a/c/d", "a/c/d/e", "a/new"], &[]));
        assert_eq!(look(&mut tree, "a/b", Reach::Folder), some(&["a/b/f"], &[]));
        fs::set_permissions(at("a/new"), fs::Permissions::from_mode(0o600)).expect("set");
        assert_eq!(look(&mut tree, "", Reach::All), some(&["a/new"], &[]));
        // Moved: the old ones are gone, and the folder in its place is another.
        fs::rename(at("a/c"), at("a/b2")).expect("moved");
        fs::remove_file(at("a/new")).expect("removed");
        assert_eq!(
            look(&mut tree, "a", Reach::Folder),
            some(&["a/b2", "a/b2/d", "a/b2/d/e"], &["a/c", "a/c/d", "a/c/d/e", "a/new"])
        );
        // Times of files are as coarse as the kernel's clock tick.
        thread::sleep(Duration::from_millis(20));
        fs::remove_dir_all(at("a/b2")).expect("removed");
        fs::create_dir(at("a/b2")).expect("made");
        assert_eq!(look(&mut tree, "a", Reach::Folder), some(&["a/b2"], &["a/b2/d", "a/b2/d/e"]));
        fs::remove_dir_all(dir.path()).expect("removed");
        let (changed, gone) = look(&mut tree, "", Reach::Folder);
        assert!(
            changed.is_empty() && gone.first().is_some_and(String::is_empty) && gone.len() == 6,
            "{gone:?}"
        );
        fs::create_dir(dir.path()).expect("made");
        assert_eq!(look(&mut tree, "", Reach::Folder), some(&[""], &[]));
    }

    #[test]
    fn a_root_may_be_a_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("f");
        fs::write(&file, "1").expect("written");
        let mut tree = Tree::new(file.clone());
        assert_eq!(look(&mut tree, "", Reach::Folder), some(&[""], &[]));
        fs::write(dir.path().join("new"), "2").expect("written");
        fs::rename(dir.path().join("new"), &file).expect("moved");
        assert_eq!(look(&mut tree, "", Reach::Folder), some(&[""], &[]));
        fs::remove_file(&file).expect("removed");
        assert_eq!(look(&mut tree, "", Reach::Folder), some(&[], &[""]));
    }

    /// Fails when what has gone and come again is done in the wrong order, or lost.
    #[test]
    fn the_later_change_counts() {
        let of = |changed: &[&str], gone: &[&str]| Changes {
            changed: changed.iter().map(PathBuf::from).collect(),
            gone: gone.iter().map(PathBuf::from).collect(),
        };
        let mut all = of(&["a", "b"], &["c", "d"]);
        all.then(of(&["c"], &["b"]));
        assert_eq!(all, of(&["a", "c"], &["b", "d"]));
        assert!(!all.is_empty() && Changes::default().is_empty());
    }
}
