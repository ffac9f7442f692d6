use super::super::Spec;
use super::super::memory::{Memory, refusal};
use super::super::{Request, SpecError};
use super::*;

const NETWORK: &str = "private_key = \"<KEY>\"\naddresses = [\"10.9.0.1/24\"]\n";

fn load(more: &str) -> Spec {
    Memory::default().file("n.toml", &format!("{NETWORK}{more}")).load("n.toml").unwrap()
}

fn listed(spec: &Spec) -> Vec<String> {
    spec.proxies.iter().map(|proxy| format!("{} {}", proxy.kind.as_str(), address(proxy))).collect()
}

/// A file, the environment and flags: all of them are served.
#[test]
fn where_they_are_said() {
    let text = format!(
        "{NETWORK}socks5 = [\"1080\", \"[::1]:1080\"]\nhttp_connect = [\"0.0.0.0:3128\"]\nproxy_user = \"u\"\n\
         proxy_password_file = \"secret\"\n"
    );
    let memory = Memory::default()
        .file("n.toml", &text)
        .file("secret", "pass word\n")
        .variable("PORTWAY_MESH_SOCKS5", "1081,1082")
        .variable("PORTWAY_MESH_HTTP_CONNECT", "3129");
    let (socks5, http_connect) = (["1083".to_owned()], ["127.0.0.2:3130".to_owned()]);
    let request = Request {
        config: Some("n.toml".as_ref()),
        socks5: &socks5,
        http_connect: &http_connect,
        ..Request::default()
    };
    let spec = Spec::load(&request, &memory).unwrap();
    assert_eq!(
        listed(&spec),
        [
            "http_connect 0.0.0.0:3128",
            "socks5 127.0.0.1:1080",
            "socks5 [::1]:1080",
            "http_connect 127.0.0.1:3129",
            "socks5 127.0.0.1:1081",
            "socks5 127.0.0.1:1082",
            "socks5 127.0.0.1:1083",
            "http_connect 127.0.0.2:3130",
        ]
    );
    let login = spec.proxies[0].login.as_ref().unwrap();
    assert_eq!((login.user.as_str(), login.password.as_str()), ("u", "pass word"));
    assert!(!format!("{:?}", spec.proxies).contains("pass"), "a password is not printed");
    assert!(load("socks5 = [\"1080\"]\n").proxies[0].login.is_none());
}

/// Fails when: a proxy for everybody is opened, or two listeners of one port are found out by the kernel.
#[test]
fn every_refusal_names_what_and_where() {
    let long = "x".repeat(256);
    let cases = [
        ("socks5 = [\"0\"]", "3:11: socks5 `0`: the port is not from 1 to 65535"),
        ("socks5 = [\"+80\"]", "3:11: socks5 `+80`: the port is not from 1 to 65535"),
        ("socks5 = [\"host:80\"]", "3:11: socks5 `host:80`: that is no address of this host"),
        ("socks5 = [\"::1:80\"]", "3:11: socks5 `::1:80`: that is no address of this host"),
        ("socks5 = [\"224.0.0.1:80\"]", "3:11: socks5 `224.0.0.1:80`: that is no address of this host"),
        ("socks5 = \"1080\"", "3:10: socks5 is a list of texts, written [\"...\"]"),
        (
            "http_connect = [\"0.0.0.0:3128\"]",
            "3:17: http_connect 0.0.0.0:3128: everybody who reaches this host could use it",
        ),
        (
            "socks5 = [\"10.9.0.1:80\"]",
            "3:11: socks5 10.9.0.1:80: that is this node's address in the network, a proxy listens on the host",
        ),
        (
            "socks5 = [\"1080\"]\nhttp_connect = [\"127.0.0.1:1080\"]",
            "3:11: socks5 127.0.0.1:1080: 127.0.0.1:1080 listens there, at n.toml:4:17",
        ),
        (
            "egress = [\"tcp:1080:10.9.0.1:80\"]\nsocks5 = [\"1080\"]",
            "4:11: socks5 127.0.0.1:1080: an egress rule listens on tcp:1080",
        ),
        ("proxy_user = \"u\"", "3:14: proxy_user and proxy_password stand together or not at all"),
        (
            "proxy_user = \"a:b\"\nproxy_password = \"p\"",
            "3:14: the name of a proxy's user has 1 to 255 bytes and no colon",
        ),
        (
            &format!("proxy_user = \"u\"\nproxy_password = \"{long}\""),
            "4:18: the password of a proxy has 1 to 255 bytes",
        ),
    ];
    for (more, message) in cases {
        assert_eq!(refusal("n.toml", &format!("{NETWORK}{more}\n")).0, format!("n.toml:{message}"), "{more}");
    }
    let (_, hint) = refusal("n.toml", &format!("{NETWORK}socks5 = [\"0.0.0.0:1080\"]\n"));
    assert_eq!(hint.unwrap(), "listen on 127.0.0.1, or say who may: proxy_user and proxy_password");
    let text = format!("{NETWORK}proxy_user = \"u\"\nproxy_password = \"p\"\n")
        .replace("<KEY>", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=");
    let open = Memory::default().file("n.toml", &text).open("n.toml").load("n.toml").unwrap_err();
    assert!(matches!(open, SpecError::Readable { .. }), "{open}");
}

#[test]
fn ports_that_need_a_privilege() {
    let spec = load("socks5 = [\"80\"]\n");
    let rights = PortRights { first_free: 1024, privileged: false };
    let error = allowed(&spec.proxies, rights).unwrap_err().to_string();
    assert_eq!(error, "n.toml:3:11: cannot listen on tcp:127.0.0.1:80: ports below 1024 need a privilege");
    assert!(allowed(&spec.proxies, PortRights { privileged: true, ..rights }).is_ok());
}
