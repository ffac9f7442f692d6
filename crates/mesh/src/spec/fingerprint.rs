//! Whether two networks are one: what a network is but for its rules, and, of an organization, but for its members.

use std::fmt::{self, Write as _};

use sha2::{Digest as _, Sha256};

use super::PresharedKey;
use super::load::Spec;
use super::network::Peering;

/// What is written goes into the digest and is kept nowhere: keys are in it.
struct Digesting(Sha256);

impl fmt::Write for Digesting {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text);
        Ok(())
    }
}

impl Spec {
    /// The SHA-256 of all but its rules, keys and passwords among them, in hexadecimal. Two networks with the same one
    /// differ in rules at most.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut all = Digesting(Sha256::new());
        // Writing into a digest cannot fail.
        let _infallible = self.write_into(&mut all);
        let mut text = String::new();
        for byte in all.0.finalize() {
            // Nor into a String.
            let _infallible = write!(text, "{byte:02x}");
        }
        text
    }

    fn write_into(&self, all: &mut Digesting) -> fmt::Result {
        let network = &self.network;
        // In an organization a network takes up another key while it runs.
        if network.peering == Peering::Fixed {
            writeln!(all, "{}", network.private_key.reveal().as_str())?;
        }
        writeln!(all, "{:?} {:?} {}", network.addresses, network.listen_port, network.mtu)?;
        writeln!(all, "{:?} {:?} {:?}", network.rows, network.dns, network.peering)?;
        for peer in network.peers.iter().filter(|_| network.peering == Peering::Fixed) {
            let shared = peer.preshared_key.as_ref().map(PresharedKey::reveal);
            writeln!(all, "{} {:?}", peer.public_key, shared.as_ref().map(|key| key.as_str()))?;
            writeln!(all, "{:?} {:?} {:?}", peer.allowed_ips, peer.endpoint, peer.keepalive)?;
        }
        for proxy in &self.proxies {
            let login = proxy.login.as_ref().map(|login| (&login.user, login.password.as_str()));
            writeln!(all, "{} {:?} {} {login:?}", proxy.kind.as_str(), proxy.address, proxy.port)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::spec::memory::Memory;

    /// Fails when: something that a running network cannot change is left out, or rules are part of it.
    #[test]
    fn all_but_rules_is_in_it() {
        let file = |change: &dyn Fn(String) -> String| {
            let text = "private_key = \"yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\"\naddresses = [\"10.9.0.1/24\"]\n\
                listen_port = 1000\nmtu = 1300\negress = [\"tcp:80:10.9.0.2:80\"]\nsocks5 = [\"1080\"]\n[[peers]]\n\
                public_key = \"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"\nallowed_ips = [\"10.9.0.2/32\"]\n\
                endpoint = \"192.0.2.1:51820\"\nkeepalive = 25\n";
            Memory::default().file("n.toml", &change(text.to_owned())).load("n.toml").unwrap().fingerprint()
        };
        let first = file(&|text| text);
        assert_eq!(file(&|text| text.replace("tcp:80:", "tcp:81:")), first);
        assert_eq!(file(&|text| text.replace("[\"tcp:80:10.9.0.2:80\"]", "[]")), first);
        let changes: [(&str, &str); 8] = [
            ("yAnz5TF+", "4Anz5TF+"),
            ("10.9.0.1/24", "10.9.0.3/24"),
            ("listen_port = 1000", "listen_port = 1001"),
            ("mtu = 1300", "mtu = 1301"),
            ("1080", "1081"),
            ("10.9.0.2/32", "10.9.0.0/24"),
            ("192.0.2.1", "192.0.2.2"),
            ("keepalive = 25", "keepalive = 26"),
        ];
        let mut seen = BTreeSet::from([first]);
        for (from, to) in changes {
            assert!(seen.insert(file(&|text| text.replace(from, to))), "{from}");
        }
    }
}
