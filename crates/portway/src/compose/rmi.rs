//! The images that `down` removes.

use std::collections::BTreeSet;

use portway_compose::build;
use portway_compose::observe::{Observed, has_images};
use portway_incus::{Image, IncusError, RemoteImage, ResourceId};

use super::build::tell;
use super::stage::{Stage, server, warn};
use crate::cli::compose::lifecycle::{DownArgs, RmiArg};
use crate::failure::{Outcome, Stop, chain};

/// Removes images of a project: those that were built for it, and with `all` those that the server has fetched for its
/// instances and that nobody has named. What somebody has put there by hand stays.
pub(super) fn run(
    stage: &Stage,
    (name, project): (&str, Option<&str>),
    seen: &Observed,
    which: RmiArg,
    args: &DownArgs,
) -> Outcome {
    let used: BTreeSet<&String> = seen
        .ours(name)
        .filter(|(_, one)| means(args, one.service()))
        .filter_map(|(_, one)| one.config.get("volatile.base_image"))
        .collect();
    // A project that has images of its own takes them along.
    let place = project.filter(|_| has_images(seen.project.as_ref())).unwrap_or("default");
    let id = ResourceId::Project { name: place.to_owned() };
    if stage.runtime.block_on(stage.client.resource(&id)).map_err(|error| server(&error))?.is_none() {
        return Ok(());
    }
    let all = stage.runtime.block_on(stage.client.images(place)).map_err(|error| server(&error))?;
    // Earlier ones of the same name go too.
    let sources = all.iter().filter(|image| used.contains(&image.fingerprint));
    let sources: Vec<&RemoteImage> = sources.filter_map(|image| image.source.as_ref()).collect();
    let is_meant = |image: &Image| {
        let of = |key: &str| image.properties.get(key).map(String::as_str);
        let is_built = of(build::PROJECT) == Some(name);
        let is_due = used.contains(&image.fingerprint) || args.services.is_empty();
        match which {
            RmiArg::Local => is_built && is_due && of(build::NAMED) != Some("true"),
            RmiArg::All => {
                let is_fetched = image.source.as_ref().is_some_and(|from| sources.contains(&from));
                is_built && is_due || is_fetched && image.aliases.is_empty()
            }
        }
    };
    let mut stays = 0;
    for image in all.iter().filter(|image| is_meant(image)) {
        let short = image.fingerprint.get(..12).unwrap_or(&image.fingerprint);
        let described = image.properties.get("description").map_or(short, String::as_str);
        if args.change.dry_run {
            crate::output::Out::new()
                .line(&crate::failure::printable(&format!("remove image {described}")))?;
            continue;
        }
        match stage.runtime.block_on(stage.client.remove_image(place, &image.fingerprint)) {
            Ok(_) => tell(&build::Output::default(), &format!("image {described}  removed")),
            Err(error @ IncusError::Unreachable { .. }) => return Err(server(&error)),
            Err(error) => {
                stays += 1;
                warn(&format!("image {described} stays: {}", chain(&error)));
            }
        }
    }
    match stays {
        0 => Ok(()),
        1 => Err(Stop::refused("an image could not be removed")),
        count => Err(Stop::refused(format!("{count} images could not be removed"))),
    }
}

fn means(args: &DownArgs, service: Option<&str>) -> bool {
    args.services.is_empty() || args.services.iter().any(|name| Some(name.as_str()) == service)
}
