//! Access lists of networks, as far as a network is fenced in by one: its own addresses speak with each other, and with
//! nobody else.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::encode::percent_encode;
use crate::resources::{Keys, absent_is_none};
use crate::{Client, Refusal, Result};

#[derive(Deserialize)]
struct Acl {
    #[serde(default)]
    config: Keys,
}

fn target(name: &str) -> String {
    format!("/1.0/network-acls/{}?project=default", percent_encode(name))
}

impl Client {
    /// Configuration of a list of the default project; `None` when there is none of this name.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn acl(&self, name: &str) -> Result<Option<Keys>> {
        let found: Option<Option<Acl>> = self.door().get(&target(name), self.limits().answer_bytes).await?;
        Ok(found.flatten().map(|acl| acl.config))
    }

    /// Configurations of all lists of the default project.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn acls(&self) -> Result<Vec<Keys>> {
        let target = "/1.0/network-acls?recursion=1&project=default";
        let found: Option<Vec<Acl>> = self.door().get(target, self.limits().list_bytes).await?;
        Ok(found.unwrap_or_default().into_iter().map(|acl| acl.config).collect())
    }

    /// Makes a list that lets these subnets (`10.1.2.0/24`) speak with each other, or makes the one of this name such.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn put_acl(&self, name: &str, config: &Keys, subnets: &[String]) -> Result<()> {
        let rules = |side: &str| -> Vec<Value> {
            subnets
                .iter()
                .map(|subnet| json!({"action": "allow", "state": "enabled", side: subnet}))
                .collect()
        };
        let mut body = json!({
            "name": name, "description": "", "config": config,
            "egress": rules("destination"), "ingress": rules("source"),
        });
        match self.carry_out(Method::POST, "/1.0/network-acls?project=default", Some(&body), None).await {
            Err(error) if error.refusal() == Some(Refusal::Exists) => {
                if let Some(body) = body.as_object_mut() {
                    body.remove("name");
                }
                self.carry_out(Method::PUT, &target(name), Some(&body), None).await
            }
            made => made,
        }
    }

    /// Deletes one; `None` when there is none.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; [`Refusal::InUse`] while a network has it.
    pub async fn remove_acl(&self, name: &str) -> Result<Option<()>> {
        absent_is_none(self.carry_out(Method::DELETE, &target(name), None::<&Value>, None).await)
    }
}
