//! What there is of projects: `portway compose ls`, `images`, `volumes`, `port`.

use std::collections::{BTreeMap, BTreeSet};

use portway_compose::daemon::provider;
use portway_compose::label;
use portway_control::api::FailureKind;
use portway_incus::{Client, Image, Shelf, status_code};
use serde_json::{Value, json};

use super::found::{self, Detail, Replica};
use crate::cli::compose::FileArgs;
use crate::cli::compose::inside::{ListArgs, ListFormat, PortArgs, ProjectsArgs};
use crate::failure::{Outcome, Stop, printable};
use crate::output::table::{Text, render};
use crate::output::{Out, human};
use crate::session::{Session, runtime};

/// Prints the projects the server has.
pub(super) fn projects(args: &ProjectsArgs) -> Outcome {
    let name = |filter: &String| match filter.split_once('=') {
        Some(("name", text)) => Ok(text.to_owned()),
        _ => Err(Stop::usage(format!("--filter: {filter:?}: say name=TEXT"))),
    };
    let names: Vec<String> = args.filter.iter().map(name).collect::<Outcome<_>>()?;
    let client = found::client()?;
    let found = runtime()?.block_on(projects_of(&client))?;
    let mut out = Out::new();
    let is_meant = |name: &str| names.is_empty() || names.iter().any(|text| name.contains(text.as_str()));
    let shown = found
        .iter()
        .filter(|(name, project)| is_meant(name) && (args.all || project.states.contains_key("running")));
    if args.quiet {
        return shown.into_iter().try_for_each(|(name, _)| out.line(&printable(name)));
    }
    match args.format {
        ListFormat::Json => {
            let object = |(name, project): (&String, &Known)| json!({"Name": name, "Status": project.status(), "ConfigFiles": project.folder});
            out.json(&shown.map(object).collect::<Vec<Value>>())
        }
        ListFormat::Table => {
            let row = |(name, project): (&String, &Known)| {
                [Text::new(name), Text::new(project.status()), Text::new(&project.folder)]
            };
            let text = render(["NAME", "STATUS", "FOLDER"], shown.map(row).collect(), out.look);
            out.text(&text)
        }
    }
}

/// A project that the server has.
#[derive(Debug, Default)]
struct Known {
    /// How many instances are in each state.
    states: BTreeMap<&'static str, usize>,
    /// Folder of the files.
    folder: String,
}

impl Known {
    /// `running(2), exited(1)`.
    fn status(&self) -> String {
        let states: Vec<String> =
            self.states.iter().rev().map(|(state, count)| format!("{state}({count})")).collect();
        states.join(", ")
    }
}

async fn projects_of(client: &Client) -> Outcome<BTreeMap<String, Known>> {
    let mut known: BTreeMap<String, Known> = BTreeMap::new();
    let mut places = BTreeSet::new();
    for project in client.resources(&Shelf::Projects).await.map_err(found::failed)? {
        if let Some(name) = project.config.get(label::PROJECT) {
            let folder = project.config.get(label::DIR).cloned().unwrap_or_default();
            known.insert(name.clone(), Known { folder, ..Known::default() });
            places.insert(project.id.name().to_owned());
        }
    }
    for one in client.definitions().await.map_err(found::failed)? {
        if one.config(label::PROJECT).is_some() {
            places.insert(one.project);
        }
    }
    for place in places {
        let all = client.list(&place).await.map_err(found::failed)?;
        let names: BTreeSet<String> = all.iter().map(|one| one.definition.name.clone()).collect();
        for listed in all {
            let Some(name) = listed.definition.config(label::PROJECT) else { continue };
            if !found::is_of(&listed, name, &names) {
                continue;
            }
            let state = match listed.status_code {
                status_code::RUNNING => "running",
                status_code::FROZEN => "paused",
                _ => "exited",
            };
            *known.entry(name.to_owned()).or_default().states.entry(state).or_default() += 1;
        }
    }
    Ok(known)
}

/// Prints the images of a project's instances.
pub(super) fn images(files: &FileArgs, args: &ListArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    let rows = runtime()?.block_on(async {
        let replicas = found::replicas(&client, &name, &args.services, Detail::Listed).await?;
        let mut known: BTreeMap<String, Vec<Image>> = BTreeMap::new();
        for place in replicas.iter().map(Replica::project) {
            if !known.contains_key(place) {
                known.insert(place.to_owned(), client.images(place).await.map_err(found::failed)?);
            }
        }
        let rows: Vec<ImageRow> =
            replicas.iter().map(|replica| ImageRow::of(replica, &known[replica.project()])).collect();
        Ok::<_, Stop>(rows)
    })?;
    let mut out = Out::new();
    if args.quiet {
        let unique: BTreeSet<&String> = rows.iter().map(|row| &row.id).collect();
        return unique.into_iter().try_for_each(|id| out.line(&printable(id)));
    }
    match args.format {
        ListFormat::Json => {
            let object = |row: &ImageRow| json!({"ContainerName": row.instance, "Repository": row.image, "ID": row.id, "Size": row.size_bytes});
            out.json(&rows.iter().map(object).collect::<Vec<_>>())
        }
        ListFormat::Table => {
            let row = |row: &ImageRow| {
                let id = row.id.get(..12).unwrap_or(&row.id);
                let size = row.size_bytes.map(human::bytes).unwrap_or_default();
                [Text::new(&row.instance), Text::new(&row.image), Text::new(id), Text::number(size)]
            };
            let text =
                render(["CONTAINER", "IMAGE", "IMAGE ID", "SIZE"], rows.iter().map(row).collect(), out.look);
            out.text(&text)
        }
    }
}

struct ImageRow {
    instance: String,
    image: String,
    id: String,
    size_bytes: Option<u64>,
}

impl ImageRow {
    fn of(replica: &Replica, known: &[Image]) -> Self {
        let definition = &replica.listed.definition;
        let id = definition.config("volatile.base_image").unwrap_or_default();
        let image = known.iter().find(|image| image.fingerprint == id);
        let of_image = |image: &Image| {
            let source = image.source.as_ref().map(|source| source.alias.clone());
            source.filter(|alias| !alias.is_empty()).or_else(|| image.aliases.first().cloned())
        };
        let described = definition.config("image.description").map(str::to_owned);
        Self {
            instance: replica.name().to_owned(),
            image: image.and_then(of_image).or(described).unwrap_or_default(),
            id: id.to_owned(),
            size_bytes: image.map(|image| image.size_bytes),
        }
    }
}

/// Prints a project's volumes.
pub(super) fn volumes(files: &FileArgs, args: &ListArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    let rows = runtime()?.block_on(volumes_of(&client, &name, &args.services))?;
    let mut out = Out::new();
    if args.quiet {
        return rows.iter().try_for_each(|(name, _)| out.line(&printable(name)));
    }
    match args.format {
        ListFormat::Json => {
            let object = |(name, pool): &(String, String)| json!({"Name": name, "Driver": pool});
            out.json(&rows.iter().map(object).collect::<Vec<_>>())
        }
        ListFormat::Table => {
            let row = |(name, pool): &(String, String)| [Text::new(name), Text::new(pool)];
            let text = render(["VOLUME NAME", "POOL"], rows.iter().map(row).collect(), out.look);
            out.text(&text)
        }
    }
}

/// Names and pools; with services only those they mount.
pub(super) async fn volumes_of(
    client: &Client,
    name: &str,
    services: &[String],
) -> Outcome<Vec<(String, String)>> {
    let replicas = found::replicas(client, name, services, Detail::Listed).await?;
    let mounted = |volume: &str| {
        let mut devices =
            replicas.iter().flat_map(|replica| replica.listed.definition.devices().into_values());
        devices.any(|device| device.get("source").map(String::as_str) == Some(volume))
    };
    let mut rows = Vec::new();
    for project in found::places(client, name).await? {
        for pool in client.pools().await.map_err(found::failed)? {
            let shelf = Shelf::Volumes { project: project.clone(), pool: pool.name.clone() };
            for volume in client.resources(&shelf).await.map_err(found::failed)? {
                let ours = label::are_of(&volume.config, name, volume.id.name());
                if ours && (services.is_empty() || mounted(volume.id.name())) {
                    rows.push((volume.id.name().to_owned(), pool.name.clone()));
                }
            }
        }
    }
    Ok(rows)
}

/// Prints where a port of a service is published.
pub(super) fn port(files: &FileArgs, args: &PortArgs) -> Outcome {
    let name = found::name(files)?;
    let client = found::client()?;
    let replica = runtime()?.block_on(found::replica(&client, &name, &args.service, args.index))?;
    let own = replica.listed.definition.expanded_devices.values();
    let of_server = own.filter(|device| device.get("type").map(String::as_str) == Some("proxy"));
    let mut pairs: Vec<(String, String)> = of_server
        .filter_map(|device| Some((device.get("listen")?.clone(), device.get("connect")?.clone())))
        .collect();
    pairs.extend(devices(&client, &replica)?);
    let found = pairs.iter().find_map(|(listen, connect)| published(listen, connect, args));
    match found {
        Some(address) => Out::new().line(&printable(&address)),
        None => Err(Stop::refused(format!(
            "port {}/{} of {} is not published",
            args.private_port,
            args.protocol,
            replica.name()
        ))),
    }
}

/// Devices of Portway, where its daemon answers.
fn devices(client: &Client, replica: &Replica) -> Outcome<Vec<(String, String)>> {
    let unreachable =
        |stop: &Stop| matches!(stop, Stop::Failed(failure) if failure.kind == FailureKind::Unreachable);
    let session = match Session::open() {
        Err(stop) if unreachable(&stop) => return Ok(Vec::new()),
        session => session?,
    };
    let all = match session.run("reading devices", session.client.devices(None)) {
        Ok(all) => all,
        Err(stop) if unreachable(&stop) => return Ok(Vec::new()),
        Err(stop) => return Err(stop),
    };
    let server = runtime()?.block_on(client.server()).map_err(found::failed)?;
    let own = all.into_iter().filter(|device| {
        let key = &device.instance;
        key.provider() == provider(&server)
            && key.project().is_some_and(|project| project.as_str() == replica.project())
            && key.name().to_string() == replica.name()
    });
    Ok(own.map(|device| (device.listen, device.connect)).collect())
}

/// The address of the listen side that leads to the port: of two ranges of one length, the port in the same place.
fn published(listen: &str, connect: &str, args: &PortArgs) -> Option<String> {
    let (from, from_ports) = side(listen, &args.protocol)?;
    let (_, to_ports) = side(connect, &args.protocol)?;
    let at = to_ports.iter().position(|port| *port == args.private_port)?;
    let port = match from_ports.as_slice() {
        [one] => one,
        ports => ports.get(at).filter(|_| ports.len() == to_ports.len())?,
    };
    let host = if from.is_empty() { "0.0.0.0" } else { from };
    Some(format!("{host}:{port}"))
}

/// Address and ports of one side of a device, when it is of this protocol: `tcp:0.0.0.0:80-82,90`.
fn side<'a>(text: &'a str, protocol: &str) -> Option<(&'a str, Vec<u16>)> {
    let rest = text.strip_prefix(protocol)?.strip_prefix(':')?;
    let (address, ports) = rest.rsplit_once(':')?;
    let range = |text: &str| -> Option<Vec<u16>> {
        match text.split_once('-') {
            Some((first, last)) => Some((first.parse().ok()?..=last.parse().ok()?).collect()),
            None => Some(vec![text.parse().ok()?]),
        }
    };
    let ports: Option<Vec<Vec<u16>>> = ports.split(',').map(range).collect();
    Some((address, ports?.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_found_in_its_place() {
        let of = |listen: &str, connect: &str, private_port, protocol: &str| {
            let args =
                PortArgs { index: None, protocol: protocol.to_owned(), service: String::new(), private_port };
            published(listen, connect, &args)
        };
        let single = ("tcp:0.0.0.0:8080", "tcp:127.0.0.1:80");
        assert_eq!(of(single.0, single.1, 80, "tcp").as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(of(single.0, single.1, 80, "udp"), None);
        assert_eq!(of(single.0, single.1, 81, "tcp"), None);
        assert_eq!(of("tcp::8080", "tcp:127.0.0.1:80", 80, "tcp").as_deref(), Some("0.0.0.0:8080"));
        assert_eq!(of("udp:[::1]:53", "udp:127.0.0.1:53", 53, "udp").as_deref(), Some("[::1]:53"));
        assert_eq!(
            of("tcp:1.2.3.4:90-92,99", "tcp:127.0.0.1:10-12,20", 12, "tcp").as_deref(),
            Some("1.2.3.4:92")
        );
        assert_eq!(
            of("tcp:1.2.3.4:90-92,99", "tcp:127.0.0.1:10-12,20", 20, "tcp").as_deref(),
            Some("1.2.3.4:99")
        );
        assert_eq!(of("tcp:1.2.3.4:90-91", "tcp:127.0.0.1:10-12", 12, "tcp"), None);
        assert_eq!(of("unix:/run/x", "tcp:127.0.0.1:10", 10, "tcp"), None);
    }
}
