//! Checks of what kernel NAT stands on: that the host forwards, and that nobody's firewall stops it.

use std::fs;

use portway_nat::forward_obstacles;

use super::Finding;
use crate::failure::{chain, printable};

/// Runs the checks.
pub(super) fn check() -> Vec<Finding> {
    let on = |path| fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
    vec![
        forwarding(on("/proc/sys/net/ipv4/ip_forward"), on("/proc/sys/net/ipv6/conf/all/forwarding")),
        firewalls(),
    ]
}

fn forwarding(v4: bool, v6: bool) -> Finding {
    const CHECK: &str = "forwarding";
    let missing = match (v4, v6) {
        (true, true) => return Finding::ok(CHECK, "the host forwards IPv4 and IPv6"),
        (false, true) => ("IPv4", "sysctl net.ipv4.ip_forward=1"),
        (true, false) => ("IPv6", "sysctl net.ipv6.conf.all.forwarding=1"),
        (false, false) => ("IPv4 and IPv6", "sysctl net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"),
    };
    let text =
        format!("the host does not forward {}: devices with nat are not reached from outside", missing.0);
    Finding::warn(CHECK, text, format!("`{}`; Incus and LXD do it when they make a bridge", missing.1))
}

fn firewalls() -> Finding {
    const CHECK: &str = "firewalls";
    match forward_obstacles() {
        Ok(found) if found.is_empty() => Finding::ok(
            CHECK,
            "no chain drops by its policy what NAT leads to instances; single rules are not judged",
        ),
        Ok(found) => {
            let texts: Vec<String> = found.iter().map(|one| printable(&one.to_string())).collect();
            Finding::warn(
                CHECK,
                texts.join("; "),
                "let it accept what comes to the instances' bridges, or relay (nat=false)",
            )
        }
        Err(problem) => Finding::warn(
            CHECK,
            format!("cannot be looked at: {}", chain(&problem)),
            "run `sudo portway doctor`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Status;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(forwarding(true, true).status, Status::Ok);
        for (v4, v6, said) in
            [(false, true, "IPv4:"), (true, false, "IPv6:"), (false, false, "IPv4 and IPv6:")]
        {
            let finding = forwarding(v4, v6);
            assert_eq!(finding.status, Status::Warn);
            assert!(finding.text.contains(said), "{}", finding.text);
        }
    }
}
