//! `portway man`: the manual pages, one for each command, made from the command line's own description.

use std::fs;
use std::io;
use std::path::Path;

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use portway_model::DeviceSpec;

use crate::cli::notes::{ADD_EXAMPLES, ENVIRONMENT, EXIT_CODES, FILES, INSTANCES};
use crate::cli::{self, ManArgs};
use crate::failure::{Outcome, Stop};
use crate::output::{Out, human};

/// Writes the pages into the folder, which is made when it is not there.
pub(crate) fn run(args: &ManArgs) -> Outcome {
    let dir = &args.dir;
    let failed = |what: &str, path: &Path, error: &io::Error| {
        Stop::refused(format!("cannot {what} {}: {error}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|error| failed("make folder", dir, &error))?;
    let pages = pages().map_err(|error| failed("write pages for", dir, &error))?;
    for (name, page) in &pages {
        let path = dir.join(name);
        fs::write(&path, page).map_err(|error| failed("write", &path, &error))?;
    }
    let number = u64::try_from(pages.len()).unwrap_or(u64::MAX);
    Out::new().line(&format!("{} written to {}", human::count(number, "page"), dir.display()))
}

/// File name and text of every page.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut root = cli::command().disable_help_subcommand(true);
    root.build();
    let mut pages = Vec::new();
    collect(&root, "portway", &mut pages)?;
    Ok(pages)
}

fn collect(command: &clap::Command, name: &str, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let man = Man::new(command.clone())
        .title(name)
        .source(format!("portway {}", env!("CARGO_PKG_VERSION")))
        .manual("Portway");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    more(name).to_writer(&mut page)?;
    pages.push((man.get_filename(), page));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        collect(sub, &format!("{name}-{}", sub.get_name()), pages)?;
    }
    Ok(())
}

/// The sections that no description of arguments holds.
fn more(name: &str) -> Roff {
    let mut roff = Roff::new();
    match name {
        "portway" => {
            roff.control("SH", ["INSTANCES"]);
            roff.text([roman("Instances are written [PROVIDER:][PROJECT/]NAME.")]);
            notes(&mut roff, INSTANCES);
        }
        "portway-device-add" => {
            roff.control("SH", ["KEYS"]);
            let keys = DeviceSpec::KEYS.iter().map(|doc| {
                let default = if doc.default.is_empty() {
                    String::new()
                } else {
                    format!(" Default: {}.", doc.default)
                };
                (format!("{}={}", doc.name, doc.value), format!("{}.{default}", doc.about))
            });
            notes(&mut roff, keys);
            roff.control("SH", ["EXAMPLES"]);
            roff.control("nf", []);
            for example in ADD_EXAMPLES {
                roff.text([roman(example)]);
            }
            roff.control("fi", []);
        }
        _ => {}
    }
    roff.control("SH", ["EXIT STATUS"]);
    notes(&mut roff, EXIT_CODES);
    if name == "portway" {
        roff.control("SH", ["ENVIRONMENT"]);
        notes(&mut roff, ENVIRONMENT);
        roff.control("SH", ["FILES"]);
        notes(&mut roff, FILES);
    }
    roff.control("SH", ["SEE ALSO"]);
    let others = match name {
        "portway" => "portway-device(1), portway-doctor(1), incus(1)",
        "portway-device-set" | "portway-proxy" => "portway(1), portway-device-add(1)",
        _ => "portway(1)",
    };
    roff.text([roman(others)]);
    roff
}

/// A list of words and what they mean.
fn notes<W: Into<String>, M: Into<String>>(roff: &mut Roff, notes: impl IntoIterator<Item = (W, M)>) {
    for (word, meaning) in notes {
        roff.control("TP", []);
        roff.text([bold(word)]);
        roff.text([roman(meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_page_for_every_command() {
        let pages = pages().unwrap();
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        insta::assert_debug_snapshot!("names", names);
        for (name, page) in &pages {
            let text = String::from_utf8(page.clone()).unwrap();
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{name}");
            assert!(text.contains("SEE ALSO"), "{name}");
        }
    }
}
