mod ledger;
mod parts;
mod rotate;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::spec::{PrivateKey, PublicKey};

/// A moment.
const NOW: u64 = 1_800_000_000;

fn key(number: u16) -> PublicKey {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    PrivateKey::from_bytes(&bytes).unwrap().public()
}

fn signer(seed: u8) -> Arc<OrgKey> {
    Arc::new(OrgKey::from_seed([seed; 32].into()))
}

fn secret(number: u8) -> Secret {
    Secret::from_bytes([number; 32])
}

fn block(text: &str) -> portway_model::Cidr {
    text.parse::<portway_model::CidrList>().unwrap().blocks()[0]
}

fn pool(network: &str, reserved: &[&str]) -> Pool {
    let reserved = reserved.iter().map(|text| block(text)).collect();
    Pool::new(block(network), [0xfd, 1, 2, 3, 4, 5], reserved).unwrap()
}

/// An organization with one key to join with, that of `secret(1)`, on `terms`.
fn org(network: &str, terms: Terms) -> Ledger {
    let settings = Settings { pool: pool(network, &[]), quarantine_seconds: 100 };
    let made = Ledger::create(signer(1), "acme".parse().unwrap(), settings, NOW);
    made.ledger.add_key(&secret(1), terms, NOW).unwrap().ledger
}

fn asks(number: u16) -> Registration {
    Registration {
        key: key(number),
        secret: secret(1),
        name: format!("d{number}").parse().unwrap(),
        request_ip: None,
        endpoints: Vec::new(),
    }
}

fn joined(ledger: &Ledger, number: u16) -> Ledger {
    ledger.register(&asks(number), NOW).unwrap().step.unwrap().ledger
}

/// What a store has after these writes.
fn stored(entries: &mut BTreeMap<String, Vec<u8>>, writes: Vec<Write>) {
    for write in writes {
        match write {
            Write::Put { name, value } => entries.insert(name, value),
            Write::Delete { name } => entries.remove(&name),
        };
    }
}
