//! What this guest may do: said by its arguments, so by who started it, and not by who speaks to it.
//!
//! The gateway's privileged side starts the guest, a process without privilege speaks to it. Whatever that process says, a
//! guest is one user from before the first frame on, and runs only what that user may: `UID GID GROUPS KINDS [COMMAND]`,
//! where GROUPS and KINDS are lists with commas or `-`, kinds are `shell`, `exec`, `sftp`, `pty`, `keep`, `mux=tmux`, `mux=screen` and `jail`, and those of
//! [`Permits`], and COMMAND runs instead of every program that is asked for. With `jail` the user's home, by `HOME`, is all
//! there is.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use portway_proto::guest::{Ids, Keep, Program, Start, Step, is_clients_variable};
use portway_sys::process::program::{self, Ids as SystemIds};
use rustix::io::Errno;

use crate::keep::Mux;
use crate::sockets::Permits;

/// Argument for an empty list.
const NONE: &str = "-";

/// Variables with the user's shell and home.
const SHELL: &str = "SHELL";
const HOME: &str = "HOME";

/// What was asked for where something else runs.
const ORIGINAL: &[u8] = b"SSH_ORIGINAL_COMMAND=";

/// One user, and what he may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    /// The user's, by [`SHELL`].
    shell: Vec<u8>,
    runs_shell: bool,
    runs_exec: bool,
    runs_sftp: bool,
    has_pty: bool,
    /// Sessions that outlive the connection.
    keeps: bool,
    /// What keeps them; this program, where nothing else does.
    mux: Option<Mux>,
    /// The home, where nothing else is to be seen.
    jail: Option<PathBuf>,
    permits: Permits,
    command: Option<Vec<u8>>,
}

impl Limits {
    /// From arguments; `None` when they are none.
    pub(crate) fn read(args: &[&OsStr]) -> Option<Self> {
        let (fields, command) = match args {
            [fields @ .., command] if args.len() == 5 => (fields, Some(command.as_bytes().to_vec())),
            fields => (fields, None),
        };
        let words: Vec<&str> = fields.iter().map(|field| field.to_str()).collect::<Option<_>>()?;
        let [uid, gid, groups, kinds] = words.as_slice() else { return None };
        let groups = list(groups).map(id).collect::<Option<_>>()?;
        let (mut runs_shell, mut runs_exec, mut runs_sftp) = (false, false, false);
        let (mut has_pty, mut keeps) = (false, false);
        let (mut jail, mut mux) = (None, None);
        let mut permits = Permits::default();
        for kind in list(kinds) {
            match kind {
                "shell" => runs_shell = true,
                "exec" => runs_exec = true,
                "sftp" => runs_sftp = true,
                "pty" => has_pty = true,
                "keep" => keeps = true,
                "mux=tmux" => mux = Some(Mux::Tmux),
                "mux=screen" => mux = Some(Mux::Screen),
                "jail" => jail = Some(std::env::var_os(HOME)?.into()),
                word => permits.take(word)?,
            }
        }
        let shell =
            std::env::var_os(SHELL).map_or_else(|| b"/bin/sh".to_vec(), |shell| shell.as_bytes().to_vec());
        let (uid, gid) = (id(uid)?, id(gid)?);
        Some(Self {
            uid,
            gid,
            groups,
            shell,
            runs_shell,
            runs_exec,
            runs_sftp,
            has_pty,
            keeps,
            mux,
            jail,
            permits,
            command,
        })
    }

    /// Where its sockets may lead.
    pub(crate) const fn permits(&self) -> &Permits {
        &self.permits
    }

    /// What keeps sessions that outlive the connection, where it is not this program.
    pub(crate) const fn mux(&self) -> Option<Mux> {
        self.mux
    }

    /// Becomes the user, for good.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(crate) fn take_effect(&self) -> io::Result<()> {
        if let Some(home) = &self.jail {
            rustix::process::chdir(home)?;
            rustix::process::chroot(".")?;
        }
        program::become_for_good(SystemIds { uid: self.uid, gid: self.gid, groups: &self.groups })
    }

    /// Makes of what is asked for what is allowed, or says what is not.
    ///
    /// # Errors
    /// The step that is not allowed.
    pub(crate) fn admit(&self, start: &mut Start) -> Result<(), (Step, Errno)> {
        if start.pty.is_some() && !self.has_pty {
            return Err((Step::Terminal, Errno::PERM));
        }
        start.ids = Ids { uid: self.uid, gid: self.gid, groups: self.groups.clone() };
        start.env.retain(|entry| {
            let name = entry.split(|byte| *byte == b'=').next().unwrap_or_default();
            name == b"TERM" || is_clients_variable(name)
        });
        let asked = match &start.program {
            Program::Sftp => None,
            // It is a login shell; what is not on a terminal only asks or ends.
            Program::Keep { wish, .. } => {
                let is_allowed = self.keeps && self.runs_shell;
                if (*wish == Keep::Attach && start.pty.is_none()) || !(is_allowed || self.command.is_some()) {
                    return Err((Step::Exec, Errno::PERM));
                }
                Some(None)
            }
            Program::Exec { path, args } => Some(self.asked(path, args).ok_or((Step::Exec, Errno::PERM))?),
        };
        if self.jail.is_some() {
            start.cwd = b"/".to_vec();
            start.env.push(b"HOME=/".to_vec());
        }
        if let Some(command) = &self.command {
            let original =
                asked.map_or_else(|| Some(b"sftp".to_vec()), |command| command.map(<[u8]>::to_vec));
            if let Some(original) = original {
                start.env.push([ORIGINAL, &original].concat());
            }
            let args = vec![self.shell_name().to_vec(), b"-c".to_vec(), command.clone()];
            start.program = Program::Exec { path: self.shell.clone(), args };
            return Ok(());
        }
        let allowed = match asked {
            None => self.runs_sftp,
            Some(None) => self.runs_shell,
            Some(Some(_)) => self.runs_exec,
        };
        if allowed { Ok(()) } else { Err((Step::Exec, Errno::PERM)) }
    }

    /// The command that the user's shell is asked to run, or `Some(None)` for the shell itself.
    fn asked<'a>(&self, path: &[u8], args: &'a [Vec<u8>]) -> Option<Option<&'a [u8]>> {
        if path != self.shell {
            return None;
        }
        match args {
            [name] if name.first() == Some(&b'-') => Some(None),
            [_, option, command] if option == b"-c" => Some(Some(command)),
            _ => None,
        }
    }

    fn shell_name(&self) -> &[u8] {
        self.shell.rsplit(|byte| *byte == b'/').next().unwrap_or(&self.shell)
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(move |_| text != NONE)
}

/// Never the number that means "unchanged".
fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use portway_proto::guest::{Credits, Environment, Pty, Size};

    use super::*;

    fn limits(args: &[&str]) -> Option<Limits> {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        let limits = Limits::read(&args)?;
        Some(Limits { shell: b"/bin/ash".to_vec(), ..limits })
    }

    fn start(program: Program) -> Start {
        Start {
            channel: 0,
            program,
            env: [&b"LC_ALL=C"[..], b"LD_PRELOAD=/x", b"PATH=/x", b"TERM=vt220"].map(<[u8]>::to_vec).to_vec(),
            environment: Environment::Instance,
            cwd: b"/".to_vec(),
            ids: Ids { uid: 0, gid: 0, groups: vec![0] },
            umask: 0o022,
            pty: None,
            credits: Credits { stdout: 0, stderr: 0 },
        }
    }

    fn exec(args: &[&str]) -> Program {
        let args = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
        Program::Exec { path: b"/bin/ash".to_vec(), args }
    }

    #[test]
    fn arguments_are_exact() {
        let all = limits(&["7", "8", "9,10", "shell,exec,sftp,pty"]).expect("limits");
        assert_eq!((all.uid, all.gid, all.groups.as_slice(), all.has_pty), (7, 8, &[9, 10][..], true));
        let none = limits(&["0", "0", "-", "-", "a b"]).expect("limits");
        assert_eq!(
            (none.groups.len(), none.runs_shell, none.command.as_deref()),
            (0, false, Some(&b"a b"[..]))
        );
        for wrong in [
            &["7", "8", "-"][..],
            &["-1", "0", "-", "-"],
            &["4294967295", "0", "-", "-"],
            &["0", "0", "x", "-"],
        ] {
            assert_eq!(limits(wrong), None, "{wrong:?}");
        }
        assert_eq!(limits(&["0", "0", "-", "shell,other"]), None);
        let muxed = |kinds| limits(&["0", "0", "-", kinds]).map(|limits| limits.mux());
        assert_eq!((muxed("keep"), muxed("keep,mux=screen")), (Some(None), Some(Some(Mux::Screen))));
        assert_eq!(muxed("mux=sh"), None);
    }

    /// Fails when who speaks to the guest chooses where it starts though it is to see its home alone.
    #[test]
    fn a_jail_begins_at_its_root() {
        let limits = limits(&["7", "8", "-", "sftp,jail"]).expect("limits");
        let mut start = Start { cwd: b"/home/bob".to_vec(), ..start(Program::Sftp) };
        limits.admit(&mut start).expect("it may");
        assert_eq!((start.cwd.as_slice(), start.env.last()), (&b"/"[..], Some(&b"HOME=/".to_vec())));
        assert!(limits.jail.is_some());
    }

    /// Fails when who speaks to the guest chooses the user, or a variable that changes what runs.
    #[test]
    fn the_user_is_not_asked_for() {
        let limits = limits(&["7", "8", "9", "shell,exec"]).expect("limits");
        let mut start = start(exec(&["ash", "-c", "id"]));
        limits.admit(&mut start).expect("it may");
        assert_eq!(start.ids, Ids { uid: 7, gid: 8, groups: vec![9] });
        assert_eq!(start.env, [b"LC_ALL=C".to_vec(), b"TERM=vt220".to_vec()]);
    }

    /// Fails when a kind that is not allowed runs, or a program that is not the user's shell.
    #[test]
    fn kinds_are_held() {
        let runs = |kinds: &str, program: Program| {
            limits(&["7", "8", "-", kinds]).expect("limits").admit(&mut start(program)).is_ok()
        };
        for (program, kind) in
            [(exec(&["-ash"]), "shell"), (exec(&["ash", "-c", "x"]), "exec"), (Program::Sftp, "sftp")]
        {
            for kinds in ["shell", "exec", "sftp", "-"] {
                assert_eq!(runs(kinds, program.clone()), kinds == kind, "{kinds}");
            }
        }
        for args in [&["ash"][..], &["ash", "-x", "y"], &["-ash", "/tmp/script"]] {
            assert!(!runs("shell,exec,sftp", exec(args)), "{args:?}");
        }
        let other = Program::Exec { path: b"/tmp/x".to_vec(), args: vec![b"-x".to_vec()] };
        assert!(!runs("shell,exec,sftp", other));
        let size = Size { columns: 80, rows: 24, width: 0, height: 0 };
        let mut on_terminal = start(exec(&["-ash"]));
        on_terminal.pty = Some(Pty { size, modes: Vec::new(), path_variable: Vec::new() });
        assert!(limits(&["7", "8", "-", "shell"]).expect("limits").admit(&mut on_terminal).is_err());
        assert!(limits(&["7", "8", "-", "shell,pty"]).expect("limits").admit(&mut on_terminal).is_ok());
    }

    /// Fails when a session that stays is had without its word, without a terminal, or in place of a forced command.
    #[test]
    fn sessions_that_stay_are_held() {
        let pty = || Pty { size: Size::default(), modes: Vec::new(), path_variable: Vec::new() };
        let starts = |args: &[&str], wish, pty: Option<Pty>| {
            let mut start = start(Program::Keep { name: b"work".to_vec(), wish });
            start.pty = pty;
            limits(args).expect("limits").admit(&mut start).map(|()| start.program)
        };
        let may = ["7", "8", "-", "shell,pty,keep"];
        assert!(matches!(starts(&may, Keep::Attach, Some(pty())), Ok(Program::Keep { .. })));
        assert!(starts(&may, Keep::List, None).is_ok() && starts(&may, Keep::Kill, None).is_ok());
        assert!(starts(&may, Keep::Attach, None).is_err());
        for kinds in ["shell,pty", "pty,keep", "exec,sftp,pty", "shell,keep"] {
            assert!(starts(&["7", "8", "-", kinds], Keep::Attach, Some(pty())).is_err(), "{kinds}");
        }
        let forced = starts(&["7", "8", "-", "shell,pty,keep", "backup"], Keep::Attach, Some(pty()));
        assert_eq!(forced, Ok(exec(&["ash", "-c", "backup"])));
    }

    /// Fails when a command of a key is not what runs, whatever is asked for.
    #[test]
    fn a_forced_command_runs_instead() {
        let limits = limits(&["7", "8", "-", "exec", "backup now"]).expect("limits");
        for (program, original) in
            [(exec(&["-ash"]), None), (exec(&["ash", "-c", "id"]), Some("id")), (Program::Sftp, Some("sftp"))]
        {
            let mut start = start(program);
            limits.admit(&mut start).expect("it may");
            assert_eq!(start.program, exec(&["ash", "-c", "backup now"]));
            let expected = original.map(|text| format!("SSH_ORIGINAL_COMMAND={text}").into_bytes());
            assert_eq!(start.env.get(2), expected.as_ref());
        }
    }
}
