//! Requests for another key, as anybody may send them.

use hyper::header::HeaderValue;
use portway_model::CidrList;

use super::*;
use crate::org::proof::proof;
use crate::org::store::FileStore;
use crate::org::{Pool, Settings, Terms};
use crate::spec::PrivateKey;

const TARGET: &str = "/v1/orgs/acme/me/key";
const NONCE: [u8; PROOF_BYTES] = [5; PROOF_BYTES];

fn key(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(&[byte; 32]).unwrap()
}

async fn with_one_device(dir: &std::path::Path) -> Arc<Registrar> {
    let store = Arc::new(FileStore::open(&dir.join("store")).unwrap());
    let registrar = Registrar::open(dir, store).unwrap();
    let block = "10.0.0.0/24".parse::<CidrList>().unwrap().blocks()[0];
    let pool = Pool::new(block, [0xfd, 1, 2, 3, 4, 5], Vec::new()).unwrap();
    let registry =
        registrar.create("acme".parse().unwrap(), Settings { pool, quarantine_seconds: 1 }).await.unwrap();
    let secret = Secret::from_bytes([1; 32]);
    let add =
        |ledger: &crate::org::Ledger, now| Ok(((), Some(ledger.add_key(&secret, Terms::default(), now)?)));
    registry.change(add).await.unwrap();
    let name = "one".parse().unwrap();
    let (key, secret) = (key(1).public(), secret.clone());
    let asked = Registration { key, secret, name, request_ip: None, endpoints: Vec::new() };
    registry.change(|ledger, now| Ok(((), ledger.register(&asked, now)?.step))).await.unwrap();
    registrar
}

/// What is sent: whose the request is, who has made the second proof, over which nonce, and the body.
struct Sent<'a> {
    by: &'a PrivateKey,
    second: Option<(&'a PrivateKey, [u8; PROOF_BYTES])>,
    body: &'a str,
}

/// Status and code of the answer.
async fn ask(registrar: &Registrar, nonce: Option<[u8; PROOF_BYTES]>, sent: &Sent<'_>) -> (u16, String) {
    let proven = |nonce| {
        move |by: &PrivateKey| {
            let proven = Proven { nonce: &nonce, method: "PUT", target: TARGET, body: sent.body.as_bytes() };
            Base64::encode_string(&proof(by, &registrar.proof.public(), &proven))
        }
    };
    let mut headers = HeaderMap::new();
    let value = |text: String| HeaderValue::from_str(&text).unwrap();
    headers.insert(KEY_HEADER, value(sent.by.public().to_string()));
    headers.insert(PROOF_HEADER, value(proven(NONCE)(sent.by)));
    if let Some((second, nonce)) = sent.second {
        headers.insert(NEW_PROOF_HEADER, value(proven(nonce)(second)));
    }
    let asked = Asked { method: &Method::PUT, target: TARGET, headers: &headers, body: sent.body.as_bytes() };
    match answer(registrar, nonce, &asked, || None).await {
        Ok(answered) => (answered.status().as_u16(), String::new()),
        Err(denied) => (denied.status, denied.failure.code),
    }
}

/// Fails when: a device gets a key whose private half it has not shown, by a proof of another key or of another request, or
/// one without its own; a request is good twice; or the right one is refused, or refused when it is asked again.
#[tokio::test]
async fn both_keys_are_proven() {
    let dir = tempfile::TempDir::new().unwrap();
    let registrar = with_one_device(dir.path()).await;
    let (old, new, other) = (key(1), key(2), key(3));
    let body = |key: &PrivateKey| format!("{{\"key\":\"{}\"}}", key.public());
    let unproven = (401, "unproven".to_owned());
    let wanted = body(&new);
    let cases = [
        Sent { by: &old, second: None, body: &wanted },
        Sent { by: &old, second: Some((&other, NONCE)), body: &wanted },
        Sent { by: &old, second: Some((&old, NONCE)), body: &wanted },
        Sent { by: &old, second: Some((&new, [6; PROOF_BYTES])), body: &wanted },
    ];
    for (number, sent) in cases.iter().enumerate() {
        assert_eq!(ask(&registrar, Some(NONCE), sent).await, unproven, "case {number}");
    }
    let malformed = (400, "malformed".to_owned());
    for body in ["", "{}", "{\"key\":\"x\"}", "{\"key\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}"] {
        let sent = Sent { by: &old, second: Some((&new, NONCE)), body };
        assert_eq!(ask(&registrar, Some(NONCE), &sent).await, malformed, "{body}");
    }
    let stranger = Sent { by: &other, second: Some((&new, NONCE)), body: &wanted };
    assert_eq!(ask(&registrar, Some(NONCE), &stranger).await, (403, "no_member".to_owned()));
    let right = Sent { by: &old, second: Some((&new, NONCE)), body: &wanted };
    // What was overheard has no nonce.
    assert_eq!(ask(&registrar, None, &right).await, unproven);
    assert_eq!(ask(&registrar, Some([7; PROOF_BYTES]), &right).await, unproven);
    assert_eq!(ask(&registrar, Some(NONCE), &right).await, (200, String::new()));
    assert_eq!(ask(&registrar, Some(NONCE), &right).await, (200, String::new()));
    let third = body(&other);
    let late = Sent { by: &old, second: Some((&other, NONCE)), body: &third };
    assert_eq!(ask(&registrar, Some(NONCE), &late).await, (403, "revoked".to_owned()));
    let next = Sent { by: &new, second: Some((&other, NONCE)), body: &third };
    assert_eq!(ask(&registrar, Some(NONCE), &next).await, (200, String::new()));
    assert_eq!(ask(&registrar, Some(NONCE), &right).await, (403, "revoked".to_owned()));
}
