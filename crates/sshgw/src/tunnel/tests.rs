//! What is told where there is no TLS. Servers are met in the tests of the program.

use super::*;

/// Fails when an answer is lost because something was asked, or is none of the API's.
#[tokio::test]
async fn what_is_asked_is_answered_without_a_server() {
    let (mut client, mut near) = UnixStream::pair().expect("a pair");
    client.write_all(b"GET /1.0 HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("asked");
    let reading = async {
        let mut text = String::new();
        client.read_to_string(&mut text).await.expect("an answer");
        drop(client);
        text
    };
    let refusing = async move {
        refuse(&mut near, "it is \"gone\"").await;
        drop(near);
    };
    let (text, ()) = tokio::join!(reading, refusing);
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    assert_eq!((&body["type"], &body["error"]), (&"error".into(), &"no way there: it is \"gone\"".into()));
}

/// Fails when a key that is none is tried, or printed.
#[test]
fn a_certificate_that_is_none_is_told() {
    let with = |cert: &str, key: &str| {
        tls::config(cert.as_bytes(), key.as_bytes(), &InitProof::Pinned(String::new())).err()
    };
    assert_eq!(with("", "").as_deref(), Some("our certificate for it cannot be read"));
    let cert = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(with(cert, "secret").as_deref(), Some("the key of our certificate for it cannot be read"));
}
