//! `cp`: files between a service and here, running or not.
//!
//! What an instance has is copied as a stranger's: a name is one name in a folder that is open, links are made and never
//! followed, and no file gets a bit that makes who runs it somebody else.

use std::path::{Path, PathBuf};

use portway_incus::{Client, Sftp, SftpError};

use super::found::{self, Detail, Replica};
use crate::cli::compose::FileArgs;
use crate::cli::compose::run::CpArgs;
use crate::failure::{Outcome, Stop, chain};
use crate::session::runtime;

mod inward;
mod outward;
mod tar;

/// Deepest folder in folders that is copied.
const DEPTH_MAX: usize = 256;

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    /// A path in a service; absolute.
    Inside { service: String, path: String },
    /// A path here.
    Here(PathBuf),
    /// An archive on standard input or output.
    Stream,
}

/// What is asked for besides the two sides.
#[derive(Debug, Clone, Copy)]
struct Wish {
    owners: bool,
    follow: bool,
}

/// Copies.
pub(super) fn run(files: &FileArgs, args: &CpArgs) -> Outcome {
    let (from, to) = (side(&args.source), side(&args.destination));
    let wish = Wish { owners: args.archive, follow: args.follow_link };
    let name = found::name(files)?;
    let client = found::client()?;
    runtime()?.block_on(async {
        match (from, to) {
            (Side::Inside { service, path }, to) if !matches!(to, Side::Inside { .. }) => {
                if args.all {
                    return Err(Stop::usage("--all is for copying into services"));
                }
                let replica = found::replica(&client, &name, &service, args.index).await?;
                let mut sftp = open(&client, &replica).await?;
                match to {
                    Side::Here(to) => outward::copy(&mut sftp, &path, &to, wish).await,
                    _ => outward::pack(&mut sftp, &path, wish).await,
                }
            }
            (from, Side::Inside { service, path }) if !matches!(from, Side::Inside { .. }) => {
                let replicas = replicas(&client, &name, &service, args).await?;
                if from == Side::Stream && replicas.len() > 1 {
                    return Err(Stop::usage("an archive on standard input is for one replica"));
                }
                for replica in &replicas {
                    let mut sftp = open(&client, replica).await?;
                    match &from {
                        Side::Here(from) => inward::copy(&mut sftp, from, &path, wish).await?,
                        _ => inward::unpack(&mut sftp, &path, wish).await?,
                    }
                }
                Ok(())
            }
            (Side::Inside { .. }, _) => Err(Stop::usage("between two services nothing is copied")),
            _ => Err(Stop::usage("one of the two must be SERVICE:PATH")),
        }
    })
}

async fn replicas(client: &Client, name: &str, service: &str, args: &CpArgs) -> Outcome<Vec<Replica>> {
    if args.all {
        return found::replicas(client, name, &[service.to_owned()], Detail::Listed).await;
    }
    Ok(vec![found::replica(client, name, service, args.index).await?])
}

pub(super) async fn open(client: &Client, replica: &Replica) -> Outcome<Sftp> {
    let fd = client.sftp(replica.project(), replica.name()).await.map_err(found::failed)?;
    let none = || Stop::refused(format!("the server gives no access to the files of {}", replica.name()));
    Sftp::new(fd.ok_or_else(none)?).await.map_err(refused)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn refused(error: SftpError) -> Stop {
    Stop::refused(chain(&error))
}

/// `SERVICE:PATH`, `-`, or a path here; one with a `:` in it is written with a folder in front.
fn side(text: &str) -> Side {
    match text.split_once(':') {
        _ if text == "-" => Side::Stream,
        Some((service, path)) if !service.is_empty() && !service.contains('/') && service != "." => {
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            Side::Inside { service: service.to_owned(), path }
        }
        _ => Side::Here(PathBuf::from(text)),
    }
}

/// The last name of a path inside; none of a root, or of one that ends in `.` or `..`.
fn last(path: &str) -> Option<&str> {
    Path::new(path).file_name()?.to_str().filter(|_| !path.ends_with("/."))
}

/// `name` in the folder `path`.
fn below(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_service_or_here() {
        let inside = |service: &str, path: &str| Side::Inside { service: service.into(), path: path.into() };
        assert_eq!(side("web:/etc/x"), inside("web", "/etc/x"));
        assert_eq!(side("web:x"), inside("web", "/x"));
        assert_eq!(side("./web:x"), Side::Here("./web:x".into()));
        assert_eq!(side(":x"), Side::Here(":x".into()));
        assert_eq!(side("-"), Side::Stream);
        assert_eq!(
            (last("/a/b"), last("/a/b/"), last("/a/."), last("/")),
            (Some("b"), Some("b"), None, None)
        );
        assert_eq!((below("/", "a"), below("/a/", "b")), ("/a".to_owned(), "/a/b".to_owned()));
    }
}
