//! The same keys and files to `wg` and to us. Files go through `wg-quick strip` and `wg setconf` into wireguard-go, and
//! what `wg showconf` then says is what we have read.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use portway_mesh::spec::{Here, Network, PresharedKey, PrivateKey, PublicKey, Request, Spec};
use portway_testkit::{is_root, require, wait_for};

const KEY: &str = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
const PEER: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const OTHER: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
const SHARED: &str = "/UwcSPg38hW/D9Y3tcS1FOV0K1wuURMbS0sesJEP5ak=";

fn wg(arguments: &[&str], input: &str) -> Output {
    let mut command = Command::new("wg");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("wg starts");
    // It may have ended without reading.
    let _gone = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        require(&format!("no {program}"));
    }
    there
}

fn printed(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

/// Fails when: a key made by one side is another to the other.
#[test]
fn keys_are_those_of_wg() {
    if !has("wg") {
        return;
    }
    for _ in 0..32 {
        let theirs: PrivateKey = printed(&wg(&["genkey"], "")).parse().unwrap();
        let public = printed(&wg(&["pubkey"], &theirs.reveal()));
        assert_eq!(theirs.public().to_string(), public);
        assert_eq!(public.parse::<PublicKey>().unwrap(), theirs.public());
        let ours = PrivateKey::generate().unwrap();
        assert_eq!(printed(&wg(&["pubkey"], &ours.reveal())), ours.public().to_string());
        assert!(PresharedKey::parse(&printed(&wg(&["genpsk"], ""))).unwrap().is_some());
    }
}

/// Fails when: one side takes a text as a key that the other refuses. (Zeros are for wg a key that is none.)
#[test]
fn what_is_no_key_is_none_to_wg() {
    if !has("wg") {
        return;
    }
    let texts = [
        KEY.to_owned(),
        String::new(),
        KEY.trim_end_matches('=').to_owned(),
        format!("{KEY}="),
        KEY.replace('=', "A"),
        KEY.replace("mk=", "ml="),
        KEY.replace('+', "-"),
        KEY.replace('y', "\u{e4}"),
        KEY.replace('y', " "),
        format!("{KEY}\n{KEY}"),
    ];
    for text in texts {
        let theirs = wg(&["pubkey"], &text).status.success();
        assert_eq!(text.parse::<PrivateKey>().is_ok(), theirs, "{text:?}");
    }
}

/// wireguard-go with a device of its own.
struct Oracle {
    name: String,
    child: Child,
    dir: tempfile::TempDir,
}

impl Drop for Oracle {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
        // Killed, it leaves its socket.
        let _none = fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name));
    }
}

impl Oracle {
    fn start(name: &str) -> Option<Oracle> {
        if !is_root() || !["wg", "wg-quick", "wireguard-go"].into_iter().all(has) {
            return None;
        }
        let name = format!("{name}{}", std::process::id());
        let child = Command::new("wireguard-go")
            .args(["-f", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("wireguard-go starts");
        let oracle = Oracle { name, child, dir: tempfile::tempdir().unwrap() };
        let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", oracle.name));
        wait_for("wireguard-go", || UnixStream::connect(&socket).ok()).unwrap();
        Some(oracle)
    }

    fn path(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// What wg shows of a file of wg-quick; `None` when it is refused.
    fn shows(&self, text: &str) -> Option<String> {
        let path = self.path("o.conf", text);
        let stripped = Command::new("wg-quick").arg("strip").arg(&path).output().unwrap();
        if !stripped.status.success() {
            return None;
        }
        let path = self.path("stripped", &printed(&stripped));
        let set = wg(&["setconf", &self.name, path.to_str().unwrap()], "");
        if !set.status.success() {
            return None;
        }
        let shown = wg(&["showconf", &self.name], "");
        assert!(shown.status.success());
        Some(printed(&shown))
    }
}

fn read(path: &Path) -> Result<Network, String> {
    let request = Request { config: Some(path), ..Request::default() };
    Spec::load(&request, &Here).map(|spec| spec.network).map_err(|error| error.to_string())
}

/// A network without what wg does not know, and in one order.
fn comparable(mut network: Network) -> Network {
    network.addresses.truncate(1);
    network.mtu = portway_mesh::spec::Mtu::DEFAULT;
    network.dns = portway_mesh::spec::Dns::default();
    network.peers.iter_mut().for_each(|peer| peer.allowed_ips.sort_unstable());
    network.peers.sort_by_key(|peer| peer.public_key);
    network
}

fn with_keys(text: &str) -> String {
    let names = [("<K>", KEY), ("<P>", PEER), ("<O>", OTHER), ("<S>", SHARED)];
    names.iter().fold(text.to_owned(), |text, (name, key)| text.replace(name, key))
}

/// Files both take.
const TAKEN: &[&str] = &[
    "[Interface]\nAddress = 10.0.0.1/24\nPrivateKey = <K>\nListenPort = 51999\n",
    "[interface]\r\nADDRESS=10.0.0.1/24\r\nprivatekey=<K>\r\nlistenport=51999\r\n",
    "# x\n[Interface] # y\nAddress = 10.0.0.1/24 # z\nPrivateKey = <K>#\nListenPort = 51999\nPostUp = a; b = c\nTable=off\nMTU=1400\nDNS=1.1.1.1\n",
    "[Interface]\nAddress = 10.0.0.1\nPrivateKey = <K>\nListenPort = 51999\n[Peer]\nPublicKey = <P>\n",
    "[Interface]\nAddress = 10.0.0.1\nPrivateKey = <K>\nListenPort = 51999\n[Peer]\nPublicKey = <P>\nPersistentKeepalive = off\n",
    "[Interface]\nAddress = 10.0.0.1\nPrivateKey = <K>\nListenPort = 51999\n[Peer]\nPublicKey = <P>\nAllowedIPs = 10.0.0.2/32, fd09::/64\nAllowedIPs = 10.3.4.5/16,10.9.9.9\nPersistentKeepalive = 65535\nEndpoint = 192.0.2.1:1\nPresharedKey = <S>\n",
    "[Peer]\nPublicKey = <P>\nEndpoint = [2001:db8::1]:65535\nAllowedIPs = 0.0.0.0/0, ::/0\n[Interface]\nAddress = 10.0.0.1\nPrivateKey = <K>\n[Peer]\nPublicKey = <O>\nAllowedIPs = 10.0.0.0/8\nPersistentKeepalive=0\n[Interface]\nListenPort = 51999",
    "[Interface]\nAddress = 10.0.0.1\nPrivateKey = <K>\nListenPort = 51999\n[Peer]\nPublicKey = <P>\nAllowedIPs = 10.0.0.2/32, 10.0.0.2/32\nPresharedKey = AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
];

/// Fails when: a file that both take means different things to us and to wg.
#[test]
fn files_of_wg_quick_mean_what_they_mean_to_wg() {
    let Some(oracle) = Oracle::start("pwt") else { return };
    for text in TAKEN {
        let text = with_keys(text);
        let ours = read(&oracle.path("f.conf", &text)).unwrap_or_else(|error| panic!("{text}: {error}"));
        let shown = oracle.shows(&text).unwrap_or_else(|| panic!("wg refuses {text}"));
        let theirs = format!("[Interface]\nAddress = {}\n{shown}", ours.addresses[0]);
        let theirs = read(&oracle.path("t.conf", &theirs)).unwrap_or_else(|error| panic!("{shown}: {error}"));
        assert_eq!(comparable(theirs), comparable(ours), "{text}\n{shown}");
    }
}

/// Additions to a file both take, and whether wg takes the file then. We take none of them.
const REFUSED: &[(&str, bool)] = &[
    ("AllowedIPs = 0.0.0.0/33", false),
    ("AllowedIPs = ::/129", false),
    ("AllowedIPs = 10.0.0/8", false),
    ("PersistentKeepalive = 65536", false),
    ("PersistentKeepalive = -1", false),
    ("PersistentKeepalive = on", false),
    ("Endpoint = 192.0.2.1", false),
    ("Endpoint = [::1]", false),
    ("Endpoint = 192.0.2.1:65536", true),
    ("PresharedKey = x", false),
    ("AllowedIP = 10.0.0.1", false),
    ("Address = 10.0.0.7", false),
    ("[Pear]", false),
    ("[Peer]\nAllowedIPs = 10.0.0.1", false),
    ("[Interface]\nListenPort = 65536", true),
    ("[Interface]\nPrivateKey = x", false),
    // Where it takes the last word, or leaves something out in silence, we say so.
    ("PersistentKeepalive = 1\nPersistentKeepalive = 2", true),
    ("[Peer]\nPublicKey = <P>", true),
    ("AllowedIPs = 10.7.0.0/16\n[Peer]\nPublicKey = <O>\nAllowedIPs = 10.7.0.0/16", true),
    ("[Peer]\nPublicKey = <own>", true),
    ("Endpoint = 192.0.2.1:0", true),
    ("Endpoint = 0.0.0.0:1", true),
];

/// Fails when: a file that wg refuses is taken here, or the list of what is refused here alone is not true.
#[test]
fn what_wg_refuses_is_refused() {
    let Some(oracle) = Oracle::start("pwr") else { return };
    let own = KEY.parse::<PrivateKey>().unwrap().public().to_string();
    let before =
        "[Interface]\nAddress = 10.0.0.1\nPrivateKey = <K>\nListenPort = 51999\n[Peer]\nPublicKey = <P>\n";
    let mut wrong = Vec::new();
    for (text, takes) in REFUSED {
        let text = with_keys(&format!("{before}{text}\n").replace("<own>", &own));
        if read(&oracle.path("f.conf", &text)).is_ok() {
            wrong.push(format!("taken here: {text}"));
        }
        if oracle.shows(&text).is_some() != *takes {
            wrong.push(format!("wg takes it: {}: {text}", !takes));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
