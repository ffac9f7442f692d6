//! What files have been allowed beyond what every file may have, as it is kept on the server's project.

use std::collections::BTreeSet;

use portway_incus::{Client, IncusError, ResourceId};

use crate::label;
use crate::want::Keys;

/// Tries against somebody who changes the project all the time.
const TRIES: usize = 5;

/// What has been allowed.
#[must_use]
pub fn granted(config: &Keys) -> BTreeSet<String> {
    // What cannot be read is asked about again.
    config.get(label::GRANTED).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// Keeps what was allowed beside what was before. Where there is no project yet it is not kept.
///
/// # Errors
/// When the server refuses, or does not answer.
pub async fn keep(client: &Client, project: &str, more: &BTreeSet<String>) -> Result<(), IncusError> {
    let id = ResourceId::Project { name: project.to_owned() };
    for _ in 0..TRIES {
        let Some(mut there) = client.resource(&id).await? else { return Ok(()) };
        let mut all = granted(&there.config);
        if more.is_subset(&all) {
            return Ok(());
        }
        all.extend(more.iter().cloned());
        let Ok(text) = serde_json::to_string(&all) else { return Ok(()) };
        there.config.insert(label::GRANTED.to_owned(), text);
        match client.put(&there).await {
            Err(error) if error.is_outdated() => {}
            done => return done,
        }
    }
    Ok(())
}
