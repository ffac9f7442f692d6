//! Logging in, as a client sees it: what it offers and proves is put to the broker, which alone decides.
//!
//! That a signature holds is checked here, before the broker is asked: it has only this process' word for it.

use std::sync::Arc;

use russh::keys::{Algorithm, PublicKey};
use russh::server::{Auth, PublicKeyOffer, VerifiedPublicKey};

use super::algorithms;
use super::link::Link;
use crate::wire::{Reply, Request};

/// A client that has not logged in.
pub(super) struct Login {
    link: Arc<Link>,
}

impl Login {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link }
    }

    /// Whether a key would do. Nothing is proven.
    pub(super) async fn offered(&self, login: &str, offer: &PublicKeyOffer<'_>) -> Auth {
        let login = login.to_owned();
        self.verdict(|key| Request::Offer { login, key }, offer.public_key, offer.algorithm).await
    }

    /// The client has the key.
    pub(super) async fn proven(&self, login: &str, key: &VerifiedPublicKey<'_>) -> Auth {
        let login = login.to_owned();
        self.verdict(|text| Request::Proven { login, key: text }, key.public_key, key.algorithm).await
    }

    /// Asks whether a key is good; without an answer it is not, nor with a signature that is none of ours: the
    /// protocol's library verifies `ssh-rsa`, which is SHA-1, for whoever asks for it.
    async fn verdict(
        &self,
        request: impl FnOnce(String) -> Request,
        key: &PublicKey,
        algorithm: &Algorithm,
    ) -> Auth {
        if !algorithms::is_signature(algorithm) {
            return Auth::reject();
        }
        let Ok(key) = key.to_openssh() else { return Auth::reject() };
        let Ok((Reply::Verdict { accepted: true }, fds)) = self.link.ask(request(key), &[]).await else {
            return Auth::reject();
        };
        // With the verdict on a proof comes where the next broker will knock.
        if let Some(Err(error)) = fds.into_iter().next().map(|listener| self.link.await_next(listener)) {
            tracing::warn!(%error, "the session will not outlive the gateway");
        }
        Auth::Accept
    }
}
