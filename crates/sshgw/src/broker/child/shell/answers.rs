//! Lines that only ask.

use std::fmt::Write as _;
use std::net::IpAddr;

use portway_incus::{Client, Device, InstanceKind, Interface, Listed, ResourceId, Shelf};

use super::Done;
use super::changes::absent;
use super::fence::{Fence, Spot, said};
use crate::auth::source::is_like;
use crate::broker::open::Refusal;
use crate::broker::turns::Place as Turn;
use crate::policy::Action;
use crate::shell::{Format, Instance, Place, Table, calm};

/// Of a fingerprint as much as the clients show.
const FINGERPRINT: usize = 12;

impl Fence<'_> {
    /// The instances of a project, or of all, as far as he may see them.
    pub(super) async fn list(
        &self,
        place: &Place,
        everywhere: bool,
        patterns: &[String],
        format: Format,
    ) -> Result<Done, Refusal> {
        let spot = self.spot(place);
        let client = self.client(&spot.remote)?;
        let projects = if everywhere {
            self.reaches(&spot.remote, None)?;
            self.project_names(&spot.remote).await?
        } else {
            self.reaches(&spot.remote, Some(&spot.project))?;
            vec![spot.project.clone()]
        };
        let mut table = if everywhere {
            Table::new(&["PROJECT", "NAME", "STATE", "IPV4", "IPV6", "TYPE"])
        } else {
            Table::new(&["NAME", "STATE", "IPV4", "IPV6", "TYPE"])
        };
        for project in projects {
            let spot = Spot { remote: spot.remote.clone(), project };
            let mut found = client.measure(&spot.project).await.map_err(|error| said(&error))?;
            found.sort_by(|one, other| one.definition.name.cmp(&other.definition.name));
            let is_asked =
                |name: &str| patterns.is_empty() || patterns.iter().any(|pattern| is_like(name, pattern));
            for listed in found {
                let name = &listed.definition.name;
                if is_asked(name) && self.sees(&spot, name) {
                    let project = Some(spot.project.clone()).filter(|_| everywhere);
                    table.line(project.into_iter().chain(line(&listed)).collect());
                }
            }
        }
        Ok(Done::said(table.text(format)))
    }

    /// What an instance is at.
    pub(super) async fn info(&self, instance: &Instance) -> Result<Done, Refusal> {
        let (client, place) = self.at(Action::IncusShell, instance)?;
        let (_, project, name) = &place;
        // The server measures all of a project, or none.
        let found = client.measure(project).await.map_err(|error| said(&error))?;
        let found = found.into_iter().find(|listed| listed.definition.name == *name);
        let found = found.ok_or_else(|| absent(&place))?;
        Ok(Done::said(facts(&found)))
    }

    /// The configuration of an instance, as YAML.
    pub(super) async fn show(
        &self,
        client: &Client,
        place: &Turn,
        is_expanded: bool,
    ) -> Result<Done, Refusal> {
        let (_, project, name) = place;
        let found = client.listing(project, name).await.map_err(|error| said(&error))?;
        let found = found.ok_or_else(|| absent(place))?;
        let definition = &found.definition;
        let mut text = format!("name: {}\nproject: {}\n", quoted(name), quoted(project));
        // Writing to a String cannot fail.
        let _infallible =
            writeln!(text, "type: {}\nstatus: {}", definition.kind.as_str(), quoted(&found.status));
        let profiles: Vec<String> = definition.profiles().iter().map(|name| quoted(name)).collect();
        let _infallible = writeln!(text, "profiles: [{}]", profiles.join(", "));
        let own = definition.config_below("").filter(|(key, _)| is_expanded || !key.starts_with("volatile."));
        let config: Vec<(String, String)> = if is_expanded {
            found.expanded_config.clone().into_iter().collect()
        } else {
            own.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
        };
        let begun = if config.is_empty() { "config: {}\n" } else { "config:\n" };
        text.push_str(begun);
        for (key, value) in config {
            let _infallible = writeln!(text, "  {}: {}", quoted(&key), quoted(&value));
        }
        let devices = if is_expanded { definition.expanded_devices.clone() } else { definition.devices() };
        text.push_str(if devices.is_empty() { "devices: {}\n" } else { "devices:\n" });
        for (name, device) in &devices {
            put_device(&mut text, name, device);
        }
        Ok(Done::said(text))
    }

    /// Snapshots of an instance.
    pub(super) async fn snapshots(
        &self,
        client: &Client,
        place: &Turn,
        format: Format,
    ) -> Result<Done, Refusal> {
        let found = client.snapshots(&place.1, &place.2).await.map_err(|error| said(&error))?;
        let mut table = Table::new(&["NAME", "TAKEN AT", "EXPIRES AT"]);
        for snapshot in found.ok_or_else(|| absent(place))? {
            // The year 1, as Go has it, and 1970.
            let is_never = ["0001-", "1970-"].iter().any(|year| snapshot.expires_at.starts_with(year));
            let expires = if is_never { String::new() } else { second(&snapshot.expires_at) };
            table.line(vec![snapshot.name, second(&snapshot.created_at), expires]);
        }
        Ok(Done::said(table.text(format)))
    }

    /// Images of a project.
    pub(super) async fn images(&self, place: &Place, format: Format) -> Result<Done, Refusal> {
        let spot = self.spot(place);
        self.may(Action::IncusShell, &spot, None)?;
        let found = self.client(&spot.remote)?.images(&spot.project).await.map_err(|error| said(&error))?;
        let mut table = Table::new(&["ALIAS", "FINGERPRINT", "DESCRIPTION", "SIZE MIB", "UPLOADED AT"]);
        for image in found {
            let description = image.properties.get("description").cloned().unwrap_or_default();
            let fingerprint = image.fingerprint.chars().take(FINGERPRINT).collect();
            let size = (image.size_bytes >> 20).to_string();
            table.line(vec![
                image.aliases.join(" "),
                fingerprint,
                description,
                size,
                second(&image.uploaded_at),
            ]);
        }
        Ok(Done::said(table.text(format)))
    }

    /// Networks that the server manages for a project.
    pub(super) async fn networks(&self, place: &Place, format: Format) -> Result<Done, Refusal> {
        let spot = self.spot(place);
        self.may(Action::IncusShell, &spot, None)?;
        let shelf = Shelf::Networks { project: spot.project.clone() };
        let found = self.client(&spot.remote)?.resources(&shelf).await.map_err(|error| said(&error))?;
        let mut table = Table::new(&["NAME", "IPV4", "IPV6"]);
        for network in found.into_iter().filter(|network| network.is_managed) {
            let ResourceId::Network { name, .. } = network.id else { continue };
            let of = |key: &str| network.config.get(key).cloned().unwrap_or_default();
            table.line(vec![name, of("ipv4.address"), of("ipv6.address")]);
        }
        Ok(Done::said(table.text(format)))
    }

    /// Projects in which there may be something for him.
    pub(super) async fn projects(&self, remote: Option<String>, format: Format) -> Result<Done, Refusal> {
        let remote = self.remote(remote.as_deref());
        self.reaches(&remote, None)?;
        let mut table = Table::new(&["NAME"]);
        for name in self.project_names(&remote).await? {
            let is_this = format == Format::Table && remote == self.remote(None) && name == self.line.project;
            table.line(vec![if is_this { format!("{name} (current)") } else { name }]);
        }
        Ok(Done::said(table.text(format)))
    }

    pub(super) async fn project_names(&self, remote: &str) -> Result<Vec<String>, Refusal> {
        let found = self.client(remote)?.resources(&Shelf::Projects).await.map_err(|error| said(&error))?;
        let names = found.into_iter().filter_map(|project| match project.id {
            ResourceId::Project { name } => Some(name),
            _ => None,
        });
        let mut names: Vec<String> = names.filter(|name| self.reaches(remote, Some(name)).is_ok()).collect();
        names.sort();
        Ok(names)
    }

    /// Which server it is.
    pub(super) async fn version(&self, remote: Option<String>) -> Result<Done, Refusal> {
        let remote = self.remote(remote.as_deref());
        self.reaches(&remote, None)?;
        let server = self.client(&remote)?.server().await.map_err(|error| said(&error))?;
        Ok(Done::said(format!("{} {}\n", server.product, server.version)))
    }
}

/// An instance among others.
fn line(listed: &Listed) -> Vec<String> {
    let of = |is_asked: fn(&IpAddr) -> bool| {
        let interfaces = listed.measured.iter().flat_map(|measured| &measured.interfaces);
        let each = interfaces.flat_map(|(name, Interface { addresses, .. })| {
            addresses
                .iter()
                .filter(move |address| is_asked(address))
                .map(move |address| format!("{address} ({name})"))
        });
        each.collect::<Vec<_>>().join(" ")
    };
    vec![
        listed.definition.name.clone(),
        listed.status.to_uppercase(),
        of(IpAddr::is_ipv4),
        of(IpAddr::is_ipv6),
        kind(listed).to_uppercase(),
    ]
}

fn kind(listed: &Listed) -> &'static str {
    match listed.definition.kind {
        InstanceKind::Container => "container",
        InstanceKind::Vm => "virtual-machine",
    }
}

/// All that is known of an instance at a look.
fn facts(listed: &Listed) -> String {
    let definition = &listed.definition;
    let mut text = format!(
        "Name: {}\nProject: {}\nStatus: {}\nType: {}\nCreated: {}\n",
        calm(&definition.name),
        calm(&definition.project),
        calm(&listed.status),
        kind(listed),
        second(&listed.created_at)
    );
    // Before 1970 when it has never run.
    if !["0001-", "1970-"].iter().any(|year| listed.last_used_at.starts_with(year)) {
        let _infallible = writeln!(text, "Last started: {}", second(&listed.last_used_at));
    }
    if !matches!(listed.location.as_str(), "" | "none") {
        let _infallible = writeln!(text, "Location: {}", calm(&listed.location));
    }
    let Some(measured) = listed.measured.as_ref().filter(|measured| measured.processes > 0) else {
        return text;
    };
    let _infallible = writeln!(
        text,
        "Processes: {}\nCPU time: {} s\nMemory: {} MiB",
        measured.processes,
        measured.cpu.as_secs(),
        measured.memory_bytes >> 20
    );
    for (name, interface) in &measured.interfaces {
        let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
        let _infallible = writeln!(
            text,
            "Network {}: {}, {} MiB in, {} MiB out",
            calm(name),
            addresses.join(" "),
            interface.received_bytes >> 20,
            interface.sent_bytes >> 20
        );
    }
    text
}

fn put_device(text: &mut String, name: &str, device: &Device) {
    let _infallible = writeln!(text, "  {}:", quoted(name));
    for (key, value) in device {
        let _infallible = writeln!(text, "    {}: {}", quoted(key), quoted(value));
    }
}

/// A text in double quotes where it needs some, which YAML and JSON write alike.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_word =
        matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off");
    if begins && text.chars().all(plain) && !is_word {
        return text.to_owned();
    }
    serde_json::to_string(text).unwrap_or_default()
}

/// A time of the API's, to the second.
fn second(time: &str) -> String {
    let end = time.find('.').unwrap_or(time.len());
    calm(time.get(..end).unwrap_or_default()).replace('T', " ")
}
