//! What is in the bed: a storage pool, a bridge, the default profile, the image.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Place, image};
use crate::Incus;

/// Alias of the image.
const IMAGE: &str = "bb";

/// Makes what is missing.
pub(super) fn apply(place: &Place) -> Result<()> {
    let incus = Incus::new(&place.socket());
    let make = |what: &str, list: &str, name: &str, body: &Value| -> Result<()> {
        if incus.find(&format!("{list}/{name}"))?.is_none() {
            incus.change("POST", list, Some(body)).with_context(|| format!("cannot make the {what}"))?;
        }
        Ok(())
    };
    let pool = json!({"name": "default", "driver": "dir"});
    make("storage pool", "/1.0/storage-pools", "default", &pool)?;
    make("network", "/1.0/networks", "br0", &network(place))?;
    let devices = json!({
        "root": {"type": "disk", "path": "/", "pool": "default"},
        "eth0": {"type": "nic", "network": "br0", "name": "eth0"},
    });
    let profile = "/1.0/profiles/default";
    // A change, even to the same, touches every container.
    if incus.get(profile)?["devices"] != devices {
        let change = json!({"devices": devices});
        incus.change("PATCH", profile, Some(&change)).context("cannot change the default profile")?;
    }
    if incus.find(&format!("/1.0/images/aliases/{IMAGE}"))?.is_none() {
        let archive = image::build(&place.own_dir)?;
        let made = incus.upload("/1.0/images", &archive).context("cannot import the image")?;
        let fingerprint = made["fingerprint"].as_str().context("the image has no fingerprint")?;
        let alias = json!({"name": IMAGE, "target": fingerprint, "description": ""});
        incus.change("POST", "/1.0/images/aliases", Some(&alias)).context("cannot name the image")?;
    }
    Ok(())
}

/// The bridge. IPv6 addresses are the containers' own choice (SLAAC): busybox has no DHCPv6.
fn network(place: &Place) -> Value {
    json!({"name": "br0", "type": "bridge", "config": {
        "ipv4.address": place.bridge_v4, "ipv4.nat": "true",
        "ipv6.address": place.bridge_v6, "ipv6.nat": "true",
    }})
}
