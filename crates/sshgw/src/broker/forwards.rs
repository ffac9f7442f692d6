//! Where forwards may lead, and listen: as the policy and a key have it, in words for the helper.

use super::grant::Grant;
use crate::auth::grant::Permitted;
use crate::policy::Action;

/// Longest list of places in words, bytes: beyond that nothing is forwarded. An argument has 131,071 at most
/// (`MAX_ARG_STRLEN`, execve(2)), and there are two lists in it.
const LIST_BYTES: usize = 48 << 10;

/// What a connection may forward.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Forwards {
    /// `-L` and `-D`, to unix sockets too.
    local: bool,
    /// `-R`.
    remote: bool,
    /// Where to; `None` is anywhere.
    open: Option<Vec<Permitted>>,
    /// Where from.
    listen: Option<Vec<Permitted>>,
}

impl Forwards {
    /// What a grant and the policy allow.
    pub(super) fn of(grant: &Grant, allowed: impl Fn(Action) -> bool) -> Self {
        let key = &grant.options;
        Self {
            local: key.port_forwarding && allowed(Action::ForwardLocal),
            remote: key.port_forwarding && allowed(Action::ForwardRemote),
            open: key.permit_open.clone(),
            listen: key.permit_listen.clone(),
        }
    }

    /// Whether anything may be forwarded.
    pub(super) const fn is_any(&self) -> bool {
        self.local || self.remote
    }

    /// As the helper takes them, among its kinds.
    pub(super) fn words(&self) -> Vec<String> {
        let ways = [
            (self.local, "forward-local", "open", &self.open),
            (self.remote, "forward-remote", "listen", &self.listen),
        ];
        let mut words = Vec::new();
        for (is_allowed, kind, list, places) in ways {
            let places = places.as_ref().map(|places| in_words(list, places));
            let fits = places
                .as_ref()
                .is_none_or(|words| words.iter().map(String::len).sum::<usize>() <= LIST_BYTES);
            if is_allowed && fits {
                words.push(kind.to_owned());
                words.extend(places.into_iter().flatten());
            } else if is_allowed {
                tracing::warn!(
                    list,
                    "a key names more places than can be passed on: nothing is forwarded for it"
                );
            }
        }
        words
    }
}

/// The list, which allows nothing by itself, and its places.
fn in_words(list: &str, places: &[Permitted]) -> Vec<String> {
    let place = |place: &Permitted| {
        let host = place.host.as_deref().map_or_else(|| "*".to_owned(), encode);
        let port = place.port.map_or_else(|| "*".to_owned(), |port| port.to_string());
        format!("{list}={host}:{port}")
    };
    std::iter::once(list.to_owned()).chain(places.iter().map(place)).collect()
}

/// Nothing that has a meaning among the words.
fn encode(host: &str) -> String {
    let mut text = String::new();
    for byte in host.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(key: &str, allowed: &[Action]) -> Vec<String> {
        let mut grant = Grant::of_root();
        grant.options = serde_json::from_str(key).expect("options");
        Forwards::of(&grant, |action| allowed.contains(&action)).words()
    }

    /// Fails when a helper may forward what a key or the policy does not allow.
    #[test]
    fn both_have_to_allow_it() {
        let both = [Action::ForwardLocal, Action::ForwardRemote];
        assert_eq!(words("{}", &both), ["forward-local", "forward-remote"]);
        assert_eq!(words("{}", &[Action::ForwardRemote]), ["forward-remote"]);
        assert_eq!(words("{}", &[Action::Shell]), [""; 0]);
        assert_eq!(words(r#"{"port_forwarding":false}"#, &both), [""; 0]);
        let lists = r#"{"permit_open":[{"host":"::1","port":80},{"host":"a,b=c*","port":null},{"host":null,"port":9}],"permit_listen":[]}"#;
        let expected = [
            "forward-local",
            "open",
            "open=%3A%3A1:80",
            "open=a%2Cb%3Dc%2A:*",
            "open=*:9",
            "forward-remote",
            "listen",
        ];
        assert_eq!(words(lists, &both), expected);
    }

    /// Fails when a list that cannot be passed on allows anything.
    #[test]
    fn a_list_that_is_too_long_allows_nothing() {
        let place = Permitted { host: Some("x".repeat(100)), port: Some(1) };
        let mut grant = Grant::of_root();
        grant.options.permit_open = Some(vec![place; 1000]);
        assert_eq!(Forwards::of(&grant, |_| true).words(), ["forward-remote"]);
    }
}
