//! How a device of an organization is seen from outside, in words.

use portway_control::api::{MeshMapping, MeshOrg};

/// A device that has a symmetric NAT before it: what that means, and what to do if there is something to do.
pub(crate) struct Symmetric {
    pub(crate) text: String,
    pub(crate) mend: Option<String>,
}

/// What is to be said of a symmetric NAT, if there is one. Whoever can be met in one family may be met.
pub(crate) fn symmetric(organization: &MeshOrg) -> Option<Symmetric> {
    let is = |mapping| organization.outside.iter().any(|seen| seen.mapping == mapping);
    if !is(MeshMapping::Symmetric) || is(MeshMapping::Same) || organization.hub {
        return None;
    }
    let what = "symmetric NAT: members behind routers are reached through a hub";
    Some(match organization.hubs.as_slice() {
        [] => Symmetric {
            text: format!("{what}, and there is none"),
            mend: Some(format!(
                "`portway mesh device set-hub DEVICE --org {}` at the registrar, for a member that everybody reaches",
                organization.organization
            )),
        },
        hubs => Symmetric { text: format!("{what}: {}", hubs.join(", ")), mend: None },
    })
}

/// Lines of what was seen.
pub(super) fn lines(organization: &MeshOrg) -> String {
    let mut text = String::new();
    for seen in &organization.outside {
        let how = match seen.mapping {
            MeshMapping::Unknown => "",
            MeshMapping::Same => ", the same for everybody",
            MeshMapping::Symmetric => ", others see another port each",
        };
        text += &format!("outside: the registrar sees {}{how}\n", seen.address);
    }
    if let Some(Symmetric { text: what, mend }) = symmetric(organization) {
        text += &format!("{what}\n");
        text += &mend.map_or_else(String::new, |mend| format!("hint: {mend}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use portway_control::api::MeshOutside;

    use super::*;

    #[test]
    fn what_is_said_of_a_nat() {
        let seen = |address: &str, mapping| MeshOutside { address: address.to_owned(), mapping };
        let mut organization = MeshOrg {
            organization: "acme".to_owned(),
            device: "one".to_owned(),
            revision: 7,
            devices: 3,
            registrar: "https://r:1".to_owned(),
            reachable: true,
            since_seconds: 5,
            error: None,
            hub: false,
            hubs: Vec::new(),
            outside: Vec::new(),
        };
        assert_eq!(lines(&organization), "");
        organization.outside = vec![seen("192.0.2.1:1", MeshMapping::Unknown)];
        assert_eq!(lines(&organization), "outside: the registrar sees 192.0.2.1:1\n");
        organization.outside = vec![seen("192.0.2.1:1", MeshMapping::Same)];
        assert_eq!(lines(&organization), "outside: the registrar sees 192.0.2.1:1, the same for everybody\n");
        organization.outside = vec![seen("192.0.2.1:1", MeshMapping::Symmetric)];
        let begin = "outside: the registrar sees 192.0.2.1:1, others see another port each\n\
            symmetric NAT: members behind routers are reached through a hub";
        assert_eq!(
            lines(&organization),
            format!(
                "{begin}, and there is none\nhint: `portway mesh device set-hub DEVICE --org acme` at the registrar, \
                 for a member that everybody reaches\n"
            )
        );
        organization.hubs = vec!["east".to_owned(), "west".to_owned()];
        assert_eq!(lines(&organization), format!("{begin}: east, west\n"));
        organization.outside.push(seen("[2001:db8::1]:1", MeshMapping::Same));
        assert!(symmetric(&organization).is_none());
    }
}
