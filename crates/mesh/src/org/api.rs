//! What devices and the registrar say to one another, as JSON.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Answer to `GET /v1/nonce`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Nonce {
    /// 32 bytes in base64, good for the next request on this connection.
    pub(super) nonce: String,
    /// The key that the proof is made with.
    pub(super) key: String,
}

/// Body of `POST /v1/orgs/ORG/register`. The answer is a snapshot with the device in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Register {
    /// 32 bytes in base64.
    pub(super) secret: Zeroizing<String>,
    pub(super) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) request_ip: Option<std::net::Ipv4Addr>,
    #[serde(default)]
    pub(super) endpoints: Vec<String>,
}

/// Body of `PUT /v1/orgs/ORG/me/key`. The answer is a snapshot with the device in it, under that key.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    pub(super) key: String,
}

/// Body of `PUT /v1/orgs/ORG/me/endpoints`. The answer is what is newer than what the device said it knows.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Endpoints {
    pub(super) endpoints: Vec<String>,
}
