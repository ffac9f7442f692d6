//! The store of several registrars: etcd, which they all may change.
//!
//! Its JSON interface is spoken (`/v3/kv/range`, `/v3/kv/txn`, `/v3/watch`: "gRPC gateway" in its manual), tried with 3.4.
//! A version is the `mod_revision` of the head, which every change writes.

use std::collections::BTreeMap;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use serde::Deserialize;
use serde_json::{Value, json};

pub use super::etcd_http::{EtcdAddress, EtcdAddressError, EtcdTls};

use super::etcd_http::{Failed, Http};
use super::{Answer, Commit, Image, Store, StoreError};
use crate::org::{OrgName, Write};

/// Before all that is ours.
const PREFIX: &str = "/portway/m1/org/";

/// Entries that are asked for at a time.
const PAGE: usize = 1000;

/// How often a reading is begun anew because what it reads was compacted away.
const READS: usize = 5;

/// How long a watch is trusted to tell: a member that is cut off from the others tells nothing.
const WATCH: Duration = Duration::from_secs(15);

/// Organizations in etcd.
#[derive(Debug)]
pub struct Etcd {
    http: Http,
}

#[derive(Deserialize)]
struct Header {
    revision: String,
}

#[derive(Deserialize)]
struct Entry {
    key: String,
    #[serde(default)]
    value: String,
    mod_revision: String,
}

#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<Entry>,
    #[serde(default)]
    more: bool,
}

#[derive(Deserialize)]
struct Done {
    header: Header,
    #[serde(default)]
    succeeded: bool,
}

#[derive(Deserialize)]
struct Watched {
    result: Option<Event>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    events: Vec<Value>,
}

fn strange(what: &str) -> StoreError {
    StoreError::Broken(format!("etcd answers without {what}"))
}

fn number(text: &str) -> Result<u64, StoreError> {
    text.parse().map_err(|_| strange("a revision"))
}

fn place(org: &OrgName, name: &str) -> String {
    Base64::encode_string(format!("{PREFIX}{org}/{name}").as_bytes())
}

impl Etcd {
    /// A store there.
    #[must_use]
    pub fn new(address: EtcdAddress) -> Etcd {
        Etcd { http: Http::new(address) }
    }

    async fn read(&self, org: &OrgName) -> Result<Image, Failed> {
        let below = format!("{PREFIX}{org}/");
        // The character behind the slash ends what is below it.
        let end = Base64::encode_string(format!("{PREFIX}{org}0").as_bytes());
        let mut image = Image { version: 0, entries: BTreeMap::new() };
        let (mut next, mut revision) = (Base64::encode_string(below.as_bytes()), "0".to_owned());
        loop {
            let asked =
                json!({"key": next, "range_end": end, "limit": PAGE.to_string(), "revision": revision});
            let range: Range = self.http.ask("/v3/kv/range", &asked).await?;
            if revision == "0" {
                revision = range.header.revision;
            }
            let mut last = Vec::new();
            for entry in range.kvs {
                last = Base64::decode_vec(&entry.key).map_err(|_| strange("base64"))?;
                let value = Base64::decode_vec(&entry.value).map_err(|_| strange("base64"))?;
                let name = std::str::from_utf8(&last).ok().and_then(|name| name.strip_prefix(&below));
                let name = name.ok_or_else(|| strange("our names"))?.to_owned();
                if name == Write::HEAD {
                    image.version = number(&entry.mod_revision)?;
                }
                image.entries.insert(name, value);
            }
            if !range.more || last.is_empty() {
                return Ok(image);
            }
            last.push(0);
            next = Base64::encode_string(&last);
        }
    }

    async fn current(&self, org: &OrgName) -> Result<u64, StoreError> {
        let range: Range = self.http.ask("/v3/kv/range", &json!({"key": place(org, Write::HEAD)})).await?;
        range.kvs.first().map_or(Ok(0), |head| number(&head.mod_revision))
    }

    /// Until the head is written again, or what is watched for was compacted away.
    async fn watch(&self, org: &OrgName, version: u64) -> Result<(), StoreError> {
        let from = version.saturating_add(1).to_string();
        let asked = json!({"create_request": {"key": place(org, Write::HEAD), "start_revision": from}});
        let mut lines = self.http.stream("/v3/watch", &asked).await?;
        while let Some(line) = lines.next().await? {
            let watched: Watched = serde_json::from_slice(&line).map_err(|_| strange("events"))?;
            let Some(event) = watched.result else { return Err(strange("a watch")) };
            if event.canceled || !event.events.is_empty() {
                return Ok(());
            }
        }
        Err(StoreError::Unreachable("etcd ended the watch".to_owned()))
    }
}

impl Store for Etcd {
    fn load<'a>(&'a self, org: &'a OrgName) -> Answer<'a, Image> {
        Box::pin(async move {
            let mut tries = 1;
            loop {
                match self.read(org).await {
                    Err(Failed::Compacted) if tries < READS => tries += 1,
                    done => return done.map_err(StoreError::from),
                }
            }
        })
    }

    fn commit<'a>(&'a self, org: &'a OrgName, expected: u64, writes: &'a [Write]) -> Answer<'a, Commit> {
        Box::pin(async move {
            let write = |write: &Write| match write {
                Write::Put { name, value } => {
                    json!({"request_put": {"key": place(org, name), "value": Base64::encode_string(value)}})
                }
                Write::Delete { name } => json!({"request_delete_range": {"key": place(org, name)}}),
            };
            // A key that is not there has the revision 0.
            let compare = json!([{
                "key": place(org, Write::HEAD), "target": "MOD", "result": "EQUAL",
                "mod_revision": expected.to_string(),
            }]);
            let success: Vec<Value> = writes.iter().map(write).collect();
            let asked = json!({"compare": compare, "success": success});
            let done: Done = self.http.change("/v3/kv/txn", &asked).await?;
            if done.succeeded {
                Ok(Commit::Done(number(&done.header.revision)?))
            } else {
                Ok(Commit::Conflict)
            }
        })
    }

    fn version<'a>(&'a self, org: &'a OrgName) -> Answer<'a, u64> {
        Box::pin(self.current(org))
    }

    fn changed<'a>(&'a self, org: &'a OrgName, version: u64) -> Answer<'a, ()> {
        Box::pin(async move {
            loop {
                if self.current(org).await? != version {
                    return Ok(());
                }
                // Silence is no news only if somebody who knows says so.
                if let Ok(watched) = tokio::time::timeout(WATCH, self.watch(org, version)).await {
                    return watched;
                }
            }
        })
    }
}
