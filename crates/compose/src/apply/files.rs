//! Files that are written into an instance before it starts.

use std::collections::{BTreeMap, BTreeSet};

use portway_incus::FileOwner;
use portway_proto::service;

use super::{ApplyError, Hands, server};
use crate::label;
use crate::render::Rendered;

/// Longest list of a folder that is only asked for to know that it is there.
const LIST_BYTES: usize = 4 << 20;

/// What is written into an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The program that is its first process, when that is ours.
    Program,
    /// Its files.
    Files,
}

impl Hands<'_> {
    /// Writes these parts, and then the labels that say so: what was cut short is written again.
    pub(super) async fn write(&self, one: &Rendered, parts: &[Part]) -> Result<(), ApplyError> {
        let mut labels = BTreeMap::new();
        let mut known = BTreeSet::new();
        if let Some(guest) = one.guest().filter(|_| parts.contains(&Part::Program)) {
            let program = self.want.map(|want| &want.program).filter(|program| program.hash() == guest);
            let bytes = program.ok_or(ApplyError::NoProgram)?.bytes().to_vec();
            let made =
                self.client.make_dir_of(self.project, &one.name, service::DIR, FileOwner::root(0o755)).await;
            made.map_err(server("the folder of its first process cannot be made"))?;
            known.insert(service::DIR.to_owned());
            let path = format!("{}/{}", service::DIR, service::PROGRAM);
            self.put(&one.name, &path, FileOwner::root(0o755), bytes).await?;
            labels.insert(label::GUEST.to_owned(), guest.to_owned());
        }
        if !one.files.is_empty() && parts.contains(&Part::Files) {
            for file in &one.files {
                self.folders(&one.name, &file.path, &mut known).await?;
                let owner = FileOwner { uid: file.uid, gid: file.gid, mode: file.mode };
                self.put(&one.name, &file.path, owner, file.content.clone()).await?;
            }
            labels.insert(label::FILES.to_owned(), one.files_hash());
        }
        if labels.is_empty() {
            return Ok(());
        }
        let set = self.client.set_keys(self.project, &one.name, &labels).await;
        set.map_err(server("its files cannot be noted"))
    }

    async fn put(
        &self,
        instance: &str,
        path: &str,
        owner: FileOwner,
        bytes: Vec<u8>,
    ) -> Result<(), ApplyError> {
        let written = self.client.put_file_of(self.project, instance, path, owner, bytes).await;
        let written = written.map_err(server("a file cannot be written"))?;
        written.ok_or_else(|| ApplyError::Gone(instance.to_owned()))
    }

    /// Makes the folders of a file that are not there.
    async fn folders(
        &self,
        instance: &str,
        path: &str,
        known: &mut BTreeSet<String>,
    ) -> Result<(), ApplyError> {
        let mut missing = Vec::new();
        let mut folder = path;
        while let Some((above, _)) = folder.rsplit_once('/')
            && !above.is_empty()
            && !known.contains(above)
        {
            let there = self.client.file(self.project, instance, above, LIST_BYTES).await;
            if there.map_err(server("a folder cannot be looked for"))?.is_some() {
                break;
            }
            missing.push(above);
            folder = above;
        }
        for folder in missing.iter().rev() {
            let made = self.client.make_dir_of(self.project, instance, folder, FileOwner::root(0o755)).await;
            made.map_err(server("a folder cannot be made"))?
                .ok_or_else(|| ApplyError::NoFolder((*folder).to_owned()))?;
        }
        known.extend(path.match_indices('/').filter_map(|(at, _)| path.get(..at)).map(str::to_owned));
        Ok(())
    }
}
