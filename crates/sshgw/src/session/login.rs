//! Logging in, as a client sees it: what it offers and proves is put to the broker, which alone decides.
//!
//! That a signature holds is checked here, before the broker is asked: it has only this process' word for it.

use std::borrow::Cow;
use std::sync::Arc;

use russh::keys::ssh_key::Certificate;
use russh::keys::{Algorithm, PublicKey};
use russh::server::{Auth, PublicKeyOffer, VerifiedPublicKey};
use russh::{MethodKind, MethodSet};

use super::algorithms;
use super::link::Link;
use crate::options::Method;
use crate::wire::{KEY_BYTES, LOGIN_BYTES, Lends, Reply, Request, SECRET_BYTES, Strange};

/// What a client is asked for.
const QUESTION: &str = "One-time code: ";

/// A client that has not logged in.
pub(super) struct Login {
    link: Arc<Link>,
    /// What can be tried, by the broker's last word.
    methods: Vec<Method>,
    /// Text before a shell on a terminal, by the broker's last word.
    welcome: String,
    /// What programs may be lent, by the broker's last word.
    lends: Lends,
}

impl Login {
    pub(super) fn new(link: Arc<Link>, methods: Vec<Method>) -> Self {
        Self { link, methods, welcome: String::new(), lends: Lends::default() }
    }

    /// What is said before a shell on a terminal.
    pub(super) fn welcome(&self) -> &str {
        &self.welcome
    }

    /// What programs may be lent.
    pub(super) const fn lends(&self) -> Lends {
        self.lends
    }

    /// The client asks how it could log in.
    pub(super) async fn asked(&mut self, login: &str) -> Auth {
        self.strange(login, Strange::Nothing).await
    }

    /// Whether a key would do. Nothing is proven.
    pub(super) async fn offered(&mut self, login: &str, offer: &PublicKeyOffer<'_>) -> Auth {
        self.key(login, offer.public_key, offer.algorithm, |login, key| Request::Offer { login, key }).await
    }

    /// The client has the key.
    pub(super) async fn proven(&mut self, login: &str, key: &VerifiedPublicKey<'_>) -> Auth {
        self.key(login, key.public_key, key.algorithm, |login, key| Request::Proven { login, key }).await
    }

    /// The client has the key of a certificate. Of which kind its signature is was looked at when it was offered.
    pub(super) async fn certified(&mut self, login: &str, certificate: &Certificate) -> Auth {
        match certificate.to_openssh() {
            Ok(text) if text.len() <= KEY_BYTES => {
                let request = |login| Request::Certificate { login, certificate: text };
                self.ask(login, request, &[]).await
            }
            _ => self.strange(login, Strange::Long).await,
        }
    }

    /// The client says a password.
    pub(super) async fn password(&mut self, login: &str, password: &str) -> Auth {
        self.secret(login, password.as_bytes(), |login| Request::Password { login }).await
    }

    /// The client is asked a question, or answers it.
    pub(super) async fn interactive(&mut self, login: &str, answer: Option<&[u8]>) -> Auth {
        match answer {
            Some(code) => self.secret(login, code, |login| Request::Code { login }).await,
            None if self.methods.contains(&Method::KeyboardInteractive) => Auth::Partial {
                name: Cow::Borrowed(""),
                instructions: Cow::Borrowed(""),
                prompts: Cow::Borrowed(&[(Cow::Borrowed(QUESTION), false)]),
            },
            None => self.refusal(false),
        }
    }

    /// A signature has to be one of ours: the protocol's library verifies `ssh-rsa`, which is SHA-1, for whoever asks
    /// for it.
    async fn key(
        &mut self,
        login: &str,
        key: &PublicKey,
        algorithm: &Algorithm,
        request: impl FnOnce(String, String) -> Request,
    ) -> Auth {
        if !algorithms::is_signature(algorithm) {
            return self.strange(login, Strange::Signature).await;
        }
        match key.to_openssh() {
            Ok(key) if key.len() <= KEY_BYTES => self.ask(login, |login| request(login, key), &[]).await,
            _ => self.strange(login, Strange::Long).await,
        }
    }

    async fn secret(&mut self, login: &str, secret: &[u8], request: impl FnOnce(String) -> Request) -> Auth {
        if secret.len() <= SECRET_BYTES {
            self.ask(login, request, secret).await
        } else {
            self.strange(login, Strange::Long).await
        }
    }

    /// Nothing that could be judged: the broker only notes it.
    async fn strange(&mut self, login: &str, what: Strange) -> Auth {
        let end = login.floor_char_boundary(LOGIN_BYTES);
        let login = login.get(..end).unwrap_or_default().to_owned();
        let _refused = self.link.ask(Request::Strange { login, what }, &[]).await;
        self.refusal(false)
    }

    /// Asks the broker; without an answer it is no.
    async fn ask(&mut self, login: &str, request: impl FnOnce(String) -> Request, raw: &[u8]) -> Auth {
        if login.len() > LOGIN_BYTES {
            return self.strange(login, Strange::Login).await;
        }
        let answer = self.link.ask(request(login.to_owned()), raw).await;
        let Ok((Reply::Verdict { accepted, methods, is_partial, welcome, lends }, _)) = answer else {
            return self.refusal(false);
        };
        self.methods = methods;
        self.welcome = welcome;
        self.lends = lends;
        if accepted { Auth::Accept } else { self.refusal(is_partial) }
    }

    fn refusal(&self, partial_success: bool) -> Auth {
        Auth::Reject { proceed_with_methods: Some(method_set(&self.methods)), partial_success }
    }
}

/// As the protocol's library has them.
pub(super) fn method_set(methods: &[Method]) -> MethodSet {
    let kinds = methods.iter().map(|method| match method {
        Method::PublicKey => MethodKind::PublicKey,
        Method::Password => MethodKind::Password,
        Method::KeyboardInteractive => MethodKind::KeyboardInteractive,
    });
    MethodSet::from(kinds.collect::<Vec<_>>().as_slice())
}
