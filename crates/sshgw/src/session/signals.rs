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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_numbers_of_linux() {
        assert_eq!(number(&Sig::TERM), Some(15));
        assert_eq!(number(&Sig::USR1), Some(10));
        assert_eq!(number(&Sig::Custom("USR2".to_owned())), Some(12));
        for name in ["", "KILLALL", "15", "kill", "STOP"] {
            assert_eq!(number(&Sig::Custom(name.to_owned())), None, "{name}");
        }
    }
}
