//! From a question for a program to connections of one.

use std::os::fd::OwnedFd;
use std::time::Duration;

use portway_incus::{Client, ExecSockets, ExecSpec, FileContent, IncusError, Size};

use portway_incus::status_code;

use super::account::{self, Account, Found};
use super::grant::Grant;
use super::{helper, keep, lends};
use crate::options::ShellMode;
use crate::policy::{Action, Decision};
use crate::remotes::RemoteError;
use crate::wire::{Kept, KeptWish, Lends, Terminal, What};

mod environment;

use environment::environment;
pub(super) use environment::own_environment;
pub(crate) use environment::{is_accepted, kind};

/// Exit status of the gateway's own: there is no such instance or user.
pub(super) const ABSENT: u8 = 1;

/// The instance cannot run anything as it is.
pub(super) const NOT_RUNNING: u8 = 3;

/// The command cannot be run: as of a shell (POSIX, XCU 2.8.2).
const NOT_EXECUTABLE: u8 = 126;

/// The server cannot be asked.
const UNREACHABLE: u8 = 255;

/// What somebody is told whose shell says that he has none (nologin(8)), where the instance has no words of its own.
const NO_LOGIN: &str = "This account is currently not available.";

/// Where an instance has them, and how many of them are read, bytes.
const NO_LOGIN_FILE: &str = "/etc/nologin.txt";
const NO_LOGIN_BYTES: usize = 4 << 10;

/// How often a user is looked up once more when the server could not tell, and the pause before it.
const ACCOUNT_TRIES: u32 = 5;
const ACCOUNT_PAUSE: Duration = Duration::from_millis(200);

/// What a program is to be.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) what: What,
    /// Of [`What::Command`].
    pub(super) command: Vec<u8>,
    pub(super) terminal: Option<Terminal>,
    /// As the client sets it.
    pub(super) environment: Vec<(String, String)>,
    /// Whether the helper may run it.
    pub(super) inside: bool,
    /// Whether it is the first program of its connection.
    pub(super) first: bool,
    /// How login shells are started.
    pub(super) shell: ShellMode,
    /// Whether others than root see their home alone in files.
    pub(super) jails: bool,
    /// `SSH_CONNECTION`: address and port of the client, then ours.
    pub(super) connection: String,
    /// Name of the session in the audit log.
    pub(super) session: String,
    /// What the client has asked for, where its key has it otherwise; `SSH_ORIGINAL_COMMAND`.
    pub(super) original: Option<String>,
    /// What is wanted of a session that stays, if it is one.
    pub(super) keep: Option<Kept>,
    /// Whether the session can write a recording: those of a time before there were any cannot.
    pub(super) can_record: bool,
    /// What the client would lend it; of that, from [`permitted`] on, what it may be lent.
    pub(super) lends: Lends,
}

/// Why there is no program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u8,
    pub(super) message: String,
    /// The instance does not run, and nothing else is known to be in the way.
    pub(super) is_stopped: bool,
}

impl Refusal {
    pub(super) fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), is_stopped: false }
    }

    /// There is no way to the server of a login.
    pub(super) fn of_server(error: &RemoteError) -> Self {
        let status = match error {
            RemoteError::Unknown(_) => ABSENT,
            RemoteError::Unusable(..) => UNREACHABLE,
        };
        Self::new(status, error.to_string())
    }
}

/// How it comes to run.
#[derive(Debug)]
pub(super) enum Opened {
    /// By the server: what its connections are.
    Exec(ExecSockets),
    /// By the helper.
    Inside {
        /// The user's shell.
        shell: String,
        /// The user's home.
        home: String,
        /// Whether it gets a terminal.
        terminal: bool,
        /// Whether it is the server of files.
        files: bool,
        /// Whether that is the helper that sees the home alone.
        jail: bool,
        /// The session that stays, if it is one.
        keep: Option<Kept>,
        /// What it is lent.
        lends: Lends,
    },
    /// The server serves files itself: a connection that speaks SFTP.
    Stored {
        files: OwnedFd,
        /// Where relative paths begin.
        home: String,
    },
}

/// What is run of what was asked for: what the key forces, without a terminal where the key has none. `decide` is the
/// policy.
pub(super) fn permitted(
    grant: &Grant,
    order: Order,
    decide: impl Fn(Action) -> Decision,
) -> Result<Order, Refusal> {
    let mut order = order;
    order.keep = keep::wish(grant, &order);
    let action = match order.what {
        What::Shell => Action::Shell,
        // Who lists or ends such sessions may have one.
        What::Command if order.keep.is_some() => Action::Shell,
        What::Command => Action::Exec,
        What::Sftp => Action::Sftp,
    };
    // What is forced is a command, whatever was asked for.
    let forced = grant.options.command.as_ref().map(|_| Action::Exec);
    for action in std::iter::once(action).chain(forced) {
        let decision = decide(action);
        if !decision.allowed {
            let text = format!("{action} is not allowed in {}: {}", grant.instance, decision.reason);
            return Err(Refusal::new(ABSENT, text));
        }
    }
    order.terminal = order.terminal.filter(|_| grant.options.pty);
    order.lends = order.lends.and(lends::of(grant, |action| decide(action).allowed));
    keep::check(&order)?;
    if let Some(command) = &grant.options.command {
        let asked = std::mem::replace(&mut order.command, command.clone().into_bytes());
        order.original = match order.what {
            What::Shell => None,
            // What no environment can hold is not told.
            What::Command => Some(String::from_utf8_lossy(&asked).replace('\0', "")),
            What::Sftp => Some("sftp".to_owned()),
        };
        // The helper has it among its arguments, and runs nothing else.
        order.what = What::Command;
    }
    Ok(order)
}

/// Starts it, or says that the helper is to.
pub(super) async fn open(client: &Client, grant: &Grant, order: &Order) -> Result<Opened, Refusal> {
    let (project, instance) = (grant.project.as_str(), grant.instance.as_str());
    let absent = || absent(project, instance);
    let failed = |error: &IncusError| failure(instance, error);
    let account = account(client, grant).await?;
    // One that stays is the user's own shell, whose terminal is the helper's.
    if order.what == What::Shell && order.shell != ShellMode::User && order.keep.is_none() {
        let spec = entering(&account, order, order.shell)?;
        let sockets = client.exec(project, instance, &spec).await.map_err(|error| failed(&error))?;
        return sockets.map(Opened::Exec).ok_or_else(absent);
    }
    if goes_inside(&account, order) {
        let state = client.instance(project, instance).await.map_err(|error| failed(&error))?;
        let state = state.ok_or_else(absent)?;
        match state.status_code {
            _ if state.is_running() => {}
            status_code::FROZEN => return Err(frozen(instance)),
            _ => return Err(not_running(instance)),
        }
        let (terminal, files) = (order.terminal.is_some(), order.what == What::Sftp);
        let jail = files && order.jails && account.uid != 0;
        let keep = order.keep.clone();
        let lends = lent(order);
        let Account { shell, home, .. } = account;
        return Ok(Opened::Inside { shell, home, terminal, files, jail, keep, lends });
    }
    if order.keep.is_some() {
        return Err(Refusal::new(helper::NO_HELPER, "a session that stays needs the helper in the instance"));
    }
    let spec = spec(&account, order)?;
    let sockets = client.exec(project, instance, &spec).await.map_err(|error| failed(&error))?;
    sockets.map(Opened::Exec).ok_or_else(absent)
}

/// What a program that the helper runs is lent: files need nothing, and neither does what is about sessions that stay. One of
/// those outlives the port that its programs would know the display by.
fn lent(order: &Order) -> Lends {
    match &order.keep {
        None if order.what == What::Sftp => Lends::default(),
        None => order.lends,
        Some(Kept { wish: KeptWish::Attach, .. }) => Lends { x11: false, ..order.lends },
        Some(Kept { wish: KeptWish::List | KeptWish::Kill, .. }) => Lends::default(),
    }
}

/// The user of a grant, who may log in.
pub(super) async fn account(client: &Client, grant: &Grant) -> Result<Account, Refusal> {
    let account = any_account(client, grant).await?;
    if account.logs_in() { Ok(account) } else { Err(no_login(client, grant).await) }
}

/// The user of a grant, whether he may log in or not.
pub(super) async fn any_account(client: &Client, grant: &Grant) -> Result<Account, Refusal> {
    let (project, instance) = (grant.project.as_str(), grant.instance.as_str());
    let mut tries = 0..ACCOUNT_TRIES;
    let found = loop {
        match account::find(client, project, instance, &grant.instance_user).await {
            // Its files are not to be had in the moment in which an instance starts or stops.
            Err(IncusError::Status { code: 500.., .. }) if tries.next().is_some() => {
                tokio::time::sleep(ACCOUNT_PAUSE).await;
            }
            found => break found,
        }
    };
    match found.map_err(|error| failure(instance, &error))? {
        Found::Account(account) => Ok(account),
        Found::NoInstance => Err(absent(project, instance)),
        Found::NoUser => {
            let text = format!("there is no user {} in {instance}", grant.instance_user.escape_default());
            Err(Refusal::new(ABSENT, text))
        }
    }
}

/// What the server can do as well it does: it needs nothing inside. A login shell has a name and modes that it cannot
/// give, a user has groups, and a command may be no text. Whoever runs a second one may run many: a helper that is there
/// starts each in 2 ms, the server in 20.
fn goes_inside(account: &Account, order: &Order) -> bool {
    let is_plain = order.what == What::Command
        && account.uid == 0
        && order.terminal.is_none()
        && order.keep.is_none()
        && str::from_utf8(&order.command).is_ok();
    order.inside && !(is_plain && order.first)
}

/// Nobody logs in here.
pub(super) async fn no_login(client: &Client, grant: &Grant) -> Refusal {
    let file = client.file(&grant.project, &grant.instance, NO_LOGIN_FILE, NO_LOGIN_BYTES).await;
    let text = match file.ok().flatten().map(|file| file.content) {
        Some(FileContent::Plain(text)) => String::from_utf8_lossy(&text).into_owned(),
        _ => String::new(),
    };
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(NO_LOGIN);
    Refusal::new(ABSENT, line)
}

pub(super) fn absent(project: &str, instance: &str) -> Refusal {
    Refusal::new(ABSENT, format!("there is no instance {instance} in project {project}"))
}

pub(super) fn frozen(instance: &str) -> Refusal {
    Refusal::new(NOT_RUNNING, format!("instance {instance} is frozen"))
}

pub(super) fn not_running(instance: &str) -> Refusal {
    let refusal = Refusal::new(NOT_RUNNING, format!("instance {instance} is not running"));
    Refusal { is_stopped: true, ..refusal }
}

/// A login shell by a program of the instance's, which is root until it has made the user of itself: of what the client
/// sets it gets nothing.
fn entering(account: &Account, order: &Order, mode: ShellMode) -> Result<ExecSpec, Refusal> {
    let name = account.name.as_str();
    // It would be an option.
    if name.starts_with('-') {
        return Err(Refusal::new(
            ABSENT,
            format!("user {name} cannot be named to the program for login shells"),
        ));
    }
    let address = order.connection.split(' ').next().unwrap_or_default();
    let command = match mode {
        ShellMode::Login => ["login", "-h", address, "-f", name].map(str::to_owned).to_vec(),
        ShellMode::Su => ["su", "-", name].map(str::to_owned).to_vec(),
        ShellMode::Sush => ["sush", name].map(str::to_owned).to_vec(),
        ShellMode::User => vec![account.shell.clone(), "-l".to_owned()],
    };
    let term = order.terminal.as_ref().map(|terminal| ("TERM".to_owned(), kind(&terminal.kind)));
    Ok(ExecSpec {
        command,
        environment: term.into_iter().collect(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: size(order),
    })
}

/// What the server is asked to run.
fn spec(account: &Account, order: &Order) -> Result<ExecSpec, Refusal> {
    let environment = environment(account, order);
    let command = match order.what {
        // A login shell: what its profile sets is set.
        What::Shell => vec![account.shell.clone(), "-l".to_owned()],
        What::Sftp => return Err(Refusal::new(UNREACHABLE, "files cannot be served")),
        What::Command => {
            // Never quoted and never split: it is one argument.
            let text = String::from_utf8(order.command.clone()).map_err(|_| {
                Refusal::new(NOT_EXECUTABLE, "the command is not UTF-8, which the server cannot run")
            })?;
            if text.contains('\0') {
                return Err(Refusal::new(NOT_EXECUTABLE, "the command has a zero byte"));
            }
            vec![account.shell.clone(), "-c".to_owned(), text]
        }
    };
    Ok(ExecSpec {
        command,
        environment,
        user: account.uid,
        group: account.gid,
        // The servers take `/` when it is not there, as sshd does.
        cwd: account.home.clone(),
        terminal: size(order),
    })
}

fn size(order: &Order) -> Option<Size> {
    order.terminal.as_ref().map(|terminal| Size { width: terminal.width, height: terminal.height })
}

/// What somebody who has logged in is told.
pub(super) fn failure(instance: &str, error: &IncusError) -> Refusal {
    match error {
        IncusError::Status { code: 400, message, .. } if message.contains("frozen") => frozen(instance),
        IncusError::Status { code: 400, message, .. } if message.contains("not running") => {
            not_running(instance)
        }
        IncusError::Status { message, .. } | IncusError::Operation { message, .. } => {
            Refusal::new(UNREACHABLE, format!("instance {instance}: {message}"))
        }
        IncusError::Denied { .. } => {
            Refusal::new(UNREACHABLE, "the server of the instance turns the gateway away")
        }
        // Paths of the host are none of a user's business.
        _ => Refusal::new(UNREACHABLE, "the server of the instance does not answer"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::policy::Reason;

    pub(super) fn bob() -> Account {
        let text = |text: &str| text.to_owned();
        Account { name: text("bob"), uid: 1000, gid: 1000, home: text("/home/bob"), shell: text("/bin/ash") }
    }

    pub(in crate::broker) fn order(what: What, command: &[u8]) -> Order {
        Order {
            what,
            command: command.to_vec(),
            terminal: None,
            environment: Vec::new(),
            inside: true,
            first: true,
            shell: ShellMode::User,
            jails: false,
            connection: "192.0.2.1 40000 198.51.100.1 2222".to_owned(),
            session: "s1".to_owned(),
            original: None,
            keep: None,
            can_record: true,
            lends: Lends::default(),
        }
    }

    /// Fails when a command is quoted, split or searched for anything.
    #[test]
    fn a_command_is_one_argument_as_it_came() {
        for text in ["", "ls", "a\nb\t'c' \"d\" $(e) \\ \u{fc}\u{7f}\r", "-c", "umask"] {
            let spec = spec(&bob(), &order(What::Command, text.as_bytes())).expect("a program");
            assert_eq!(spec.command, ["/bin/ash", "-c", text]);
            assert_eq!((spec.user, spec.group, spec.cwd.as_str()), (1000, 1000, "/home/bob"));
        }
        for bad in [&b"\xff"[..], b"a\0b"] {
            let refusal = spec(&bob(), &order(What::Command, bad)).expect_err("it is refused");
            assert_eq!(refusal.status, NOT_EXECUTABLE);
        }
        let spec = spec(&bob(), &order(What::Shell, b"")).expect("a program");
        assert_eq!(spec.command, ["/bin/ash", "-l"]);
    }

    /// Fails when a user gets a program without his groups, or root's plain commands depend on the helper.
    #[test]
    fn what_the_server_cannot_do_goes_inside() {
        let root = Account { uid: 0, ..bob() };
        let inside = |account: &Account, what, command: &[u8]| goes_inside(account, &order(what, command));
        assert!(!inside(&root, What::Command, b"id"));
        assert!(inside(&root, What::Command, b"\xff"));
        assert!(inside(&root, What::Shell, b"") && inside(&root, What::Sftp, b""));
        assert!(inside(&bob(), What::Command, b"id"));
        assert!(goes_inside(&root, &Order { first: false, ..order(What::Command, b"id") }));
        let without = Order { inside: false, first: false, ..order(What::Shell, b"") };
        assert!(!goes_inside(&bob(), &without));
        let terminal = Some(Terminal { kind: "xterm".to_owned(), width: 80, height: 24 });
        assert!(goes_inside(&root, &Order { terminal, ..order(What::Command, b"id") }));
    }

    /// Fails when a program that begins as root gets a word or a variable of the client's.
    #[test]
    fn what_makes_a_login_shell_is_nobody_elses() {
        let with = |mode| {
            let mut order = order(What::Shell, b"rm -rf /");
            order.environment = vec![("LC_ALL".to_owned(), "x".to_owned())];
            order.terminal = Some(Terminal { kind: "xterm".to_owned(), width: 80, height: 24 });
            entering(&bob(), &order, mode).expect("a program")
        };
        assert_eq!(with(ShellMode::Login).command, ["login", "-h", "192.0.2.1", "-f", "bob"]);
        assert_eq!(with(ShellMode::Sush).command, ["sush", "bob"]);
        let su = with(ShellMode::Su);
        assert_eq!((su.command, su.user), (["su", "-", "bob"].map(str::to_owned).to_vec(), 0));
        let set: Vec<_> = su.environment.into_iter().collect();
        assert_eq!(set, [("TERM".to_owned(), "xterm".to_owned())]);
        let odd = Account { name: "-c".to_owned(), ..bob() };
        assert!(entering(&odd, &order(What::Shell, b""), ShellMode::Su).is_err());
    }

    fn grant(options: &str) -> Grant {
        let text = format!(
            r#"{{"person":"root","key":"","project":"p","instance":"c1","instance_user":"bob","options":{options}}}"#
        );
        serde_json::from_str(&text).expect("a grant")
    }

    /// Fails when what a key forces, or the policy, is passed by.
    #[test]
    fn a_key_and_the_policy_are_asked() {
        let allow = |action: Action| Decision { allowed: action == Action::Exec, reason: Reason::NoRule };
        let terminal = Terminal { kind: "xterm".to_owned(), width: 80, height: 24 };
        let with = |what, command: &[u8]| Order { terminal: Some(terminal.clone()), ..order(what, command) };
        assert!(permitted(&grant("{}"), with(What::Shell, b""), allow).is_err());
        let free = permitted(&grant("{}"), with(What::Command, b"ls"), allow).expect("allowed");
        assert!(free.terminal.is_some() && free.command == b"ls" && free.original.is_none());
        let forced = grant(r#"{"command":"backup","pty":false}"#);
        let order = permitted(&forced, with(What::Command, b"rm -rf /"), allow).expect("allowed");
        assert_eq!((order.command.as_slice(), order.original.as_deref()), (&b"backup"[..], Some("rm -rf /")));
        assert_eq!((order.what, order.terminal.as_ref()), (What::Command, None));
        let all = |_| Decision { allowed: true, reason: Reason::NoRule };
        let order = permitted(&forced, with(What::Shell, b""), all).expect("allowed");
        assert_eq!((order.what, order.command.as_slice()), (What::Command, &b"backup"[..]));
        assert!(!environment(&bob(), &order).contains_key("SSH_ORIGINAL_COMMAND"));
    }
}
