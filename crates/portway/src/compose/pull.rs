//! `pull`: the server fetches images.

use std::collections::BTreeSet;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use portway_compose::build::Output;
use portway_compose::want::ImageSource;
use portway_incus::RemoteImage;

use super::build::{is_watched, selected, tell, wanted};
use super::stage::{Stage, server, warn};
use crate::cli::compose::FileArgs;
use crate::cli::compose::images::{PullArgs, PullPolicy};
use crate::failure::{Outcome, Stop, printable};

/// Runs it.
pub(super) fn run(files: &FileArgs, args: &PullArgs) -> Outcome {
    super::without_healthd(args.no_healthd || args.healthd_image.is_some());
    let (stage, want) = wanted(files, &args.services)?;
    let services = selected(&want, &args.services, args.include_deps);
    let images = services.iter().filter_map(|name| Some(&want.services.get(name)?.image));
    let images: BTreeSet<&String> = images.collect();
    let output = Output { is_quiet: args.quiet, progress: None };
    let there = match args.policy {
        PullPolicy::Always => None,
        PullPolicy::Missing => Some(stage.look(&want.incus_project, Some(&want))?.images),
    };
    let place = super::build::place(&stage, &want)?;
    for name in images {
        let Some(image) = want.images.get(name) else { continue };
        let Some(remote) = image.source.remote() else {
            if !(args.ignore_buildable && matches!(image.source, ImageSource::Built(_))) {
                let why = match image.source {
                    ImageSource::Built(_) => "it is built here",
                    _ => "it is the server's own",
                };
                tell(&output, &format!("image {name}  not fetched: {why}"));
            }
            continue;
        };
        if there.as_ref().is_some_and(|there| there.contains_key(name)) {
            tell(&output, &format!("image {name}  there"));
            continue;
        }
        match fetch(&stage, place, name, &remote, &output) {
            Err(Stop::Failed(failure)) if args.ignore_pull_failures => warn(&failure.error),
            fetched => fetched?,
        }
    }
    Ok(())
}

fn fetch(stage: &Stage, place: &str, name: &str, remote: &RemoteImage, output: &Output<'_>) -> Outcome {
    tell(output, &format!("image {name}  fetching"));
    let bar = (is_watched() && !output.is_quiet)
        .then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
    if let (Some(bar), Ok(style)) = (&bar, ProgressStyle::with_template("{spinner} {msg} {elapsed}")) {
        bar.set_style(style);
    }
    let fetched = stage.runtime.block_on(async {
        let operation = stage.client.pull(place, remote, &[]).await?;
        let watch = |progress: &portway_incus::Progress| {
            if let Some(bar) = &bar {
                bar.set_message(printable(&format!("image {name}  {}", progress.text)));
                bar.tick();
            }
        };
        stage.client.finish(&operation, None, watch).await
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    fetched.map_err(|error| match server(&error) {
        Stop::Failed(mut failure) => {
            failure.error = format!("image {name}: {}", failure.error);
            Stop::Failed(failure)
        }
        other => other,
    })?;
    tell(output, &format!("image {name}  fetched"));
    Ok(())
}
