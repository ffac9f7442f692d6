//! Certificates and revocation lists that OpenSSH's own `ssh-keygen` has made.

use std::path::{Path, PathBuf};
use std::process::Command;

use portway_sshgw::auth::authorized_keys::{AuthorizedKeys, KeyRefusal};
use portway_sshgw::auth::certificate::{self, CertificateError};
use portway_sshgw::auth::grant::{Circumstances, Grant};
use portway_sshgw::auth::key;
use portway_sshgw::auth::revoked::Revoked;
use portway_testkit::require;
use russh::keys::ssh_key::Certificate;
use russh::keys::ssh_key::public::KeyData;

/// 2026-11-20, in the middle of every certificate that is good.
const NOW: u64 = 1_795_132_800;

struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    /// `None`, and said, where there is no `ssh-keygen`.
    fn new() -> Option<Self> {
        let there = Command::new("ssh-keygen").arg("-?").output().is_ok();
        if !there {
            require("ssh-keygen is not installed");
            return None;
        }
        let keys = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["ca", "other", "ann", "bob"] {
            keys.keygen(&["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name]);
        }
        Some(keys)
    }

    fn keygen(&self, arguments: &[&str]) {
        let output =
            Command::new("ssh-keygen").args(arguments).current_dir(self.dir.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn key(&self, name: &str) -> KeyData {
        let text = read(&self.path(&format!("{name}.pub")));
        let mut words = text.split(' ');
        key::parse(words.next().unwrap(), words.next().unwrap()).unwrap()
    }

    /// A certificate of `name`'s key, signed by `ca` with these arguments of `ssh-keygen`.
    fn certificate(&self, name: &str, ca: &str, arguments: &[&str]) -> Certificate {
        let public = format!("{name}.pub");
        self.keygen(&[&["-q", "-s", ca, "-I", &format!("id of {name}")], arguments, &[&public]].concat());
        Certificate::from_openssh(read(&self.path(&format!("{name}-cert.pub"))).trim()).unwrap()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

fn here() -> Circumstances {
    Circumstances { client: "10.0.0.7".parse().unwrap(), now_seconds: NOW, local_offset_seconds: None }
}

/// Good at [`NOW`].
const GOOD: [&str; 4] = ["-n", "ann,ops", "-V", "20261101:20261201"];

fn with(arguments: &[&'static str]) -> Vec<&'static str> {
    [&GOOD, arguments].concat()
}

/// Fails when: a certificate is taken for somebody it is not for, at another time, from elsewhere, of another authority,
/// or with a critical option that nobody has understood.
#[test]
fn a_certificate_lets_in_whom_it_is_for() {
    let Some(keys) = Keys::new() else { return };
    let ca = keys.key("ca");
    let check = |certificate: &Certificate, name: &str| {
        certificate::check(certificate, &ca, &[name.to_owned()], &here())
    };
    let good = keys.certificate("ann", "ca", &GOOD);
    assert_eq!(check(&good, "ops"), Ok(Grant::default()));
    assert_eq!(check(&good, "root"), Err(CertificateError::Principal));
    assert_eq!(
        certificate::check(&good, &keys.key("other"), &["ann".to_owned()], &here()),
        Err(CertificateError::Authority)
    );
    for now_seconds in [NOW - 40 * 86400, NOW + 40 * 86400] {
        let later = Circumstances { now_seconds, ..here() };
        let refusal = certificate::check(&good, &ca, &["ann".to_owned()], &later);
        assert_eq!(refusal, Err(CertificateError::Time));
    }
    let bare = keys.certificate("ann", "ca", &with(&["-O", "clear"]));
    assert_eq!(check(&bare, "ann"), Ok(Grant::restricted()));
    let forced = keys.certificate("ann", "ca", &with(&["-O", "force-command=id -u", "-O", "no-pty"]));
    let grant = check(&forced, "ann").unwrap();
    assert_eq!((grant.command.as_deref(), grant.pty), (Some("id -u"), false));
    let near = keys.certificate("ann", "ca", &with(&["-O", "source-address=10.0.0.0/24"]));
    assert!(check(&near, "ann").is_ok());
    let far = keys.certificate("ann", "ca", &with(&["-O", "source-address=192.168.0.0/16"]));
    assert_eq!(check(&far, "ann"), Err(CertificateError::Source));
    let verify = keys.certificate("ann", "ca", &with(&["-O", "verify-required"]));
    assert!(matches!(check(&verify, "ann"), Err(CertificateError::OptionUnknown(_))));
    let odd = keys.certificate("ann", "ca", &with(&["-O", "critical:x@example.com=y"]));
    assert!(matches!(check(&odd, "ann"), Err(CertificateError::OptionUnknown(_))));
    let odd = keys.certificate("ann", "ca", &with(&["-O", "extension:x@example.com=y"]));
    assert!(check(&odd, "ann").is_ok());
    let host = keys.certificate("ann", "ca", &with(&["-h"]));
    assert_eq!(check(&host, "ann"), Err(CertificateError::NotUser));
    let nobody = keys.certificate("ann", "ca", &["-V", "20261101:20261201"]);
    assert_eq!(check(&nobody, "ann"), Err(CertificateError::NoPrincipal));
}

/// Fails when: a changed certificate is believed.
#[test]
fn a_signature_must_hold() {
    let Some(keys) = Keys::new() else { return };
    let good = keys.certificate("ann", "ca", &GOOD);
    let bytes = good.to_bytes().unwrap();
    let ca = keys.key("ca");
    let names = ["ann".to_owned(), "bnn".to_owned()];
    let place = bytes.windows(3).position(|part| part == b"ann").unwrap();
    let believed = (0..bytes.len()).filter(|at| {
        let mut changed = bytes.clone();
        changed[*at] ^= 1;
        let read = Certificate::from_bytes(&changed);
        read.is_ok_and(|read| certificate::check(&read, &ca, &names, &here()).is_ok())
    });
    let believed: Vec<usize> = believed.collect();
    assert!(believed.is_empty() && place > 0, "{believed:?}");
}

/// Fails when: the line of an authority lets in for more than it says, or its key logs in itself.
#[test]
fn an_authority_in_authorized_keys() {
    let Some(keys) = Keys::new() else { return };
    let ca = read(&keys.path("ca.pub"));
    let good = keys.certificate("ann", "ca", &with(&["-O", "no-port-forwarding"]));
    let find = |options: &str, name: &str| {
        let file = AuthorizedKeys::parse(format!("# one\n{options} {ca}").as_bytes());
        assert!(file.find_key(&keys.key("ca"), &here()).is_err(), "{options}");
        file.find_certificate(&good, name, &here()).map(|found| found.grant)
    };
    let grant = find("cert-authority,no-pty", "ann").unwrap();
    assert_eq!((grant.pty, grant.port_forwarding, grant.agent_forwarding), (false, false, true));
    let error = CertificateError::Principal;
    assert_eq!(find("cert-authority", "root"), Err(KeyRefusal::Certificate { line: 2, error }));
    assert!(find("cert-authority,principals=\"x,ops\"", "root").is_ok());
    assert!(find("cert-authority,principals=\"x\"", "ann").is_err());
    assert!(find("cert-authority,from=\"1.2.3.4\"", "ann").is_err());
    let forced = keys.certificate("ann", "ca", &with(&["-O", "force-command=id"]));
    let file = AuthorizedKeys::parse(format!("cert-authority,command=\"ls\" {ca}").as_bytes());
    let error = CertificateError::CommandsDiffer;
    let refusal = file.find_certificate(&forced, "ann", &here());
    assert_eq!(refusal, Err(KeyRefusal::Certificate { line: 1, error }));
    let plain = AuthorizedKeys::parse(ca.as_bytes());
    assert_eq!(plain.find_certificate(&good, "ann", &here()), Err(KeyRefusal::Unknown));
}

/// Fails when: what `ssh-keygen -k` has revoked is not, or something else is.
#[test]
fn revocation_lists_of_openssh() {
    let Some(keys) = Keys::new() else { return };
    let parse = |name: &str| Revoked::parse(&std::fs::read(keys.path(name)).unwrap()).unwrap();
    keys.keygen(&["-q", "-k", "-f", "keys.krl", "ann.pub"]);
    let revoked = parse("keys.krl");
    assert!(revoked.has_key(&keys.key("ann")) && !revoked.has_key(&keys.key("bob")));
    for form in ["sha1", "sha256", "key"] {
        std::fs::write(keys.path("spec"), format!("{form}: {}", read(&keys.path("bob.pub")))).unwrap();
        keys.keygen(&["-q", "-k", "-f", "spec.krl", "spec"]);
        let revoked = parse("spec.krl");
        assert!(revoked.has_key(&keys.key("bob")) && !revoked.has_key(&keys.key("ann")), "{form}");
    }
    // Far apart, near together, and in a row: lists, bitmaps and ranges.
    let spec = "serial: 5\nserial: 100-20000\nserial: 30001\nserial: 30003\nserial: 30007\nserial: 9000000000\nid: id of bob\n";
    std::fs::write(keys.path("spec"), spec).unwrap();
    keys.keygen(&["-q", "-k", "-s", "ca.pub", "-f", "certs.krl", "spec"]);
    let revoked = parse("certs.krl");
    let has = |name: &str, ca: &str, serial: &'static str| {
        revoked.has_certificate(&keys.certificate(name, ca, &with(&["-z", serial])))
    };
    for serial in ["5", "100", "150", "20000", "30001", "30003", "30007", "9000000000"] {
        assert!(has("ann", "ca", serial), "{serial}");
        assert!(!has("ann", "other", serial), "{serial} of another authority");
    }
    for serial in ["0", "4", "6", "99", "20001", "30000", "30002", "30008", "8999999999"] {
        assert!(!has("ann", "ca", serial), "{serial}");
    }
    assert!(has("bob", "ca", "0"), "by its id");
    keys.keygen(&["-q", "-k", "-f", "ca.krl", "ca.pub"]);
    assert!(parse("ca.krl").has_certificate(&keys.certificate("ann", "ca", &GOOD)), "by its authority");
    assert!(parse("keys.krl").has_certificate(&keys.certificate("ann", "ca", &GOOD)), "by its key");
}
