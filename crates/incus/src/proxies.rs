//! Proxy devices that the server leads by rules of its own: they take what comes before any socket gets it.

use crate::types::{status_code, wire};
use crate::{Client, Device, Instance, Result, is_true};

/// A proxy device with `nat=true` of an instance that runs, its own or a profile's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedProxy {
    /// Project of the instance.
    pub project: String,
    /// Name of the instance.
    pub instance: String,
    /// Name of the device.
    pub device: String,
    /// Where it listens, as the server has it: `tcp:0.0.0.0:80-81`.
    pub listen: String,
    /// Where it leads: `tcp:10.0.0.5:80-81`; a wildcard address stands for those of the instance.
    pub connect: String,
    /// The addresses that the instance's interfaces have reserved.
    pub addresses: Vec<String>,
}

impl LedProxy {
    fn of(instance: &Instance) -> impl Iterator<Item = Self> {
        let runs = !matches!(instance.status_code, status_code::STOPPED | status_code::ERROR);
        let reserved = |keys: &Device| ["ipv4.address", "ipv6.address"].map(|key| keys.get(key).cloned());
        let addresses: Vec<String> = instance.devices.values().flat_map(reserved).flatten().collect();
        let devices = instance.devices.iter().filter(move |_| runs);
        devices.filter_map(move |(name, keys)| {
            let is_proxy = keys.get("type").is_some_and(|kind| kind.eq_ignore_ascii_case("proxy"));
            let is_led = keys.get("nat").is_some_and(|text| is_true(text));
            let listen = keys.get("listen").filter(|_| is_proxy && is_led)?;
            Some(Self {
                project: instance.project.clone(),
                instance: instance.name.clone(),
                device: name.clone(),
                listen: listen.clone(),
                connect: keys.get("connect").cloned().unwrap_or_default(),
                addresses: addresses.clone(),
            })
        })
    }
}

impl Client {
    /// The proxy devices with `nat=true` of all instances that run, in all projects this connection may see;
    /// in order.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn led_proxies(&self) -> Result<Vec<LedProxy>> {
        let target = "/1.0/instances?recursion=1&all-projects=true";
        let found: Option<Vec<wire::Instance>> = self.door().get(target, self.limits().list_bytes).await?;
        let instances = found.unwrap_or_default().into_iter().map(Instance::from);
        let mut proxies: Vec<LedProxy> =
            instances.flat_map(|instance| LedProxy::of(&instance).collect::<Vec<_>>()).collect();
        proxies.sort_unstable();
        Ok(proxies)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: one that is stopped, relayed or no proxy counts, or one of a profile does not.
    #[test]
    fn those_that_are_led_are_found() {
        let text = |status: u16, devices: &str| {
            format!(
                r#"{{"name": "c1", "project": "p", "type": "container", "status": "x", "status_code": {status},
                "expanded_config": {{}}, "expanded_devices": {devices}}}"#
            )
        };
        let led = r#"{"web": {"type": "proxy", "nat": "true", "listen": "tcp:0.0.0.0:80", "connect": "tcp:0.0.0.0:80"}}"#;
        for (status, devices, expected) in [
            (103, led, 1),
            (110, led, 1),
            (102, led, 0),
            (103, &led.replace("true", "YES"), 1),
            (103, &led.replace("true", "false"), 0),
            (103, &led.replace("proxy", "nic"), 0),
            (103, &led.replace("listen", "listens"), 0),
            (103, r#"{"web": {"type": "none"}}"#, 0),
        ] {
            let instance: wire::Instance = serde_json::from_str(&text(status, devices)).expect("an instance");
            assert_eq!(LedProxy::of(&Instance::from(instance)).count(), expected, "{status} {devices}");
        }
    }
}
