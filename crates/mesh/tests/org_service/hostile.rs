//! Who is no device, or not the registrar.

use std::sync::Arc;
use std::time::Duration;

use portway_mesh::org::membership::MembershipError;
use portway_mesh::org::{ClientError, Pin};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::bed::Bed;

/// Takes any certificate: what a stranger would do.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

async fn connect(bed: &Bed) -> TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    let name = ServerName::try_from("registrar").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Sends what is given and reads until the end: the status line and what is said.
async fn say(stream: &mut TlsStream<TcpStream>, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    // The end of the connection may come without that of TLS.
    let _ended = read.expect("it ends");
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(target: &str, headers: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: r\r\nConnection: close\r\n{headers}\r\n")
}

/// Fails when: anything is told or done without a proof, or a proof is good twice, for another request or connection.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_proof_nothing_is_said() {
    let bed = Bed::new().await;
    let token = bed.token(None).await;
    let one = bed.join("one", &token).await.unwrap();
    let key = one.key().public().to_string();
    let target = "/v1/orgs/acme/watch?rev=0";
    let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let cases = [
        (String::new(), "no key of a device"),
        (format!("portway-key: {key}\r\n"), "no proof"),
        (format!("portway-key: {key}\r\nportway-proof: x\r\n"), "no proof"),
        (format!("portway-key: {key}\r\nportway-proof: {zeros}\r\n"), "no nonce"),
    ];
    for (headers, expected) in cases {
        let answer = say(&mut connect(&bed).await, &get(target, &headers)).await;
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains(expected), "{answer}");
    }
    let mut stream = connect(&bed).await;
    let both = "GET /v1/nonce HTTP/1.1\r\nHost: r\r\n\r\n".to_owned()
        + &get(target, &format!("portway-key: {key}\r\nportway-proof: {zeros}\r\n"));
    let answer = say(&mut stream, &both).await;
    assert!(answer.contains("401") && answer.contains("does not hold"), "{answer}");
    for target in ["/", "/v1/orgs", "/v1/orgs/acme/keys", "/v1/orgs/acme/devices"] {
        let answer = say(&mut connect(&bed).await, &get(target, "")).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{target}: {answer}");
    }
}

/// Fails when: too long a head or body is read, or what is no HTTP and no TLS keeps a connection.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_is_not_read() {
    let bed = Bed::new().await;
    let long = "a".repeat(40_000);
    let answer = say(&mut connect(&bed).await, &get("/v1/nonce", &format!("x: {long}\r\n"))).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let body = "POST /v1/orgs/acme/register HTTP/1.1\r\nHost: r\r\nContent-Length: 70000\r\n\r\n";
    let answer = say(&mut connect(&bed).await, &format!("{body}{}", "b".repeat(70_000))).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = say(&mut connect(&bed).await, "\0\0\0\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    let mut plain = TcpStream::connect(("127.0.0.1", bed.port)).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(15), plain.read_to_end(&mut rest)).await;
    // An alert of TLS, and the end.
    assert!(read.is_ok() && !rest.starts_with(b"HTTP"));
}

/// Fails when: one source can ask as often as it likes, or is then refused for good.
#[tokio::test(flavor = "multi_thread")]
async fn one_source_asks_so_often_and_no_more() {
    let bed = Bed::new().await;
    let mut stream = connect(&bed).await;
    let many = "GET /v1/nonce HTTP/1.1\r\nHost: r\r\n\r\n".repeat(300) + &get("/v1/nonce", "");
    let answer = say(&mut stream, &many).await;
    let refused = answer.matches("HTTP/1.1 429").count();
    assert!(refused > 50 && answer.matches("HTTP/1.1 200").count() >= 50, "{refused}");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(say(&mut connect(&bed).await, &get("/v1/nonce", "")).await.starts_with("HTTP/1.1 200"));
}

/// Fails when: a device speaks to a registrar that is not the one of its token.
#[tokio::test(flavor = "multi_thread")]
async fn another_registrar_is_no_registrar() {
    let (bed, other) = (Bed::new().await, Bed::new().await);
    let mut token = bed.token(None).await;
    let refused = other.join("one", &token).await.unwrap_err();
    assert!(matches!(refused, MembershipError::Client(ClientError::Stranger { .. })), "{refused}");
    // The pin is right, and the organization is another one's.
    let theirs = other.token(None).await;
    token.pin = theirs.pin;
    token.secret = theirs.secret.clone();
    let refused = other.join("two", &token).await.unwrap_err();
    // What is not believed stands in the cause alone: whoever prints both says it once.
    let cause = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("not the organization's"), "{refused}: {cause}");
    assert!(!refused.to_string().contains(&cause), "{refused}");
    assert_ne!(token.pin, Pin([0; 32]));
}
