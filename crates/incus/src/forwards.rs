//! Network forwards: addresses of the host whose traffic the server leads into a network of its own.

use std::net::IpAddr;

use serde::Deserialize;

use crate::{Client, Result};

/// A network forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// The network it leads into.
    pub network: String,
    /// The address that it takes.
    pub address: IpAddr,
}

/// One line of the list of allocated addresses.
#[derive(Deserialize)]
struct Allocation {
    #[serde(default)]
    used_by: String,
}

impl Forward {
    /// Reads `/1.0/networks/NETWORK/forwards/ADDRESS?project=…`; what else uses an address is none.
    fn from_user(path: &str) -> Option<Self> {
        let path = path.split('?').next()?.strip_prefix("/1.0/networks/")?;
        let (network, rest) = path.split_once('/')?;
        let address = rest.strip_prefix("forwards/")?.parse().ok()?;
        Some(Self { network: network.to_owned(), address })
    }
}

impl Client {
    /// The network forwards of all projects; none of a server that cannot say.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn forwards(&self) -> Result<Vec<Forward>> {
        let target = "/1.0/network-allocations?all-projects=true";
        let found: Option<Vec<Allocation>> = self.door().get(target, self.limits().list_bytes).await?;
        let found = found.unwrap_or_default();
        Ok(found.iter().filter_map(|one| Forward::from_user(&one.used_by)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_told_from_other_users() {
        let read =
            |path: &str| Forward::from_user(path).map(|one| format!("{} {}", one.network, one.address));
        for (path, expected) in [
            ("/1.0/networks/br0/forwards/198.51.100.7", Some("br0 198.51.100.7")),
            ("/1.0/networks/br0/forwards/2001:db8::1?project=dev", Some("br0 2001:db8::1")),
            ("/1.0/networks/br0", None),
            ("/1.0/networks/br0/load-balancers/198.51.100.7", None),
            ("/1.0/instances/c1", None),
            ("/1.0/networks/br0/forwards/x", None),
            ("", None),
        ] {
            assert_eq!(read(path).as_deref(), expected, "{path}");
        }
    }
}
