//! The store of a registrar that is alone: one file, of redb, which locks it against a second one.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, WriteTransaction};
use tokio::sync::watch;

use super::{Answer, Commit, Image, Store, StoreError};
use crate::org::{OrgName, Write};

/// `ORG/NAME` to what it is. Names of organizations have no slash.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");

/// Organization to its version.
const VERSIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("versions");

/// A store in a file.
#[derive(Debug)]
pub struct FileStore {
    database: Arc<Database>,
    /// One more with every commit.
    commits: watch::Sender<u64>,
}

fn broken(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Broken(error.into().to_string())
}

impl FileStore {
    /// Opens the file, which is made when it is missing, readable by its owner alone.
    ///
    /// # Errors
    /// It cannot be opened, is no store, or another registrar has it.
    pub fn open(path: &Path) -> Result<FileStore, StoreError> {
        let named = |error: String| StoreError::Broken(format!("{}: {error}", path.display()));
        let made =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        drop(made.map_err(|error| named(error.to_string()))?);
        let database = Database::create(PathBuf::from(path)).map_err(|error| named(error.to_string()))?;
        // Both tables are there from the first on, so that reading never fails for want of one.
        let write = database.begin_write().map_err(broken)?;
        write.open_table(ENTRIES).map_err(broken)?;
        write.open_table(VERSIONS).map_err(broken)?;
        write.commit().map_err(broken)?;
        Ok(FileStore { database: Arc::new(database), commits: watch::Sender::new(0) })
    }

    fn current(&self, org: &OrgName) -> Result<u64, StoreError> {
        let read = self.database.begin_read().map_err(broken)?;
        let versions = read.open_table(VERSIONS).map_err(broken)?;
        let version = versions.get(org.as_str()).map_err(broken)?;
        Ok(version.map_or(0, |version| version.value()))
    }
}

fn load(database: &Database, org: &OrgName) -> Result<Image, StoreError> {
    let read = database.begin_read().map_err(broken)?;
    let versions = read.open_table(VERSIONS).map_err(broken)?;
    let version = versions.get(org.as_str()).map_err(broken)?.map_or(0, |version| version.value());
    let table = read.open_table(ENTRIES).map_err(broken)?;
    // The character behind the slash ends what is below it.
    let (first, end) = (format!("{org}/"), format!("{org}0"));
    let mut entries = BTreeMap::new();
    for entry in table.range(first.as_str()..end.as_str()).map_err(broken)? {
        let (name, value) = entry.map_err(broken)?;
        let name = name.value().strip_prefix(&first).unwrap_or_default().to_owned();
        entries.insert(name, value.value().to_vec());
    }
    Ok(Image { version, entries })
}

fn commit(database: &Database, org: &OrgName, expected: u64, writes: &[Write]) -> Result<Commit, StoreError> {
    let transaction = database.begin_write().map_err(broken)?;
    let version = {
        let mut versions = transaction.open_table(VERSIONS).map_err(broken)?;
        let version = versions.get(org.as_str()).map_err(broken)?.map_or(0, |version| version.value());
        if version != expected {
            return Ok(Commit::Conflict);
        }
        let version = version.saturating_add(1);
        versions.insert(org.as_str(), version).map_err(broken)?;
        version
    };
    write(&transaction, org, writes)?;
    // On disk when it returns: that is redb's way unless told otherwise.
    transaction.commit().map_err(|error| StoreError::Unsure(redb::Error::from(error).to_string()))?;
    Ok(Commit::Done(version))
}

fn write(transaction: &WriteTransaction, org: &OrgName, writes: &[Write]) -> Result<(), StoreError> {
    let mut entries = transaction.open_table(ENTRIES).map_err(broken)?;
    for write in writes {
        match write {
            Write::Put { name, value } => {
                entries.insert(format!("{org}/{name}").as_str(), value.as_slice()).map_err(broken)?;
            }
            Write::Delete { name } => {
                entries.remove(format!("{org}/{name}").as_str()).map_err(broken)?;
            }
        }
    }
    Ok(())
}

/// Off the runtime's threads: a commit waits for the disk.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(StoreError::Unsure(error.to_string())))
}

impl Store for FileStore {
    fn load<'a>(&'a self, org: &'a OrgName) -> Answer<'a, Image> {
        let (database, org) = (Arc::clone(&self.database), org.clone());
        Box::pin(aside(move || load(&database, &org)))
    }

    fn commit<'a>(&'a self, org: &'a OrgName, expected: u64, writes: &'a [Write]) -> Answer<'a, Commit> {
        let (database, org, writes) = (Arc::clone(&self.database), org.clone(), writes.to_vec());
        let commits = self.commits.clone();
        // What is on disk is told, whether or not who asked for it still waits.
        Box::pin(aside(move || {
            let done = commit(&database, &org, expected, &writes);
            commits.send_modify(|commits| *commits = commits.wrapping_add(1));
            done
        }))
    }

    fn version<'a>(&'a self, org: &'a OrgName) -> Answer<'a, u64> {
        Box::pin(async move { self.current(org) })
    }

    fn changed<'a>(&'a self, org: &'a OrgName, version: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut commits = self.commits.subscribe();
            while self.current(org)? == version {
                if commits.changed().await.is_err() {
                    break;
                }
            }
            Ok(())
        })
    }
}
