//! Sessions that are kept: a login shell on a terminal that outlives the connection it was begun by, the guest, its
//! exec and the gateway.
//!
//! `attach NAME MODES` is a viewer, on a terminal: it starts `hold NAME MODES` for the first login of a name, and is
//! spoken to by it on a unix socket of the user's ([`portway_proto::guest::Held`]). `sessions` lists them and `end NAME` ends one;
//! `mux PROGRAM NAME MODES` has another program do it where the gateway is told so. All of them are the user before they begin; nobody else reaches the socket. `kept` is for who looks after the whole instance.

mod agent;
mod attach;
mod hold;
mod list;
mod mux;
mod place;
mod screen;
mod shell;
mod sift;
mod survey;
mod viewer;

use std::ffi::OsStr;
use std::process::ExitCode;

use portway_proto::guest::{Keep, Pty, is_held_name};

pub(crate) use mux::Mux;

use crate::status;

/// Variable that tells a shell which session it is in.
const NAME: &str = "PORTWAY_SESSION";

/// File mode creation mask of a login (as of sshd and login).
const UMASK: u16 = 0o022;

/// The arguments that the program is called with for a session.
pub(crate) fn arguments(name: &[u8], wish: Keep, pty: Option<&Pty>, mux: Option<Mux>) -> Vec<Vec<u8>> {
    let mux = mux.map(|mux| mux.name().as_bytes().to_vec());
    let words: Vec<Vec<u8>> = match (wish, mux) {
        (Keep::Attach, None) => vec![b"attach".to_vec(), name.to_vec(), written_modes(pty)],
        (Keep::Attach, Some(mux)) => vec![b"mux".to_vec(), mux, name.to_vec(), written_modes(pty)],
        (Keep::List, mux) => std::iter::once(b"sessions".to_vec()).chain(mux).collect(),
        (Keep::Kill, mux) => [b"end".to_vec(), name.to_vec()].into_iter().chain(mux).collect(),
    };
    std::iter::once(b"portway-guest".to_vec()).chain(words).collect()
}

/// Looks at a session; the status it ends with.
pub(crate) fn attach(name: &OsStr, modes: &OsStr) -> ExitCode {
    let ended = named(name).and_then(|name| attach::attach(name, modes));
    ended.map_or_else(
        |why| {
            attach::complain(&why);
            ExitCode::from(status::FAILED)
        },
        ExitCode::from,
    )
}

/// The same of one that another program keeps, or ours where that one does not.
pub(crate) fn mux(program: &OsStr, name: &OsStr, modes: &OsStr) -> ExitCode {
    let ended = named(name).and_then(|name| {
        let mux = known(program)?;
        let ended = mux::attach(mux, name).map_err(|error| format!("there is no terminal: {error}"))?;
        ended.map_or_else(|| attach::attach(name, modes), Ok)
    });
    ended.map_or_else(
        |why| {
            attach::complain(&why);
            ExitCode::from(status::FAILED)
        },
        ExitCode::from,
    )
}

fn known(program: &OsStr) -> Result<Mux, String> {
    program.to_str().and_then(Mux::named).ok_or_else(|| "no such program keeps sessions".to_owned())
}

/// Holds a session whose socket is standard input.
pub(crate) fn hold(name: &OsStr, modes: &OsStr) -> Result<(), (u8, String)> {
    let failed = |why| (status::FAILED, why);
    hold::hold(named(name).map_err(failed)?, modes).map_err(|error| failed(error.to_string()))
}

/// Lists the user's sessions, those of another program too.
pub(crate) fn list(program: Option<&OsStr>) -> Result<(), (u8, String)> {
    let listed = program.map(known).transpose().and_then(list::list);
    listed.map_err(|why| (status::FAILED, why))
}

/// Tells the user's sessions to a program.
pub(crate) fn told() -> Result<(), (u8, String)> {
    survey::told().map_err(|why| (status::FAILED, why))
}

/// Tells or ends sessions of any user.
pub(crate) fn survey(words: &[&OsStr]) -> Result<(), (u8, String)> {
    match survey::survey(words) {
        Ok(0) => Ok(()),
        // What there is to say was said.
        Ok(status) => std::process::exit(status.into()),
        Err(why) => Err((status::FAILED, why)),
    }
}

/// Ends one, which may be another program's.
pub(crate) fn kill(name: &OsStr, program: Option<&OsStr>) -> Result<(), (u8, String)> {
    let ended = named(name).and_then(|name| list::kill(name, program.map(known).transpose()?));
    ended.map_err(|why| (status::FAILED, why))
}

fn named(name: &OsStr) -> Result<&str, String> {
    let name = name.to_str().filter(|name| is_held_name(name.as_bytes()));
    name.ok_or_else(|| "no session is called so".to_owned())
}

/// Modes of a terminal as an argument: `OPCODE=VALUE,...`, or a sign for none.
fn written_modes(pty: Option<&Pty>) -> Vec<u8> {
    let modes = pty.map(|pty| pty.modes.as_slice()).unwrap_or_default();
    let words: Vec<String> = modes.iter().map(|(opcode, value)| format!("{opcode}={value}")).collect();
    if words.is_empty() { b"-".to_vec() } else { words.join(",").into_bytes() }
}

/// Of that argument; what is none is left out.
fn said_modes(text: &OsStr) -> Vec<(u8, u32)> {
    let words = text.to_str().unwrap_or_default().split(',');
    let pairs = words.filter_map(|word| word.split_once('='));
    pairs.filter_map(|(opcode, value)| Some((opcode.parse().ok()?, value.parse().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_read_as_they_are_written() {
        let modes = vec![(53, 1), (0, u32::MAX), (255, 0)];
        let pty = Pty { size: portway_proto::guest::Size::default(), modes, path_variable: Vec::new() };
        let written = String::from_utf8(written_modes(Some(&pty))).expect("text");
        assert_eq!(said_modes(OsStr::new(&written)), pty.modes);
        assert!(said_modes(OsStr::new("-")).is_empty() && said_modes(OsStr::new("256=1,1=,x")).is_empty());
    }
}
