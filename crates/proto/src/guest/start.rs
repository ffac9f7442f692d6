//! What starts a program: everything about it, in one frame.

use super::fields::{Reader, Writer};
use super::frame::{NO_ID, Size};
use super::{FrameError, GROUPS_MAX_COUNT, LIST_MAX_COUNT, MODES_MAX_COUNT, is_held_name};

/// A program to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The channel it gets: a number that is not in use.
    pub channel: u32,
    /// What is run.
    pub program: Program,
    /// Entries `NAME=VALUE`; of two with one name the later holds.
    pub env: Vec<Vec<u8>>,
    /// What they are added to.
    pub environment: Environment,
    /// Working directory; `/` where it cannot be entered, and [`super::Started::cwd_error`] says so.
    pub cwd: Vec<u8>,
    /// Who it runs as.
    pub ids: Ids,
    /// Its file mode creation mask.
    pub umask: u16,
    /// Its terminal; pipes without one.
    pub pty: Option<Pty>,
    /// What it may send before more is granted.
    pub credits: Credits,
}

/// What is run on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A file, by its path, with all its arguments: the first is what it sees as its own name.
    Exec {
        /// Path of the file; it is not looked for in `PATH`.
        path: Vec<u8>,
        /// All arguments.
        args: Vec<Vec<u8>>,
    },
    /// The SFTP server that is part of the guest program.
    Sftp,
    /// A login shell on a terminal that outlives the connection, of which the channel is a viewer.
    Keep {
        /// Its name ([`super::is_held_name`]).
        name: Vec<u8>,
        /// What is wanted of it.
        wish: Keep,
    },
}

/// What is wanted of a session that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// To be there; it begins if there is none of its name.
    Attach,
    /// A list of all of the user's.
    List,
    /// Its end.
    Kill,
}

/// What a program's variables are added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Nothing.
    Empty,
    /// Those the guest program got: the instance's own defaults.
    Instance,
}

/// User and groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ids {
    /// User id; never 2^32-1, which system calls take for "unchanged".
    pub uid: u32,
    /// Group id; the same.
    pub gid: u32,
    /// Supplementary groups, and no others; the same.
    pub groups: Vec<u32>,
}

/// A terminal of its own, which the program leads a session on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pty {
    /// Its first size.
    pub size: Size,
    /// Opcodes and arguments of RFC 4254, 8. Those that are not known are left alone.
    pub modes: Vec<(u8, u32)>,
    /// Variable that gets the terminal's path; none when empty.
    pub path_variable: Vec<u8>,
}

/// Bytes of each stream that may come without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credits {
    /// Standard output, or the terminal.
    pub stdout: u32,
    /// Standard error; a terminal has none.
    pub stderr: u32,
}

const EXEC: u8 = 1;
const SFTP: u8 = 2;
const KEEP: u8 = 3;

impl Start {
    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let channel = from.u32()?;
        let program = match from.u8()? {
            EXEC => {
                let path = from.text("path")?;
                let args = from.list("arguments", LIST_MAX_COUNT, |from| from.text("argument"))?;
                if path.is_empty() || args.is_empty() {
                    return Err(from.wrong("program"));
                }
                Program::Exec { path, args }
            }
            SFTP => Program::Sftp,
            KEEP => Program::Keep { name: name(from)?, wish: wish(from)? },
            _ => return Err(from.wrong("program")),
        };
        let env = from.list("environment", LIST_MAX_COUNT, variable)?;
        let environment = match from.u8()? {
            0 => Environment::Empty,
            1 => Environment::Instance,
            _ => return Err(from.wrong("environment")),
        };
        let cwd = from.text("working directory")?;
        let ids = Ids { uid: id(from)?, gid: id(from)?, groups: from.list("groups", GROUPS_MAX_COUNT, id)? };
        let umask = from.u16()?;
        if umask > 0o777 {
            return Err(from.wrong("umask"));
        }
        let pty = match from.u8()? {
            0 => None,
            1 => Some(Pty::read(from)?),
            _ => return Err(from.wrong("terminal")),
        };
        let credits = Credits { stdout: from.u32()?, stderr: from.u32()? };
        Ok(Self { channel, program, env, environment, cwd, ids, umask, pty, credits })
    }

    pub(super) fn write(&self, to: &mut Writer<'_>) {
        to.u32(self.channel);
        match &self.program {
            Program::Exec { path, args } => {
                to.u8(EXEC);
                to.bytes(path);
                to.list(args, |to, arg| to.bytes(arg));
            }
            Program::Sftp => to.u8(SFTP),
            Program::Keep { name, wish } => {
                to.u8(KEEP);
                to.bytes(name);
                to.u8(match wish {
                    Keep::Attach => 0,
                    Keep::List => 1,
                    Keep::Kill => 2,
                });
            }
        }
        to.list(&self.env, |to, entry| to.bytes(entry));
        to.u8(match self.environment {
            Environment::Empty => 0,
            Environment::Instance => 1,
        });
        to.bytes(&self.cwd);
        to.u32(self.ids.uid);
        to.u32(self.ids.gid);
        to.list(&self.ids.groups, |to, group| to.u32(*group));
        to.u16(self.umask);
        match &self.pty {
            None => to.u8(0),
            Some(pty) => {
                to.u8(1);
                pty.write(to);
            }
        }
        to.u32(self.credits.stdout);
        to.u32(self.credits.stderr);
    }
}

impl Pty {
    fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        let size = Size::read(from)?;
        let modes = from.list("modes", MODES_MAX_COUNT, |from| Ok((from.u8()?, from.u32()?)))?;
        let path_variable = from.text("terminal's variable")?;
        if path_variable.contains(&b'=') {
            return Err(from.wrong("terminal's variable"));
        }
        Ok(Self { size, modes, path_variable })
    }

    fn write(&self, to: &mut Writer<'_>) {
        self.size.write(to);
        to.list(&self.modes, |to, (opcode, value)| {
            to.u8(*opcode);
            to.u32(*value);
        });
        to.bytes(&self.path_variable);
    }
}

fn name(from: &mut Reader<'_>) -> Result<Vec<u8>, FrameError> {
    let name = from.text("name")?;
    if is_held_name(&name) { Ok(name) } else { Err(from.wrong("name")) }
}

fn wish(from: &mut Reader<'_>) -> Result<Keep, FrameError> {
    match from.u8()? {
        0 => Ok(Keep::Attach),
        1 => Ok(Keep::List),
        2 => Ok(Keep::Kill),
        _ => Err(from.wrong("wish")),
    }
}

fn variable(from: &mut Reader<'_>) -> Result<Vec<u8>, FrameError> {
    let entry = from.text("environment")?;
    // A name is not empty; what getenv(3) could not find is no variable.
    let named = entry.iter().position(|byte| *byte == b'=').is_some_and(|at| at > 0);
    if named { Ok(entry) } else { Err(from.wrong("environment")) }
}

fn id(from: &mut Reader<'_>) -> Result<u32, FrameError> {
    let id = from.u32()?;
    if id == NO_ID { Err(from.wrong("id")) } else { Ok(id) }
}
