//! Signals: SSH has their names (RFC 4254, section 6.10), the server their numbers in Linux.

use russh::Sig;

/// Number of a signal, if it is one that a client may send.
pub(super) fn number(signal: &Sig) -> Option<i32> {
    use nix::libc;
    Some(match signal {
        Sig::ABRT => libc::SIGABRT,
        Sig::ALRM => libc::SIGALRM,
        Sig::FPE => libc::SIGFPE,
        Sig::HUP => libc::SIGHUP,
        Sig::ILL => libc::SIGILL,
        Sig::INT => libc::SIGINT,
        Sig::KILL => libc::SIGKILL,
        Sig::PIPE => libc::SIGPIPE,
        Sig::QUIT => libc::SIGQUIT,
        Sig::SEGV => libc::SIGSEGV,
        Sig::TERM => libc::SIGTERM,
        Sig::USR1 => libc::SIGUSR1,
        Sig::Custom(name) if name == "USR2" => libc::SIGUSR2,
        Sig::Custom(_) => return None,
    })
}

/// The name of a signal; one that SSH has no name for gets one of ours.
pub(super) fn name(number: u8) -> Sig {
    use nix::libc;
    match i32::from(number) {
        libc::SIGABRT => Sig::ABRT,
        libc::SIGALRM => Sig::ALRM,
        libc::SIGFPE => Sig::FPE,
        libc::SIGHUP => Sig::HUP,
        libc::SIGILL => Sig::ILL,
        libc::SIGINT => Sig::INT,
        libc::SIGKILL => Sig::KILL,
        libc::SIGPIPE => Sig::PIPE,
        libc::SIGQUIT => Sig::QUIT,
        libc::SIGSEGV => Sig::SEGV,
        libc::SIGTERM => Sig::TERM,
        libc::SIGUSR1 => Sig::USR1,
        libc::SIGUSR2 => Sig::Custom("USR2".to_owned()),
        other => Sig::Custom(format!("{other}@portway")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_linux() {
        assert_eq!(number(&Sig::TERM), Some(15));
        for signal in [1, 2, 3, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15] {
            assert_eq!(number(&name(signal)), Some(signal.into()));
        }
        assert!(matches!(name(64), Sig::Custom(text) if text == "64@portway"));
        assert_eq!(number(&Sig::USR1), Some(10));
        assert_eq!(number(&Sig::Custom("USR2".to_owned())), Some(12));
        for name in ["", "KILLALL", "15", "kill", "STOP"] {
            assert_eq!(number(&Sig::Custom(name.to_owned())), None, "{name}");
        }
    }
}
