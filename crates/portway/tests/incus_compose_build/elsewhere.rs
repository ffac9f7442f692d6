//! Servers elsewhere.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use portway_testkit::{HTTPS_ADDRESS, Ports, Server, Trusted, certificate};

use crate::scene::Scene;
use crate::yard::with_buildah;

/// What a client of Incus has where `r1` is the scene's own server, by TLS.
fn elsewhere(scene: &mut Scene) -> Trusted<'static> {
    let pem = scene.bed.https().unwrap();
    let conf = scene.home().join(".config/incus");
    fs::create_dir_all(conf.join("servercerts")).unwrap();
    fs::write(conf.join("servercerts/r1.crt"), pem).unwrap();
    let trusted = scene.bed.trust(&conf, "client").unwrap();
    fs::set_permissions(conf.join("client.key"), fs::Permissions::from_mode(0o600)).unwrap();
    let one = |name: &str| {
        format!("  {name}: {{addr: 'https://{HTTPS_ADDRESS}', protocol: incus, auth_type: tls}}\n")
    };
    let text = format!("default-remote: local\nremotes:\n{}{}", one("r1"), one("other"));
    fs::write(conf.join("config.yml"), text).unwrap();
    certificate(scene.home(), "other").unwrap();
    fs::copy(scene.home().join("other.crt"), conf.join("servercerts/other.crt")).unwrap();
    trusted
}

/// Fails when a server elsewhere is not the one that is used, when what is here is taken for what is there, or when a
/// server that proves to be another one is spoken to.
fn it_is_reached(server: Server) {
    let Some(mut scene) = with_buildah(server, "far") else { return };
    let trusted = elsewhere(&mut scene);
    let ports = Ports::claim(scene.bed.netns()).unwrap();
    let port = ports.one().unwrap();
    let file = |mount: &str| {
        "services:
  web:
    image: local:bb
    command: [sh, -c, 'exec sleep 100000']
    ports: ['127.0.0.1:PORT:80']
    volumes: ['MOUNT']
    stop_grace_period: 0s
  built:
    build:
      context: .
      dockerfile_inline: |
        FROM scratch
        COPY bin /bin
        CMD [\"/bin/sleep\", \"100000\"]
    stop_grace_period: 0s
"
        .replace("PORT", &port.to_string())
        .replace("MOUNT", mount)
    };
    // In the project's folder here, and nobody knows where there.
    fs::create_dir(scene.dir().join("data")).unwrap();
    scene.write(&file("./data:/data"));
    let none = scene.run(&["--remote", "none", "ps"]);
    assert!(none.code == Some(4) && none.err.contains("there is no server none"), "{none:?}");
    for command in ["ps", "ls"] {
        let other = scene.run(&["--remote", "other", command]);
        assert!(other.code == Some(3) && other.err.contains("its certificate is another"), "{other:?}");
    }
    scene.words = ["--remote", "r1"].map(str::to_owned).to_vec();
    // Nothing but TLS leads to the server from here on.
    let asked = scene.end(scene.command(&["up", "-d"]).env("INCUS_SOCKET", "/nowhere"));
    assert!(asked.code == Some(1) && asked.err.contains("/shop/data of the host"), "{asked:?}");
    scene.write(&file("/usr:/data:ro"));
    let portway = scene.run(&["up", "-d", "--proxy-engine", "portway"]);
    assert!(portway.code == Some(1) && portway.err.contains("beside the server"), "{portway:?}");
    let up = scene.end(scene.command(&["up", "-d", "--allow"]).env("INCUS_SOCKET", "/nowhere"));
    assert_eq!(up.code, Some(0), "{up:?}");
    let devices = scene.instance("web-1").unwrap()["devices"].clone();
    assert!(devices.as_object().unwrap().values().any(|device| device["type"] == "proxy"), "{devices}");
    let mut exec = scene.command(&["exec", "-T", "web", "echo", "there"]);
    let exec = scene.end(exec.env("INCUS_SOCKET", "/nowhere"));
    assert_eq!((exec.code, exec.out.as_str()), (Some(0), "there\n"), "{exec:?}");
    scene.words.clear();
    let ps =
        scene.end(scene.command(&["ps", "-q"]).env("INCUS_REMOTE", "r1:").env("INCUS_SOCKET", "/nowhere"));
    assert_eq!(ps.out, "built-1\nweb-1\n", "{ps:?}");
    drop(trusted);
    let away = scene.run(&["--remote", "r1", "ps"]);
    assert_eq!(away.code, Some(1), "{away:?}");
    fs::remove_file(scene.home().join(".config/incus/client.key")).unwrap();
    let keyless = scene.run(&["--remote", "r1", "ps"]);
    assert!(keyless.code == Some(4) && keyless.err.contains("client.key"), "{keyless:?}");
}

#[test]
fn a_server_elsewhere_is_reached_by_its_name() {
    it_is_reached(Server::Incus7);
}
