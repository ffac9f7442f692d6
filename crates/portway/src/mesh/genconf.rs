//! `portway mesh genconf`: the files of two nodes, on disk or not at all.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use portway_mesh::spec::pair::{self, Made};

use crate::cli::mesh::GenconfArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::output::Out;

/// Makes both files and says what they are called.
pub(super) fn run(args: &GenconfArgs) -> Outcome {
    let made = pair::make(&args.nodes, &args.network, args.service.as_deref())
        .map_err(|error| Stop::usage(error.to_string()))?;
    let mut written: Vec<PathBuf> = Vec::new();
    for Made { name, text } in &made {
        let path = args.dir.join(format!("{name}.toml"));
        if let Err(error) = write(&path, text) {
            for path in &written {
                // Half a pair is of no use; what cannot be removed is named below.
                let _kept = fs::remove_file(path);
            }
            return Err(error);
        }
        written.push(path);
    }
    let mut out = Out::new();
    for path in &written {
        out.line(&format!("{} written", path.display()))?;
    }
    Ok(())
}

/// Writes a new file that nobody else can read.
pub(super) fn write(path: &Path, text: &str) -> Outcome {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Stop::refused(format!("{} is there, and nothing is overwritten", path.display()))
        }
        _ => Stop::refused(format!("cannot write {}: {}", path.display(), chain(&error))),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let done = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    done.map_err(|error| {
        let _kept = fs::remove_file(path);
        failed(error)
    })
}
