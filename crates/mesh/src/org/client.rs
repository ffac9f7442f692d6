//! A device's side of the registrar: a connection over TLS to the one that has the pin, and requests that are proven.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use portway_model::{Host, HostName};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme, version};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::api;
use super::http::Failure;
use super::label::OrgName;
use super::ledger::Registration;
use super::proof::{KEY_HEADER, NEW_PROOF_HEADER, PROOF_BYTES, PROOF_HEADER, Proven, proof};
use super::snapshot::{SNAPSHOT_MAX_BYTES, Snapshot};
use super::token::Pin;
use super::view::Unverified;
use super::wire::endpoint;
use crate::spec::{Endpoint, PrivateKey, PublicKey};

/// How long a connection may take, and an answer.
const CONNECT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(30);

/// Longest silence of a registrar that is followed: it says something every 15 s.
const SILENCE: Duration = Duration::from_secs(50);

/// Port of a registrar, unless said otherwise.
const PORT: u16 = 51821;

/// Why a registrar did not do it.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error("the registrar {url} cannot be reached: {why}")]
    Unreachable {
        /// Where it should be.
        url: String,
        /// Why.
        why: String,
    },
    /// Somebody else answers.
    #[error("{url} is not the registrar that the token is of: it has another certificate")]
    Stranger {
        /// Where.
        url: String,
    },
    /// It says no.
    #[error("{}", failure.error)]
    Refused {
        /// Status of HTTP.
        status: u16,
        /// What it says.
        failure: Failure,
    },
    /// It answers, and not as a registrar does.
    #[error("{url} does not answer as a registrar: {why}")]
    Strange {
        /// Where.
        url: String,
        /// In which way.
        why: String,
    },
    /// What it says cannot be believed.
    #[error(transparent)]
    Unverified(#[from] Unverified),
}

/// Where a registrar is: `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrarUrl(Endpoint);

impl FromStr for RegistrarUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<RegistrarUrl, &'static str> {
        const EXPECTED: &str = "expected https://HOST or https://HOST:PORT";
        let at = text.strip_prefix("https://").ok_or(EXPECTED)?.trim_end_matches('/');
        let has_port = at.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let at = endpoint(&if has_port { at.to_owned() } else { format!("{at}:{PORT}") });
        at.map(RegistrarUrl).ok_or(EXPECTED)
    }
}

impl RegistrarUrl {
    /// Its host and port.
    pub(crate) fn at(&self) -> &Endpoint {
        &self.0
    }
}

impl fmt::Display for RegistrarUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.0)
    }
}

/// A connection to a registrar.
pub struct Session<'a> {
    url: &'a RegistrarUrl,
    key: &'a PrivateKey,
    sender: SendRequest<Full<Bytes>>,
}

impl<'a> Session<'a> {
    /// Connects to the registrar at `url`, which has to be the one with `pin`, as the device with `key`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open(
        url: &'a RegistrarUrl,
        pin: Pin,
        key: &'a PrivateKey,
    ) -> Result<Session<'a>, ClientError> {
        let unreachable = |why: String| ClientError::Unreachable { url: url.to_string(), why };
        let connected = tokio::time::timeout(CONNECT, connect(url, pin)).await;
        let stream = connected.map_err(|_| unreachable("it is silent".to_owned()))?;
        let stream =
            stream.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(rustls::Error::InvalidCertificate(_)) => ClientError::Stranger { url: url.to_string() },
                _ => unreachable(error.to_string()),
            })?;
        let made = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = made.map_err(|error| unreachable(error.to_string()))?;
        // It ends with the last of who uses it.
        tokio::spawn(connection);
        Ok(Session { url, key, sender })
    }

    /// Becomes a member: what the organization is then, not verified.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn register(&mut self, org: &OrgName, asked: &Registration) -> Result<Snapshot, ClientError> {
        let body = api::Register {
            secret: Base64::encode_string(asked.secret.as_bytes()).into(),
            name: asked.name.to_string(),
            request_ip: asked.request_ip,
            endpoints: asked.endpoints.iter().map(ToString::to_string).collect(),
        };
        let body = serde_json::to_vec(&body).map_err(|error| self.strange(error))?;
        let response = self.proven(Method::POST, &format!("/v1/orgs/{org}/register"), body).await?;
        let answer = self.answered(response, SNAPSHOT_MAX_BYTES).await?;
        Snapshot::parse(&answer).map_err(|error| self.strange(error))
    }

    /// Says where this device is reached.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn move_to(&mut self, org: &OrgName, endpoints: &[Endpoint]) -> Result<(), ClientError> {
        let body = api::Endpoints { endpoints: endpoints.iter().map(ToString::to_string).collect() };
        let body = serde_json::to_vec(&body).map_err(|error| self.strange(error))?;
        let response = self.proven(Method::PUT, &format!("/v1/orgs/{org}/me/endpoints"), body).await?;
        self.answered(response, SNAPSHOT_MAX_BYTES).await.map(|_| ())
    }

    /// Has another key from then on: what the organization is then, not verified. Asked again, it answers the same.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rotate(&mut self, org: &OrgName, new: &PrivateKey) -> Result<Snapshot, ClientError> {
        let body = api::NewKey { key: new.public().to_string() };
        let body = serde_json::to_vec(&body).map_err(|error| self.strange(error))?;
        let target = format!("/v1/orgs/{org}/me/key");
        let response = self.proven_by(Method::PUT, &target, body, Some(new)).await?;
        let answer = self.answered(response, SNAPSHOT_MAX_BYTES).await?;
        Snapshot::parse(&answer).map_err(|error| self.strange(error))
    }

    /// Follows what is newer than `since`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(mut self, org: &OrgName, since: u64) -> Result<Watch, ClientError> {
        let target = format!("/v1/orgs/{org}/watch?rev={since}");
        let response = self.proven(Method::GET, &target, Vec::new()).await?;
        if !response.status().is_success() {
            return Err(self
                .answered(response, SNAPSHOT_MAX_BYTES)
                .await
                .map_or_else(|error| error, |_| self.strange("no events")));
        }
        let url = self.url.to_string();
        Ok(Watch { url, body: response.into_body(), rest: Vec::new(), _sender: self.sender })
    }

    fn strange(&self, why: impl ToString) -> ClientError {
        ClientError::Strange { url: self.url.to_string(), why: why.to_string() }
    }

    /// A request that is ours: it has a nonce of this connection and a proof.
    async fn proven(
        &mut self,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        self.proven_by(method, target, body, None).await
    }

    /// The same, proven by a second key, too.
    async fn proven_by(
        &mut self,
        method: Method,
        target: &str,
        body: Vec<u8>,
        second: Option<&PrivateKey>,
    ) -> Result<Response<Incoming>, ClientError> {
        let response = self.send(Request::get("/v1/nonce"), Vec::new()).await?;
        let answer = self.answered(response, SNAPSHOT_MAX_BYTES).await?;
        let given: api::Nonce = serde_json::from_slice(&answer).map_err(|_| self.strange("no nonce"))?;
        let mut nonce = [0; PROOF_BYTES];
        let read = Base64::decode(&given.nonce, &mut nonce).map(<[u8]>::len);
        let registrar = given.key.parse::<PublicKey>().ok().filter(|_| read == Ok(PROOF_BYTES));
        let registrar = registrar.ok_or_else(|| self.strange("no nonce"))?;
        let proven = Proven { nonce: &nonce, method: method.as_str(), target, body: &body };
        let by = |key| Base64::encode_string(&proof(key, &registrar, &proven));
        let request = Request::builder().method(method.clone()).uri(target);
        let request = request.header(KEY_HEADER, self.key.public().to_string());
        let request = request.header(PROOF_HEADER, by(self.key));
        let request = match second {
            Some(key) => request.header(NEW_PROOF_HEADER, by(key)),
            None => request,
        };
        self.send(request, body).await
    }

    async fn send(
        &mut self,
        request: hyper::http::request::Builder,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, ClientError> {
        let unreachable = |why: String| ClientError::Unreachable { url: self.url.to_string(), why };
        let request = request
            .header(header::HOST, self.url.0.to_string())
            .header(header::USER_AGENT, concat!("portway/", env!("CARGO_PKG_VERSION")))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unreachable(error.to_string()))?;
        self.sender.ready().await.map_err(|error| unreachable(error.to_string()))?;
        let answer = tokio::time::timeout(PATIENCE, self.sender.send_request(request)).await;
        answer
            .map_err(|_| unreachable("it is silent".to_owned()))?
            .map_err(|error| unreachable(error.to_string()))
    }

    /// The body of a success; what a refusal says otherwise.
    async fn answered(&self, response: Response<Incoming>, limit: usize) -> Result<Bytes, ClientError> {
        let status = response.status();
        let body = tokio::time::timeout(PATIENCE, Limited::new(response.into_body(), limit).collect()).await;
        let body = body.map_err(|_| self.strange("its answer does not end"))?;
        let body = body.map_err(|error| self.strange(error))?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        match serde_json::from_slice::<Failure>(&body) {
            Ok(failure) => Err(ClientError::Refused { status: status.as_u16(), failure: tame(failure) }),
            Err(_) => Err(self.strange(status)),
        }
    }
}

/// What a stranger says, fit for one line.
fn tame(failure: Failure) -> Failure {
    let line = |text: String, most| text.chars().filter(|c| !c.is_control()).take(most).collect();
    Failure { code: line(failure.code, 40), error: line(failure.error, 300) }
}

/// A registrar that is followed.
pub struct Watch {
    url: String,
    body: Incoming,
    rest: Vec<u8>,
    /// The connection ends with it.
    _sender: SendRequest<Full<Bytes>>,
}

impl Watch {
    /// The next snapshot, not verified; `None` when the registrar has nothing more to say.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next(&mut self) -> Result<Option<Snapshot>, ClientError> {
        let strange =
            |url: &str, why: &str| ClientError::Strange { url: url.to_owned(), why: why.to_owned() };
        let mut looked = 0;
        loop {
            let end = self.rest.get(looked..).and_then(|new| new.iter().position(|byte| *byte == b'\n'));
            if let Some(end) = end {
                let behind = self.rest.split_off(looked + end + 1);
                let line = std::mem::replace(&mut self.rest, behind);
                looked = 0;
                if line.len() > 1 {
                    let snapshot = Snapshot::parse(&line);
                    return snapshot.map(Some).map_err(|error| strange(&self.url, &error.to_string()));
                }
                continue;
            }
            looked = self.rest.len();
            if looked > SNAPSHOT_MAX_BYTES {
                return Err(strange(&self.url, "a line without an end"));
            }
            let gone = |why: String| ClientError::Unreachable { url: self.url.clone(), why };
            match tokio::time::timeout(SILENCE, self.body.frame()).await {
                Err(_) => return Err(gone("it is silent".to_owned())),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(gone(error.to_string())),
                Ok(Some(Ok(frame))) => {
                    self.rest.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
                }
            }
        }
    }
}

async fn connect(url: &RegistrarUrl, pin: Pin) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let Endpoint { host, port } = &url.0;
    let stream = match host {
        Host::Ip(ip) => TcpStream::connect((ip.ip(), port.get())).await?,
        Host::Name(name) => TcpStream::connect((name.as_str(), port.get())).await?,
    };
    stream.set_nodelay(true)?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { pin, provider: Arc::clone(&provider) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    // Which host was meant is nobody's business on the way: the pin says it.
    config.enable_sni = false;
    let name = match host {
        Host::Ip(ip) => ServerName::from(ip.ip()),
        Host::Name(name) => server_name(name)?,
    };
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn server_name(name: &HostName) -> io::Result<ServerName<'static>> {
    ServerName::try_from(name.as_str().to_owned()).map_err(io::Error::other)
}

/// The registrar has the certificate with this hash. Dates and names in it say nothing.
#[derive(Debug)]
struct Pinned {
    pin: Pin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Pin::of(end_entity) == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let other = rustls::CertificateError::ApplicationVerificationFailure;
        Err(rustls::Error::InvalidCertificate(other))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
