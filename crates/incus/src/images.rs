//! Images: those a project has, and those it gets from elsewhere.

use std::collections::BTreeMap;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::encode::{addressable, percent_encode};
use crate::resources::absent_is_none;
use crate::transport::protocol;
use crate::{Client, Operation, Result};

/// An image of a project's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// SHA-256, in hexadecimal.
    pub fingerprint: String,
    /// Names it has in the project.
    pub aliases: Vec<String>,
    /// `os`, `release`, `description`, and for one of a registry `type=oci`, `id`.
    pub properties: BTreeMap<String, String>,
    /// Size as it is kept.
    pub size_bytes: u64,
    /// When it was put here, as the API writes a time (RFC 3339).
    pub uploaded_at: String,
    /// Where it comes from, when the server has fetched it.
    pub source: Option<RemoteImage>,
    /// Whether it came with an instance and goes of itself when it has not been used for days.
    pub is_cached: bool,
}

/// How a server of images is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageProtocol {
    /// The public servers of native images.
    Simplestreams,
    /// A registry. The server's extension is `instance_oci`.
    Oci,
    /// Another Incus.
    Incus,
}

impl ImageProtocol {
    /// As the API says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Simplestreams => "simplestreams",
            Self::Oci => "oci",
            Self::Incus => "incus",
        }
    }
}

/// An image elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteImage {
    /// `https://…`
    pub server: String,
    /// `simplestreams`, `oci`, `incus`, as the API says it.
    pub protocol: String,
    /// Its name there: `debian/13`, `library/nginx:latest`.
    pub alias: String,
}

impl RemoteImage {
    /// One to be fetched.
    #[must_use]
    pub fn new(protocol: ImageProtocol, server: &str, alias: &str) -> Self {
        let protocol = protocol.as_str().to_owned();
        Self { server: server.to_owned(), protocol, alias: alias.to_owned() }
    }
}

#[derive(Deserialize)]
struct Wire {
    fingerprint: String,
    #[serde(default)]
    aliases: Option<Vec<Alias>>,
    #[serde(default)]
    properties: Option<BTreeMap<String, String>>,
    #[serde(default)]
    size: i64,
    #[serde(default)]
    uploaded_at: String,
    #[serde(default)]
    update_source: Option<Source>,
    #[serde(default)]
    cached: bool,
}

#[derive(Deserialize)]
struct Alias {
    name: String,
}

#[derive(Deserialize)]
struct Target {
    target: String,
}

#[derive(Deserialize)]
struct Source {
    #[serde(default)]
    alias: String,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    server: String,
}

impl From<Wire> for Image {
    fn from(from: Wire) -> Self {
        let source = from.update_source.map(|source| RemoteImage {
            server: source.server,
            protocol: source.protocol,
            alias: source.alias,
        });
        Self {
            fingerprint: from.fingerprint,
            aliases: from.aliases.into_iter().flatten().map(|alias| alias.name).collect(),
            properties: from.properties.unwrap_or_default(),
            size_bytes: u64::try_from(from.size).unwrap_or_default(),
            uploaded_at: from.uploaded_at,
            source,
            is_cached: from.cached,
        }
    }
}

impl Client {
    /// The images a project has.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn images(&self, project: &str) -> Result<Vec<Image>> {
        let target = format!("/1.0/images?recursion=1&project={}", percent_encode(project));
        let found: Option<Vec<Wire>> = self.door().get(&target, self.limits().list_bytes).await?;
        Ok(found.unwrap_or_default().into_iter().map(Image::from).collect())
    }

    /// The image with this alias, or this fingerprint, or the only one whose fingerprint begins so; `None` when there
    /// is none.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; a refusal where several begin so.
    pub async fn image(&self, project: &str, name: &str) -> Result<Option<Image>> {
        if name.is_empty() || matches!(name, "." | "..") {
            return Ok(None);
        }
        let query = format!("?project={}", percent_encode(project));
        let limit = self.limits().answer_bytes;
        let target = format!("/1.0/images/aliases/{}{query}", percent_encode(name));
        let of_alias: Option<Target> = self.door().get(&target, limit).await?;
        let fingerprint = of_alias.map_or_else(|| name.to_owned(), |alias| alias.target);
        if fingerprint.bytes().any(|byte| !byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let found: Option<Wire> =
            self.door().get(&format!("/1.0/images/{fingerprint}{query}"), limit).await?;
        Ok(found.map(Image::from))
    }

    /// Has the server fetch an image, and gives it these names. The operation leaves `fingerprint`; one that the
    /// server has already is not fetched again.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn pull(&self, project: &str, from: &RemoteImage, aliases: &[&str]) -> Result<Operation> {
        let target = format!("/1.0/images?project={}", percent_encode(project));
        let aliases: Vec<Value> =
            aliases.iter().map(|name| json!({"name": name, "description": ""})).collect();
        let source = json!({"type": "image", "mode": "pull", "server": from.server, "protocol": from.protocol,
            "alias": from.alias});
        let body = json!({"source": source, "aliases": aliases, "auto_update": false, "public": false});
        let started = self.submit(Method::POST, &target, Some(&body), None).await?;
        started.ok_or_else(|| protocol(&target, "an image without an operation"))
    }

    /// Gives an image a name of the project's, which it takes from another one.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn name_image(&self, project: &str, alias: &str, fingerprint: &str) -> Result<()> {
        let query = format!("?project={}", percent_encode(project));
        let own = format!("/1.0/images/aliases/{}{query}", percent_encode(alias));
        absent_is_none(self.carry_out(Method::DELETE, &own, None::<&Value>, None).await)?;
        let body = json!({"name": alias, "description": "", "target": fingerprint});
        self.carry_out(Method::POST, &format!("/1.0/images/aliases{query}"), Some(&body), None).await
    }

    /// A word that lets another server fetch an image of a project, once and soon.
    ///
    /// # Errors
    /// Any [`crate::IncusError`]; an answer without one is [`crate::IncusError::Protocol`].
    pub async fn image_secret(&self, project: &str, fingerprint: &str) -> Result<String> {
        let target =
            format!("/1.0/images/{}/secret?project={}", percent_encode(fingerprint), percent_encode(project));
        let started = self.submit(Method::POST, &target, None::<&Value>, None).await?;
        let started = started.ok_or_else(|| protocol(&target, "a secret without an operation"))?;
        // It is there as long as nobody has used it: there is no end to wait for.
        let left = self.so_far(&started).await?;
        let secret = left.get("secret").and_then(Value::as_str);
        secret.map(str::to_owned).ok_or_else(|| protocol(&target, "no secret"))
    }

    /// Sets properties of an image; others stay.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn describe_image(
        &self,
        project: &str,
        fingerprint: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<()> {
        let target =
            format!("/1.0/images/{}?project={}", percent_encode(fingerprint), percent_encode(project));
        self.carry_out(Method::PATCH, &target, Some(&json!({"properties": properties})), None).await
    }

    /// Deletes an image; `None` when there is none.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn remove_image(&self, project: &str, fingerprint: &str) -> Result<Option<()>> {
        if !addressable(fingerprint) {
            return Ok(None);
        }
        let target =
            format!("/1.0/images/{}?project={}", percent_encode(fingerprint), percent_encode(project));
        absent_is_none(self.carry_out(Method::DELETE, &target, None::<&Value>, None).await)
    }
}
