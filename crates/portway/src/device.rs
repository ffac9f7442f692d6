//! `portway device`: add, change and list devices through the daemon.

use portway_control::Direction;
use portway_control::api::{AddDevice, ChangeDevice, Device, DeviceState};

use crate::cli::keys::{self, Pairs};
use crate::cli::target;
use crate::cli::{
    AddArgs, AdoptArgs, ConnectionsArgs, DeviceCommand, ListArgs, RemoveArgs, RenameArgs, SetArgs, ShowArgs,
    UnsetArgs,
};
use crate::failure::{Outcome, Stop};
use crate::moves;
use crate::output::{Format, Out, human};
use crate::session::Session;

mod connections;
mod list;
mod show;

pub(crate) use connections::{client, tone};
pub(crate) use list::{bytes, state_word};

#[cfg(test)]
pub(crate) use connections::tests::sample as connections_sample;

#[cfg(test)]
pub(crate) fn connection() -> portway_control::api::Connection {
    connections_sample().connections.swap_remove(0)
}

#[cfg(test)]
pub(crate) fn sample() -> Device {
    let [device, ..] = list::tests::devices();
    device
}

/// Runs one of the commands.
pub(crate) fn run(command: &DeviceCommand) -> Outcome {
    match command {
        DeviceCommand::Add(args) => add(args),
        DeviceCommand::Set(args) => set(args),
        DeviceCommand::Unset(args) => unset(args),
        DeviceCommand::Remove(args) => remove(args),
        DeviceCommand::Rename(args) => rename(args),
        DeviceCommand::Show(args) => show(args),
        DeviceCommand::List(args) => list(args),
        DeviceCommand::Connections(args) => connections(args),
        DeviceCommand::Adopt(args) => adopt(args),
        DeviceCommand::Import(args) => moves::run(Direction::Import, args),
        DeviceCommand::Export(args) => moves::run(Direction::Export, args),
    }
}

fn add(args: &AddArgs) -> Outcome {
    let key = target::device(&args.instance, &args.device)?;
    let keys = keys::pairs(keys::without_type(&args.pairs)?)?;
    keys::spec(&keys)?;
    let session = Session::open()?;
    let body = AddDevice { instance: key.instance, name: key.device, keys };
    let device = session.run("adding the device", session.client.add(&body))?;
    changed(&device, "added to", args.format.format)
}

fn set(args: &SetArgs) -> Outcome {
    let key = target::device(&args.instance, &args.device)?;
    let set = match args.pairs.as_slice() {
        [name, value] if !name.contains('=') => Pairs::from([(name.clone(), value.clone())]),
        pairs => keys::pairs(pairs)?,
    };
    change(&key, &ChangeDevice { set, unset: Vec::new() }, args.format.format)
}

fn unset(args: &UnsetArgs) -> Outcome {
    let key = target::device(&args.instance, &args.device)?;
    if let Some(pair) = args.keys.iter().find(|key| key.contains('=')) {
        return Err(Stop::usage(format!("argument `{pair}` is not a key"))
            .hint("unset takes keys alone; values are changed with `portway device set`"));
    }
    change(&key, &ChangeDevice { set: Pairs::new(), unset: args.keys.clone() }, args.format.format)
}

fn change(key: &portway_model::DeviceKey, change: &ChangeDevice, format: Format) -> Outcome {
    let session = Session::open()?;
    let answer = session.run("changing the device", session.client.set(key, change))?;
    match format {
        Format::Table if !answer.changed => changed(&answer.device, "unchanged on", format),
        Format::Table | Format::Csv => changed(&answer.device, "changed on", format),
        Format::Json => Out::new().json(&answer),
        Format::Yaml => Out::new().yaml(&answer),
    }
}

fn rename(args: &RenameArgs) -> Outcome {
    let key = target::device(&args.instance, &args.device)?;
    let new = target::device_name(&args.new)?;
    let session = Session::open()?;
    let device = session.run("renaming the device", session.client.rename(&key, new))?;
    if args.format.format != Format::Table {
        return changed(&device, "", args.format.format);
    }
    let place = target::short(&device.instance, target::default_provider());
    Out::new().line(&format!("Device {} of {place} is named {}", key.device, device.name))
}

/// Removes one after the other; the first that fails stops it, and those before it stay removed.
fn remove(args: &RemoveArgs) -> Outcome {
    let keys: Vec<_> =
        args.devices.iter().map(|name| target::device(&args.instance, name)).collect::<Outcome<_>>()?;
    let session = Session::open()?;
    let mut out = Out::new();
    for key in keys {
        session.run("removing the device", session.client.remove(&key))?;
        let place = target::short(&key.instance, target::default_provider());
        out.line(&format!("Device {} removed from {place}", key.device))?;
    }
    Ok(())
}

fn show(args: &ShowArgs) -> Outcome {
    let instance = args.instance.key()?;
    let session = Session::open()?;
    let mut out = Out::new();
    let Some(name) = &args.device else {
        let devices = session.run("asking the daemon", session.client.devices(Some(&instance)))?;
        return show::many(&mut out, &devices, args.format.format);
    };
    let key = portway_model::DeviceKey { instance, device: target::device_name(name)? };
    let device = session.run("asking the daemon", session.client.device(&key))?;
    show::one(&mut out, &device, args.format.format)
}

fn list(args: &ListArgs) -> Outcome {
    let project = args.project.as_deref().map(target::project).transpose()?;
    let instance =
        args.instance.as_deref().map(|text| target::instance(text, args.project.as_deref())).transpose()?;
    let session = Session::open()?;
    let mut devices = session.run("asking the daemon", session.client.devices(instance.as_ref()))?;
    if instance.is_none() && project.is_some() {
        devices.retain(|device| device.instance.project() == project.as_ref());
    }
    devices.sort_by(|a, b| (&a.instance, &a.name).cmp(&(&b.instance, &b.name)));
    list::print(&mut Out::new(), &devices, args.format.format)
}

fn connections(args: &ConnectionsArgs) -> Outcome {
    let key = target::device(&args.instance, &args.device)?;
    let session = Session::open()?;
    let question = session.client.connections(&key, args.limit);
    let found = session.run("asking the daemon", question)?;
    connections::print(&mut Out::new(), &found, args.format.format)
}

fn adopt(args: &AdoptArgs) -> Outcome {
    let instance = args.instance.key()?;
    let session = Session::open()?;
    let devices = session.run("adopting", session.client.adopt(&instance))?;
    let mut out = Out::new();
    if args.format.format != Format::Table {
        return show::many(&mut out, &devices, args.format.format);
    }
    let place = target::short(&instance, target::default_provider());
    let number = u64::try_from(devices.len()).unwrap_or(u64::MAX);
    out.line(&format!("{place} has {} now", human::count(number, "device")))?;
    devices.iter().try_for_each(|device| out.line(&sentence(device, "adopted by")))
}

/// Says what became of a device.
fn changed(device: &Device, what: &str, format: Format) -> Outcome {
    let mut out = Out::new();
    match format {
        Format::Table => out.line(&sentence(device, what)),
        format => show::one(&mut out, device, format),
    }
}

/// `Device web added to c1`, and what it waits for when it does not serve.
fn sentence(device: &Device, what: &str) -> String {
    let place = target::short(&device.instance, target::default_provider());
    let done = format!("Device {} {what} {place}", device.name);
    let why = device.reason.as_deref().or(device.last_error.as_deref());
    let text = match (device.state, why) {
        (DeviceState::Active, _) => done,
        (state, Some(why)) => format!("{done}; {}: {why}", state_word(state)),
        (state, None) => format!("{done}; {}", state_word(state)),
    };
    crate::failure::printable(&text)
}
