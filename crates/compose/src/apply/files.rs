//! Files that are written into an instance before it starts.

use std::collections::{BTreeMap, BTreeSet};

use portway_incus::FileOwner;
use portway_proto::service::{self, Spec};

use super::{ApplyError, Hands, server};
use crate::label;
use crate::render::Rendered;
use crate::want::{File, Keys};
use crate::words;

/// Longest list of a folder that is only asked for to know that it is there.
const LIST_BYTES: usize = 4 << 20;

/// Where the server keeps what an application container runs.
const ENTRYPOINT: &str = "oci.entrypoint";

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
                let content = match self.completed_spec(one, file).await? {
                    Some((content, runs)) => {
                        labels.extend(runs);
                        content
                    }
                    None => file.content.clone(),
                };
                self.put(&one.name, &file.path, owner, content).await?;
            }
            labels.insert(label::FILES.to_owned(), one.files_hash());
        }
        if labels.is_empty() {
            return Ok(());
        }
        let set = self.client.set_keys(self.project, &one.name, &labels).await;
        set.map_err(server("its files cannot be noted"))
    }

    /// What a file holds that says of an image of a registry what is run, with what the image says, and the keys by which
    /// that is known from then on; `None` for any other file.
    async fn completed_spec(
        &self,
        one: &Rendered,
        file: &File,
    ) -> Result<Option<(Vec<u8>, Keys)>, ApplyError> {
        let own = file.path.strip_prefix(service::DIR) == Some(&format!("/{}", service::SPEC));
        let draft = own.then(|| Spec::draft(&file.content).ok()).flatten().filter(|draft| draft.of_image);
        let Some(draft) = draft else { return Ok(None) };
        let there = self.client.definition(self.project, &one.name).await;
        let there = there.map_err(server("what its image runs cannot be read"))?;
        let there = there.ok_or_else(|| ApplyError::Gone(one.name.clone()))?;
        // What the file itself says to the server stays as it says it.
        let said = one.config.get(ENTRYPOINT).map(String::as_str);
        let ours = format!("{0}/{1} service {0}", service::DIR, service::PROGRAM);
        let of_server = || there.config(ENTRYPOINT).filter(|runs| *runs != ours);
        let runs = said.or(there.config(label::RUNS)).or_else(of_server).unwrap_or_default();
        let image = of_image(runs, |key| there.config(key)).ok_or(ApplyError::NoWords)?;
        let content = draft.over(image).write().map_err(|_| ApplyError::NothingRuns)?;
        let mut keys = Keys::new();
        if said.is_none() {
            keys.extend((!runs.is_empty()).then(|| (label::RUNS.to_owned(), runs.to_owned())));
            // The server hands the image's own words on to LXC before ours come, and some it cannot (Incus 7.0: with quotes
            // of both kinds).
            keys.insert(ENTRYPOINT.to_owned(), ours);
        }
        Ok(Some((content, keys)))
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

/// What the server tells of an image of a registry: what it runs, and keys of an instance of it; `None` when the words are
/// none.
fn of_image<'c>(runs: &str, config: impl Fn(&str) -> Option<&'c str>) -> Option<Spec> {
    let bytes = |key: &str| config(key).unwrap_or_default().as_bytes().to_vec();
    let mut user = bytes("oci.uid");
    if let Some(gid) = config("oci.gid").filter(|_| !user.is_empty()) {
        user.extend_from_slice(format!(":{gid}").as_bytes());
    }
    let args = words::split(runs)?.into_iter().map(String::into_bytes).collect();
    Some(Spec { args, user, cwd: bytes("oci.cwd"), ..Spec::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_runs_what_the_server_tells() {
        let config = [("oci.uid", "5"), ("oci.gid", "7"), ("oci.cwd", "/srv")];
        let key = |key: &str| config.iter().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let spec = of_image("/bin/sh -c 'a b'", key).expect("words");
        assert_eq!(spec.args, [&b"/bin/sh"[..], b"-c", b"a b"]);
        assert_eq!((spec.user, spec.cwd), (b"5:7".to_vec(), b"/srv".to_vec()));
        assert_eq!(of_image("", |_| None), Some(Spec::default()));
        assert_eq!(of_image("'", |_| None), None);
    }
}
