//! `portway compose config`: what of the project is printed.

use std::io;

use portway_composefile::Project;

use super::{Variables, project, stop};
use crate::cli::compose::FileArgs;
use crate::cli::compose::config::{ConfigArgs, ProjectFormat};
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::Out;

/// Prints the project, or a list of what is in it.
pub(super) fn run(files: &FileArgs, args: &ConfigArgs) -> Outcome {
    let variables = if args.no_interpolate { Variables::AsWritten } else { Variables::Filled };
    let mut project = project(files, &args.only, variables)?;
    if args.resolve_image_digests {
        super::registry::pin(&mut project)?;
    }
    if args.quiet {
        return Ok(());
    }
    let text = text(&project, args)?;
    match &args.output {
        Some(path) => {
            let failed = |error: io::Error| {
                Stop::refused(format!("cannot write {}: {}", path.display(), chain(&error)))
            };
            std::fs::write(path, text).map_err(failed)
        }
        None => Out::new().text(&text),
    }
}

/// What is asked for, with its line end.
fn text(project: &Project, args: &ConfigArgs) -> Outcome<String> {
    let list = &args.list;
    let lines =
        |names: Vec<String>| names.iter().map(|name| format!("{}\n", printable(name))).collect::<String>();
    Ok(if list.services {
        lines(project.service_names())
    } else if list.volumes {
        lines(project.names("volumes"))
    } else if list.networks {
        lines(project.names("networks"))
    } else if list.images {
        lines(project.images())
    } else if list.profiles {
        lines(project.profiles.iter().cloned().collect())
    } else if list.variables {
        variables(project)
    } else if list.environment {
        lines(project.environment.iter().map(|(name, value)| format!("{name}={value}")).collect())
    } else if let Some(names) = &list.hash {
        let names: Vec<&str> = names.split(',').collect();
        let hashes = project.hashes(&names).map_err(stop)?;
        lines(hashes.into_iter().map(|(name, hash)| format!("{name} {hash}")).collect())
    } else {
        match args.format {
            ProjectFormat::Yaml => project.yaml(),
            ProjectFormat::Json => format!("{:#}\n", project.json()),
        }
    })
}

/// A table.
fn variables(project: &Project) -> String {
    let row = |cells: [&str; 4]| {
        format!("{:<20}{:<20}{:<20}{}", cells[0], cells[1], cells[2], cells[3]).trim_end().to_owned() + "\n"
    };
    let mut text = row(["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"]);
    for variable in &project.variables {
        let required = variable.required.to_string();
        text.push_str(&row([
            &printable(&variable.name),
            &required,
            &printable(&variable.default),
            &printable(&variable.alternate),
        ]));
    }
    text
}
