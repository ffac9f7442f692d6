//! From a question for a program to connections of one.

use std::collections::BTreeMap;

use portway_incus::{Client, ExecSockets, ExecSpec, IncusError, Size};

use super::account::{self, Account, Found};
use super::grant::Grant;
use crate::wire::{Terminal, What};

/// Exit status of the gateway's own: there is no such instance or user.
const ABSENT: u8 = 1;

/// The instance cannot run anything as it is.
const NOT_RUNNING: u8 = 3;

/// The command cannot be run: as of a shell (POSIX, XCU 2.8.2).
const NOT_EXECUTABLE: u8 = 126;

/// The server cannot be asked.
const UNREACHABLE: u8 = 255;

/// Longest total of variables that a client sets, bytes.
const ENVIRONMENT_BYTES: usize = 32 << 10;

/// Variables a client may set: what a locale and a colour are, and what git says of its protocol (`AcceptEnv` of
/// distributions' sshd_config). Whatever begins with `LC_` is among them.
const ACCEPTED: [&str; 6] = ["LANG", "LANGUAGE", "COLORTERM", "NO_COLOR", "GIT_PROTOCOL", "TZ"];

/// What a program is to be.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) what: What,
    /// Of [`What::Command`].
    pub(super) command: Vec<u8>,
    pub(super) terminal: Option<Terminal>,
    /// As the client sets it.
    pub(super) environment: Vec<(String, String)>,
    /// `SSH_CONNECTION`: address and port of the client, then ours.
    pub(super) connection: String,
    /// Name of the session in the audit log.
    pub(super) session: String,
}

/// Why there is no program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u8,
    pub(super) message: String,
}

impl Refusal {
    fn new(status: u8, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }
}

/// Starts it.
pub(super) async fn open(client: &Client, grant: &Grant, order: Order) -> Result<ExecSockets, Refusal> {
    let (project, instance) = (grant.project.as_str(), grant.instance.as_str());
    let absent = || Refusal::new(ABSENT, format!("there is no instance {instance} in project {project}"));
    let failed = |error: &IncusError| failure(instance, error);
    let found = account::find(client, project, instance, &grant.instance_user).await;
    let account = match found.map_err(|error| failed(&error))? {
        Found::Account(account) => account,
        Found::NoInstance => return Err(absent()),
        Found::NoUser => {
            let text = format!("there is no user {} in {instance}", grant.instance_user.escape_default());
            return Err(Refusal::new(ABSENT, text));
        }
    };
    let spec = spec(&account, order)?;
    client.exec(project, instance, &spec).await.map_err(|error| failed(&error))?.ok_or_else(absent)
}

/// What the server is asked to run.
fn spec(account: &Account, order: Order) -> Result<ExecSpec, Refusal> {
    let environment = environment(account, &order);
    let command = match order.what {
        // A login shell: what its profile sets is set.
        What::Shell => vec![account.shell.clone(), "-l".to_owned()],
        What::Command => {
            // Never quoted and never split: it is one argument.
            let text = String::from_utf8(order.command).map_err(|_| {
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
        terminal: order.terminal.map(|terminal| Size { width: terminal.width, height: terminal.height }),
    })
}

fn environment(account: &Account, order: &Order) -> BTreeMap<String, String> {
    let mut environment = accepted(&order.environment);
    let client = order.connection.rsplit_once(' ').and_then(|(rest, port)| {
        let (client, _our_address) = rest.rsplit_once(' ')?;
        Some(format!("{client} {port}"))
    });
    let own = [
        ("HOME", Some(account.home.clone())),
        ("USER", Some(account.name.clone())),
        ("LOGNAME", Some(account.name.clone())),
        ("SHELL", Some(account.shell.clone())),
        ("MAIL", Some(format!("/var/mail/{}", account.name))),
        ("SSH_CONNECTION", Some(order.connection.clone())),
        ("SSH_CLIENT", client),
        ("SSH_SESSION", Some(order.session.clone())),
        ("TERM", order.terminal.as_ref().map(|terminal| kind(&terminal.kind))),
    ];
    environment.extend(own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    environment
}

/// What a client sets, as far as it may.
fn accepted(wanted: &[(String, String)]) -> BTreeMap<String, String> {
    let mut room = ENVIRONMENT_BYTES;
    let mut environment = BTreeMap::new();
    for (name, value) in wanted.iter().filter(|(name, value)| is_accepted(name) && !value.contains('\0')) {
        let Some(left) = room.checked_sub(name.len() + value.len()) else { break };
        room = left;
        environment.insert(name.clone(), value.clone());
    }
    environment
}

/// Whether a client may set a variable.
pub(crate) fn is_accepted(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    plain && (ACCEPTED.contains(&name) || name.starts_with("LC_"))
}

/// The kind of a terminal, when it can be one: it becomes part of a path inside.
fn kind(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+');
    let good = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) && !text.starts_with('.');
    if good { text.to_owned() } else { "xterm".to_owned() }
}

/// What somebody who has logged in is told.
fn failure(instance: &str, error: &IncusError) -> Refusal {
    match error {
        IncusError::Status { code: 400, message, .. } if message.contains("frozen") => {
            Refusal::new(NOT_RUNNING, format!("instance {instance} is frozen"))
        }
        IncusError::Status { code: 400, message, .. } if message.contains("not running") => {
            Refusal::new(NOT_RUNNING, format!("instance {instance} is not running"))
        }
        IncusError::Status { message, .. } | IncusError::Operation { message, .. } => {
            Refusal::new(UNREACHABLE, format!("instance {instance}: {message}"))
        }
        // Paths of the host are none of a user's business.
        _ => Refusal::new(UNREACHABLE, "the server of the instance does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bob() -> Account {
        let text = |text: &str| text.to_owned();
        Account { name: text("bob"), uid: 1000, gid: 1000, home: text("/home/bob"), shell: text("/bin/ash") }
    }

    fn order(what: What, command: &[u8]) -> Order {
        Order {
            what,
            command: command.to_vec(),
            terminal: None,
            environment: Vec::new(),
            connection: "192.0.2.1 40000 198.51.100.1 2222".to_owned(),
            session: "s1".to_owned(),
        }
    }

    /// Fails when a command is quoted, split or searched for anything.
    #[test]
    fn a_command_is_one_argument_as_it_came() {
        for text in ["", "ls", "a\nb\t'c' \"d\" $(e) \\ \u{fc}\u{7f}\r", "-c", "umask"] {
            let spec = spec(&bob(), order(What::Command, text.as_bytes())).expect("a program");
            assert_eq!(spec.command, ["/bin/ash", "-c", text]);
            assert_eq!((spec.user, spec.group, spec.cwd.as_str()), (1000, 1000, "/home/bob"));
        }
        for bad in [&b"\xff"[..], b"a\0b"] {
            let refusal = spec(&bob(), order(What::Command, bad)).expect_err("it is refused");
            assert_eq!(refusal.status, NOT_EXECUTABLE);
        }
        let spec = spec(&bob(), order(What::Shell, b"")).expect("a program");
        assert_eq!(spec.command, ["/bin/ash", "-l"]);
    }

    /// Fails when a variable that changes what runs is let through.
    #[test]
    fn a_client_sets_little() {
        let set = |name: &str| (name.to_owned(), "x".to_owned());
        let names = [
            "LC_ALL",
            "LANG",
            "LD_PRELOAD",
            "PATH",
            "HOME",
            "SSH_SESSION",
            "LC_A=B",
            "LC_\n",
            "BASH_ENV",
            "",
        ];
        let mut order = order(What::Shell, b"");
        order.environment = names.into_iter().map(set).collect();
        order.terminal = Some(Terminal { kind: "../x".to_owned(), width: 80, height: 24 });
        let environment = environment(&bob(), &order);
        let shown: Vec<_> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = [
            "HOME=/home/bob",
            "LANG=x",
            "LC_ALL=x",
            "LOGNAME=bob",
            "MAIL=/var/mail/bob",
            "SHELL=/bin/ash",
            "SSH_CLIENT=192.0.2.1 40000 2222",
            "SSH_CONNECTION=192.0.2.1 40000 198.51.100.1 2222",
            "SSH_SESSION=s1",
            "TERM=xterm",
            "USER=bob",
        ];
        assert_eq!(shown, expected);
        let many: Vec<_> = (0..100).map(|n| (format!("LC_{n}"), "v".repeat(1000))).collect();
        assert_eq!(accepted(&many).len(), 32);
    }
}
