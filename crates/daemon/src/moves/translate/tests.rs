use super::*;

fn device(pairs: &str) -> Device {
    let pair =
        |word: &str| word.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap();
    pairs.split(' ').map(pair).collect()
}

fn text(keys: &Device) -> String {
    keys.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// The servers' reading of each, as tried on Incus 6.0 and LXD 5.0.
#[test]
fn a_device_of_incus_means_the_same_here() {
    let mut said = Vec::new();
    for pairs in [
        "listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80",
        "listen=udp:0.0.0.0:80-89,95 connect=udp:0.0.0.0:80 nat=false bind= uid=",
        "listen=tcp:[::]:80 connect=tcp:127.0.0.1:80 proxy_protocol=true",
        "listen=tcp::80 connect=tcp::80 proxy_protocol=yes bind=host",
        "listen=tcp:127.0.0.1:80 connect=tcp:127.0.0.1:80 proxy_protocol=FALSE",
        "listen=unix:/a connect=unix:/b mode=4755 uid=1 gid=2 security.uid=3 security.gid=4",
        "listen=unix:/a connect=unix:/b mode=777",
        "listen=unix:/a connect=unix:/b bind=guest",
        "listen=tcp:10.0.0.1:80 connect=tcp:10.0.0.2:80 nat=yes",
        "listen=tcp:10.0.0.1:0 connect=tcp:10.0.0.2:80",
        "listen=tcp:10.0.0.1:1-3 connect=tcp:10.0.0.2:1-2",
        "listen=unix:a connect=tcp::80",
        "listen=tcp::80 connect=tcp::80 user.note=x",
        "listen=tcp::80",
    ] {
        let mut with_type = device(pairs);
        with_type.insert("type".into(), "proxy".into());
        said.push(match to_ours(Provider::Incus, &with_type) {
            Ok(ours) => format!("{pairs}\n  = {}\n  {}", text(&ours.spec.to_keys()), ours.notes.join("; ")),
            Err(reason) => format!("{pairs}\n  ! {reason}"),
        });
    }
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn what_incus_cannot_express_is_said() {
    let mut said = Vec::new();
    for (name, pairs) in [
        ("web", "listen=tcp:[::]:80 connect=tcp:127.0.0.1:80 proxy_protocol=v1"),
        ("web", "listen=unix:/a connect=unix:/b mode=0600 uid=1 bind=instance security.uid=0"),
        ("web", "listen=tcp:0.0.0.0:80 connect=tcp:127.0.0.1:80"),
        ("web", "listen=tcp:[::]:80 connect=tcp:127.0.0.1:80 v6only=true hold=5s"),
        ("web", "listen=tcp:[::]:80 connect=unix:/b proxy_protocol=v2"),
        ("web", "listen=tcp:[fe80::1%eth0]:80 connect=unix:/b"),
        ("a/b", "listen=tcp:[::]:80 connect=unix:/b"),
    ] {
        let spec = DeviceSpec::from_keys(device(pairs)).unwrap();
        said.push(match to_theirs(Provider::Incus, name, &spec) {
            Ok(device) => {
                assert_eq!(to_ours(Provider::Incus, &device).unwrap().spec, spec, "{pairs}");
                format!("{name}: {pairs}\n  = {}", text(&device))
            }
            Err(reason) => format!("{name}: {pairs}\n  ! {reason}"),
        });
    }
    insta::assert_snapshot!(said.join("\n"));
}

/// Fails when: one server's words name the other.
#[test]
fn lxd_is_called_by_its_name() {
    let ours =
        to_ours(Provider::Lxd, &device("listen=tcp:0.0.0.0:80 connect=tcp::80 proxy_protocol=yes")).unwrap();
    assert_eq!(
        ours.notes,
        [
            "proxy_protocol=yes sends no header in LXD, nor here",
            "tcp:0.0.0.0:80 takes IPv6 too in LXD: tcp:[::]:80",
        ]
    );
    let spec = DeviceSpec::from_keys(device("listen=tcp::80 connect=tcp::80 hold=5s")).unwrap();
    assert_eq!(to_theirs(Provider::Lxd, "web", &spec), Err("LXD has no hold".to_owned()));
}
