//! One connection's way in: what it has proven, and what it may try next.
//!
//! Nothing of it is believed after somebody is in: then there is a grant, and this is not asked any more.

use std::net::IpAddr;
use std::sync::Mutex;

use zeroize::Zeroize as _;

use super::grant::Grant;
use super::judge::{Judge, Proof, Reason};
use super::lock;
use crate::auth::chain::{Next, Progress, Proven};
use crate::options::Method;
use crate::wire::{Lends, Reply, Request};

/// The way in of a connection.
#[derive(Debug)]
pub(super) struct Entrance(Mutex<State>);

#[derive(Debug)]
struct State {
    progress: Progress,
    proofs: Vec<Proof>,
    /// The last login that was refused, and why.
    refused: Option<(String, Reason)>,
}

/// What is answered, and what somebody who is in may do.
pub(super) type Answer = (Reply, Option<Grant>);

impl Entrance {
    pub(super) fn new(judge: &Judge) -> Self {
        let progress = Progress::new(&judge.auth_options(), false);
        Self(Mutex::new(State { progress, proofs: Vec::new(), refused: None }))
    }

    /// Methods that can be tried now.
    pub(super) fn methods(&self) -> Vec<Method> {
        lock(&self.0).progress.methods()
    }

    /// The last login that was refused, and why.
    pub(super) fn refused(&self) -> Option<(String, Reason)> {
        lock(&self.0).refused.take()
    }

    /// Answers a question of the time before somebody is in. `raw` is what came with it, a secret.
    pub(super) async fn answer(
        &self,
        judge: &Judge,
        request: Request,
        mut raw: Vec<u8>,
        peer: IpAddr,
    ) -> Answer {
        let answer = match request {
            Request::Offer { login, key } => {
                let verdict = match self.asked_for(Method::PublicKey) {
                    Ok(()) => judge.offer(&login, &key, peer).await,
                    Err(reason) => Err(reason),
                };
                (self.offered(login, verdict), None)
            }
            Request::Proven { login, key } => {
                let proof = match self.asked_for(Method::PublicKey) {
                    Ok(()) => judge.key(&login, &key, peer).await,
                    Err(reason) => Err(reason),
                };
                self.proven(judge, peer, login, Method::PublicKey, proof)
            }
            Request::Certificate { login, certificate } => {
                let proof = match self.asked_for(Method::PublicKey) {
                    Ok(()) => judge.certificate(&login, &certificate, peer).await,
                    Err(reason) => Err(reason),
                };
                self.proven(judge, peer, login, Method::PublicKey, proof)
            }
            Request::Password { login } => {
                let proof = match self.asked_for(Method::Password) {
                    Ok(()) => judge.password(&login, std::mem::take(&mut raw)).await,
                    Err(reason) => Err(reason),
                };
                self.proven(judge, peer, login, Method::Password, proof)
            }
            Request::Code { login } => {
                let proof = match self.asked_for(Method::KeyboardInteractive) {
                    Ok(()) => judge.code(&login, &raw).await,
                    Err(reason) => Err(reason),
                };
                self.proven(judge, peer, login, Method::KeyboardInteractive, proof)
            }
            Request::Strange { login, what } => (self.offered(login, Err(Reason::Strange(what))), None),
            Request::Resume { .. }
            | Request::Open { .. }
            | Request::Helper { .. }
            | Request::Transferred { .. }
            | Request::Recorded { .. }
            | Request::Forwarding(_)
            | Request::Forwarded(_)
            | Request::Lost { .. }
            | Request::Shell(_)
            | Request::Closed { .. } => (self.offered(String::new(), Err(Reason::Key)), None),
        };
        raw.zeroize();
        answer
    }

    fn asked_for(&self, method: Method) -> Result<(), Reason> {
        let asked_for = self.methods().contains(&method);
        if asked_for { Ok(()) } else { Err(Reason::Method(method.as_str())) }
    }

    /// Nothing was proven.
    fn offered(&self, login: String, verdict: Result<(), Reason>) -> Reply {
        let mut state = lock(&self.0);
        let accepted = verdict.is_ok();
        if let Err(reason) = verdict {
            state.refused = Some((login, reason));
        }
        let methods = state.progress.methods();
        Reply::Verdict {
            accepted,
            methods,
            is_partial: false,
            welcome: String::new(),
            lends: Lends::default(),
        }
    }

    fn proven(
        &self,
        judge: &Judge,
        peer: IpAddr,
        login: String,
        method: Method,
        proof: Result<Proof, Reason>,
    ) -> Answer {
        let mut state = lock(&self.0);
        let outcome = proof.and_then(|proof| {
            let mut progress = state.progress.clone();
            let next = progress.answer(&login, method, Proven::Yes);
            let mut proofs = state.proofs.clone();
            proofs.push(proof);
            // Somebody is in when the policy has a place for him, and not before.
            let grant = match next {
                Next::In => Some(judge.admit(&login, &proofs, peer)?),
                Next::Partial(_) | Next::Again(_) | Next::End => None,
            };
            Ok((progress, proofs, next, grant))
        });
        let (next, grant) = match outcome {
            Ok((progress, proofs, next, grant)) => {
                state.progress = progress;
                if let Next::Partial(methods) = &next {
                    state.proofs = proofs;
                    let more = methods.first().map_or("", |method| method.as_str());
                    state.refused = Some((login, Reason::Half(more)));
                } else if next == Next::End {
                    state.refused = Some((login, Reason::Changed));
                }
                (next, grant)
            }
            Err(reason) => {
                let next = state.progress.answer(&login, method, Proven::No);
                state.refused = Some((login, reason));
                (next, None)
            }
        };
        let is_partial = matches!(next, Next::Partial(_));
        let (accepted, methods) = (grant.is_some(), state.progress.methods());
        let (welcome, lends) = (String::new(), Lends::default());
        (Reply::Verdict { accepted, methods, is_partial, welcome, lends }, grant)
    }
}
