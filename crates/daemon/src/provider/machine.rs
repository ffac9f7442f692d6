//! Devices of virtual machines: the relay stands on the host and dials an address that the server has
//! assigned. Nothing the machine says about itself is used.

use std::net::IpAddr;

use portway_model::{Address, Bind, ConnectAddr, DeviceSpec};

/// Whether any virtual machine can have this device.
///
/// # Errors
/// One line: why none can.
pub(crate) fn permits(spec: &DeviceSpec) -> Result<(), String> {
    if spec.bind == Bind::Instance {
        return Err("bind=instance needs a container: a virtual machine has its own kernel, \
                    and no socket can be opened in it from here"
            .into());
    }
    match spec.connect.address() {
        Address::Tcp { .. } | Address::Udp { .. } => Ok(()),
        _ => Err("a virtual machine is reached over its network only: connect must be tcp or udp".into()),
    }
}

/// The device with the host of `connect` replaced by an address of the machine. Loopback and wildcard
/// stand for the machine itself; `[::]` for either family.
pub(super) fn dialled(spec: &DeviceSpec, assigned: &[IpAddr]) -> Result<DeviceSpec, String> {
    permits(spec)?;
    let (Some(host), Some(ports)) = (spec.connect.address().host(), spec.connect.address().ports()) else {
        return Ok(spec.clone());
    };
    let wanted = host.ip();
    let fits = |ip: &&IpAddr| {
        if wanted.is_unspecified() || wanted.is_loopback() {
            ip.is_ipv4() == wanted.is_ipv4()
        } else {
            **ip == wanted
        }
    };
    let any = wanted.is_unspecified() && wanted.is_ipv6();
    let found = assigned.iter().find(fits).or_else(|| assigned.first().filter(|_| any));
    let ip = found.ok_or_else(|| missing(wanted, assigned))?;
    let protocol = spec.connect.address().protocol();
    let text = match ip {
        IpAddr::V4(ip) => format!("{protocol}:{ip}:{ports}"),
        IpAddr::V6(ip) => format!("{protocol}:[{ip}]:{ports}"),
    };
    let connect: ConnectAddr = text.parse().map_err(|problem| format!("{text}: {problem}"))?;
    Ok(DeviceSpec { connect, ..spec.clone() })
}

fn missing(wanted: IpAddr, assigned: &[IpAddr]) -> String {
    let has: Vec<String> = assigned.iter().map(IpAddr::to_string).collect();
    let has = has.join(", ");
    if wanted.is_unspecified() || wanted.is_loopback() {
        let family = if wanted.is_ipv4() { "IPv4" } else { "IPv6" };
        format!("the server has assigned the virtual machine no {family} address; it has {has}")
    } else {
        format!("{wanted} is not an address the server has assigned to the virtual machine; it has {has}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(listen: &str, connect: &str, bind: &str) -> DeviceSpec {
        let keys = [("listen", listen), ("connect", connect), ("bind", bind)];
        DeviceSpec::from_keys(keys).unwrap()
    }

    #[test]
    fn a_machine_is_dialled_at_an_assigned_address() {
        let both: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()];
        for (connect, dialled_at) in [
            ("tcp:127.0.0.1:80", "tcp:10.0.0.5:80"),
            ("tcp:0.0.0.0:80-82", "tcp:10.0.0.5:80-82"),
            ("udp::53", "udp:10.0.0.5:53"),
            ("tcp:[::1]:80", "tcp:[fd00::5]:80"),
            ("tcp:[::]:80", "tcp:[fd00::5]:80"),
            ("tcp:10.0.0.5:80", "tcp:10.0.0.5:80"),
        ] {
            let listen = if connect.contains("80-82") {
                "tcp:0.0.0.0:1-3"
            } else if connect.starts_with("udp") {
                "udp:0.0.0.0:1"
            } else {
                "tcp:0.0.0.0:1"
            };
            let found = dialled(&spec(listen, connect, "host"), &both).unwrap();
            assert_eq!(found.connect.to_string(), dialled_at, "{connect}");
        }
        let found = dialled(&spec("tcp::1", "tcp:[::]:80", "host"), &both[..1]).unwrap();
        assert_eq!(found.connect.to_string(), "tcp:10.0.0.5:80");
    }

    #[test]
    fn what_a_machine_cannot_have_is_said() {
        let v4: Vec<IpAddr> = vec!["10.0.0.5".parse().unwrap()];
        for (connect, bind, said) in [
            ("tcp:127.0.0.1:80", "instance", "needs a container"),
            ("unix:/run/s", "host", "over its network only"),
            ("unix:@s", "host", "over its network only"),
            ("tcp:[::1]:80", "host", "no IPv6 address; it has 10.0.0.5"),
            ("tcp:10.0.0.6:80", "host", "10.0.0.6 is not an address"),
            ("tcp:169.254.169.254:80", "host", "169.254.169.254 is not an address"),
        ] {
            let error = dialled(&spec("tcp::1", connect, bind), &v4).unwrap_err();
            assert!(error.contains(said), "{connect}: {error}");
        }
    }
}
