//! Which methods of authentication a connection still has to go through: one that is enabled, or a chain in its order.
//!
//! States: at a step of the chain, then in, or ended. Nothing but the answers to methods moves it, and all of them are
//! about one login: OpenSSH ends a connection that changes its user, and so does this.

use crate::options::{AuthOptions, Method};

/// Most refusals of one connection: OpenSSH's `MaxAuthTries`.
pub const TRIES_MAX: u32 = 6;

/// One connection's way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Methods in order, all of which must succeed; `None` where one is enough.
    chain: Option<Vec<Method>>,
    /// Methods of which one is enough.
    enabled: Vec<Method>,
    state: State,
    /// The login of the first answer.
    login: Option<String>,
    refusals: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many steps of the chain have succeeded.
    At(usize),
    In,
    Ended,
}

/// What an answer to a method means for the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Somebody is in.
    In,
    /// A step has succeeded; these can follow.
    Partial(Vec<Method>),
    /// It has not; these can be tried.
    Again(Vec<Method>),
    /// The connection ends.
    End,
}

impl Progress {
    /// The way in that options ask for. `questions` says whether somebody has a one-time code.
    #[must_use]
    pub fn new(options: &AuthOptions, questions: bool) -> Self {
        let mut enabled = vec![Method::PublicKey];
        enabled.extend(options.password.then_some(Method::Password));
        enabled.extend(questions.then_some(Method::KeyboardInteractive));
        let chain = Some(options.chain.clone()).filter(|chain| !chain.is_empty());
        Self { chain, enabled, state: State::At(0), login: None, refusals: 0 }
    }

    /// Methods that can be tried now.
    #[must_use]
    pub fn methods(&self) -> Vec<Method> {
        match (self.state, &self.chain) {
            (State::At(step), Some(chain)) => chain.get(step).copied().into_iter().collect(),
            (State::At(_), None) => self.enabled.clone(),
            (State::In | State::Ended, _) => Vec::new(),
        }
    }

    /// Takes an answer in: whether `method` has proven that `login` may come in.
    pub fn answer(&mut self, login: &str, method: Method, proven: Proven) -> Next {
        if self.state == State::In {
            return Next::In;
        }
        if *self.login.get_or_insert_with(|| login.to_owned()) != login || self.state == State::Ended {
            self.state = State::Ended;
            return Next::End;
        }
        // A method that is not asked for proves nothing, whatever it says.
        if proven == Proven::No || !self.methods().contains(&method) {
            self.refusals += 1;
            if self.refusals >= TRIES_MAX {
                self.state = State::Ended;
                return Next::End;
            }
            return Next::Again(self.methods());
        }
        let step = if let State::At(step) = self.state { step + 1 } else { 0 };
        if self.chain.as_ref().is_some_and(|chain| step < chain.len()) {
            self.state = State::At(step);
            return Next::Partial(self.methods());
        }
        self.state = State::In;
        Next::In
    }
}

/// Whether a method has proven something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// It has.
    Yes,
    /// It has not.
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use Method::{KeyboardInteractive, Password, PublicKey};

    fn options(password: bool, chain: &[Method]) -> AuthOptions {
        AuthOptions { none: false, none_anywhere: false, instance: false, password, chain: chain.to_vec() }
    }

    /// Fails when: a method that is not enabled lets in.
    #[test]
    fn without_a_chain_one_method_is_enough() {
        for method in [PublicKey, Password, KeyboardInteractive] {
            let mut progress = Progress::new(&options(true, &[]), true);
            assert_eq!(progress.answer("c1", method, Proven::Yes), Next::In);
            assert_eq!(progress.methods(), []);
            let mut progress = Progress::new(&options(false, &[]), false);
            let next = progress.answer("c1", method, Proven::Yes);
            assert_eq!(next == Next::In, method == PublicKey, "{method:?}");
        }
    }

    /// Fails when: a step is left out, stands in for another, or counts twice.
    #[test]
    fn a_chain_is_gone_through_in_its_order() {
        let chain = [PublicKey, KeyboardInteractive];
        let mut progress = Progress::new(&options(true, &chain), true);
        assert_eq!(progress.methods(), [PublicKey]);
        assert_eq!(progress.answer("c1", KeyboardInteractive, Proven::Yes), Next::Again(vec![PublicKey]));
        assert_eq!(progress.answer("c1", Password, Proven::Yes), Next::Again(vec![PublicKey]));
        let next = Next::Partial(vec![KeyboardInteractive]);
        assert_eq!(progress.answer("c1", PublicKey, Proven::Yes), next);
        let next = Next::Again(vec![KeyboardInteractive]);
        assert_eq!(progress.answer("c1", PublicKey, Proven::Yes), next);
        assert_eq!(progress.answer("c1", KeyboardInteractive, Proven::No), next);
        assert_eq!(progress.answer("c1", KeyboardInteractive, Proven::Yes), Next::In);
    }

    /// CVE-2026-46705: a step of one user counted for the next.
    ///
    /// Fails when: what one login has proven counts for another.
    #[test]
    fn a_login_that_changes_ends_the_connection() {
        let mut progress = Progress::new(&options(true, &[PublicKey, Password]), false);
        assert_eq!(progress.answer("c1", PublicKey, Proven::Yes), Next::Partial(vec![Password]));
        assert_eq!(progress.answer("c2", Password, Proven::Yes), Next::End);
        assert_eq!(progress.answer("c1", Password, Proven::Yes), Next::End, "it has ended");
        assert_eq!(progress.methods(), []);
    }

    /// Fails when: a connection may guess without a bound.
    #[test]
    fn refusals_are_counted() {
        let mut progress = Progress::new(&options(true, &[]), false);
        let next: Vec<Next> = (0..TRIES_MAX).map(|_| progress.answer("c1", Password, Proven::No)).collect();
        assert!(next.iter().take(5).all(|next| matches!(next, Next::Again(_))));
        assert_eq!(next.last(), Some(&Next::End));
        assert_eq!(progress.answer("c1", Password, Proven::Yes), Next::End);
    }
}
