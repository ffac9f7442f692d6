//! A change that the server carries out while we wait: submitted, watched, finished or cancelled.
//!
//! The server goes on with it when nobody waits: dropping an [`Operation`], or a future that waits for it, changes
//! nothing. A finished one is forgotten some seconds later.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::encode::percent_encode;
use crate::transport::{Failure, Said, Saying, one_line, protocol};
use crate::{Client, IncusError, Result};

/// How long the server holds one question for the end: progress is seen this often, the end at once.
const ROUND: Duration = Duration::from_secs(1);

/// A change under way.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "whether it comes to its end is only known to who waits"]
pub struct Operation {
    /// Method and path of the request.
    pub(crate) request: String,
    /// Where the server answers for it.
    pub(crate) path: String,
}

/// How far it is, in the server's words: `rootfs: 12% (3.20MB/s)`. Empty where it does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// One line.
    pub text: String,
}

/// What a finished operation leaves: for an image, its `fingerprint`.
pub type Left = BTreeMap<String, serde_json::Value>;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_code: u16,
    #[serde(default)]
    metadata: Option<Wire>,
}

#[derive(Deserialize)]
struct Wire {
    status_code: u16,
    #[serde(default)]
    err: String,
    #[serde(default)]
    metadata: Option<Left>,
}

impl Client {
    /// Waits for the end of an operation; after `limit`, if there is one, it goes on without us. `watch` hears of
    /// progress, once a second at most.
    ///
    /// # Errors
    /// [`IncusError::Operation`] when it has failed, `Forgotten` when the server knows nothing of it, `TimedOut` after
    /// `limit`, or another that says nothing about it.
    pub async fn finish(
        &self,
        operation: &Operation,
        limit: Option<Duration>,
        mut watch: impl FnMut(&Progress),
    ) -> Result<Left> {
        let begin = Instant::now();
        loop {
            let left = limit.map_or(ROUND, |limit| limit.saturating_sub(begin.elapsed()).min(ROUND));
            // The server counts whole seconds, and takes 0 for a look.
            let target = format!("{}/wait?timeout={}", operation.path, left.as_millis().div_ceil(1000));
            let patience = self.limits().request.saturating_add(ROUND);
            let said = self.door().say(&target, Saying::get(), patience, self.limits().answer_bytes).await?;
            let mut seen = state(operation, &target, &said);
            if matches!(seen, Err(IncusError::Operation { .. })) {
                seen = self.by_itself(operation, seen).await;
            }
            match seen? {
                Some(left) => return Ok(left),
                None if limit.is_some_and(|limit| begin.elapsed() >= limit) => {
                    let request = operation.request.clone();
                    return Err(IncusError::TimedOut { request, limit: limit.unwrap_or_default() });
                }
                None => watch(&progress(&said)),
            }
        }
    }

    /// What the server is at in a project, whoever has asked for it, in its words: `Creating instance`.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn under_way(&self, project: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            description: String,
            #[serde(default)]
            status_code: u16,
        }
        let target = format!("/1.0/operations?recursion=1&project={}", percent_encode(project));
        let found: Option<BTreeMap<String, Vec<One>>> =
            self.door().get(&target, self.limits().list_bytes).await?;
        let all = found.unwrap_or_default().into_values().flatten();
        Ok(all.filter(|one| one.status_code < 200).map(|one| one.description).collect())
    }

    /// What an operation has left so far, running or not.
    pub(crate) async fn so_far(&self, operation: &Operation) -> Result<Left> {
        let path = &operation.path;
        let said = self.door().say(path, Saying::get(), self.limits().request, 1 << 20).await?;
        let answer: Option<Wire> = self.door().decode(path, said.status, &said.body)?;
        Ok(answer.and_then(|wire| wire.metadata).unwrap_or_default())
    }

    /// What an operation says of itself where a question for its end was `answered` with a failure: Incus 6 takes the end
    /// of the question for a failure of what was asked about, which goes on or has ended since.
    async fn by_itself(&self, operation: &Operation, answered: Result<Option<Left>>) -> Result<Option<Left>> {
        let said = self.door().say(&operation.path, Saying::get(), self.limits().request, 1 << 20).await;
        match said {
            // What is not found is the operation, and not what it was about.
            Ok(said) if said.status == StatusCode::NOT_FOUND => {
                Err(IncusError::Forgotten { request: operation.request.clone() })
            }
            Ok(said) if said.status == StatusCode::OK => match state(operation, &operation.path, &said) {
                Ok(state) => Ok(state),
                Err(failed) if is_another(&failed, &answered) => Err(failed),
                Err(_) => answered,
            },
            _ => answered,
        }
    }

    /// Asks the server to end an operation before its end; `None` when it knows no such one.
    ///
    /// # Errors
    /// [`IncusError`], any; a refusal where it cannot be ended.
    pub async fn cancel(&self, operation: &Operation) -> Result<Option<()>> {
        let saying = Saying { method: Method::DELETE, ..Saying::get() };
        let said = self.door().say(&operation.path, saying, self.limits().request, 64 << 10).await?;
        let done: Option<serde::de::IgnoredAny> =
            self.door().decode(&operation.path, said.status, &said.body)?;
        Ok(done.map(|_| ()))
    }

    /// Sends a change; `None` when it is done with the answer. The server brings it to its end, whatever becomes of us.
    pub(crate) async fn submit(
        &self,
        method: Method,
        target: &str,
        body: Option<&(impl Serialize + Sync)>,
        if_match: Option<String>,
    ) -> Result<Option<Operation>> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| protocol(target, error))?;
        let request = format!("{method} {target}");
        let body = Some(unread(body.unwrap_or_default()));
        let saying = Saying { method, body, if_match, headers: Vec::new() };
        let said = self.door().say(target, saying, self.limits().change, self.limits().answer_bytes).await?;
        if said.status == StatusCode::FORBIDDEN {
            return Err(self.door().denied());
        }
        let path = accepted(&request, &said)?;
        Ok(path.map(|path| Operation { request, path }))
    }

    /// The same, to its end.
    pub(crate) async fn carry_out(
        &self,
        method: Method,
        target: &str,
        body: Option<&(impl Serialize + Sync)>,
        if_match: Option<String>,
    ) -> Result<()> {
        if let Some(operation) = self.submit(method, target, body, if_match).await? {
            self.finish(&operation, Some(self.limits().change), |_| ()).await?;
        }
        Ok(())
    }
}

/// Longest change that gets blanks. With them it has to fit into a socket's buffer (200 kB): a server that has answered
/// closes with them unread, and who still writes then loses the answer.
const UNREAD_MAX_BYTES: usize = 48 << 10;

/// A body with blanks behind it, which nobody reads.
///
/// A server in Go watches the connection once it has read a body to its end, and calls the change off in the middle when
/// whoever has asked for it dies: Incus 6.0 leaves a network then that it lists and that has no bridge. Go's reader of JSON
/// stops behind the value; till then it has read at most twice the value and 1536 bytes (`Decoder.refill`). What of it
/// asks for no body reads none.
fn unread(mut body: Vec<u8>) -> Vec<u8> {
    if body.len() > UNREAD_MAX_BYTES {
        return body;
    }
    body.resize(body.len() * 2 + 2048, b' ');
    body
}

/// Whether it failed for another reason than was answered, where the same one may have a code.
fn is_another(failed: &IncusError, answered: &Result<Option<Left>>) -> bool {
    match (failed, answered) {
        (IncusError::Operation { message, .. }, Err(IncusError::Operation { message: other, .. })) => {
            message != other
        }
        _ => false,
    }
}

/// `None` while it goes on.
fn state(operation: &Operation, target: &str, said: &Said) -> Result<Option<Left>> {
    let answer: Answer = serde_json::from_slice(&said.body).map_err(|error| protocol(target, error))?;
    let failed = |code, text: &str| {
        let request = operation.request.clone();
        Err(IncusError::Operation { request, code, message: one_line(text) })
    };
    // 200: success, by the API's table of status codes; below it the operation goes on. A failure with a code of its
    // own comes as an error, with or without that status.
    match answer.metadata {
        Some(Wire { status_code: 200, metadata, .. }) => Ok(Some(metadata.unwrap_or_default())),
        Some(Wire { status_code: 0..200, .. }) => Ok(None),
        Some(wire) => failed(0, &wire.err),
        None if !answer.error.is_empty() => failed(answer.error_code, &answer.error),
        None => Err(protocol(target, "an operation without a state")),
    }
}

fn progress(said: &Said) -> Progress {
    let wire = serde_json::from_slice::<Answer>(&said.body).ok().and_then(|answer| answer.metadata);
    let left = wire.and_then(|wire| wire.metadata).unwrap_or_default();
    // `download_progress`, `create_instance_from_image_unpack_progress`, …
    let texts = left.iter().filter(|(key, _)| key.ends_with("_progress"));
    let text = texts.filter_map(|(_, value)| value.as_str()).next().unwrap_or_default();
    Progress { text: one_line(text) }
}

/// Path of the operation that a change became, if it became one.
pub(crate) fn accepted(request: &str, said: &Said) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Accepted {
        #[serde(default)]
        operation: String,
    }
    let message = || match serde_json::from_slice::<Failure>(&said.body) {
        Ok(failure) if failure.kind == "error" => one_line(&failure.error),
        _ => "no API error".to_owned(),
    };
    match said.status {
        StatusCode::OK | StatusCode::CREATED => Ok(None),
        StatusCode::ACCEPTED => {
            let answer: Accepted =
                serde_json::from_slice(&said.body).map_err(|error| protocol(request, error))?;
            let known = answer.operation.strip_prefix("/1.0/operations/");
            let plain = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            match known {
                Some(id) if plain(id) => Ok(Some(format!("/1.0/operations/{id}"))),
                _ => Err(protocol(request, "the operation cannot be waited for")),
            }
        }
        status => {
            let (request, code) = (request.to_owned(), status.as_u16());
            Err(IncusError::Status { request, code, message: message() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, body: &str) -> Said {
        let status = StatusCode::from_u16(status).expect("a status");
        Said { status, headers: hyper::HeaderMap::new(), body: body.to_owned().into() }
    }

    #[test]
    fn what_is_not_read_says_nothing() {
        let body = br#"{"a":1}"#;
        let padded = unread(body.to_vec());
        assert!(padded.len() > 2 * body.len() + 1536);
        let read: serde_json::Value = serde_json::from_slice(&padded).expect("the same");
        assert_eq!(read, serde_json::json!({"a": 1}));
        assert!(unread(Vec::new()).iter().all(|byte| *byte == b' '));
        let long = vec![b'1'; UNREAD_MAX_BYTES + 1];
        assert_eq!(unread(long.clone()), long);
        assert!(unread(vec![b'1'; UNREAD_MAX_BYTES]).len() < 100 << 10);
    }

    #[test]
    fn only_an_operation_of_the_server_is_waited_for() {
        let path = |operation: &str| format!(r#"{{"type":"async","operation":"{operation}"}}"#);
        let good = accepted("PUT x", &said(202, &path("/1.0/operations/ab-12"))).expect("good");
        assert_eq!(good.as_deref(), Some("/1.0/operations/ab-12"));
        for operation in ["", "/1.0/operations/", "/1.0/operations/../instances", "/1.0/operations/a?b"] {
            accepted("PUT x", &said(202, &path(operation))).expect_err("no operation");
        }
        let error = accepted("PUT x", &said(412, r#"{"type":"error","error":"ETag"}"#)).expect_err("refused");
        assert!(error.is_outdated() && error.to_string() == "PUT x was answered with 412: ETag", "{error}");
    }

    #[test]
    fn an_end_is_told_from_what_goes_on() {
        let operation = Operation { request: "POST x".into(), path: "/1.0/operations/a".into() };
        let of = |body: &str| state(&operation, "t", &said(200, body));
        let going =
            r#"{"type":"sync","metadata":{"status_code":103,"metadata":{"download_progress":"rootfs: 3%"}}}"#;
        assert_eq!(of(going).expect("a state"), None);
        assert_eq!(progress(&said(200, going)).text, "rootfs: 3%");
        let done = r#"{"type":"sync","metadata":{"status_code":200,"metadata":{"fingerprint":"ab"}}}"#;
        let left = of(done).expect("a state").expect("an end");
        assert_eq!(left["fingerprint"], "ab");
        let failed = of(r#"{"type":"sync","metadata":{"status_code":400,"err":"no\nway"}}"#);
        assert_eq!(failed.expect_err("failed").to_string(), "POST x has failed: no way");
        // What Incus 6 answers, with status 200, when the failure has a code.
        let coded = of(r#"{"type":"error","error_code":409,"error":"already used","metadata":null}"#);
        assert!(matches!(coded, Err(IncusError::Operation { code: 409, .. })));
        of(r#"{"type":"sync","metadata":null}"#).expect_err("no state");
        of("[").expect_err("no JSON");
    }
}
