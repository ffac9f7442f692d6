//! Files that are written into an instance before it starts.

use std::collections::{BTreeMap, BTreeSet};

use portway_incus::FileOwner;
use portway_proto::service;

use super::{ApplyError, Hands, server};
use crate::label;
use crate::render::Rendered;

/// Longest list of a folder that is only asked for to know that it is there.
const LIST_BYTES: usize = 4 << 20;

impl Hands<'_> {
    /// Writes the files, and then the label that says so: what was cut short is written again.
    pub(super) async fn write_files(&self, one: &Rendered) -> Result<(), ApplyError> {
        if one.files.is_empty() {
            return Ok(());
        }
        let mut known = BTreeSet::new();
        for file in &one.files {
            self.folders(&one.name, &file.path, &mut known).await?;
            let owner = FileOwner { uid: file.uid, gid: file.gid, mode: file.mode };
            let written = self
                .client
                .put_file_of(self.project, &one.name, &file.path, owner, file.content.clone())
                .await;
            let written = written.map_err(server("a file cannot be written"))?;
            written.ok_or_else(|| ApplyError::Gone(one.name.clone()))?;
        }
        let label = BTreeMap::from([(label::FILES.to_owned(), one.files_hash())]);
        let set = self.client.set_keys(self.project, &one.name, &label).await;
        set.map_err(server("its files cannot be noted"))
    }

    /// Writes the program that is to be its first process, when that is ours, and the label that says which it is.
    pub(super) async fn write_program(&self, one: &Rendered) -> Result<(), ApplyError> {
        let Some(guest) = one.guest() else { return Ok(()) };
        let program = self.want.map(|want| &want.program).filter(|program| program.hash() == guest);
        let program = program.ok_or(ApplyError::NoProgram)?;
        let path = format!("{}/{}", service::DIR, service::PROGRAM);
        self.folders(&one.name, &path, &mut BTreeSet::new()).await?;
        let owner = FileOwner::root(0o755);
        let bytes = program.bytes().to_vec();
        let written = self.client.put_file_of(self.project, &one.name, &path, owner, bytes).await;
        let written = written.map_err(server("its first process cannot be written"))?;
        written.ok_or_else(|| ApplyError::Gone(one.name.clone()))?;
        let label = BTreeMap::from([(label::GUEST.to_owned(), guest.to_owned())]);
        let set = self.client.set_keys(self.project, &one.name, &label).await;
        set.map_err(server("its first process cannot be noted"))
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
