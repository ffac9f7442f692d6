//! What of a client's its programs may be lent: as the policy and a key have it, in words for the helper.

use super::grant::Grant;
use crate::policy::Action;
use crate::wire::Lends;

/// What a grant and the policy allow.
pub(super) fn of(grant: &Grant, allowed: impl Fn(Action) -> bool) -> Lends {
    let key = &grant.options;
    Lends {
        agent: key.agent_forwarding && allowed(Action::Agent),
        x11: key.x11_forwarding && allowed(Action::X11),
    }
}

/// As the helper takes them, among its kinds.
pub(super) fn words(lends: Lends) -> impl Iterator<Item = String> {
    let words = [(lends.agent, "agent"), (lends.x11, "x11")];
    words.into_iter().filter(|(is_allowed, _)| *is_allowed).map(|(_, word)| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(key: &str, allowed: &[Action]) -> Vec<String> {
        let mut grant = Grant::of_root();
        grant.options = serde_json::from_str(key).expect("options");
        words(of(&grant, |action| allowed.contains(&action))).collect()
    }

    /// Fails when a helper may lend what a key or the policy does not allow.
    #[test]
    fn both_have_to_allow_it() {
        let both = [Action::Agent, Action::X11];
        assert_eq!(said("{}", &both), ["agent", "x11"]);
        assert_eq!(said("{}", &[Action::X11]), ["x11"]);
        assert_eq!(said("{}", &[Action::ForwardRemote]), [""; 0]);
        assert_eq!(said(r#"{"agent_forwarding":false}"#, &both), ["x11"]);
        assert_eq!(said(r#"{"x11_forwarding":false}"#, &both), ["agent"]);
    }
}
