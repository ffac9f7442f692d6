//! Variables of a program: what the client may set, and what a login has.

use std::collections::BTreeMap;

use portway_proto::guest::is_clients_variable;

use super::Order;
use crate::broker::account::Account;

/// Longest total of variables that a client sets, bytes.
const ENVIRONMENT_BYTES: usize = 32 << 10;

pub(super) fn environment(account: &Account, order: &Order) -> BTreeMap<String, String> {
    let mut environment = accepted(&order.environment);
    environment.extend(own_environment(account, &order.connection, &order.session));
    let term = order.terminal.as_ref().map(|terminal| ("TERM".to_owned(), kind(&terminal.kind)));
    environment.extend(term);
    let original = order.original.clone();
    environment.extend(original.map(|original| ("SSH_ORIGINAL_COMMAND".to_owned(), original)));
    environment
}

/// What a login has whatever the client says; `connection` as in `SSH_CONNECTION`.
pub(in crate::broker) fn own_environment(
    account: &Account,
    connection: &str,
    session: &str,
) -> BTreeMap<String, String> {
    let client = connection.rsplit_once(' ').and_then(|(rest, port)| {
        let (client, _our_address) = rest.rsplit_once(' ')?;
        Some(format!("{client} {port}"))
    });
    let own = [
        ("HOME", Some(account.home.clone())),
        ("USER", Some(account.name.clone())),
        ("LOGNAME", Some(account.name.clone())),
        ("SHELL", Some(account.shell.clone())),
        ("MAIL", Some(format!("/var/mail/{}", account.name))),
        ("SSH_CONNECTION", Some(connection.to_owned())),
        ("SSH_CLIENT", client),
        ("SSH_SESSION", Some(session.to_owned())),
    ];
    own.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
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
    is_clients_variable(name.as_bytes())
}

/// The kind of a terminal, when it can be one: it becomes part of a path inside.
pub(crate) fn kind(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'+');
    let good = !text.is_empty() && text.len() <= 64 && text.bytes().all(plain) && !text.starts_with('.');
    if good { text.to_owned() } else { "xterm".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{bob, order};
    use super::*;
    use crate::wire::{Terminal, What};

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
