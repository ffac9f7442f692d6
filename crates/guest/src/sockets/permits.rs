//! Where sockets may lead, and listen: part of the limits that this program is started with.
//!
//! Words of the list of kinds: `forward-local` and `forward-remote` allow them at all. With `open`, only the places of `open=HOST:PORT`
//! are led to, and no unix socket; with `listen` the same of where is listened. `*` is any, other bytes than a
//! name's are written `%XX`. `agent` and `x11` allow that a program is lent the client's agent, and its display.

use portway_proto::guest::{Lent, Place};

/// What is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Permits {
    local: bool,
    remote: bool,
    agent: bool,
    display: bool,
    /// Where it may lead; `None` is anywhere.
    open: Option<Vec<Spot>>,
    /// Where it may listen.
    listen: Option<Vec<Spot>>,
}

/// A place of a list; `None` is any.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Spot {
    host: Option<Vec<u8>>,
    port: Option<u16>,
}

impl Permits {
    /// Everything.
    pub(crate) const ALL: Self =
        Self { local: true, remote: true, agent: true, display: true, open: None, listen: None };

    /// Takes a word; `None` when it is none of these.
    pub(crate) fn take(&mut self, word: &str) -> Option<()> {
        match word.split_once('=') {
            None => match word {
                "forward-local" => self.local = true,
                "forward-remote" => self.remote = true,
                "agent" => self.agent = true,
                "x11" => self.display = true,
                "open" => drop(self.open.get_or_insert_default()),
                "listen" => drop(self.listen.get_or_insert_default()),
                _ => return None,
            },
            Some(("open", place)) => self.open.get_or_insert_default().push(Spot::read(place)?),
            Some(("listen", place)) => self.listen.get_or_insert_default().push(Spot::read(place)?),
            Some(_) => return None,
        }
        Some(())
    }

    /// Whether a connection may be made to there.
    pub(crate) fn opens(&self, to: &Place) -> bool {
        self.local && allows(self.open.as_deref(), to)
    }

    /// Whether somebody may listen there.
    pub(crate) fn listens(&self, at: &Place) -> bool {
        self.remote && allows(self.listen.as_deref(), at)
    }

    /// Whether a program may be lent that.
    pub(crate) const fn lends(&self, lent: &Lent) -> bool {
        match lent {
            Lent::Agent => self.agent,
            Lent::Display { .. } => self.display,
        }
    }
}

/// Names are compared as the client says them, and never looked up.
fn allows(list: Option<&[Spot]>, place: &Place) -> bool {
    let Some(list) = list else { return true };
    match place {
        Place::Unix(_) => false,
        Place::Tcp { host, port } => list.iter().any(|spot| {
            spot.host.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(host))
                && spot.port.is_none_or(|wanted| wanted == *port)
        }),
    }
}

impl Spot {
    fn read(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host == "*" { None } else { Some(decode(host)?) };
        let port = if port == "*" { None } else { Some(port.parse().ok()?) };
        Some(Self { host, port })
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            decoded.push(u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(words: &str) -> Permits {
        let mut permits = Permits::default();
        words.split(',').for_each(|word| permits.take(word).expect("a word of ours"));
        permits
    }

    fn tcp(host: &str, port: u16) -> Place {
        Place::Tcp { host: host.into(), port }
    }

    /// Fails when a guest leads where its words do not say that it may.
    #[test]
    fn only_what_is_said_is_allowed() {
        let none = Permits::default();
        assert!(!none.opens(&tcp("db", 1)) && !none.listens(&tcp("", 1)));
        let all = permits("forward-local");
        assert!(all.opens(&tcp("db", 1)) && all.opens(&Place::Unix(b"/x".to_vec())));
        assert!(!all.listens(&tcp("", 1)));
        let some = permits("forward-local,open=db:5432,open=*:80,open=%3A%3A1:*");
        assert!(some.opens(&tcp("DB", 5432)) && some.opens(&tcp("x", 80)) && some.opens(&tcp("::1", 9)));
        assert!(!some.opens(&tcp("db", 5433)) && !some.opens(&tcp("db.", 5432)));
        assert!(!some.opens(&Place::Unix(b"/x".to_vec())));
        assert!(!permits("forward-local,open").opens(&tcp("db", 1)));
        assert!(!permits("open=db:1").opens(&tcp("db", 1)), "a list allows nothing by itself");
        assert!(permits("forward-remote,listen=*:8080").listens(&tcp("localhost", 8080)));
        assert!(!permits("forward-remote,listen=*:8080").listens(&tcp("localhost", 8081)));
        let display = Lent::Display { screen: 0, cookie: [0; 16] };
        for (words, agent, x11) in
            [("forward-remote", false, false), ("agent", true, false), ("x11", false, true)]
        {
            let permits = permits(words);
            assert_eq!((permits.lends(&Lent::Agent), permits.lends(&display)), (agent, x11), "{words}");
        }
        for wrong in ["x", "open=db", "open=db:x", "open=%4:1", "close=db:1", "agents", "agent=x"] {
            assert_eq!(Permits::default().take(wrong), None, "{wrong}");
        }
    }
}
