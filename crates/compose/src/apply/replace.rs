//! An instance in place of another: made beside it, so that one that cannot be made costs nobody the one that is there.

use portway_incus::Refusal;

use super::files::Part;
use super::patience::{patiently, refused, to_its_end, worth};
use super::{ApplyError, Hands, server, without_files};
use crate::label;
use crate::render::{Rendered, beside};

impl Hands<'_> {
    /// Makes it under another name. Without its files: what the server opens to write them it closes under the name of
    /// then, and for half a minute nothing would start under another.
    pub(super) async fn prepare(&self, one: &Rendered) -> Result<(), ApplyError> {
        self.make(&one.beside()).await
    }

    /// Removes the old one, when the new one is there, and gives that its name; then it becomes what it is to be.
    pub(super) async fn replace(&self, one: &Rendered) -> Result<(), ApplyError> {
        let new = beside(&one.name);
        let there = self.client.definition(self.project, &new).await;
        let there = there.map_err(server("the new one cannot be read"))?;
        if there.is_some_and(|there| there.config(label::BESIDE) == Some(&one.name)) {
            self.remove(&one.name).await?;
            let renamed = patiently(worth, async || {
                to_its_end(self.client, self.client.rename_instance(self.project, &new, &one.name).await)
                    .await
            });
            match renamed.await {
                // It has it: an earlier try has failed after that.
                Err(error) if refused(&error, Refusal::Absent) => {}
                renamed => renamed.map_err(server("the new one cannot be given its name"))?,
            }
        }
        let there = self.client.definition(self.project, &one.name).await;
        let there = there.map_err(server("it cannot be read"))?;
        match there.as_ref().map(|there| there.config(label::BESIDE)) {
            Some(Some(gets)) if gets == one.name => {}
            // Not even the new one is there: nothing has been removed.
            Some(_) => return Err(ApplyError::Gone(new)),
            None => return Err(ApplyError::Gone(one.name.clone())),
        }
        self.redefine(one, |definition| {
            without_files(one).iter().for_each(|(key, value)| definition.set_config(key, Some(value)));
            definition.set_config(label::BESIDE, None);
            one.devices.iter().for_each(|(name, device)| definition.set_device(name, Some(device)));
            true
        })
        .await?;
        self.write(one, &[Part::Program, Part::Files]).await
    }
}
