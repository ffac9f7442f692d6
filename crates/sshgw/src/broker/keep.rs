//! Which program of a login that asks for a session that stays is one, and what is wanted of it.

use portway_proto::guest::HELD_NAME_MAX_BYTES;
use portway_proto::login::Keep;

use super::grant::Grant;
use super::open::{ABSENT, Order, Refusal};
use crate::wire::{Kept, KeptWish, What};

/// The session of all who give none a name.
const SHARED: &str = "default";

/// The name of the session a login asks for, if it asks for one.
///
/// # Errors
/// It has a name that cannot be one's.
pub(super) fn name(keep: &Keep) -> Result<Option<String>, &'static str> {
    match keep {
        Keep::No => Ok(None),
        Keep::Shared => Ok(Some(SHARED.to_owned())),
        Keep::Named(name) if name.as_str().len() <= HELD_NAME_MAX_BYTES => Ok(Some(name.as_str().to_owned())),
        Keep::Named(_) => Err("a session whose name has more than 64 bytes"),
    }
}

/// What of a program is a session that stays: shells are, and two commands are about it. Others are run as always, and
/// so is what a key forces: nothing of it stays.
pub(super) fn wish(grant: &Grant, order: &Order) -> Option<Kept> {
    let name = grant.keep.as_ref().filter(|_| grant.options.command.is_none())?;
    let wish = match (order.what, order.command.as_slice()) {
        (What::Shell, _) => KeptWish::Attach,
        (What::Command, b"list") => KeptWish::List,
        (What::Command, b"kill") => KeptWish::Kill,
        (What::Command | What::Sftp, _) => return None,
    };
    Some(Kept { name: name.clone(), wish })
}

/// Whether it can be had as it is asked for; the order's terminal is what the client gets.
///
/// # Errors
/// There is no terminal.
pub(super) fn check(order: &Order) -> Result<(), Refusal> {
    match &order.keep {
        Some(Kept { wish: KeptWish::Attach, .. }) if order.terminal.is_none() => Err(Refusal::new(
            ABSENT,
            "a session that stays needs a terminal, which this one has not (ssh -t)",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::open::tests::order;
    use crate::wire::Terminal;

    /// Fails when a command, files or what a key forces is taken for a session, or a shell for none.
    #[test]
    fn shells_stay_and_nothing_else() {
        let grant = Grant { keep: Some("work".to_owned()), ..Grant::of_root() };
        let wished =
            |grant: &Grant, what, command: &[u8]| wish(grant, &order(what, command)).map(|kept| kept.wish);
        assert_eq!(wished(&grant, What::Shell, b""), Some(KeptWish::Attach));
        assert_eq!(wished(&grant, What::Command, b"list"), Some(KeptWish::List));
        assert_eq!(wished(&grant, What::Command, b"kill"), Some(KeptWish::Kill));
        for command in [&b"kill 12"[..], b"list\n", b"", b"sleep 9"] {
            assert_eq!(wished(&grant, What::Command, command), None);
        }
        assert_eq!(wished(&grant, What::Sftp, b""), None);
        assert_eq!(wished(&Grant::of_root(), What::Shell, b""), None);
        let options = serde_json::from_str(r#"{"command":"backup"}"#).expect("options");
        assert_eq!(wished(&Grant { options, ..grant }, What::Shell, b""), None);
    }

    #[test]
    fn a_session_needs_a_terminal() {
        let kept = |wish| Some(Kept { name: "x".to_owned(), wish });
        let order = |wish| Order { keep: kept(wish), ..order(What::Shell, b"") };
        assert!(check(&order(KeptWish::Attach)).is_err() && check(&order(KeptWish::List)).is_ok());
        let terminal = Some(Terminal { kind: "xterm".to_owned(), width: 80, height: 24 });
        assert!(check(&Order { terminal, ..order(KeptWish::Attach) }).is_ok());
    }

    #[test]
    fn names_are_short() {
        let named = |name: &str| Keep::Named(name.parse().expect("a name"));
        assert_eq!(name(&Keep::No), Ok(None));
        assert_eq!(name(&Keep::Shared), Ok(Some("default".to_owned())));
        assert_eq!(name(&named(&"x".repeat(64))), Ok(Some("x".repeat(64))));
        assert!(name(&named(&"x".repeat(65))).is_err());
    }
}
