//! Snapshots of instances: made, listed, gone back to and deleted.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::instance_target;
use crate::encode::{addressable, percent_encode};
use crate::resources::absent_is_none;
use crate::transport::protocol;
use crate::{Client, Operation, Result};

/// What an instance was.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Snapshot {
    /// Its name, without that of its instance.
    pub name: String,
    /// When it was made, as the API writes a time (RFC 3339).
    #[serde(default)]
    pub created_at: String,
    /// When the server deletes it; the year 1 for never.
    #[serde(default)]
    pub expires_at: String,
}

impl Client {
    /// Snapshots of an instance; `None` when the project or the instance does not exist.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn snapshots(&self, project: &str, name: &str) -> Result<Option<Vec<Snapshot>>> {
        let Some(target) = instance_target(project, name, "/snapshots") else { return Ok(None) };
        self.door().get(&format!("{target}&recursion=1"), self.limits().list_bytes).await
    }

    /// Makes one, without what is in memory; without a name the server gives it one.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn make_snapshot(
        &self,
        project: &str,
        name: &str,
        snapshot: Option<&str>,
    ) -> Result<Operation> {
        let body = match snapshot {
            Some(snapshot) => json!({"name": snapshot, "stateful": false}),
            None => json!({"stateful": false}),
        };
        let target = instance_target(project, name, "/snapshots");
        let target = target.ok_or_else(|| protocol(name, "no instance can have such a name"))?;
        let started = self.submit(Method::POST, &target, Some(&body), None).await?;
        started.ok_or_else(|| protocol(&target, "a snapshot without an operation"))
    }

    /// Makes an instance what it was. One that runs is stopped for it, and started again.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn restore(&self, project: &str, name: &str, snapshot: &str) -> Result<Operation> {
        let target = instance_target(project, name, "");
        let target = target.ok_or_else(|| protocol(name, "no instance can have such a name"))?;
        let body = json!({"restore": snapshot, "stateful": false});
        let started = self.submit(Method::PUT, &target, Some(&body), None).await?;
        started.ok_or_else(|| protocol(&target, "an instance brought back without an operation"))
    }

    /// Deletes one; `None` when there is none.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn remove_snapshot(&self, project: &str, name: &str, snapshot: &str) -> Result<Option<()>> {
        if !addressable(snapshot) {
            return Ok(None);
        }
        let below = format!("/snapshots/{}", percent_encode(snapshot));
        let Some(target) = instance_target(project, name, &below) else { return Ok(None) };
        absent_is_none(self.carry_out(Method::DELETE, &target, None::<&Value>, None).await)
    }
}
