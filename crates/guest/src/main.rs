//! The small program that the SSH gateway runs inside an instance: programs as any user on pipes and terminals, an SFTP
//! server, and sockets, over its standard input and output ([`portway_proto::guest`]).
//!
//! `portway-guest serve [SHA256 [LIMITS]]` checks and hides its own file and serves, `serving` does so from memory,
//! `sftp` is the server of one user, and `sweep` and `clear` remove the file, or folder, of a socket when its listener has gone. One thread, a poll loop; it ends with its standard input and hangs up what it started.
//!
//! It is also the first process of a Compose service: `portway-guest service DIR` runs what a file there says, and `tail
//! DIR SECONDS.NANOSECONDS` says what that service has said since. `feed DIR` writes its standard input to what that service reads, `size DIR COLUMNS
//! ROWS` gives its terminal another size, `beside DIR PROGRAM ARGS...` runs a program as that service's user, `within DIR
//! MILLISECONDS PROGRAM ARGS...` does so and ends all that it has started, and `kill NUMBER` sends the first process a
//! signal.
//!
//! And it keeps sessions that outlive their connections ([`keep`]): `attach NAME MODES`, `hold NAME MODES`, `sessions` and
//! `end NAME`, and `mux PROGRAM NAME MODES` where another program is to. `serve SHA256 kept list UID` and `… kept end UID NAME` are about those of any user, who is asked by `told`.

mod backlog;
mod channel;
mod environment;
mod keep;
mod limits;
mod modes;
mod outbox;
mod serve;
mod service;
mod settle;
mod sftp;
mod sockets;
mod terminal;
mod way;

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use portway_proto::service::Stamp;
use sockets::TraceKind;

/// Everything a call can end with, as exit status.
mod status {
    /// What the peer said is not the protocol, or the pipes failed.
    pub(crate) const FAILED: u8 = 1;
    /// Wrong arguments.
    pub(crate) const USAGE: u8 = 2;
    /// The program's own file is not what it should be.
    pub(crate) const DAMAGED: u8 = 3;
}

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let args: Vec<&OsStr> = args.iter().map(AsRef::as_ref).collect();
    let words: Vec<Option<&str>> = args.iter().map(|arg| arg.to_str()).collect();
    let ended = match words.as_slice() {
        [Some("serve")] => settle::settle(None, &[]),
        [Some("serve"), Some(hash), ..] => settle::settle(Some(hash), &args[2..]),
        [Some("serving"), Some(hash), ..] => settle::serving(hash, &args[2..]),
        [Some("service"), _] => return service::run(Path::new(args[1])).map_or_else(said, ExitCode::from),
        [Some("tail"), _, Some(since)] => match Stamp::read(since) {
            // Nobody reads any more: the usual end.
            Some(since) => service::tail(Path::new(args[1]), since).or(Ok(())),
            None => Err((status::USAGE, "what follows the folder is no time".to_owned())),
        },
        [Some("feed"), _] => service::feed(Path::new(args[1])),
        [Some("size"), _, Some(columns), Some(rows)] => service::resize(Path::new(args[1]), columns, rows),
        [Some("beside"), _, _, ..] => {
            return service::beside(Path::new(args[1]), &args[2..]).map_or_else(said, ExitCode::from);
        }
        [Some("within"), _, Some(limit), _, ..] => {
            let ended = service::within(Path::new(args[1]), limit, &args[3..]);
            return ended.map_or_else(said, ExitCode::from);
        }
        [Some("kill"), Some(number)] => service::kill(number),
        [Some("attach"), _, _] => return keep::attach(args[1], args[2]),
        [Some("hold"), _, _] => keep::hold(args[1], args[2]),
        [Some("mux"), _, _, _] => return keep::mux(args[1], args[2], args[3]),
        [Some("sessions")] => keep::list(None),
        [Some("sessions"), _] => keep::list(Some(args[1])),
        [Some("told")] => keep::told(),
        [Some("end"), _] => keep::kill(args[1], None),
        [Some("end"), _, _] => keep::kill(args[1], Some(args[2])),
        [Some(word @ ("sweep" | "clear")), _, Some(dev), Some(ino)] => {
            let kind = if *word == "sweep" { TraceKind::File } else { TraceKind::Folder };
            sockets::sweep(kind, args[1], dev, ino).map_err(|error| (status::FAILED, error.to_string()))
        }
        [Some("sftp")] => sftp::serve_stdio().map_err(|error| (status::FAILED, error.to_string())),
        _ => Err((
            status::USAGE,
            "serve [SHA256 [LIMITS]], service DIR, tail DIR SINCE, feed DIR, size DIR COLUMNS ROWS, beside DIR PROGRAM, within DIR \
             MILLISECONDS PROGRAM, kill NUMBER, attach NAME MODES, sessions, end NAME or sftp expected"
                .to_owned(),
        )),
    };
    ended.map_or_else(said, |()| ExitCode::SUCCESS)
}

/// Says why, and ends with that status.
fn said((status, why): (u8, String)) -> ExitCode {
    // Nobody is left to tell when this fails.
    let _ = writeln!(io::stderr(), "portway: {why}");
    ExitCode::from(status)
}
