//! `portway mesh org`, `key` and `device`: what the owner of a registrar asks it for. What a device asks for itself is
//! [`join`]'s.

use std::io::{self, Write as _};
use std::time::Duration;

use portway_mesh::org::registrar::{admin, run};
use portway_mesh::org::{ClientError, DeviceName, KeyId, OrgName, Owner};
use portway_model::{CidrList, parse_duration, rfc3339};
use serde::Serialize;

use super::registrar::folder;
use super::{clash, denied, join};
use crate::cli::mesh::orgs::{
    DeviceCommand, DeviceSetHubArgs, KeyCommand, KeyCreateArgs, OfOrg, OrgCommand, OrgCreateArgs, StateArg,
};
use crate::failure::{Outcome, Stop};
use crate::output::table::{self, Text};
use crate::output::{Format, Out, csv};
use crate::session::runtime;

/// Longest time that anything can be given: ten years.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

fn ask<T>(state: &StateArg, work: impl AsyncFnOnce(&Owner) -> Result<T, ClientError>) -> Outcome<T> {
    let owner = Owner::new(&run::socket(&folder(state)?));
    runtime()?.block_on(work(&owner)).map_err(|error| match &error {
        ClientError::Unreachable { .. } => {
            denied(&error).hint("start it with: portway mesh registrar, or name its folder with --state")
        }
        _ => denied(&error),
    })
}

fn seconds(what: &str, text: &str) -> Outcome<u64> {
    let duration = parse_duration(text, Duration::ZERO, LONGEST);
    Ok(duration.map_err(|error| Stop::usage(format!("{what}: {error}")))?.as_secs())
}

/// The name is checked here, so that it is nothing but a part of a path there.
fn path(of: &OfOrg, rest: &str) -> Outcome<String> {
    let org: OrgName = of.org.parse().map_err(|error| Stop::usage(format!("--org: {error}")))?;
    Ok(format!("/v1/orgs/{org}/{rest}"))
}

/// Rows for people and programs.
fn print<T: Serialize, const N: usize>(
    format: Format,
    items: &T,
    header: [&str; N],
    rows: Vec<[String; N]>,
) -> Outcome {
    let mut out = Out::new();
    match format {
        Format::Json => out.json(items),
        Format::Yaml => out.yaml(items),
        Format::Csv => {
            let lines: String = rows.into_iter().map(csv::line).collect();
            out.text(&(csv::line(header) + &lines))
        }
        Format::Table => {
            let header = header.map(str::to_uppercase);
            let rows = rows.into_iter().map(|row| row.map(Text::new)).collect();
            let text = table::render(header.each_ref().map(String::as_str), rows, out.look);
            out.text(&text)
        }
    }
}

/// Runs `portway mesh org …`.
pub(super) fn org(command: &OrgCommand) -> Outcome {
    let (orgs, format) = match command {
        OrgCommand::Create(args) => (vec![create(args)?], args.format.format),
        OrgCommand::List(args) => {
            let all: Vec<admin::Org> = ask(&args.state, async |owner| owner.get("/v1/orgs").await)?;
            (all, args.format.format)
        }
    };
    let row = |org: &admin::Org| {
        [
            org.name.clone(),
            org.network.clone(),
            org.network6.clone(),
            org.devices.to_string(),
            org.key.clone(),
        ]
    };
    let rows = orgs.iter().map(row).collect();
    print(format, &orgs, ["name", "network", "network6", "devices", "key"], rows)
}

fn create(args: &OrgCreateArgs) -> Outcome<admin::Org> {
    let new = admin::NewOrg {
        name: args.name.clone(),
        network: args.network.clone(),
        reserved: args.reserved.clone(),
        quarantine_seconds: seconds("--quarantine", &args.quarantine)?,
    };
    let made: admin::Org = ask(&args.state, async |owner| owner.post("/v1/orgs", &new).await)?;
    let blocks: CidrList = made.network.parse().unwrap_or_default();
    if let Some(clash) = clash::with_host(blocks.blocks().iter().copied()) {
        // Nobody may read along.
        let _unheard =
            writeln!(io::stderr(), "warning: {clash}\nhint: --network gives it other addresses, at first");
    }
    Ok(made)
}

/// Runs `portway mesh key …`.
pub(super) fn key(command: &KeyCommand) -> Outcome {
    match command {
        KeyCommand::Create(args) => create_key(args),
        KeyCommand::Revoke(args) => {
            let id: KeyId = args.id.parse().map_err(|error| Stop::usage(format!("{error}")))?;
            let path = path(&args.of, &format!("keys/{id}"))?;
            ask(&args.of.state, async |owner| owner.delete(&path).await)
        }
        KeyCommand::List(args) => {
            let path = path(&args.of, "keys")?;
            let keys: Vec<admin::Key> = ask(&args.of.state, async |owner| owner.get(&path).await)?;
            let row = |key: &admin::Key| {
                [
                    key.id.clone(),
                    key.uses_left.map_or_else(|| "any".to_owned(), |left| left.to_string()),
                    key.not_after.map_or_else(|| "never".to_owned(), date),
                    key.tags.join(" "),
                    key.routes.join(" "),
                ]
            };
            let rows = keys.iter().map(row).collect();
            print(args.format.format, &keys, ["id", "uses_left", "expires", "tags", "routes"], rows)
        }
    }
}

fn date(seconds: u64) -> String {
    rfc3339(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
}

fn create_key(args: &KeyCreateArgs) -> Outcome {
    let uses = match args.uses.as_str() {
        "any" => None,
        digits => Some(digits.parse().ok().filter(|uses| *uses > 0).ok_or_else(|| {
            Stop::usage(format!("--uses {digits} is neither a number from 1 to {} nor any", u32::MAX))
        })?),
    };
    let expires_seconds = match args.expires.as_str() {
        "never" => None,
        text => Some(seconds("--expires", text)?),
    };
    let new = admin::NewKey { uses, expires_seconds, tags: args.tags.clone(), routes: args.routes.clone() };
    let path = path(&args.of, "keys")?;
    let made: admin::Key = ask(&args.of.state, async |owner| owner.post(&path, &new).await)?;
    Out::new().line(made.token.as_deref().map_or("", String::as_str))
}

fn set_hub(args: &DeviceSetHubArgs) -> Outcome {
    let name: DeviceName =
        args.name.parse().map_err(|error| Stop::usage(format!("device {}: {error}", args.name)))?;
    let path = path(&args.of, &format!("devices/{name}/hub"))?;
    let wanted = admin::SetHub { hub: !args.off };
    let member: admin::Member = ask(&args.of.state, async |owner| owner.put(&path, &wanted).await)?;
    if member.hub {
        super::proxy::trouble(
            "note: devices of versions without hubs believe no change from here on, and no revocation: bring them up to date",
        );
    }
    if member.hub && member.endpoints.is_empty() {
        super::proxy::trouble(&format!(
            "warning: {name} has not said where it is reached: nobody is passed on by it yet"
        ));
    }
    Ok(())
}

/// Runs `portway mesh device …`.
pub(super) fn device(command: &DeviceCommand) -> Outcome {
    match command {
        DeviceCommand::Revoke(args) => {
            let name: DeviceName =
                args.name.parse().map_err(|error| Stop::usage(format!("device {}: {error}", args.name)))?;
            let path = path(&args.of, &format!("devices/{name}"))?;
            ask(&args.of.state, async |owner| owner.delete(&path).await)
        }
        DeviceCommand::SetHub(args) => set_hub(args),
        DeviceCommand::Rotate(args) => join::rotate(args),
        DeviceCommand::List(args) => {
            let path = path(&args.of, "devices")?;
            let members: Vec<admin::Member> = ask(&args.of.state, async |owner| owner.get(&path).await)?;
            let row = |member: &admin::Member| {
                [
                    member.name.clone(),
                    member.ip4.to_string(),
                    member.ip6.to_string(),
                    member.endpoints.join(" "),
                    member.tags.join(" "),
                    member.routes.join(" "),
                    if member.hub { "hub".to_owned() } else { String::new() },
                    date(member.created),
                ]
            };
            let header = ["name", "ip4", "ip6", "endpoints", "tags", "routes", "marks", "joined"];
            let rows = members.iter().map(row).collect();
            print(args.format.format, &members, header, rows)
        }
    }
}
