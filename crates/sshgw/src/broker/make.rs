//! Instances that are made for logins, and removed: what is asked of the server. Nothing of one that cannot be made, or
//! does not start, is left.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use portway_config::files::{self, Trust};
use portway_incus::{
    Client, Device, ImageProtocol, IncusError, InstanceKind, InstanceSource, Listed, NewInstance, Pulled,
    Refusal as Reason, RemoteImage, StateChange,
};
use tokio::sync::watch;

use super::lock;
use super::marks::Marks;
use super::open::{ABSENT, Refusal, failure};
use super::servers::Servers;
use super::turns::{Place, Turns};
use crate::create::Plan;
use crate::remotes::{ImageServer, LOCAL, PEM_BYTES};

/// How long a server may take to fetch an image and to unpack it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How long one may take to stop by force and to be deleted.
const REMOVAL: Duration = Duration::from_secs(120);

/// The server of images where a name has none, and where it is when nobody has said it: for Incus, and for LXD.
const IMAGES: &str = "images";
const IMAGES_OF_INCUS: &str = "https://images.linuxcontainers.org";
const IMAGES_OF_LXD: &str = "https://images.lxd.canonical.com";

/// The instances that are being made, each with its owner.
#[derive(Debug, Default)]
pub(super) struct Makers {
    pub(super) turns: Turns,
    making: Mutex<BTreeMap<Place, String>>,
    /// Held at a server while somebody's are counted there: two at a time would both find room for one.
    counting: Turns,
}

/// One that is being made counts; not any more with drop.
#[derive(Debug)]
pub(super) struct Entry<'a>(&'a Makers, Place);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.0.making).remove(&self.1);
    }
}

impl Makers {
    /// Counts one more of an owner, if there may be one more.
    pub(super) async fn enter(
        &self,
        client: &Client,
        place: &Place,
        (owner, gateway): (&str, &str),
        most: Option<usize>,
    ) -> Result<Entry<'_>, Refusal> {
        let server = (place.0.clone(), String::new(), String::new());
        let _counting = self.counting.take(&server).await;
        if let Some(most) = most {
            let found = client.list_everywhere().await.map_err(|error| failure(&place.2, &error))?;
            let is_his = |marks: Option<Marks>| marks.is_some_and(|marks| marks.owner == owner);
            let mut his: BTreeSet<(String, String)> = found
                .into_iter()
                .map(|listed| listed.definition)
                .filter(|definition| is_his(Marks::read(definition, gateway)))
                .map(|definition| (definition.project, definition.name))
                .collect();
            let making = lock(&self.making);
            let making = making.iter().filter(|((remote, ..), of)| *remote == place.0 && *of == owner);
            his.extend(making.map(|((_, project, name), _)| (project.clone(), name.clone())));
            if his.len() >= most {
                let text = format!("{owner} has {} instances made by logins, and may have {most}", his.len());
                return Err(Refusal::new(ABSENT, text));
            }
        }
        lock(&self.making).insert(place.clone(), owner.to_owned());
        Ok(Entry(self, place.clone()))
    }
}

/// Servers of images, and whether those can be had that not everybody has.
type Images<'a> = (&'a Servers, &'a (dyn Fn(&str) -> bool + Sync));

/// Makes an instance, stopped. `false`: somebody else was faster.
pub(super) async fn make(
    client: &Client,
    from: Images<'_>,
    (remote, project, name): &Place,
    plan: &Plan,
    marks: BTreeMap<String, String>,
    say: &watch::Sender<String>,
) -> Result<bool, Refusal> {
    let source = source(client, from, remote, project, plan).await?;
    let mut devices = plan.devices.clone();
    if let Some(size) = &plan.disk {
        let usual = client.profile_devices(project, "default").await;
        let usual = usual.map_err(|error| failure(name, &error))?;
        sized(&mut devices, usual, size)?;
    }
    let mut config = plan.config.clone();
    config.extend(marks);
    let new = NewInstance {
        name: name.clone(),
        kind: plan.kind,
        is_ephemeral: plan.is_ephemeral,
        source,
        description: String::new(),
        config,
        devices,
        profiles: None,
    };
    say.send_replace(format!("making {name} of {}", plan.image));
    let made = async {
        let operation = client.create_instance(project, &new).await?;
        let told = |progress: &portway_incus::Progress| {
            if !progress.text.is_empty() {
                say.send_replace(format!("making {name}: {}", progress.text));
            }
        };
        let made = client.finish(&operation, Some(PATIENCE), told).await;
        if matches!(made, Err(IncusError::TimedOut { .. })) {
            // Nothing waits for it any more.
            let _late = client.cancel(&operation).await;
        }
        made
    };
    match made.await {
        Ok(_) => Ok(true),
        Err(error) if error.refusal() == Some(Reason::Exists) => Ok(false),
        Err(error) => Err(unable(name, plan, &error)),
    }
}

/// What the server says of one that it does not make, on one line.
fn unable(name: &str, plan: &Plan, error: &IncusError) -> Refusal {
    match error {
        IncusError::Operation { message, .. } | IncusError::Status { message, .. } => {
            let kind = match plan.kind {
                InstanceKind::Container => "",
                InstanceKind::Vm => " as a virtual machine",
            };
            Refusal::new(ABSENT, format!("{name} cannot be made of {}{kind}: {message}", plan.image))
        }
        IncusError::TimedOut { .. } => {
            Refusal::new(ABSENT, format!("{name} is not made within {} minutes", PATIENCE.as_secs() / 60))
        }
        other => failure(name, other),
    }
}

/// The root disk with a size: that of the devices, or of the default profile.
fn sized(
    devices: &mut BTreeMap<String, Device>,
    usual: BTreeMap<String, Device>,
    size: &str,
) -> Result<(), Refusal> {
    let is_root = |device: &Device| {
        device.get("type").is_some_and(|kind| kind == "disk")
            && device.get("path").is_some_and(|path| path == "/")
    };
    let own = devices.iter().find(|(_, device)| is_root(device)).map(|(name, _)| name.clone());
    let found = match own {
        Some(name) => devices.remove_entry(&name),
        None => usual.into_iter().find(|(name, device)| is_root(device) && !devices.contains_key(name)),
    };
    let Some((name, mut device)) = found else {
        return Err(Refusal::new(ABSENT, "the default profile has no root disk whose size could be set"));
    };
    device.insert("size".to_owned(), size.to_owned());
    devices.insert(name, device);
    Ok(())
}

/// Where the image is. A name without a server is that of an image there, or one of `images:`.
async fn source(
    client: &Client,
    (servers, may_fetch): Images<'_>,
    remote: &str,
    project: &str,
    plan: &Plan,
) -> Result<InstanceSource, Refusal> {
    let failed = |error: IncusError| failure("", &error);
    let (server, name) = match plan.image.split_once(':') {
        Some((server, name)) => (Some(server), name),
        None => (None, plan.image.as_str()),
    };
    let is_there = |server: &str| server == LOCAL || servers.name(Some(server)) == remote;
    if server.is_none_or(is_there) {
        if let Some(image) = client.image(project, name).await.map_err(failed)? {
            return Ok(InstanceSource::Fingerprint(image.fingerprint));
        }
        if server.is_some() {
            return Err(Refusal::new(ABSENT, format!("there is no image {}", plan.image)));
        }
    }
    let server = server.unwrap_or(IMAGES);
    match servers.images(server) {
        Some(found) if found.protocol == ImageProtocol::Incus => {
            if !found.is_public && !may_fetch(server) {
                let text = format!("create is not allowed at {server}, so none of its images can be had");
                return Err(Refusal::new(ABSENT, text));
            }
            pulled(servers, server, found, name).await
        }
        Some(found) => Ok(InstanceSource::Remote(RemoteImage::new(found.protocol, &found.url, name))),
        None if server == IMAGES => {
            let product = client.server().await.map_err(failed)?.product;
            let url = if product == "lxd" { IMAGES_OF_LXD } else { IMAGES_OF_INCUS };
            Ok(InstanceSource::Remote(RemoteImage::new(ImageProtocol::Simplestreams, url, name)))
        }
        None => Err(Refusal::new(ABSENT, format!("there is no server of images {server}"))),
    }
}

/// An image of another Incus, which the server of the instance fetches there: with a word that lets it have this one
/// where not everybody has it.
async fn pulled(
    servers: &Servers,
    server: &str,
    found: ImageServer,
    name: &str,
) -> Result<InstanceSource, Refusal> {
    let certificate = found.certificate.map(|path| {
        let bytes = files::read(&path, PEM_BYTES, Trust::Own);
        bytes.and_then(|bytes| files::text(&path, bytes))
    });
    let certificate = certificate.transpose().map_err(|error| Refusal::new(ABSENT, error.to_string()))?;
    let (url, image) = (found.url, name.to_owned());
    if found.is_public {
        return Ok(InstanceSource::Pulled(Pulled { url, image, certificate, secret: None }));
    }
    let there = servers.client(server).map_err(|error| Refusal::of_server(&error))?;
    let failed = |error: IncusError| Refusal::new(ABSENT, format!("image {server}:{name}: {error}"));
    let image = there.image("default", name).await.map_err(failed)?;
    let image = image.ok_or_else(|| Refusal::new(ABSENT, format!("there is no image {server}:{name}")))?;
    let secret = there.image_secret("default", &image.fingerprint).await.map_err(failed)?;
    let image = image.fingerprint;
    Ok(InstanceSource::Pulled(Pulled { url, image, certificate, secret: Some(secret) }))
}

/// Whether its operator, or a profile, has said that it is not to be deleted.
pub(super) fn is_protected(found: &Listed) -> bool {
    let said = found.expanded_config.get("security.protection.delete");
    said.is_some_and(|said| matches!(said.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on"))
}

/// What tells an instance from others of its name.
pub(super) fn which(found: &Listed) -> String {
    let uuid = found.definition.config("volatile.uuid").unwrap_or_default();
    format!("{uuid} {}", found.created_at)
}

/// Ends and deletes an instance. One that is not there is gone.
pub(super) async fn remove(client: &Client, (_, project, name): &Place) -> Result<(), IncusError> {
    let gone = |result: Result<(), IncusError>| match result {
        Err(error) if matches!(error.refusal(), Some(Reason::Absent | Reason::State)) => Ok(()),
        other => other,
    };
    let stopped = async {
        let operation = client.change_state(project, name, StateChange::Kill).await?;
        client.finish(&operation, Some(REMOVAL), |_| ()).await.map(|_| ())
    };
    gone(stopped.await)?;
    let removed = async {
        // An ephemeral one has gone with its stop.
        let Some(operation) = client.remove_instance(project, name).await? else { return Ok(()) };
        client.finish(&operation, Some(REMOVAL), |_| ()).await.map(|_| ())
    };
    gone(removed.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when another disk than the root gets the size, or the root is another than it was.
    #[test]
    fn the_root_disk_has_the_size() {
        let device = |of: &[(&str, &str)]| -> Device {
            of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let root = device(&[("type", "disk"), ("path", "/"), ("pool", "p")]);
        let data = device(&[("type", "disk"), ("path", "/data"), ("source", "v")]);
        let usual: BTreeMap<_, _> =
            [("root".to_owned(), root.clone()), ("eth0".to_owned(), Device::new())].into();
        let mut devices: BTreeMap<_, _> = [("data".to_owned(), data.clone())].into();
        sized(&mut devices, usual.clone(), "5GiB").expect("a root");
        assert_eq!((devices["root"]["size"].as_str(), devices["root"]["pool"].as_str()), ("5GiB", "p"));
        assert!(devices["data"] == data && devices.len() == 2);
        let mut own: BTreeMap<_, _> = [("mine".to_owned(), root)].into();
        sized(&mut own, usual, "1GB").expect("a root");
        assert!(own.len() == 1 && own["mine"]["size"] == "1GB");
        assert!(sized(&mut BTreeMap::new(), BTreeMap::new(), "1GB").is_err());
    }
}
