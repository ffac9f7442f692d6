//! The images of a server: one that was built here becomes one of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use portway_compose::build::{self, Build, Inspected, content, tar};
use portway_incus::{Client, ImageFiles, Refusal};
use tempfile::TempDir;

use super::stage::server;
use crate::failure::{Outcome, Stop};

/// The server, and where in it images are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Store<'s> {
    pub(super) client: &'s Client,
    /// Its project that has the images.
    pub(super) place: &'s str,
    /// The Compose project they are for.
    pub(super) project: &'s str,
}

/// Gives the server an image and its name, which the one before loses. What is there with the same in it stays, whatever
/// its times are. `_dir` holds the files.
pub(super) async fn send(
    store: Store<'_>,
    build: &Build,
    (image, mark): (&Inspected, &str),
    rootfs: &Path,
    _dir: TempDir,
) -> Outcome {
    let Store { client, place, project } = store;
    let unread = |error: io::Error| Stop::refused(format!("cannot read {}: {error}", rootfs.display()));
    let open = || File::open(rootfs).map_err(unread);
    let inside = content::hash(io::BufReader::new(open()?)).map_err(unread)?;
    let (metadata, head) = (tar::metadata(image, project, build, &inside), tar::folders());
    let before = client.image(place, &build.alias).await.map_err(|error| server(&error))?;
    let wanted = tar::properties(image, project, build, &inside);
    let is_it = |before: &portway_incus::Image| {
        wanted.iter().all(|(key, value)| before.properties.get(key) == Some(value))
    };
    let fingerprint = match before.as_ref().filter(|before| is_it(before)) {
        Some(before) => before.fingerprint.clone(),
        None => {
            let files = open()?;
            let (fingerprint, files_bytes) = tar::fingerprint(&[&metadata, &head], &files).map_err(unread)?;
            let files =
                ImageFiles { fingerprint: fingerprint.clone(), metadata, head, files: open()?, files_bytes };
            give(store, build, files).await?;
            fingerprint
        }
    };
    // Beside the image, not in it: the same of another time is the same.
    let mark = BTreeMap::from([(build::ID.to_owned(), mark.to_owned())]);
    client.describe_image(place, &fingerprint, &mark).await.map_err(|error| server(&error))?;
    // What nobody names any more is of no use. Instances made of it have copies.
    let is_left = |before: &portway_incus::Image| {
        before.fingerprint != fingerprint
            && before.aliases == [build.alias.clone()]
            && before.properties.get(build::PROJECT).is_some_and(|of| of == project)
    };
    if let Some(before) = before.filter(is_left) {
        let _kept = client.remove_image(place, &before.fingerprint).await;
    }
    Ok(())
}

/// Sends an image that the server may have already, and names it.
async fn give(store: Store<'_>, build: &Build, files: ImageFiles) -> Outcome {
    let Store { client, place, .. } = store;
    let fingerprint = files.fingerprint.clone();
    if client.image(place, &fingerprint).await.map_err(|error| server(&error))?.is_none() {
        let sent = match client.import(place, files).await {
            Ok(operation) => client.finish(&operation, None, |_| ()).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match sent {
            Err(error) if error.refusal() == Some(Refusal::Exists) => {}
            sent => sent.map_err(|error| server(&error))?,
        }
    }
    let named = client.name_image(place, &build.alias, &fingerprint).await;
    named.map_err(|error| server(&error))
}
