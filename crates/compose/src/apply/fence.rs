//! Internal networks: an access list of the server's that nothing passes but what stays inside.
//!
//! The list says the network's subnets, which the server may choose. So the network is made first, then the list, and
//! then the network is told of it; no instance is in it before.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::patience::{AGAIN, SETTLING, patiently, worth};
use super::{ApplyError, Hands, server};
use crate::label;
use crate::want::Keys;

/// What of a network's keys names its list.
const ACLS: &str = "security.acls";

/// The list of a network, which is the project's own.
pub(crate) fn acl(network: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    format!("portway-{}", network.chars().map(plain).collect::<String>())
}

/// Keys of a network that is fenced in.
pub(crate) fn keys(network: &str) -> Keys {
    let reject = |side: &str| (format!("{ACLS}.default.{side}.action"), "reject".to_owned());
    Keys::from([(ACLS.to_owned(), acl(network)), reject("egress"), reject("ingress")])
}

impl Hands<'_> {
    /// Makes a network, or gives it these keys; one that is to be fenced in is.
    pub(super) async fn make_network(&self, name: &str, set: &Keys, there: bool) -> Result<(), ApplyError> {
        let id = self.network(name);
        let want = self.want.and_then(|want| want.networks.values().find(|network| network.name == name));
        let fenced = want.filter(|want| want.config.get(ACLS) == Some(&acl(name)));
        let Some(want) = fenced else { return self.ensure(&id, set, there).await };
        let (fence, open): (Keys, Keys) = set.clone().into_iter().partition(|(key, _)| key.starts_with(ACLS));
        self.ensure(&id, &open, there).await?;
        let found = self.client.resource(&id).await.map_err(server("it cannot be read"))?;
        let Some(found) = found else { return Err(ApplyError::Gone(want.name.clone())) };
        let addresses = ["ipv4.address", "ipv6.address"].map(|key| found.config.get(key));
        let subnets: Vec<String> = addresses.into_iter().flatten().filter_map(|text| subnet(text)).collect();
        let of = |key: &str| found.config.get(key).map(|value| (key.to_owned(), value.clone()));
        let labels: Keys =
            of(label::PROJECT).into_iter().chain([(label::NAME.to_owned(), name.to_owned())]).collect();
        let list = acl(name);
        let there = self.client.acl(&list).await.map_err(server("its access list cannot be read"))?;
        if there.is_some_and(|there| there.get(label::NAME).is_none_or(|of| of != name)) {
            return Err(ApplyError::Taken);
        }
        let put = self.client.put_acl(&list, &labels, &subnets).await;
        put.map_err(server("its access list cannot be made"))?;
        self.ensure(&id, &fence, true).await
    }

    /// Removes the list of a network that is gone.
    pub(super) async fn remove_fence(&self, network: &str) -> Result<(), ApplyError> {
        let list = acl(network);
        for _ in 0..SETTLING {
            let there = self.client.acl(&list).await.map_err(server("its access list cannot be read"))?;
            if there.is_none_or(|there| there.get(label::NAME).is_none_or(|of| of != network)) {
                return Ok(());
            }
            let removed = patiently(worth, async || self.client.remove_acl(&list).await).await;
            if removed.map_err(server("its access list cannot be removed"))?.is_some() {
                return Ok(());
            }
            // A network that the server has looked at for who uses the list is not found: it has just gone.
            tokio::time::sleep(AGAIN).await;
        }
        Err(ApplyError::Overtaken)
    }
}

/// `10.1.2.0/24` of `10.1.2.1/24`.
fn subnet(address: &str) -> Option<String> {
    let (ip, prefix) = address.split_once('/')?;
    let length: u32 = prefix.parse().ok()?;
    let base = match ip.parse().ok()? {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(length)?).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(ip) & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(length)?).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
        }
    };
    Some(format!("{base}/{length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_and_names() {
        assert_eq!(subnet("10.1.2.1/24").as_deref(), Some("10.1.2.0/24"));
        assert_eq!(subnet("fd42:1::1/64").as_deref(), Some("fd42:1::/64"));
        assert_eq!(subnet("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        assert_eq!((subnet("none"), subnet("10.1.2.1/33")), (None, None));
        assert_eq!(acl("shop_a.b-c"), "portway-shop-a-b-c");
    }
}
