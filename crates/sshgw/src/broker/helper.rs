//! From a grant to the helper of a connection: put into the instance and started there, with limits that its connection's
//! process cannot change.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use portway_incus::{Client, ExecSockets, ExecSpec, IncusError, Whole};

use super::account::{self, Account};
use super::forwards::Forwards;
use super::grant::Grant;
use super::lends;
use super::mux::Mux;
use super::open::{self, Refusal, absent, failure};
use super::way::{self, Listener};
use crate::guest::{Instance, Launched, build, launch};
use crate::policy::Action;
use crate::wire::Lends;

/// When a helper has removed its file, or will not.
const SETTLED: Duration = Duration::from_secs(15);

/// Exit status where there is no helper.
pub(super) const NO_HELPER: u8 = 255;

/// What a connection may run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct May {
    /// Login shells.
    pub(super) shell: bool,
    /// Commands.
    pub(super) exec: bool,
    /// Files.
    pub(super) sftp: bool,
    /// Terminals.
    pub(super) pty: bool,
    /// Sessions that outlive the connection.
    pub(super) keep: bool,
    /// What keeps those, where it is not the helper.
    pub(super) mux: Option<Mux>,
    /// Nothing but the home is to be seen.
    pub(super) jail: bool,
    /// Where forwards may lead.
    pub(super) forwards: Forwards,
    /// What of the client's they may be lent.
    pub(super) lends: Lends,
    /// Runs instead of all of them.
    pub(super) command: Option<String>,
}

impl May {
    /// What a grant and the policy allow. A helper does whatever is allowed here for as long as its connection lives.
    pub(super) fn of(grant: &Grant, allowed: impl Fn(Action) -> bool) -> Self {
        Self {
            shell: allowed(Action::Shell),
            exec: allowed(Action::Exec),
            sftp: allowed(Action::Sftp),
            pty: grant.options.pty,
            keep: grant.keep.is_some() && allowed(Action::Shell),
            mux: None,
            jail: false,
            lends: lends::of(grant, &allowed),
            forwards: Forwards::of(grant, allowed),
            command: grant.options.command.clone(),
        }
    }

    /// What of it one helper of a user may: with a jail only files, and beside it everything but files.
    fn of_helper(self, kind: Kind, account: &Account) -> Self {
        let none = Self::default();
        match kind {
            // A forced command is no server of files.
            Kind::Jailed => Self { sftp: self.sftp && self.command.is_none(), jail: true, ..none },
            Kind::General { jails } if jails && account.uid != 0 => Self { sftp: false, ..self },
            Kind::General { .. } => self,
        }
    }
}

/// Which helper of a connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The one for everything.
    General {
        /// Files of others than root are not its business.
        jails: bool,
    },
    /// The one for files of a home.
    Jailed,
}

/// The way into an instance by the server's API.
#[derive(Debug, Clone)]
pub(super) struct Way {
    client: Client,
    project: String,
    instance: String,
    architecture: String,
    /// Of the helper, and so of all that it runs.
    environment: BTreeMap<String, String>,
}

impl Way {
    /// To an instance; `None` when there is none. One on another machine is asked what it is.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub(super) async fn to(
        client: &Client,
        is_far: bool,
        project: &str,
        instance: &str,
        environment: BTreeMap<String, String>,
    ) -> Result<Option<Self>, IncusError> {
        // This machine is that of its containers; another is to be asked.
        let architecture = if is_far {
            let Some(found) = client.architecture(project, instance).await? else { return Ok(None) };
            machine(&found).to_owned()
        } else {
            std::env::consts::ARCH.to_owned()
        };
        let (client, project, instance) = (client.clone(), project.to_owned(), instance.to_owned());
        Ok(Some(Self { client, project, instance, architecture, environment }))
    }

    /// Runs a program that is not talked to, for so long and with so much of what it says.
    pub(super) async fn run_whole(&self, spec: &ExecSpec, limits: (Duration, usize)) -> io::Result<Whole> {
        let (project, name) = self.path();
        done(self.client.run(project, name, spec, limits).await)
    }

    fn path(&self) -> (&str, &str) {
        (&self.project, &self.instance)
    }
}

fn done<T>(result: Result<Option<T>, IncusError>) -> io::Result<T> {
    result.map_err(io::Error::other)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Instance for Way {
    type Streams = ExecSockets;

    fn architecture(&self) -> &str {
        &self.architecture
    }

    async fn make_dir(&self, path: &str) -> io::Result<()> {
        let (project, name) = self.path();
        done(self.client.make_dir(project, name, path).await)
    }

    async fn put(&self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        let (project, name) = self.path();
        done(self.client.put_file(project, name, path, mode, bytes.to_vec()).await)
    }

    async fn remove(&self, path: &str) -> io::Result<()> {
        let (project, name) = self.path();
        done(self.client.remove_file(project, name, path).await)
    }

    async fn run(&self, args: &[&str]) -> io::Result<ExecSockets> {
        let (project, name) = self.path();
        let spec = ExecSpec {
            command: args.iter().map(|&arg| arg.to_owned()).collect(),
            environment: self.environment.clone(),
            // It becomes the user before it hears anything.
            user: 0,
            group: 0,
            cwd: "/".to_owned(),
            terminal: None,
        };
        done(self.client.exec(project, name, &spec).await)
    }
}

/// The machine that runs programs of an architecture, as the servers name it.
fn machine(architecture: &str) -> &str {
    match architecture {
        "i686" => "x86_64",
        "armv6l" | "armv7l" | "armv8l" => "aarch64",
        other => other,
    }
}

/// A helper that runs.
#[derive(Debug)]
pub(super) struct Started {
    /// Its SHA-256.
    pub(super) build: [u8; 32],
    pub(super) streams: ExecSockets,
    /// Where it may come to.
    pub(super) listener: Option<Listener>,
}

/// Starts a helper, in the first of its places from this one on where that can be done.
pub(super) async fn start(
    client: &Client,
    is_far: bool,
    beside: bool,
    grant: &Grant,
    (may, kind): (May, Kind),
    environment: impl FnOnce(&Account) -> BTreeMap<String, String>,
    place: usize,
) -> Result<Started, Refusal> {
    let (project, instance) = (grant.project.clone(), grant.instance.clone());
    let failed = |error| failure(&instance, &error);
    let account = open::any_account(client, grant).await?;
    let may = match may.of_helper(kind, &account) {
        may if account.logs_in() => may,
        // Who runs nothing may still be forwarded, as with OpenSSH's server.
        may if may.forwards.is_any() => May { forwards: may.forwards, ..May::default() },
        _ => return Err(open::no_login(client, grant).await),
    };
    let groups = account::groups(client, &project, &instance, &account).await.map_err(failed)?;
    let limits = limits(&account, &groups, &may);
    let unable = |error: &dyn std::error::Error| {
        let mut text = format!("{instance}: {error}");
        let mut source = error.source();
        while let Some(next) = source {
            text = format!("{text}: {next}");
            source = next.source();
        }
        Refusal::new(NO_HELPER, text)
    };
    let environment = environment(&account);
    let way = Way::to(client, is_far, &project, &instance, environment).await.map_err(failed)?;
    let way = way.ok_or_else(|| absent(&project, &instance))?;
    let build = build(way.architecture()).map_err(|error| unable(&error))?;
    let beside = async { if beside { way::open(client, &project, &instance).await } else { None } };
    let (launched, listener) = tokio::join!(launch(&way, place, &limits), beside);
    let (streams, launched) = launched.map_err(|error| unable(&error))?.into_parts();
    tokio::spawn(sweep(way, Arc::new(launched)));
    Ok(Started { build, streams, listener })
}

/// A helper that runs has removed its file at once; one that could not be run has left it.
async fn sweep(way: Way, launched: Arc<Launched<()>>) {
    tokio::time::sleep(SETTLED).await;
    launched.clear(&way).await;
}

/// The helper's own arguments: whatever it is told later, it is this user, and runs these.
fn limits(account: &Account, groups: &[u32], may: &May) -> Vec<String> {
    let list = |items: Vec<String>| if items.is_empty() { "-".to_owned() } else { items.join(",") };
    let kinds = [(may.shell, "shell"), (may.exec, "exec"), (may.sftp, "sftp"), (may.pty, "pty")];
    let kinds = [&kinds[..], &[(may.keep, "keep"), (may.jail, "jail")]].concat();
    let kinds = kinds.iter().filter(|(is_allowed, _)| *is_allowed).map(|(_, kind)| (*kind).to_owned());
    let mux = may.mux.filter(|_| may.keep).map(|mux| format!("mux={}", mux.name()));
    let kinds = kinds.chain(mux).chain(may.forwards.words()).chain(lends::words(may.lends));
    let groups = list(groups.iter().map(u32::to_string).collect());
    let fields = [account.uid.to_string(), account.gid.to_string(), groups, list(kinds.collect())];
    fields.into_iter().chain(may.command.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a helper may do what its connection may not.
    #[test]
    fn limits_are_what_is_allowed() {
        let text = |text: &str| text.to_owned();
        let bob =
            Account { name: text("bob"), uid: 7, gid: 8, home: text("/home/bob"), shell: text("/bin/sh") };
        let forwards = Forwards::of(&Grant::of_root(), |action| action == Action::ForwardLocal);
        let all = May { shell: true, exec: true, sftp: true, pty: true, forwards, ..May::default() };
        assert_eq!(limits(&bob, &[8, 9], &all), ["7", "8", "8,9", "shell,exec,sftp,pty,forward-local"]);
        let keeps = May { keep: true, shell: true, ..May::default() };
        assert_eq!(limits(&bob, &[], &keeps), ["7", "8", "-", "shell,keep"]);
        let lent = May { lends: Lends { agent: true, x11: true }, ..May::default() };
        assert_eq!(limits(&bob, &[], &lent), ["7", "8", "-", "agent,x11"]);
        let muxed = May { mux: Some(Mux::Screen), ..keeps };
        assert_eq!(limits(&bob, &[], &muxed), ["7", "8", "-", "shell,keep,mux=screen"]);
        assert_eq!(limits(&bob, &[], &May { keep: false, ..muxed }), ["7", "8", "-", "shell"]);
        let one = May { command: Some(text("a b")), ..May::default() };
        assert_eq!(limits(&bob, &[], &one), ["7", "8", "-", "-", "a b"]);
        // Whose files are those of his home has no others from any helper; root has.
        let of =
            |may: &May, kind, account: &Account| limits(account, &[], &may.clone().of_helper(kind, account));
        let (jailed, general) = (Kind::Jailed, Kind::General { jails: true });
        assert_eq!(of(&all, jailed, &bob), ["7", "8", "-", "sftp,jail"]);
        assert_eq!(of(&all, general, &bob), ["7", "8", "-", "shell,exec,pty,forward-local"]);
        let root = Account { uid: 0, ..bob.clone() };
        assert_eq!(of(&all, general, &root), ["0", "8", "-", "shell,exec,sftp,pty,forward-local"]);
        assert_eq!(of(&one, jailed, &bob), ["7", "8", "-", "jail"]);
        assert_eq!(of(&lent, jailed, &bob), ["7", "8", "-", "jail"]);
    }

    #[test]
    fn a_machine_runs_its_elder_kind_too() {
        assert_eq!(
            (machine("i686"), machine("armv7l"), machine("riscv64")),
            ("x86_64", "aarch64", "riscv64")
        );
    }
}
