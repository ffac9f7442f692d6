//! Files of an instance that does not run: the server has them, and serves them as root alone.

use portway_incus::{Client, status_code};

use super::grant::Grant;
use super::open::{self, NOT_RUNNING, Opened, Refusal, absent, failure, not_running};

/// Has the server serve them.
pub(super) async fn open(client: &Client, grant: &Grant) -> Result<Opened, Refusal> {
    let (project, instance) = (grant.project.as_str(), grant.instance.as_str());
    let failed = |error| failure(instance, &error);
    let account = open::account(client, grant).await?;
    if account.uid != 0 {
        let text = format!("instance {instance} is not running, and then only root has files there");
        return Err(Refusal::new(NOT_RUNNING, text));
    }
    let state = client.instance(project, instance).await.map_err(failed)?;
    if state.ok_or_else(|| absent(project, instance))?.status_code != status_code::STOPPED {
        return Err(not_running(instance));
    }
    let files = client.sftp(project, instance).await.map_err(failed)?;
    let files = files.ok_or_else(|| {
        let text = format!("instance {instance} is not running, and its server serves no files");
        Refusal::new(NOT_RUNNING, text)
    })?;
    Ok(Opened::Stored { files, home: account.home })
}
