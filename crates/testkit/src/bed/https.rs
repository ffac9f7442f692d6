//! The server's API over the network of its bed, and clients that it trusts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{Bed, unique};
use crate::{run, wait_for};

/// Where it listens from the first test on that asks: nobody but the bed is there.
pub const HTTPS_ADDRESS: &str = "127.0.0.1:8443";

/// A certificate that the server trusts, until this is dropped.
#[derive(Debug)]
pub struct Trusted<'a> {
    bed: &'a Bed,
    name: String,
}

impl Bed {
    /// Has the server listen at [`HTTPS_ADDRESS`]; its certificate, PEM.
    ///
    /// # Errors
    /// When it does not.
    pub fn https(&self) -> Result<String> {
        let server = self.incus.get("/1.0")?;
        if server["config"]["core.https_address"] != HTTPS_ADDRESS {
            let config = json!({"config": {"core.https_address": HTTPS_ADDRESS}});
            self.incus.change("PATCH", "/1.0", Some(&config))?;
        }
        let connect = || std::net::TcpStream::connect(HTTPS_ADDRESS).is_ok();
        wait_for("the server's port", || self.netns.enter(connect).ok()?.then_some(()))?;
        let server = self.incus.get("/1.0")?;
        server["environment"]["certificate"].as_str().map(str::to_owned).context("no certificate")
    }

    /// Makes a certificate and its key, `NAME.crt` and `NAME.key` in `dir`, and has the server trust it.
    ///
    /// # Errors
    /// When either cannot be done.
    pub fn trust(&self, dir: &Path, name: &str) -> Result<Trusted<'_>> {
        certificate(dir, name)?;
        let pem = std::fs::read_to_string(dir.join(format!("{name}.crt")))?;
        let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let trusted = Trusted { bed: self, name: unique(name) };
        let post = json!({"type": "client", "name": trusted.name, "certificate": body});
        self.incus.change("POST", "/1.0/certificates", Some(&post))?;
        Ok(trusted)
    }
}

/// Makes a certificate that its own key has signed, `NAME.crt` and `NAME.key` in `dir`.
///
/// # Errors
/// When `openssl` does not.
pub fn certificate(dir: &Path, name: &str) -> Result<()> {
    let file = |kind: &str| dir.join(format!("{name}.{kind}"));
    let mut command = Command::new("openssl");
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:secp384r1",
        "-sha384",
        "-nodes",
    ]);
    command.args(["-days", "2", "-subj", &format!("/CN={name}"), "-addext", "subjectAltName=IP:127.0.0.1"]);
    run(command.arg("-keyout").arg(file("key")).arg("-out").arg(file("crt"))).map(|_| ())
}

impl Drop for Trusted<'_> {
    fn drop(&mut self) {
        let listed = self.bed.incus.get("/1.0/certificates?recursion=1").unwrap_or_default();
        for entry in listed.as_array().into_iter().flatten().filter(|entry| entry["name"] == self.name) {
            let fingerprint = entry["fingerprint"].as_str().unwrap_or_default();
            let target = format!("/1.0/certificates/{fingerprint}");
            let _gone = self.bed.incus.api().call("DELETE", &target, None, Duration::from_secs(30));
        }
    }
}
